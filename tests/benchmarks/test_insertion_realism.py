import json

import numpy as np
import pytest
import scipy.stats

from benchmarks import insertion_realism, patch_classifier, table
from hiresmed_jax.lesions.patch import LesionPatch
from hiresmed_jax.ops import insertion


def site(group: str, seed: int) -> insertion_realism.Site:
  """A bright disc of its own size in noise, in the middle of 160 x 160 pixels."""
  rng = np.random.default_rng(seed)
  image = rng.normal(100, 4, (160, 160, 1)).astype(np.float32)
  far = np.hypot(*(np.mgrid[:160, :160] + 0.5 - 80))
  alpha = np.clip(rng.uniform(3, 5) - far + 0.5, 0, 1).astype(np.float32)
  whole = image + 120 * alpha[..., None]
  window = (slice(64, 96), slice(64, 96))
  patch = LesionPatch(
    values=whole[window],
    surround=np.where(alpha[window][..., None] > 0, 100, image[window]).astype(np.float32),
    alpha=alpha[window],
    diameter_px=8.0,
    spacing_mm=(np.nan, np.nan),
    physics="ct",
    donor=group,
    donor_group=group,
    kind="copy",
    value_range=(0.0, 255.0),
  )
  return insertion_realism.Site(whole, alpha >= 0.5, 80, 80, patch, (0.0, 255.0))


def test_area_under_the_curve_equals_scipy():
  rng = np.random.default_rng(0)
  scores, labels = rng.integers(0, 6, 50), rng.integers(0, 2, 50)
  u = scipy.stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
  expected = u / (labels.sum() * (1 - labels).sum())
  assert patch_classifier.auc(scores, labels) == pytest.approx(expected)


def test_folds_keep_groups_whole_and_are_of_one_size():
  groups = np.repeat(np.arange(9), [9, 1, 1, 5, 4, 3, 3, 2, 2])
  folds = insertion_realism.fold_of(groups)
  assert all(len(set(folds[groups == g])) == 1 for g in range(9))
  assert np.ptp(np.bincount(folds)) <= 1


@pytest.mark.slow
def test_patches_of_every_kind(monkeypatch):
  monkeypatch.setattr(insertion, "MODES", ("paper", "ct"))
  groups = np.repeat(np.arange(6), 1)
  sites = [site(f"group {g}", g) for g in groups]
  sets = insertion_realism.make(sites, groups, np.array([0, 0, 0, 1, 1, 1]))
  assert set(sets) == {
    *insertion.MODES,
    *("real", "removed", "rectangle", "untouched", "sham"),
  }
  middle = (slice(None), slice(15, 18), slice(15, 18))
  grey = {name: 127.5 * (patches + 1) for name, patches in sets.items()}
  for name in ("removed", "untouched", "sham"):
    assert grey[name][middle].max() < 130, name
  for name in ("real", *insertion.MODES):
    assert grey[name][middle].min() > 190, name
  # Another patient's lesion, not the site's own.
  assert np.abs(grey["ct"] - grey["real"]).max(axis=(1, 2)).min() > 20
  pairs = insertion_realism.compared(sets, groups)
  assert set(pairs) == {
    *insertion.MODES,
    *("real against real", "sham against untouched", "rectangle"),
  }
  assert insertion_realism.sheet(sites, sets).dtype == np.uint8


@pytest.mark.slow
def test_the_judge_finds_a_difference_and_finds_none(monkeypatch):
  monkeypatch.setattr(patch_classifier, "_STEPS", 40)
  rng = np.random.default_rng(0)
  patches = rng.normal(size=(90, 33, 33)).astype(np.float32)
  labels, groups = np.arange(90) % 2, np.arange(90) // 6
  folds = groups % 3
  none = patch_classifier.cross_validate(patches, labels, groups, folds, seeds=[0], resamples=50)
  assert 0.25 < none.auc < 0.75
  patches[labels == 1, 12:21, 12:21] *= 0.2
  clear = patch_classifier.cross_validate(patches, labels, groups, folds, seeds=[0], resamples=50)
  assert clear.interval[0] > 0.8
  assert json.dumps(clear._asdict())


def test_its_row_in_the_table():
  auc = {"auc": 0.6, "by_seed": [0.6], "interval": [0.5, 0.7]}
  names = ["real against real", "sham against untouched", "ct", "paper"]
  result = {"data": "d", "lesions": 9, "groups": 3, "seeds": 3, "default_mode": "ct"}
  rows = list(table.SUMMARIES["insertion_realism"](result | {"auc": dict.fromkeys(names, auc)}))
  assert [row.figure for row in rows] == ["0.60 (95 % interval 0.50 to 0.70)"] * 4
  assert "ct (default)" in rows[2].what
  row = {"diameter_mm": 9.0, "sites": 4}
  row |= {w: {"median": 0.031, "90_percent": 0.1} for w in ("known", "intensity", "estimated")}
  (row,) = table.SUMMARIES["physics_oracle"]({"rows": [row]})
  assert "3.1 %" in row.figure
