"""Against torch, Pillow and a sum written out, up and down, on odd sizes too."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hiresmed_jax.ops.resize import METHODS, resize, resize_matrix

SIZES = [(64, 48, 29, 31), (17, 40, 61, 23), (299, 8, 299, 8)]


def images(height, width, channels=2):
  return np.random.default_rng(0).uniform(0, 255, (2, height, width, channels)).astype(np.float32)


@pytest.mark.parametrize(("height", "width", "rows", "columns"), SIZES)
def test_bilinear_is_torchs(height, width, rows, columns):
  torch = pytest.importorskip("torch")
  x = images(height, width)
  wanted = torch.nn.functional.interpolate(
    torch.from_numpy(x).permute(0, 3, 1, 2).double(), (rows, columns), mode="bilinear"
  )
  found = resize(x, rows, columns, "bilinear")
  np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1), atol=2e-4)


@pytest.mark.parametrize(("height", "width", "rows", "columns"), SIZES)
def test_bicubic_is_pillows(height, width, rows, columns):
  x = images(height, width)
  for image, found in zip(x, np.asarray(resize(x, rows, columns, "bicubic"))):
    for c in range(x.shape[-1]):
      plane = Image.fromarray(image[..., c], mode=None)
      wanted = np.asarray(plane.resize((columns, rows), Image.Resampling.BICUBIC))
      np.testing.assert_allclose(found[..., c], wanted, atol=2e-3)


def test_tf1_takes_whole_pixels_where_sizes_divide():
  x = images(12, 9)
  np.testing.assert_array_equal(resize(x, 4, 3, "tf1"), x[:, ::3, ::3])
  found = resize(jnp.arange(4, dtype=jnp.uint8)[None, :, None, None], 8, 1, "tf1")
  np.testing.assert_allclose(found[0, :, 0, 0], [0, 0.5, 1, 1.5, 2, 2.5, 3, 3])


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(METHODS))
def test_a_flat_image_stays_flat(before, after, method):
  matrix = resize_matrix(before, after, method)
  np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-6)
  if before == after:
    np.testing.assert_array_equal(matrix, np.eye(after, dtype=np.float32))


def test_an_unknown_method_is_refused():
  with pytest.raises(ValueError, match="nearest is none of"):
    resize_matrix(3, 4, "nearest")
