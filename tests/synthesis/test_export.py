"""Files as other programs see them: grey levels, polarity, layouts, real images for validation."""

import json

import cv2
import jax
import numpy as np
import pytest

from hiresmed_jax.data import records, writers
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas
from hiresmed_jax.synthesis import export, folder, run
from tests.synthesis import drawn

CLASSES = writers.Classes({"kidney": 0, "stone": 1}, "stone")


def dataset(place, count=6, val=2, **options):
  """Training images in both polarities, and validation images."""
  named = [*drawn.groups("train", count), *drawn.groups("val", val)]
  samples = [
    drawn.sample(n, group, photometric=f"MONOCHROME{1 + n % 2}", **options)
    for n, group in enumerate(named)
  ]
  records.write_dataset(samples, place, kind="phantom")
  return records.open_dataset(place)


def written(setting, out, **more):
  folder.claim(out, {"request": {}})
  assert run.write_missing(setting, out, token="token", workers=1) == []
  return folder.gather(out, setting, **more)


def read(path) -> np.ndarray:
  return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(("physics", "depth"), [("projection", 8), ("projection", 16), ("ct", 8)])
def test_a_mixed_set_is_written_as_a_person_sees_it(tmp_path, physics, depth):
  data = dataset(tmp_path / "data", physics=physics)
  setting = drawn.setting(data, depth=depth, num=6, lesions=(2, 2))
  setting = setting._replace(look=export.look_of(setting.request, setting.source))
  polarities = set()
  for record in written(setting, tmp_path / "out"):
    facts = record["manifest"]
    levels, twin = (read(tmp_path / "out" / facts[key]) for key in ("image", "twin"))
    made = run.make(setting, facts["index"], jax.devices()[0])
    item = made.item
    polarities.add(item["photometric"])
    assert levels.dtype == (np.uint8 if depth == 8 else np.uint16)
    top = float(np.iinfo(levels.dtype).max)
    shown = canvas.shown(
      made.image,
      tuple(map(float, item["value_range"])),
      slope=float(item["rescale_slope"]),
      intercept=float(item["rescale_intercept"]),
      inverted=item["photometric"] == "MONOCHROME1",
    )
    np.testing.assert_allclose(levels / top, shown[..., 0], atol=0.51 / top)
    assert len(np.unique(levels)) > 60
    # Lesions are bright whatever the polarity of the background was.
    mask = read(tmp_path / "out" / facts["mask"])
    for lesion in facts["lesions"]:
      mine = mask == lesion["id"]
      assert levels[mine].mean() > twin[mine].mean() + 0.02 * top
    # The way back to values.
    pixels = facts["pixels"]
    values = pixels["slope"] * levels.astype(float) + pixels["intercept"]
    real = made.image[..., 0] * float(item["rescale_slope"]) + float(item["rescale_intercept"])
    low, high = item["value_range"]
    inside = (real >= low) & (real <= high)
    np.testing.assert_allclose(values[inside], real[inside], atol=0.51 * (high - low) / top)
    assert pixels["unit"] == ("HU" if physics == "ct" else "rescaled")
  assert polarities == {"MONOCHROME1", "MONOCHROME2"}


def test_one_window_holds_the_range_of_all_or_is_asked_for(tmp_path):
  class Ranges:
    def __init__(self, *ranges):
      self.display_ranges = lambda: set(ranges)

  asked = drawn.REQUEST
  assert export.look_of(asked, Ranges((0, 255))).window == (0, 255)
  assert export.look_of(asked, Ranges((-160, 240), (-200, 300))).window == (-200, 300)
  mixed = Ranges((0, 255), (0, 4095))
  with pytest.raises(UserError, match="--window LOW,HIGH for all, or --window own"):
    export.look_of(asked, mixed)
  assert export.look_of(asked._replace(window="own"), mixed).window is None
  assert export.look_of(asked._replace(window=(1.0, 9.0)), mixed).window == (1.0, 9.0)
  data = dataset(tmp_path / "data", physics="ct")
  assert records.source(data, "train").display_ranges() == {(-1000.0, 400.0)}


def test_a_lesion_that_no_file_shows_is_not_labelled(prepared, tmp_path):
  setting = drawn.setting(*prepared["ct"], num=1)
  setting = setting._replace(look=export.Look(8, (-3000.0, -2000.0)))  # all is white
  folder.claim(tmp_path, {})
  (failure,) = run.write_missing(setting, tmp_path, token="token", workers=1)
  assert "less than one grey level" in failure
  assert folder.gather(tmp_path, setting) == []
  assert not list(tmp_path.glob("labels/*"))


def test_an_ultralytics_folder_has_real_images_of_group_1_alone(tmp_path):
  data = dataset(tmp_path / "data", physics="projection")
  setting = drawn.setting(data)._replace(classes=CLASSES)
  real = export.real_images(data.root, setting.survey.groups)
  export.write_real(tmp_path / "out", real, setting.look, CLASSES, layout="ultralytics")
  folder_facts = {"request": {}}
  folder.claim(tmp_path / "other", folder_facts)
  files = sorted((tmp_path / "out" / "real").rglob("*.*"))
  assert [path.name for path in files] == [
    "annotations.json", "000000.png", "000001.png", "000000.txt", "000001.txt"
  ]  # fmt: skip
  assert {path.read_text().split()[0] for path in files if path.suffix == ".txt"} == {"1"}
  coco = json.loads(files[0].read_text())
  assert {a["category_id"] for a in coco["annotations"]} == {2}
  assert len(coco["annotations"]) == sum(len(item["boxes"]) for item in real)
  # A patient of the training images validates nothing, and there must be something.
  item = real[0]
  with pytest.raises(UserError, match="1 of its patients are training patients"):
    export.real_images(data.root, frozenset({item["group"]}))
  none = dataset(tmp_path / "none", val=0)
  with pytest.raises(UserError, match="no labelled image of the validation"):
    export.real_images(none.root, frozenset())


