"""The baseline StyleSwin from images to samples."""

import json

import numpy as np
import pytest

from hiresmed_jax import explain, train
from hiresmed_jax.routes import settings
from hiresmed_jax.routes.baselines import samples
from hiresmed_jax.runtime.config import load_config
from tests import tiny, tiny_run

TINY = f"{tiny.__file__}:styleswin"


def test_the_config_is_found_by_its_folder_and_knows_its_presets():
  paper = load_config("baselines/styleswin.py")
  assert settings.wanted(paper) == ("styleswin",)
  assert (paper.styleswin.size, paper.styleswin.net.multiplier) == (1024, 1)
  best = load_config("baselines/styleswin.py:styleswin,best").styleswin
  assert (best.size, best.net.multiplier) == (256, 2)


@pytest.mark.slow
def test_it_is_trained_by_two_steps_and_sampled(tmp_path, capsys):
  command = ["--config", TINY, "--workdir", str(tmp_path)]
  with tiny_run.quick_compiler():
    assert train.main(command) == 0
  done = json.loads((tmp_path / "styleswin" / "DONE.json").read_text())
  assert done["best_step"] == 2
  for split in ("train", "val", "held_out"):
    assert np.isfinite(done["results"][split]["real_logit"])
  assert "StyleSwin at 16 x 16, resized to 32 x 32 (bicubic)" in str(done["results"])
  figures = {path.name for path in (tmp_path / "styleswin" / "figures").iterdir()}
  assert figures == {"samples.png", "curves.png", "made_0000002.png"}
  found = samples.read(tmp_path / "styleswin" / "samples", range(3))
  assert [image.shape for image in found] == [(32, 32)] * 3
  assert not np.array_equal(found[0], found[1])

  with tiny_run.quick_compiler(), tiny_run.on_one_device():
    assert train.main([*command[:-1], str(tmp_path / "one")]) == 0
  lines = [tiny_run.metrics(folder / "styleswin") for folder in (tmp_path, tmp_path / "one")]
  assert lines[0][0]["consistency"] > 0
  for eight, one in zip(*lines, strict=True):
    assert eight == pytest.approx(one, rel=1e-4, abs=1e-5)
  for eight, one in zip(found, samples.read(tmp_path / "one" / "styleswin" / "samples", range(3))):
    assert np.abs(eight.astype(int) - one).max() <= 1

  capsys.readouterr()
  explain.main(["--config", TINY, "--devices", "8"])
  told = capsys.readouterr().out
  assert "images of 16 x 16; samples are written at 32 x 32" in told
