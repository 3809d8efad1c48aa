"""Differentiable augmentation for discriminators that see few images (Zhao et al. 2020).

The same random changes are made to real and to made images before the discriminator sees them, so
that it does not memorise the few real images; the generator's gradient passes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array


def diff_augment(
  images_m11: Array,
  key: Array,
  *,
  policy: Sequence[str] = ("color", "translation", "cutout"),
) -> Array:
  """Changes each image in its own random way, in the order of `policy`.

  Args:
    images_m11: [N, H, W, C] in [-1, 1].
    key: the same key makes the same changes, on any number of devices.
    policy: any of
      "color": brightness + U(-0.5, 0.5), saturation x U(0, 2) (nothing on grey images), contrast
        x U(0.5, 1.5) about the image's mean;
      "translation": by whole pixels, up to 1/8 of each side, 0 comes in at the border;
      "cutout": a square of half of each side is set to 0, its centre anywhere in the image.

  Returns:
    [N, H, W, C] in the type of `images_m11`, no longer inside [-1, 1]; differentiable.

  Raises:
    ValueError: a name in `policy` is not known.
  """
  steps = {"color": _color, "translation": _translation, "cutout": _cutout}
  unknown = [name for name in policy if name not in steps]
  if unknown:
    raise ValueError(f"unknown augmentation {unknown}: choose from {list(steps)}")
  images = images_m11.astype(jnp.float32)
  for position, name in enumerate(policy):
    images = steps[name](images, jax.random.fold_in(key, position))
  return images.astype(images_m11.dtype)


def _color(images: Array, key: Array) -> Array:
  brightness, saturation, contrast = jax.random.uniform(key, (3, images.shape[0], 1, 1, 1))
  images = images + (brightness - 0.5)
  grey = jnp.mean(images, axis=-1, keepdims=True)
  images = grey + (images - grey) * (2.0 * saturation)
  mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
  return mean + (images - mean) * (contrast + 0.5)


def _translation(images: Array, key: Array) -> Array:
  # Half is added before the floor, so that small images move too.
  reach = [int(side / 8 + 0.5) for side in images.shape[1:3]]
  padded = jnp.pad(images, ((0, 0), (reach[0],) * 2, (reach[1],) * 2, (0, 0)))
  top, left = (
    jax.random.randint(k, images.shape[:1], 0, 2 * r + 1)
    for k, r in zip(jax.random.split(key), reach, strict=True)
  )

  def window(image: Array, row: Array, column: Array) -> Array:
    return jax.lax.dynamic_slice(image, (row, column, 0), images.shape[1:])

  return jax.vmap(window)(padded, top, left)


def _cutout(images: Array, key: Array) -> Array:
  inside = jnp.ones(images.shape[:3], bool)
  for axis, k in zip((1, 2), jax.random.split(key), strict=True):
    side = images.shape[axis]
    half = int(side * 0.5 + 0.5)
    # An even hole has no middle pixel: its centre then runs over one position more.
    centre = jax.random.randint(k, (images.shape[0], 1), 0, side + (1 - half % 2))
    position = jnp.arange(side) - (centre - half // 2)
    inside &= jnp.expand_dims((position >= 0) & (position < half), 3 - axis)
  return jnp.where(inside[..., None], 0.0, images)
