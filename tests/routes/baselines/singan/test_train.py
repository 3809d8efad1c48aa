"""The baseline SinGAN from one image to samples."""

import json

import numpy as np
import pytest

from hiresmed_jax import explain, train
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import settings, singan_task
from hiresmed_jax.routes.baselines import samples
from hiresmed_jax.runtime.config import load_config
from tests import tiny, tiny_run

TINY = f"{tiny.__file__}:singan"


def test_the_config_is_the_published_pyramid(capsys):
  config = load_config("baselines/singan.py")
  assert settings.wanted(config) == ("singan",)
  pyramid = singan_task.pyramid_of(config.singan, config.singan.size)
  assert len(pyramid.sizes) == 10
  assert (pyramid.sizes[0], pyramid.sizes[-1]) == ((25, 25), (250, 250))
  explain.main(["--config", "baselines/singan.py"])
  assert "1,479,966 parameters of an image's generators" in capsys.readouterr().out
  config.singan.size = 16
  with pytest.raises(UserError, match=r"singan\.min_size=25 of a finest level of 16 px"):
    settings.check(config, ["singan"])


@pytest.mark.slow
def test_two_steps_a_level_and_samples_are_the_same_on_any_number_of_devices(tmp_path):
  command = ["--config", TINY, "--workdir", str(tmp_path)]
  with tiny_run.quick_compiler():
    assert train.main(command) == 0
  done = json.loads((tmp_path / "singan" / "DONE.json").read_text())
  assert done["best_step"] == 4  # two levels, 25 and 28 px
  assert done["results"]["train"]["images"] == 1
  assert "SinGAN at 28 x 28, resized to 32 x 32 (bicubic)" in str(done["results"])
  figures = {path.name for path in (tmp_path / "singan" / "figures").iterdir()}
  assert {"samples.png", "level_0000002.png", "level_0000004.png"} <= figures
  found = samples.read(tmp_path / "singan" / "samples", range(3))
  assert [image.shape for image in found] == [(32, 32)] * 3
  assert not np.array_equal(found[0], found[1])

  with tiny_run.quick_compiler(), tiny_run.on_one_device():
    assert train.main([*command[:-1], str(tmp_path / "one")]) == 0
  lines = [tiny_run.metrics(folder / "singan") for folder in (tmp_path, tmp_path / "one")]
  for eight, one in zip(*lines, strict=True):
    assert eight == pytest.approx(one, rel=1e-5, abs=1e-5)
  for eight, one in zip(found, samples.read(tmp_path / "one" / "singan" / "samples", range(3))):
    assert np.abs(eight.astype(int) - one).max() <= 1
