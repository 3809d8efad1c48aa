"""PSNR against scikit-image, and its gradient against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from skimage.metrics import peak_signal_noise_ratio

from hiresmed_jax.metrics import image


@pytest.mark.parametrize(("channels", "data_range"), [(1, 1.0), (3, 2.0), (1, 255.0)])
def test_psnr_is_scikit_images(channels, data_range):
  rng = np.random.default_rng(0)
  a, b = rng.uniform(0, data_range, (2, 4, 9, 7, channels)).astype(np.float32)
  expected = [peak_signal_noise_ratio(x, y, data_range=data_range) for x, y in zip(b, a)]
  np.testing.assert_allclose(image.psnr(a, b, data_range=data_range), expected, rtol=1e-5)


def test_pixels_that_do_not_count_change_nothing():
  rng = np.random.default_rng(2)
  a, b = rng.uniform(0, 1, (2, 3, 8, 6, 2)).astype(np.float32)
  where = np.zeros((3, 8, 6), bool)
  where[:, :5, :4] = True
  inner = (slice(None), slice(5), slice(4))
  np.testing.assert_allclose(
    image.psnr(a, b, data_range=1.0, where=where),
    image.psnr(a[inner], b[inner], data_range=1.0),
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    image.l1(a, b, where=where), np.abs(a - b)[inner].mean(axis=(1, 2, 3)), rtol=1e-6
  )


def test_psnr_of_equal_images_is_infinite():
  same = jnp.ones((2, 4, 4, 1))
  assert np.isinf(image.psnr(same, same, data_range=1.0)).all()


def test_psnr_gradient():
  rng = np.random.default_rng(1)
  a, b = rng.uniform(0, 1, (2, 2, 5, 5, 1)).astype(np.float32)
  check_grads(lambda x: image.psnr(x, b, data_range=1.0), (a,), order=1, rtol=1e-2)
  assert np.isfinite(jax.grad(lambda x: image.psnr(x, b, data_range=1.0).sum())(a)).all()


@pytest.mark.parametrize("metric", [lambda a, b: image.psnr(a, b, data_range=1.0), image.l1])
def test_unequal_shapes_are_refused(metric):
  with pytest.raises(AssertionError):
    metric(np.zeros((2, 4, 4, 3), np.float32), np.zeros((2, 4, 4, 1), np.float32))


@pytest.mark.parametrize(("kind", "data_range"), [(np.uint8, 255), (np.uint16, 65535)])
def test_whole_numbers_do_not_wrap_around(kind, data_range):
  a, b = np.random.default_rng(3).integers(0, data_range + 1, (2, 2, 9, 7, 1)).astype(kind)
  expected = [peak_signal_noise_ratio(x, y, data_range=data_range) for x, y in zip(b, a)]
  np.testing.assert_allclose(image.psnr(a, b, data_range=data_range), expected, rtol=1e-5)
  np.testing.assert_allclose(
    image.l1(a, b), np.abs(a.astype(float) - b).mean(axis=(1, 2, 3)), rtol=1e-5
  )


def test_psnr_at_full_size():
  a = np.random.default_rng(4).integers(0, 65536, (1, 1024, 1024, 1)).astype(np.uint16)
  b = a.copy()
  b[:, :512] = np.minimum(b[:, :512] + 3.0, 65535)
  expected = peak_signal_noise_ratio(a[0], b[0], data_range=65535)
  np.testing.assert_allclose(image.psnr(b, a, data_range=65535), expected, rtol=1e-5)
