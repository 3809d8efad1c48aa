"""Do the paper's comparison systems make images as near to real ones as ours, at equal budgets?

  python -m benchmarks.table2 --work runs/table2 --seconds 240 \\
    --out benchmarks/results/table2_cpu.json
  python -m benchmarks.table2 --work runs/table2_images --images 4000
  python -m benchmarks.table2 --work runs/table2_full --full --data data/kub --seconds 86400

Table 2 of the paper. Every row is trained by its config, at a share of the budget and at all of it,
each a run of its own: seconds of training without compiling, or images seen. What a step costs is
measured first, in a few steps of every row: leave the machine alone until "trials" is said.
Reduced networks of at most five million parameters on phantoms of 64 x 64 px, or on --data at that
size; `--full`: the presets `paper` on --data. KID and the like are of held-out images. PSNR and
SSIM are only of rows that reconstruct the very image. A row whose KID still moves between the last
two budgets, by more than its noise, is marked "not converged", and is not tested. A step's seconds
are a median: what comes once in 16 steps (StyleSwin's penalty) is not in it. The same command again
goes on where it stopped.
"""

import json
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

import hiresmed_jax
from benchmarks import harness, table2_rows
from benchmarks.table2_rows import Row
from hiresmed_jax import files
from hiresmed_jax.data import pipeline, records
from hiresmed_jax.errors import UserError
from hiresmed_jax.evaluation import run as evaluation
from hiresmed_jax.routes import dataset as datasets
from hiresmed_jax.routes import run as training
from hiresmed_jax.runtime import cli, figures
from hiresmed_jax.runtime import mesh as meshes

SAMPLINGS = 5
_TRIAL_STEPS = 6
_SHOWN = 6
_METRICS = ("psnr", "ssim", "lpips_squeezenet")


def main(argv: list[str]) -> None:
  """Trains and measures what is not there yet, and writes the table."""
  options = _options(argv)
  work, shares = options.work, sorted(set(options.shares))
  rows = [row for row in table2_rows.ROWS if not options.rows or row.name in options.rows]
  facts: dict[str, Any] = {"benchmark": "table2", **harness.environment(), "scale": options.scale}
  facts["budget"] = {"seconds": options.seconds} if options.seconds else {"images": options.images}
  dataset = _dataset(options, rows[0])
  held_out = len(records.source(dataset, "test"))
  samples = options.samples or held_out
  facts |= {
    "data": dataset.card["name"],
    "held_out": held_out,
    "samples": samples,
    "shares": shares,
    "samplings": SAMPLINGS,
    "seeds": options.seeds,
  }
  same = {key: facts[key] for key in ("scale", "budget", "samples")}
  same |= {"data": dataset.card["fingerprint"], "features": [str(options.inception), options.tap]}
  _require_same(work / "table2.json", same)
  step_seconds = {row.name: _step_seconds(row, options, dataset) for row in rows}
  print("trials:", ", ".join(f"{name} {found:.3g} s" for name, found in step_seconds.items()))
  facts["step_seconds"] = step_seconds
  runs: dict[tuple[str, float], list[dict[str, Any]]] = {}
  for share in shares:
    for row in rows:
      runs[row.name, share] = [
        _trained(row, options, dataset, share, seed, samples, step_seconds[row.name])
        for seed in range(options.seeds)
      ]
  floors = _floors(work / "floors", dataset, rows[0].config(options.scale), held_out)
  reports = {share: _measured(share, rows, runs, floors, options) for share in shares}
  parameters = {row.name: row.parameters(row.config(options.scale)) for row in rows}
  facts |= summary(reports, rows, runs, list(floors), parameters)
  harness.publish(facts, options.out)
  if options.out:
    _draw(options.out.with_suffix(".jpg"), rows, runs, dataset, options)


def _options(argv: list[str]) -> Any:
  parser = harness.parser(__doc__)
  add = parser.add_argument
  add("--work", type=pathlib.Path, required=True, help="folder of all runs")
  budget = parser.add_mutually_exclusive_group(required=True)
  budget.add_argument("--seconds", type=float, help="of training, of each row")
  budget.add_argument("--images", type=int, help="seen in training, of each row")
  add("--shares", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="of the budget")
  add("--seeds", type=int, default=1, help="trainings of each row")
  add("--samples", type=int, help="images of each sampling (as many as are held out)")
  add("--rows", nargs="+", choices=[row.name for row in table2_rows.ROWS], help="these alone")
  add("--data", type=pathlib.Path, help="prepared dataset (phantoms of 64 px)")
  add("--inception", type=pathlib.Path, help="weights of the features (cache folder)")
  add("--tap", type=int, default=2048, help="of Inception; the weights may end before (2048)")
  add("--full", dest="scale", action="store_const", const="full", default="reduced",
      help="the presets `paper` at 1,024 px, on a GPU")  # fmt: skip
  options = parser.parse_args(argv)
  if options.scale == "full" and options.data is None:
    raise UserError("--full needs --data")
  for name in ("seconds", "images", "seeds", "samples", "shares"):
    value = getattr(options, name)
    numbers = value if isinstance(value, list) else [1 if value is None else value]
    if not all(0 < number < math.inf for number in numbers):
      raise UserError(f"--{name} takes numbers above 0")
  return options


