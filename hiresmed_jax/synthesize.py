"""`python -m hiresmed_jax.synthesize`: trained routes in, labelled synthetic images out."""

import argparse
import contextlib
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from hiresmed_jax import files
from hiresmed_jax.convert.arrays import cache_folder
from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import contents, other_images, workdir
from hiresmed_jax.lesions import crops
from hiresmed_jax.ops import insertion
from hiresmed_jax.routes import settings
from hiresmed_jax.runtime import cli, compilation, config, interrupt
from hiresmed_jax.runtime.compilation import compute_dtype
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.synthesis import export, folder, request, run

_EXAMPLE = """\
  python -m hiresmed_jax.synthesize --config demo.py --workdir runs/demo --num 20 --out out
  python -m hiresmed_jax.synthesize --config kub.py --data data/kub --num 500 --lesions 1-3 \\
    --diameter-mm 3-12 --format dicom --out out
  python -m hiresmed_jax.synthesize --config stones_ct.py --data data/stones_ct --num 20 \\
    --background real --lesion-source parametric --at 120,150 --out out
  python -m hiresmed_jax.synthesize --workdir runs/kub --onto normals --lesion-free --num 20 \\
    --out out"""

_WITH_REAL = (("png", "ultralytics"), ("png", "coco"))


def main(argv: list[str]) -> None:
  """Makes the images that are missing; the same command again goes on."""
  options, overrides = _options(argv)
  run_folder, values, whole = _run(options, overrides)
  asked = request.checked(_request(options))
  if options.lesion_free and not options.onto:
    raise UserError("--lesion-free is said of the images of --onto")
  if options.box:
    values.labels.box = options.box
  if options.with_real and (asked.format, asked.layout) not in _WITH_REAL:
    raise UserError(
      "--with-real is for PNG in the layouts ultralytics and coco: nnU-Net takes validation images "
      "from imagesTr by itself, and DICOM files have no list of them"
    )
  count, shards = options.num, asked.shard[1]
  if options.overwrite and shards > 1:
    raise UserError("--overwrite would remove what other shards have made: remove OUT by hand")
  compilation.keep_programs(cache_folder())
  if options.with_real or options.onto:
    workdir.fingerprint_of(run_folder)  # a run is there, before anything is looked at
  needed = options.data or not options.onto
  dataset = workdir.dataset_of(run_folder, options.data) if needed else None
  trained_on = dataset.card["fingerprint"] if dataset else workdir.fingerprint_of(run_folder)
  if asked.background == "reconstruction" and whole is not None:
    workdir.require_same_network(run_folder, trained_on, whole)
  if asked.source == "singan":  # before images are looked at, which takes minutes
    workdir.finished(run_folder, "lesion", trained_on, instead="--lesion-source copy")
  workers = values.workers or min(32, os.cpu_count() or 1)
  dtype = compute_dtype(whole.background.dtype) if whole is not None else None
  with (
    interrupt.stops_at_once(),
    cli.only_json(options.json),
    Progress(None, "synthesize", unit=""),
    _data(options, run_folder, dataset, workers) as data,
  ):
    setting, identity = run.assemble(
      values,
      asked,
      run_folder,
      data,
      dtype=dtype,
      workers=workers,
      begun=None if options.overwrite else folder.begun(options.out),
    )
    real = None
    if options.with_real:
      other = records.open_dataset(options.with_real)
      fingerprint = other.card["fingerprint"]
      groups, used = setting.survey.groups, frozenset[str]()
      if fingerprint != workdir.fingerprint_of(run_folder):  # its patients have other keys
        trained = contents.of_run(run_folder, dataset, workers=workers)
        used = frozenset(image.digest for image in trained.images if image.split == "train")
        if asked.window != "own":
          found = contents.make(other, workers=workers)
          contents.require_units(run_folder, trained, found, f"--with-real {options.with_real}")
      if isinstance(data, other_images.Backgrounds):
        groups, used = groups | data.groups, used | data.digests
      real = export.real_images(options.with_real, groups, used)
      setting = setting._replace(look=export.look_of(asked, setting.source, real))
      identity |= {"real": fingerprint, "window": setting.look.window}
    with files.locked(options.out, shared=shards > 1):
      folder.claim(options.out, identity, overwrite=options.overwrite)
      if real is not None:
        export.write_real(options.out, real, setting.look, setting.classes, layout=asked.layout)
      failures = run.write_missing(setting, options.out, token=run.token(identity), workers=workers)
      made = folder.gather(options.out, setting, has_real=real is not None)
      sheet = folder.draw_contact_sheet(options.out, made).absolute() if made else None
  substituted, lesions = folder.substitutes(made)
  if options.json:
    summary = {"out": str(options.out.absolute()), "images": len(made), "asked": count}
    summary |= {"lesions": lesions, "substituted": substituted, "failed": failures}
    summary |= {"places": setting.prior.label, "weak_places": setting.weak_places}
    summary |= {"drawn_again": folder.drawn_again(made), "faint": folder.faint(made)}
    print(json.dumps(summary | {"contact_sheet": sheet and str(sheet)}, indent=2))
  elif made:
    print(f"{len(made)} of {count} images are in {options.out}")
    print(f"contact sheet: {sheet}")
    if setting.weak_places:
      print(f"warning: {setting.weak_places}")
    if faint := folder.faint(made):
      print(
        f"{faint} of {lesions} lesions are fainter than 99 of 100 real ones (`faint` in the "
        "manifest): larger ones stand out more"
      )
    if substituted:
      print(
        f"{substituted} of {lesions} lesions are not the bank's, which gave none there "
        f"(--on-empty {options.on_empty}): the manifest says which and why"
      )
  if failures:
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    raise UserError(f"{len(failures)} of {len(asked.indices())} images failed; {failures[0]}{more}")


