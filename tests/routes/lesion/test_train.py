"""The lesion route from phantoms to a bank that synthesize opens."""

import json

import jax
import numpy as np
import pytest

from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import workdir
from hiresmed_jax.lesions import bank
from hiresmed_jax.lesions.patch import LesionPatch
from hiresmed_jax.routes import run
from hiresmed_jax.routes.lesion import train as lesion
from hiresmed_jax.runtime.config import load_config
from tests import tiny, tiny_run

pytestmark = pytest.mark.xdist_group("lesion route")  # trained once
LESION = f"{tiny.__file__}:lesion"
PHANTOMS = ["data.phantom.size=128", "data.phantom.num=16"]


def patch(side: int, group: str, diameter_px: float = 6.0) -> LesionPatch:
  image = np.zeros((side, side, 1), np.float32)
  return LesionPatch(
    values=image,
    surround=image,
    alpha=image[..., 0],
    diameter_px=diameter_px,
    spacing_mm=(1.0, 1.0),
    physics="ct",
    donor=f"image of {group}",
    donor_group=group,
    kind="copy",
    value_range=(0.0, 255.0),
  )


def test_one_lesion_of_each_patient_before_a_second():
  values = load_config(LESION, ["lesion.limit=3", "lesion.sides=(32,48)"]).lesion
  patches = [patch(48, "a"), patch(32, "a"), patch(64, "b"), patch(32, "c"), patch(32, "d")]
  chosen = lesion.chosen(patches, values)
  assert [(p.alpha.shape[0], p.donor_group) for p in chosen] == [(32, "c"), (32, "d"), (48, "a")]
  everything = load_config(LESION, ["lesion.limit=0"]).lesion
  assert len(lesion.chosen(patches, everything)) == 3


def test_values_are_those_of_the_backend():
  values = load_config(LESION, ["lesion.steps=2000", "lesion.cpu_steps=7"]).lesion
  cpu, gpu = (lesion.resolved(values, backend) for backend in ("cpu", "gpu"))
  assert (cpu.steps, cpu.at_once) == (7, 1)
  assert (gpu.steps, gpu.at_once) == (2000, 0)
  assert "cpu_steps" not in cpu
  assert values.steps == 2000


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("lesion_route")
  config = load_config(LESION, PHANTOMS)
  with tiny_run.quick_compiler():
    results = run.train(config, data=None, workdir=folder)
  return folder, config, results["lesion"]


@pytest.mark.slow
def test_a_bank_is_trained_on_all_devices(trained):
  folder, config, done = trained
  values = config.lesion
  opened = bank.load(folder / "lesion" / "bank")
  assert done["results"]["lesions"] == len(opened.members) == values.limit
  assert jax.device_count() == 8  # 3 lesions and 5 that only fill the devices up
  assert done["results"]["windows"] == {"32": 3}
  (group,) = opened.groups
  assert group.generators.amplitudes.shape == (3, len(group.pyramid.sizes))
  assert done["best_step"] == values.cpu_steps * len(group.pyramid.sizes)
  figures = {path.name for path in (folder / "lesion" / "figures").iterdir()}
  assert f"level_{done['best_step']:07d}.png" in figures
  rows = tiny_run.metrics(folder / "lesion")
  assert rows[-1]["step"] == done["best_step"]
  assert np.isfinite(rows[-1]["val_rmse"])


@pytest.mark.slow
def test_the_bank_is_of_training_patients_and_is_found(trained):
  folder, _, done = trained
  dataset = workdir.dataset_of(folder, None)
  groups = {item["group"] for item in records.source(dataset, "train")}
  opened = bank.load(folder / "lesion" / "bank")
  assert {member.donor_group for member in opened.members} <= groups
  made = workdir.finished(folder, "lesion", dataset.card["fingerprint"])
  assert made.best_step == done["best_step"]
  assert (
    json.loads((folder / "data.json").read_text())["fingerprint"] == dataset.card["fingerprint"]
  )
  assert isinstance(opened.sample(1, 0), LesionPatch | str)
  assert isinstance(opened, bank.Bank)


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(trained, monkeypatch, capsys):
  folder, config, done = trained
  monkeypatch.setattr(
    "hiresmed_jax.routes.loop.compile_programs", lambda *_: pytest.fail("compiled")
  )
  assert run.train(config, data=None, workdir=folder)["lesion"] == done
  assert "is trained already" in capsys.readouterr().out
  with pytest.raises(UserError, match=r"another config \(lesion.alpha"):
    run.train(load_config(LESION, [*PHANTOMS, "lesion.alpha=3.0"]), data=None, workdir=folder)
