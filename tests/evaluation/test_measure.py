"""Numbers of whole sets: equal to independent ones, on one device and on eight."""

import functools

import numpy as np
import pytest

from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.evaluation import measure
from hiresmed_jax.evaluation.pictures import Entry, Picture
from tests.evaluation import scene


def pair(seed, size=(40, 44)):
  rng = np.random.default_rng(seed)
  row, column = np.mgrid[: size[0], : size[1]] / size[0]
  reference = 0.5 + 0.3 * np.sin(7 * row + seed) * np.cos(5 * column)
  image = np.clip(reference + 0.05 * rng.standard_normal(size), 0, 1)
  mask = np.zeros(size, np.uint16)
  mask[10:16, 12:18] = 1
  reference[10:16, 12:18] = 0.95
  image[10:16, 12:18] = 0.8
  return Picture(
    image.astype(np.float32)[..., None],
    reference.astype(np.float32)[..., None],
    boxes=np.float32([[12, 10, 18, 16]]),
    lesion_mask=mask,
  )


def entries(count=11):
  """Of two sizes, one that cannot be read, one without a real image."""

  def broken():
    raise Unreadable("is damaged or cut short")

  found = []
  for i in range(count):
    picture = pair(i, (40, 44) if i % 3 else (36, 36))
    if i == 5:
      picture = picture._replace(reference=None, no_reference="no name")
    load = broken if i == 3 else functools.partial(lambda p: p, picture)
    found.append(Entry(f"k{i}", f"g{i // 2}", 0, (), load))
  return found


@pytest.fixture(scope="module")
def found():
  return measure.measure(entries(), scene.tool(1), name="set", same_lesions=True, workers=1)


def test_every_number_is_that_of_its_image(found):
  skimage = pytest.importorskip("skimage.metrics")
  for i in (0, 1, 10):
    image, reference = (
      x[..., 0].astype(np.float64) for x in pair(i, (40, 44) if i % 3 else (36, 36))[:2]
    )
    psnr = skimage.peak_signal_noise_ratio(reference, image, data_range=1.0)
    assert found.numbers["psnr"][i] == pytest.approx(psnr, abs=1e-4)
    assert found.numbers["psnr_paper"][i] == pytest.approx(psnr + 48.1308, abs=1e-3)
    assert found.numbers["l1"][i] == pytest.approx(np.abs(image - reference).mean(), abs=1e-6)
    assert found.numbers["lpips_squeezenet"][i] == pytest.approx(
      2 * ((2 * (image - reference)) ** 2).mean(), rel=1e-4
    )
    _, full = skimage.structural_similarity(
      image, reference, data_range=1.0, gaussian_weights=True, sigma=1.5,
      use_sample_covariance=False, full=True,
    )  # fmt: skip
    inner = full[10:16, 12:18]  # away from the border, where libraries differ
    assert found.numbers["ssim_inside"][i] == pytest.approx(inner.mean(), abs=1e-4)
    assert found.numbers["ssim_outside"][i] != pytest.approx(found.numbers["ssim"][i], abs=1e-4)
  assert "ms_ssim" not in found.numbers  # images below 176 px


def test_what_cannot_be_read_or_paired_is_missing_with_its_reason(found):
  assert found.failed == {3: "is damaged or cut short"}
  assert found.unpaired == {"no name": 1}
  assert found.shapes == 2
  missing = np.flatnonzero(np.isnan(found.numbers["psnr"]))
  np.testing.assert_array_equal(missing, [3, 5])
  np.testing.assert_array_equal(np.flatnonzero(np.isnan(found.features).any(axis=1)), [3])


def test_features_are_those_of_the_network_and_its_own_resize(found):
  from hiresmed_jax.ops.resize import resize

  image = pair(1).image
  whole = resize(255.0 * image[None], 30, 30, "bilinear")
  expected = scene.patches(np.float32(1.0), np.asarray(whole))[0]
  np.testing.assert_allclose(found.features[1], expected, rtol=1e-5)


def test_lesions_have_one_row_each(found):
  np.testing.assert_array_equal(found.lesions["image"], [0, 1, 2, 4, 5, 6, 7, 8, 9, 10])
  assert 0.4 < np.median(found.lesions["kept"]) < 0.9
  np.testing.assert_allclose(found.lesions["kept"][4], 1.0, rtol=1e-5)  # beside itself


def test_one_device_is_eight(found):
  eight = measure.measure(entries(), scene.tool(8), name="set", same_lesions=True, workers=4)
  assert eight.numbers.keys() == found.numbers.keys()
  for name, values in found.numbers.items():
    np.testing.assert_allclose(eight.numbers[name], values, rtol=1e-5, err_msg=name)
  np.testing.assert_allclose(eight.features, found.features, rtol=1e-6)
  for name, values in found.lesions.items():
    np.testing.assert_allclose(eight.lesions[name], values, rtol=1e-4, err_msg=name)


def test_few_images_are_in_memory_at_a_time():
  waiting = most = 0

  def items():
    nonlocal waiting, most
    for i in range(1000):
      waiting += 1
      most = max(most, waiting)
      yield i % 3, i

  seen = []
  for key, rows in measure.in_batches(items(), lambda key: 4):
    assert len(rows) <= 4
    assert {row % 3 for row in rows} == {key}
    waiting -= len(rows)
    seen += rows
  assert sorted(seen) == list(range(1000))
  assert most <= 3 * 4


def test_batches_fit_the_devices():
  assert measure.batch_size(1024 * 1024, 8, 10_000) == 8
  assert measure.batch_size(320 * 392, 1, 10_000) == 8
  assert measure.batch_size(64 * 64, 8, 10_000) == 128
  assert measure.batch_size(64 * 64, 8, 3) == 8
