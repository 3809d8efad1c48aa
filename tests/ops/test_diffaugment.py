import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hiresmed_jax.ops import diffaugment
from tests.reference.parity import quick_jit

POLICY = ("color", "translation", "cutout")

diff_augment = quick_jit(diffaugment.diff_augment, static_argnames="policy")


def _images(*shape: int) -> jax.Array:
  return jnp.asarray(np.tanh(np.random.default_rng(0).standard_normal(shape, np.float32)))


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_keys_and_examples(channels):
  images = jnp.tile(_images(1, 16, 24, channels), (4, 1, 1, 1))
  first = diff_augment(images, jax.random.key(1), policy=POLICY)
  assert first.shape == images.shape
  np.testing.assert_array_equal(
    first, diff_augment(images, jax.random.key(1))
  )  # the default policy
  assert np.any(first != diff_augment(images, jax.random.key(2)))
  assert all(np.any(first[i] != first[0]) for i in range(1, 4))  # equal images, own changes
  assert (
    jax.eval_shape(diff_augment, images.astype(jnp.bfloat16), jax.random.key(1)).dtype
    == jnp.bfloat16
  )


def test_color_is_a_gain_and_an_offset_per_image():
  images = _images(200, 6, 5, 1)
  changed = np.asarray(diff_augment(images, jax.random.key(1), policy=("color",)), np.float64)
  before = np.asarray(images, np.float64)
  gain = changed.std((1, 2, 3)) / before.std((1, 2, 3))
  shift = changed.mean((1, 2, 3)) - before.mean((1, 2, 3))
  assert 0.5 <= gain.min() < 0.55
  assert 1.45 < gain.max() <= 1.5
  assert -0.5 <= shift.min() < -0.45
  assert 0.45 < shift.max() <= 0.5
  assert abs(np.corrcoef(gain, shift)[0, 1]) < 0.2
  around = before.mean((1, 2, 3), keepdims=True)
  rebuilt = (before - around) * gain[:, None, None, None] + around + shift[:, None, None, None]
  np.testing.assert_allclose(changed, rebuilt, atol=1e-5)


def test_saturation_does_nothing_to_grey_in_three_channels():
  key = jax.random.key(1)
  grey = _images(8, 6, 5, 1)
  one = diff_augment(grey, key, policy=("color",))
  three = diff_augment(jnp.tile(grey, (1, 1, 1, 3)), key, policy=("color",))
  np.testing.assert_allclose(three, jnp.tile(one, (1, 1, 1, 3)), atol=1e-6)
  colour = diff_augment(_images(8, 6, 5, 3), key, policy=("color",))
  assert np.ptp(colour - _images(8, 6, 5, 3), axis=-1).max() > 0.1


def test_translation_moves_whole_pixels_up_to_an_eighth():
  height, width = 16, 24
  images = 1 + jnp.arange(height * width, dtype=jnp.float32).reshape(1, height, width, 1)
  moved = diff_augment(jnp.tile(images, (300, 1, 1, 1)), jax.random.key(1), policy=("translation",))
  seen = set()
  for image in np.asarray(moved)[..., 0]:
    row, column = np.argwhere(image)[0]
    y, x = divmod(int(image[row, column]) - 1, width)
    down, right = row - y, column - x
    seen.add((int(down), int(right)))
    padded = np.pad(np.asarray(images)[0, ..., 0], ((2, 2), (3, 3)))
    expected = padded[2 - down : 2 - down + height, 3 - right : 3 - right + width]
    np.testing.assert_array_equal(image, expected)
  assert seen == {(d, r) for d in range(-2, 3) for r in range(-3, 4)}


@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
def test_cutout_is_half_of_each_side(size):
  cut = np.asarray(diff_augment(jnp.ones((400, *size, 1)), jax.random.key(1), policy=("cutout",)))
  holes = cut[..., 0] == 0
  half = [int(side / 2 + 0.5) for side in size]
  rows, columns = holes.any(2).sum(1), holes.any(1).sum(1)
  np.testing.assert_array_equal(holes.sum((1, 2)), rows * columns)  # a rectangle
  assert (rows.max(), columns.max()) == tuple(half)
  # The centre is anywhere, so at the border half of the hole is outside.
  assert (rows.min(), columns.min()) == tuple(h // 2 + h % 2 for h in half)
  assert holes.any(0).all()


def test_gradient_is_the_transpose():
  images, key = _images(3, 9, 10, 2), jax.random.key(3)
  weight = _images(3, 9, 10, 2)[:, ::-1, ::-1]

  def weigh(x):
    return jnp.sum(weight * diffaugment.diff_augment(x, key, policy=POLICY))

  # With the draws fixed the change is affine: a finite difference of any length is exact.
  direction = _images(3, 9, 10, 2)[::-1]
  total = quick_jit(weigh)
  expected = total(images + direction) - total(images)
  actual = jnp.sum(quick_jit(jax.grad(weigh))(images) * direction)
  np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_one_device_equals_eight_and_nothing_is_gathered():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec("data"))
  images, key = _images(16, 16, 16, 3), jax.random.key(1)

  def both(x, key):
    out, backward = jax.vjp(lambda x: diffaugment.diff_augment(x, key, policy=POLICY), x)
    return out, backward(out**2)[0]

  one = quick_jit(both)(images, key)
  compiled = (
    quick_jit(both, out_shardings=split).lower(jax.device_put(images, split), key).compile()
  )
  eight = compiled(jax.device_put(images, split), key)
  for a, b in zip(eight, one, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  # Draws of one number per image may travel, images may not.
  text = compiled.as_text() or ""
  assert "fusion" in text
  exchanged = [line for line in text.splitlines() if "all-gather" in line]
  assert not any("16,16" in line for line in exchanged)
  assert "all-to-all" not in text


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match="colour"):
    diff_augment(_images(1, 8, 8, 1), jax.random.key(0), policy=("colour",))
