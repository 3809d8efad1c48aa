import errno
import gc
import json
import pickle
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiresmed_jax import files
from hiresmed_jax.data import record_format, records, stored
from hiresmed_jax.data.identity import SPLITS, Identity, split_of
from hiresmed_jax.data.readers import guard
from hiresmed_jax.data.sample import Sample
from hiresmed_jax.errors import Stopped, UserError

KEY = Identity(b"key", None)


def _sample(number: int, **known: Any) -> Sample:
  rng = np.random.default_rng(number)
  shape = (20 + number % 5, 24 + number % 7, 1)
  image = rng.integers(0, 4096, shape, dtype=np.uint16)
  known = {"image": image, "group": f"patient {number // 2}", "value_range": (0.0, 4095.0), **known}
  return Sample(source=f"folder/file-{number}.png", **known)


def _write(out: Path, samples: Any, **options: Any) -> dict[str, Any]:
  return records.write_dataset(samples, out, **{"kind": "images", "identity": KEY, **options})


def _read_all(root: Path) -> dict[str, dict[str, Any]]:
  dataset = records.open_dataset(root)
  return {item["image_id"]: item for s in SPLITS for item in records.source(dataset, s)}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
  mask = np.zeros((21, 25), np.uint16)
  mask[3:6, 4:9], mask[10:12, 20:25] = 1, 40_000
  samples = [
    _sample(0),
    _sample(
      1,
      boxes=np.array([[4, 3, 9, 6], [20.25, 10, 25, 12]], np.float32),
      lesion_mask=mask,
      forbidden_mask=(mask > 0).astype(np.uint8),
      rescale_slope=0.5,
      rescale_intercept=-1024.0,
      value_range=(-160.0, 240.0),
      photometric="MONOCHROME1",
      physics="ct",
      spacing_mm=(0.7, 0.5),
    ),
    *(_sample(i) for i in range(2, 24)),
  ]
  card = _write(tmp_path / "out", samples)
  found = _read_all(tmp_path / "out")
  assert card["images"] == len(found) == 24
  assert card["groups"] == 12
  assert (card["channels"], card["bits"], card["boxes"]) == (1, 16, 2)
  for sample in samples:
    item = found[KEY.image_id(sample.source)]
    assert item["image"].dtype == np.uint16
    np.testing.assert_array_equal(item["image"], sample.image)
    np.testing.assert_array_equal(item["boxes"], sample.boxes)
    assert item["boxes"].dtype == np.float32
    np.testing.assert_array_equal(item["lesion_mask"], sample.lesion_mask)
    np.testing.assert_array_equal(item["forbidden_mask"], sample.forbidden_mask)
    assert (item["lesion_mask"].dtype, item["forbidden_mask"].dtype) == (np.uint16, np.uint8)
    np.testing.assert_array_equal(item["value_range"], np.array(sample.value_range, np.float32))
    np.testing.assert_array_equal(item["spacing_mm"], np.array(sample.spacing_mm, np.float32))
    for name in ("rescale_slope", "rescale_intercept", "photometric", "physics"):
      assert item[name] == getattr(sample, name)
    assert item["group"] == KEY.group_id(sample.group)


def test_without_masks_all_else_is_the_same(tmp_path: Path) -> None:
  mask = np.ones((21, 25), np.uint16)
  one = _sample(
    1,
    boxes=np.array([[0, 0, 9, 6]], np.float32),
    lesion_mask=mask,
    forbidden_mask=mask.astype(np.uint8),
  )
  _write(tmp_path / "out", [one])
  dataset = records.open_dataset(tmp_path / "out")
  (whole,) = records.source(dataset, split_of(one.group))
  source = pickle.loads(pickle.dumps(records.source(dataset, split_of(one.group)).without_masks()))
  (bare,) = source
  assert bare.keys() == whole.keys()
  for name in ("lesion_mask", "forbidden_mask"):
    assert whole[name].shape == (21, 25)
    assert bare[name].shape == (0, 0)
    assert bare[name].dtype == whole[name].dtype
  for name in whole.keys() - {"lesion_mask", "forbidden_mask"}:
    np.testing.assert_array_equal(bare[name], whole[name])


