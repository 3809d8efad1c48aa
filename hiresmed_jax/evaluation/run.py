"""From a request to a report: every number measured, or missing with its reason."""

import collections
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax import files
from hiresmed_jax.data import records, writers
from hiresmed_jax.errors import UserError
from hiresmed_jax.evaluation import (
  convergence,
  distances,
  figures,
  lesions,
  markdown,
  measure,
  networks,
  readers,
  real,
  sets,
  tables,
)
from hiresmed_jax.evaluation.pictures import Entry
from hiresmed_jax.inference import contents, other_images, workdir
from hiresmed_jax.metrics.image import verdict

Named = tuple[str, Path]  # a method's name and its folder
Methods = dict[str, tuple[Sequence[Entry], measure.Measured]]
FILES = ("report.md", "report.json", "typical.png", "worst.png", "convergence.png")
_CASES = 3


class Request(NamedTuple):
  """What to compare, and how."""

  out: Path  # folder of the report
  real: Path | None = None  # prepared dataset or folder; None: the data of the first workdir
  # Prepared dataset of the workdirs, where it has moved; or another one, to measure them on.
  data: Path | None = None
  synthetic: Sequence[Named] = ()  # folders of `synthesize`, or of images
  # Trained runs, whose reconstructions of held-out images are evaluated.
  workdirs: Sequence[Named] = ()
  baselines: Sequence[Named] = ()  # folders of other methods' images
  runs: Sequence[Named] = ()  # folders with a metrics.jsonl, for convergence
  reader_study: Path | None = None  # CSV file
  lpips: Sequence[str] = ("alexnet", "vgg16")  # networks
  network: str = "inception"  # of the features that are compared
  tap: int = 2048  # of Inception
  how: str = "legacy"  # Inception's resize
  file: Path | None = None  # weights of that network; None: those of the cache folder
  samplings: int | None = None  # of each background; None chooses
  thresholds: Sequence[float] = ()  # of the convergence
  quantity: str = convergence.QUANTITY  # whose convergence
  seed: int = 0  # of subsets, halves and resamples
  overwrite: bool = False  # replace a report


def evaluate(request: Request, mesh: jax.sharding.Mesh) -> dict[str, Any]:
  """Measures what the request names, writes the report and returns it.

  Raises:
    UserError: nothing to evaluate, folders that do not fit, held-out patients in synthetic images,
      a report that is there, or that another process writes.
  """
  wanted = [*request.synthetic, *request.workdirs, *request.baselines]
  if not (wanted or request.runs or request.reader_study):
    raise UserError("name images (--synthetic, --workdir or --baseline), --run or --reader-study")
  _refuse_to_replace(request)
  with files.locked(request.out):
    _refuse_to_replace(request)  # another process may have written it meanwhile
    return _evaluate(request, mesh, images=bool(wanted))


def _evaluate(request: Request, mesh: jax.sharding.Mesh, *, images: bool) -> dict[str, Any]:
  report: dict[str, Any] = {"seed": request.seed}
  if request.reader_study:
    report["reader_study"] = readers.study(request.reader_study)
  curves: dict[str, list[convergence.Curve]] = collections.defaultdict(list)
  for name, path in request.runs:
    curves[name].append(convergence.read(path, request.quantity))
  methods: Methods = {}
  if images:
    methods = _images(request, mesh, report)
  _remove(request.out)
  try:
    _write(request, report, curves, methods)
  except BaseException:
    _remove(request.out)
    raise
  return report


def _remove(out: Path) -> None:
  for name in FILES:
    (out / name).unlink(missing_ok=True)


def _write(
  request: Request,
  report: dict[str, Any],
  curves: dict[str, list[convergence.Curve]],
  methods: Methods,
) -> None:
  """Writes figures and report, and adds to it what is known of curves and figures."""
  if curves:
    rows = convergence.compare(curves, request.thresholds)
    window = convergence.window_of(request.quantity)
    report["convergence"] = {"quantity": request.quantity, "mean_of": window, "rows": rows}
    levels = list(dict.fromkeys(row["threshold"] for row in rows))
    convergence.draw(request.out / "convergence.png", curves, levels, request.quantity)
  report["figures"] = _figures(request.out, methods)
  files.write(request.out / "report.md", markdown.page(report).encode())
  plain = json.loads(writers.json_line(readers.as_json(report)))
  files.write_json(request.out / "report.json", plain, indent=1)


