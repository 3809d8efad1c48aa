import json

import pytest

from benchmarks import scaling
from tests.test_train import environment


def test_strong_scaling_keeps_the_batch_and_weak_the_images_of_a_device():
  found = list(scaling.cases([1, 2, 4], 3))
  assert found == [
    ("strong", 1, 1, 12),
    ("weak", 1, 1, 3),
    ("strong", 2, 1, 12),
    ("strong", 1, 2, 12),
    ("weak", 2, 1, 6),
    ("weak", 1, 2, 6),
    ("weak", 4, 1, 12),
    ("weak", 1, 4, 12),
  ]
  assert list(scaling.cases([1, 2, 4], 3, processes=2)) == found[-2:]
  assert list(scaling.cases([1], 2)) == [("weak", 1, 1, 2)]


@pytest.mark.slow
def test_the_command_measures_devices_and_processes(tmp_path, capfd, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", environment()["XLA_FLAGS"])
  out = tmp_path / "scaling.json"
  changes = ("net.channels=8,", "net.middle_blocks=0", "net.block=residual", "gan.weight=0")
  changes += ("codebook.num_codes=8",)
  small = [f"--override=background.{change}" for change in changes]
  scaling.main(["--devices", "2", "--steps", "2", *small, "--out", str(out)])
  told = capfd.readouterr().out
  assert "this is overhead, not speed-up" in told
  facts = json.loads(out.read_text())
  assert json.loads(told.splitlines()[-1]) == facts
  assert facts["virtual_devices"] is True
  rows = {
    (row["scaling"], row["data"], row["fsdp"], row["processes"]): row for row in facts["rows"]
  }
  assert list(rows) == [
    ("weak", 2, 1, 1),
    ("weak", 1, 2, 1),
    ("weak", 2, 1, 2),
    ("weak", 1, 2, 2),
  ]
  for row in facts["rows"]:
    assert row["images_per_second"] == pytest.approx(row["batch"] / row["step_seconds"])
    assert row["bytes_sent_per_device"] > 0
  # One program, whoever runs it.
  for sides in ((2, 1), (1, 2)):
    one, two = (rows["weak", *sides, processes] for processes in (1, 2))
    assert one["collectives"] == two["collectives"]


def test_devices_that_the_processes_cannot_share_are_one_line(capsys):
  with pytest.raises(SystemExit) as left:
    scaling.main(["--devices", "1", "3", "--processes", "2"])
  assert left.value.code == 2
  assert "2 processes cannot share 3 devices evenly" in capsys.readouterr().err
