import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.torch_baseline import blocks
from hiresmed_jax.nets.resampling import Downsample, UpConv, Upsample
from tests.reference.parity import assert_same, images, quick_jit

METHODS = ["transposed", "resize", "subpixel"]


@pytest.mark.parametrize("steps", [1, 2])
def test_downsample_equals_torch(steps):
  twin = blocks.Downsample(5, 7, steps)
  assert_same(Downsample(7, steps), twin, images((2, 8, 12, 5)))


@pytest.mark.parametrize("method", METHODS)
def test_upsample_equals_torch(method):
  twin = blocks.Upsample(5, (6, 3), method)
  assert_same(Upsample((6, 3), method), twin, images((2, 4, 3, 5)))


def test_upsampling_one_pixel_equals_torch():
  twin = blocks.Upsample(3, (4,), "transposed")
  assert_same(Upsample((4,), "transposed"), twin, images((2, 1, 1, 3)))


@pytest.mark.parametrize(
  ("method", "std"),
  [("transposed", None), ("transposed", 0.02), ("resize", None), ("subpixel", None)],
)
def test_a_constant_stays_constant_to_the_border(method, std):
  x = jnp.broadcast_to(images((1, 1, 1, 16)), (2, 5, 4, 16))
  net = Upsample((8, 4), method, kernel_init_std=std)
  out, _ = quick_jit(net.init_with_output)(jax.random.key(0), x)
  np.testing.assert_allclose(
    out, jnp.broadcast_to(out[:1, :1, :1], out.shape), rtol=1e-4, atol=1e-6
  )
  assert np.abs(out).max() > 1e-3


def test_independent_taps_would_print_a_checkerboard():
  """The default the bilinear start replaces: what the test above must be able to see."""
  x = jnp.ones((1, 6, 6, 64))
  net = UpConv(64)
  params = {"kernel": images((4, 4, 64, 64)) / np.sqrt(4 * 64), "bias": np.zeros(64, np.float32)}
  grid = net.apply({"params": params}, x)
  deviation = np.std(grid, axis=(1, 2)).mean() / np.abs(grid).mean()
  assert deviation > 0.5


def test_transposed_start_is_bilinear_interpolation():
  x = images((1, 4, 6, 8))
  net = UpConv(3)
  out, variables = quick_jit(net.init_with_output)(jax.random.key(0), jnp.asarray(x))
  matrix = variables["params"]["kernel"][1, 1] / 0.75**2
  resized = jax.image.resize(x @ matrix, (1, 8, 12, 3), "bilinear", antialias=False)
  np.testing.assert_allclose(out, resized, rtol=1e-4, atol=1e-5)


def test_unknown_method_is_named():
  with pytest.raises(ValueError, match="transposed, resize or subpixel"):
    UpConv(3, "nearest").init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