def _images(request: Request, mesh: jax.sharding.Mesh, report: dict[str, Any]) -> Methods:
  """Measures the real images and every method; adds their numbers to the report."""
  base = _reference(request)
  methods = _methods(request, base, list(mesh.devices.flat))
  nets = networks.load(
    request.lpips, network=request.network, tap=request.tap, how=request.how, file=request.file
  )
  tool = measure.tools(nets, mesh)
  report["real"] = {"what": base.what, "bits": base.bits, "window": base.window}
  report["missing"] = dict(nets.missing)
  references: dict[int | None, measure.Measured] = {}
  measured: Methods = {}
  report["methods"] = {}
  for name, method in methods.items():
    found = measure.measure(method.entries, tool, name=name, same_lesions=method.same_lesions)
    if len(found.failed) == len(method.entries):
      raise UserError(f"{name}: no image could be read; the first {found.failed[0]}")
    measured[name] = method.entries, found
    longest = method.longest if 0 < method.longest < base.longest else None
    if longest not in references:
      references[longest] = measure.measure(
        base.entries, tool, name="real images", paired=False, longest=longest
      )
    about = _about(method, found, nets)
    about["distances"] = _distances(
      base, references[longest], method, found, nets, longest=longest, seed=request.seed
    )
    report["methods"][name] = about
  some = next(iter(references.values()))
  if nets.features is not None and some.features is not None:
    whole = _side(base.entries, some.features)
    report["real"]["floors"] = distances.floors(whole, nets.features.net, seed=request.seed)
  report["real"]["lesions"] = _visible(some)
  report["real"]["failed"] = dict(collections.Counter(some.failed.values()))
  report["tests"] = tables.compare(measured, seed=request.seed)
  trained = {n: report["methods"][n]["numbers"] for n, method in methods.items() if method.facts}
  report["over_runs"] = tables.over_runs(trained)
  return measured


def _reference(request: Request) -> real.Real:
  path = request.real or request.data
  window: Any = "stored"
  if request.workdirs:
    folder = request.workdirs[0][1]
    path = path or workdir.dataset_of(folder, None).root
    window = sets.window_of(folder)
  if path is None:
    raise UserError("--real names the real images: a prepared dataset, or a folder")
  base = real.open_real(path, window=window, workers=4)
  return _unseen(request, base, base.dataset) if _other(request) and base.dataset else base


def _other(request: Request) -> bool:
  """Whether runs may be measured on images of another dataset than theirs."""
  return request.data is not None and request.real is None


def _unseen(request: Request, base: real.Real, dataset: records.Dataset) -> real.Real:
  """The real images without those of patients that a run has seen.

  Raises:
    UserError: none is left, or their units are not those that a run's window is of.
  """
  seen: frozenset[str] = frozenset()
  for _, folder in request.workdirs:
    if workdir.fingerprint_of(folder) == dataset.card["fingerprint"]:
      continue
    trained, found = contents.of_run(folder), contents.make(dataset, workers=4)
    if not isinstance(base.window, str):
      contents.require_units(folder, trained, found, str(dataset.root))
    seen |= other_images.training_images(dataset, found, trained)
  return real.without(base, seen)


def _methods(
  request: Request, base: real.Real, devices: Sequence[jax.Device]
) -> dict[str, sets.ImageSet]:
  """Methods by name, in the order: synthetic, workdirs, baselines."""
  found: dict[str, list[sets.ImageSet]] = collections.defaultdict(list)
  for name, path in request.synthetic:
    found[name].append(sets.open_set(name, path, base, option="--synthetic"))
  for name, path in request.workdirs:
    one = sets.model_set(name, path, base, devices=devices, other=_other(request))
    found[name].append(one)
  for name, path in request.baselines:
    found[name].append(sets.open_set(name, path, base, option="--baseline"))
  merged = {name: sets.as_method(several) for name, several in found.items()}
  return {name: sets.equal_samplings(one, request.samplings) for name, one in merged.items()}


