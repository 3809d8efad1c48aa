import csv
import json
import stat
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from hiresmed_jax import prepare
from hiresmed_jax.data import records
from hiresmed_jax.data.identity import SPLITS
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import cli
from tests.data.readers import lidc_series

PATIENTS = ("LIDC-IDRI-0001", "LIDC-IDRI-0002")


def _images(folder: Path, count: int = 12) -> Path:
  folder.mkdir(parents=True)
  rng = np.random.default_rng(0)
  for i in range(count):
    pixels = rng.integers(0, 256, (30 + i, 40), dtype=np.uint8)
    cv2.imwrite(str(folder / f"scan-{i:02d}.png"), pixels)
  return folder


def _run(*arguments: object) -> None:
  prepare.main([str(a) for a in arguments])


def _all(out: Path) -> list[dict]:
  dataset = records.open_dataset(out)
  return [item for split in SPLITS for item in records.source(dataset, split)]


def _bytes(folder: Path) -> bytes:
  return b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def _dicom(path: Path, name: str, number: str) -> None:
  meta = FileMetaDataset()
  meta.TransferSyntaxUID = ExplicitVRLittleEndian
  meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
  meta.MediaStorageSOPInstanceUID = generate_uid()
  dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
  dataset.SOPClassUID = meta.MediaStorageSOPClassUID
  dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
  dataset.PatientName, dataset.PatientID = name, number
  dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
  dataset.Modality, dataset.PhotometricInterpretation = "CR", "MONOCHROME1"
  dataset.SamplesPerPixel, dataset.Rows, dataset.Columns = 1, 24, 32
  dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
  dataset.PixelRepresentation = 0
  dataset.ImagerPixelSpacing = [0.2, 0.2]
  pixels = np.random.default_rng(len(number)).integers(0, 4096, (24, 32), dtype=np.uint16)
  dataset.PixelData = pixels.tobytes()
  pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def test_images_with_boxes_groups_and_masks(tmp_path: Path) -> None:
  source = tmp_path / "stones"
  _images(source / "images")
  (source / "labels").mkdir()
  (source / "labels" / "scan-03.txt").write_text("0 0.5 0.5 0.25 0.2\n")
  (source / "bone").mkdir()
  mask = np.zeros((33, 40), np.uint8)
  mask[:5] = 255
  cv2.imwrite(str(source / "bone" / "scan-03.png"), mask)
  rows = [f"scan-{i:02d}.png,patient {i // 2}" for i in range(12)]
  (source / "groups.csv").write_text("\n".join(["file,group", *rows]))
  _run(
    *("--kind", "images", "--source", source, "--out", tmp_path / "out", "--boxes", "yolo"),
    *("--groups", source / "groups.csv", "--forbidden", source / "bone"),
    *("--physics", "ct", "--spacing-mm", "0.7,0.5"),
  )
  card = records.open_dataset(tmp_path / "out").card
  assert (card["images"], card["groups"], card["boxes"]) == (12, 6, 1)
  assert (card["kind"], card["name"], card["skipped"]) == ("images", "out", {})
  found = next(item for item in _all(tmp_path / "out") if len(item["boxes"]))
  np.testing.assert_allclose(found["boxes"], [[15, 13.2, 25, 19.8]], atol=1e-4)
  assert (found["forbidden_mask"] > 0).sum() == 200
  assert found["physics"] == "ct"
  np.testing.assert_allclose(found["spacing_mm"], [0.7, 0.5])


