"""Phantoms: exact masks, one patient at every size, human numbers, lesions that stay in place."""

import functools
import statistics
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hiresmed_jax.data import phantom
from hiresmed_jax.data.identity import split_of
from hiresmed_jax.errors import UserError

DRAW = {"kub": phantom.kub, "chest_ct": phantom.chest_ct}
KINDS = sorted(DRAW)


@functools.cache  # drawn once, and never changed
def draw(kind, seed, size=160, **options):
  return DRAW[kind](np.random.default_rng(seed), size, **options)


def shown(sample):
  """The image in its display window, 0 .. 1."""
  low, high = sample.value_range
  value = sample.image[..., 0] * sample.rescale_slope + sample.rescale_intercept
  return np.clip((value - low) / (high - low), 0, 1)


def check(made, size):
  """What holds for every phantom."""
  sample = made.sample
  height, width = size
  assert sample.image.shape == (height, width, 1)
  assert sample.image.dtype == np.uint16
  assert sample.image.max() <= 4095
  assert sample.lesion_mask.shape == sample.forbidden_mask.shape == made.host_mask.shape == size
  assert set(np.unique(made.host_mask)) <= {0, 1}
  assert set(np.unique(sample.forbidden_mask)) <= {0, 1}
  assert sample.group.startswith("phantom-")
  assert len(sample.group) == len("phantom-000123")
  assert sample.spacing_mm[0] == sample.spacing_mm[1] > 0
  ids = np.unique(sample.lesion_mask)
  assert ids.tolist() == list(range(len(sample.boxes) + 1))
  for index, box in enumerate(sample.boxes):
    inside = sample.lesion_mask == index + 1
    rows, columns = np.nonzero(inside)
    tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert tuple(box) == tight
    assert ndimage.label(inside, np.ones((3, 3)))[1] == 1
    assert made.host_mask[inside].all()
    assert not sample.forbidden_mask[inside].any()
    around = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert set(np.unique(sample.lesion_mask[around])) <= {0, index + 1}, "lesions touch"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(131, 97), (75, 210), (32, 32)])
def test_any_size_has_exact_masks_and_tight_boxes(kind, size):
  check(draw(kind, 5, size), size)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(32, 150), st.integers(32, 150))
def test_every_seed_and_size_keeps_the_contract(kind, seed, height, width):
  check(draw(kind, seed, (height, width)), (height, width))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_generator_state_gives_the_same_phantom(kind):
  first, again = draw(kind, 11), draw.__wrapped__(kind, 11)
  for name in ("image", "boxes", "lesion_mask", "forbidden_mask"):
    np.testing.assert_array_equal(getattr(first.sample, name), getattr(again.sample, name))
  assert first.sample.group == again.sample.group
  np.testing.assert_array_equal(first.host_mask, again.host_mask)
  rng = np.random.default_rng(11)
  one, two = DRAW[kind](rng, 96), DRAW[kind](rng, 96)
  assert not np.array_equal(one.sample.image, two.sample.image)
  assert one.sample.group != two.sample.group


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_lesion_changes_its_own_place_only(kind, seed):
  with_, without = draw(kind, seed, 256, num_lesions=2), draw(kind, seed, 256, num_lesions=0)
  assert len(with_.sample.boxes) == 2
  assert len(without.sample.boxes) == 0
  np.testing.assert_array_equal(with_.sample.forbidden_mask, without.sample.forbidden_mask)
  added = with_.sample.image[..., 0].astype(int) - without.sample.image[..., 0]
  radius = with_.halo_px
  ball = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
  reached = cv2.dilate((with_.sample.lesion_mask > 0).astype(np.uint8), ball) > 0
  assert not added[~reached].any()
  for index in (1, 2):
    inside = with_.sample.lesion_mask == index
    assert (added[inside] > 0).mean() > 0.8  # a thin vessel may cross, brighter than the nodule
    near = cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    center = np.array(ndimage.center_of_mass(np.where(near, added, 0)))
    assert np.hypot(*(center - ndimage.center_of_mass(inside))) < 0.8
    # The half-maximum of a ball's projection has 3/4 of its area; tissue in a nodule is flat.
    bright = (added > np.median(added[inside]) / 2) & near
    assert 0.55 < bright.sum() / inside.sum() < 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_patient_is_the_same_at_every_size(kind):
  small, large = draw(kind, 3, 128, num_lesions=0), draw(kind, 3, 384, num_lesions=0)
  assert small.sample.spacing_mm[0] == pytest.approx(3 * large.sample.spacing_mm[0])
  shrunk = cv2.resize(shown(large.sample), (128, 128), interpolation=cv2.INTER_AREA)
  assert np.corrcoef(shrunk.ravel(), shown(small.sample).ravel())[0, 1] > 0.98


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_patients_look_alike(kind):
  pictures = [shown(draw(kind, seed, 96, num_lesions=0).sample).ravel() for seed in range(6)]
  likeness = np.corrcoef(pictures)[np.triu_indices(6, 1)]
  assert likeness.max() < 0.97


