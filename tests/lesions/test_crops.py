import numpy as np
import pytest
from scipy import ndimage

from hiresmed_jax.data import phantom, transforms
from hiresmed_jax.lesions import crops
from hiresmed_jax.lesions.patch import LesionPatch, centroid, long_side


def item(sample):
  """A record, as it is read back."""
  return {
    "image": sample.image,
    "boxes": sample.boxes,
    "lesion_mask": sample.lesion_mask,
    "image_id": "image",
    "group": "group",
    "rescale_slope": sample.rescale_slope,
    "rescale_intercept": sample.rescale_intercept,
    "value_range": np.asarray(sample.value_range, np.float32),
    "photometric": sample.photometric,
    "physics": sample.physics,
    "spacing_mm": np.asarray(sample.spacing_mm, np.float32),
  }


def drawn(kind, seed, **options):
  rng = np.random.default_rng(seed)
  make = phantom.kub if kind == "kub" else phantom.chest_ct
  return make(rng, 192, patient=1, **options).sample


@pytest.fixture(scope="module", params=["kub", "chest_ct"])
def pairs(request):
  """(record with lesions, the same picture without)."""
  made = []
  for seed in range(6):
    with_lesions = drawn(request.param, seed, diameter_mm=(6.0, 20.0))
    made.append((item(with_lesions), item(drawn(request.param, seed, num_lesions=0))))
  return made


def test_lesions_of_a_phantom_are_cut_out_with_their_exact_masks(pairs):
  found = 0
  for with_lesions, _ in pairs:
    image, _ = transforms.values_of(with_lesions)
    patches = list(crops.crops_of(with_lesions))
    assert len(patches) == len(with_lesions["boxes"])
    for index, patch in enumerate(patches):
      if isinstance(patch, str):
        assert patch in {"at the border", "faint", "too large"}
        continue
      found += 1
      side = patch.alpha.shape[0]
      whole = with_lesions["lesion_mask"] == index + 1
      x, y = centroid(whole)
      left, top = round(x - side / 2), round(y - side / 2)
      window = slice(top, top + side), slice(left, left + side)
      np.testing.assert_array_equal(patch.mask, whole[window])
      np.testing.assert_array_equal(patch.values, image[window])
      assert side >= 3 * long_side(whole)
      assert np.abs(np.array(centroid(patch.mask)) - side / 2).max() <= 0.5
      far = ndimage.distance_transform_edt(~patch.mask) > 5
      np.testing.assert_array_equal(patch.values[far], patch.surround[far])
      assert patch.donor == "image"
      assert patch.donor_group == "group"
      assert patch.kind == "copy"
  assert found >= 4


def test_the_surround_is_what_was_there_before_the_lesion(pairs):
  errors = []
  for with_lesions, without in pairs:
    image, _ = transforms.values_of(without)
    for index, patch in enumerate(crops.crops_of(with_lesions)):
      if isinstance(patch, str):
        continue
      side = patch.alpha.shape[0]
      x, y = centroid(with_lesions["lesion_mask"] == index + 1)
      left, top = round(x - side / 2), round(y - side / 2)
      truth = image[top : top + side, left : left + side]
      contrast = (patch.values - truth)[patch.mask].mean()
      errors.append(np.abs(patch.surround - truth)[patch.mask].mean() / contrast)
  assert np.median(errors) < 0.25  # noise is in it


def test_inverted_images_give_the_same_lesions():
  sample = drawn("chest_ct", 0)
  low, high = sample.value_range
  straight = item(sample)
  shift = low + high - 2 * sample.rescale_intercept  # slope 1
  inverted = dict(straight, photometric="MONOCHROME1")
  inverted["image"] = (shift - sample.image.astype(np.int32)).astype(np.int32)
  for a, b in zip(crops.crops_of(straight), crops.crops_of(inverted), strict=True):
    if isinstance(a, str):
      assert a == b
    else:
      np.testing.assert_allclose(a.values, b.values, atol=1e-3)
      np.testing.assert_array_equal(a.mask, b.mask)


def test_boxes_alone_find_the_same_nodules_as_masks():
  ratios = []
  for seed in range(6):
    exact = item(drawn("chest_ct", seed, diameter_mm=(8.0, 20.0)))
    boxed = dict(exact, lesion_mask=np.zeros((0, 0), np.uint16))
    for a, b in zip(crops.crops_of(exact), crops.crops_of(boxed), strict=True):
      if isinstance(a, LesionPatch) and isinstance(b, LesionPatch):
        ratios.append(b.diameter_px / a.diameter_px)
  assert len(ratios) >= 4
  assert 0.85 < np.median(ratios) < 1.15


def test_a_lesion_at_the_border_or_too_large_is_left_out():
  sample = drawn("chest_ct", 0, num_lesions=1)
  whole = item(sample)
  x1, y1 = sample.boxes[0, :2].astype(int)
  cut = dict(whole)
  cut["image"] = whole["image"][max(y1 - 3, 0) :, max(x1 - 3, 0) :]
  cut["lesion_mask"] = whole["lesion_mask"][max(y1 - 3, 0) :, max(x1 - 3, 0) :]
  cut["boxes"] = whole["boxes"] - np.array([x1 - 3, y1 - 3] * 2, np.float32)
  assert list(crops.crops_of(cut)) == ["at the border"]
  mask = np.zeros((200, 200), np.uint16)
  mask[80:123, 95:105] = 1  # 43 px: three times that is more than the largest window
  large = dict(whole, image=100 * mask[..., None], lesion_mask=mask)
  large["boxes"] = np.array([[95, 80, 105, 123]], np.float32)
  assert list(crops.crops_of(large)) == ["too large"]
