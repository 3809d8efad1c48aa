"""Labels and masks that contradict themselves or their set: refused, or told."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from hiresmed_jax.errors import UserError
from tests.test_prepare_sources import BOX, VOC, YOLO, H, W, check, coco, draw, mask, ready, write

X1, Y1, X2, Y2 = BOX
OUTLINE = [[X1, Y1, X2, Y1, X2, Y2, X1 + 1, Y2, X1, Y1 + 3]]


def test_many_boxes_outside_make_the_others_doubtful(tmp_path):
  names = [f"p{n}" for n in range(6)]
  draw(*(tmp_path / "in/images" / f"{name}.png" for name in names))
  rows = [f"{name},{8 + 10 * n},6,{16 + 10 * n},12" for n, name in enumerate(names)]
  write(tmp_path / "in/boxes.csv", "\n".join(["image,xmin,ymin,xmax,ymax", *rows]))
  with pytest.raises(UserError, match="4 of 6 labels have boxes outside"):
    ready(tmp_path)
  card, _ = ready(tmp_path, "--allow-unused")
  assert (card["images"], card["boxes"], sum(card["skipped"].values())) == (2, 2, 4)


@pytest.mark.parametrize(
  ("outline", "box", "says"),
  [
    (OUTLINE, [X1, Y1, X2 - X1, Y2 - Y1], ""),
    (OUTLINE, [X1 - 4, Y1 - 3, X2 - X1 + 8, Y2 - Y1 + 8], ""),  # a loose box
    (OUTLINE, [X1, Y1, X2, Y2], "is it xyxy"),
    (OUTLINE, [20, 14, 8, 6], "does not fit"),
    ([[n / 32 for n in OUTLINE[0]]], [X1, Y1, X2 - X1, Y2 - Y1], "empty mask"),
  ],
)
def test_an_outline_fits_its_box(tmp_path, outline, box, says):
  draw(tmp_path / "in/a.png")
  coco(tmp_path / "in/coco.json", "a.png", segmentation=outline, bbox=box)
  if says:
    with pytest.raises(UserError, match=says):
      ready(tmp_path)
  else:
    assert ready(tmp_path)[0]["boxes"] == 1


def test_labels_with_the_name_of_another_image(tmp_path, capsys):
  draw(*(tmp_path / "in" / f"{name}.png" for name in "abc"))
  named = VOC.format(w=W, h=H).replace("<size>", "<filename>{}</filename><size>")
  for name, inside in (("a", "b.png"), ("b", "moved.png"), ("9", "c.png")):
    write(tmp_path / "in" / f"{name}.xml", named.format(inside))
  card = check(ready(tmp_path), 2)
  assert "a.png has a label file that names another image" in capsys.readouterr().err
  assert sorted(card["notes"].values()) == [1, 1, 2]


def test_marks_of_cvat_outside_of_the_image_and_tracks(tmp_path):
  draw(tmp_path / "in/a.png")
  text = (
    f'<annotations><image id="0" name="a.png" width="{W}" height="{H}">{{}}</image></annotations>'
  )
  box = f'<box label="s" xtl="{X1}" ytl="{Y1}" xbr="{X2}" ybr="{Y2}" occluded="1" outside="{{}}"/>'
  other = box.format(1).replace(f'"{X1}"', '"1"')
  write(tmp_path / "in/annotations.xml", text.format(box.format(0) + other))
  assert any("outside" in note for note in check(ready(tmp_path), 1)["notes"])
  track = f'<track id="0" label="s">{box.format(0)}</track></annotations>'
  write(tmp_path / "in/annotations.xml", text.replace("</annotations>", track).format(""))
  with pytest.raises(UserError, match="tracks"):
    ready(tmp_path)


def test_confidences_are_told(tmp_path):
  draw(tmp_path / "in/images/a.png")
  write(tmp_path / "in/labels/a.txt", YOLO.strip() + " 0.93\n")
  assert any("confidences" in note for note in check(ready(tmp_path), 1)["notes"])


def test_two_categories_of_one_id_are_refused(tmp_path):
  draw(tmp_path / "in/a.png")
  coco(tmp_path / "in/coco.json", "a.png")
  content = json.loads((tmp_path / "in/coco.json").read_text())
  content["categories"].append({"id": 1, "name": "kidney"})
  write(tmp_path / "in/coco.json", json.dumps(content))
  with pytest.raises(UserError, match="two categories"):
    ready(tmp_path)


def test_black_jpeg_masks_are_a_question(tmp_path):
  draw(tmp_path / "in/a.png", tmp_path / "in/b.png")
  (tmp_path / "masks").mkdir()
  for top in (1, 2):
    for name in "ab":
      Image.fromarray(mask() // 255 * top).save(tmp_path / "masks" / f"{name}.jpg", quality=30)
    with pytest.raises(UserError, match="2 JPEG masks are black"):
      ready(tmp_path, "--masks", tmp_path / "masks")
  Image.fromarray(mask()).save(tmp_path / "masks/b.jpg")
  Image.fromarray(mask() * 0).save(tmp_path / "masks/a.jpg")
  card, _ = ready(tmp_path, "--masks", tmp_path / "masks")
  assert (card["boxes"], card["images"], card["unknown"]) == (1, 2, 0)


def test_a_mask_without_the_affine_of_its_volume_is_refused(tmp_path):
  affine = np.diag([-1, -1, 2, 1])
  lesion = np.stack([mask() // 255, mask() * 0], -1).transpose(1, 0, 2)
  (tmp_path / "in").mkdir()
  (tmp_path / "masks").mkdir()
  nib.save(nib.Nifti1Image(100 * lesion.astype(np.int16), affine), tmp_path / "in/a.nii.gz")
  path = tmp_path / "masks/a.nii.gz"
  nib.save(nib.Nifti1Image(lesion, np.eye(4)), path)
  with pytest.raises(UserError, match="lies elsewhere"):
    ready(tmp_path, "--masks", tmp_path / "masks")
  turned = nib.orientations.axcodes2ornt("RAS")
  nib.save(nib.Nifti1Image(lesion, affine).as_reoriented(turned), path)
  card, items = ready(tmp_path, "--masks", tmp_path / "masks")
  found = [item["boxes"] for item in items if len(item["boxes"])]
  assert (card["images"], len(found)) == (2, 1)
  np.testing.assert_allclose(found[0], [BOX])


def test_archives_are_to_be_unpacked(tmp_path):
  write(tmp_path / "in/series.zip", "PK")
  for source in ("in", "in/series.zip"):
    with pytest.raises(UserError, match="unpack it"):
      ready(tmp_path, source=source)
  draw(tmp_path / "in/a.png")
  assert ready(tmp_path)[0]["left_out"] == {"is an archive: unpack it": 1}


@pytest.mark.parametrize("name", ["coco.json", "boxes.csv"])
def test_a_label_file_beside_the_folder_of_images(tmp_path: Path, name: str) -> None:
  draw(tmp_path / "in/images/a.png")
  if name == "coco.json":
    coco(tmp_path / "in" / name, "a.png")
  else:
    write(tmp_path / "in" / name, f"image;xmin;ymin;xmax;ymax\na.png;{X1},0;{Y1};{X2};{Y2}\n")
  check(ready(tmp_path, source="in/images"), 1)


def test_negatives_are_named_and_left_as_they_are(tmp_path, capsys):
  plain = np.pad(np.full((H - 8, W - 8), 180, np.uint8), 4)
  (tmp_path / "in").mkdir()
  for n in range(9):
    picture = plain - np.random.default_rng(n).integers(0, 40, (H, W), dtype=np.uint8) * (plain > 0)
    Image.fromarray(255 - picture if n == 3 else picture).save(tmp_path / f"in/a{n}.png")
  card, items = ready(tmp_path)
  assert any("1 of 9 images look like negatives" in line for line in card["audit"]["warnings"])
  assert "odd: a3.png looks like a negative" in capsys.readouterr().err
  assert "a3.png" in (tmp_path / "out0.private/out0.odd.csv").read_text()
  assert sum(item["image"][0, 0, 0] == 255 for item in items) == 1


def test_twins_in_two_groups_are_named(tmp_path, capsys):
  y, x = np.indices((H, W))
  picture = (100 + 60 * np.sin(x / 5) * np.cos(y / 9 + x / 17)).astype(np.uint8)
  pictures = {"p1": picture, "p2": picture[:, ::-1], "p3": np.uint8(255 - y)}
  for patient, shown in pictures.items():
    (tmp_path / "in" / patient).mkdir(parents=True)
    Image.fromarray(np.ascontiguousarray(shown)).save(tmp_path / "in" / patient / "a.png")
  card, _ = ready(tmp_path)
  assert card["audit"]["groups"]["near_duplicates"]["across_groups"] == 1
  assert "odd: p1/a.png is the same image as p2/a.png, of another" in capsys.readouterr().err
  assert "p2/a.png" in (tmp_path / "out0.private/out0.odd.csv").read_text()
  assert "p2" not in json.dumps(card)


def test_labels_without_any_lesion_are_told(tmp_path):
  draw(tmp_path / "in/images/a.png", tmp_path / "in/images/b.png")
  for text in ("", YOLO):
    write(tmp_path / "in/labels/a.txt", text)
    told = [line for line in ready(tmp_path)[0]["audit"]["warnings"] if "shows a lesion" in line]
    assert bool(told) == (not text)
