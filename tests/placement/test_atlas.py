from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hiresmed_jax.data import phantom
from hiresmed_jax.data.readers import images
from hiresmed_jax.errors import UserError
from hiresmed_jax.placement import atlas, body
from tests.data.readers.label_files import boxes as boxes_in
from tests.placement.contents import content_of


def item(centre: tuple[float, float], group: str = "a", shift: int = 0) -> dict:
  """A bright square body with one lesion; `shift` moves both."""
  image = np.zeros((200, 240, 1), np.uint8)
  image[40:180, 30 + shift : 170 + shift] = 120
  x, y = centre[0] + shift, centre[1]
  return {
    "image": image, "group": group, "photometric": "MONOCHROME2", "rescale_slope": 1.0,
    "rescale_intercept": 0.0, "value_range": np.array([0, 255], np.float32),
    "boxes": np.array([[x - 4, y - 3, x + 4, y + 3]], np.float32),
    "lesion_mask": np.zeros((0, 0), np.uint16),
  }  # fmt: skip


def test_centres_are_normalised_by_the_body() -> None:
  still, moved = (atlas.fit([item((100.0, 110.0), shift=s)]) for s in (0, 50))
  np.testing.assert_allclose(still.centres, [[0.5, 0.5]], atol=0.02)
  np.testing.assert_allclose(moved.centres, still.centres, atol=1e-9)


def test_a_mask_s_centroid_goes_before_the_box() -> None:
  one = item((100.0, 110.0))
  mask = np.zeros((200, 240), np.uint16)
  mask[100:104, 90:92] = 1
  plain = atlas.fit([one]).centres
  frame = body.box(content_of(one))
  found = body.in_pixels(atlas.fit([{**one, "lesion_mask": mask}]).centres, frame)
  np.testing.assert_allclose(found, [[91.0, 102.0]])
  np.testing.assert_allclose(body.in_pixels(plain, frame), [[100.0, 110.0]])


def test_every_group_counts_the_same() -> None:
  items = [item((60.0, 70.0), "a")] * 9 + [item((140.0, 150.0), "b")]
  found = atlas.fit(items)
  np.testing.assert_allclose(found.weights, [1 / 18] * 9 + [1 / 2])


def test_the_score_is_the_kernel_density() -> None:
  rng = np.random.default_rng(0)
  points, weights = rng.normal(0.5, 0.15, (40, 2)), rng.dirichlet(np.ones(40))
  bandwidth = (0.05, 0.09)
  content = np.zeros((220, 200), bool)
  content[20:200, 30:170] = True
  score = atlas.score_map(atlas.Atlas(points, weights, bandwidth), content)
  assert score.dtype == np.float32
  assert score.min() >= 0
  assert score.sum(dtype=float) == pytest.approx(1.0, rel=1e-5)
  rows, columns = np.mgrid[:220, :200] + 0.5
  at = body.normalised(np.stack([columns.ravel(), rows.ravel()], 1), body.box(content))
  kernel = [stats.multivariate_normal(p, np.diag(np.square(bandwidth))).pdf(at) for p in points]
  expected = (weights @ np.array(kernel)).reshape(score.shape)
  np.testing.assert_allclose(score, expected / expected.sum(), rtol=1e-4, atol=1e-12)
  large = atlas.score_map(
    atlas.Atlas(points, weights, bandwidth), content.repeat(5, 0).repeat(5, 1)
  )
  np.testing.assert_allclose(large[2::5, 2::5] * 25, score, atol=0.03 * score.max())
  assert large.sum(dtype=float) == pytest.approx(1.0, rel=1e-5)


def test_the_bandwidth_fits_the_spread() -> None:
  rng = np.random.default_rng(1)

  def bandwidth(spread: float) -> tuple[float, float]:
    centres = rng.normal([[70, 80], [130, 140]], spread, (60, 2, 2)).clip(45, 165)
    return atlas.fit(
      item(tuple(c), f"g{i}") for i, pair in enumerate(centres) for c in pair
    ).bandwidth

  tight, loose = bandwidth(1.0), bandwidth(25.0)
  assert tight[0] < loose[0]
  assert tight[1] < loose[1]


def test_without_lesions_there_is_no_atlas() -> None:
  empty = {**item((100.0, 110.0)), "boxes": np.zeros((0, 4), np.float32)}
  with pytest.raises(UserError, match="have no lesions"):
    atlas.fit([empty])


def test_another_view_is_refused() -> None:
  far = atlas.Atlas(np.array([[90.0, 90.0]]), np.ones(1), (0.02, 0.02))
  with pytest.raises(UserError, match="another view"):
    atlas.score_map(far, np.ones((50, 50), bool))


def test_stones_of_held_out_groups_are_likelier_than_anywhere(shared: Path) -> None:
  folder = shared / "data" / "stones_ct"
  items = []
  for number, path in enumerate(sorted((folder / "images").iterdir())[::24]):
    (sample,) = images.read(path)
    height, width = sample.image.shape[:2]
    found = boxes_in(folder / "labels" / f"{path.stem}.txt", "yolo", width, height)
    items.append({**vars(sample), "boxes": found, "group": str(number)})
  fitted = atlas.fit(items[::2])
  gains = []
  for one in items[1::2]:
    content = content_of(one)
    score = atlas.score_map(fitted, content)
    columns, rows = ((one["boxes"][:, :2] + one["boxes"][:, 2:]) / 2).astype(int).T
    uniform = np.log(content.sum())
    gains += (np.log(score[rows, columns]) + uniform).tolist()
  assert np.mean(gains) > 0.2  # nats over uniform in the body


def test_phantom_records() -> None:
  made = phantom.phantoms("kub", 3, 96, seed=0)
  items = [{**vars(one.sample), "group": one.sample.group} for one in made]
  fitted = atlas.fit(items)
  assert len(fitted.centres) == sum(len(one["boxes"]) for one in items)
  assert (np.abs(fitted.centres - 0.5) < 0.6).all()
