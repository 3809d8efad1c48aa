"""The two floors against brute force with scikit-image."""

import tracemalloc

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
  filled = np.concatenate([held_out, np.zeros((1, 6, 5, 1), np.float32)])
  test = [(filled[:2], np.ones(2)), (filled[2:], np.array([1.0, 0]))]
  found = floors(lambda: iter(batches), test, data_range=2.0)

  def psnr(a, b):
    return peak_signal_noise_ratio(a, b, data_range=2.0)

  mean = train.mean(axis=0)
  np.testing.assert_allclose(found.mean_image, [psnr(x, mean) for x in held_out], rtol=1e-5)
  nearest = [max(psnr(x, t) for t in train) for x in held_out]
  np.testing.assert_allclose(found.nearest_image, nearest, rtol=1e-5)

  # One held-out image at a time is the same to the bit.
  other = floors(lambda: iter(batches), test, data_range=2.0, most_bytes=1)
  for a, b in zip(found, other, strict=True):
    np.testing.assert_array_equal(a, b)


def test_memory_does_not_grow_with_the_images():
  image = np.zeros((1, 256, 256, 1), np.float32)

  def peak(count):
    def stream():
      return ((image + i, np.ones(1)) for i in range(count))

    tracemalloc.start()
    found = floors(stream, stream(), data_range=2.0, most_bytes=4 * image.nbytes)
    assert len(found.mean_image) == count
    try:
      return tracemalloc.get_traced_memory()[1]
    finally:
      tracemalloc.stop()

  peak(8)  # what is compiled stays
  assert peak(40) < peak(8) + 8 * image.nbytes


def test_no_training_images_is_an_error():
  with pytest.raises(ValueError, match="no training images"):
    floors(tuple, [(np.zeros((1, 2, 2, 1), np.float32), np.ones(1))], data_range=1.0)
