from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiresmed_jax.data import phantom
from hiresmed_jax.data.readers import images
from hiresmed_jax.placement import body
from tests.data.readers.label_files import boxes as boxes_in
from tests.placement.contents import content_of


def test_air_table_and_padding_are_no_body() -> None:
  canvas = np.full((300, 300, 1), -1000.0, np.float32)
  rows, columns = np.mgrid[:300, :300]
  torso = ((rows - 140) / 90) ** 2 + ((columns - 150) / 120) ** 2 <= 1
  lungs = np.abs(((rows - 140) / 50) ** 2 + ((np.abs(columns - 150) - 60) / 35) ** 2) <= 1
  canvas[torso], canvas[lungs & torso] = 40.0, -1000.0
  canvas[250:253, 40:260] = 300.0  # the table
  canvas[np.hypot(rows - 150, columns - 150) > 148] = -3024.0  # beyond the field of view
  found = body.content(canvas, value_range=(-1024.0, 3071.0))
  assert not (found & ~torso).any()
  assert found[torso].mean() > 0.95
  assert found[lungs & torso].all()
  x1, y1, x2, y2 = body.box(found)
  np.testing.assert_allclose((x1, y1, x2, y2), (30, 50, 271, 231), atol=14)


@pytest.mark.parametrize("degrees", [-15, 7, 15])
def test_wedges_of_a_rotation_are_left_out(degrees: float) -> None:
  full = np.random.default_rng(0).uniform(90, 110, (200, 260)).astype(np.float32)
  turn = cv2.getRotationMatrix2D((129.5, 99.5), degrees, 1.0)
  turned = cv2.warpAffine(full, turn, (260, 200), borderValue=0)
  wedge = turned == 0
  found = body.content(turned[..., None], value_range=(0.0, 255.0))
  assert wedge.mean() > 0.05
  assert not (found & wedge).any()
  assert found[~wedge].mean() > 0.95


def test_padding_is_left_out_even_where_it_is_bright() -> None:
  canvas = np.full((64, 64, 3), 7.0, np.float32)
  valid = np.zeros((64, 64), bool)
  valid[5:50] = True
  np.testing.assert_array_equal(body.content(canvas, valid=valid), valid)


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 40), st.integers(1, 300)))
def test_any_image_has_a_content_and_a_box(seed: int, shape: tuple[int, int]) -> None:
  rng = np.random.default_rng(seed)
  canvas = (rng.random((*shape, 1)) ** rng.uniform(0.1, 9)).astype(np.float32)
  found = body.content(canvas)
  assert found.shape == shape
  assert found.dtype == bool
  x1, y1, x2, y2 = body.box(found)
  assert 0 <= x1 < x2 <= shape[1]
  assert 0 <= y1 < y2 <= shape[0]
  points = rng.random((5, 2)) * 40
  again = body.in_pixels(body.normalised(points, body.box(found)), body.box(found))
  np.testing.assert_allclose(again, points, atol=1e-9)


@pytest.mark.parametrize("kind", phantom.KINDS)
def test_phantoms(kind: str) -> None:
  for one in phantom.phantoms(kind, 3, 256, seed=2):
    found = content_of({**vars(one.sample)})
    assert found[one.sample.lesion_mask > 0].all()
    assert found[one.host_mask > 0].mean() > 0.99
    assert found.mean() < 0.9


def test_monochrome1_is_turned_first() -> None:
  (one,) = phantom.phantoms("kub", 1, 256, seed=2)
  item = {**vars(one.sample), "rescale_slope": 1.0, "rescale_intercept": 0.0}
  low, high = item["value_range"]
  turned = (low + high - item["image"].astype(float)).clip(0).astype(np.uint16)
  other = {**item, "image": turned, "photometric": "MONOCHROME1"}
  np.testing.assert_array_equal(content_of(other), content_of(item))


def test_real_stones_lie_in_the_body(shared: Path) -> None:
  folder = shared / "data" / "stones_ct"
  inside = []
  for path in sorted((folder / "images").iterdir())[::10]:
    (sample,) = images.read(path)
    height, width = sample.image.shape[:2]
    found = boxes_in(folder / "labels" / f"{path.stem}.txt", "yolo", width, height)
    content = content_of(vars(sample))
    columns, rows = ((found[:, :2] + found[:, 2:]) / 2).astype(int).T
    inside += content[rows, columns].tolist()
  assert np.mean(inside) >= 0.995
