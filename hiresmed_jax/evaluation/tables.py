"""The paper's tables from measured numbers. Methods are compared on the images that both have.

A number is {"value", "sd" (over samplings, None for one), "sd_images", "n", ..}, or {"missing"}.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from hiresmed_jax.evaluation.measure import Measured
from hiresmed_jax.evaluation.pictures import Entry
from hiresmed_jax.metrics import significance

# Metric -> (title, 1 where more is better and -1 where less is, decimals).
METRICS: dict[str, tuple[str, int, int]] = {
  "psnr": ("PSNR (dB)", 1, 2),
  "psnr_paper": ("PSNR as in the paper (dB)", 1, 2),
  "l1": ("L1 (0..1)", -1, 4),
  "ssim": ("SSIM", 1, 3),
  "ms_ssim": ("MS-SSIM", 1, 3),
  "lpips_alexnet": ("LPIPS alex", -1, 3),
  "lpips_vgg16": ("LPIPS vgg", -1, 3),
  "lpips_squeezenet": ("LPIPS squeeze", -1, 3),
}
TESTED = ("psnr", "l1", "ssim", "ms_ssim", "lpips_alexnet", "lpips_vgg16", "lpips_squeezenet")
TABLE_5 = ("psnr", "ssim", "lpips_alexnet", "lpips_vgg16", "lpips_squeezenet")
SIMILARITY = ("ssim", "ssim_outside", "ssim_inside")


def number(entries: Sequence[Entry], values: np.ndarray) -> dict[str, Any]:
  """Mean and SD over the samplings' means; SD over images, each averaged over its samplings."""
  by_sampling: dict[int, list[float]] = {}
  for entry, value in zip(entries, values):
    if not np.isnan(value):
      by_sampling.setdefault(entry.sampling, []).append(float(value))
  if not by_sampling:
    return {"missing": "no image has it"}
  means = [float(np.mean(group)) for _, group in sorted(by_sampling.items())]
  of_keys = list(per_key(entries, values)[0].values())
  return {
    "value": float(np.mean(means)),
    "sd": _sd(means),
    "sd_images": _sd(of_keys),
    "samplings": means,
    "n": len(of_keys),
  }


def per_key(
  entries: Sequence[Entry], values: np.ndarray
) -> tuple[dict[str, float], dict[str, str]]:
  """(mean over its samplings, group) by key, of the keys that have a number."""
  gathered: dict[str, list[float]] = {}
  groups = {}
  for entry, value in zip(entries, values):
    if not np.isnan(value):
      gathered.setdefault(entry.key, []).append(float(value))
      groups[entry.key] = entry.group
  return {key: float(np.mean(found)) for key, found in gathered.items()}, groups


def compare(
  methods: Mapping[str, tuple[Sequence[Entry], Measured]], *, seed: int
) -> list[dict[str, Any]]:
  """Each method against the first one before it that has images of the same keys, by metric.

  Returns:
    One row a test: metric, first, second, n, difference (first - second), better ("first",
    "second" or "neither"), p-values of the paired t-test and Wilcoxon's with those adjusted for
    all rows (bonferroni, holm: of the t-test), and a bootstrap interval over groups; or "missing".
  """
  rows: list[dict[str, Any]] = []
  names = list(methods)
  keys_of = {name: {entry.key for entry in methods[name][0]} for name in names}
  for number_of, second in enumerate(names[1:], 1):
    shared = (name for name in names[:number_of] if len(keys_of[name] & keys_of[second]) > 1)
    first = next(shared, names[0])
    (ours, mine), (theirs, other) = methods[first], methods[second]
    for metric in TESTED:
      if metric not in mine.numbers or metric not in other.numbers:
        continue
      a, groups = per_key(ours, mine.numbers[metric])
      b, _ = per_key(theirs, other.numbers[metric])
      keys = [key for key in a if key in b]
      found = _tested([a[k] for k in keys], [b[k] for k in keys], [groups[k] for k in keys],
                      METRICS[metric][1], seed)  # fmt: skip
      rows.append({"metric": metric, "first": first, "second": second, **found})
  tested = [row for row in rows if "t" in row]
  p_values = [row["t"] for row in tested]
  for name, adjust in (("bonferroni", significance.bonferroni), ("holm", significance.holm)):
    for row, value in zip(tested, adjust(p_values)):
      row[name] = float(value)
  return rows