def test_names_are_in_the_private_folder_and_nowhere_else(tmp_path: Path) -> None:
  source = _images(tmp_path / "Mustermann" / "clinic")
  (source / "broken-scan.png").write_text("not an image")
  _run("--kind", "images", "--source", source, "--out", tmp_path / "out")
  content = _bytes(tmp_path / "out")
  for raw in (b"Mustermann", b"clinic", b"scan-", b"broken"):
    assert raw not in content
  private = tmp_path / "out.private"
  assert not (tmp_path / "Mustermann" / "clinic.private").exists()
  assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in private.iterdir())
  with (private / "out.csv").open() as file:
    table = {row["image_id"]: row["path"] for row in csv.DictReader(file)}
  assert {item["image_id"] for item in _all(tmp_path / "out")} == table.keys()
  assert sorted(table.values()) == [f"scan-{i:02d}.png" for i in range(12)]
  assert "broken-scan.png" in (private / "out.skipped.csv").read_text()
  card = records.open_dataset(tmp_path / "out").card
  assert sum(card["skipped"].values()) == 1


def test_dicom_headers_do_not_come_through(tmp_path: Path) -> None:
  source = tmp_path / "study"
  source.mkdir()
  for i in range(6):
    _dicom(source / f"IM{i}", "Mustermann^Erika", f"MRN-4711-{i // 2}")
  _run("--kind", "dicom", "--source", source, "--out", tmp_path / "out")
  raw = b"".join(p.read_bytes() for p in source.iterdir())
  content = _bytes(tmp_path / "out")
  for planted in (b"Mustermann", b"Erika", b"MRN-4711"):
    assert planted in raw
    assert planted not in content
    assert planted.decode().encode("utf-16-le") not in content
  assert records.open_dataset(tmp_path / "out").card["groups"] == 3
  assert all(item["photometric"] == "MONOCHROME1" for item in _all(tmp_path / "out"))
  assert "MRN-4711-0" in (tmp_path / "out.private" / "out.csv").read_text()


def test_the_same_hashes_again_and_in_a_second_dataset(tmp_path: Path) -> None:
  source = _images(tmp_path / "a")
  private = tmp_path / "keys"
  for out in ("one", "two"):
    _run("--kind", "images", "--source", source, "--out", tmp_path / out, "--private", private)
  ids = [{item["image_id"] for item in _all(tmp_path / out)} for out in ("one", "two")]
  assert ids[0] == ids[1]
  assert (private / "one.csv").is_file()
  assert (private / "two.csv").is_file()


def test_phantoms(tmp_path: Path) -> None:
  arguments = ("--kind", "phantom", "--num", 4, "--size", 64, "--phantom", "chest_ct")
  _run(*arguments, "--out", tmp_path / "one")
  _run(*arguments, "--out", tmp_path / "two", "--workers", 1)
  cards = [records.open_dataset(tmp_path / out).card for out in ("one", "two")]
  assert cards[0]["images"] == 4
  assert cards[0]["fingerprint"] == cards[1]["fingerprint"]
  assert not list(tmp_path.glob("*.private"))


def test_volumes(tmp_path: Path, shared: Path) -> None:
  source = shared / "data" / "hu_volumes"
  options = ("--physics", "ct", "--private", tmp_path / "keys")
  _run("--kind", "volumes", "--source", source, "--out", tmp_path / "out", *options)
  card = records.open_dataset(tmp_path / "out").card
  assert card["groups"] == 3
  assert card["images"] > 100


