"""When a run came to stay below an error."""

import json
import math

import numpy as np
import pytest

from hiresmed_jax.errors import UserError
from hiresmed_jax.evaluation import convergence

VAL = "val_l1"


def run(path, values, *, key="val_l1", seconds=2.0, start=1000.0, images=None):
  """A workdir whose metrics.jsonl has a line every 10 steps."""
  folder = path / "background"
  folder.mkdir(parents=True)
  lines = [{"step": 0, "time": start}]
  lines += [{"step": 10 * i, "time": start + seconds * i, key: v} for i, v in enumerate(values, 1)]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  if images:
    (folder / "config.json").write_text(json.dumps({"config": {"background": {"batch_size": 4}}}))
    (path / "data").mkdir()
    (path / "data" / "card.json").write_text(json.dumps({"splits": {"train": images}}))
  return path


def test_first_below_for_good():
  value, at = np.array([0.5, 0.2, 0.3, 0.1, 0.2]), np.arange(5.0)
  assert convergence.first_below(value, at, 0.25) == 3.0
  assert convergence.first_below(value, at, 0.3) == 1.0
  assert convergence.first_below(value, at, 0.9) == 0.0
  assert math.isnan(convergence.first_below(value, at, 0.15))


def test_steps_epochs_and_seconds(tmp_path):
  curve = convergence.read(run(tmp_path / "a", [0.4, 0.2, 0.1], images=21), VAL)
  np.testing.assert_array_equal(curve.step, [10, 20, 30])
  np.testing.assert_array_equal(curve.epoch, [2, 4, 6])  # 5 steps an epoch
  np.testing.assert_array_equal(curve.seconds, [2, 4, 6])
  bare = convergence.read(run(tmp_path / "b", [0.4], images=None) / "background", VAL)
  assert np.isnan(bare.epoch).all()


def test_the_loss_of_single_batches_is_smoothed(tmp_path):
  values = [7.0, 5.0, 6.0, 1.0, 1.0, 2.0, 9.0]
  curve = convergence.read(run(tmp_path / "a", values, key="reconstruction"))
  expected = [np.mean(values[max(i - 4, 0) : i + 1]) for i in range(7)]
  np.testing.assert_allclose(curve.value, expected)


def test_runs_side_by_side(tmp_path):
  fast = [
    convergence.read(run(tmp_path / "fast0", [0.3, 0.1, 0.1]), VAL),
    convergence.read(run(tmp_path / "fast1", [0.3, 0.3, 0.1]), VAL),
  ]
  slow = [convergence.read(run(tmp_path / "slow", [0.5, 0.4, 0.15], seconds=7.0), VAL)]
  rows = convergence.compare({"fast": fast, "slow": slow}, [0.2, 0.12])
  assert [(r["name"], r["reached"]) for r in rows] == [
    ("fast", 2), ("slow", 1), ("fast", 2), ("slow", 0),
  ]  # fmt: skip
  assert rows[0]["step"] == {"value": 25.0, "sd": pytest.approx(np.std([20, 30], ddof=1))}
  assert rows[1]["seconds"] == {"value": 21.0, "sd": None}
  assert rows[0]["epoch"] == {"missing": "not known"}
  assert rows[3]["step"] == {"missing": "no run came to stay below"}
  default = convergence.compare({"fast": fast, "slow": slow})
  assert sorted({r["threshold"] for r in default}) == pytest.approx([0.1575, 0.1875, 0.3])
  assert all(r["reached"] == r["runs"] for r in default)
  convergence.draw(tmp_path / "c.png", {"fast": fast, "slow": slow}, [0.2], "val_l1")
  assert (tmp_path / "c.png").stat().st_size > 5000


def test_what_cannot_be_read_is_told(tmp_path):
  with pytest.raises(UserError, match=r"no metrics\.jsonl"):
    convergence.read(tmp_path)
  with pytest.raises(UserError, match=r"has no val_lpips; it has val_l1"):
    convergence.read(run(tmp_path / "a", [0.4]), "val_lpips")
