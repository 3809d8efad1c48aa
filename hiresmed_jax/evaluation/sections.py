"""Parts of report.md: cells, tables, lesions, Tables 5 and 6, reader studies.

A section yields blocks, which `markdown.page` separates by empty lines; empty blocks are left out.
A number without a value is shown as "missing", with its reason below the table.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hiresmed_jax.evaluation import lesions
from hiresmed_jax.evaluation.tables import METRICS, SIMILARITY, TABLE_5
from hiresmed_jax.metrics.image import USABLE
from hiresmed_jax.metrics.reader_study import Finding, Share
from hiresmed_jax.metrics.significance import stars


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table; bars in cells are escaped."""
  shown = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
  lines = ["| " + " | ".join(row) + " |" for row in shown]
  return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def missing(reasons: Mapping[str, str]) -> str:
  """One line for each reason, with the names of all numbers that are missing for it."""
  by_reason: dict[str, list[str]] = {}
  for what, why in reasons.items():
    by_reason.setdefault(why, []).append(what)
  return "\n".join(f"- missing: {'; '.join(names)}: {why}" for why, names in by_reason.items())


def cell(row: Mapping[str, Any], digits: int) -> str:
  """A number ± its SD over samplings, or (SD over images) where there is one sampling."""
  if "value" not in row:
    return "missing"
  text = f"{row['value']:.{digits}f}"
  if row.get("sd") is not None:
    return f"{text} ± {row['sd']:.{digits}f}"
  return f"{text} ({row['sd_images']:.{digits}f})" if row.get("sd_images") is not None else text


def p_text(value: float) -> str:
  """A p-value with its stars; below 1e-4 as a bound."""
  if math.isnan(value):
    return "undefined"
  return ("< .0001" if value < 1e-4 else f"{value:.4f}") + f" {stars(value)}".rstrip()


def fidelity(report: Mapping[str, Any]) -> Iterator[str]:
  """Contrast that reconstructions keep, by diameter, and how visible the lesions of a set are."""
  yield "## Lesions"
  methods = report["methods"]
  kept = {n: o["lesions"] for n, o in methods.items() if "retention" in o["lesions"]}
  for name, found in kept.items():
    yield f"Small-lesion retention, {name}: real lesions of held-out images, before and after."
    yield table(
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
      f"Goal of a usable latent: {USABLE:.0%}. Contrast of a lesion's core (above half "
      f"maximum in its box) over a ring of {lesions.MARGIN:g} px, after over before; diameter at "
      "half maximum. All seeds of a method together: a lesion counts once for each."
    )
  rows = []
  for name, one in {"real images": report["real"], **methods}.items():
    found = one["lesions"]
    if "missing" in found:
      rows.append((name, f"missing: {found['missing']}", "", "", ""))
      continue
    cells = (_quartiles(found.get(key)) for key in ("cnr", "cnr_reference", "ssim"))
    perceptual = [key for key in found if key.startswith("lpips_")]
    shown = "; ".join(f"{k.removeprefix('lpips_')} {_quartiles(found[k], 4)}" for k in perceptual)
    rows.append((name, *cells, shown))
  head = ("contrast-to-noise", "the same in the real image", "SSIM inside", "LPIPS inside")
  yield table(("images", *head), rows)
  yield (
    "Medians and quartiles over lesions. Contrast-to-noise: mean inside the mask less that of a "
    f"ring of {lesions.MARGIN:g} px around the box, over the SD of the ring; over bone or gas that "
    "SD is large whatever the lesion is. Lesions without a mask: what the box holds above half "
    "maximum. SSIM and LPIPS inside: only where the real image shows the same lesion; LPIPS of a "
    f"window of {lesions.WINDOW} px in which all but the mask is the real image's."
  )


