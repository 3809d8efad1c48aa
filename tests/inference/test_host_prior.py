"""The fit of where lesions live: made once, kept, used where it can be."""

import types

import jax
import numpy as np
import pytest

from hiresmed_jax import files
from hiresmed_jax.data import records
from hiresmed_jax.inference import canvas, host_prior, places, survey
from hiresmed_jax.synthesis import image
from tests.synthesis import drawn


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
  """(dataset, survey, workdir, fit) of twelve drawn images."""
  folder = tmp_path_factory.mktemp("hosts")
  data = drawn.dataset(folder / "data", count=12)
  found = survey.load_or_make(data, folder)
  made = host_prior.load_or_make(data, folder, found.atlas, host_rule="")
  return data, found, folder, made


def test_the_fit_is_kept_and_a_damaged_file_is_made_anew(fitted):
  data, found, folder, made = fitted
  (path,) = folder.glob("hosts-*.npz")
  content = path.read_bytes()
  kept = host_prior.load(folder, data.card["fingerprint"], host_rule="")
  assert kept is not None
  assert kept._replace(hosts=None) == made._replace(hosts=None)
  for first, second in zip(kept.hosts, made.hosts):
    np.testing.assert_array_equal(first, second)
  path.write_bytes(content[:-300])
  assert host_prior.load(folder, data.card["fingerprint"], host_rule="") is None
  again = host_prior.load_or_make(data, folder, found.atlas, host_rule="")
  assert (again.digest, again.power) == (made.digest, made.power)
  assert host_prior.load(folder, data.card["fingerprint"], host_rule="lung") is None


def test_places_are_likelier_where_lesions_were(fitted):
  data, found, folder, made = fitted
  prior, label = places.open_prior("auto", folder, data.card["fingerprint"], fitted=made)
  assert made.digest in label
  assert prior.label in ("hosts", "atlas x hosts")
  assert not places.why_weak(prior, made)
  item = records.source(data, "test")[0]
  scene = canvas.real(item)
  density = places.density(prior, found.atlas, scene)
  score = places.score_map(prior, density, scene, 8.0)
  lesions = item["lesion_mask"] > 0
  assert score[lesions].mean() > 4 * score[scene.content].mean()
  assert (score[~density.likely] == 0).all()
  facts = image.make(
    drawn.setting(data, found, prior=prior, values={"floor": 0.0}), 0, jax.devices()[0]
  ).facts
  assert {lesion["prior"] for lesion in facts["lesions"]} == {prior.label}


@pytest.mark.parametrize("chosen", [None, "atlas", "uniform", "atlas x yolo"])
@pytest.mark.parametrize("has_hosts", [False, True])
def test_the_same_prior_is_opened_again(fitted, tmp_path, monkeypatch, chosen, has_hosts):
  fingerprint, made = fitted[0].card["fingerprint"], fitted[3] if has_hosts else None
  if chosen:
    powers = {"atlas x yolo": 1.0, "yolo": 0.25}
    found = {"name": chosen, "powers": powers, "hosts_powers": {chosen: 0.35}}
    model = types.SimpleNamespace(results={"prior": found}, step=4)
    monkeypatch.setattr(places.workdir, "location_of", lambda *_, **__: model)
    files.write(tmp_path / "location" / "DONE.json", b"{}")
  first = places.open_prior("auto", tmp_path, fingerprint, fitted=made)
  again = places.open_prior(places.asked_again(first[1]), tmp_path, fingerprint, fitted=made)
  assert again == first
  if not chosen:  # and when the route is trained meanwhile
    files.write(tmp_path / "location" / "DONE.json", b"{}")
    asked = places.asked_again(first[1])
    assert places.open_prior(asked, tmp_path, fingerprint, fitted=made) == first


def test_where_it_does_not_help_the_atlas_is_used_and_it_is_said(fitted):
  data, _, folder, made = fitted
  poor, fingerprint = (
    made._replace(gains={"atlas": 2.0, "hosts ^ 1": 1.0}),
    data.card["fingerprint"],
  )
  prior, label = places.open_prior("auto", folder, fingerprint, fitted=poor)
  assert (prior, label) == (places.Prior("atlas"), "atlas")
  assert "better than" in places.why_weak(prior, poor)
  assert places.open_prior(places.asked_again(label), folder, fingerprint, fitted=poor)[0] == prior
  assert places.open_prior("hosts", folder, fingerprint, fitted=poor)[0].hosts is not None


def test_a_choice_without_hosts_is_no_weakness_and_hosts_that_are_gone_are(fitted):
  made = fitted[3]

  def weak(powers, of_fit):
    model = types.SimpleNamespace(results={"prior": {"hosts_powers": powers}}, step=4)
    return places.why_weak(places.Prior("atlas x yolo", model), of_fit)

  assert not weak({"uniform": 0.5}, made)  # tried, and not chosen
  assert "trained before" in weak({}, made)  # never tried
  gone = made._replace(hosts=None, why="it is gone")
  assert "it is gone" in weak({"uniform": 0.5, "atlas x yolo": 0.5}, gone)
  assert "it is gone" in weak({"uniform": 0.5}, gone)


def test_large_lesions_need_all_that_they_cover(fitted):
  data, found, folder, made = fitted
  prior, _ = places.open_prior("auto", folder, data.card["fingerprint"], fitted=made)
  scene = canvas.real(records.source(data, "test")[0])
  density = places.density(prior, found.atlas, scene)
  row, column = np.unravel_index(np.argmax(density.odds.of_mean), scene.shape)
  odds = np.full(scene.shape, -9.0, np.float32)
  odds[row - 2 : row + 3, column - 2 : column + 3] = 2.0  # a small place
  flat = density.odds._replace(of_mean=odds, by_size=0 * odds)
  small, large = (
    places.plenty(prior, density._replace(odds=flat), scene, scene.content, size)
    for size in (3.0, 20.0)
  )
  assert small > 20 * large
  assert places.plenty(places.Prior("atlas"), density, scene, scene.content, 5.0) == 1.0


def test_a_run_without_it_places_as_before_and_says_so(fitted):
  data, _, folder, made = fitted
  prior, label = places.open_prior("auto", folder, data.card["fingerprint"])
  assert (prior, label) == (places.Prior("atlas"), "atlas")
  assert "atlas alone" in places.why_weak(prior, None)
  assert places.open_prior("uniform", folder, "", fitted=made) == (
    places.Prior("uniform"),
    "uniform",
  )


def test_too_few_lesions_are_not_fitted(tmp_path):
  data = drawn.dataset(tmp_path / "data", count=2)
  found = survey.make(records.source(data, "train"))
  made = host_prior.make(data, found.atlas, host_rule="")
  assert made.hosts is None
  assert "4 lesions" in made.why
  prior, _ = places.open_prior("auto", tmp_path, data.card["fingerprint"], fitted=made)
  assert prior == places.Prior("atlas")
  assert made.why in places.why_weak(prior, made)