def _run(
  options: argparse.Namespace, overrides: list[str]
) -> tuple[pathlib.Path, ConfigDict, ConfigDict | None]:
  """(workdir, values of the group `synthesize`, the whole config where one is given)."""
  if options.config is None:
    if options.workdir is None:
      raise UserError("name the run: --workdir, or --config")
    if overrides:
      raise UserError(f"--config.{overrides[0]} changes a config: name it with --config")
    return options.workdir, ConfigDict(workdir.synthesize_of(options.workdir)), None
  whole = config.load_config(options.config, overrides)
  settings.check(whole)
  return options.workdir or pathlib.Path("runs") / whole.name, whole.synthesize, whole


@contextlib.contextmanager
def _data(
  options: argparse.Namespace,
  run_folder: pathlib.Path,
  dataset: records.Dataset | None,
  workers: int,
) -> Iterator[records.Dataset | other_images.Backgrounds]:
  """What lesions are put into: the run's dataset, or the images of --onto."""
  if dataset is not None and not options.onto:
    yield dataset
    return
  with other_images.backgrounds(
    options.onto,
    run_folder,
    lesion_free=options.lesion_free,
    dataset=dataset,
    out=options.out,
    workers=workers,
  ) as found:
    yield found


def _options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = cli.Parser(
    "synthesize",
    "Puts new lesions into backgrounds and writes images, twins without them, masks, boxes and a "
    "manifest. The same command again makes only what is missing.",
    example=_EXAMPLE,
    overrides=True,
  )
  add = parser.add_argument
  add("--config", metavar="FILE.py", help="a path, or a name in configs/ (with --workdir: the "
      "values that the run was trained with)")  # fmt: skip
  add("--workdir", type=pathlib.Path, help="where the run lives (runs/<config name>)")
  add("--data", type=pathlib.Path, help="prepared dataset (the one the workdir was trained on)")
  add("--out", required=True, type=pathlib.Path, help="folder of the images")
  add("--num", required=True, type=int, help="images to make")
  add("--lesions", metavar="N[-M]", help="lesions in an image, such as 2 or 0-3 (as many as a "
      "training image with lesions has, or one a point of --at)")  # fmt: skip
  size = parser.add_mutually_exclusive_group()
  size.add_argument("--diameter-mm", metavar="D[-E]", help="of the lesions; what can be made is "
      "told before anything is made (as they come)")  # fmt: skip
  size.add_argument("--diameter-px", metavar="D[-E]", help="the same in pixels of the output")
  add("--at", action="append", default=[], metavar="X,Y", help="pixel of a lesion; may be repeated")
  add("--onto", type=pathlib.Path, metavar="FOLDER", help="put lesions into other images than "
      "the training images: a prepared dataset, or a folder that is read as `prepare` reads "
      "it")  # fmt: skip
  add("--lesion-free", action="store_true", help="images of --onto that nobody has labelled show "
      "no lesion")  # fmt: skip
  add("--background", choices=request.BACKGROUNDS, help="made by the trained model, or the pixels "
      "of a training image (reconstruction; with --onto: real)")  # fmt: skip
  add("--backgrounds", type=int, metavar="B",
      help="make the images on B backgrounds in turn, so that each has --num / B samplings, as "
      "`evaluate` wants them (every image draws its own)")  # fmt: skip
  add("--seed", type=int, default=0, help="of all randomness (0)")
  add(
    "--blend", choices=insertion.MODES, help="how lesions are put in (the images' physics decide)"
  )
  add("--format", choices=request.FORMATS, default="png", help="of images and twins (png)")
  add("--depth", type=int, choices=request.DEPTHS, default=8, help="bits of PNG; programs that "
      "read 8 bits show 16 wrongly (8)")  # fmt: skip
  add("--window", metavar="LOW,HIGH", help="values that PNG show from black to white, in HU or "
      "what rescaled values are; 'own': the display range of each image (one window that holds "
      "those of all)")  # fmt: skip
  add("--layout", choices=request.LAYOUTS, default="ultralytics",
      help="whose folder it is; ultralytics has COCO's file too (ultralytics)")  # fmt: skip
  add("--with-real", type=pathlib.Path, metavar="DATASET", help="prepared dataset whose real "
      "images of the validation split are written as validation images")  # fmt: skip
  add("--box", choices=crops.BOXES, help="of labels: around the lesion's mask, or padded as the "
      "dataset's own boxes are (what the config says: tight)")  # fmt: skip
  add("--paper", action="store_true", help="placement and insertion as in the paper")
  add("--shard", default="0/1", metavar="i/n", help="make every n-th image, from image i on")
  add("--batch", type=int, default=1, help=request.BATCH_HELP)
  add("--shams", type=int, default=0, help="unlabelled lesion-free insertions in an image (0)")
  add("--mask", metavar="[allowed:|forbidden:]FILE",
      help="PNG of the output's size: set pixels are forbidden, or alone allowed")  # fmt: skip
  add("--lesion-source", choices=request.SOURCES, default="singan",
      help="the bank that the route lesion has trained, copies of training lesions, or a "
      "formula fitted to them (singan)")  # fmt: skip
  add("--on-empty", choices=request.ON_EMPTY, default="fail",
      help="where the bank gives no lesion: make no image (fail), or put in a copy of a "
      "training lesion or one from a formula; the manifest says which (fail)")  # fmt: skip
  add("--json", action="store_true", help="print the summary as one JSON object")
  add("--overwrite", action="store_true", help="remove the images of another request in OUT")
  return parser.parse(argv)


