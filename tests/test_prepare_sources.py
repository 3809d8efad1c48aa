"""Folders as tools, archives and challenges leave them: read right, or refused by a line."""

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from hiresmed_jax import prepare
from hiresmed_jax.data import records
from hiresmed_jax.data.identity import SPLITS
from hiresmed_jax.errors import UserError
from tests.data.readers.dicom_files import dataset, save

H, W = 24, 32
BOX = (8, 6, 16, 12)
YOLO = "0 0.375 0.375 0.25 0.25\n"
VOC = (
  "<annotation><size><width>{w}</width><height>{h}</height></size><object><name>stone</name>"
  "<bndbox><xmin>9</xmin><ymin>7</ymin><xmax>16</xmax><ymax>12</ymax></bndbox></object>"
  "</annotation>"
)


def pixels(seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (H, W), dtype=np.uint8)


def draw(*paths: Path) -> None:
  for seed, path in enumerate(paths):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path)


def write(path: Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


def write_dicom(path: Path, image: np.ndarray, *, patient: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  save(
    path, dataset(image.astype(np.uint16), PatientID=patient, SOPInstanceUID=f"1.2.{len(patient)}")
  )


def mask(shape: tuple[int, int] = (H, W)) -> np.ndarray:
  x1, y1, x2, y2 = BOX
  found = np.zeros(shape, np.uint8)
  found[y1:y2, x1:x2] = 255
  return found


def coco(path: Path, *names: str, size: tuple[int, int] = (W, H), **more: Any) -> None:
  x1, y1, x2, y2 = BOX
  images = [
    {"id": n, "file_name": name, "width": size[0], "height": size[1]}
    for n, name in enumerate(names)
  ]
  marks = [
    {"id": n, "image_id": n, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], **more}
    for n in range(len(names))
  ]
  content = {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "stone"}]}
  write(path, json.dumps(content))


def ready(folder: Path, *arguments: object, source: str = "in") -> tuple[dict, list[dict]]:
  """(card, records) of `prepare --source in`."""
  number = len(list(folder.glob("out*[0-9]")))
  out = folder / f"out{number}"
  given = ["--source", folder / source, "--out", out, *arguments]
  prepare.main([str(one) for one in given])
  data = records.open_dataset(out)
  return dict(data.card), [item for s in SPLITS for item in records.source(data, s)]


def check(found: tuple[dict, list[dict]], images: int, layout: str | None = None) -> dict:
  """All images have the one box, where it is."""
  card, items = found
  assert (card["images"], card["boxes"], card["unknown"]) == (images, images, 0), card["source"]
  for item in items:
    np.testing.assert_allclose(item["boxes"], [BOX], atol=1e-3)
  if layout is not None:
    assert card["source"]["layout"] == layout
  return card


@pytest.mark.parametrize("form", ["yolo", "voc", "coco"])
def test_roboflow(tmp_path, form):
  root, count = tmp_path / "in", 0
  write(root / "README.roboflow.txt", "exported")
  write(root / "data.yaml", "nc: 1\nnames: ['stone']\n")
  for split, many in (("train", 3), ("valid", 1), ("test", 1)):
    where = root / split / "images" if form == "yolo" else root / split
    # Two copies of each image, in two splits or in one.
    stems = [f"case_{count + n}_png.rf.{17 * count + n:032x}" for n in range(many)]
    draw(*(where / f"{stem}.jpg" for stem in stems))
    for stem in stems:
      if form == "yolo":
        write(root / split / "labels" / f"{stem}.txt", YOLO)
      elif form == "voc":
        write(where / f"{stem}.xml", VOC.format(w=W, h=H))
    if form == "coco":
      coco(where / "_annotations.coco.json", *(f"{stem}.jpg" for stem in stems))
    count += many
  card = check(ready(tmp_path), 5, "Roboflow")
  assert card["groups"] == 5
  assert card["source"]["classes"] == {"stone": 5}


def test_dicom_suffixes_and_none(tmp_path):
  root = tmp_path / "in"
  names = ["a.dicom", "b.IMA", "c.DCM", "1.2.840.113619.2", "IM0001"]
  for name in names:
    write_dicom(root / "dcm" / name, pixels(), patient=name)
  for name in ("a.txt", "b.TXT", "c.dcm.txt", "1.2.840.113619.2.txt", "IM0001.txt"):
    write(root / "txt" / name, YOLO)
  check(ready(tmp_path, "--kind", "dicom"), 5)
  check(ready(tmp_path, "--boxes", "yolo", "--labels", root / "txt", source="in/dcm"), 5)


