"""Overlaps beside sets of pixels, distances beside scikit-image and a search of all pairs."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from hiresmed_jax.metrics import segmentation

SHAPE = (24, 31)


def blobs(seed, shape=SHAPE):
  """A few discs, some of which meet the frame."""
  rng = np.random.default_rng(seed)
  rows, columns = np.mgrid[: shape[0], : shape[1]]
  mask = np.zeros(shape, bool)
  for _ in range(3):
    y, x, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 7)
    mask |= (rows - y) ** 2 + (columns - x) ** 2 < radius**2
  return mask


def edge(mask):
  """Pixels with a neighbour that is there and not of the mask."""
  out = np.zeros_like(mask)
  for y, x in np.argwhere(mask):
    for row, column in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
      inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
      out[y, x] |= inside and not mask[row, column]
  return out


@pytest.mark.parametrize("seed", range(4))
def test_dice_and_iou_are_those_of_sets(seed):
  found, real, valid = blobs(seed), blobs(seed + 10), blobs(seed + 20) | blobs(seed + 30)
  a = {tuple(p) for p in np.argwhere(found & valid)}
  b = {tuple(p) for p in np.argwhere(real & valid)}
  counts = segmentation.overlap(found, real, valid)
  assert a | b
  np.testing.assert_allclose(segmentation.dice(counts), 2 * len(a & b) / (len(a) + len(b)))
  np.testing.assert_allclose(segmentation.iou(counts), len(a & b) / len(a | b))


def test_empty_masks_are_defined():
  none, some, everywhere = np.zeros(SHAPE, bool), blobs(0), np.ones(SHAPE, bool)
  for found, real, share, distance in (
    (none, none, 1.0, 0.0),
    (none, some, 0.0, np.inf),
    (some, none, 0.0, np.inf),
  ):
    counts = segmentation.overlap(found, real, everywhere)
    assert float(segmentation.dice(counts)) == float(segmentation.iou(counts)) == share
    assert segmentation.hausdorff(found, real) == distance
  assert segmentation.hausdorff(everywhere, none) == np.inf
  assert segmentation.hausdorff(everywhere, everywhere) == 0.0


def test_totals_add_up_and_leave_out_what_does_not_count():
  found, real = (np.stack([blobs(seed + k) for seed in range(5)]) for k in (0, 10))
  valid = np.ones(found.shape, bool)
  valid[3] = False  # nothing is known of this one
  weight = np.array([1, 1, 1, 1, 0], np.float32)
  parts = [
    segmentation.count(found[s], real[s], valid[s], weight[s]) for s in (np.s_[:2], np.s_[2:])
  ]
  totals = {key: parts[0][key] + parts[1][key] for key in parts[0]}
  assert float(totals["images"]) == 3
  told = segmentation.summarise(totals)
  shares = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(found[:3], real[:3])]
  np.testing.assert_allclose(told["dice"], np.mean(shares), rtol=1e-6)
  whole = 2 * (found & real)[:3].sum() / (found[:3].sum() + real[:3].sum())
  np.testing.assert_allclose(told["dice_of_all"], whole, rtol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_the_hausdorff_distance_is_scikit_images(seed):
  skimage = pytest.importorskip("skimage.metrics")
  found, real = blobs(seed), blobs(seed + 10)
  expected = skimage.hausdorff_distance(edge(found), edge(real))
  np.testing.assert_allclose(segmentation.hausdorff(found, real), expected)


@pytest.mark.parametrize("percentile", [50, 95, 100])
def test_percentiles_in_millimetres_are_those_of_all_pairs(percentile):
  for seed in range(4):
    found, real, valid = blobs(seed), blobs(seed + 10), np.ones(SHAPE, bool)
    valid[:, :6] = False
    spacing = np.array([0.7, 1.9])
    points = [np.argwhere(edge(mask) & valid) * spacing for mask in (found, real)]
    pairs = cdist(*points)
    ways = [np.percentile(pairs.min(axis), percentile) for axis in (0, 1)]
    ours = segmentation.hausdorff(
      found, real, valid=valid, spacing=(0.7, 1.9), percentile=percentile
    )
    np.testing.assert_allclose(ours, max(ways))


def test_masks_of_two_sizes_are_refused():
  with pytest.raises(ValueError, match="masks of"):
    segmentation.hausdorff(np.zeros((3, 4)), np.zeros((4, 3)))