def test_unknown_images_are_told_from_negative_ones(tmp_path: Path) -> None:
  boxes = np.array([[1, 1, 5, 5]], np.float32)
  kinds = [{"boxes": boxes}, {"labelled": True}, {}]
  samples = [_sample(n, group="patient 0", **kinds[n % 3]) for n in range(6)]
  card = _write(tmp_path / "out", samples)
  source = records.source(records.open_dataset(tmp_path / "out"), split_of("patient 0"))
  assert (card["unknown"], len(source)) == (2, 6)
  assert [item["labelled"] for item in source] == [True, True, False] * 2
  known = pickle.loads(pickle.dumps(source.without_masks().labelled()))
  expected = [KEY.image_id(s.source) for n, s in enumerate(samples) if n % 3 < 2]
  assert [item["image_id"] for item in known] == expected
  assert known.labelled().without_masks()[3]["image_id"] == expected[3]
  with pytest.raises(IndexError):
    known[4]
  _write(tmp_path / "all", samples[:2])
  source = records.source(records.open_dataset(tmp_path / "all"), split_of("patient 0"))
  assert source.labelled() is source


def test_the_users_split_and_host_masks_are_kept(tmp_path: Path) -> None:
  host = np.ones((20, 24), np.uint8)
  _write(tmp_path / "out", [_sample(0, split="val", host_mask=host)])
  ((item,),) = [list(records.source(records.open_dataset(tmp_path / "out"), "val"))]
  np.testing.assert_array_equal(item["host_mask"], host)


def test_a_group_is_in_the_split_of_its_raw_name(tmp_path: Path) -> None:
  samples = [_sample(i) for i in range(30)]
  card = _write(tmp_path / "out", samples)
  dataset = records.open_dataset(tmp_path / "out")
  for split in SPLITS:
    groups = {item["group"] for item in records.source(dataset, split)}
    assert groups == {KEY.group_id(s.group) for s in samples if split_of(s.group) == split}
    assert card["splits"][split] == len(records.source(dataset, split))


def test_colour_survives_and_a_mixed_set_reads_back_widened(tmp_path: Path) -> None:
  rng = np.random.default_rng(0)
  grey8 = rng.integers(0, 256, (9, 8, 1), dtype=np.uint8)
  colour8 = rng.integers(0, 256, (7, 8, 3), dtype=np.uint8)
  only = [_sample(0, image=colour8, photometric="RGB")]
  assert _write(tmp_path / "colour", only)["bits"] == 8
  item = next(iter(_read_all(tmp_path / "colour").values()))
  assert item["image"].dtype == np.uint8
  np.testing.assert_array_equal(item["image"], colour8)

  mixed = [_sample(0, image=grey8), _sample(1), _sample(2, image=colour8, photometric="RGB")]
  assert _write(tmp_path / "mixed", mixed)["channels"] == 3
  found = _read_all(tmp_path / "mixed")
  for sample in mixed:
    image = found[KEY.image_id(sample.source)]["image"]
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, np.broadcast_to(sample.image, image.shape))


def test_nothing_raw_is_in_any_byte(tmp_path: Path) -> None:
  samples = [_sample(i, group=f"Erika Mustermann {i}") for i in range(6)]
  _write(tmp_path / "out", samples, report=record_format.SourceReport())
  content = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
  assert KEY.image_id(samples[0].source).encode() in content  # the search finds what is there
  for raw in (b"Mustermann", b"Erika", b"file-", b"folder", str(tmp_path).encode()):
    assert raw not in content


def test_order_and_fingerprint_do_not_depend_on_workers_salt_or_order(tmp_path: Path) -> None:
  samples = [_sample(i) for i in range(40)]
  one = _write(tmp_path / "one", samples, workers=1)
  four = _write(tmp_path / "four", samples, workers=4)
  assert list(_read_all(tmp_path / "one")) == list(_read_all(tmp_path / "four"))
  other = _write(tmp_path / "other", samples[::-1], identity=Identity(b"other", None))
  assert one["fingerprint"] == four["fingerprint"] == other["fingerprint"]
  changed = [_sample(0, rescale_intercept=1.0), *samples[1:]]
  assert _write(tmp_path / "changed", changed)["fingerprint"] != one["fingerprint"]


