"""report.md: tables for people, the protocol of every number below its table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hiresmed_jax.evaluation import sections
from hiresmed_jax.evaluation.sections import cell, missing, p_text, table
from hiresmed_jax.evaluation.tables import METRICS

_FEW = 50  # images of a sampling below which a distance between sets is hardly one


def page(report: Mapping[str, Any]) -> str:
  """The report of `run.evaluate` as Markdown; a number that is missing stands with its reason."""
  lines = ["# Evaluation", ""]
  methods = report.get("methods", {})
  if methods:
    lines += [*_methods(report), *_quality(methods), *_sets(report), *_tests(report)]
    lines += [*_over_runs(report["over_runs"])]
    lines += [*_runs(methods), *sections.fidelity(report)]
    lines += [*sections.table_5(methods), *sections.table_6(methods)]
  for name in report.get("figures", ()):
    lines += [f"![{name.removesuffix('.png')} cases]({name})", ""]
  if "convergence" in report:
    lines += _convergence(report["convergence"])
  if "reader_study" in report:
    lines += sections.section(report["reader_study"])
  return "\n".join(lines).rstrip() + "\n"


def _methods(report: Mapping[str, Any]) -> Iterator[str]:
  real = report["real"]
  window = real["window"]
  yield f"Real images: {real['what']}, {real['bits']} bits, shown through the window {window}."
  yield from _failed(real["failed"])
  yield ""
  rows = [
    (name, one["kind"], *(str(one[key]) for key in ("images", "keys", "groups", "samplings")))
    for name, one in report["methods"].items()
  ]
  head = ("method", "what", "images", "real images they belong to", "groups", "samplings or seeds")
  yield from table(head, rows)
  for name, one in report["methods"].items():
    for note in one["notes"]:
      yield f"- {name}: {note}"
    yield from _failed(one["failed"], f"- {name}: ")
    if one["sizes"] > 8:
      yield f"- {name}: images of {one['sizes']} sizes; programs are compiled for each"
  yield ""


def _failed(failed: Mapping[str, int], start: str = "") -> Iterator[str]:
  for reason, count in failed.items():
    yield f"{start}{count} image(s) could not be read and do not count: {reason}"


def _quality(methods: Mapping[str, Any]) -> Iterator[str]:
  yield from ("## Table 2: each image against its real one", "")
  metrics = list(dict.fromkeys(key for one in methods.values() for key in one["numbers"]))
  there = [m for m in metrics if any("value" in _of(one, m) for one in methods.values())]
  if there:
    rows = [
      (name, *(cell(_of(one, m), METRICS[m][2]) for m in there)) for name, one in methods.items()
    ]
    titles = [f"{METRICS[m][0]} {'↑' if METRICS[m][1] > 0 else '↓'}" for m in there]
    yield from table(("method", *titles), rows)
    yield (
      "Mean ± SD over samplings or seeds, each of them a mean over images; with one sampling the "
      "SD over images in brackets. Paired: an image against the real one it was made from. "
      "Intensities in [0, 1] through the window above, data range 1. SSIM: Gaussian 11 x 11, sigma "
      "1.5, mirrored borders. LPIPS 0.1, no resize. PSNR as in the paper is PSNR + 48.13 dB, to be "
      "compared with its Table 2 only."
    )
    yield ""
  yield from missing({
    f"{name}, {METRICS[m][0]}": one["numbers"][m]["missing"]
    for name, one in methods.items()
    for m in metrics
    if "missing" in one["numbers"].get(m, {})
  })  # fmt: skip


def _sets(report: Mapping[str, Any]) -> Iterator[str]:
  yield from ("## Table 2, continued: sets against sets", "")
  methods = report["methods"]
  names = list(next(iter(methods.values()))["distances"])
  title_of = {n: next(iter(methods.values()))["distances"][n]["name"] for n in names}
  there = [n for n in names if any("value" in one["distances"][n] for one in methods.values())]
  if there:
    digits = {"KID": 5, "FID": 2}
    rows = []
    for name, one in methods.items():
      cells = []
      for n in there:
        row = one["distances"][n]
        text = cell(row, digits.get(n, 3))
        if "interval" in row:
          low, high = (f"{v:.{digits[n]}f}" for v in row["interval"])
          text += f" [{low}, {high}]"
        cells.append(text)
      rows.append((name, *cells))
    floors = report["real"].get("floors", {})
    floor = [
      cell(floors[n], digits[n]) if n in floors and "value" in floors[n] else "" for n in there
    ]
    rows.append(("floor: halves of the real images", *floor))
    yield from table(("method", *(title_of[n] for n in there)), rows)
    yield "KID first: few images do not bias it. FID is compared at equal N only, beside its floor."
    yield (
      "In brackets 95 % intervals over groups. Reconstructions are compared with the very images "
      "that they are of: they may lie below the floor, and that says nothing of new images."
    )
    yield ""
    yield from _protocols(methods, there, floors)
  reasons = {
    f"{name}, {row['name']}": row["missing"]
    for name, one in methods.items()
    for row in one["distances"].values()
    if "missing" in row
  }
  yield from missing(reasons)


def _protocols(
  methods: Mapping[str, Any], names: Sequence[str], floors: Mapping[str, Any]
) -> Iterator[str]:
  for name, one in methods.items():
    alike: dict[str, list[str]] = {}
    for row in (one["distances"][n] for n in names):
      if "protocol" in row:
        interval = row.get("interval_protocol")
        text = row["protocol"].removeprefix(row["name"])
        alike.setdefault(text + (f"; interval: {interval}" if interval else ""), []).append(
          row["name"]
        )
        if "interval_missing" in row:
          yield f"- {name}: no interval of {row['name']}: {row['interval_missing']}"
    for text, titles in alike.items():
      yield f"- {name}: {', '.join(titles)}{text}"
    size = one["images"] // one["samplings"]
    if size < _FEW:
      yield f"- {name}: **{size} images are too few**; distances between sets mislead below {_FEW}"
  for row in floors.values():
    yield (
      f"- floor: {row['protocol']}"
      if "protocol" in row
      else (f"- floor of {row['name']}: missing, {row['missing']}")
    )
  yield ""


def _tests(report: Mapping[str, Any]) -> Iterator[str]:
  rows = report["tests"]
  if not rows:
    return
  yield from ("## Tests: pairs of methods on the same images", "")
  tested = [row for row in rows if "t" in row]
  if tested:
    yield from table(
      ("metric", "first", "second", "N", "first - second [95 %]", "better", "paired t",
       "Bonferroni", "Holm", "Wilcoxon"),
      [
        (
          METRICS[row["metric"]][0], row["first"], row["second"], str(row["n"]),
          f"{row['difference']:+.4f} [{row['interval'][0]:+.4f}, {row['interval'][1]:+.4f}]",
          {"first": row["first"], "second": row["second"]}.get(row["better"], "neither"),
          *(p_text(row[key]) for key in ("t", "bonferroni", "holm", "wilcoxon")),
        )
        for row in tested
      ],
    )  # fmt: skip
    yield (
      f"Two-sided, paired by image, on means over samplings; intervals by {10_000:,} bootstrap "
      f"samples of whole groups, seed {report['seed']}. Bonferroni and Holm over these "
      f"{len(tested)} tests. *** below .001, ** below .01, * below .05. The tests take images as "
      "independent; where one patient has several, believe the interval. A small p-value says "
      "that two means differ on these images, not that a model trained anew would be better."
    )
    yield ""
    for note in dict.fromkeys(f"{r['second']}: {r['note']}" for r in tested if r["note"]):
      yield f"- undefined for {note}"
  yield from missing({
    f"{row['first']} against {row['second']}, {METRICS[row['metric']][0]}": row["missing"]
    for row in rows if "missing" in row
  })  # fmt: skip


def _over_runs(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  if not rows:
    return
  yield from ("## Tests: runs against runs", "")
  tested = [row for row in rows if "welch" in row]
  if tested:
    yield from table(
      ("metric", "first", "second", "runs", "first - second [95 %]", "Welch's t"),
      [
        (
          METRICS[row["metric"]][0], row["first"], row["second"],
          f"{row['runs'][0]} and {row['runs'][1]}",
          f"{row['difference']:+.4f} [{row['interval'][0]:+.4f}, {row['interval'][1]:+.4f}]",
          p_text(row["welch"]),
        )
        for row in tested
      ],
    )  # fmt: skip
    yield "A run is one number here: this is the test of a claim about methods. Not adjusted."
    yield ""
  yield from missing({
    f"{row['first']} against {row['second']}, {METRICS[row['metric']][0]}": row["missing"]
    for row in rows if "missing" in row
  })  # fmt: skip


def _runs(methods: Mapping[str, Any]) -> Iterator[str]:
  rows = []
  for name, method in methods.items():
    for run in method["runs"]:
      floors, held_out = run.get("floors", {}), run.get("held_out") or {}
      cells = (
        held_out.get("psnr"), run.get("train", {}).get("psnr"), run.get("gap_psnr"),
        floors.get("mean_image"), floors.get("nearest_image"),
      )  # fmt: skip
      shown = ("missing" if one is None else f"{one:.2f}" for one in cells)
      rows.append((name, str(run["seed"]), str(run["step"]), *shown))
  if rows:
    yield from ("## What a reconstruction must beat", "")
    yield from table(
      ("method", "seed", "step", "held out (dB)", "training images (dB)", "gap (dB)",
       "floor: mean training image", "floor: nearest training image"),
      rows,
    )  # fmt: skip
    yield "PSNR as the runs found it themselves. One at or below a floor says nothing of a model."
    yield ""


def _convergence(found: Mapping[str, Any]) -> Iterator[str]:
  yield from ("## Convergence", "", f"![curves of {found['quantity']}](convergence.png)", "")
  rows = [
    (f"{row['threshold']:.4g}", row["name"], f"{row['reached']} of {row['runs']}",
     *(cell(row[axis], 1) if "value" in row[axis] else f"missing: {row[axis]['missing']}"
       for axis in ("step", "epoch", "seconds")))
    for row in found["rows"]
  ]  # fmt: skip
  mean = f", mean of the last {found['mean_of']} measurements," if found["mean_of"] > 1 else ""
  head = (f"{found['quantity']}{mean} at or below", "run", "reached", "steps", "epochs", "seconds")
  yield from table(head, rows)
  yield (
    "The first measurement from which all later ones stay at or below; mean ± SD over the seeds "
    "that reached it. Seconds are of the clock, from the first line on, pauses and evaluations "
    "included: compare runs of one machine that was otherwise idle."
  )
  yield ""


def _of(method: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
  return dict(method["numbers"].get(metric, {}))
