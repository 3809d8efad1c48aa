"""What an earlier version has made is opened and used (tests/data/legacy/README.md)."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from hiresmed_jax import routes, synthesize
from hiresmed_jax.convert import arrays
from hiresmed_jax.data import records
from hiresmed_jax.data.identity import SPLITS
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import bank
from hiresmed_jax.nets import yolo
from hiresmed_jax.routes.dataset import identity
from hiresmed_jax.routes.lesion.train import resolved
from hiresmed_jax.runtime import run_folder
from hiresmed_jax.runtime.config import load_config
from hiresmed_jax.runtime.rules import share
from hiresmed_jax.runtime.settings import Setting
from tests.test_train import environment

REPO = Path(__file__).resolve().parents[1]
LEGACY = REPO / "tests" / "data" / "legacy"
EXPECTED = json.loads((LEGACY / "expected.json").read_text())
# What the run was trained with; `synthesize` needs the first part as well.
SEEN, TRAINED = (
  re.findall(r"\$c\.(\S+)", part)
  for part in (LEGACY / "make" / "config.sh").read_text().split("trained=(")
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
  """A copy, and the file of weights that its detector began with."""
  place = tmp_path_factory.mktemp("legacy") / "copy"
  shutil.copytree(LEGACY, place)
  shapes = arrays.layout(yolo.Yolo11(1, **yolo.SIZES["n"], near=1.0), 32, channels=1)
  np.savez(place / "yolo.npz", **{name: np.zeros(shape, "f4") for name, shape in shapes.items()})
  return place


def config(*overrides: str):
  return load_config("kub.py:all,best", [*SEEN, *TRAINED, *overrides])


def claimed(place: Path, route: str, *overrides: str):
  """Content of DONE.json, as a command of these settings finds it; None where it would train."""
  asked, dataset = config(*overrides), records.open_dataset(place / "dataset")
  values = None
  if route == "lesion":
    values = {"lesion": resolved(asked.lesion, "cpu").to_dict()}
  folder = place / "run" / route
  return run_folder.claim(folder, identity(asked, route, dataset, folder, values))


def test_the_dataset_opens(place):
  dataset = records.open_dataset(place / "dataset")
  items = [item for split in SPLITS for item in records.source(dataset, split)]
  assert len(items) == dataset.card["images"] == 12
  assert sum(len(item["boxes"]) for item in items) == dataset.card["boxes"] > 0


@pytest.mark.parametrize("route", routes.ROUTES)
def test_a_run_stays_the_same_run_when_a_setting_is_added(place, route, monkeypatch):
  assert claimed(place, route) == EXPECTED["results"][route]
  module = importlib.import_module(f"hiresmed_jax.routes.{route}.settings")
  row = Setting("added.later", 0.5, 0.5, share(), "a reason", as_it_was=0.0)
  monkeypatch.setattr(module, "TABLE", module.TABLE._replace(rows=(*module.TABLE.rows, row)))
  key = f"{route}.added.later"
  assert claimed(place, route, f"{key}=0.0") == EXPECTED["results"][route]
  with pytest.raises(UserError, match="holds a run of another config"):
    claimed(place, route)  # 0.5, which is not as it was
  with pytest.raises(UserError, match="holds a run of another config"):
    claimed(place, route, f"{key}=0.0", "seed=1")


def test_the_bank_opens(place):
  opened = bank.load(place / "run" / "lesion" / "bank")
  assert len(opened.members) == 2
  assert np.isnan([member.accepted for member in opened.members]).all()  # it was not measured then
  patch = opened.sample(0, 0)
  assert isinstance(patch, str) or np.isfinite(patch.values).all()


def test_where_its_bank_gives_no_lesion_copies_do_and_the_summary_is_json_alone(
  place, monkeypatch, capsys
):
  monkeypatch.chdir(place)
  monkeypatch.setattr(bank, "_TRIES", 0)
  given = ["--config", "kub.py:all,best", "--workdir", "run", "--data", "dataset", "--num", "2"]
  given += [*changes(*SEEN, "synthesize.prior=uniform", "synthesize.danger=off"), "--json"]
  given += ["--background", "real", "--lesions", "2", "--out", "substituted"]
  synthesize.main([*given, "--on-empty", "copy"])
  told = json.loads(capsys.readouterr().out)
  assert (told["images"], told["asked"], told["failed"]) == (2, 2, [])
  assert told["substituted"] == told["lesions"] == 4
  for line in (place / "substituted" / "manifest.jsonl").read_text().splitlines():
    facts = json.loads(line)
    assert [lesion["kind"] for lesion in facts["lesions"]] == ["copy", "copy"]
    assert all(lesion["substitute_because"] for lesion in facts["lesions"])
    mask = cv2.imread(str(place / "substituted" / facts["mask"]), cv2.IMREAD_UNCHANGED)
    assert mask.max() == 2

  with pytest.raises(UserError, match="2 of 2 images failed; image 0: the bank gave no lesion"):
    synthesize.main([*given[:-1], "failed"])
  told = json.loads(capsys.readouterr().out)
  assert (told["images"], len(told["failed"]), told["contact_sheet"]) == (0, 2, None)


def command(place: Path, name: str, *arguments: str) -> str:
  """What a command prints, called as a user does: on one device, in a process of its own."""
  done = subprocess.run(
    [sys.executable, "-m", f"hiresmed_jax.{name}", "--config", "kub.py:all,best", *arguments],
    cwd=place,
    env=environment(JAX_NUM_CPU_DEVICES="1"),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def changes(*overrides: str) -> list[str]:
  return [f"--config.{override}" for override in overrides]


@pytest.mark.slow
def test_the_same_commands_find_it_trained_go_on_and_synthesize_from_it(place):
  given = ["--workdir", "run", "--data", "dataset"]
  unfinished = place / "run" / "danger" / "DONE.json"
  unfinished.unlink()  # its checkpoint is there
  told = command(place, "train", *given, *changes(*SEEN, *TRAINED))
  for route in ("background", "lesion", "location"):
    assert f"{route} is trained already" in told
  assert "danger is trained already" not in told
  before, after = EXPECTED["results"]["danger"], json.loads(unfinished.read_text())
  assert after["config_hash"] == before["config_hash"]
  assert after["best_step"] == before["best_step"] == 40
  dice = [done["results"]["held_out"]["dice"] for done in (before, after)]
  assert dice[1] == pytest.approx(dice[0], abs=1e-3)

  given += [*changes(*SEEN, "synthesize.hosts=off", "synthesize.floor=0.3"), "--num", "2"]
  given += ["--depth", "16"]
  command(place, "synthesize", *given, "--lesions", "2", "--out", "plain")
  networks = changes("synthesize.prior=atlas x yolo", "synthesize.danger=on")
  more = ["--lesions", "1", "--seed", "1", "--out", "networks"]
  command(place, "synthesize", *given, *networks, *more)
  # Lesions are placed and inserted in another way now, so that the pictures are others.
  for name, count in (("plain", 2), ("networks", 1)):
    lines = (place / name / "manifest.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["lesions"]) for line in lines] == [count, count]
    for path in sorted((place / name / "images").glob("*.png")):
      mask = cv2.imread(str(place / name / "masks" / path.name), cv2.IMREAD_UNCHANGED)
      assert set(np.unique(mask)) == set(range(count + 1))
      labels = (place / name / "labels" / f"{path.stem}.txt").read_text().splitlines()
      assert len(labels) == count