def table_5(methods: Mapping[str, Any]) -> Iterator[str]:
  """One lesion on many backgrounds, and many on one, of each method that inserts lesions."""
  titles = {
    "donor": "fixed lesion, varying background",
    "background": "fixed background, varying lesion",
  }
  for name, one in methods.items():
    if "table_5" not in one:
      continue
    yield f"## Table 5, {name}: one lesion on many backgrounds, many lesions on one"
    found = {title: one["table_5"][key] for key, title in titles.items()}
    there = {title: row for title, row in found.items() if "missing" not in row}
    rows = [
      (METRICS[m][0], *(_varying(row.get(m), METRICS[m][2]) for row in there.values()))
      for m in TABLE_5
      if any(m in row for row in there.values())
    ]
    if rows:
      sizes = (f"{row['groups']}; {row['images']}" for row in there.values())
      yield table(("", *there), [("groups; images", *sizes), *rows])
      yield (
        "Mean of the groups' means ± SD within a group (root mean square), in brackets the SD "
        "between groups. An image with several lesions counts for each donor. FID: missing in "
        "both, a group has too few images for one; that of Table 2 is of all."
      )
    yield missing({title: row["missing"] for title, row in found.items() if "missing" in row})


def table_6(methods: Mapping[str, Any]) -> Iterator[str]:
  """SSIM with and without the pixels of lesions."""
  yield "## Table 6: SSIM without the lesions"
  found = {name: one["table_6"] for name, one in methods.items()}
  rows = [
    (name, *(cell(row[m], 4) for m in SIMILARITY), str(row["ssim"]["n"]))
    for name, row in found.items()
    if "missing" not in row
  ]
  if rows:
    yield table(("method", "all pixels", "outside the lesions", "inside", "N"), rows)
    yield (
      "Images with lesions only, SD as in Table 2. A window reaches 5 px beyond its pixel. Inside "
      "an inserted lesion the real image has none: a low number there is meant to be."
    )
  yield missing({name: row["missing"] for name, row in found.items() if "missing" in row})


def reader_study(study: Mapping[str, Any]) -> Iterator[str]:
  """The findings of `readers.study`."""
  yield "## Reader study: real or synthetic?"
  rows = []
  for name, found in study["readers"].items():
    one = found["reading"]
    shares = map(_share, (one.sensitivity, one.specificity, one.accuracy, one.fooled))
    auc = "no ratings" if found["auc"] is None else f"{found['auc']:.3f}"
    rows.append((name, *shares, _interval(*one.kappa), auc))
  titles = ("sensitivity", "specificity", "accuracy", "synthetic called real")
  yield table(("reader", *titles, "kappa against truth", "AUC"), rows)
  yield "Positive = real. Brackets: 95 % intervals, Wilson's of shares."
  for name, found in study["readers"].items():
    counts = found["reading"].counts
    yield (
      f"**{name}** (real: {counts.tp} called real, {counts.fn} synthetic; synthetic: {counts.fp} "
      f"called real, {counts.tn} synthetic)"
    )
    yield _findings(found["reading"].findings)
  for first, second, agreement in study["pairs"]:
    yield (
      f"**{first} and {second}**: the same answer on {_share(agreement.same)} of the images, kappa "
      f"between the readers {_interval(*agreement.kappa)}"
    )
    yield _findings(agreement.findings)
  if study["pairs_missing"]:
    yield f"- missing: kappa between readers: {study['pairs_missing']}"
  needed = ", ".join(f"{count:,} ({accuracy})" for accuracy, count in study["needed"].items())
  yield f"Answers needed of one reader for 80 % power at 5 %, by true accuracy: {needed}."


def _varying(row: Mapping[str, Any] | None, digits: int) -> str:
  if row is None or "value" not in row:
    return "missing"
  between = row["sd_between"]
  text = f"{row['value']:.{digits}f} ± {row['sd']:.{digits}f}"
  return text if between is None else f"{text} [{between:.{digits}f}]"


def _quartiles(row: Mapping[str, Any] | None, digits: int = 2) -> str:
  if row is None or "missing" in row:
    return "" if row is None else "missing"
  low, high = row["quartiles"]
  return f"{row['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _share(share: Share) -> str:
  if math.isnan(share.value):
    return "missing: none"
  return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _interval(value: float, low: float, high: float) -> str:
  if math.isnan(value):
    return "missing: one answer is all there is"
  return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _findings(findings: Sequence[Finding]) -> str:
  return "\n".join(
    f"- {one.name}: p = {'undefined' if math.isnan(one.p_value) else f'{one.p_value:.2g}'}. "
    f"{one.meaning}"
    for one in findings
  )
