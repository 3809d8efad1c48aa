"""The survey of a training split: kept in the workdir, found without its dataset, without names."""

import re
from pathlib import Path

import numpy as np
import pytest

from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import survey
from tests.synthesis import drawn


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_that_is_held_out_is_refused(split):
  with pytest.raises(UserError, match="training split alone"):
    survey.make(records.Records(Path("nowhere"), split, 3))


def same(one: survey.Survey, other: survey.Survey) -> bool:
  arrays = [
    (one.padding, other.padding),
    *zip(one.atlas, other.atlas),
    *((a.values, b.values) for a, b in zip(one.patches, other.patches, strict=True)),
    *((a.surround, b.surround) for a, b in zip(one.patches, other.patches)),
    *((a.alpha, b.alpha) for a, b in zip(one.patches, other.patches)),
  ]
  facts = [
    [str((p.donor, p.donor_group, p.spacing_mm, p.value_range, p.physics)) for p in s.patches]
    for s in (one, other)
  ]
  equal = all(np.array_equal(a, b) for a, b in arrays)
  return equal and facts[0] == facts[1] and one[3:] == other[3:]


def test_it_is_written_once_and_found_without_the_dataset(prepared, tmp_path, monkeypatch):
  data, found = prepared["projection"]
  fingerprint = data.card["fingerprint"]
  with pytest.raises(UserError, match="is not there: run the same train command again"):
    survey.load(tmp_path, fingerprint)
  assert same(survey.load_or_make(data, tmp_path), found)
  monkeypatch.setattr(survey, "make", lambda *_, **__: pytest.fail("made again"))
  assert same(survey.load_or_make(data, tmp_path), found)
  assert same(survey.load(tmp_path, fingerprint), found)
  with pytest.raises(UserError, match="is not there"):
    survey.load(tmp_path, "another fingerprint")


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other arrays", "no patches"])
def test_a_damaged_file_is_refused_and_made_anew(prepared, tmp_path, damage):
  data, found = prepared["none"]
  survey.load_or_make(data, tmp_path)
  (path,) = tmp_path.iterdir()
  whole = path.read_bytes()
  if damage == "other arrays":
    np.savez(path, values=np.zeros(3))
  elif damage == "no patches":
    with np.load(path) as arrays:
      np.savez(path, **{**arrays, "values": np.zeros(3, np.float32)})
  else:
    path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"survey"}[damage])
  with pytest.raises(UserError, match="is damaged: run the same train command again"):
    survey.load(tmp_path, data.card["fingerprint"])
  assert same(survey.load_or_make(data, tmp_path), found)
  assert path.read_bytes() == whole


def test_it_holds_keyed_hashes_and_no_names(prepared, tmp_path):
  data, _ = prepared["none"]
  found = survey.load_or_make(data, tmp_path)
  (path,) = tmp_path.iterdir()
  hashes = [*found.groups, *(h for p in found.patches for h in (p.donor, p.donor_group))]
  assert all(re.fullmatch("[0-9a-f]{32}", one) for one in hashes)
  assert b"group-" not in path.read_bytes()  # the raw names in `drawn`
  assert drawn.groups("train", 1)[0].startswith("group-")