def test_a_label_of_another_size_is_refused_and_one_of_a_turned_picture_turned(tmp_path):
  root = tmp_path / "in"
  draw(root / "a.png")
  coco(root / "coco.json", "a.png", size=(2 * W, 2 * H))
  write(tmp_path / "voc" / "a.xml", VOC.format(w=2 * W, h=2 * H))
  for given in (["--boxes", "coco"], ["--labels", tmp_path / "voc"]):
    with pytest.raises(UserError, match=f"{2 * W} x {2 * H} pixels and not of {W} x {H}"):
      ready(tmp_path, *given)
  for turn in (6, 7, 8, 5):
    folder = tmp_path / f"turned{turn}"
    (folder / "in").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    raw = mask()
    Image.fromarray(raw).save(folder / "in" / "a.png", exif=exif)
    write(folder / "in" / "a.xml", VOC.format(w=W, h=H))
    card, (item,) = ready(folder)
    assert item["image"].shape == (W, H, 1)
    x1, y1, x2, y2 = item["boxes"][0].astype(int)
    assert item["image"][y1:y2, x1:x2].min() == 255
    assert (item["image"] > 0).sum() == (x2 - x1) * (y2 - y1) == raw.astype(bool).sum()
    assert any("EXIF" in note for note in card["notes"])


