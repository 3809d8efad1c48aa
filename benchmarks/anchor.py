"""Does YOLO11n here learn small stones as well as the `ultralytics` package's?

  python -m benchmarks.anchor --data data/stones_ct --work runs/anchor [--ways as_is p2] [--out F]

`data` is stones_ct as its config prepares it. Validation: its held-out groups (int(sha256(name),
16) % 5 == 0; 111 images); training: all others (511). Images with their lesions, 320 px, random
initial weights, 30 epochs with batches of 16. The package reached mAP50 0.535 and mAP50-95 0.193
with its best checkpoint, chosen on the same validation images as here (one seed). Unlike there,
left and right are not exchanged. `as_is` is the preset `best` with initial boxes as published; each
other way differs from it in one setting:

  small_boxes   boxes keep their size when positions are assigned; otherwise they count as 16 px
                wide at least
  near          initial boxes are 1.2 strides wide, not 15
  gentle_place  a position's overlap with a box counts to the power 2, not 6
  p2            one more level of the head, of stride 4
  size256       images of 256 px
  native        images at their own size, in 416 px: nothing is reduced

The same command continues an interrupted run. The result has the curve of every run. Its images per
second do not measure speed, since several runs may share the machine.
"""

import functools
import itertools
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from hiresmed_jax.data import detection, records, transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import loop
from hiresmed_jax.routes import settings as tables
from hiresmed_jax.routes.location import task as location
from hiresmed_jax.runtime import cli
from hiresmed_jax.runtime import config as configs
from hiresmed_jax.runtime import mesh as meshes

# The validation figures of a detector, as the route writes them after each epoch.
FIGURES = ("map50", "map50_95", "froc")
PACKAGE = {"map50": 0.535, "map50_95": 0.193}
WAYS: dict[str, dict[str, Any]] = {
  "as_is": {},
  "small_boxes": {"assign": {"least_side": 0.0}},
  "near": {"near": 1.0},
  "gentle_place": {"assign": {"beta": 2.0}},
  "p2": {"p2": True},
  "size256": {"size": 256},
  "native": {"size": 416},
}


class Joined:
  """Several splits as one, in the given order."""

  def __init__(self, *sources: records.Records):
    self._sources = sources

  def __len__(self) -> int:
    return sum(len(source) for source in self._sources)

  def __iter__(self) -> Iterator[dict[str, Any]]:
    return itertools.chain(*self._sources)

  def __getitem__(self, index: int) -> dict[str, Any]:
    for source in self._sources:
      if index < len(source):
        return source[index]
      index -= len(source)
    raise IndexError(index)

  def __repr__(self) -> str:
    return f"Joined{self._sources!r}"  # without paths, like `records.Records`


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
  parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
  parser.add_argument("--ways", nargs="+", choices=sorted(WAYS), default=["as_is"])
  parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
  parser.add_argument("--epochs", type=int, default=30)
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--size", type=int, default=320, help="pixels, where the way does not say")
  options = parser.parse_args(argv)
  if options.epochs < 1:
    raise UserError("--epochs must be at least 1")
  dataset = records.open_dataset(options.data)
  result = {"benchmark": "anchor", **harness.environment(), "package": PACKAGE}
  result |= {"epochs": options.epochs, "batch": options.batch, "ways": {}}
  for way in options.ways:
    runs = [_run(way, seed, dataset, options) for seed in options.seeds]
    result["ways"][way] = {"size": runs[0].pop("size"), **_summary(runs), "runs": runs}
    print(json.dumps({way: _summary(runs)}), flush=True)
  harness.publish(result, options.out)


def settings(way: str, *, size: int, batch: int, epochs: int) -> Any:
  """Settings of the route `location` for one way."""
  values = tables.values("location", "best")
  values.update({"size": size, "batch_size": batch, "epochs": epochs})
  values.update({"lesion_free": 0.0, "near": 0.0})
  values.close_mosaic = min(values.close_mosaic, epochs // 3)
  values.update(WAYS[way])
  return values


def _run(way: str, seed: int, dataset: records.Dataset, options: Any) -> dict[str, Any]:
  values = settings(way, size=options.size, batch=options.batch, epochs=options.epochs)
  view = transforms.View(size=values.size, fit="pad", window="stored", channels=1)
  train = Joined(*(records.source(dataset, split).without_masks() for split in ("train", "val")))
  validation = records.source(dataset, "test").without_masks()
  per_epoch = max(1, len(train) // values.batch_size)
  steps = per_epoch * values.epochs
  task = location.build(
    values, channels=1, size=values.size, steps=steps, steps_per_epoch=per_epoch
  )
  room = max(detection.most_boxes(train), detection.most_boxes(validation))
  batches = detection.train_dataset(
    train,
    view=view,
    room=room,
    augmentation=values.augment.to_dict(),
    mosaic_share=values.mosaic,
    mosaic_batches=steps - values.close_mosaic * per_epoch,
    lesion_free_share=0.0,
    batch_size=values.batch_size,
    seed=seed,
  )
  folder = options.work / f"{way}-{seed}"
  config = {"seed": seed, "location": values.to_dict()}
  loop.fit(
    task,
    folder=folder,
    identity={
      "config": config,
      "config_hash": configs.hash_values(config),
      "data": dataset.card["fingerprint"],
    },
    seed=seed,
    mesh=meshes.make_mesh(),
    train_data=batches,
    val_batches=functools.partial(
      detection.eval_batches, validation, view=view, room=room, batch_size=values.batch_size
    ),
    cadence=loop.Cadence(log=per_epoch, evaluate=per_epoch, keep=1, max_skipped=20),
    examples=1,
    draw=lambda step, examples: None,
    finish=lambda state, programs: {},
  )
  return {"seed": seed, "size": values.size, **curves(folder / "metrics.jsonl")}


def curves(path: Path) -> dict[str, Any]:
  """Each figure of a run after each epoch, and the median of its images per second."""
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  epochs = [line for line in lines if "val_map50" in line]
  rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
  figures = {name: [round(line[f"val_{name}"], 4) for line in epochs] for name in FIGURES}
  return figures | {"images_per_second": round(statistics.median(rates), 2)}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
  """Mean and standard deviation over seeds, of the best epoch (by mAP50-95) and of the last."""
  summary: dict[str, Any] = {}
  for which in ("best", "last"):
    chosen = [int(np.argmax(run["map50_95"])) if which == "best" else -1 for run in runs]
    summary[which] = {}
    for name in FIGURES:
      values = [run[name][at] for run, at in zip(runs, chosen, strict=True)]
      deviation = statistics.stdev(values) if len(values) > 1 else None
      summary[which][name] = {"mean": round(statistics.mean(values), 4), "sd": deviation}
  return summary


if __name__ == "__main__":
  cli.run(main)
