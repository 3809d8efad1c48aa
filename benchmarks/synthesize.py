"""How many labelled images per second, and where does the time go?

  python -m benchmarks.synthesize --out benchmarks/results/synthesize_cpu.json
  taskset -c 0 python -m benchmarks.synthesize --stream data/stones_ct \
    --out benchmarks/results/stream_cpu.json

Radiograph phantoms of `--size` are backgrounds and donors. Three copied lesions are put into each
image, as the command `synthesize` does it: image, twin, masks and labels are written. Backgrounds
are the pixels themselves, then reconstructions by HiResMed-VQGAN of the preset `paper` (untrained:
the time is the same). The time of a stage is a sum over threads and may exceed the wall clock.
Goal: 50 images per second at 1,024 x 1,024 on an H200.

With `--stream` the images of `api.Run.stream` are made instead, on real backgrounds with copied
lesions of that dataset, by one process on the cores that it may use: first some that compile, then
whole epochs of as many images as the training split has. The seconds of the processor count, since
others may use the cores. Goal: 16 images per second at 391 x 320 on one core.
"""

import collections
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import harness, input_pipeline
from hiresmed_jax import api
from hiresmed_jax.data import records, transforms
from hiresmed_jax.inference import survey, workdir
from hiresmed_jax.inference.places import Prior
from hiresmed_jax.lesions.copying import Copies
from hiresmed_jax.routes import settings
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.runtime import cli
from hiresmed_jax.runtime.compilation import compute_dtype
from hiresmed_jax.synthesis import background as backgrounds
from hiresmed_jax.synthesis import folder, image, run, shams
from hiresmed_jax.synthesis.request import Request
from hiresmed_jax.synthesis.stream import Stream

GOAL = 50.0
STREAM_GOAL = 16.0
STAGES = ("read", "background", "maps", "sample", "place", "insert", "write")
WAYS = ("real", "reconstruction")
_LESIONS = 3


