"""A detector's scores laid over an image, and the places that are drawn from them."""

import jax
import numpy as np
import pytest

from hiresmed_jax.data import records, transforms
from hiresmed_jax.inference import canvas, places, prior_scores
from hiresmed_jax.inference.places import Prior
from hiresmed_jax.inference.workdir import Model
from hiresmed_jax.placement import atlas
from hiresmed_jax.synthesis import image
from tests.synthesis import drawn

SIDE, STRIDE = 64, 8


def detector(bright: float = 0.2) -> Model:
  """A stand-in for the trained network: it finds what is brighter than its surroundings."""

  def network(images_m11: np.ndarray, device: jax.Device) -> np.ndarray:
    assert images_m11.shape == (SIDE, SIDE, 1)
    cells = images_m11[..., 0].reshape(SIDE // STRIDE, STRIDE, SIDE // STRIDE, STRIDE)
    faint = np.random.default_rng(0).uniform(1e-4, 1e-3, cells.shape[::2])
    return (np.clip(cells.max((1, 3)) - bright, 0.0, 0.99) + faint).astype(np.float32)

  return Model(transforms.View(SIDE, fit="pad"), network)


@pytest.fixture(scope="module")
def scene(prepared) -> canvas.Canvas:
  data, _ = prepared["none"]
  return canvas.real(records.source(data, "train")[0])


def test_scores_lie_where_the_detector_gave_them(scene, monkeypatch):
  # The view is 64 px for 104 columns and pads the rows: the spot must come back to its place.
  values = np.full_like(scene.values, 30.0)
  values[20:28, 80:88] = 255.0
  # With several processes the first of all devices may be another one's.
  monkeypatch.setattr(jax, "devices", lambda *_: pytest.fail("not this process's alone"))
  scores = places.detector_scores(detector(), scene._replace(values=values))
  assert scores.shape == scene.shape
  row, column = np.unravel_index(np.argmax(scores), scores.shape)
  scale = 104 / SIDE
  assert abs(row - 23.5) <= STRIDE * scale
  assert abs(column - 83.5) <= STRIDE * scale
  assert scores[60:, :40].max() < 0.01


def test_priors_multiply_and_powers_soften(scene, prepared):
  where = prepared["none"][1].atlas

  def score(prior: Prior) -> np.ndarray:
    return places.score_map(prior, places.density(prior, where, scene), scene, 5.0)

  likely, found = score(Prior("atlas")), score(Prior("yolo", detector()))
  both = Prior("atlas x yolo", detector(), power=0.5)
  np.testing.assert_allclose(score(both), likely * np.sqrt(found), rtol=1e-5)
  np.testing.assert_array_equal(likely, atlas.score_map(where, scene.content))
  assert np.ptp(score(Prior("uniform"))) == 0
  with pytest.raises(ValueError, match="has no detector"):
    score(Prior("yolo"))


def test_lesions_are_centred_in_the_mask_of_hosts(prepared):
  data, found = prepared["none"]

  class Hosted(WithoutMasks):
    def __getitem__(self, index: int) -> dict:
      host = np.zeros(drawn.SHAPE, np.uint8)
      host[40:60, 20:40] = 1
      return {**super().__getitem__(index), "host_mask": host}

  setting = drawn.setting(data, found, values={"floor": 0.5}, lesions=(2, 2))
  setting = setting._replace(source=Hosted(setting.source))
  for number in range(4):
    made = image.make(setting, number, jax.devices()[0])
    for lesion in made.facts["lesions"]:
      x, y = lesion["centre"]
      assert 19 <= x <= 41
      assert 39 <= y <= 61


def test_the_facts_of_an_image_name_the_prior_of_its_sites(prepared):
  data, found = prepared["none"]
  made = image.make(
    drawn.setting(data, found, prior=Prior("yolo", detector()), values={"floor": 0.0}),
    0,
    jax.devices()[0],
  )
  assert {lesion["prior"] for lesion in made.facts["lesions"]} == {"yolo"}
  made = image.make(
    drawn.setting(data, found, prior=Prior("yolo", detector()), paper=True), 0, jax.devices()[0]
  )
  assert len(made.facts["lesions"]) >= 1


def test_no_footprint_touches_what_the_network_forbids(prepared):
  data, found = prepared["none"]

  def network(images_m11: np.ndarray, device: jax.Device) -> np.ndarray:
    return np.tile(np.linspace(1.0, 0.0, SIDE, dtype=np.float32), (SIDE, 1))  # forbids the left

  net = Model(transforms.View(SIDE, fit="pad"), network)
  for number in range(6):
    # The images' own masks would count first: take them away.
    setting = drawn.setting(data, found, danger=net, values={"floor": 1.0})
    setting = setting._replace(source=WithoutMasks(setting.source))
    made = image.make(setting, number, jax.devices()[0])
    columns = np.nonzero(made.mask)[1]
    assert columns.min() >= 104 // 2 - 2


class WithoutMasks:
  """Records that nobody has drawn forbidden tissue in."""

  def __init__(self, source: records.Records):
    self._source = source

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict:
    return {**self._source[index], "forbidden_mask": np.zeros((0, 0), np.uint8)}


def test_hosts_count_only_where_they_help():
  choices = [prior_scores.Choice("atlas"), prior_scores.Choice("atlas", hosts_power=0.5)]
  choices.append(prior_scores.Choice("uniform", hosts_power=1.0))
  for means, name, power in (((2.0, 1.0, 0.5), "atlas", 0.0), ((1.0, 2.0, 0.5), "atlas", 0.5),
                             ((1.0, 0.5, 2.0), "uniform", 1.0)):  # fmt: skip
    logs = {one.key: np.full(3, mean) for one, mean in zip(choices, means)}
    scores = prior_scores.Scores(logs, ["a", "b", "c"], [], {one.key: one for one in choices})
    first = next(iter(prior_scores.best(scores, hosts=True).values()))
    assert (first.name, first.hosts_power) == (name, power)
    assert prior_scores.best(scores, hosts=False) == {"atlas": choices[0]}


def test_the_better_prior_is_found(prepared):
  data, found = prepared["none"]
  source = records.source(data, "train")
  logs = prior_scores.score_priors(
    source, detector(), found.atlas, decoys=1.0, floor=0.3, seed=0, limit=4
  )
  assert len(logs.groups) == 2 * 4 == len(logs.logs["atlas"])
  # The lumps are gone, so that brightness tells nothing; all bodies have them at the same places.
  assert logs.logs["atlas"].mean() > 0.5
  best = prior_scores.best(logs, hosts=False)
  name, choice = next(iter(best.items()))
  assert name in ("atlas", "atlas x yolo")
  assert set(best) == {"atlas", "yolo", "atlas x yolo"}
  assert prior_scores.best(logs, hosts=True) == best  # there are none
  reported = prior_scores.table(logs, choice.key, others=["yolo ^ 1"], seed=0)
  assert set(reported["over_uniform"]) == {"atlas", choice.key, "yolo ^ 1"}
  assert reported["lesions"] == 8
  gain = reported["over_uniform"]["atlas"]
  assert gain["low"] <= gain["mean"] <= gain["high"]
  assert [len(picture[0]) for picture in logs.pictures] == [4] * len(logs.pictures)