def _tested(
  a: list[float], b: list[float], groups: list[str], sign: int, seed: int
) -> dict[str, Any]:
  if len(a) < 2:
    return {"n": len(a), "missing": f"{len(a)} images are in both: two or more are needed"}
  try:
    t, w = significance.paired_t(a, b), significance.wilcoxon(a, b)
    spread = significance.bootstrap(a, b, groups=groups, seed=seed)
  except ValueError as error:
    return {"n": len(a), "missing": str(error)}
  better = "neither" if t.difference == 0 else "first" if sign * t.difference > 0 else "second"
  return {
    "n": t.n,
    "groups": spread.groups,
    "difference": t.difference,
    "better": better,
    "t": t.p_value,
    "wilcoxon": w.p_value,
    "interval": [spread.low, spread.high],
    "note": t.note or w.note,
  }


def over_runs(numbers: Mapping[str, Mapping[str, dict[str, Any]]]) -> list[dict[str, Any]]:
  """The first method's runs against those of each other method, for claims about training.

  Args:
    numbers: `number` by method and metric; its samplings are runs of different seeds.

  Returns:
    One row a metric and pair: metric, first, second, runs (of each), difference of the means with
    Welch's 95 % interval and p-value; or "missing".
  """
  names, rows = list(numbers), []
  for second in names[1:]:
    for metric in TESTED:
      sides = [numbers[name].get(metric, {}).get("samplings") for name in (names[0], second)]
      if not all(sides):
        continue
      a, b = (np.asarray(side) for side in sides)
      row: dict[str, Any] = {"metric": metric, "first": names[0], "second": second}
      row |= {"runs": [len(a), len(b)], "difference": float(a.mean() - b.mean())}
      if min(len(a), len(b)) < 2:
        row["missing"] = "one run shows no spread: train two seeds or more of each"
      elif not (np.isfinite([*a, *b]).all() and max(np.ptp(a), np.ptp(b)) > 0):
        row["missing"] = "the runs have no finite spread"
      else:
        found = scipy.stats.ttest_ind(a, b, equal_var=False)
        spread = found.confidence_interval(0.95)
        row |= {"welch": float(found.pvalue), "interval": [float(spread.low), float(spread.high)]}
      rows.append(row)
  return rows


def table_5(entries: Sequence[Entry], measured: Measured) -> dict[str, Any]:
  """Spread of the numbers over lesions on one background, and over backgrounds of one lesion.

  Returns:
    {direction: {"groups", "images", metric: {"value", "sd": within a group, root mean square,
    "sd_between": of the groups' means}}}, directions "background" and "donor"; or "missing". An
    image with several donors counts for each.
  """
  members: dict[str, dict[str, list[int]]] = {"background": {}, "donor": {}}
  for index, entry in enumerate(entries):
    members["background"].setdefault(entry.key, []).append(index)
    for donor in entry.donors:
      members["donor"].setdefault(donor, []).append(index)
  found: dict[str, Any] = {}
  for direction, groups in members.items():
    several = [rows for rows in groups.values() if len(rows) > 1]
    if not several:
      what = "background has two images" if direction == "background" else "lesion was put in twice"
      found[direction] = {"missing": f"no {what}"}
      continue
    found[direction] = {"groups": len(several), "images": sum(map(len, several))}
    for metric in TABLE_5:
      if metric in measured.numbers:
        found[direction][metric] = _within(several, measured.numbers[metric])
  return found


def _within(groups: Sequence[Sequence[int]], values: np.ndarray) -> dict[str, Any]:
  kept = [found[np.isfinite(found)] for found in (values[list(rows)] for rows in groups)]
  kept = [found for found in kept if len(found) > 1]
  if not kept:
    return {"missing": "no group has two images with it"}
  means = [float(found.mean()) for found in kept]
  return {
    "value": float(np.mean(means)),
    "sd": float(np.sqrt(np.mean([found.var(ddof=1) for found in kept]))),
    "sd_between": _sd(means),
  }


def _sd(values: Sequence[float]) -> float | None:
  """None for one value, and where one is infinite (the PSNR of equal images)."""
  return float(np.std(values, ddof=1)) if len(values) > 1 and np.isfinite(values).all() else None


def table_6(entries: Sequence[Entry], measured: Measured) -> dict[str, Any]:
  """SSIM over all pixels, outside and inside the lesions, over the images that have lesions."""
  inside = measured.numbers.get("ssim_inside")
  if inside is None or not np.isfinite(inside).any():
    return {"missing": "no image has a lesion that is known, and a real image beside it"}
  with_lesions = np.isfinite(inside)
  return {
    metric: number(entries, np.where(with_lesions, measured.numbers[metric], np.nan))
    for metric in SIMILARITY
  }