def test_an_nnunet_folder_has_what_nnunet_asks_for(prepared, tmp_path):
  setting = drawn.setting(*prepared["none"], layout="nnunet")._replace(classes=CLASSES)
  made = written(setting, tmp_path)
  about = json.loads((tmp_path / "dataset.json").read_text())
  assert about["labels"] == {"background": 0, "stone": 1}
  assert about["file_ending"] == ".png"
  images, labels = (sorted((tmp_path / name).iterdir()) for name in ("imagesTr", "labelsTr"))
  assert about["numTraining"] == len(images) == len(labels) == len(made) == 3
  for image, label, record in zip(images, labels, made):
    assert image.name == label.name.replace(".png", "_0000.png")
    picture, ids = read(image), read(label)
    assert picture.shape == ids.shape
    assert set(np.unique(ids)) == {0, 1}
    np.testing.assert_array_equal(ids > 0, read(tmp_path / record["manifest"]["mask"]) > 0)
  assert not (tmp_path / "annotations.json").exists()


def test_a_coco_folder_has_no_files_of_yolo(prepared, tmp_path):
  setting = drawn.setting(*prepared["none"], num=1, layout="coco")
  written(setting, tmp_path)
  assert not (tmp_path / "labels").exists()
  assert not (tmp_path / "data.yaml").exists()
  assert (tmp_path / "annotations.json").is_file()


def test_classes_of_the_user_are_kept():
  card = {"source": {"labels_format": "yolo", "class_numbers": {"kidney": 0, "stone": 1}}}
  card["source"]["lesion_classes"] = ["stone"]
  assert export.classes_of(card) == (CLASSES, "")
  card["source"]["lesion_classes"] = ["kidney", "stone"]
  classes, line = export.classes_of(card)
  assert classes == writers.ONE_CLASS
  assert "kidney, stone were joined" in line
  assert export.classes_of({"source": {}}) == (writers.ONE_CLASS, "")


def test_bits_that_add_no_grey_levels_are_told():
  assert "at most 256 grey levels" in export.few_levels(16, 8)
  assert export.few_levels(8, 8) == export.few_levels(16, 16) == export.few_levels(8, 16) == ""


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@pytest.mark.parametrize("layout", [pytest.param("ultralytics", marks=pytest.mark.slow), "coco"])
def test_clients_load_it_unedited(tmp_path, layout):
  from tests.reference import torchvision_cpu, ultralytics_cpu

  data = dataset(tmp_path / "data", physics="projection")
  setting = drawn.setting(data, layout=layout, num=4)._replace(classes=CLASSES)
  setting = setting._replace(look=export.look_of(setting.request, setting.source))
  out = tmp_path / "out"
  real = export.real_images(data.root, setting.survey.groups)
  export.write_real(tmp_path / "real", real, setting.look, CLASSES, layout=layout)
  made = written(setting, out, has_real=True)
  (tmp_path / "real" / "real").rename(out / "real")
  display = []
  for record in made:
    one = run.make(setting, record["manifest"]["index"], jax.devices()[0])
    pixels = export.levels(one.image, one.item, export.Look(16))
    display.append(pixels.mean() / 65535 * 255)
  lesions = [len(record["manifest"]["lesions"]) for record in made]
  if layout == "ultralytics":
    utils = ultralytics_cpu.package("ultralytics.data.utils")
    datasets = ultralytics_cpu.package("ultralytics.data.dataset")
    found = utils.check_det_dataset(str(out / "data.yaml"))
    assert found["names"] == {0: "kidney", 1: "stone"}
    for key, counts in (("train", lesions), ("val", [len(item["boxes"]) for item in real])):
      loaded = datasets.YOLODataset(
        img_path=found[key], data=found, task="detect", imgsz=128, augment=False
      )
      by_name = sorted(loaded.labels, key=lambda label: label["im_file"])
      assert [len(label["cls"]) for label in by_name] == counts
      assert all((label["cls"] == 1).all() for label in by_name)
    pictures = [cv2.imread(str(path)) for path in sorted((out / "images").iterdir())]
  else:
    torchvision = torchvision_cpu.import_torchvision()
    loaded = torchvision.datasets.CocoDetection(str(out / "images"), str(out / "annotations.json"))
    assert [len(targets) for _, targets in loaded] == lesions
    for (_, targets), record in zip(loaded, made):
      ids = read(out / record["manifest"]["mask"])
      for number, target in enumerate(targets, start=1):
        np.testing.assert_array_equal(loaded.coco.annToMask(target), ids == number)
    pictures = [np.asarray(image) for image, _ in loaded]
    validation = torchvision.datasets.CocoDetection(
      str(out / "real" / "images"), str(out / "real" / "annotations.json")
    )
    assert [len(targets) for _, targets in validation] == [len(item["boxes"]) for item in real]
  np.testing.assert_allclose([picture.mean() for picture in pictures], display, rtol=0.05)
