"""The two floors against brute force with scikit-image."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from hiresmed_jax.metrics.image import floors


def test_floors_are_the_brute_force_ones():
  rng = np.random.default_rng(0)
  train = rng.uniform(-1, 1, (7, 6, 5, 1)).astype(np.float32)
  held_out = rng.uniform(-1, 1, (3, 6, 5, 1)).astype(np.float32)
  padded = np.concatenate([train[4:], np.zeros((1, 6, 5, 1), np.float32)])
  batches = [(train[:4], np.ones(4)), (padded, np.array([1.0, 1, 1, 0]))]
  found = floors(batches, held_out, data_range=2.0)

  def psnr(a, b):
    return peak_signal_noise_ratio(a, b, data_range=2.0)

  mean = train.mean(axis=0)
  np.testing.assert_allclose(found.mean_image, [psnr(x, mean) for x in held_out], rtol=1e-5)
  nearest = [max(psnr(x, t) for t in train) for x in held_out]
  np.testing.assert_allclose(found.nearest_image, nearest, rtol=1e-5)


def test_no_training_images_is_an_error():
  with pytest.raises(ValueError, match="no training images"):
    floors([], np.zeros((1, 2, 2, 1), np.float32), data_range=1.0)
