"""The config of the published VQGAN from images to reconstructions, in the route `background`."""

import json
import shutil

import pytest

from hiresmed_jax import evaluate, train
from tests import tiny_run

DATA = {"phantom.kind": "kub", "phantom.num": 24, "phantom.size": 32, "size": (32, 32)}
NET = {"channels": (8, 16), "strides": (1, 2), "stem_channels": 8, "code_dim": 4}
NET |= {"encoder_blocks": 1, "decoder_blocks": 1}
LOSSES = {"codebook.num_codes": 16, "gan.features": (4, 8), "gan.start": 0.0}
BACKGROUND = {"batch_size": 8, "steps": 2, "log_every": 1, "eval_every": 2, "dtype": "float32"}
BACKGROUND |= {f"net.{key}": value for key, value in NET.items()} | LOSSES
BACKGROUND |= {"net.full_resolution_channels": 8, "perceptual.net": None}
VALUES = {f"data.{key}": value for key, value in {**DATA, "channels": 1}.items()}
VALUES |= {f"background.{key}": value for key, value in BACKGROUND.items()}


@pytest.mark.slow
def test_it_is_trained_by_two_steps_on_any_number_of_devices_and_compared(tmp_path):
  command = ["--config", "baselines/vqgan.py", "--workdir", str(tmp_path)]
  command += [f"--config.{key}={value}" for key, value in VALUES.items()]
  with tiny_run.quick_compiler():
    assert train.main(command) == 0
  done = json.loads((tmp_path / "background" / "DONE.json").read_text())
  assert (tmp_path / "background" / "figures" / "held_out.png").is_file()

  shutil.copytree(tmp_path / "data", tmp_path / "one" / "data")
  command[3] = str(tmp_path / "one")
  report = ["--workdir", f"VQGAN={tmp_path}", "--lpips", "none", "--out", str(tmp_path / "report")]
  with tiny_run.quick_compiler(), tiny_run.on_one_device():
    assert train.main(command) == 0
    evaluate.main(report)
  lines = [tiny_run.metrics(folder / "background") for folder in (tmp_path, tmp_path / "one")]
  assert lines[0][1]["gan_weight"] > 0
  for eight, one in zip(*lines, strict=True):
    assert eight == pytest.approx(one, rel=1e-4, abs=1e-5)
  found = json.loads((tmp_path / "report" / "report.json").read_text())["methods"]["VQGAN"]
  psnr = done["results"]["held_out"]["psnr"]
  assert found["numbers"]["psnr"]["value"] == pytest.approx(psnr, abs=1e-3)
