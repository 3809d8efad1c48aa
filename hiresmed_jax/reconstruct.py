"""Command `reconstruct`: images as a trained background model gives them back."""

import argparse
import json
import os
import pathlib
from typing import Any

import numpy as np

from hiresmed_jax import files
from hiresmed_jax.convert.arrays import cache_folder
from hiresmed_jax.data import records
from hiresmed_jax.data.identity import SPLITS
from hiresmed_jax.inference import contents, other_images, workdir
from hiresmed_jax.runtime import cli, compilation, interrupt
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.synthesis import export, folder, reconstructions, request, run

_VERSION = 6  # of the files of a folder
_EXAMPLE = """\
  python -m hiresmed_jax.reconstruct --workdir runs/kub --images data/other --out out
  python -m hiresmed_jax.reconstruct --workdir runs/kub --images scans --metrics --out out
  python -m hiresmed_jax.reconstruct --workdir runs/kub --images dicoms --format dicom --out out"""


def main(argv: list[str]) -> None:
  """Makes the reconstructions that are missing; the same command again goes on."""
  options = _options(argv)
  asked = request.checked(
    request.Request(
      num=1,
      format=options.format,
      depth=options.depth,
      window=request.window(options.window),
      batch=options.batch,
    )
  )
  compilation.keep_programs(cache_folder())
  workers = min(32, os.cpu_count() or 1)
  with (
    interrupt.stops_at_once(),
    cli.only_json(options.json),
    Progress(None, "reconstruct", unit=""),
  ):
    fingerprint = workdir.fingerprint_of(options.workdir)
    model = workdir.background_of(options.workdir, fingerprint, batch=asked.batch)
    trained = contents.of_run(options.workdir, workers=workers)
    with other_images.opened(
      options.images, "--images", out=options.out, physics=trained.physics, workers=workers
    ) as dataset:
      found = contents.make(dataset, workers=workers)
      if not isinstance(model.view.window, str):  # (low, high) in units of the training images
        contents.require_units(options.workdir, trained, found, str(options.images))
      sources = {split: records.source(dataset, split) for split in SPLITS}
      look = export.look_of(asked, *(one for one in sources.values() if len(one)))
      identity: dict[str, Any] = {
        "reconstructions": found.fingerprint,
        "run": trained.fingerprint,
        "step": model.step,
        "format": asked.format,
        "depth": asked.depth,
        "window": look.window,
        "metrics": options.metrics,
        **({"batch": asked.batch} if asked.batch > 1 else {}),
      }
      job = reconstructions.Job(
        model, sources, found.images, trained, asked.format, look, options.metrics,
        run.token(identity), asked.batch,
      )  # fmt: skip
      with files.locked(options.out):
        folder.claim(options.out, identity | {"version": _VERSION}, overwrite=options.overwrite)
        reconstructions.write_missing(job, options.out, workers=workers)
        lines = reconstructions.gather(job, options.out)
  _tell(options, lines)


def _tell(options: argparse.Namespace, lines: list[dict[str, Any]]) -> None:
  """Prints what was made, and how near it is."""
  out = options.out.absolute()
  seen = sum(line["in_training_data"] in ("train", "val") for line in lines)
  means = {
    name: float(np.mean(values))
    for name in ("psnr", "ssim")
    if (values := [line[name] for line in lines if line.get(name) is not None])
  }
  if options.json:
    summary = {"out": str(out), "images": len(lines), "of_training": seen, **means}
    print(json.dumps(summary, indent=2))
    return
  print(f"reconstructions: {len(lines)}, in {out}; look at {out / 'figures' / 'pairs.png'}")
  if seen:
    print(f"{seen} of them are of images that the run was trained or chosen on")
  if means:
    print("mean over all: " + ", ".join(f"{key} {value:.3f}" for key, value in means.items()))


def _options(argv: list[str]) -> argparse.Namespace:
  parser = cli.Parser(
    "reconstruct",
    "Sends images through the background model of a trained run and writes what comes out, in the "
    "size of the images. The same command again makes only what is missing.",
    example=_EXAMPLE,
  )
  add = parser.add_argument
  add("--workdir", required=True, type=pathlib.Path, help="a trained run")
  add("--images", required=True, type=pathlib.Path, metavar="FOLDER",
      help="a prepared dataset, or a folder that is read as `prepare` reads it")  # fmt: skip
  add("--out", required=True, type=pathlib.Path, help="folder of the reconstructions")
  add("--format", choices=request.FORMATS, default="png", help="of the files (png)")
  add("--depth", type=int, choices=request.DEPTHS, default=8, help="bits of PNG (8)")
  add("--window", metavar="LOW,HIGH", help="values that PNG show from black to white; 'own': the "
      "display range of each image (one window that holds those of all)")  # fmt: skip
  add("--batch", type=int, default=1, help=request.BATCH_HELP)
  add("--metrics", action="store_true", help="PSNR and SSIM of each image, as the model sees it")
  add("--json", action="store_true", help="print the summary as one JSON object")
  add("--overwrite", action="store_true", help="remove what another request has left in OUT")
  return parser.parse(argv)[0]


if __name__ == "__main__":
  cli.run(main)