@pytest.mark.parametrize("seed", range(4))
def test_a_radiograph_shows_a_body_of_human_size_with_bright_bone(seed):
  made = draw("kub", seed, 256, num_lesions=0)
  sample, picture = made.sample, shown(made.sample)
  assert (sample.physics, sample.modality, sample.photometric) == (
    "projection",
    "DX",
    "MONOCHROME2",
  )
  spacing = sample.spacing_mm[0]
  assert 360 < 256 * spacing < 450
  body = picture[128] > 0.03
  assert 230 < body.sum() * spacing < 450
  bone = (sample.forbidden_mask > 0) & (picture > 0.2)
  flesh = sample.forbidden_mask == 0
  assert picture[bone].mean() > picture[flesh].mean() + 0.1
  spine = sample.forbidden_mask[96:160, 112:144]
  assert spine.mean() > 0.5
  host = made.host_mask.sum() * spacing**2 / 100
  assert 30 < host < 160, "kidneys' hollows, ureters and bladder, cm2"


@pytest.mark.parametrize("seed", range(4))
def test_a_slice_is_in_hounsfield_units(seed):
  made = draw("chest_ct", seed, 256, num_lesions=0)
  sample = made.sample
  assert (sample.physics, sample.modality, sample.value_range) == ("ct", "CT", (-1000.0, 400.0))
  hu = sample.image[..., 0] * sample.rescale_slope + sample.rescale_intercept
  spacing = sample.spacing_mm[0]
  lung = made.host_mask > 0
  assert -920 < np.median(hu[lung]) < -780
  assert 60 < lung.sum() * spacing**2 / 100 < 400, "lungs, cm2"
  assert sample.forbidden_mask[~lung].all()
  body = ndimage.binary_fill_holes(ndimage.binary_opening(hu > -300, iterations=2))
  wide = np.nonzero(body.any(0))[0]
  assert 260 < (wide[-1] - wide[0]) * spacing < 480
  wall = body & ~cv2.dilate(made.host_mask, np.ones((5, 5), np.uint8)).astype(bool)
  assert -130 < np.median(hu[wall]) < 90
  assert (hu > 500).any()
  corner = hu[2:10, 2:10]
  assert corner.mean() < -950


@pytest.mark.parametrize("kind", KINDS)
def test_diameters_stay_in_the_range_asked_for(kind):
  low, high = 7.0, 9.0
  found = []
  for seed in range(4):
    sample = draw(kind, seed, 400, num_lesions=3, diameter_mm=(low, high)).sample
    area = np.bincount(sample.lesion_mask.ravel())[1:]
    found += list(2 * np.sqrt(area / np.pi) * sample.spacing_mm[0])
  assert len(found) == 12
  assert low * 0.95 < min(found)
  assert max(found) < high * 1.05


def test_a_series_has_lesions_of_the_diameters_asked_for():
  def largest_mm(**range_mm):
    masks = [(p.sample.lesion_mask, p.sample.spacing_mm[0]) for p in
             phantom.phantoms("kub", 5, 256, seed=1, num_lesions=1, **range_mm)]  # fmt: skip
    return [2 * np.sqrt((mask > 0).sum() / np.pi) * spacing for mask, spacing in masks]

  large = largest_mm(diameter_mm=(12.0, 14.0))
  assert min(large) > 11
  assert max(large) < 15
  assert largest_mm() == largest_mm(diameter_mm=phantom.STONES_MM)
  assert np.median(largest_mm()) < 10


def test_a_lesion_is_never_too_small_to_see():
  for seed in range(6):
    sample = draw("kub", seed, 64, num_lesions=1).sample
    assert np.count_nonzero(sample.lesion_mask) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_lesions_are_an_error(kind):
  with pytest.raises(UserError, match="no room for 500 lesions in an image of 96 x 64"):
    draw(kind, 0, (64, 96), num_lesions=500)


def test_a_size_without_anatomy_is_an_error():
  with pytest.raises(ValueError, match="32 or more"):
    draw("kub", 0, (31, 100))


def test_a_series_of_phantoms_has_a_group_each_and_does_not_depend_on_its_length():
  long = list(phantom.phantoms("chest_ct", 3, 48, seed=4))
  assert [p.sample.group for p in long] == [f"phantom-{i:06d}" for i in range(3)]
  (short,) = phantom.phantoms("chest_ct", 1, 48, seed=4)
  np.testing.assert_array_equal(short.sample.image, long[0].sample.image)
  (other,) = phantom.phantoms("chest_ct", 1, 48, seed=5)
  assert not np.array_equal(other.sample.image, short.sample.image)
  assert {split_of(f"phantom-{i:06d}") for i in range(40)} == {"train", "val", "test"}
  with pytest.raises(ValueError, match="unknown phantom 'mri'"):
    next(phantom.phantoms("mri", 1, 48))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_megapixel_takes_a_fraction_of_a_second(kind):
  draw.__wrapped__(kind, 0, 1024)
  seconds = []
  for seed in range(7):
    start = time.process_time()
    draw.__wrapped__(kind, seed, 1024)
    seconds.append(time.process_time() - start)
  assert statistics.median(seconds) < 0.6  # 0.3 s on an idle core; shared ones take longer
