"""Against torchmetrics and scikit-image in float64, and a plain float64 sum over every window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from hiresmed_jax.metrics import ssim

SIZE = 24


def images(kind, data_range, channels=1, size=SIZE, seed=0):
  """Pairs as metrics meet them: noise, smooth with a little noise, dark, saturated in places."""
  rng = np.random.default_rng(seed)
  x, y = np.mgrid[:size, :size] / size
  smooth = 0.5 + 0.4 * np.sin(5 * x + 3 * y)[None, ..., None] * np.ones((4, 1, 1, channels))
  a = np.stack([rng.random(smooth.shape[1:]), smooth[1], 0.02 * smooth[2], smooth[3] * 1.6])
  b = a + rng.normal(0, 0.05, a.shape)
  a, b = (np.clip(z, 0, 1) * data_range for z in (a, b))
  return (a.astype(kind), b.astype(kind))


def float64_reference(a, b, data_range):
  """Every window by itself, two-pass variances: f64[N, H, W, C]."""
  a, b = (np.asarray(z, np.float64) for z in (a, b))
  grid = np.arange(-5, 6)
  weight = np.exp(-(grid[:, None] ** 2 + grid**2) / 4.5)[..., None]
  weight /= weight.sum()
  c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
  pads = ((0, 0), (5, 5), (5, 5), (0, 0))
  pa, pb = (np.pad(z, pads, mode="reflect") for z in (a, b))
  out = np.zeros(a.shape)
  for i, j in np.ndindex(a.shape[1:3]):
    wa, wb = (z[:, i : i + 11, j : j + 11] for z in (pa, pb))
    ma, mb = ((weight * z).sum((1, 2)) for z in (wa, wb))
    da, db = wa - ma[:, None, None], wb - mb[:, None, None]
    va, vb, cov = ((weight * z).sum((1, 2)) for z in (da * da, db * db, da * db))
    out[:, i, j] = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
  return out


def torchmetrics_of(name, a, b, data_range):
  tv = pytest.importorskip("tests.reference.torchvision_cpu")
  tv.import_torchvision()
  from torchmetrics.functional import image

  a, b = (tv.torch.from_numpy(np.asarray(z, np.float64)).permute(0, 3, 1, 2) for z in (a, b))
  return getattr(image, name)(a, b, data_range=data_range, reduction="none").numpy()


def scikit_images(a, b, data_range):
  """Of one pair."""
  return structural_similarity(
    *(np.asarray(z, np.float64) for z in (a, b)),
    data_range=data_range,
    channel_axis=-1,
    gaussian_weights=True,
    use_sample_covariance=False,
  )


@pytest.mark.parametrize(
  ("kind", "data_range", "channels"),
  [(np.uint8, 255, 3), (np.uint16, 65535, 1), (np.float32, 2.0, 1)],
)
def test_ssim_is_torchmetrics_scikit_images_and_the_plain_sum(kind, data_range, channels):
  a, b = images(kind, data_range, channels)
  found = np.asarray(ssim.ssim(a, b, data_range=data_range))
  name = "structural_similarity_index_measure"
  np.testing.assert_allclose(found, torchmetrics_of(name, a, b, data_range), atol=2e-5)
  maps = float64_reference(a, b, data_range)
  np.testing.assert_allclose(ssim.ssim_map(a, b, data_range=data_range), maps, atol=1e-4)
  np.testing.assert_allclose(found, maps.mean(axis=(1, 2, 3)), atol=2e-5)
  wanted = [scikit_images(*pair, data_range) for pair in zip(a, b)]
  inner = ssim.ssim(a, b, data_range=data_range, inner=True)
  np.testing.assert_allclose(inner, wanted, atol=2e-5)


def test_inside_and_outside_a_mask():
  a, b = images(np.float32, 1.0)
  mask = np.zeros((4, SIZE, SIZE), bool)
  mask[0, 8:14, 9:12] = mask[1, :4, :4] = mask[2] = True
  maps = float64_reference(a, b, 1.0)
  inside = ssim.ssim(a, b, data_range=1.0, where=mask)
  outside = ssim.ssim(a, b, data_range=1.0, where=~mask)
  for i in range(4):
    for found, where in ((inside[i], mask[i]), (outside[i], ~mask[i])):
      if where.any():
        assert found == pytest.approx(maps[i][where].mean(), abs=5e-5)
      else:
        assert np.isnan(found)
  corner = ssim.ssim(a, b, data_range=1.0, where=mask, inner=True)
  assert np.isnan(corner[1])  # a mask on the border has no inner pixel


def test_identical_and_constant_images():
  a, b = images(np.uint16, 65535)
  np.testing.assert_allclose(ssim.ssim(a, a, data_range=65535), 1.0, rtol=2e-7)
  levels = np.array([0, 1, 200, 255], np.uint8)
  flat = np.broadcast_to(levels[:, None, None, None], (4, SIZE, SIZE, 1))
  other = np.broadcast_to(levels[::-1, None, None, None], (4, SIZE, SIZE, 1))
  np.testing.assert_allclose(ssim.ssim(flat, flat, data_range=255), 1.0, rtol=2e-7)
  x, y = levels.astype(np.float64), levels[::-1].astype(np.float64)
  wanted = (2 * x * y + 2.55**2) / (x**2 + y**2 + 2.55**2)
  np.testing.assert_allclose(ssim.ssim(flat, other, data_range=255), wanted, atol=1e-5)
  wanted = float64_reference(flat, b // 257, 255).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(ssim.ssim(flat, b // 257, data_range=255), wanted, atol=1e-4)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 3e4), st.floats(-3, 3))
def test_scale_does_not_matter_and_order_does_not_matter(seed, scale, power):
  rng = np.random.default_rng(seed)
  a, b = rng.random((2, 2, SIZE, SIZE, 1)) ** np.exp(power)
  found = ssim.ssim(*(z.astype(np.float32) for z in (a, b)), data_range=1.0)
  scaled = ssim.ssim(*((scale * z).astype(np.float32) for z in (a, b)), data_range=scale)
  np.testing.assert_allclose(found, scaled, atol=1e-5)
  np.testing.assert_allclose(
    found, ssim.ssim(*(z.astype(np.float32) for z in (b, a)), data_range=1.0), atol=1e-4
  )
  assert (np.abs(found) <= 1 + 1e-6).all()


def test_ms_ssim_is_torchmetrics():
  a, b = images(np.uint8, 255, size=181)
  b[0] = 255 - b[0]  # negative structure counts as none
  found = np.asarray(ssim.ms_ssim(a, b, data_range=255))
  name = "multiscale_structural_similarity_index_measure"
  np.testing.assert_allclose(found, torchmetrics_of(name, a, b, 255.0), atol=2e-5)
  assert found[0] == 0
  np.testing.assert_allclose(ssim.ms_ssim(a, a, data_range=255), 1.0, atol=1e-6)


@pytest.mark.optimised
@pytest.mark.slow
def test_at_full_size():
  a, b = (z[2:3] for z in images(np.uint16, 65535, size=1024))  # dark: the hardest for float32
  found = ssim.ssim(a, b, data_range=65535, inner=True)
  np.testing.assert_allclose(found, [scikit_images(a[0], b[0], 65535)], atol=1e-4)
  wanted = torchmetrics_of("multiscale_structural_similarity_index_measure", a, b, 65535.0)
  np.testing.assert_allclose(ssim.ms_ssim(a, b, data_range=65535), wanted, atol=1e-4)


def test_one_device_is_eight():
  a, b = images(np.float32, 1.0)
  a, b = (np.concatenate([z, z]) for z in (a, b))
  mesh = jax.make_mesh((8,), ("data",))
  spread = jax.NamedSharding(mesh, jax.P("data"))
  eight = ssim.ssim(*(jax.device_put(z, spread) for z in (a, b)), data_range=1.0)
  np.testing.assert_allclose(eight, ssim.ssim(a, b, data_range=1.0), atol=1e-6)


def test_what_has_no_similarity_is_refused():
  small, large = jnp.zeros((1, 10, 30, 1)), jnp.zeros((1, 30, 30, 1))
  with pytest.raises(ValueError, match="SSIM needs 11 px"):
    ssim.ssim(small, small, data_range=1.0)
  with pytest.raises(ValueError, match="MS-SSIM needs 176 px"):
    ssim.ms_ssim(large, large, data_range=1.0)
  with pytest.raises(AssertionError):
    ssim.ssim(large, large[..., :0], data_range=1.0)