def test_images_stream_through(tmp_path: Path) -> None:
  alive: list[weakref.ref[np.ndarray]] = []
  most = 0

  def stream() -> Iterator[Sample]:
    nonlocal most
    for i in range(60):
      sample = _sample(i)
      alive.append(weakref.ref(sample.image))
      yield sample
      del sample
      gc.collect()
      most = max(most, sum(r() is not None for r in alive))

  gc.freeze()  # what other tests have left is not looked through sixty times
  try:
    _write(tmp_path / "out", stream(), workers=2)
  finally:
    gc.unfreeze()
  assert most <= 6


def test_a_dataset_is_not_replaced_unasked(tmp_path: Path) -> None:
  out = tmp_path / "out"
  _write(out, [_sample(0)])
  with pytest.raises(UserError, match="--overwrite"):
    _write(out, [_sample(1)])
  assert _write(out, [_sample(1), _sample(2)], overwrite=True)["images"] == 2
  assert len(_read_all(out)) == 2
  assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_folder_of_the_users_is_never_replaced(tmp_path: Path) -> None:
  (tmp_path / "thesis.tex").write_text("years of work")
  with pytest.raises(UserError, match="no prepared dataset"):
    _write(tmp_path, [_sample(0)], overwrite=True)
  assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("write() failed: No space left on device; writing /x"),
  ],
)
def test_no_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
  out = tmp_path / "out"
  _write(out, [_sample(0)])
  before = _read_all(out)
  encode, calls = stored.encode_png, []

  def full(image: np.ndarray) -> bytes:
    calls.append(1)
    if len(calls) > 20:
      raise error
    return encode(image)

  monkeypatch.setattr(stored, "encode_png", full)
  with pytest.raises(UserError, match="no space left") as raised:
    _write(out, (_sample(i) for i in range(50)), overwrite=True, workers=2)
  assert "\n" not in str(raised.value)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
  assert _read_all(out).keys() == before.keys()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug")])
def test_whatever_stops_it_nothing_half_written_is_left(
  tmp_path: Path, error: BaseException
) -> None:
  def broken() -> Iterator[Sample]:
    yield from (_sample(i) for i in range(20))
    raise error

  with pytest.raises(type(error)):
    _write(tmp_path / "out", broken(), workers=2)
  assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
  leftover = tmp_path / ".out.partial" / "records"
  leftover.mkdir(parents=True)
  (leftover / "junk").write_text("x")
  _write(tmp_path / "out", [_sample(0)])
  assert not list((tmp_path / "out").rglob("junk"))
  assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_no_images_is_one_line(tmp_path: Path) -> None:
  with pytest.raises(UserError, match="no image could be read"):
    _write(tmp_path / "out", [])
  assert not list(tmp_path.iterdir())


def test_only_a_phantom_needs_no_key(tmp_path: Path) -> None:
  with pytest.raises(ValueError, match="private key"):
    _write(tmp_path / "out", [_sample(0)], identity=None)
  records.write_dataset([_sample(0)], tmp_path / "out", kind="phantom", name="made")
  assert records.open_dataset(tmp_path / "out").card["name"] == "made"


def test_two_samples_of_one_name_are_a_bug(tmp_path: Path) -> None:
  with pytest.raises(ValueError, match="one source name"):
    _write(tmp_path / "out", [_sample(0), _sample(0)])


def test_open_refuses_what_is_no_dataset(tmp_path: Path) -> None:
  with pytest.raises(UserError, match="is not there"):
    records.open_dataset(tmp_path / "missing")
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="is empty"):
    records.open_dataset(tmp_path / "empty")
  (tmp_path / "file").write_text("x")
  with pytest.raises(UserError, match="not a folder"):
    records.open_dataset(tmp_path / "file")


def test_open_says_how_to_prepare(tmp_path: Path) -> None:
  raw = tmp_path / "my images"
  (raw / "labels").mkdir(parents=True)
  (raw / "labels" / "a.txt").write_text("")
  (raw / "groups.csv").write_text("file,group\n")
  (raw / "a.png").write_bytes(b"")
  with pytest.raises(UserError) as raised:
    records.open_dataset(raw)
  command = str(raised.value)
  assert f"python -m hiresmed_jax.prepare --kind images --source '{raw}'" in command
  assert "--boxes yolo" in command
  assert "groups.csv" in command

  dicom = tmp_path / "study"
  dicom.mkdir()
  (dicom / "IM0").write_bytes(bytes(128) + b"DICM")
  with pytest.raises(UserError, match="--kind dicom"):
    records.open_dataset(dicom)
  volumes = tmp_path / "ct"
  volumes.mkdir()
  (volumes / "a.nii.gz").write_bytes(b"")
  with pytest.raises(UserError, match="--kind volumes"):
    records.open_dataset(volumes)


