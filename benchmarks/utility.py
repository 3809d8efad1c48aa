"""Does a detector get better with synthetic images? Arms of equal length, judged on real images.

  python -m benchmarks.utility --data data/stones_ct --folder runs/utility [--arms A,E'] \
    [--shares .1,.25] [--seeds 3] [--steps 1000] [--out FILE]

Each run trains one small detector (`utility_detector.py`). Everything that it sees comes from the
same share of the training groups: its real images, and the lesions, places and backgrounds of the
synthetic ones. A fifth of the training groups is kept for inner validation, in every arm, and
chooses the checkpoint; the result is FROC on the real images of --split, val unless said. Weights
are kept, so that test, opened once a report, needs no other training. The same command goes on
where it stopped.

  A   real images
  B   A with strong random changes
  C'  B, half of each batch copy-paste: lesions cut out along their outline, put anywhere in the
      body of another image, anew each time
  E'  B, half of each batch ours, made anew each time (`Run.stream`)
  H   B, half of each batch images with shams: inserted, but no lesion, and no label
  I   E' with places that are uniform in the body

Prints a table; the JSON has each run, and paired differences with 95 % intervals over groups of
images and trainings.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization

from benchmarks import harness
from benchmarks import utility_detector as detector
from benchmarks.utility_detector import Labelled
from hiresmed_jax import api, files
from hiresmed_jax.data import records, sample, transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.evaluation import gain
from hiresmed_jax.inference import survey, workdir
from hiresmed_jax.lesions import crops
from hiresmed_jax.metrics import significance
from hiresmed_jax.placement import body
from hiresmed_jax.routes import settings
from hiresmed_jax.runtime import cli

ARMS = ("A", "B", "C'", "E'", "H", "I")
PLANNED = (("E'", "A"), ("E'", "B"), ("E'", "C'"), ("H", "B"), ("I", "E'"))
_INNER = 0.2  # of the training groups
_KEPT, _A_STEP = 64, 0.25  # synthetic images from which crops are taken; new ones a crop
_ENDLESS = 1_000_000  # images
_IN_VAIN = 100  # of them, one after the other, that cannot be made


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--data", type=Path, required=True, help="prepared dataset with lesions")
  parser.add_argument("--folder", type=Path, required=True, help="of the runs")
  parser.add_argument("--arms", default=",".join(ARMS), help="of " + " ".join(ARMS))
  parser.add_argument("--shares", default="0.1,0.25", help="of the training groups")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=1000)
  parser.add_argument("--split", default="val", choices=("val", "test"), help="judged on")
  options = parser.parse_args(argv)
  arms = [arm.strip() for arm in options.arms.split(",")]
  if not set(arms) <= set(ARMS):
    raise UserError(f"--arms {options.arms}: use {','.join(ARMS)}")
  dataset = records.open_dataset(options.data)
  real = {
    split: list(labelled(records.source(dataset, split))) for split in ("train", options.split)
  }
  runs = []
  # All arms of a seed before the next seed: a benchmark that is stopped has compared something.
  for share, seed, arm in itertools.product(shares(options.shares), range(options.seeds), arms):
    stem = options.folder / f"{arm.replace(chr(39), '1')}-{share:g}-{seed}"
    path = stem.with_name(f"{stem.name}-{options.split}.json")
    about = {"arm": arm, "share": share, "seed": seed, "steps": options.steps}
    about |= {"data": dataset.card["fingerprint"], "split": options.split}
    if not path.is_file():
      print(f"{arm} {share:.0%} seed {seed}", flush=True)
      weights = stem.with_name(f"{stem.name}.msgpack")
      files.write_json(path, about | _run(dataset, real, about, options.folder, weights))
    runs.append(json.loads(path.read_text()))
    if {key: runs[-1][key] for key in about} != about:
      raise UserError(f"{path} is of another command: use another --folder")
  groups = [one.group for one in real[options.split]]
  result = {
    "benchmark": "utility",
    **harness.environment(),
    "data": dataset.card["name"],
    "split": options.split,
    "images": len(groups),
    "groups": len(set(groups)),
    "steps": options.steps,
    "runs": [{k: v for k, v in run.items() if k not in ("hits", "data")} for run in runs],
    "differences": list(differences(runs, groups)),
  }
  print(table(result))
  harness.publish(result, options.out)


def shares(text: str) -> list[float]:
  """The shares of the training groups of a command line.

  Raises:
    UserError: not numbers above 0, at most 1.
  """
  try:
    found = [float(word) for word in text.split(",")]
  except ValueError:
    found = [0.0]
  if not all(0 < share <= 1 for share in found):
    raise UserError(f"--shares {text}: use numbers above 0, at most 1, such as 0.1,0.25")
  return found


def labelled(source: records.Source) -> Iterator[Labelled]:
  """The labelled images of a source as the detector sees them."""
  for item in (source[index] for index in range(len(source))):
    if item["labelled"]:
      yield Labelled(_seen(item), np.asarray(item["boxes"], np.float32), item["group"])


def _seen(item: Mapping[str, Any]) -> np.ndarray:
  values, (low, high) = transforms.values_of(item)
  grey = (values.mean(-1) - low) / (high - low)
  return np.clip(2 * grey - 1, -1, 1).astype(np.float32)


def parts(groups: Sequence[str], share: float) -> tuple[set[str], set[str]]:
  """(groups to train on, groups of inner validation), by hash: a larger share holds a smaller one.

  The share is of all training groups.
  """
  order = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).hexdigest())
  inner = order[: max(1, round(_INNER * len(order)))]
  rest = order[len(inner) :]
  return set(rest[: max(1, round(share * len(order)))]), set(inner)


def _run(
  dataset: records.Dataset,
  real: Mapping[str, Sequence[Labelled]],
  about: Mapping[str, Any],
  folder: Path,
  weights: Path,
) -> dict[str, Any]:
  """Trains one detector, or takes its weights; what it found in the images that judge it."""
  arm, seed, began = about["arm"], about["seed"], time.monotonic()
  used, inner = parts([one.group for one in real["train"]], about["share"])
  own = [one for one in real["train"] if one.group in used]
  checked = [one for one in real["train"] if one.group in inner]
  facts = {"images": len(own), "groups": len(used)}
  facts |= {"lesions": int(sum(len(one.boxes) for one in own))}
  whose = {key: about[key] for key in ("arm", "share", "seed", "steps", "data")}
  if weights.is_file():
    stored = serialization.msgpack_restore(weights.read_bytes())
    if stored["of"] != whose:
      raise UserError(f"{weights} is of another command: use another --folder")
    found = detector.detect(stored["variables"], real[about["split"]])
    return facts | stored["facts"] | _found(found, began)
  draws = [detector.of(own)]
  if arm not in ("A", "B"):
    opened = _workdir(dataset, used, folder / f"share-{about['share']:g}")
    made = synthetic(arm, opened, own, seed)
    draws.append(detector.fresh(made, kept=_KEPT, a_step=_A_STEP))
  strength = detector.PLAIN if arm == "A" else detector.STRONG
  trained = detector.train(draws, strength, checked, steps=about["steps"], seed=seed)
  chosen = {"inner_froc": trained.inner_froc, "best_step": trained.step}
  kept = {"of": whose, "variables": trained.variables, "facts": chosen}
  files.write(weights, serialization.msgpack_serialize(kept))
  found = detector.detect(trained.variables, real[about["split"]])
  return facts | chosen | _found(found, began)


def _found(found: gain.Hits, began: float) -> dict[str, Any]:
  return {
    "froc": gain.froc(found),
    "seconds": round(time.monotonic() - began),
    "hits": {
      key: np.where(np.isfinite(value), value, -1).tolist()
      for key, value in found._asdict().items()
    },
  }


def _workdir(dataset: records.Dataset, groups: set[str], folder: Path) -> api.Run:
  """A run whose dataset has the training images of some groups alone; nothing is trained in it."""
  data = folder / "data"
  if not (data / records.CARD).is_file():
    source = records.source(dataset, "train")
    chosen = (item for item in source if item["group"] in groups and item["labelled"])
    records.write_dataset(map(_sample, chosen), data, kind="phantom", name=folder.name)
  small = records.open_dataset(data)
  workdir.note(folder, small, settings.values("synthesize", "best").to_dict())
  survey.load_or_make(small, folder)
  return api.open_run(folder)


def _sample(item: Mapping[str, Any]) -> sample.Sample:
  """A record as a sample of the training split; its names are hashes already."""
  same = ("image", "boxes", "lesion_mask", "forbidden_mask", "host_mask", "labelled", "physics")
  return sample.Sample(
    **{key: item[key] for key in same},
    group=item["group"],
    source=item["image_id"],
    rescale_slope=float(item["rescale_slope"]),
    rescale_intercept=float(item["rescale_intercept"]),
    value_range=(float(item["value_range"][0]), float(item["value_range"][1])),
    photometric=item["photometric"],
    spacing_mm=(float(item["spacing_mm"][0]), float(item["spacing_mm"][1])),
    split="train",
  )


def synthetic(arm: str, run: api.Run, own: Sequence[Labelled], seed: int) -> Iterator[Labelled]:
  """The images of an arm, without end."""
  if arm == "C'":
    yield from copy_paste(run, own, np.random.default_rng(seed))
    return
  # Labelled as the real ones are, which reach beyond their lesions.
  values: dict[str, Any] = {"labels.box": "dataset"}
  request: dict[str, Any] = {"background": "real", "source": "copy", "seed": seed}
  if arm == "H":
    twins = run.synthesize(_ENDLESS, settings=values, lesions=1, shams=2, **request)
    for twin in _whole(twins):
      yield Labelled(_of_look(twin.twin), np.zeros((0, 4), np.float32), "")
  values |= {"existing": "label"} | ({"prior": "uniform"} if arm == "I" else {})
  fresh = run.stream(settings=values, **request)
  for item in _whole(fresh.epochs(_ENDLESS // len(fresh))):
    yield Labelled(_of_look(item["image"]), item["boxes"], "")


def _whole(images: Any) -> Iterator[Any]:
  """Those of a sequence that can be made: a background may have no room for a lesion.

  Raises:
    UserError: many in a row cannot be made.
  """
  in_vain = 0
  for index in range(len(images)):
    try:
      made = images[index]
    except UserError:
      in_vain += 1
      if in_vain == _IN_VAIN:
        raise
    else:
      in_vain = 0
      yield made


def _of_look(image: np.ndarray) -> np.ndarray:
  return (image.mean(-1) / 127.5 - 1.0).astype(np.float32)


def copy_paste(
  run: api.Run, own: Sequence[Labelled], rng: np.random.Generator
) -> Iterator[Labelled]:
  """Lesions along their outlines, anywhere in the body of real images that keep their own."""
  found = survey.load(run.workdir, workdir.fingerprint_of(run.workdir))
  while True:
    one = own[int(rng.integers(len(own)))]
    image, boxes = one.image.copy(), list(one.boxes)
    places = np.argwhere(body.content(image[..., None], value_range=(-1.0, 1.0)))
    for _ in range(int(rng.integers(1, 4))):
      patch = found.patches[int(rng.integers(len(found.patches)))]
      low, high = patch.value_range
      values = 2 * (patch.values.mean(-1) - low) / (high - low) - 1
      row, column = (places[rng.integers(len(places))] - len(values) // 2).tolist()
      if min(row, column) < 0 or row + len(values) > len(image):
        continue
      window = image[row : row + len(values), column : column + len(values)]
      if window.shape != values.shape:
        continue
      mask = patch.alpha > 0.1
      window[mask] = values[mask]
      x1, y1, x2, y2 = crops.tight(patch.alpha >= 0.5)
      tight = (x1 + column, y1 + row, x2 + column, y2 + row)
      box = crops.padded(tight, patch.diameter_px, found.padding, scale=1.0, shape=image.shape)
      boxes.append(np.asarray(box, np.float32))
    yield Labelled(image, np.asarray(boxes, np.float32).reshape(-1, 4), "")


def differences(runs: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> Iterator[dict]:
  """The planned comparisons at each share, of the seeds that both arms have."""
  by_key = {(run["share"], run["arm"], run["seed"]): run for run in runs}
  for share in sorted({run["share"] for run in runs}):
    found = []
    for first, second in PLANNED:
      seeds = [s for at, arm, s in by_key if (at, arm) == (share, first)]
      seeds = [s for s in seeds if (share, second, s) in by_key]
      if seeds:
        sides = [[_hits(by_key[share, arm, s]) for s in seeds] for arm in (first, second)]
        value = gain.difference(sides[0], sides[1], groups)
        found.append({"share": share, "of": first, "less": second, "seeds": len(seeds)})
        found[-1] |= value._asdict()
    for one, p_value in zip(found, significance.holm([one["p_value"] for one in found])):
      yield one | {"p_holm": float(p_value)}


def _hits(run: Mapping[str, Any]) -> gain.Hits:
  stored = run["hits"]
  found = np.asarray(stored["found"], np.float64)
  return gain.Hits(
    np.where(found < 0, -np.inf, found),
    np.asarray(stored["found_in"], int),
    np.asarray(stored["false"], np.float64),
    np.asarray(stored["false_in"], int),
    stored["images"],
  )


def table(result: Mapping[str, Any]) -> str:
  """The result as text."""
  lines = ["share   arm  FROC of each training"]
  runs = result["runs"]
  for share, arm in sorted({(run["share"], run["arm"]) for run in runs}):
    own = [run["froc"] for run in runs if (run["share"], run["arm"]) == (share, arm)]
    lines.append(
      f"{share:6.0%}  {arm:3}  {np.mean(own):.3f}  ({', '.join(f'{v:.3f}' for v in own)})"
    )
  for one in result["differences"]:
    lines.append(
      f"{one['share']:6.0%}  {one['of']} less {one['less']}: {100 * one['value']:+.1f} points "
      f"({100 * one['low']:+.1f} to {100 * one['high']:+.1f}), p {one['p_holm']:.3f}"
    )
  if not any(one["low"] > 0 for one in result["differences"] if one["of"] == "E'"):
    lines.insert(0, "no evidence of benefit")
  return "\n".join(lines)


if __name__ == "__main__":
  cli.run(main)