class Stopwatch:
  """Seconds of each stage, added up over threads; a clock for `image.Setting`."""

  def __init__(self) -> None:
    self.seconds: dict[str, float] = collections.defaultdict(float)
    self._lock = threading.Lock()

  @contextlib.contextmanager
  def __call__(self, stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
      yield
    finally:
      with self._lock:
        self.seconds[stage] += time.perf_counter() - start


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--size", type=int, default=1024, help="side of the images, pixels")
  parser.add_argument("--num", type=int, default=24, help="images of each way, once warm")
  parser.add_argument("--phantoms", type=int, default=12, help="backgrounds and donors")
  parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads")
  parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
  parser.add_argument("--stream", type=Path, metavar="DATASET", help="measure a stream of it")
  parser.add_argument("--epochs", type=int, default=3, help="of the stream")
  options = parser.parse_args(argv)
  if options.stream:
    harness.publish(streamed(options.stream, options.epochs), options.out)
    return
  result: dict[str, Any] = {
    "benchmark": "synthesize",
    "question": "labelled images per second, and where the time goes",
    **harness.environment(),
    "size": options.size,
    "lesions": _LESIONS,
    "format": "png, 16 bit",
    "threads": options.workers,
    "goal": {"images_per_second": GOAL, "on": "an H200, 1,024 x 1,024"},
    "ways": {},
  }
  with tempfile.TemporaryDirectory() as place:
    root = input_pipeline.prepare(Path(place), options.phantoms, options.size)[16]
    dataset = records.open_dataset(root)
    start = time.perf_counter()
    found = survey.make(records.source(dataset, "train"), workers=options.workers)
    result["survey_seconds_per_image"] = round(
      (time.perf_counter() - start) / dataset.card["splits"]["train"], 3
    )
    for way in options.ways:
      result["ways"][way] = measured(way, dataset, found, Path(place), options)
  _print(result)
  harness.publish(result, options.out)


def measured(
  way: str, dataset: records.Dataset, found: survey.Survey, place: Path, options: Any
) -> dict[str, Any]:
  """Images per second of one way, its stages in milliseconds of a thread per image."""
  watch = Stopwatch()
  setting = image.Setting(
    _request(way, options.num),
    settings.values("synthesize", "best"),
    records.source(dataset, "train"),
    found,
    _maker(way, options.size),
    Copies(found.patches),
    Prior("atlas"),
    None,
    None,
    shams.faintest(found.patches),
    watch,
  )
  # A first round of as many compiles what windows of each size need.
  warm = setting._replace(request=_request(way, options.num)._replace(seed=1))
  _run(warm, place / f"{way}-warm", options.workers)
  watch.seconds.clear()
  start = time.perf_counter()
  _run(setting, place / way, options.workers)
  seconds = time.perf_counter() - start
  return {
    "images_per_second": round(options.num / seconds, 3),
    "milliseconds_of_a_thread_per_image": {
      stage: round(1e3 * watch.seconds[stage] / options.num, 1) for stage in STAGES
    },
  }


def streamed(data: Path, epochs: int) -> dict[str, Any]:
  """Images per second of a stream, epoch by epoch."""
  dataset = records.open_dataset(data)
  found: dict[str, Any] = {
    "benchmark": "stream",
    "question": "labelled images per second, made as an epoch asks for them",
    **harness.environment(),
    "data": data.name,
    "cores_used": len(os.sched_getaffinity(0)),
    "goal": {"images_per_second": STREAM_GOAL},
    "epochs": [],
  }
  with tempfile.TemporaryDirectory() as place:
    folder_of_run = Path(place)
    workdir.note(folder_of_run, dataset, settings.values("synthesize", "best").to_dict())
    survey.load_or_make(dataset, folder_of_run)
    stream = api.open_run(folder_of_run).stream(background="real", source="copy")
    found["image"] = list(stream[0]["image"].shape)
    first = {"what": "the first 100 images of a process", **_timed(stream, range(100))}
    others = (
      {"what": f"epoch {number}", **_timed(stream.epoch(number), range(len(stream)))}
      for number in range(1, epochs + 1)
    )
    for epoch in (first, *others):
      print(epoch, flush=True)
      found["epochs"].append(epoch)
    kept = stream.kept
    found["kept"] = {"backgrounds": len(kept), "megabytes": kept.bytes >> 20}
  return found


def _timed(stream: Stream, numbers: range) -> dict[str, Any]:
  """Images per second of the processor and of the clock."""
  wall, processor = time.perf_counter(), time.process_time()
  for number in numbers:
    stream[number]
  wall, processor = time.perf_counter() - wall, time.process_time() - processor
  return {
    "images": len(numbers),
    "images_per_processor_second": round(len(numbers) / processor, 2),
    "images_per_second": round(len(numbers) / wall, 2),
  }


def _run(setting: image.Setting, out: Path, workers: int) -> None:
  folder.claim(out, {"request": setting.request.identity()})
  with contextlib.redirect_stderr(open(os.devnull, "w")):
    failures = run.write_missing(setting, out, token="benchmark", workers=workers)
  if failures:
    raise RuntimeError(failures[0])


def _request(way: str, num: int) -> Request:
  return Request(num, (_LESIONS, _LESIONS), background=way, source="copy")


def _maker(way: str, size: int) -> backgrounds.Maker:
  values = settings.values("synthesize", "best")
  maker = backgrounds.Maker(None, False, values.least_contrast)
  if way == "real":
    return maker
  config = settings.base("benchmark", route="background", preset="paper")
  config.data.size = (size, size)
  dtype = compute_dtype(config.background.dtype)
  task = background.build(
    config.background, channels=3, size=(size, size), steps=1, steps_per_epoch=1, dtype=dtype
  )
  net, _ = background.networks(config.background, channels=3, dtype=dtype)
  params = background.averaged(jax.jit(task.init)(jax.random.key(0)))
  view = transforms.View(size=(size, size), fit="stretch", window=config.data.window, channels=3)
  network = workdir.reconstruction(net, params, channels=3)
  return maker._replace(model=workdir.Model(view, network))


def _print(result: dict[str, Any]) -> None:
  table = Table("ms of a thread per image", *result["ways"], title="synthesize")
  for stage in STAGES:
    ways = result["ways"].values()
    table.add_row(
      stage, *(f"{way['milliseconds_of_a_thread_per_image'][stage]:.1f}" for way in ways)
    )
  rates = (f"{way['images_per_second']:.2f}" for way in result["ways"].values())
  table.add_row("images per second", *rates)
  Console().print(table)


if __name__ == "__main__":
  cli.run(main)
