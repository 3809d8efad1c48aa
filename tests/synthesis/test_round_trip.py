"""What `synthesize` writes goes back into `prepare`: images, boxes, masks and groups."""

import json

import cv2
import numpy as np
import pytest

from hiresmed_jax import prepare
from hiresmed_jax.data import records
from hiresmed_jax.data.identity import SPLITS
from hiresmed_jax.errors import UserError
from hiresmed_jax.synthesis import export, folder, run
from tests.synthesis import drawn

WARNING = "ignore:__array__ implementation:DeprecationWarning"  # of pycocotools


def made(setting, out) -> list[dict]:
  setting = setting._replace(look=export.look_of(setting.request, setting.source))
  folder.claim(out, {"request": {}})
  assert run.write_missing(setting, out, token="token", workers=1) == []
  return [record["manifest"] for record in folder.gather(out, setting)]


def prepared_again(out, place, *more) -> list[dict]:
  prepare.main(["--source", str(out), "--out", str(place), "--physics", "none", *more])
  data = records.open_dataset(place)
  return [item for split in SPLITS for item in records.source(data, split)]


@pytest.mark.filterwarnings(WARNING)
@pytest.mark.parametrize(
  ("physics", "options"),
  [
    ("none", {}),
    ("projection", {"depth": 16}),
    ("ct", {}),
    ("MONOCHROME1", {}),
    ("ct", {"format": "dicom"}),
    ("none", {"layout": "nnunet"}),
    ("none", {"layout": "coco"}),
  ],
)
def test_every_box_and_mask_comes_back(prepared, tmp_path, physics, options):
  out = tmp_path / "out"
  if physics == "MONOCHROME1":
    data = (drawn.dataset(tmp_path / "data", physics="projection", photometric=physics),)
  else:
    data = prepared[physics]
  lines = made(drawn.setting(*data, num=3, lesions=(1, 3), **options), out)
  items = prepared_again(out, tmp_path / "again")
  assert len(items) == len(lines)
  assert len({i["group"] for i in items}) == len({line["background"]["group"] for line in lines})
  expected = {tuple(np.ravel([one["box"] for one in line["lesions"]])): line for line in lines}
  for item in items:
    line = expected.pop(tuple(item["boxes"].astype(float).ravel()))
    mask = cv2.imread(str(out / line["mask"]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(item["lesion_mask"], mask)
    if line["image"].endswith(".png"):
      written = cv2.imread(str(out / line["image"]), cv2.IMREAD_UNCHANGED)
      np.testing.assert_array_equal(item["image"][..., 0], written)
  assert not expected


@pytest.mark.filterwarnings(WARNING)
def test_twins_are_negatives_when_asked_for_alone(prepared, tmp_path):
  out = tmp_path / "out"
  lines = made(drawn.setting(*prepared["none"], num=2), out)
  items = prepared_again(out, tmp_path / "both", "--twins")
  assert sorted(len(item["boxes"]) for item in items) == sorted(
    [0, 0, *(len(line["lesions"]) for line in lines)]
  )
  assert all(item["labelled"] for item in items)
  (tmp_path / "plain").mkdir()
  cv2.imwrite(str(tmp_path / "plain" / "a.png"), np.zeros((9, 9), np.uint8))
  with pytest.raises(UserError, match="--twins is for a folder of synthesize"):
    prepared_again(tmp_path / "plain", tmp_path / "x", "--twins")
  # What an older version has made is not read as if it were of this one.
  (out / "request.json").write_text(json.dumps({}))
  with pytest.raises(UserError, match="older version"):
    prepared_again(out, tmp_path / "old")