def test_lidc_with_the_readings_elsewhere(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  source, readings = tmp_path / "LIDC-IDRI", tmp_path / "tcia-lidc-xml" / "157"
  lidc_series.write_series(source / "Mustermann" / "CT")
  readings.mkdir(parents=True)
  disc = lidc_series.disc((40, 48), 20, 25, 8)
  rois = [(n, lidc_series.outline(disc), True) for n in (3, 4)]
  readers = [[lidc_series.nodule(rois)], [lidc_series.nodule(rois)]]
  (readings / "Mustermann.xml").write_text(lidc_series.message(readers))
  (readings / "158.xml").write_text(lidc_series.message(readers, series="1.2.3"))
  arguments = ("--kind", "lidc", "--source", source, "--labels", readings.parent)
  _run(*arguments, "--out", tmp_path / "out", "--nodule-free", 2)
  card = records.open_dataset(tmp_path / "out").card
  assert (card["kind"], card["images"], card["groups"], card["boxes"]) == ("lidc", 4, 1, 2)
  assert card["skipped"] == {"is the reading of a series that is not there": 1}
  # 197 pixels of .5 x .8 mm.
  diameter = 2 * np.sqrt(disc.sum() * 0.5 * 0.8 / np.pi)
  np.testing.assert_allclose(card["audit"]["lesions"]["mask_diameter_mm"], diameter, atol=1e-3)
  printed = capsys.readouterr()
  assert "10 mm, of masks" in " ".join(printed.out.split()), printed.out
  items = _all(tmp_path / "out")
  assert sorted(int((item["lesion_mask"] > 0).sum()) for item in items) == [0, 0, 197, 197]
  assert {item["physics"] for item in items} == {"ct"}
  raw = b"".join(p.read_bytes() for p in source.rglob("*.dcm"))
  for planted in (b"Mustermann", b"Doe^Jane", lidc_series.SERIES.encode(), b"CT/"):
    assert planted in raw or planted in (b"Mustermann", b"CT/")
    assert planted not in _bytes(tmp_path / "out")
  _run(*arguments, "--out", tmp_path / "two", "--agree", 3, "--nodule-free", 1)
  assert records.open_dataset(tmp_path / "two").card["boxes"] == 0


def test_lidc_as_slices_and_masks(tmp_path: Path) -> None:
  source = tmp_path / "slices"
  for patient in PATIENTS:
    folder = source / patient / "nodule-0"
    for name in ("images", "mask-0", "mask-1"):
      (folder / name).mkdir(parents=True)
    for number in range(3):
      image = np.random.default_rng(number).integers(0, 255, (30, 34), dtype=np.uint8)
      cv2.imwrite(str(folder / "images" / f"slice-{number}.png"), image)
      mask = 255 * lidc_series.disc((30, 34), 15, 12, 4).astype(np.uint8)
      for reader in range(2):
        cv2.imwrite(str(folder / f"mask-{reader}" / f"slice-{number}.png"), mask)
  table = tmp_path / "groups.csv"
  table.write_text(
    "file,group\n"
    + "".join(f"{p}/nodule-0/images/slice-{n}.png,all\n" for p in PATIENTS for n in range(2))
  )
  _run("--kind", "lidc", "--source", source, "--out", tmp_path / "out", "--spacing-mm", "0.7")
  card = records.open_dataset(tmp_path / "out").card
  assert (card["images"], card["groups"], card["boxes"]) == (6, 2, 6)
  assert b"LIDC-IDRI" not in _bytes(tmp_path / "out")
  _run("--kind", "lidc", "--source", source, "--out", tmp_path / "two", "--groups", table)
  card = records.open_dataset(tmp_path / "two").card
  assert (card["images"], card["groups"]) == (4, 1)
  assert card["skipped"] == {"has no row in the groups file": 2}


def test_the_audit_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
  _run("--kind", "images", "--source", _images(tmp_path / "a"), "--out", tmp_path / "out")
  printed = capsys.readouterr()
  assert "near-duplicates" in printed.out
  assert "warning: every image is a group of its own" in printed.out
  assert "12 images are in" in printed.out
  assert "12/12 files" in printed.err


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    (["--kind", "lidc", "--source", "a", "--out", "out", "--boxes", "voc"], "give no others"),
    (["--kind", "lidc", "--source", "a", "--out", "out", "--labels", "no"], "no folder of readers"),
    (["--kind", "lidc", "--source", "a", "--out", "out", "--agree", "0"], "--agree takes 1"),
    (["--kind", "images", "--out", "out"], "--source is needed"),
    (["--kind", "images", "--source", "missing", "--out", "out"], "is not there"),
    (["--kind", "images", "--source", "a/scan-00.png", "--out", "out"], "not a folder"),
    (["--kind", "images", "--source", "empty", "--out", "out"], "is empty"),
    (["--kind", "volumes", "--source", "a", "--out", "out"], "looks like --kind images"),
    (["--kind", "images", "--source", "a", "--out", "a/out"], "outside of it"),
    (["--kind", "images", "--source", "a", "--out", "a"], "no prepared dataset"),
    (["--kind", "images", "--source", "a", "--out", "out", "--labels", "a"], "no labels in a"),
    (["--source", "a", "--out", "out", "--group-pattern", "["], "no regular expression"),
    (["--kind", "phantom", "--out", "out", "--dry-run"], "--dry-run"),
    (["--kind", "images", "--source", "a", "--out", "out", "--masks", "nowhere"], "no folder of"),
    (["--kind", "images", "--source", "a", "--out", "out", "--boxes", "yolo"], "no .txt file"),
    (["--kind", "images", "--source", "a", "--out", "out", "--spacing-mm", "-1"], "R or R,C"),
    (["--kind", "phantom", "--out", "out", "--num", "0"], "--num"),
    (["--kind", "images", "--sorce", "a", "--out", "out"], "did you mean --source"),
  ],
)
def test_mistakes_are_one_line(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
  arguments: list[str], says: str,
) -> None:  # fmt: skip
  monkeypatch.chdir(tmp_path)
  _images(tmp_path / "a", 1)
  (tmp_path / "empty").mkdir()
  with pytest.raises(SystemExit) as left:
    cli.run(prepare.main, arguments)
  assert left.value.code == 2
  message = capsys.readouterr().err
  assert says in message
  assert len(message.strip().splitlines()) == 1
  assert not (tmp_path / "out").exists()


