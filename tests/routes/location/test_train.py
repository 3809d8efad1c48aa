"""The location route from phantoms to a prior that synthesize uses."""

import json
from unittest import mock

import pytest

from hiresmed_jax import synthesize
from hiresmed_jax.inference import prior_scores
from hiresmed_jax.nets import yolo
from hiresmed_jax.routes import run
from hiresmed_jax.runtime.config import load_config
from tests import tiny, tiny_run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("location route")]
SPEC = f"{tiny.__file__}:location"
OVERRIDES = ["data.phantom.size=64", "location.size=64", "location.steps=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("location_route")
  tiny_net = {"n": {"width": 1 / 16, "most": 1024, "deep": False}}
  with (
    tiny_run.quick_compiler(),
    mock.patch.dict(yolo.SIZES, tiny_net),
    tiny_run.on_one_device(),
  ):
    done = run.train(load_config(SPEC, OVERRIDES), data=None, workdir=folder)["location"]
    given = ["--config", SPEC, "--workdir", str(folder), "--out", str(folder / "out")]
    given += [f"--config.{override}" for override in OVERRIDES]
    given += ["--background", "real", "--lesion-source", "copy", "--num", "2"]
    assert synthesize.main([*given, "--config.synthesize.prior=yolo"]) in (0, None)
  return folder, done


def test_a_detector_is_trained_on_emptied_images_and_judged_with_lesions(trained):
  folder, done = trained
  route = folder / "location"
  card = json.loads((folder / "data" / "card.json").read_text())
  assert (route / "bare" / "DONE").is_file()
  assert 0 < len(list((route / "bare").glob("*.png"))) <= card["splits"]["train"]
  results = done["results"]
  assert results["held_out"]["images"] == card["splits"]["test"]
  assert 0 <= results["held_out"]["map50_95"] <= results["held_out"]["map50"] <= 1
  figures = {path.name for path in (route / "figures").iterdir()}
  assert {"held_out.png", "priors.png", "curves.png"} <= figures


def test_the_prior_is_chosen_on_validation_images_and_told_on_held_out_ones(trained):
  _, done = trained
  prior = done["results"]["prior"]
  assert prior["name"] in ("uniform", "atlas", "yolo", "atlas x yolo")
  assert set(prior["powers"].values()) <= set(prior_scores.POWERS)
  assert set(prior["hosts_powers"].values()) <= set(prior_scores.HOSTS_POWERS)
  told = prior["held_out"]
  (used,) = set(told["over_uniform"]) - set(told["used_over"])
  assert "atlas" in told["over_uniform"]
  assert used.startswith(prior["name"]) or prior["name"] == "uniform"
  assert told["lesions"] >= told["groups"] > 0


def test_synthesize_draws_from_it_and_says_so(trained):
  folder, _ = trained
  lines = (folder / "out" / "manifest.jsonl").read_text().splitlines()
  sites = [lesion["prior"] for line in lines for lesion in json.loads(line)["lesions"]]
  assert len(lines) == 2
  assert set(sites) <= {"yolo", "yolo x hosts", "uniform"}
