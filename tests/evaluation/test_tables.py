"""Tables from numbers that can be computed by hand, and by scipy."""

import numpy as np
import pytest
import scipy.stats

from hiresmed_jax.evaluation import distances, tables
from hiresmed_jax.evaluation.measure import Measured
from hiresmed_jax.evaluation.pictures import Entry
from hiresmed_jax.nets.features import FeatureNet
from tests.evaluation import scene


def entry(key, sampling=0, donors=(), group=None):
  return Entry(key, group or f"g-{key}", sampling, donors, lambda: None)


def measured(**numbers):
  return Measured({k: np.asarray(v, float) for k, v in numbers.items()}, None, {}, {}, {}, 1)


def test_means_and_spreads_over_samplings():
  entries = [entry("a"), entry("a", 1), entry("b"), entry("b", 1), entry("c")]
  found = tables.number(entries, np.array([1.0, 3.0, 2.0, 8.0, np.nan]))
  assert found["samplings"] == [1.5, 5.5]
  assert (found["value"], found["n"]) == (3.5, 2)
  assert found["sd"] == pytest.approx(np.std([1.5, 5.5], ddof=1))
  assert found["sd_images"] == pytest.approx(np.std([2.0, 5.0], ddof=1))
  assert tables.number(entries[:1], np.array([4.0]))["sd"] is None
  assert "missing" in tables.number(entries, np.full(5, np.nan))


def test_methods_are_tested_on_the_images_that_they_share():
  rng = np.random.default_rng(0)
  keys = [f"k{i}" for i in range(12)]
  ours = rng.normal(30, 1, (12, 2))  # two samplings
  theirs = ours.mean(axis=1) - 0.5 + 0.3 * rng.standard_normal(12)
  mine = [entry(k, s, group=k[:2]) for k in keys for s in (0, 1)]
  other = [entry(k, group=k[:2]) for k in [*keys[:10], "z"]]
  methods = {
    "ours": (mine, measured(psnr=ours.ravel(), l1=np.ones(24))),
    "theirs": (other, measured(psnr=[*theirs[:10], 99.0], l1=np.ones(11))),
    "strange": ([entry("elsewhere")], measured(psnr=[1.0])),
  }
  rows = {(r["metric"], r["second"]): r for r in tables.compare(methods, seed=0)}
  row = rows["psnr", "theirs"]
  a, b = ours.mean(axis=1)[:10], theirs[:10]
  assert (row["n"], row["better"], row["first"]) == (10, "first", "ours")
  assert row["difference"] == pytest.approx((a - b).mean())
  assert row["t"] == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
  assert row["wilcoxon"] == pytest.approx(scipy.stats.wilcoxon(a, b).pvalue)
  assert row["bonferroni"] == pytest.approx(row["t"])  # the other test is undefined
  assert row["interval"][0] < row["difference"] < row["interval"][1]
  assert row["groups"] == 10
  assert rows["l1", "theirs"]["note"] == "no pair differs"
  assert rows["l1", "theirs"]["better"] == "neither"
  assert rows["psnr", "strange"]["missing"].startswith("0 images are in both")


def test_a_lower_error_is_better():
  entries = [entry(k) for k in "abc"]
  methods = {
    "ours": (entries, measured(l1=[0.1, 0.2, 0.3])),
    "theirs": (entries, measured(l1=[0.3, 0.3, 0.5])),
  }
  (row,) = tables.compare(methods, seed=0)
  assert (row["better"], row["difference"]) == ("first", pytest.approx(-0.5 / 3))


def test_identical_images_have_no_finite_psnr_and_no_test():
  entries = [entry(k) for k in "abc"]
  methods = {name: (entries, measured(psnr=[np.inf, 30, 31])) for name in ("ours", "theirs")}
  (row,) = tables.compare(methods, seed=0)
  assert "infinite" in row["missing"]
  found = tables.number(entries, np.array([np.inf, 30, 31]))
  assert (found["value"], found["sd_images"]) == (np.inf, None)


def test_methods_are_compared_run_by_run():
  a, b = [26.0, 26.5, 25.1], [24.0, 25.0, 24.8]
  numbers = {
    "hdfb": {"psnr": {"samplings": a}, "l1": {"samplings": [0.1]}},
    "plain": {"psnr": {"samplings": b}, "l1": {"samplings": [0.2, 0.3]}},
  }
  psnr, l1 = tables.over_runs(numbers)
  expected = scipy.stats.ttest_ind(a, b, equal_var=False)
  assert psnr["welch"] == pytest.approx(expected.pvalue)
  assert psnr["difference"] == pytest.approx(np.mean(a) - np.mean(b))
  assert psnr["interval"][0] < psnr["difference"] < psnr["interval"][1]
  assert "one run shows no spread" in l1["missing"]


