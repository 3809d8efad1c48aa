"""Variants of labels, masks and tables that tools write: read right, or refused by a line."""

import json
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hiresmed_jax.errors import UserError
from tests.test_prepare_sources import BOX, YOLO, H, W, check, coco, draw, ready, write, write_dicom

X1, Y1, X2, Y2 = BOX


def pictures(root: Path, *names: str) -> None:
  draw(*(root / "images" / f"{name}.png" for name in names))


def test_hash_in_a_name(tmp_path):
  """`a#1` is the image of that name where there is one, else the second page of `a`."""
  pictures(tmp_path / "in", "a", "a#1", "b#7")
  for name in ("a", "a#1", "b#7"):
    write(tmp_path / "in/labels" / f"{name}.txt", YOLO)
  check(ready(tmp_path), 3)
  for name in ("a", "b"):
    (tmp_path / f"in/images/{name}.png").write_bytes((tmp_path / "in/images/b#7.png").read_bytes())
  (tmp_path / "in/images/b#7.png").unlink()
  card, _ = ready(tmp_path)
  assert (card["unknown"], sum(card["skipped"].values())) == (1, 1)


def test_class_numbers_beyond_the_names_are_refused(tmp_path):
  """Numbers that count from 1 would get the name of the class before."""
  pictures(tmp_path / "in", "a", "b")
  for name, number in (("a", 1), ("b", 2)):
    write(tmp_path / "in/labels" / f"{name}.txt", f"{number}{YOLO[1:]}")
  write(tmp_path / "in/data.yaml", "names: {'0': kidney, '1': stone}\n")
  with pytest.raises(UserError, match="class 2, and there are names for 0 to 1"):
    ready(tmp_path)
  write(tmp_path / "in/data.yaml", "names: {'0': kidney, '1': stone, '2': bone}\n")
  card, _ = ready(tmp_path, "--lesion-class", "stone")
  assert card["source"]["classes"] == {"bone": 1, "stone": 1}


def test_class_lines_keep_their_numbers(tmp_path):
  pictures(tmp_path / "in", "a")
  write(tmp_path / "in/labels/a.txt", "2" + YOLO[1:])
  write(tmp_path / "in/classes.txt", "kidney\n\nstone\n\n")
  assert check(ready(tmp_path), 1)["source"]["classes"] == {"stone": 1}


@pytest.mark.parametrize(
  ("header", "row"),
  [
    ("img_name,x,y,width,height,label", f"a.png,{X1},{Y1},{X2 - X1},{Y2 - Y1},1"),
    ("filename,width,height,class,xmin,ymin,xmax,ymax", f"a.png,{W},{H},s,{X1},{Y1},{X2},{Y2}"),
    ("# of two readers\n,Image ID,X Min,Y Min,X Max,Y Max", f"0,a.png,{X1},{Y1},{X2},{Y2}"),
    ("image,xmin,ymin,xmax,ymax,w,h", f"a,{X1},{Y1},{X2},{Y2},{X2 - X1},{Y2 - Y1}"),
  ],
)
def test_tables_of_boxes(tmp_path, header, row):
  pictures(tmp_path / "in", "a")
  write(tmp_path / "in/boxes.csv", f"{header}\n{row}\n")
  check(ready(tmp_path), 1)


def test_zeros_in_a_table_are_negative(tmp_path):
  pictures(tmp_path / "in", "a", "b")
  rows = f"a.png,{X1},{Y1},{X2 - X1},{Y2 - Y1},1\nb.png,0,0,0,0,0\n"
  write(tmp_path / "in/boxes.csv", f"img_name,x,y,width,height,label\n{rows}")
  card, _ = ready(tmp_path)
  assert (card["boxes"], card["unknown"], card["images"]) == (1, 0, 2)


def test_labels_in_wrong_units_are_refused(tmp_path):
  pictures(tmp_path / "in", "a")
  shares = ",".join(str(n) for n in (X1 / W, Y1 / H, X2 / W, Y2 / H))
  for text, words in (
    (f"image,xmin,ymin,xmax,ymax\na,{shares}\n", "shares of the image"),
    (f"image,xmin,ymin,xmax,ymax,width,height\na,{X1},{Y1},{X2},{Y2},64,48\n", "resized"),
  ):
    write(tmp_path / "in/boxes.csv", text)
    with pytest.raises(UserError, match=words):
      ready(tmp_path)


def test_key_points_are_no_outlines(tmp_path):
  pictures(tmp_path / "in", "a")
  write(tmp_path / "in/labels/a.txt", f"{YOLO.strip()} 0.5 0.5 0.4 0.4\n")
  write(tmp_path / "in/data.yaml", "names: [stone]\nkpt_shape: [2, 2]\n")
  with pytest.raises(UserError, match="key points"):
    ready(tmp_path)


def test_empty_outline_is_refused(tmp_path):
  pictures(tmp_path / "in", "a")
  coco(tmp_path / "in/annotations.json", "a.png", segmentation=[[]])
  with pytest.raises(UserError, match="cannot be read"):
    ready(tmp_path)