def test_names_that_are_not_utf8(tmp_path, capsys):
  for n in range(4):
    folder = os.fsencode(tmp_path / "in" / "images") + b"/Pat_M\xfcller_%d" % (n // 2)
    os.makedirs(folder, exist_ok=True)
    draw(Path(os.fsdecode(folder + b"/R\xf6ntgen_%d.png" % n)))
    write(Path(os.fsdecode(folder.replace(b"images", b"labels") + b"/R\xf6ntgen_%d.txt" % n)), YOLO)
  broken = Path(os.fsdecode(os.fsencode(tmp_path / "in" / "images") + b"/defekt_\xe4.png"))
  write(broken, "text")
  card = check(ready(tmp_path), 4)
  assert card["groups"] == 2
  assert "defekt_\ufffd.png is not" in capsys.readouterr().err


def test_names_of_several_images_are_refused(tmp_path):
  root = tmp_path / "in"
  draw(*(root / "images" / f"p{n}" / "IM0001.png" for n in range(3)))
  coco(tmp_path / "coco.json", "IM0001.png")
  write(tmp_path / "yolo" / "IM0001.txt", YOLO)
  masks = tmp_path / "masks" / "IM0001.png"
  masks.parent.mkdir()
  Image.fromarray(mask()).save(masks)
  write(tmp_path / "groups.csv", "file,group\nIM0001.png,A\n")
  for option in ("--labels=coco.json", "--labels=yolo", "--masks=masks", "--groups=groups.csv"):
    name, _, value = option.partition("=")
    with pytest.raises(UserError, match="1 fit several images") as raised:
      ready(tmp_path, name, tmp_path / value)
    assert len(str(raised.value).splitlines()) == 1
  card, items = ready(tmp_path, "--labels", tmp_path / "yolo", "--allow-unused")
  assert (card["boxes"], card["unknown"]) == (0, 3)
  assert not any(item["labelled"] for item in items)


@pytest.mark.parametrize(
  "form",
  ["images/{}.png", "..\\label\\{}.png", "/data/upload/1/{}.png", "C:\\a b\\{}.png", "{}.PNG",
   "https://host/data/{}.png", "{}.tif"],
)  # fmt: skip
def test_paths_of_another_machine(tmp_path, form):
  names = ["a0", "A1", "Müller"]
  draw(*(tmp_path / "in" / "images" / f"{name}.png" for name in names))
  coco(tmp_path / "in" / "coco.json", *map(form.format, names))
  check(ready(tmp_path), 3)
  check(ready(tmp_path, "--labels", tmp_path / "in" / "coco.json", source="in/images"), 3)


def test_a_label_of_one_of_many_pages_says_which(tmp_path):
  pages = np.stack([pixels(n) for n in range(3)])
  (tmp_path / "in").mkdir()
  tifffile.imwrite(tmp_path / "in" / "stack.tif", pages, photometric="minisblack")
  volume = nib.Nifti1Image(pages.transpose(2, 1, 0).astype(np.int16), np.diag([-1, -1, 1, 1]))
  (tmp_path / "nii").mkdir()
  nib.save(volume, tmp_path / "nii" / "stack.nii.gz")
  write(tmp_path / "txt" / "stack.txt", YOLO)
  (tmp_path / "png").mkdir()
  Image.fromarray(mask()).save(tmp_path / "png" / "stack.png")
  for source in ("in", "nii"):
    for given in (["--labels", tmp_path / "txt"], ["--masks", tmp_path / "png"]):
      with pytest.raises(UserError, match="does not say which"):
        ready(tmp_path, *given, source=source)
  (tmp_path / "txt" / "stack.txt").rename(tmp_path / "txt" / "stack#1.txt")
  (tmp_path / "png" / "stack.png").rename(tmp_path / "png" / "stack#2.png")
  for source in ("in", "nii"):
    for given in (["--labels", tmp_path / "txt"], ["--masks", tmp_path / "png"]):
      card, items = ready(tmp_path, *given, source=source)
      assert (card["images"], card["boxes"], card["unknown"]) == (3, 1, 2)
      np.testing.assert_allclose(next(i["boxes"] for i in items if i["labelled"]), [BOX], atol=1e-3)


def test_suffixes_of_labels_and_masks(tmp_path):
  draw(*(tmp_path / "in" / f"a{n}.PNG" for n in range(3)))
  for n in range(3):
    write(tmp_path / "txt" / f"a{n}.TXT", YOLO)
    write(tmp_path / "twice" / f"a{n}.png.txt", YOLO)
    write(tmp_path / "xml" / f"A{n}.XML", VOC.format(w=W, h=H))
  forms = ("a{}.PNG", "a{}_mask.png", "a{}-seg.tif", "A{}_Segmentation.jpg", "a{}.tiff")
  for number, form in enumerate(forms):
    folder = tmp_path / f"masks{number}"
    folder.mkdir()
    for n in range(3):
      Image.fromarray(mask()).save(folder / form.format(n))
    assert ready(tmp_path, "--masks", folder)[0]["boxes"] == 3
  for labels in ("txt", "twice", "xml"):
    check(ready(tmp_path, "--labels", tmp_path / labels), 3)


def test_several_classes_are_a_question(tmp_path):
  root = tmp_path / "in"
  draw(root / "images" / "a.png", root / "images" / "b.png")
  write(root / "labels" / "a.txt", f"0 0.5 0.5 1 1\n1{YOLO[1:]}")
  write(root / "labels" / "b.txt", "0 0.5 0.5 1 1\n")
  with pytest.raises(UserError, match=r"0 \(2\), 1 \(1\)\. Name the lesion with --lesion-class"):
    ready(tmp_path)
  write(root / "data.yaml", "names: {0: kidney, 1: stone}\n")
  with pytest.raises(UserError, match=r"kidney \(2\), stone \(1\)"):
    ready(tmp_path)
  card, items = ready(tmp_path, "--lesion-class", "stone", "--host-class", "kidney")
  assert (card["boxes"], card["unknown"]) == (1, 0)
  assert all(item["host_mask"].all() for item in items)
  assert ready(tmp_path, "--lesion-class", "stone", "--forbidden-class", "kidney")[0]["boxes"] == 1
  volume = np.zeros((W, H, 2), np.int16)
  for number in (1, 2):
    volume[8 * number : 8 * number + 4, 6:12, 0] = number
  for folder, data in (("imagesTr", 100 * volume - 50), ("labelsTr", volume)):
    (tmp_path / "msd" / folder).mkdir(parents=True)
    nib.save(nib.Nifti1Image(data, np.diag([-1, -1, 1, 1])), tmp_path / "msd" / folder / "a.nii")
  given = {"source": "msd"}
  with pytest.raises(UserError, match=r"several classes: 1 .*, 2 "):
    ready(tmp_path, **given)
  write(
    tmp_path / "msd" / "dataset.json",
    json.dumps({"labels": {"0": "no", "1": "organ", "2": "tumour"}}),
  )
  with pytest.raises(UserError, match=r"organ .*, tumour"):
    ready(tmp_path, **given)
  card, items = ready(tmp_path, "--lesion-class", "tumour", "--host-class", "organ", **given)
  assert (card["boxes"], card["images"], card["unknown"]) == (1, 2, 0)
  np.testing.assert_array_equal(
    next(i["boxes"] for i in items if len(i["boxes"])), [[16, 6, 20, 12]]
  )
  assert sum(int(item["host_mask"].sum()) for item in items) == 24


def test_links_and_by_products_are_counted(tmp_path):
  for n in range(2):
    write_dicom(tmp_path / "archive" / f"P{n}" / "IM0", pixels(n), patient=f"P{n}")
  write_dicom(tmp_path / "in" / "P2" / "IM0", pixels(2), patient="P2")
  for n in range(2):
    (tmp_path / "in" / f"P{n}").symlink_to(f"../archive/P{n}")
  (tmp_path / "in" / "all").symlink_to(".")
  write(tmp_path / "in" / "P2" / "DICOMDIR", "")
  card, _ = ready(tmp_path)
  assert (card["images"], card["groups"]) == (3, 3)
  assert card["left_out"] == {
    "is a link to a folder that is read already": 1,
    "is left by a system or a tool": 1,
  }


def test_decathlon_and_its_channels(tmp_path):
  lesion = np.stack([mask() * 0, mask() // 255], -1).transpose(1, 0, 2)
  for folder, names in (
    ("imagesTr", ["k_00_0000", "k_00_0001", "k_01_0000"]),
    ("labelsTr", ["k_00", "k_01"]),
    ("imagesTs", ["k_02_0000"]),
  ):
    (tmp_path / "in" / folder).mkdir(parents=True)
    for name in names:
      values = lesion if folder == "labelsTr" else 100 * lesion.astype(np.int16) - 50
      nib.save(
        nib.Nifti1Image(values, np.diag([-1, -1, 1, 1])),
        tmp_path / "in" / folder / f"{name}.nii.gz",
      )
      (tmp_path / "in" / folder / f"._{name}.nii.gz").write_bytes(b"\0\5\x16\7")
  write(tmp_path / "in" / "dataset.json", json.dumps({"labels": {"background": 0, "lesion": 1}}))
  card, _ = ready(tmp_path, "--physics", "ct")
  assert card["source"]["layout"] == "nnU-Net"
  assert (card["images"], card["groups"], card["boxes"], card["unknown"]) == (6, 3, 2, 2)
  assert (card["source"]["files"], card["source"]["read"]) == (3, 3)
  assert card["left_out"]["is another channel of an image (nnU-Net)"] == 1
  assert card["audit"]["lesions"]["mask_diameter_px"][0] == pytest.approx(
    2 * (48 / np.pi) ** 0.5, abs=1e-3
  )


def test_patients_groups_and_a_users_split(tmp_path, capsys):
  paths = [
    f"train/patient{p:03d}/study{s}/view{v}.jpg" for p in range(6) for s in "12" for v in "12"
  ]
  draw(*(tmp_path / "in" / path for path in paths))
  card, _ = ready(tmp_path)
  assert (card["groups"], card["source"]["layout"]) == (6, "CheXpert / MURA")
  assert ready(tmp_path, "--group-pattern", r"(?P<patient>study\d)")[0]["groups"] == 2
  rows = [f"{path},{'val' if 'patient003' in path else 'train'}" for path in paths]
  write(tmp_path / "split.csv", "file,split\n" + "\n".join(rows))
  card, _ = ready(tmp_path, "--split", tmp_path / "split.csv")
  assert card["splits"] == {"train": 20, "val": 4, "test": 0}
  rows[-1] = rows[-1].replace("train", "test").replace("test/", "train/")
  write(tmp_path / "split.csv", "file,split\n" + "\n".join(rows))
  with pytest.raises(UserError, match="--split puts 1 of 6 groups"):
    ready(tmp_path, "--split", tmp_path / "split.csv")
  draw(*(tmp_path / "flat" / f"{p}_{s}.png" for p in ("A1", "B2") for s in range(3)))
  capsys.readouterr()
  card, _ = ready(tmp_path, source="flat")
  assert any("last number" in line for line in card["audit"]["warnings"])


def test_a_dry_run_writes_nothing_and_a_source_is_left_as_it_was(tmp_path, capsys):
  draw(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
  write(tmp_path / "in" / "labels" / "a.txt", YOLO)
  before = sorted(tmp_path.rglob("*"))
  prepare.main(["--source", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--dry-run"])
  assert sorted(tmp_path.rglob("*")) == before
  printed = " ".join(capsys.readouterr().out.split())
  for words in (
    "1 used of 1",
    "2 image files found, 2 used, YOLO",
    "1 images that nobody has labelled",
    "would be in",
  ):
    assert words in printed
  ready(tmp_path)
  there = {path for path in tmp_path.iterdir() if path not in before}
  assert {path.name for path in there} == {"out0", "out0.private"}
  assert sorted((tmp_path / "in").rglob("*")) == [
    p for p in before if p.is_relative_to(tmp_path / "in") and p != tmp_path / "in"
  ]