def test_it_fails_only_when_nothing_is_left(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  source = tmp_path / "a"
  source.mkdir()
  (source / "text.png").write_text("not an image")
  with pytest.raises(UserError, match="no image could be read"):
    _run("--kind", "images", "--source", source, "--out", tmp_path / "out")
  assert "text.png is not a PNG, JPEG or TIFF image but text" in capsys.readouterr().err
  cv2.imwrite(str(source / "image.png"), np.zeros((9, 9), np.uint8))
  _run("--kind", "images", "--source", source, "--out", tmp_path / "out")
  card = json.loads((tmp_path / "out" / "card.json").read_text())
  assert card["images"] == 1
  assert card["skipped"] == {"is not a PNG, JPEG or TIFF image but text": 1}


def test_files_without_a_row_in_the_groups_are_left_out(tmp_path: Path) -> None:
  source = _images(tmp_path / "a", 3)
  (tmp_path / "groups.csv").write_text("file,group\nscan-00.png,x\nscan-02,y\n")
  options = ("--out", tmp_path / "out", "--groups", tmp_path / "groups.csv")
  _run("--kind", "images", "--source", source, *options)
  card = records.open_dataset(tmp_path / "out").card
  assert card["images"] == 2
  assert card["skipped"] == {"has no row in the groups file": 1}


def test_overwriting_is_asked_for(tmp_path: Path) -> None:
  source = _images(tmp_path / "a", 2)
  arguments = ("--kind", "images", "--source", source, "--out", tmp_path / "out")
  _run(*arguments)
  with pytest.raises(UserError, match="--overwrite"):
    _run(*arguments)
  _run(*arguments, "--overwrite")


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
  with pytest.raises(SystemExit):
    _run("--help")
  assert "python -m hiresmed_jax.prepare --kind dicom --source" in capsys.readouterr().out


def test_the_card_alone_is_printed_as_json(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  _images(tmp_path / "a", 3)
  given = ["--source", str(tmp_path / "a"), "--out", str(tmp_path / "out"), "--json"]
  prepare.main([*given, "--dry-run"])
  looked_at = json.loads(capsys.readouterr().out)
  assert (looked_at["images"], looked_at["written"]) == (3, False)
  assert not (tmp_path / "out").exists()
  prepare.main(given)
  made = json.loads(capsys.readouterr().out)
  assert made.pop("written")
  assert made.pop("out") == str(tmp_path / "out")
  assert made == json.loads((tmp_path / "out" / "card.json").read_text())
