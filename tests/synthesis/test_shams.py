import numpy as np
import pytest
from scipy import ndimage

from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas
from hiresmed_jax.lesions.copying import Copies
from hiresmed_jax.placement import atlas
from hiresmed_jax.synthesis import fitting, shams
from tests.lesions.drawn import patch

SIDE = 160
WHERE = atlas.Atlas(np.array([[0.5, 0.5]]), np.ones(1), (0.3, 0.3))


def record(seed: int, level: float) -> dict:
  """A square body in noise, half of it with bright and dark spots close to each other."""
  rng = np.random.default_rng(seed)
  image = np.zeros((SIDE, SIDE, 1), np.float32)
  image[12:-12, 12:-12] = level
  image[24:-12:16, 24:72:16] = 255
  image[32:-12:16, 24:72:16] = 20
  image = ndimage.gaussian_filter(image, (1, 1, 0)) + rng.normal(0, 4, image.shape)
  stored = np.clip(np.round(image), 0, 255).astype(np.uint8)
  return canvas.record_of(stored, (0.0, 255.0)) | {"group": "g", "image_id": str(seed)}


def made(source: list[dict], *, most: float = 25.0, seed: int = 0) -> tuple:
  scene = canvas.real(record(9, 110))
  like = fitting.sham(patch(8.0, contrast=120), scene, 8.0)
  score = np.ones(scene.shape, np.float32)
  found = shams.inserted(
    np.random.default_rng(seed), scene, scene.values, scene.content, score, like, source, WHERE,
    most=most, mode="ct",
  )  # fmt: skip
  return scene, found


def test_a_sham_changes_its_place_and_cannot_be_a_lesion():
  source = [record(seed, level) for seed, level in enumerate((100, 120, 150))]
  for seed in range(4):
    scene, sham = made(source, seed=seed)
    ids = shams.instances([sham], scene.shape)
    changed = np.abs(sham.image - scene.values)[..., 0]
    assert changed[ndimage.distance_transform_edt(ids == 0) > 4].max() == 0
    assert changed[ids > 0].mean() > 1.5  # it is there: other noise
    # Of another image's level, and nothing stands out from its own.
    assert abs(sham.image[..., 0][ids > 0].mean() - 110) < 6
    x, y = sham.site.centre
    for image in (scene.values, sham.image):
      assert shams.calmness_at(image, (int(y), int(x)), 9) < 25


def test_a_sham_is_of_the_phase_of_its_place_in_blocks_of_eight():
  # Columns of blocks have a grain each of their own: a sham of another phase would mix them.
  striped = []
  for seed in range(3):
    one = record(seed, 110)
    columns = np.where(np.arange(SIDE) % 8 == 0, 12, 0).astype(np.uint8)
    striped.append(one | {"image": one["image"] + columns[None, :, None]})
  for seed in range(4):
    scene, sham = made(striped, seed=seed)
    added = (sham.image - scene.values)[..., 0]
    ids = shams.instances([sham], scene.shape) > 0
    x = np.nonzero(ids)[1]
    first, others = (added[ids][at].mean() for at in (x % 8 == 0, x % 8 != 0))
    assert first > others + 5


def test_a_sham_goes_on_from_a_slope_without_a_step():
  scene = canvas.real(record(9, 110))
  slope = np.linspace(-80, 80, SIDE, dtype=np.float32)[None, :, None]
  steep = scene._replace(values=scene.values + slope)
  like = fitting.sham(patch(8.0, contrast=120), steep, 8.0)
  rng, score, slopes = np.random.default_rng(0), np.ones(scene.shape, np.float32), []
  for _ in range(8):
    sham = shams.inserted(
      rng, steep, steep.values, steep.content, score, like, [record(0, 110)], WHERE,
      most=40.0, mode="ct",
    )  # fmt: skip
    added = (sham.image - steep.values)[..., 0]
    rows, columns = np.nonzero(shams.instances([sham], steep.shape))
    slopes.append(np.polyfit(columns, added[rows, columns], 1)[0])
  # A grey level a pixel, which content without the slope would lose.
  assert abs(np.mean(slopes)) < 0.4


@pytest.mark.parametrize("spacing", [1.0, 0.77])
def test_a_sham_covers_what_its_lesion_would_whatever_the_spacing(spacing):
  scene = canvas.real(record(9, 110))._replace(spacing_mm=(spacing, spacing))
  donor = patch(8.0, contrast=120)._replace(spacing_mm=(1.0, 1.0))
  rng, score = np.random.default_rng(0), np.ones(scene.shape, np.float32)
  like = fitting.draw(Copies([donor]), rng, scene, None)
  sham = shams.inserted(
    rng, scene, scene.values, scene.content, score, like, [record(0, 110)], WHERE,
    most=25.0, mode="ct",
  )  # fmt: skip
  np.testing.assert_array_equal(sham.lesion.mask, like.mask)
  rows, columns = np.nonzero(shams.instances([sham], scene.shape))
  x, y = sham.site.centre
  assert abs(columns.mean() + 0.5 - x) < 1
  assert abs(rows.mean() + 0.5 - y) < 1


@pytest.mark.parametrize(("high", "peak"), [(4095.0, 4095.0), (200.0, 200.0), (200.0, 150.0)])
def test_the_end_of_a_radiographs_range_is_that_of_the_canvas(high, peak):
  scene = canvas.real(record(9, 110))
  donor = patch(8.0, physics="projection")._replace(value_range=(0.0, high))
  values = (donor.surround * 0 + 0.2 * high).astype(np.float32)
  lesion = np.where(donor.mask[..., None], np.float32(peak), values)
  donor = donor._replace(values=lesion, surround=values)
  found = fitting.draw(Copies([donor]), np.random.default_rng(0), scene, None)
  assert found.ceiling == 255.0
  assert found.values.max() == pytest.approx(255 * peak / high, rel=1e-5)


def test_where_nothing_is_calm_there_is_no_sham():
  with pytest.raises(UserError, match=r"no place is calm enough .* use --shams 0"):
    made([record(0, 110)], most=1.0)
  with pytest.raises(UserError, match="no place is calm enough"):
    made([record(0, 245)])  # bone: content at the end of the range


def test_the_faintest_lesions_are_those_of_the_lowest_percent():
  contrasts = np.linspace(20, 120, 101)
  patches = [patch(8.0, contrast=float(c))._replace(physics="ct") for c in contrasts]
  found = shams.faintest(patches)
  means = [float((120 * p.alpha)[p.mask].mean()) for p in [patch(8.0)]]
  assert found == pytest.approx(21 * means[0] / 120, rel=0.02)
  assert shams.faintest([]) == 0
  # Radiographs have no common unit: their contrasts are shares of their ranges.
  low, high = patches[0].value_range
  halves = [p._replace(physics="projection", value_range=(low, high / 2)) for p in patches[::2]]
  wholes = [p._replace(physics="projection") for p in patches]
  assert shams.faintest(wholes) == pytest.approx(found / (high - low))
  assert shams.faintest(halves) == pytest.approx(2 * found / (high - low), rel=0.05)
