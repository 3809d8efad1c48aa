"""The benchmark of utility: shares of the groups, crops with their boxes, a run that goes on."""

import itertools
import json

import numpy as np
import pytest

from benchmarks import utility, utility_detector
from benchmarks.utility_detector import Labelled
from hiresmed_jax.data import phantom, records
from hiresmed_jax.errors import UserError
from hiresmed_jax.synthesis import shams
from tests import tiny_run

LEAST_SHARES = (0.1, 0.25, 0.5, 0.8)


def test_a_larger_share_holds_the_smaller_and_never_inner_validation():
  groups = [f"group {n}" for n in range(40)] * 2
  chosen = [utility.parts(groups, share) for share in LEAST_SHARES]
  assert [len(own) for own, _ in chosen] == [4, 10, 20, 32]
  for (smaller, inner), (larger, same) in itertools.pairwise(chosen):
    assert smaller < larger
    assert inner == same
    assert not inner & larger


def test_a_box_moves_with_its_lesion():
  rng = np.random.default_rng(0)
  image = np.full((200, 300), -1.0, np.float32)
  image[90:102, 140:156] = 1.0
  one = Labelled(image, np.array([[140, 90, 156, 102]], np.float32), "")
  seen = 0
  for _ in range(40):
    strength = utility_detector.STRONG._replace(gain=0.0, offset=0.0)
    crop, boxes = utility_detector.crop(one, strength, rng)
    assert crop.shape == (utility_detector.SIDE,) * 2
    bright = np.argwhere(crop > 0)
    if len(boxes) and (boxes > 4).all() and (boxes < utility_detector.SIDE - 4).all():
      assert (bright.mean(0)[::-1] + 0.5) == pytest.approx((boxes[0, :2] + boxes[0, 2:]) / 2, abs=1)
      seen += 1
  assert seen > 10


def test_fresh_images_are_made_as_they_are_used():
  made = []

  def source():
    while True:
      made.append(Labelled(np.zeros((1, 1)), np.zeros((0, 4)), str(len(made))))
      yield made[-1]

  rng = np.random.default_rng(0)
  draw = utility_detector.fresh(source(), kept=4, a_step=0.5)
  drawn = [draw(rng).group for _ in range(21)]
  assert len(made) == 11
  assert int(drawn[-1]) >= 11 - 4


def test_images_that_cannot_be_made_do_not_keep_it_for_ever():
  class Nothing:
    def __len__(self):
      return 1_000_000

    def __getitem__(self, index):
      raise UserError("no room")

  with pytest.raises(UserError, match="no room"):
    next(utility._whole(Nothing()))


@pytest.mark.slow
def test_arms_are_trained_compared_and_not_again(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(utility_detector, "SIDE", 32)
  monkeypatch.setattr(utility_detector, "EVALUATIONS", 1)
  monkeypatch.setattr(shams, "_FAINTEST", 60.0)  # the faintest lesions of phantoms are unseen
  data = tmp_path / "data"
  samples = (made.sample for made in phantom.phantoms("kub", 60, size=64))
  records.write_dataset(samples, data, kind="phantom")
  given = ["--data", str(data), "--folder", str(tmp_path / "runs"), "--shares", "0.5"]
  given += ["--seeds", "1", "--steps", "2", "--out", str(tmp_path / "out.json")]
  with tiny_run.quick_compiler():
    utility.main(given)
  assert "E' less A" in capsys.readouterr().out
  result = json.loads((tmp_path / "out.json").read_text())
  assert {run["arm"] for run in result["runs"]} == set(utility.ARMS)
  assert len({run["lesions"] for run in result["runs"]}) == 1
  assert [(one["of"], one["less"]) for one in result["differences"]] == list(utility.PLANNED)
  utility.main(given)
  assert "seed 0" not in capsys.readouterr().out
  # Another split is judged with the weights that are there.
  monkeypatch.setattr(utility_detector, "train", None)
  utility.main([*given, "--arms", "A,E'", "--split", "test"])
  assert [run["split"] for run in json.loads((tmp_path / "out.json").read_text())["runs"]] == [
    "test",
    "test",
  ]
  for path in (tmp_path / "runs").glob("A-*.json"):
    path.unlink()
  with pytest.raises(UserError, match="msgpack is of another command"):
    utility.main([*given, "--arms", "A", "--steps", "3"])
