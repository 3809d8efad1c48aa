"""What surrounds real lesions tells where they live; without anatomy it tells nothing."""

import functools

import numpy as np
import pytest
from scipy import ndimage, stats

from hiresmed_jax.data import phantom, transforms
from hiresmed_jax.placement import body, hosts, surroundings

COUNT, SIZE = 18, 192


@functools.cache
def pictures(kind: str = "kub"):
  """[(grey, content, where lesions may live)] of phantoms without lesions."""
  found = []
  for one in phantom.phantoms(kind, COUNT, SIZE, seed=3):
    values, value_range = transforms.values_of(vars(one.sample))
    content = body.content(values, value_range=value_range)
    found.append((surroundings.grey_of(values, value_range), content, one.host_mask > 0))
  return found


@functools.cache
def places():
  """(features, is_real, log sizes, groups, levels) of 36 places in each of the first phantoms."""
  rng = np.random.default_rng(0)
  levels = surroundings.levels_of(np.concatenate([grey[inside] for grey, inside, _ in pictures()]))
  found, is_real, groups = [], [], []
  for number, (grey, content, host) in enumerate(pictures()[: COUNT - 4]):
    of_image = surroundings.features(grey, content, levels)
    for where, real, count in ((host & content, True, 12), (content, False, 24)):
      rows, columns = np.nonzero(where)
      chosen = rng.integers(len(rows), size=count)
      points = np.stack([columns[chosen], rows[chosen]], axis=1) + 0.5
      found.append(surroundings.at(of_image, points, grey.shape))
      is_real += [real] * count
      groups += [f"patient {number}"] * count
  sizes = rng.normal(-3.0, 0.4, len(is_real))
  return np.concatenate(found), np.array(is_real), sizes, groups, levels


@functools.cache
def fitted() -> hosts.Hosts:
  return hosts.fit(*places())


def auc(live: hosts.Hosts) -> float:
  """Of pixels where lesions live against the rest of the body, in phantoms that were not used."""
  inside, outside = [], []
  for grey, content, host in pictures()[COUNT - 4 :]:
    odds = hosts.odds(live, grey, content).of_mean
    inside.append(odds[host & content])
    outside.append(odds[content & ~host])
  a, b = np.concatenate(inside), np.concatenate(outside)
  return float(stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)))


def test_kidneys_of_other_phantoms_are_found():
  live = fitted()
  assert auc(live) > 0.85
  grey, content, host = pictures()[-1]
  odds = hosts.odds(live, grey, content).of_mean
  assert np.exp(odds[host & content]).mean() > 2 * np.exp(odds[content]).mean()


def test_shuffled_places_tell_nothing():
  found, is_real, sizes, groups, levels = places()
  found, is_real, sizes, groups = found[::3], is_real[::3], sizes[::3], groups[::3]
  rng = np.random.default_rng(1)
  tries = [hosts.fit(found, rng.permutation(is_real), sizes, groups, levels) for _ in range(6)]
  assert np.mean([auc(live) for live in tries]) == pytest.approx(0.5, abs=0.1)
  # The penalty that foretells best lets nearly nothing through.
  largest = [np.abs(live.weights[:-1]).max() for live in tries]
  assert np.median(largest) < np.abs(fitted().weights[:-1]).max() / 2


def test_equal_places_give_equal_fits_and_files():
  one, two = fitted(), hosts.fit(*places())
  again = hosts.unpacked(hosts.packed(two))
  for name, first, second in zip(one._fields, one, again):
    np.testing.assert_array_equal(first, second, err_msg=name)


def test_large_lesions_have_places_of_their_own():
  # Small ones are anywhere where the first feature is high, large ones where the second is, too.
  rng = np.random.default_rng(0)
  found = rng.normal(size=(3000, 5)).astype(np.float32)
  sizes = rng.normal(size=3000)
  chance = 1 / (1 + np.exp(-(2 * found[:, 0] + 2 * sizes * found[:, 1] - 1)))
  groups = [str(i % 40) for i in range(3000)]
  live = hosts.fit(found, rng.random(3000) < chance, sizes, groups, np.zeros(2))
  assert live.weights[0] > 3 * np.abs(live.weights[1:5]).max()
  assert live.by_size[1] > 3 * np.abs(live.by_size[[0, 2, 3, 4]]).max()


def test_places_are_the_same_at_any_resolution():
  grey, content, _ = pictures()[0]
  twice = np.repeat(np.repeat(grey, 2, 0), 2, 1)
  inside = np.repeat(np.repeat(content, 2, 0), 2, 1)
  live = fitted()
  one, two = hosts.odds(live, grey, content), hosts.odds(live, twice, inside)
  both = np.stack([one.of_mean[content], two.of_mean[::2, ::2][content]])
  assert np.corrcoef(both)[0, 1] > 0.95
  assert hosts.size_of(live, 20.0, inside) == pytest.approx(
    hosts.size_of(live, 10.0, content), abs=0.05
  )


def test_a_mirrored_body_has_mirrored_directions():
  grey, content, _ = pictures()[0]
  levels = np.array([0.1, 0.3, 0.6], np.float32)
  one = surroundings.features(grey, content, levels)
  two = surroundings.features(grey[:, ::-1].copy(), content[:, ::-1].copy(), levels)[:, ::-1]
  middle = one.shape[1] // 2
  lateral = np.s_[10:-10, 10 : middle - 12, 3:]  # without u; away from where both halves meet
  gap = np.abs(one[lateral] - two[lateral])
  assert np.median(gap) < 1e-3
  assert np.quantile(gap, 0.9) < 0.08


def test_one_kind_of_places_is_refused():
  found, is_real, sizes, groups, levels = places()
  with pytest.raises(ValueError, match="places are real"):
    hosts.fit(found, np.ones_like(is_real), sizes, groups, levels)


def test_distances_are_exact_wherever_an_array_lies_in_memory():
  mask = np.random.default_rng(0).random((90, 101)) < 0.005
  exact = np.sqrt(np.rint(np.square(ndimage.distance_transform_edt(~mask)))).astype(np.float32)
  np.testing.assert_array_equal(surroundings._away_from(mask), np.minimum(exact, 60))
