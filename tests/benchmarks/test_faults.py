"""What counts as held, and what as lost."""

import json
import signal

import pytest

from benchmarks import faults
from benchmarks.faults_commands import Ended
from benchmarks.faults_inputs import png
from benchmarks.faults_places import Place
from hiresmed_jax.data.readers import images
from hiresmed_jax.data.sample import Unreadable


@pytest.mark.parametrize(
  ("status", "told", "peak_mb", "problem"),
  [
    (0, "done\n", 9, ""),
    (2, "reading\nerror: it is damaged\n", 9, ""),
    (2, "no word of it\n", 9, "lost"),
    (2, "error: one\nerror: two\n", 9, "lost"),
    (0, "Traceback (most recent call last):\n", 9, "traceback"),
    (1, "", 9, "traceback"),
    (-signal.SIGSEGV, "", 9, "traceback"),
    (-signal.SIGALRM, "", 9, "hang"),
    (0, "done\n", 9000, "memory"),
    (-signal.SIGKILL, "", 9, "lost"),
  ],
)
def test_what_a_command_must_not_do(status, told, peak_mb, problem):
  found = Ended(status, told, peak_mb, 1.0).problem()
  assert found.startswith(problem)
  assert bool(found) is bool(problem)


def test_a_refusal_is_not_enough_where_it_must_go_on():
  assert Ended(2, "error: no\n", 9, 1.0).problem(may_refuse=False)


def test_results_are_compared_byte_for_byte_but_for_clocks(tmp_path):
  same, ours = tmp_path / "same", tmp_path / "trial" / "made"
  for folder, clock in ((same, 1.0), (ours, 2.0)):
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a.bin").write_bytes(b"abc")
    line = {"step": 1, "loss": 0.5, "time": clock}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
  place = Place("x", (), {}, "made", same)
  assert place.difference(ours.parent, str) == ""
  (ours / "below" / "a.bin").write_bytes(b"abd")
  assert "below/a.bin differs" in place.difference(ours.parent, str)
  (ours / "below" / "a.bin").unlink()
  assert "one side's only" in place.difference(ours.parent, str)


def test_checkpoints_are_compared_by_their_arrays(tmp_path):
  for folder in (tmp_path / "same" / "checkpoints", tmp_path / "trial" / "run" / "checkpoints"):
    folder.mkdir(parents=True)
    (folder / str(folder.parent.name)).touch()
  place = Place("x", (), {}, "run", tmp_path / "same")
  assert place.difference(tmp_path / "trial", lambda route: "same") == ""
  assert "holds differs" in place.difference(tmp_path / "trial", str)


def test_the_table_counts_disturbances_and_what_they_broke():
  trials = [
    {"kind": "kill", "name": "a", "count": 3, "problem": ""},
    {"kind": "kill", "name": "b", "count": 2, "problem": "lost: x"},
    {"kind": "full disk", "name": "a", "count": 0, "problem": ""},
  ]
  rows = {row["kind"]: row for row in faults.table(trials)}
  assert rows.keys() == faults.KINDS.keys()
  assert (rows["kill"]["tried"], rows["kill"]["held"], rows["kill"]["lost"]) == (5, 4, 1)
  assert rows["full disk"]["tried"] == 0


def test_the_broken_images_are_png_but_for_what_is_broken(tmp_path):
  path = tmp_path / "a.png"
  path.write_bytes(png(40, 48, 8))
  assert next(images.read(path)).image.shape == (40, 48, 1)
  for broken in (png(40, 48, 8, cut=20), png(0, 0), png(32_000, 32_000)):
    path.write_bytes(broken)
    with pytest.raises(Unreadable):
      next(images.read(path))
