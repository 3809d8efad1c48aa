"""Lesions: exact areas, whole blur, chords of a round body, gaps between neighbours."""

import numpy as np
import pytest

from hiresmed_jax.data.anatomy import lesions


def draw(seed, allowed, *, count=3, must=True, diameter_mm=(10.0, 14.0), rough=(0.0, 0.3)):
  return lesions.draw(
    np.random.default_rng(seed),
    allowed,
    0.5,
    count=count,
    must=must,
    diameter_mm=diameter_mm,
    median_mm=11.0,
    rough=rough,
    margin=8,
  )


@pytest.mark.parametrize("seed", range(4))
def test_area_is_that_of_the_diameter_and_blur_loses_nothing(seed):
  allowed = np.pad(np.ones((180, 220), bool), 10)  # blur that leaves the image is lost
  for lesion in draw(seed, allowed):
    area = np.pi / 4 * lesion.diameter_mm**2
    assert lesion.filled.sum() * 0.25 == pytest.approx(area, rel=0.02)
    assert 9.999 < lesion.diameter_mm < 14.001
    blurred = lesion.blurred(lesion.filled, 1.5)
    assert blurred.sum() == pytest.approx(lesion.filled.sum(), rel=1e-3)
    edge = np.concatenate([blurred[0], blurred[-1], blurred[:, 0], blurred[:, -1]])
    assert edge.max() < 1e-3


def test_the_chord_of_a_smooth_lesion_is_between_a_ball_s_and_a_drum_s():
  (lesion,) = draw(0, np.ones((120, 120), bool), count=1, rough=(0.0, 0.0))
  mean = lesion.chord.sum() / lesion.filled.sum()
  assert 2 / 3 - 0.02 < mean < 0.9
  assert lesion.chord.max() > 0.98
  assert not lesion.chord[lesion.filled == 0].any()


def test_lesions_keep_inside_what_is_allowed_and_apart():
  allowed = np.zeros((160, 160), bool)
  allowed[20:90, 30:140] = True
  ids, boxes = lesions.masks(draw(1, allowed), allowed.shape)
  assert len(boxes) == 3
  assert not ids[~allowed].any()
  assert sorted(np.unique(ids)) == [0, 1, 2, 3]


def test_fewer_are_placed_where_there_is_no_room_unless_they_must_be():
  narrow = np.zeros((90, 90), bool)
  narrow[20:70, 20:70] = True
  assert 0 < len(draw(0, narrow, count=30, must=False)) < 30
  assert draw(0, np.zeros((50, 50), bool), must=False) == []
