"""How many images a second does the input pipeline give, and how many cores feed a GPU?

  python -m benchmarks.input_pipeline [--gpu-images-per-second 60] [--out FILE]

Draws KUB phantoms, prepares them with 16 and 8 bits, and reads training batches as the train
command does: with 0, 1 and 2 worker processes, with the augmentation of preset `best` and without,
in the first epoch (every image is decoded) and in later ones (images are kept). Then it times every
stage of the first epoch alone on one thread; more cores multiply that. The files are in memory:
disks are not measured. Prints tables and one JSON line; some 4 minutes on 2 cores.
"""

import dataclasses
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from hiresmed_jax.data import phantom, pipeline, record_format, records, transforms
from hiresmed_jax.data.augment import augment
from hiresmed_jax.data.identity import split_of
from hiresmed_jax.data.sample import Sample
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import settings
from hiresmed_jax.runtime import cli

STAGES = ("read", "decode", "resize and window", "augment", "batch")
RESULTS = Path(__file__).parent / "results"
_CORES = 16  # beside one GPU of a common server
_BATCH = 8


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--size", type=int, default=1024, help="pixels a side")
  parser.add_argument("--images", type=int, default=24)
  parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
  parser.add_argument("--seconds", type=float, default=6.0, help="per case")
  parser.add_argument("--gpu-images-per-second", type=float, help="of the train step to be fed")
  options = parser.parse_args(argv)
  if min(options.size, options.images, options.seconds) <= 0:
    raise UserError("--size, --images and --seconds must be above 0")
  about = harness.environment()
  augmentation = settings.values("data", "best").augment.to_dict()
  rates, stages = [], []
  with tempfile.TemporaryDirectory() as folder:
    for bits, root in prepare(Path(folder), options.images, options.size).items():
      for name, changes in (("none", None), ("best", augmentation)):
        for workers, epoch in itertools.product(options.workers, ("first", "later")):
          kept = pipeline.KEPT_BYTES if epoch == "later" else 0
          rate = _rate(root, options.size, changes, workers, options.seconds, kept)
          case = {"bits": bits, "augmentation": name, "workers": workers, "epoch": epoch}
          rates.append(case | {"images_per_second": rate})
          print(", ".join(f"{key} {value}" for key, value in rates[-1].items()), flush=True)
      stages.append({"bits": bits, "milliseconds": _stages(root, options.size, augmentation)})
  result = {
    "benchmark": "input_pipeline",
    **about,
    "size": options.size,
    "images": options.images,
    "batch_size": _BATCH,
    "rates": rates,
    "stages": stages,
    "feeding": _feeding(rates, stages, options.gpu_images_per_second),
  }
  _print(result)
  harness.publish(result, options.out)


def prepare(folder: Path, count: int, size: int) -> dict[int, Path]:
  """{bits: prepared dataset with `count` training images}, the same phantoms in both."""
  drawn = list(_training_phantoms(count, size))
  made = {16: drawn, 8: [_eight_bits(sample) for sample in drawn]}
  for bits, samples in made.items():
    records.write_dataset(
      samples, folder / str(bits), kind="phantom", name="phantom", workers=os.cpu_count() or 1
    )
  return {bits: folder / str(bits) for bits in made}


def _training_phantoms(count: int, size: int) -> Iterator[Sample]:
  patient = 0
  while count:
    if split_of(f"phantom-{patient:06d}") == "train":
      rng = np.random.default_rng([0, patient])
      yield phantom.kub(rng, size, patient=patient).sample
      count -= 1
    patient += 1


def _eight_bits(sample: Sample) -> Sample:
  """The display range of a radiograph in 0..255, as in an exported picture."""
  low, high = sample.value_range
  shown = (sample.image.astype(np.float32) - low) * (255.0 / (high - low))
  return dataclasses.replace(
    sample,
    image=np.clip(np.rint(shown), 0, 255).astype(np.uint8),
    value_range=(0.0, 255.0),
  )


def _rate(
  root: Path,
  size: int,
  augmentation: Mapping[str, Any] | None,
  workers: int,
  seconds: float,
  kept_bytes: int,
) -> float:
  """Images per second of a reader that asks for the next batch immediately."""
  batches = iter(
    pipeline.train_dataset(
      records.source(records.open_dataset(root), "train"),
      view=transforms.View(size),
      augmentation=augmentation,
      batch_size=_BATCH,
      seed=0,
      workers=workers,
      kept_bytes=kept_bytes,
    )
  )
  # What was read ahead while the workers started is used up before the clock starts.
  end = time.perf_counter() + seconds / 2
  next(batches)
  while time.perf_counter() < end:
    next(batches)
  start, count = time.perf_counter(), 0
  while count < 2 or time.perf_counter() - start < seconds:
    next(batches)
    count += 1
  rate = count * _BATCH / (time.perf_counter() - start)
  batches.close()
  return round(rate, 1)


