"""The baseline DDM from images to samples that `evaluate` takes."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax import evaluate, explain, train
from hiresmed_jax.errors import UserError
from hiresmed_jax.ops import diffusion
from hiresmed_jax.ops.upsample import space_to_depth
from hiresmed_jax.routes import settings
from hiresmed_jax.routes.baselines import samples
from hiresmed_jax.routes.baselines.ddm import sample
from hiresmed_jax.runtime.config import load_config
from hiresmed_jax.runtime.progress import Progress
from tests import tiny, tiny_run

TINY = f"{tiny.__file__}:ddm"
LEVELS = 8
KNOWN = diffusion.levels("cosine", LEVELS)
IMAGES = tiny_run.images(1, 8)[0]  # what the network below knows


def knows(_, noisy, at):
  """A network that knows the image, and how noisy it is only from its levels."""
  signal, noise = (jnp.asarray(x)[at][:, None, None, None] for x in KNOWN)
  return (noisy - signal * space_to_depth(jnp.asarray(IMAGES)[None], 2)) / noise


def write(folder: Path, *, apply=knows, data: int = 1, **changes):
  plan = changes.pop("plan", diffusion.steps("cosine", LEVELS, number=LEVELS))
  shape, net = changes.pop("shape", (4, 4, 4)), SimpleNamespace(apply=apply)
  mesh = tiny_run.mesh(data)
  given = {"count": 5, "batch_size": 2 * data, "seed": 3, "size": (8, 8), "grey": True}
  with Progress(None, "samples") as progress:
    make = sample.maker({}, net=net, plan=plan, shape=shape, patch=2, progress=progress, mesh=mesh)
    samples.write(folder, make, mesh=mesh, **given | changes)
  return samples.read(folder, range(5))


def test_a_network_that_knows_the_image_ends_in_it(tmp_path):
  expected = np.rint(IMAGES[..., 0] * 127.5 + 127.5)
  for found in write(tmp_path):
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1
  sampler = diffusion.steps("cosine", LEVELS, number=3, sampler="ddim")
  for found in write(tmp_path / "ddim", plan=sampler):
    assert np.abs(found - expected).max() <= 1


def test_samples_differ_and_are_the_same_on_any_number_of_devices(tmp_path):
  def guess(_, noisy, at):
    return 0.7 * noisy

  one = write(tmp_path / "one", apply=guess)
  other = write(tmp_path / "other", apply=guess, data=8)
  for number in range(5):
    np.testing.assert_array_equal(one[number], other[number])
  assert len({image.tobytes() for image in one}) == 5
  assert not np.array_equal(one[0], write(tmp_path / "seed", apply=guess, seed=4)[0])


def test_samples_are_enlarged_to_the_size_of_the_images(tmp_path):
  found = write(tmp_path, size=(32, 24))[0]
  assert found.shape == (32, 24)
  small = np.rint(IMAGES[..., 0] * 127.5 + 127.5)
  assert np.abs(cv2.resize(found, (8, 8), interpolation=cv2.INTER_AREA) - small).mean() < 3
  colour = write(tmp_path / "colour", apply=lambda _, x, at: 0.7 * x, shape=(4, 4, 12), grey=False)[
    0
  ]
  assert colour.shape == (8, 8, 3)


def test_sampling_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
  whole = write(tmp_path / "whole")
  calls = iter(range(1, 100))

  def advance(self):
    if next(calls) == LEVELS + 3:  # in the second batch
      raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(Progress, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
      write(tmp_path / "stopped")
  there = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").iterdir()}
  assert len(there) == 2
  np.testing.assert_array_equal(write(tmp_path / "stopped"), whole)
  assert all(path.stat().st_mtime_ns == before for path, before in there.items())


def test_the_config_is_found_by_its_folder_and_knows_its_presets():
  paper = load_config("baselines/ddm.py")
  assert (paper.name, settings.wanted(paper)) == ("ddm", ("ddm",))
  assert tuple(paper.ddm.size) == (128, 128)
  assert tuple(paper.data.size) == (1024, 1024)
  assert tuple(load_config("baselines/ddm.py:ddm,best").ddm.size) == (256, 256)
  assert settings.wanted(load_config("lidc.py:ddm")) == ("ddm",)
  with pytest.raises(UserError, match="unknown route 'background'"):
    load_config("baselines/ddm.py:background")
  with pytest.raises(UserError, match=r"did you mean baselines/ddm\.py"):
    load_config("baselines/dm.py")


@pytest.mark.slow
def test_it_is_trained_by_two_steps_sampled_and_compared(tmp_path, capsys):
  command = ["--config", TINY, "--workdir", str(tmp_path)]
  with tiny_run.quick_compiler():
    assert train.main(command) == 0
  done = json.loads((tmp_path / "ddm" / "DONE.json").read_text())
  assert done["best_step"] == 2
  for split in ("train", "val", "held_out"):
    assert 0.5 < done["results"][split]["noise_mse"] < 1.5
  assert "DDPM at 16 x 16, resized to 32 x 32 (bicubic), 3 steps, ancestral" in str(done["results"])
  figures = {path.name for path in (tmp_path / "ddm" / "figures").iterdir()}
  assert figures == {"samples.png", "curves.png", "estimates_0000002.png"}
  found = samples.read(tmp_path / "ddm" / "samples", range(3))
  assert [image.shape for image in found] == [(32, 32)] * 3
  assert train.main(command) == 0
  assert "ddm is trained already" in capsys.readouterr().out

  with tiny_run.quick_compiler(), tiny_run.on_one_device():
    assert train.main([*command[:-1], str(tmp_path / "one")]) == 0
  lines = (tiny_run.metrics(folder / "ddm") for folder in (tmp_path, tmp_path / "one"))
  for eight, one in zip(*lines, strict=True):
    assert eight == pytest.approx(one, rel=1e-5, abs=1e-5)
  for eight, one in zip(found, samples.read(tmp_path / "one" / "ddm" / "samples", range(3))):
    assert np.abs(eight.astype(int) - one).max() <= 1

  given = ["--real", str(tmp_path / "data"), "--out", str(tmp_path / "report"), "--lpips", "none"]
  assert not evaluate.main([*given, "--baseline", f"DDM={tmp_path / 'ddm' / 'samples'}"])
  assert "DDM" in (tmp_path / "report" / "report.md").read_text()

  explain.main(["--config", TINY, "--devices", "8"])
  told = capsys.readouterr().out
  assert "8 x cpu" in told
  assert "images of 16 x 16, patches of 2 x 2 px; samples are written at 32 x 32" in told
