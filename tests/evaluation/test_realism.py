import numpy as np
import pytest
import scipy.stats

from hiresmed_jax.evaluation import patch_features, patch_network, realism
from hiresmed_jax.evaluation.realism import Patches

SIDE = 33


def discs(count: int, seed: int, *, blur: float = 0.8, peak: float = 200.0) -> Patches:
  """Blurred bright discs in noise; values above 255 are clipped."""
  rng = np.random.default_rng(seed)
  offsets = np.arange(SIDE) - SIDE // 2
  away = np.hypot(offsets[:, None], offsets[None])
  diameters = rng.uniform(6, 11, count).astype(np.float32)
  shape = scipy.stats.norm.cdf((diameters[:, None, None] / 2 - away) / blur)
  grey = 90 + peak * shape + rng.normal(0, 6, (count, SIDE, SIDE))
  return Patches(np.clip(np.round(grey), 0, 255).astype(np.uint8), diameters)


def test_folds_keep_groups_whole_and_are_of_one_size():
  groups = np.repeat(np.arange(9), [9, 1, 1, 5, 4, 3, 3, 2, 8])
  folds = realism.fold_of(groups)
  assert all(len(set(folds[groups == g])) == 1 for g in range(9))
  assert np.ptp(np.bincount(folds)) <= 1


def test_families_measure_what_they_are_named_after():
  plain = discs(40, 0)
  families = patch_features.features(*plain)
  assert all(np.isfinite(values).all() for values in families.values())

  def moved(other: Patches) -> dict[str, float]:
    """Largest effect size of a family's features."""
    found = {}
    for name, values in patch_features.features(*other).items():
      spread = np.concatenate([families[name], values]).std(0) + 1e-6
      found[name] = float(np.max(np.abs(families[name].mean(0) - values.mean(0)) / spread))
    return found

  same, blurred, dim = (moved(p) for p in (discs(40, 1), discs(40, 1, blur=1.6),
                                           discs(40, 1, peak=120)))  # fmt: skip
  assert max(same.values()) < 1
  assert min(blurred["edge"], blurred["gradient"], blurred["laplacian"]) > 1.5
  assert min(dim["plateau"], dim["profile"]) > 1.5
  quiet = np.where(np.arange(SIDE)[:, None] < 0, 0, plain.pixels // 12 * 12 + 6).astype(np.uint8)
  assert moved(plain._replace(pixels=quiet))["noise"] > 1.5


def test_a_seam_is_measured_around_the_lesion_alone():
  rng = np.random.default_rng(0)
  before = rng.integers(90, 110, (3, 49, 49)).astype(np.uint8)
  away = np.hypot(*np.mgrid[-24:25, -24:25])
  sizes = np.full(3, 10.0, np.float32)
  after = before.copy()
  after[0, away < 7] = 200  # within 2 px of the edge: no change where it is measured
  after[1, away >= 9] = 0  # beyond 4 px
  after[2, (away >= 7) & (away < 9)] = 150
  found = patch_features.seam(before, after, sizes)
  assert found["change"][0] == found["change"][1] == 0
  band = (away >= 7) & (away < 9)
  assert found["change"][2] == pytest.approx(np.abs(150.0 - before[2][band]).mean(), rel=1e-5)
  assert found["gradient"][2] > 5
  assert found["noise"][2] < patch_features.seam(before, before, sizes)["noise"][2]


def test_share_of_clipped_plateaus_counts_the_sixth_brightest_pixel():
  pixels = np.full((2, SIDE, SIDE), 100, np.uint8)
  middle = SIDE // 2
  pixels[:, middle, middle - 2 : middle + 3] = 255
  pixels[1, middle + 1, middle] = 250
  assert patch_features.share_clipped(pixels, np.array([8.0, 8.0])).tolist() == [False, True]


def test_the_forest_finds_a_difference_and_finds_none(monkeypatch):
  monkeypatch.setattr(patch_network, "_STEPS", 2)
  groups = np.arange(60) // 3
  folds = realism.fold_of(groups)
  first = discs(60, 0)
  none = realism.compare(first, discs(60, 1), groups, folds)["forest"]
  assert abs(none.auc - 0.5) < 0.15
  clear = realism.compare(first, discs(60, 1, blur=1.3), groups, folds)
  assert clear["forest"].interval[0] > 0.9
  assert set(clear) == {"forest", "network", "network, brightness varied"}
  assert realism.strictest(clear) == "forest"
  null = realism.null(first, groups, folds)["forest"]
  assert null.interval[0] < 0.5 < null.interval[1]


def test_reasons_name_the_family_that_tells():
  groups = np.arange(60) // 3
  first, second = discs(60, 0), discs(60, 1, peak=120)
  both = Patches(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))
  found = realism.reasons(both, np.repeat([0, 1], 60), np.tile(realism.fold_of(groups), 2))
  assert found["plateau"]["alone"] > 0.95
  assert sum(row["importance"] for row in found.values()) == pytest.approx(1, abs=0.01)


@pytest.mark.optimised  # without optimisation its few steps end elsewhere
@pytest.mark.slow  # two trainings of the network: it has to be compiled
def test_varied_brightness_teaches_the_network_to_overlook_it(monkeypatch):
  monkeypatch.setattr(patch_network, "_STEPS", 60)
  rng = np.random.default_rng(0)
  patches = rng.normal(0, 0.1, (80, SIDE, SIDE)).astype(np.float32)
  labels = np.arange(80) % 2
  patches[labels == 1] += 0.1
  heard = {}
  for jitter in (0.0, 1.0):
    scores = patch_network.train_and_score(
      patches[:60], labels[:60], patches[60:], seed=0, jitter=jitter
    )
    heard[jitter] = scipy.stats.mannwhitneyu(scores[1::2], scores[::2]).statistic / 100
  assert heard[0.0] > 0.95 > heard[1.0]
