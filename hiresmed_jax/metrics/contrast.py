"""How much of a lesion's contrast a reconstruction keeps.

N images, H x W pixels, M boxes per image.
"""

import jax.numpy as jnp

from hiresmed_jax.types import Array


def contrast_kept(
  sources: Array, reconstructions: Array, boxes: Array, *, margin: float = 4.0
) -> tuple[Array, Array]:
  """Contrast of each lesion in the reconstruction over that in the source, on the same pixels.

  A lesion's core is what lies in its box above half of the source's maximum there; the background
  is the mean of a ring of `margin` pixels around the box. Boxes that people draw are loose: the
  mean over a whole box would mostly measure tissue.

  Args:
    sources: f32[N, H, W], lesions brighter than what is around them.
    reconstructions: f32[N, H, W], same intensity scale.
    boxes: f32[N, M, 4], xyxy pixels; NaN rows are padding.
    margin: width of the ring in pixels.

  Returns:
    (kept f32[N, M], diameter_px f32[N, M]): 1 = all contrast kept, 0 = none; diameter is
    2 sqrt(core area / pi) in the source. NaN for padding and for boxes with no contrast to lose.
  """
  height, width = sources.shape[1:]
  rows, columns = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5

  def within(boxes: Array) -> Array:  # [N, M, 4] -> bool[N, M, H, W]
    x1, y1, x2, y2 = (boxes[..., i, None] for i in range(4))
    in_x = (columns >= x1) & (columns < x2)
    in_y = (rows >= y1) & (rows < y2)
    return in_y[..., :, None] & in_x[..., None, :]

  inside = within(boxes)
  ring = within(boxes + margin * jnp.array([-1.0, -1.0, 1.0, 1.0])) & ~inside
  source, reconstruction = sources[:, None], reconstructions[:, None]

  def mean(values: Array, where: Array) -> Array:
    count = jnp.sum(where, axis=(2, 3))
    return jnp.where(count > 0, jnp.sum(values * where, axis=(2, 3)) / count, jnp.nan)

  around = mean(source, ring)
  peak = jnp.max(jnp.where(inside, source, -jnp.inf), axis=(2, 3))
  core = inside & (source > ((peak + around) / 2)[..., None, None])
  before = mean(source, core) - around
  after = mean(reconstruction, core) - mean(reconstruction, ring)
  area = jnp.sum(core, axis=(2, 3))
  valid = (area > 0) & (before > 0)
  kept = jnp.where(valid, after / jnp.where(valid, before, 1.0), jnp.nan)
  return kept, jnp.where(valid, 2.0 * jnp.sqrt(area / jnp.pi), jnp.nan)
