import pytest

from hiresmed_jax.routes import presets
from hiresmed_jax.routes.departures import (
  REASONS,
  danger_departures,
  departures,
  lesion_departures,
  location_departures,
  reason_for,
)
from hiresmed_jax.runtime.overrides import apply_override, leaves


def config(*overrides, preset="paper"):
  made = presets.base("toy", route="all", preset=preset)
  for override in overrides:
    apply_override(made, override)
  return made


def found(config):
  kinds = (departures, lesion_departures, location_departures, danger_departures)
  both = [departure for kind in kinds for departure in kind(config)]
  return {departure.what: departure for departure in both}


def test_the_paper_preset_departs_only_where_the_paper_is_unclear():
  keys = dict(leaves(config()))
  assert not keys.keys() & found(config()).keys()


def test_a_changed_value_is_listed_with_both_values():
  listed = found(config("background.gan.weight=0.5", "seed=3", "background.log_every=1"))
  assert listed["background.gan.weight"].paper == "0.1"
  assert listed["background.gan.weight"].ours == "0.5"
  assert "seed" not in listed
  assert "background.log_every" not in listed


def test_everything_that_the_presets_differ_in_has_its_own_reason():
  listed = found(config(preset="best"))
  paper, best = dict(leaves(config())), dict(leaves(config(preset="best")))
  differing = {key for key in paper if paper[key] != best[key]} - {"preset"}
  assert differing
  for key in differing:
    assert listed[key].reason == reason_for(key) != ""


def test_every_reason_is_of_a_key_that_exists():
  keys = [key for key, _ in leaves(config())]
  assert [b for b in REASONS if not any(f"{k}.".startswith(f"{b}.") for k in keys)] == []


@pytest.mark.parametrize(
  ("override", "what"),
  [
    ("background.net.block=residual", "HDFB"),
    ("background.net.drop_path_rate=0", "DropPath"),
    ("background.net.kernel_init_std=0.02", "initial kernels"),
    ("background.net.upsampling=resize", "initial upsampling kernels"),
    ("background.gan.weight=0", "start of the adversarial loss"),
  ],
)
def test_a_reading_that_does_not_apply_is_not_listed(override, what):
  assert what in found(config())
  assert what not in found(config(override))


def test_reasons_fit_on_a_line():
  for preset in presets.PRESETS:
    for departure in departures(config(preset=preset)):
      assert all("\n" not in text and text for text in departure)
      assert len(departure.reason) <= 100