def _request(options: argparse.Namespace) -> request.Request:
  diameter = None
  for unit in ("mm", "px"):
    if text := getattr(options, f"diameter_{unit}"):
      example = "a number above 0, or a range such as 3-12"
      low, high = _range(f"--diameter-{unit}", text, float, example)
      diameter = request.Diameter(low, high, unit)
  lesions = options.lesions
  return request.Request(
    num=options.num,
    lesions=_range("--lesions", lesions, _whole, "a number or a range such as 1-3")
    if lesions
    else None,
    diameter=diameter,
    at=tuple(map(_point, options.at)),
    background=options.background or ("real" if options.onto else "reconstruction"),
    seed=options.seed,
    blend=options.blend,
    format=options.format,
    paper=options.paper,
    shard=_shard(options.shard),
    shams=options.shams,
    mask=_mask(options.mask) if options.mask else None,
    source=options.lesion_source,
    backgrounds=options.backgrounds,
    on_empty=options.on_empty,
    depth=options.depth,
    window=request.window(options.window),
    layout=options.layout,
    batch=options.batch,
  )


def _range(option: str, text: str, read: Callable[[str], Any], example: str) -> tuple[Any, Any]:
  """Reads "2" or "1-3"."""
  try:
    ends = [read(part) for part in re.split(r"(?<![eE])-", text)]
  except ValueError:
    ends = []
  if len(ends) not in (1, 2):
    raise UserError(f"{option} {text}: write {example}")
  return ends[0], ends[-1]


def _whole(text: str) -> int:
  if not (text.isascii() and text.isdigit()):
    raise ValueError(text)
  return int(text)


def _point(text: str) -> tuple[float, float]:
  """Reads "X,Y"."""
  try:
    x, y = (float(part) for part in text.split(","))
    if math.isfinite(x) and math.isfinite(y):
      return x, y
  except ValueError:
    pass
  raise UserError(f"--at {text}: write X,Y in pixels of the output")


def _shard(text: str) -> tuple[int, int]:
  """Reads "i/n", 0 <= i < n."""
  try:
    index, count = map(_whole, text.split("/"))
    if index < count:
      return index, count
  except ValueError:
    pass
  raise UserError(f"--shard {text}: write i/n with i from 0 to n - 1, such as 0/4")


def _mask(text: str) -> tuple[pathlib.Path, str]:
  """Reads "FILE" (set pixels are forbidden), "forbidden:FILE" or "allowed:FILE"."""
  kind, _, name = text.rpartition(":")
  if kind not in request.MASKS:
    kind, name = request.MASKS[0], text
  return pathlib.Path(name).absolute(), kind


if __name__ == "__main__":
  cli.run(main)
