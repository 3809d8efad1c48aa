"""Real images beside made ones: size, channels, depth."""

import numpy as np

from hiresmed_jax.evaluation import pictures


def test_a_reference_takes_the_size_and_channels_of_the_image_beside_it():
  reference = np.arange(16, dtype=np.float32).reshape(4, 4, 1) / 16
  found = pictures.beside(reference, (2, 2, 3))
  means = reference.reshape(2, 2, 2, 2).mean(axis=(1, 3))
  np.testing.assert_allclose(found, np.repeat(means[..., None], 3, axis=-1), atol=1e-6)
  grown = pictures.beside(reference, (8, 8, 1))
  assert grown.shape == (8, 8, 1)
  assert (reference.min(), reference.max()) == (grown.min(), grown.max())
  assert pictures.beside(reference, (4, 4, 1)) is reference


def test_another_shape_is_no_pair():
  found = pictures.beside(np.zeros((40, 40, 1), np.float32), (20, 40, 1))
  assert found == "it is of 40 x 20 pixels and the real image of 40 x 40"


def test_large_images_are_reduced_and_small_ones_are_not():
  image = np.random.default_rng(0).uniform(size=(20, 40, 1)).astype(np.float32)
  assert pictures.at_most(image, None) is image
  assert pictures.at_most(image, 40) is image
  halved = image.reshape(10, 2, 20, 2).mean(axis=(1, 3))[..., None]
  np.testing.assert_allclose(pictures.at_most(image, 20), halved, atol=1e-6)


def test_stored_values_are_shown_by_their_scale():
  stored = np.array([[[1000], [1500], [3000]]], np.uint16)
  scale = pictures.Scale((0.0, 1000.0), slope=1.0, intercept=-1000.0, inverted=False)
  np.testing.assert_allclose(pictures.shown(stored, scale).ravel(), [0, 0.5, 1])
  inverted = pictures.shown(stored, scale._replace(inverted=True))
  np.testing.assert_allclose(inverted.ravel(), [1, 0.5, 0])
