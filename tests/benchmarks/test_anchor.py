"""The anchor: which images, which epochs, and a tiny run of it from end to end."""

import json

import numpy as np
import pytest

from benchmarks import anchor, table
from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.nets import yolo
from tests import tiny_run


class Items(list):
  """Stands for records."""


def test_splits_are_behind_one_another():
  joined = anchor.Joined(Items("abc"), Items("de"))
  assert [joined[i] for i in range(len(joined))] == list("abcde")
  with pytest.raises(IndexError):
    joined[5]


@pytest.mark.parametrize("way", anchor.WAYS)
def test_a_way_differs_in_one_setting(way):
  one, base = (
    anchor.settings(name, size=320, batch=16, epochs=30).to_dict() for name in (way, "as_is")
  )
  flat = {name: value for name, value in _flat(one) if dict(_flat(base))[name] != value}
  assert len(flat) == (way != "as_is")
  assert base["lesion_free"] == 0.0  # lesions stay where they are
  assert base["close_mosaic"] == 10


def _flat(values, prefix=""):
  for name, value in values.items():
    if isinstance(value, dict):
      yield from _flat(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value


def test_the_best_epoch_is_that_of_the_stricter_figure_and_seeds_are_averaged():
  runs = [
    {"map50": [0.1, 0.5, 0.6], "map50_95": [0.0, 0.3, 0.2], "froc": [0.0, 0.7, 0.9]},
    {"map50": [0.1, 0.2, 0.4], "map50_95": [0.0, 0.1, 0.2], "froc": [0.0, 0.5, 0.7]},
  ]
  told = anchor._summary(runs)
  assert told["best"]["map50"] == {"mean": 0.45, "sd": pytest.approx(np.std([0.5, 0.4], ddof=1))}
  assert told["last"]["map50"]["mean"] == 0.5
  assert told["last"]["froc"]["mean"] == 0.8
  assert anchor._summary(runs[:1])["last"]["map50"]["sd"] is None


def test_no_epochs_are_refused(tmp_path):
  with pytest.raises(UserError, match="--epochs must be at least 1"):
    anchor.main(["--data", str(tmp_path), "--work", str(tmp_path), "--epochs=0"])


@pytest.mark.slow
def test_every_run_is_trained_judged_each_epoch_and_told(tmp_path, monkeypatch):
  rng = np.random.default_rng(0)

  def item(*_):
    image = rng.integers(0, 99, (40, 32, 1)).astype(np.uint8)
    image[10:18, 12:20] = 255
    return {
      "image": image,
      "boxes": np.array([[12, 10, 20, 18]], np.float32),
      "lesion_mask": np.zeros((0, 0), np.uint16),
      "forbidden_mask": np.zeros((0, 0), np.uint8),
      "value_range": np.array([0, 255], np.float32),
      "rescale_slope": 1.0,
      "rescale_intercept": 0.0,
      "photometric": "MONOCHROME2",
      "physics": "ct",
      "image_id": "ab",
      "group": "cd",
      "spacing_mm": np.full(2, np.nan, np.float32),
    }

  class Split(list):
    def without_masks(self):
      return self

    def __repr__(self):
      return "Split"

  splits = {"train": Split(item() for _ in range(6)), "val": Split([item()] * 2)}
  splits["test"] = Split([item()] * 3)
  monkeypatch.setattr(records, "source", lambda dataset, split: splits[split])
  monkeypatch.setattr(
    records, "open_dataset", lambda root: records.Dataset(tmp_path, {"fingerprint": "none"})
  )
  monkeypatch.setitem(yolo.SIZES, "n", {"width": 0.125, "most": 64, "deep": False})
  out = tmp_path / "anchor_cpu.json"
  given = ["--data", str(tmp_path), "--work", str(tmp_path / "runs"), "--out", str(out)]
  with tiny_run.quick_compiler():
    anchor.main([*given, "--seeds=3", "--epochs=2", "--batch=8", "--size=64"])
  facts = json.loads(out.read_text())["ways"]["as_is"]
  assert facts["size"] == 64
  (run,) = facts["runs"]
  assert run["seed"] == 3
  assert [len(run[name]) for name in anchor.FIGURES] == [2, 2, 2]
  lines = table.table(tmp_path).splitlines()
  assert len(lines) == 4
  assert "1 seed" in lines[-1]