def _about(
  method: sets.ImageSet, found: measure.Measured, nets: networks.Networks
) -> dict[str, Any]:
  """The part of the report on one method, without distances."""
  entries = method.entries
  numbers: dict[str, Any] = {}
  why = "; ".join(f"{reason} ({count} images)" for reason, count in found.unpaired.items())
  for metric in tables.METRICS:
    net = metric.removeprefix("lpips_")
    if metric.startswith("lpips_") and net not in nets.lpips and metric not in nets.missing:
      continue  # not asked for
    if metric in nets.missing:
      numbers[metric] = {"missing": nets.missing[metric]}
    elif metric in found.numbers:
      numbers[metric] = tables.number(entries, found.numbers[metric])
    else:
      small = "the images are too small" if found.numbers else "no image has a real one beside it"
      numbers[metric] = {"missing": why or small}
  samplings = len({entry.sampling for entry in entries})
  about: dict[str, Any] = {
    "kind": method.kind,
    "images": len(entries) - len(found.failed),
    "keys": len({entry.key for entry in entries}),
    "groups": len({entry.group for entry in entries}),
    "samplings": samplings,
    "sizes": found.shapes,
    "notes": [*method.notes, *([f"not compared with real images: {why}"] if why else [])],
    "failed": dict(collections.Counter(found.failed.values())),
    "numbers": numbers,
    "caution": method.caution,
    "runs": list(method.facts),
  }
  if any(entry.donors for entry in entries):
    about["table_5"] = tables.table_5(entries, found)
  about["table_6"] = tables.table_6(entries, found)
  about["lesions"] = _fidelity(found) if method.same_lesions else _visible(found)
  return about


def _side(entries: Sequence[Entry], features: np.ndarray) -> distances.Side:
  return distances.side(
    features,
    [entry.group for entry in entries],
    [entry.sampling for entry in entries],
    [entry.key for entry in entries],
  )


def _distances(
  base: real.Real,
  reference: measure.Measured,
  method: sets.ImageSet,
  found: measure.Measured,
  nets: networks.Networks,
  *,
  longest: int | None,
  seed: int,
) -> dict[str, Any]:
  if nets.features is None:
    return distances.without_network(nets.missing["features"])
  if reference.features is None or found.features is None:
    return distances.without_network("no image could be read")
  sides = _side(base.entries, reference.features), _side(method.entries, found.features)
  rows = distances.distances(*sides, nets.features.net, seed=seed)
  if longest is not None:
    for row in rows.values():
      if "protocol" in row:
        row["protocol"] += f"; real images reduced to {longest} px"
  return rows


def _visible(found: measure.Measured) -> dict[str, Any]:
  """Contrast-to-noise of the lesions of a set."""
  if "cnr" not in found.lesions:
    return {"missing": "no lesion is known"}
  return {"lesions": len(found.lesions["cnr"]), "cnr": _middle(found.lesions["cnr"])}


def _fidelity(found: measure.Measured) -> dict[str, Any]:
  """The contrast that reconstructions keep of lesions, and their other numbers."""
  table = found.lesions
  if "kept" not in table:
    return {"missing": "no lesion of the real images is known"}
  rows = lesions.retention(table["kept"], table["diameter_px"])
  names = [name for name in table if name not in ("image", "kept", "diameter_px")]
  return {
    "lesions": len(table["kept"]),
    "retention": [row._asdict() | {"verdict": verdict(row.median)} for row in rows],
    "kept": _middle(table["kept"]),
    **{name: _middle(table[name]) for name in names},
  }


def _middle(values: np.ndarray) -> dict[str, Any]:
  finite = values[np.isfinite(values)]
  if not len(finite):
    return {"missing": "of no lesion"}
  median, low, high = (float(q) for q in np.percentile(finite, [50, 25, 75]))
  return {"median": median, "quartiles": [low, high], "n": len(finite)}


def _figures(out: Path, methods: Methods) -> list[str]:
  """Draws typical and worst cases of the first method that has pairs; returns the files' names."""
  for name in methods:
    keys, metric = figures.ranked(*methods[name])
    if keys:
      break
  else:
    return []
  ordered = {name: methods[name], **methods}
  drawn = []
  label = tables.METRICS[metric][0]
  for file, chosen, title in (
    ("typical.png", figures.typical(keys, _CASES), f"{name}: cases at 25, 50 and 75 % of {label}"),
    ("worst.png", keys[:_CASES], f"{name}: the worst cases by {label}"),
  ):
    title += "; below the first row SYNTHETIC"
    if figures.page(out / file, chosen, ordered, metric=metric, title=title):
      drawn.append(file)
  return drawn


def _refuse_to_replace(request: Request) -> None:
  """Raises UserError unless the folder is new, or holds a report that may be replaced.

  One without report.json, which is written last, is unfinished, and may.
  """
  if request.out.is_file():
    raise UserError(f"--out {request.out} is a file")
  there = {path.name for path in request.out.iterdir()} if request.out.is_dir() else set()
  if "report.json" not in there:
    if not {name for name in there if not name.endswith(".partial")} - set(FILES):
      return
    raise UserError(f"{request.out} is there and holds no report: name another --out")
  if not request.overwrite:
    raise UserError(f"{request.out} holds a report: name another --out, or add --overwrite")
