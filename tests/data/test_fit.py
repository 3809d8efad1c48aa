import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiresmed_jax.data.transforms import FITS, keep_inside, place, with_channels

SIDES = st.integers(8, 60)


def test_shrinking_takes_the_mean_of_the_area() -> None:
  image = np.random.default_rng(0).normal(size=(12, 20, 1)).astype(np.float32)
  small = place((12, 20), (4, 5), "stretch").resize(image)
  expected = image.reshape(4, 3, 5, 4).mean((1, 3))
  np.testing.assert_allclose(small[..., 0], expected, atol=1e-5)


def test_shrinking_by_a_broken_factor_keeps_the_sum() -> None:
  image = np.random.default_rng(0).normal(size=(20, 30, 3)).astype(np.float32)
  small = place((20, 30), (13, 17), "stretch").resize(image)
  np.testing.assert_allclose(small.mean((0, 1)), image.mean((0, 1)), atol=1e-5)


def test_enlarging_keeps_a_smooth_image_and_its_place() -> None:
  x = (np.arange(40) + 0.5) / 40
  image = np.broadcast_to(np.cos(3 * x)[None, :, None], (30, 40, 1)).astype(np.float32)
  large = place((30, 40), (60, 100), "stretch").resize(image)
  expected = np.cos(3 * (np.arange(100) + 0.5) / 100)
  np.testing.assert_allclose(large[20, 5:-5, 0], expected[5:-5], atol=1e-3)


def test_one_axis_can_shrink_while_the_other_grows() -> None:
  image = np.random.default_rng(0).normal(size=(40, 10, 1)).astype(np.float32)
  changed = place((40, 10), (10, 30), "stretch").resize(image)
  np.testing.assert_allclose(changed[:, 1::3, 0], image.reshape(10, 4, 10).mean(1), atol=0.05)


@settings(deadline=None, max_examples=60)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(FITS))
def test_what_the_image_fills_is_what_is_not_padding(shape, outer, fit):
  placement = place(shape, outer, fit)
  pasted = placement.paste(np.ones((*placement.inner, 1), bool), fill=False)[..., 0]
  expected = np.zeros(outer, bool)
  expected[placement.filled] = True
  np.testing.assert_array_equal(pasted, expected)


def test_grey_is_repeated_and_colours_are_averaged() -> None:
  colours = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
  grey = with_channels(colours, 1)
  np.testing.assert_array_equal(grey, colours.mean(-1, keepdims=True))
  np.testing.assert_array_equal(with_channels(grey, 3), np.broadcast_to(grey, (4, 5, 3)))
  assert with_channels(colours, 3) is colours


@settings(deadline=None, max_examples=60)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(FITS))
def test_boxes_move_with_the_pixels(shape: tuple[int, int], outer: tuple[int, int], fit: str):
  """The pixels decide: a bright rectangle is found again where its box says."""
  placement = place(shape, outer, fit)
  y1, x1 = shape[0] // 4, shape[1] // 3
  y2, x2 = y1 + max(3, shape[0] // 3), x1 + max(3, shape[1] // 3)
  labels = np.zeros(shape, np.uint16)
  labels[y1:y2, x1:x2] = 7
  out = placement.paste(placement.resize_labels(labels)[..., None], fill=0)[..., 0]
  assert out.shape == outer
  box = placement.boxes(np.array([[x1, y1, x2, y2]], np.float32))[0]
  limits = np.array([outer[1], outer[0]] * 2)
  box = np.clip(box, 0, limits)
  inside = (np.indices(outer) + 0.5)[::-1]  # centres of the pixels, x and y
  expected = (
    (box[0] < inside[0]) & (inside[0] < box[2]) & (box[1] < inside[1]) & (inside[1] < box[3])
  )
  edge = np.minimum(
    np.minimum(abs(inside[0] - box[0]), abs(inside[0] - box[2])),
    np.minimum(abs(inside[1] - box[1]), abs(inside[1] - box[3])),
  )
  np.testing.assert_array_equal((out == 7)[edge > 0.51], expected[edge > 0.51])


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES))
def test_sizes_of_the_fits(shape: tuple[int, int], outer: tuple[int, int]) -> None:
  assert place(shape, outer, "stretch").inner == outer
  pad, crop = place(shape, outer, "pad"), place(shape, outer, "crop")
  assert all(i <= min(o, s) for i, o, s in zip(pad.inner, outer, shape))
  assert any(i == min(o, s) for i, o, s in zip(pad.inner, outer, shape))
  assert all(i >= o for i, o in zip(crop.inner, outer))
  assert any(i == o for i, o in zip(crop.inner, outer))
  ratios = [o / s for o, s in zip(outer, shape)]
  for placement, ratio in ((pad, min(*ratios, 1.0)), (crop, max(ratios))):
    # The aspect is kept to half a pixel; nothing gets thinner than a pixel.
    sides = zip(placement.inner, shape)
    assert all(abs(i - s * ratio) <= 0.5001 or (i == 1 and s * ratio < 1) for i, s in sides)


def test_pad_is_centred_and_marks_nothing_else() -> None:
  placement = place((4, 6), (10, 8), "pad")
  out = placement.paste(np.ones((4, 6, 1), np.float32), fill=-1.0)[..., 0]
  assert (out[3:7, 1:7] == 1).all()
  assert (out == 1).sum() == 24
  assert (out == -1).sum() == 56


def test_crop_cuts_the_overhang_evenly() -> None:
  placement = place((4, 10), (4, 4), "crop")
  image = np.arange(10, dtype=np.float32)[None, :, None].repeat(4, 0)
  np.testing.assert_array_equal(placement.paste(image, fill=0)[0, :, 0], [3, 4, 5, 6])


def test_boxes_that_are_cut_away_take_their_ids_with_them() -> None:
  boxes = np.array([[-9, 0, -1, 4], [2, 2, 6, 6], [9.7, 3, 20, 9], [8, 8, 12, 12]], np.float32)
  mask = np.zeros((10, 10), np.uint16)
  mask[2:6, 2:6], mask[3:9, 9], mask[8:, 8:] = 2, 3, 4
  kept, labels = keep_inside(boxes, mask, (10, 10))
  np.testing.assert_array_equal(kept, [[2, 2, 6, 6], [8, 8, 10, 10]])
  assert labels.dtype == np.uint16
  np.testing.assert_array_equal(labels == 1, mask == 2)
  np.testing.assert_array_equal(labels == 2, mask == 4)


@pytest.mark.parametrize("mask", [np.zeros((0, 0), np.uint16), np.zeros((10, 10), np.uint16)])
def test_no_boxes(mask: np.ndarray) -> None:
  boxes, labels = keep_inside(np.zeros((0, 4), np.float32), mask, (10, 10))
  assert boxes.shape == (0, 4)
  assert labels.shape == mask.shape