def test_a_dataset_of_an_older_version_opens(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  _write(tmp_path / "out", [_sample(0)])
  monkeypatch.setattr(records, "SCHEMA_VERSION", 3)
  monkeypatch.setitem(record_format.CARD_AS_IT_WAS, "modality", "unknown")
  monkeypatch.setitem(record_format.FIELDS_AS_THEY_WERE, "laterality", "both")
  dataset = records.open_dataset(tmp_path / "out")
  assert dataset.card["modality"] == "unknown"
  assert dataset.card["images"] == 1
  (item,) = (item for split in SPLITS for item in records.source(dataset, split))
  assert item["laterality"] == "both"
  assert item["photometric"] == "MONOCHROME2"


def test_open_refuses_newer_schemas_and_damage(tmp_path: Path) -> None:
  _write(tmp_path / "out", [_sample(0)])
  path = tmp_path / "out" / "card.json"
  card = json.loads(path.read_text())
  path.write_text(json.dumps({**card, "schema_version": 99}))
  with pytest.raises(UserError, match="version 99"):
    records.open_dataset(tmp_path / "out")
  for damage in ('{"schema_ver', json.dumps({**card, "boxes": card["boxes"] + 1})):
    path.write_text(damage)
    with pytest.raises(UserError, match=r"card.json is damaged.*prepare the dataset again"):
      records.open_dataset(tmp_path / "out")
  (tmp_path / "out" / files.DIGESTS).unlink()
  for change in ({"splits": []}, {"splits": {"train": "1"}}, {"audit": {}}, {"images": None}):
    path.write_text(json.dumps({**card, **change}))
    with pytest.raises(UserError, match=r"card.json is damaged.*prepare the dataset again"):
      records.open_dataset(tmp_path / "out")


def test_damaged_records_are_one_line_where_they_are_read(tmp_path: Path) -> None:
  _write(tmp_path / "out", [_sample(i) for i in range(12)])
  (shard,) = (tmp_path / "out" / "records").glob("images-train*")
  content = bytearray(shard.read_bytes())
  written = np.flatnonzero(np.frombuffer(content, np.uint8))
  content[written[len(written) // 3]] ^= 1
  shard.write_bytes(content)
  dataset = records.open_dataset(tmp_path / "out")
  with pytest.raises(UserError, match=r"records is damaged .train.: prepare the dataset again"):
    list(records.source(dataset, "train"))
  shard.write_bytes(content[:-1])
  with pytest.raises(UserError, match=f"{shard.name} is damaged"):
    records.open_dataset(tmp_path / "out")


def test_a_source_can_be_pickled_before_and_after_reading(tmp_path: Path) -> None:
  _write(tmp_path / "out", [_sample(i) for i in range(12)])
  source = records.source(records.open_dataset(tmp_path / "out"), "train")
  first = source[0]
  for copy in (pickle.loads(pickle.dumps(source)),):
    np.testing.assert_array_equal(copy[0]["image"], first["image"])
    assert len(copy) == len(source)
  with pytest.raises(IndexError):
    source[len(source)]


def test_a_split_without_images_is_empty(tmp_path: Path) -> None:
  _write(tmp_path / "out", [_sample(0, group="acq001")])
  dataset = records.open_dataset(tmp_path / "out")
  assert [len(records.source(dataset, split)) for split in SPLITS] == [0, 0, 1]
  assert list(records.source(dataset, "train")) == []


def test_tensorflow_is_never_imported(tmp_path: Path) -> None:
  _write(tmp_path / "out", [_sample(0)])
  _read_all(tmp_path / "out")
  assert "tensorflow" not in sys.modules


def test_a_stop_is_not_taken_for_an_unreadable_file_and_leaves_nothing(tmp_path: Path) -> None:
  def samples():
    yield _sample(0)
    with guard.or_unreadable("cannot be read"):
      raise Stopped(143)

  with pytest.raises(Stopped):
    _write(tmp_path / "out", samples())
  assert not [path for path in tmp_path.rglob("*") if path.name.startswith((".out", "out."))]