def _require_same(path: pathlib.Path, asked: Mapping[str, Any]) -> None:
  """Refuses a folder whose runs have another budget, data or images: they are not made again."""
  if not path.is_file():
    files.write_json(path, asked)
  there = json.loads(path.read_text())
  for key, value in asked.items():
    if there.get(key) != value:
      raise UserError(
        f"{path.parent} holds runs of another table ({key} is {there.get(key)} there, {value} "
        "here): use another --work"
      )


def _dataset(options: Any, row: Row) -> records.Dataset:
  config = _config(row, options) if options.data else row.config(options.scale)
  return datasets.open_or_draw(config, options.data, options.work, overwrite=False)


def _trained(
  row: Row, options: Any, dataset: records.Dataset, share: float, seed: int, samples: int,
  step_seconds: float,
) -> dict[str, Any]:  # fmt: skip
  """One run -> its folder, steps, seconds by the trials, and seconds with all else or None.

  The seconds that count are the steps times `step_seconds`: what else the machine did is left out.
  """
  config = _config(row, options)
  config.seed = seed
  row.set_samples(config, SAMPLINGS * samples)
  levels = row.levels(config)
  if options.seconds:
    steps = round(share * options.seconds / step_seconds)
  else:
    steps = round(share * options.images / (row.batch_size(config) * levels))
  steps = max(1, steps)
  row.set_steps(config, steps, max(1, steps // 20))
  folder = options.work / f"{row.name}-{share:g}-{seed}"
  done = folder / "seconds.json"
  if not done.is_file():
    begin, anew = time.monotonic(), not folder.exists()
    training.train(config, data=dataset.root, workdir=folder)
    # Of a run that was stopped between, nobody has measured the whole.
    files.write_json(done, {"wall": time.monotonic() - begin if anew else None})
  known = {"folder": folder, "steps": levels * steps, "seconds": steps * step_seconds}
  return known | json.loads(done.read_text())


def _step_seconds(row: Row, options: Any, dataset: records.Dataset) -> float:
  """Seconds of a step, of all levels, from a short run of its own: medians, kept."""
  folder = options.work / "trials" / row.name
  done = folder / "step_seconds.json"
  if not done.is_file():
    config = _config(row, options)
    row.set_samples(config, 1)
    row.set_steps(config, _TRIAL_STEPS, 1)
    training.train(config, data=dataset.root, workdir=folder)
    rates = _rates(folder / row.route)
    levels = [rates[at : at + _TRIAL_STEPS] for at in range(0, len(rates), _TRIAL_STEPS)]
    # The first step of a level waits for much that comes once.
    seconds = sum(row.batch_size(config) / float(np.median(level[1:])) for level in levels)
    files.write_json(done, {"seconds": seconds})
  return float(json.loads(done.read_text())["seconds"])


def _config(row: Row, options: Any) -> Any:
  """The row's config; the phantoms are drawn already."""
  config = row.config(options.scale)
  config.data.phantom.kind = ""
  return config


def _rates(folder: pathlib.Path) -> list[float]:
  """Images a second, of each line of a run's log that has them."""
  lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
  return [values["images_per_second"] for values in lines if "images_per_second" in values]


def _floors(
  folder: pathlib.Path, dataset: records.Dataset, config: Any, count: int
) -> dict[str, pathlib.Path]:
  """Folders of what a method must beat, and of what it must not be: training images, a copy."""
  images = [
    image
    for batch in pipeline.eval_batches(
      records.source(dataset, "train"), view=datasets.view(config.data), batch_size=8, limit=count
    )
    for image in batch["images_m11"][batch["weight"] > 0]
  ]
  sets = {"training images": images, "one training image, copied": images[:1] * count}
  found = {name: folder / name.replace(",", "").replace(" ", "_") for name in sets}
  for name, path in found.items():
    path.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(sets[name]):
      levels = np.rint(np.clip(image * 127.5 + 127.5, 0, 255)).astype(np.uint8)
      files.write(path / f"image_{number:06d}.png", cv2.imencode(".png", levels)[1].tobytes())
  return found


def _measured(
  share: float,
  rows: Sequence[Row],
  runs: Mapping[tuple[str, float], Sequence[Mapping[str, Any]]],
  floors: Mapping[str, pathlib.Path],
  options: Any,
) -> dict[str, Any]:
  """The report of `evaluate` of all rows at a share of the budget."""
  names = "-".join(row.name for row in rows)
  out = options.work / f"report-{share:g}-{names}-{options.seeds}"
  if (out / "report.json").is_file():
    return dict(json.loads((out / "report.json").read_text()))
  workdirs, baselines = [], [(name, folder) for name, folder in floors.items()]
  for row in rows:
    for one in runs[row.name, share]:
      if row.paired:
        workdirs.append((row.name, one["folder"]))
      else:
        parts = _samplings(one["folder"] / row.route / "samples", one["folder"] / "samplings")
        baselines += [(row.name, part) for part in parts]
  request = evaluation.Request(
    out=out, real=options.data or options.work / "data", workdirs=workdirs, baselines=baselines,
    lpips=[], tap=options.tap, file=options.inception,
  )  # fmt: skip
  evaluation.evaluate(request, meshes.make_mesh())
  return dict(json.loads((out / "report.json").read_text()))


def _samplings(folder: pathlib.Path, out: pathlib.Path) -> list[pathlib.Path]:
  """The samples of a run as SAMPLINGS folders of as many each."""
  names = sorted(path.name for path in folder.glob("*.png"))
  parts = [out / str(number) for number in range(SAMPLINGS)]
  size = len(names) // SAMPLINGS
  for number, part in enumerate(parts):
    part.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names[number * size : (number + 1) * size]):
      copy = part / f"sample_{place:06d}.png"
      if not copy.is_file():  # a run that was killed has made some of them
        files.write(copy, (folder / name).read_bytes())
  return parts


def _draw(
  path: pathlib.Path,
  rows: Sequence[Row],
  runs: Mapping[tuple[str, float], Sequence[Mapping[str, Any]]],
  dataset: records.Dataset,
  options: Any,
) -> None:
  """Held-out images, and what each row makes: of them, or new ones. Nothing is chosen."""
  test = records.source(dataset, "test")
  view = datasets.view(_config(rows[0], options).data)
  batch = next(pipeline.eval_batches(test, view=view, batch_size=_SHOWN, limit=_SHOWN))
  images = batch["images_m11"][batch["weight"] > 0]
  real = [np.rint(image * 127.5 + 127.5).astype(np.uint8) for image in images]
  shown, labels = [real], ["held out"]
  for row in rows:
    folder = runs[row.name, max(options.shares)][0]["folder"]
    if row.paired:
      made = hiresmed_jax.open_run(folder).reconstruct(real)
    else:
      samples = sorted((folder / row.route / "samples").glob("*.png"))[:_SHOWN]
      made = [np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)) for file in samples]
    shown.append(list(made))
    labels.append(f"{row.name}, {'of these' if row.paired else 'new'}")
  page = path.with_suffix(".png")
  footer = f"below the first row SYNTHETIC; {dataset.card['name']}, {real[0].shape[0]} px"
  figures.image_grid(page, shown, labels=labels, cell=192, footer=footer)
  cv2.imwrite(str(path), np.asarray(cv2.imread(str(page))), [cv2.IMWRITE_JPEG_QUALITY, 90])
  page.unlink()


