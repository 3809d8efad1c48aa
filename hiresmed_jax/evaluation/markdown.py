"""report.md: the report for people, with the protocol of every number below its table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hiresmed_jax.evaluation import sections
from hiresmed_jax.evaluation.sections import cell, missing, p_text, table
from hiresmed_jax.evaluation.tables import METRICS

_FEW = 50  # images of a sampling below which a distance between sets means little


def page(report: Mapping[str, Any]) -> str:
  """The report of `run.evaluate` as Markdown."""
  blocks = ["# Evaluation"]
  methods = report.get("methods", {})
  if methods:
    blocks += [*_methods(report), *_quality(methods), *_sets(report), *_tests(report)]
    blocks += [*_over_runs(report["over_runs"]), *_runs(methods), *sections.fidelity(report)]
    blocks += [*sections.table_5(methods), *sections.table_6(methods)]
  blocks += [f"![{n.removesuffix('.png')} cases]({n})" for n in report.get("figures", ())]
  if "convergence" in report:
    blocks += _convergence(report["convergence"])
  if "reader_study" in report:
    blocks += sections.reader_study(report["reader_study"])
  return "\n\n".join(block for block in blocks if block) + "\n"


def _methods(report: Mapping[str, Any]) -> Iterator[str]:
  real = report["real"]
  about = f"{real['what']}, {real['bits']} bits, shown through the window {real['window']}"
  yield "\n".join([f"Real images: {about}.", *_failed(real["failed"])])
  columns = ("images", "keys", "groups", "samplings")
  rows = [
    (name, one["kind"], *(str(one[key]) for key in columns))
    for name, one in report["methods"].items()
  ]
  head = ("images", "real images they belong to", "groups", "samplings or seeds")
  yield table(("method", "what", *head), rows)
  lines = []
  for name, one in report["methods"].items():
    lines += [f"- {name}: {note}" for note in one["notes"]]
    lines += _failed(one["failed"], f"- {name}: ")
    if one["sizes"] > 8:
      lines.append(f"- {name}: images of {one['sizes']} sizes; programs are compiled for each")
  yield "\n".join(lines)


def _failed(failed: Mapping[str, int], start: str = "") -> list[str]:
  return [
    f"{start}{count} image(s) could not be read and do not count: {reason}"
    for reason, count in failed.items()
  ]


def _quality(methods: Mapping[str, Any]) -> Iterator[str]:
  yield "## Table 2: each image against its real one"
  numbers = {name: one["numbers"] for name, one in methods.items()}
  metrics = dict.fromkeys(metric for found in numbers.values() for metric in found)
  there = [m for m in metrics if any("value" in found.get(m, {}) for found in numbers.values())]
  if there:
    titles = [f"{METRICS[m][0]} {'↑' if METRICS[m][1] > 0 else '↓'}" for m in there]
    yield table(
      ("method", *titles),
      [
        (name, *(cell(found.get(m, {}), METRICS[m][2]) for m in there))
        for name, found in numbers.items()
      ],
    )
    yield "\n".join(
      f"- **{name}: {one['caution']}.**" for name, one in methods.items() if one["caution"]
    )
    yield (
      "Mean ± SD over samplings or seeds, each of them a mean over images; with one sampling the "
      "SD over images in brackets. Paired: an image against the real one it was made from. "
      "Intensities in [0, 1] through the window above, data range 1. SSIM: Gaussian 11 x 11, sigma "
      "1.5, mirrored borders. LPIPS 0.1, no resize. PSNR as in the paper is PSNR + 48.13 dB, to be "
      "compared with its Table 2 only."
    )
  yield missing({
    f"{name}, {METRICS[m][0]}": found[m]["missing"]
    for name, found in numbers.items()
    for m in metrics
    if "missing" in found.get(m, {})
  })  # fmt: skip


def _sets(report: Mapping[str, Any]) -> Iterator[str]:
  yield "## Table 2, continued: sets against sets"
  found = {name: one["distances"] for name, one in report["methods"].items()}
  titles = {key: row["name"] for key, row in next(iter(found.values())).items()}
  there = [key for key in titles if any("value" in rows[key] for rows in found.values())]
  if there:
    floors = report["real"].get("floors", {})
    shown = [(name, *(_distance(rows[key], key) for key in there)) for name, rows in found.items()]
    known = {key: row for key, row in floors.items() if "value" in row}
    floor = [_distance(known[key], key) if key in known else "" for key in there]
    shown.append(("floor: halves of the real images", *floor))
    yield table(("method", *(titles[key] for key in there)), shown)
    yield (
      "KID first: few images do not bias it. FID is compared at equal N only, beside its floor.\n"
      "In brackets 95 % intervals over groups. Reconstructions are compared with the very images "
      "that they are of: they may lie below the floor, and that says nothing of new images."
    )
    yield "\n".join(_protocols(report["methods"], there, floors))
  yield missing({
    f"{name}, {row['name']}": row["missing"]
    for name, rows in found.items()
    for row in rows.values()
    if "missing" in row
  })  # fmt: skip


def _distance(row: Mapping[str, Any], key: str) -> str:
  digits = {"KID": 5, "FID": 2}.get(key, 3)
  text = cell(row, digits)
  if "interval" in row:
    low, high = row["interval"]
    text += f" [{low:.{digits}f}, {high:.{digits}f}]"
  return text


def _protocols(
  methods: Mapping[str, Any], keys: Sequence[str], floors: Mapping[str, Any]
) -> Iterator[str]:
  for name, one in methods.items():
    alike: dict[str, list[str]] = {}
    for row in (one["distances"][key] for key in keys):
      if "protocol" in row:
        interval = row.get("interval_protocol")
        text = row["protocol"].removeprefix(row["name"])
        text += f"; interval: {interval}" if interval else ""
        alike.setdefault(text, []).append(row["name"])
        if "interval_missing" in row:
          yield f"- {name}: no interval of {row['name']}: {row['interval_missing']}"
    for text, titles in alike.items():
      yield f"- {name}: {', '.join(titles)}{text}"
    size = one["images"] // one["samplings"]
    if size < _FEW:
      yield f"- {name}: **{size} images are too few**; distances between sets mislead below {_FEW}"
  for row in floors.values():
    if "protocol" in row:
      yield f"- floor: {row['protocol']}"
    else:
      yield f"- floor of {row['name']}: missing, {row['missing']}"


def _tests(report: Mapping[str, Any]) -> Iterator[str]:
  rows = report["tests"]
  if not rows:
    return
  yield "## Tests: pairs of methods on the same images"
  tested = [row for row in rows if "t" in row]
  if tested:
    winner = [{"first": r["first"], "second": r["second"]}.get(r["better"]) for r in tested]
    yield table(
      ("metric", "first", "second", "N", "first - second [95 %]", "better", "paired t",
       "Bonferroni", "Holm", "Wilcoxon"),
      [
        (
          *_sides(row), str(row["n"]), _difference(row), better or "neither",
          *(p_text(row[key]) for key in ("t", "bonferroni", "holm", "wilcoxon")),
        )
        for row, better in zip(tested, winner)
      ],
    )  # fmt: skip
    yield (
      f"Two-sided, paired by image, on means over samplings; intervals by {10_000:,} bootstrap "
      f"samples of whole groups, seed {report['seed']}. Bonferroni and Holm over these "
      f"{len(tested)} tests. *** below .001, ** below .01, * below .05. The tests take images as "
      "independent; where one patient has several, believe the interval. A small p-value says "
      "that two means differ on these images, not that a model trained anew would be better."
    )
    notes = dict.fromkeys(
      f"- undefined for {r['second']}: {r['note']}" for r in tested if r["note"]
    )
    yield "\n".join(notes)
  yield _untested(rows)


def _over_runs(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  if not rows:
    return
  yield "## Tests: runs against runs"
  tested = [row for row in rows if "welch" in row]
  if tested:
    yield table(
      ("metric", "first", "second", "runs", "first - second [95 %]", "Welch's t"),
      [
        (
          *_sides(row), f"{row['runs'][0]} and {row['runs'][1]}", _difference(row),
          p_text(row["welch"]),
        )
        for row in tested
      ],
    )  # fmt: skip
    yield "A run is one number here: this is the test of a claim about methods. Not adjusted."
  yield _untested(rows)


def _sides(row: Mapping[str, Any]) -> tuple[str, str, str]:
  return METRICS[row["metric"]][0], row["first"], row["second"]


def _difference(row: Mapping[str, Any]) -> str:
  low, high = row["interval"]
  return f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"


def _untested(rows: Sequence[Mapping[str, Any]]) -> str:
  return missing({
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
    yield "## What a reconstruction must beat"
    yield table(
      ("method", "seed", "step", "held out (dB)", "training images (dB)", "gap (dB)",
       "floor: mean training image", "floor: nearest training image"),
      rows,
    )  # fmt: skip
    yield "PSNR as the runs found it themselves. One at or below a floor says nothing of a model."


def _convergence(found: Mapping[str, Any]) -> Iterator[str]:
  yield "## Convergence"
  yield f"![curves of {found['quantity']}](convergence.png)"
  rows = [
    (f"{row['threshold']:.4g}", row["name"], f"{row['reached']} of {row['runs']}",
     *(cell(row[axis], 1) if "value" in row[axis] else f"missing: {row[axis]['missing']}"
       for axis in ("step", "epoch", "seconds")))
    for row in found["rows"]
  ]  # fmt: skip
  mean = f", mean of the last {found['mean_of']} measurements," if found["mean_of"] > 1 else ""
  head = (f"{found['quantity']}{mean} at or below", "run", "reached", "steps", "epochs", "seconds")
  yield table(head, rows)
  yield (
    "The first measurement from which all later ones stay at or below; mean ± SD over the seeds "
    "that reached it. Seconds are of the clock, from the first line on, pauses and evaluations "
    "included: compare runs of one machine that was otherwise idle."
  )
