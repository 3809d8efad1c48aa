"""Flags of the command as a request, and what is refused."""

import pytest

from hiresmed_jax import synthesize
from hiresmed_jax.errors import UserError
from hiresmed_jax.synthesis.request import Diameter, Request, checked


def asked(*flags: str) -> Request:
  options, _ = synthesize._options(["--config", "demo.py", "--out", "out", "--num", "4", *flags])
  return checked(synthesize._request(options))


def test_flags_become_plain_values(tmp_path):
  assert asked() == checked(Request(4)) == Request(4, lesions=None)
  assert asked("--lesions", "0-3").lesions == (0, 3)
  (tmp_path / "mask.png").touch()
  found = asked(
    *("--at", "3,4.5", "--at", "8,9", "--diameter-mm", "3-12.5", "--shard", "1/3"),
    *("--mask", f"allowed:{tmp_path / 'mask.png'}", "--background", "real", "--seed", "7"),
  )
  assert found == Request(
    4,
    lesions=(2, 2),
    diameter=Diameter(3.0, 12.5, "mm"),
    at=((3.0, 4.5), (8.0, 9.0)),
    background="real",
    seed=7,
    shard=(1, 3),
    mask=(tmp_path / "mask.png", "allowed"),
  )
  assert list(found.indices()) == [1]
  assert asked("--lesions", "2").lesions == (2, 2)
  assert asked("--mask", str(tmp_path / "mask.png")).mask[1] == "forbidden"


@pytest.mark.parametrize(
  ("flags", "line"),
  [
    ("--lesions 1-2-3", "--lesions 1-2-3: write a number or a range"),
    ("--lesions -1", "--lesions -1: write"),
    ("--lesions x", "--lesions x: write"),
    ("--lesions 3-1", "--lesions 3-1: the first number"),
    ("--lesions 0", "ask for 1 or more"),
    ("--diameter-px 0", "--diameter-px 0-0: use numbers above 0"),
    ("--diameter-mm 9-3", "--diameter-mm 9-3: use numbers above 0"),
    ("--diameter-mm big", "--diameter-mm big: write a number above 0"),
    ("--diameter-mm inf", "--diameter-mm inf-inf: use"),
    ("--at 3", "--at 3: write X,Y"),
    ("--at 3,nan", "--at 3,nan: write X,Y"),
    ("--at 1,1 --at 2,2 --lesions 1", "2 points are given with --at"),
    ("--shard 4/4", "--shard 4/4: write i/n"),
    ("--shard 1", "--shard 1: write i/n"),
    ("--mask nowhere.png", "nowhere.png is not a file"),
    ("--shams -1", "--shams -1: use 0 or more"),
    ("--batch 0", "--batch 0: use 1 to 256"),
    ("--batch 2 --background real", "--batch is for --background reconstruction"),
    ("--seed 4294967296", "--seed 4294967296: use 0 to"),
    ("--paper --blend ct", "leave out --blend ct"),
    ("--window 3", "--window 3: write LOW,HIGH, or own"),
    ("--window 9,3", "LOW below HIGH"),
    ("--depth 16 --format dicom", "are for PNG"),
    ("--layout nnunet --format dicom", "is of PNG files"),
    ("--lesion-source copy --on-empty copy", "--on-empty copy is for --lesion-source singan"),
  ],
)
def test_what_cannot_be_meant_is_one_line(flags, line):
  with pytest.raises(UserError, match=line):
    asked(*flags.split())


def test_folders_of_before_an_option_are_those_of_requests_without_it():
  assert {"backgrounds", "on_empty", "batch"}.isdisjoint(Request(4).identity())
  assert Request(4, batch=8).identity()["batch"] == 8
  assert Request(4, on_empty="copy").identity()["on_empty"] == "copy"