def test_table_5_in_both_directions():
  entries = [entry("a", 0, ("d1",)), entry("a", 1, ("d2",)), entry("b", 0, ("d1",)),
             entry("b", 1, ("d2", "d3")), entry("c", 0, ("d4",))]  # fmt: skip
  values = np.array([1.0, 2.0, 5.0, 8.0, 100.0])
  found = tables.table_5(entries, measured(psnr=values))
  by_background, by_donor = found["background"], found["donor"]
  assert (by_background["groups"], by_background["images"]) == (2, 4)
  assert by_background["psnr"]["value"] == pytest.approx((1.5 + 6.5) / 2)
  assert by_background["psnr"]["sd"] == pytest.approx(np.sqrt((0.5 + 4.5) / 2))
  assert by_background["psnr"]["sd_between"] == pytest.approx(np.std([1.5, 6.5], ddof=1))
  assert by_donor["psnr"]["value"] == pytest.approx((3.0 + 5.0) / 2)
  assert by_donor["psnr"]["sd"] == pytest.approx(np.sqrt((8.0 + 18.0) / 2))
  single = tables.table_5(entries[-1:], measured(psnr=values[-1:]))
  assert "missing" in single["background"]
  assert "missing" in single["donor"]


def test_table_6_counts_images_with_lesions_only():
  entries = [entry(k) for k in "abc"]
  found = tables.table_6(
    entries,
    measured(ssim=[0.5, 0.6, 0.9], ssim_outside=[0.6, 0.7, 0.9], ssim_inside=[0.1, 0.2, np.nan]),
  )
  assert found["ssim"]["value"] == pytest.approx(0.55)
  assert found["ssim_outside"]["value"] == pytest.approx(0.65)
  assert "missing" in tables.table_6(entries, measured(ssim=[1, 1, 1]))


NET = FeatureNet("inception-2015-12-05", 768, "bilinear", scene.patches, {})


def side(rng, count, shift=0.0, samplings=1, keys=None):
  features = rng.standard_normal((count * samplings, 4)) + shift
  names = keys or [f"{shift}-{i}" for i in range(count)]
  return distances.side(
    features,
    [n[:6] for n in names] * samplings,
    np.repeat(np.arange(samplings), count),
    names * samplings,
  )


def test_distances_say_what_they_are():
  rng = np.random.default_rng(0)
  real = side(rng, 40)
  found = distances.distances(real, side(rng, 30, 1.0, samplings=3), NET, seed=0, resamples=50)
  assert found["FID"]["name"] == "FID@768"
  assert found["KID"]["name"] == "KID@768"
  assert "N 40 against 30" in found["FID"]["protocol"]
  assert len(found["FID"]["samplings"]) == 3
  assert found["FID"]["sd"] == pytest.approx(np.std(found["FID"]["samplings"], ddof=1))
  low, high = found["FID"]["interval"]
  assert low < found["FID"]["value"] < high
  assert "of the mean over samplings" in found["FID"]["interval_protocol"]
  floor = distances.floors(real, NET, seed=0)
  assert floor["FID"]["value"] < found["FID"]["value"]
  assert set(found) == {"KID", "FID", "precision", "recall", "density", "coverage"}


def test_the_same_images_are_drawn_on_both_sides():
  rng = np.random.default_rng(0)
  keys = [f"k{i:05d}" for i in range(20)]
  real = side(rng, 20, keys=keys)
  order = rng.permutation(20)
  other = distances.Side(*(column[order] for column in real))
  found = distances.distances(real, other, NET, seed=0, resamples=20)
  assert "the same patients" in found["FID"]["interval_protocol"]
  assert found["FID"]["value"] == pytest.approx(0.0, abs=1e-9)


def test_the_interval_is_that_of_the_mean_over_samplings():
  rng = np.random.default_rng(0)
  keys = [f"k{i:05d}" for i in range(20)]
  real = side(rng, 20, keys=keys)
  near, far = (real._replace(features=real.features + shift) for shift in (0.1, 3.0))
  both = distances.Side(*(np.concatenate(columns) for columns in zip(near, far)))
  both = both._replace(samplings=np.repeat([0, 1], 20))
  found = distances.distances(real, both, NET, seed=0, resamples=40)["FID"]
  assert found["samplings"] == pytest.approx([0.04, 36.0])  # a shift alone: squared, 4 features
  assert found["interval"] == pytest.approx([18.02, 18.02])  # it is the same whoever is drawn
  fewer = distances.Side(*(column[:-1] for column in both))
  found = distances.distances(real, fewer, NET, seed=0, resamples=40)["FID"]
  assert found["interval"] == pytest.approx([0.04, 0.04])
  assert "first sampling alone" in found["interval_protocol"]


def test_one_image_has_no_distance_but_a_reason():
  rng = np.random.default_rng(0)
  found = distances.distances(side(rng, 10), side(rng, 1, 1.0), NET, seed=0)
  for name in ("KID", "FID", "precision", "coverage"):
    assert "value" not in found[name]
    assert found[name]["missing"]
  assert "missing" in distances.floors(side(rng, 1), NET, seed=0)["FID"]
