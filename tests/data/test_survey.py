"""What is left out of a set, what is asked for, and the range that a network sees."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.uid import SecondaryCaptureImageStorage as CAPTURE

from hiresmed_jax import prepare
from hiresmed_jax.data import phantom, records, transforms
from hiresmed_jax.data.identity import SPLITS
from hiresmed_jax.data.readers import volumes
from hiresmed_jax.data.sample import Sample
from hiresmed_jax.data.survey import physics_of, survey
from tests.data.readers.dicom_files import CR, CT, dataset, save

RNG = np.random.default_rng(0)
SLICE = RNG.integers(-1000, 400, (40, 48)).astype(np.int16)
GREY = RNG.integers(0, 256, (40, 48), dtype=np.uint8)
SCOUT = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}


def _prepare(kind: str, source: Path, *options: str) -> tuple[dict, list[dict]]:
  out = source.parent / "out"
  prepare.main(["--kind", kind, "--source", str(source), "--out", str(out), *options])
  dataset = records.open_dataset(out)
  items = [item for split in SPLITS for item in records.source(dataset, split)]
  return json.loads((out / "card.json").read_text()), items


def _archive(folder: Path) -> Path:
  """Four slices, a scout, a dose report in grey and one in colour, a screen of a radiograph."""
  folder.mkdir()
  for i in range(4):
    save(folder / f"IM{i}", dataset(SLICE, PatientID=f"P{i}", RescaleSlope="1"))
  save(folder / "IM4", dataset(SLICE, **SCOUT))
  screen = {"SOPClassUID": CAPTURE, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
  save(folder / "IM5", dataset(GREY, **screen))
  save(folder / "IM6", dataset(np.stack([GREY, GREY // 2, GREY // 3], -1), **screen))
  save(folder / "IM7", dataset(GREY, SOPClassUID=CAPTURE, Modality="OT"))
  report = dataset(GREY, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR")
  del report.PixelData, report.Rows, report.SamplesPerPixel, report.PhotometricInterpretation
  save(folder / "IM8", report)
  return folder


def test_an_archive_keeps_its_slices_alone(tmp_path: Path) -> None:
  card, items = _prepare("dicom", _archive(tmp_path / "pacs"))
  assert (card["images"], card["channels"]) == (4, 1)
  assert sorted(card["left_out"].values()) == [1, 1, 1, 2]
  assert card["skipped"] == {}
  assert {item["physics"] for item in items} == {"ct"}
  assert card["audit"]["images"]["bits_used"] == 11  # of -1000 to 399, stored with a shift


def test_what_is_asked_for_is_kept(tmp_path: Path) -> None:
  card, items = _prepare("dicom", _archive(tmp_path / "pacs"), "--keep", "scouts", "captures")
  assert card["images"] == 7
  assert list(card["left_out"].values()) == [1, 1]  # the colours, and the report of doses
  assert sum(item["physics"] == "projection" for item in items) == 1


@pytest.mark.parametrize(
  ("elements", "kind"),
  [
    (SCOUT, "scouts"),
    ({"SOPClassUID": CAPTURE, "Modality": "CR"}, "captures"),
    ({"Modality": "US", "SOPClassUID": CR}, "colour"),
  ],
)
def test_a_set_of_one_kind_is_what_its_owner_wants(
  tmp_path: Path, elements: dict, kind: str
) -> None:
  pixels = np.stack([GREY, GREY // 2, GREY // 3], -1) if kind == "colour" else SLICE
  files = [save(tmp_path / f"{i}", dataset(pixels, **elements)) for i in range(3)]
  assert survey(files, "dicom").keep == {kind}
  files += [save(tmp_path / f"p{i}", dataset(SLICE, SOPClassUID=CT)) for i in range(3)]
  assert survey(files, "dicom").keep == set()
  assert survey(files, "dicom", ["scouts"]).keep == {"scouts"}
  for i in range(9):
    (tmp_path / f"{i}.bak").write_bytes(bytes(200))  # what is no image has no say
  assert survey([*files[:3], *tmp_path.glob("*.bak")], "dicom").keep == {kind}


def test_a_colour_picture_among_grey_ones_is_left_out(tmp_path: Path) -> None:
  source = tmp_path / "pictures"
  source.mkdir()
  for i in range(5):
    grey = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    picture = np.stack([grey] * 3, -1) if i % 2 else grey  # grey in three channels is grey
    Image.fromarray(picture).save(source / f"{i}.png")
  Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(source / "photo.png")
  card, _ = _prepare("images", source)
  assert (card["images"], card["channels"]) == (5, 1)
  assert list(card["left_out"].values()) == [1]
  for i in range(9):
    Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(source / f"c{i}.png")
  assert survey(sorted(source.iterdir()), "images").keep == {"colour"}


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_network_sees_the_bits_in_use(tmp_path: Path, bits: int) -> None:
  """Deep pictures in 16 bits, as PNG and as DICOM without a window: one range for the set."""
  source, files = tmp_path / "png", tmp_path / "files"
  source.mkdir()
  files.mkdir()
  for i in range(4):
    deep = RNG.integers(0, 1 << bits, (30, 40)).astype(np.uint16) // (1 + i % 2)
    cv2.imwrite(str(source / f"{i}.png"), deep)
    save(files / f"{i}", dataset(deep, Modality="CR", SOPClassUID=CR, PatientID=f"{i}"))
  for kind, folder in (("images", source), ("dicom", files)):
    if (tmp_path / "out").exists():
      shutil.rmtree(tmp_path / "out")
    card, items = _prepare(kind, folder)
    top = float((1 << bits) - 1)
    assert card["audit"]["images"]["bits_in_use"] == {str(bits - 1): 2, str(bits): 2}
    for item in items:
      np.testing.assert_array_equal(item["value_range"], [0, top])
      seen = transforms.load(item, transforms.View(size=(30, 40)))["images_m11"]
      np.testing.assert_allclose(seen, item["image"] / top * 2.0 - 1.0, atol=1e-5)
    said = [line for line in card["audit"]["warnings"] if "uses more than" in line]
    assert len(said) == (bits < 15)


def test_physics_is_proposed_where_the_pictures_tell() -> None:
  slices = [made.sample for made in phantom.phantoms("chest_ct", 4, 256, seed=0)]
  assert physics_of(slices) == "ct"
  low, high = -160.0, 240.0
  exported = [
    dataclasses.replace(
      s, rescale_slope=1.0, rescale_intercept=0.0, value_range=(0.0, 255.0), bits_stored=8,
      image=np.clip(
        (s.image * s.rescale_slope + s.rescale_intercept - low) / (high - low) * 255, 0, 255
      ).astype(np.uint8),
    )
    for s in slices
  ]  # fmt: skip
  assert physics_of(exported) == "ct"
  above = slices[0].image * slices[0].rescale_slope + slices[0].rescale_intercept + 1024
  shifted = Sample(
    image=np.clip(above, 0, 4095).astype(np.uint16), group="g", source="s", bits_stored=16,
    value_range=(0.0, 65535.0),
  )  # fmt: skip
  assert physics_of([shifted]) == "ct"
  noise = RNG.integers(0, 256, (1300, 1300, 1), dtype=np.uint8)
  radiograph = Sample(image=cv2.GaussianBlur(noise, (0, 0), 9)[..., None], group="g", source="s")
  assert physics_of([radiograph]) == "projection"
  kub = [made.sample for made in phantom.phantoms("kub", 3, 256, seed=0)]
  assert physics_of(kub) == physics_of([]) == ""
  assert physics_of([slices[0], radiograph]) == ""


def test_physics_is_asked_for_where_it_is_not_sure(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  source = tmp_path / "pictures"
  source.mkdir()
  for i in range(3):
    Image.fromarray(RNG.integers(0, 256, (20, 30), dtype=np.uint8)).save(source / f"{i}.png")
  card, items = _prepare("images", source)
  assert {item["physics"] for item in items} == {"none"}
  assert "--physics ct or projection" in capsys.readouterr().out
  assert list(card["notes"].values()) == [3]
  card, items = _prepare("images", source, "--overwrite", "--physics", "projection")
  assert {item["physics"] for item in items} == {"projection"}
  assert card["notes"] == {}


def test_images_that_look_like_another_kind_are_told_of(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  source = tmp_path / "pictures"
  source.mkdir()
  noise = RNG.integers(0, 256, (1300, 1300), dtype=np.uint8)
  Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 9)).save(source / "a.png")
  for physics, is_told in (("ct", True), ("projection", False)):
    _prepare("images", source, "--overwrite", "--physics", physics)
    told = "the images look like projection, and are taken for ct" in capsys.readouterr().out
    assert told == is_told


def test_a_volume_in_hu_is_ct(tmp_path: Path) -> None:
  source = tmp_path / "scans"
  source.mkdir()
  body = RNG.integers(-1024, 1500, (12, 10, 5)).astype(np.int16)
  nib.save(nib.Nifti1Image(body, np.eye(4)), source / "a.nii.gz")
  _, items = _prepare("volumes", source)
  assert {item["physics"] for item in items} == {"ct"}
  assert next(volumes.read(source / "a.nii.gz")).physics == "none"
  nib.save(nib.Nifti1Image(np.abs(body), np.eye(4)), source / "a.nii.gz")
  _, items = _prepare("volumes", source, "--overwrite")
  assert {item["physics"] for item in items} == {"none"}


@pytest.mark.parametrize("shape", [(1, 500), (4000, 3), (1, 1)])
def test_images_of_odd_shapes_are_prepared(tmp_path: Path, shape: tuple[int, int]) -> None:
  source = tmp_path / "odd"
  source.mkdir()
  for i in range(2):
    Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(source / f"{i}.png")
  card, items = _prepare("images", source)
  assert card["images"] == 2
  assert items[0]["image"].shape == (*shape, 1)