def _stages(root: Path, size: int, augmentation: Mapping[str, Any]) -> dict[str, float]:
  """Median milliseconds of each stage per image, on one thread."""
  builder = tfds.builder_from_directory(root / "records")
  stored = builder.as_data_source("train", decoders=record_format.AS_BYTES)
  feature = builder.info.features["image"]
  view = transforms.View(size)
  times: dict[str, list[float]] = {stage: [] for stage in STAGES}

  def timed(stage: str, call: Callable[..., Any], *arguments: Any, **known: Any) -> Any:
    start = time.perf_counter()
    result = call(*arguments, **known)
    times[stage].append(1e3 * (time.perf_counter() - start))
    return result

  threads = cv2.getNumThreads()
  cv2.setNumThreads(1)
  waiting: list[np.ndarray] = []
  for turn in range(-2, 2 * len(stored)):
    index = turn % len(stored)
    item = timed("read", stored.__getitem__, index)
    record = timed("decode", record_format.decode, item, feature, masks=False)
    example = timed("resize and window", transforms.load, record, view)
    moved = timed("augment", augment, example, np.random.default_rng(index), **augmentation)
    waiting.append(moved["images_m11"])
    if len(waiting) == _BATCH:
      timed("batch", np.stack, waiting)
      times["batch"][-1] /= _BATCH
      waiting.clear()
    if turn < 0:  # warm-up
      for stage in STAGES[:4]:
        times[stage].clear()
  cv2.setNumThreads(threads)
  return {
    stage: round(statistics.median(values), 3) if values else 0.0 for stage, values in times.items()
  }


def _feeding(
  rates: list[dict[str, Any]], stages: list[dict[str, Any]], asked: float | None
) -> dict[str, Any]:
  """Images per second of 16 cores, if they add up, and the cores that a GPU's train step needs."""
  gpu, origin = (asked, "--gpu-images-per-second") if asked else _measured_gpu_rate(RESULTS)
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  rows = []
  for stage in stages:
    asked_of = {"bits": stage["bits"], "augmentation": "best", "epoch": "later"}
    of_depth = [r for r in rates if asked_of.items() <= r.items()]
    best = max(r["images_per_second"] for r in of_depth)
    row = {
      "bits": stage["bits"],
      "core_milliseconds_of_first_epoch": round(sum(stage["milliseconds"].values()), 2),
      "measured_per_core": round(best / cores, 1),
      "images_per_second_of_16_cores": round(_CORES * best / cores),
    }
    if gpu:
      row["cores_for_the_gpu"] = round(gpu / (best / cores), 2)
    rows.append(row)
  return {"gpu_images_per_second": gpu, "gpu_rate_from": origin, "cores": cores, "rows": rows}


def _measured_gpu_rate(folder: Path) -> tuple[float | None, str | None]:
  """The fastest train step of ours in a result file of an accelerator, and the file's name."""
  found: list[tuple[float, str]] = []
  for path in sorted(folder.glob("train_step*.json")):
    content = json.loads(path.read_text())
    if not str(content["device"]).startswith("cpu"):
      rates = [case["step"]["ours"]["images_per_second"] for case in content["cases"]]
      found += [(float(rate), path.name) for rate in rates]
  return max(found) if found else (None, None)


def _print(result: Mapping[str, Any]) -> None:
  console = Console()
  table = Table("bits", *STAGES, "sum", title="milliseconds per image, one thread")
  for row in result["stages"]:
    values = [row["milliseconds"][stage] for stage in STAGES]
    table.add_row(str(row["bits"]), *(f"{v:.2f}" for v in values), f"{sum(values):.2f}")
  console.print(table)
  feeding = result["feeding"]
  for row in feeding["rows"]:
    line = (
      f"{row['bits']} bits, augmented: {row['measured_per_core']} images/s a core; "
      f"{_CORES} cores feed {row['images_per_second_of_16_cores']} images/s"
    )
    if feeding["gpu_images_per_second"]:
      line += f"; {feeding['gpu_images_per_second']:.1f}/s take {row['cores_for_the_gpu']} cores"
    console.print(line)


if __name__ == "__main__":
  cli.run(main)
