"""Cells, tables and sections of report.md. A number without a value is "missing", with a reason."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hiresmed_jax.evaluation import lesions
from hiresmed_jax.evaluation.tables import METRICS
from hiresmed_jax.metrics.reader_study import Share
from hiresmed_jax.metrics.significance import stars


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """A Markdown table and an empty line; bars in cells are escaped."""
  shown = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
  lines = ["| " + " | ".join(row) + " |" for row in shown]
  return [lines[0], "|" + "---|" * len(head), *lines[1:], ""]


def p_text(value: float) -> str:
  """A p-value as it is printed, with its stars; below 1e-4 as a bound."""
  if value is None or math.isnan(value):
    return "undefined"
  return ("< .0001" if value < 1e-4 else f"{value:.4f}") + f" {stars(value)}".rstrip()


def missing(reasons: Mapping[str, str]) -> Iterator[str]:
  """One line a reason."""
  by_reason: dict[str, list[str]] = {}
  for what, why in reasons.items():
    by_reason.setdefault(why, []).append(what)
  for why, names in by_reason.items():
    yield f"- missing: {'; '.join(names)}: {why}"
  if by_reason:
    yield ""


def cell(row: Mapping[str, Any], digits: int) -> str:
  """A number ± its SD over samplings, or (SD over images) where there is one sampling."""
  if "value" not in row:
    return "missing"
  text = f"{row['value']:.{digits}f}"
  if row.get("sd") is not None:
    return f"{text} ± {row['sd']:.{digits}f}"
  return f"{text} ({row['sd_images']:.{digits}f})" if row.get("sd_images") is not None else text


_ROWS_5 = ("psnr", "ssim", "lpips_alexnet", "lpips_vgg16", "lpips_squeezenet")


def fidelity(report: Mapping[str, Any]) -> Iterator[str]:
  """Retention by diameter, then how visible lesions are and what is kept inside their masks."""
  yield from ("## Lesions", "")
  methods = report["methods"]
  kept = {n: o["lesions"] for n, o in methods.items() if "retention" in o["lesions"]}
  for name, found in kept.items():
    yield from (
      f"Small-lesion retention, {name}: real lesions of held-out images, before and after.",
      "",
    )
    yield from table(
      ("diameter (px)", "lesions", "contrast kept, median", "quartiles", ""),
      [
        (
          row["diameter_px"], str(row["lesions"]), f"{row['median']:.0%}",
          f"{row['low']:.0%} to {row['high']:.0%}", row["verdict"],
        )
        for row in found["retention"]
      ],
    )  # fmt: skip
  if kept:
    yield (
      f"Goal of a usable latent: {lesions.USABLE:.0%}. Contrast of a lesion's core (above half "
      f"maximum in its box) over a ring of {lesions.MARGIN:g} px, after over before; diameter at "
      "half maximum. All seeds of a method together: a lesion counts once for each."
    )
    yield ""
  rows = []
  for name, one in {"real images": report["real"], **methods}.items():
    found = one["lesions"]
    if "missing" in found:
      rows.append((name, f"missing: {found['missing']}", "", "", ""))
      continue
    perceptual = [k for k in found if k.startswith("lpips_")]
    cells = [
      _median(found.get("cnr")),
      _median(found.get("cnr_reference")),
      _median(found.get("ssim")),
    ]
    shown = "; ".join(f"{k.removeprefix('lpips_')} {_median(found[k], 4)}" for k in perceptual)
    rows.append((name, *cells, shown))
  head = (
    "images",
    "contrast-to-noise",
    "the same in the real image",
    "SSIM inside",
    "LPIPS inside",
  )
  yield from table(head, rows)
  yield (
    "Medians and quartiles over lesions. Contrast-to-noise: mean inside the mask less that of a "
    f"ring of {lesions.MARGIN:g} px around the box, over the SD of the ring; over bone or gas that "
    "SD is large whatever the lesion is. Lesions without a mask: what the box holds above half "
    "maximum. SSIM and LPIPS inside: only where the real image shows the same lesion; LPIPS of a "
    f"window of {lesions.WINDOW} px in which all but the mask is the real image's."
  )
  yield ""


def table_5(methods: Mapping[str, Any]) -> Iterator[str]:
  """One lesion on many backgrounds, and many on one, of each method that puts lesions in."""
  for name, one in methods.items():
    if "table_5" not in one:
      continue
    yield from (f"## Table 5, {name}: one lesion on many backgrounds, many lesions on one", "")
    titles = {"donor": "fixed lesion, varying background",
              "background": "fixed background, varying lesion"}  # fmt: skip
    found = {title: one["table_5"][key] for key, title in titles.items()}
    there = {title: row for title, row in found.items() if "missing" not in row}
    rows = []
    for metric in _ROWS_5:
      if any(metric in row for row in there.values()):
        cells = [_varying(row.get(metric), METRICS[metric][2]) for row in there.values()]
        rows.append((METRICS[metric][0], *cells))
    if rows:
      rows.insert(0, ("groups; images", *(f"{r['groups']}; {r['images']}" for r in there.values())))
      yield from table(("", *there), rows)
      yield (
        "Mean of the groups' means ± SD within a group (root mean square), in brackets the SD "
        "between groups. An image with several lesions counts for each donor. FID: missing in "
        "both, a group has too few images for one; that of Table 2 is of all."
      )
      yield ""
    yield from missing({title: r["missing"] for title, r in found.items() if "missing" in r})


def table_6(methods: Mapping[str, Any]) -> Iterator[str]:
  """SSIM with and without the pixels of lesions."""
  yield from ("## Table 6: SSIM without the lesions", "")
  there = {name: one["table_6"] for name, one in methods.items() if "missing" not in one["table_6"]}
  if there:
    metrics = ("ssim", "ssim_outside", "ssim_inside")
    rows = [(n, *(cell(r[m], 4) for m in metrics), str(r["ssim"]["n"]))
            for n, r in there.items()]  # fmt: skip
    yield from table(("method", "all pixels", "outside the lesions", "inside", "N"), rows)
    yield (
      "Images with lesions only, SD as in Table 2. A window reaches 5 px beyond its pixel. Inside "
      "an inserted lesion the real image has none: a low number there is meant to be."
    )
    yield ""
  yield from missing(
    {n: o["table_6"]["missing"] for n, o in methods.items() if "missing" in o["table_6"]}
  )


def _varying(row: Mapping[str, Any] | None, digits: int) -> str:
  if row is None or "value" not in row:
    return "missing"
  between = row["sd_between"]
  text = f"{row['value']:.{digits}f} ± {row['sd']:.{digits}f}"
  return text if between is None else f"{text} [{between:.{digits}f}]"


def _median(row: Mapping[str, Any] | None, digits: int = 2) -> str:
  if row is None:
    return ""
  if "missing" in row:
    return "missing"
  low, high = row["quartiles"]
  return f"{row['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def section(study: Mapping[str, Any]) -> Iterator[str]:
  """Lines of Markdown for what `readers.study` found."""
  yield from ("## Reader study: real or synthetic?", "")
  head = ("reader", "sensitivity", "specificity", "accuracy", "synthetic called real")
  rows = []
  for name, found in study["readers"].items():
    one = found["reading"]
    shares = (one.sensitivity, one.specificity, one.accuracy, one.fooled)
    cells = [name, *map(_share, shares), _interval(*one.kappa)]
    cells.append("no ratings" if found["auc"] is None else f"{found['auc']:.3f}")
    rows.append(cells)
  yield from table((*head, "kappa against truth", "AUC"), rows)
  yield from ("Positive = real. Brackets: 95 % intervals, Wilson's of shares.", "")
  for name, found in study["readers"].items():
    counts = found["reading"].counts
    yield (
      f"**{name}** (real: {counts.tp} called real, {counts.fn} synthetic; synthetic: {counts.fp} "
      f"called real, {counts.tn} synthetic)"
    )
    yield ""
    for finding in found["reading"].findings:
      yield f"- {finding.name}: p = {_p(finding.p_value)}. {finding.meaning}"
    yield ""
  for first, second, agreement in study["pairs"]:
    yield (
      f"**{first} and {second}**: the same answer on {_share(agreement.same)} of the images, kappa "
      f"between the readers {_interval(*agreement.kappa)}"
    )
    yield ""
    for finding in agreement.findings:
      yield f"- {finding.name}: p = {_p(finding.p_value)}. {finding.meaning}"
    yield ""
  if study["pairs_missing"]:
    yield from (f"- missing: kappa between readers: {study['pairs_missing']}", "")
  needed = ", ".join(f"{count:,} ({accuracy})" for accuracy, count in study["needed"].items())
  yield f"Answers needed of one reader for 80 % power at 5 %, by true accuracy: {needed}."
  yield ""


def _share(share: Share) -> str:
  if math.isnan(share.value):
    return "missing: none"
  return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _interval(value: float, low: float, high: float) -> str:
  if math.isnan(value):
    return "missing: one answer is all there is"
  return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _p(value: float) -> str:
  return "undefined" if math.isnan(value) else f"{value:.2g}"