def summary(
  reports: Mapping[float, Mapping[str, Any]],
  rows: Sequence[Row],
  runs: Mapping[tuple[str, float], Sequence[Mapping[str, Any]]],
  floors: Sequence[str],
  parameters: Mapping[str, int],
) -> dict[str, Any]:
  """The rows of the table, the floors, and the tests of rows that have converged."""
  last = reports[max(reports)]
  halves = last["real"].get("floors", {}).get("KID", {})
  found: dict[str, Any] = {}
  for row in rows:
    about, mine = last["methods"][row.name], runs[row.name, max(reports)]
    curve = [
      {"share": share, **_short(report["methods"][row.name]["distances"]["KID"])}
      for share, report in sorted(reports.items())
    ]
    found[row.name] = {
      "paired": row.paired,
      "parameters": parameters[row.name],
      "images": about["images"],
      "steps": [one["steps"] for one in mine],
      "seconds": [one["seconds"] for one in mine],
      "wall_seconds": [one["wall"] for one in mine],
      "distances": {name: _short(value) for name, value in about["distances"].items()},
      "KID_over_budget": curve,
      "converged": converged(curve, halves.get("sd") or 0.0),
    }
    if row.paired:
      numbers = {name: about["numbers"].get(name, {}) for name in _METRICS}
      found[row.name]["numbers"] = {name: _short(value) for name, value in numbers.items() if value}
  known = {name for name, row in found.items() if row["converged"]}
  return {
    "protocol": last["methods"][rows[0].name]["distances"]["KID"].get("protocol"),
    "rows": found,
    "floors": {
      **{name: _short(last["methods"][name]["distances"]["KID"]) for name in floors},
      "halves of the held-out images": _short(halves),
    },
    "tests": [test for test in last["tests"] if {test["first"], test["second"]} <= known],
  }


def converged(curve: Sequence[Mapping[str, Any]], noise: float) -> bool:
  """Whether KID no longer moves between the last two budgets by more than its noise.

  One that rises has not settled either. `noise` is the deviation of the floor, for a row that has
  no samplings. One budget tells nothing.
  """
  if len(curve) < 2 or any("value" not in point for point in curve[-2:]):
    return False
  before, after = curve[-2:]
  return bool(abs(before["value"] - after["value"]) <= max(after.get("sd") or 0.0, noise))


def _short(value: Mapping[str, Any]) -> dict[str, Any]:
  kept = ("name", "value", "sd", "sd_images", "interval", "missing")
  return {name: value[name] for name in kept if value.get(name) is not None}


if __name__ == "__main__":
  cli.run(main)