@pytest.mark.parametrize("name", ["a b.png", "/data/local-files/?d=my%20set%2Fa%20b.png"])
def test_names_of_label_studio(tmp_path, name):
  pictures(tmp_path / "in", "a b")
  value = {"x": 100 * X1 / W, "y": 100 * Y1 / H, "width": 100 * (X2 - X1) / W}
  value |= {"height": 100 * (Y2 - Y1) / H, "rectanglelabels": ["stone"]}
  result = {"type": "rectanglelabels", "value": value}
  task = {"data": {"image": name}, "annotations": [{"result": [result]}]}
  write(tmp_path / "in/export.json", json.dumps([task]))
  check(ready(tmp_path), 1)


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("labels/a.txt", YOLO.replace(" ", ",")),
    ("labels/a.txt", YOLO.replace("0", "stone", 1)),
    ("labels/a.png.json", '{"size": {}, "objects": []}'),
    ("a.xml", "<drawing/>"),
    ("boxes.jsonl", '{"image": "a.png", "bbox": [3, 3, 4, 4]}'),
    ("_annotations.createml.json", '[{"image": "a.png", "annotations": [{"coordinates": {}}]}]'),
    ("annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,3,4,5,6\n"),
    ("boxes.csv", f"Image Index,Finding,Bbox [x,y,w,h],,,\na.png,Mass,{X1},{Y1},3,3\n"),
    ("boxes.csv", f"images/a.png,{X1},{Y1},{X2},{Y2},stone\n"),
    ("via.json", '{"a.png9": {"regions": [{"shape_attributes": {"x": 3}}]}}'),
    ("coco.json", '{"images": [], "annotations": [{"bbox": [3, '),
  ],
)
def test_labels_that_are_not_understood_are_no_silence(tmp_path, name, text):
  pictures(tmp_path / "in", "a")
  write(tmp_path / "in" / name, text)
  with pytest.raises(UserError, match="no format that is read"):
    ready(tmp_path)
  card, _ = ready(tmp_path, "--allow-unused")
  assert (card["unknown"], sum(card["skipped"].values())) == (1, 1)


def test_a_workbook_of_boxes_is_no_silence(tmp_path):
  pictures(tmp_path / "in", "a")
  with zipfile.ZipFile(tmp_path / "in/boxes.xlsx", "w") as book:
    texts = "".join(f"<si><t>{name}</t></si>" for name in ("filename", "xmin", "ymin", "xmax"))
    book.writestr("xl/sharedStrings.xml", f"<sst>{texts}</sst>")
  with pytest.raises(UserError, match="no format that is read"):
    ready(tmp_path)


def test_masks_that_are_not_used_are_a_warning(tmp_path):
  pictures(tmp_path / "in", "a")
  draw(tmp_path / "in/masks/a.png")
  card, _ = ready(tmp_path)
  assert any("may be masks" in line for line in card["audit"]["warnings"])


def test_other_tables_are_no_labels(tmp_path):
  pictures(tmp_path / "in", "a")
  write(tmp_path / "in/groups.csv", "file,group,bbox\na,p,1\n")
  write(tmp_path / "in/findings.csv", "image,finding,age\na.png,stone,50\n")
  write(tmp_path / "in/about.json", '{"name": "stones", "images": 1}'.replace("images", "count"))
  write(tmp_path / "in/notes.txt", "seen by two readers")
  assert ready(tmp_path, "--groups", tmp_path / "in/groups.csv")[0]["unknown"] == 1


def test_one_damaged_label_costs_its_image(tmp_path):
  pictures(tmp_path / "in", "a", "b")
  write(tmp_path / "in/labels/a.txt", YOLO)
  write(tmp_path / "in/labels/b.txt", "damaged")
  card = check(ready(tmp_path), 1)
  assert sum(card["skipped"].values()) == 1


def test_source_inside_the_folder_of_images(tmp_path):
  draw(tmp_path / "in/images/train/a.png", tmp_path / "in/images/val/a.png")
  write(tmp_path / "in/labels/train/a.txt", YOLO)
  write(tmp_path / "in/labels/val/a.txt", "")
  check(ready(tmp_path, source="in/images/train"), 1)


@pytest.mark.parametrize("name", ["lesion_masks/a.png", "gt 2/a.png", "scans/mask_a.png"])
def test_masks_are_no_images(tmp_path, name):
  draw(tmp_path / "in/scans/a.png", tmp_path / "in" / name)
  card, _ = ready(tmp_path)
  assert (card["images"], sum(card["left_out"].values())) == (1, 1)


@pytest.mark.parametrize(
  ("image", "mask"),
  [("imaging", "segmentation"), ("volume-1", "segmentation-1"), ("a_flair", "a_seg")],
)
def test_masks_are_no_volumes(tmp_path, image, mask):
  for name in (image, mask):
    path = tmp_path / "in" / f"{name}.nii.gz"
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.arange(1024, dtype=np.int16).reshape(16, 16, 4), np.eye(4)), path)
  card, _ = ready(tmp_path)
  assert (card["source"]["read"], sum(card["left_out"].values())) == (1, 1)


def test_dicom_files_named_by_their_uid(tmp_path):
  write_dicom(tmp_path / "in/1.2.840.7", np.arange(W * H).reshape(H, W), patient="p")
  assert ready(tmp_path)[0]["images"] == 1


@pytest.mark.parametrize("suffix", [".bmp", ".nrrd"])
def test_masks_of_other_suffixes_are_unused(tmp_path, suffix):
  pictures(tmp_path / "in", "a", "b")
  draw(tmp_path / "masks/a.png", tmp_path / "masks/b.bmp")
  (tmp_path / "masks/b.bmp").rename(tmp_path / "masks" / f"b{suffix}")
  with pytest.raises(UserError, match="1 of 2 lesion masks"):
    ready(tmp_path, "--masks", tmp_path / "masks")


def test_a_split_names_a_group_without_images(tmp_path):
  pictures(tmp_path / "in", "a", "b")
  write(tmp_path / "split.csv", "group,split\na,train\nb,test\nbee,val\n")
  card, _ = ready(tmp_path, "--split", tmp_path / "split.csv")
  assert (card["images"], sum(card["skipped"].values())) == (2, 1)
