"""Streams: the images of the command, in any order and process, for grain and for torch."""

import importlib
import pickle
import re
import shutil
from pathlib import Path

import cv2
import grain
import numpy as np
import pytest

import hiresmed_jax
from hiresmed_jax import UserError
from hiresmed_jax.inference import places, survey, workdir
from hiresmed_jax.routes import settings
from hiresmed_jax.synthesis import folder, run
from tests.synthesis import drawn

WISH = {"background": "real", "source": "copy", "lesions": (1, 2), "seed": 3}
PYTHON_PAGE = Path(hiresmed_jax.__file__).parent / "docs" / "python.md"


@pytest.fixture(scope="module", params=["none", "ct"])
def opened(request, prepared, tmp_path_factory):
  """A run that trained nothing: its lesions are copies."""
  data, found = prepared[request.param]
  place = tmp_path_factory.mktemp("stream") / "run"
  place.mkdir()
  workdir.note(place, data, settings.values("synthesize", "best").to_dict())
  survey.files.write_npz(survey._path(place, data.card["fingerprint"]), survey._packed(found))
  return hiresmed_jax.open_run(place)


def same(one, other):
  assert one.keys() == other.keys()
  for name in one:
    assert one[name].dtype == other[name].dtype
    np.testing.assert_array_equal(one[name], other[name])


def test_images_are_those_of_the_folder(opened, tmp_path):
  stream = opened.stream(2, **WISH)
  setting = stream._opener.setting._replace(
    request=stream._opener.setting.request._replace(num=6), kept=run.Kept(0)
  )
  folder.claim(tmp_path / "out", {})
  assert run.write_missing(setting, tmp_path / "out", token="", workers=1) == []
  made = folder.gather(tmp_path / "out", setting)
  for number, record in enumerate(made):
    item, facts = stream.epoch(number // 2)[number % 2], record["manifest"]
    png = cv2.imread(str(tmp_path / "out" / facts["image"]), cv2.IMREAD_UNCHANGED)
    assert item["image"].dtype == np.uint8
    np.testing.assert_array_equal(item["image"][..., 0], png)
    mask = cv2.imread(str(tmp_path / "out" / facts["mask"]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(item["instances"], mask)
    np.testing.assert_allclose(item["boxes"], [lesion["box"] for lesion in facts["lesions"]])
    assert item["classes"].tolist() == [0] * len(facts["lesions"])


def test_an_epoch_is_as_long_as_the_training_split(opened):
  stream = opened.stream(**WISH)
  assert len(stream) == len(stream.epoch(5)) == 6
  assert len(stream.epochs(3)) == 18
  same(stream.epochs(3)[13], stream.epoch(2)[1])
  assert (stream.epoch(1)[0]["instances"] != stream[0]["instances"]).any()
  assert len(list(opened.stream(2, **WISH))) == 2
  with pytest.raises(IndexError):
    stream[6]
  with pytest.raises(ValueError, match="use 0 to"):
    stream.epoch(2**32)


def test_another_process_makes_the_same_ones_in_any_order(opened):
  stream = opened.stream(3, **WISH)
  again = pickle.loads(pickle.dumps(stream.epoch(1)))
  assert again._opener is not stream._opener
  for index in (2, 0):
    same(again[index], stream.epoch(1)[index])
  assert str(opened.workdir) not in repr(stream)


def test_a_run_that_has_changed_meanwhile_is_not_used(opened, monkeypatch):
  stream = opened.stream(3, **WISH)
  there = pickle.dumps(stream)
  other = places.Prior("uniform"), "uniform"
  monkeypatch.setattr(places, "open_prior", lambda *_, **__: other)
  with pytest.raises(UserError, match="has changed since this stream was opened"):
    pickle.loads(there)[0]
  stream[0]


def test_a_worker_uses_the_prior_of_the_process_that_opened_the_stream(opened):
  stream = opened.stream(3, **WISH)
  there, done = pickle.dumps(stream), opened.workdir / "location" / "DONE.json"
  done.parent.mkdir()
  done.write_text("{}")  # as if that route had been trained meanwhile
  try:
    same(pickle.loads(there)[0], stream[0])
    with pytest.raises(UserError, match=r"location.* is damaged"):
      opened.stream(3, **WISH)
  finally:
    shutil.rmtree(done.parent)


def test_pixels_as_seen_and_as_values(opened):
  seen = opened.stream(1, depth=16, **WISH)[0]["image"]
  assert seen.dtype == np.uint16
  stream = opened.stream(1, pixels="values", **WISH)
  values, made = stream[0]["image"], stream._opener.make(0)
  assert values.dtype == np.float32
  slope, intercept = (float(made.item[f"rescale_{name}"]) for name in ("slope", "intercept"))
  np.testing.assert_allclose(values, made.image * slope + intercept)
  low, high = made.item["value_range"]
  np.testing.assert_allclose((values - low) / (high - low), seen / 65535, atol=1e-4)
  for options, line in (
    ({"pixels": "grey"}, "pixels='grey': use 'seen' or 'values'"),
    ({"pixels": "values", "depth": 8}, "no option 'depth'"),
    ({"layout": "coco"}, "no option 'layout'"),
  ):
    with pytest.raises(UserError, match=re.escape(line)):
      opened.stream(1, **WISH, **options)


def test_what_cannot_be_made_names_its_number(opened):
  stream = opened.stream(2, **WISH | {"at": [(500.0, 3.0)], "lesions": 1})
  with pytest.raises(UserError, match=r"image 3: .* lies outside the image"):
    stream.epoch(1)[1]


def test_grain_takes_it_as_a_source(opened):
  stream = opened.stream(3, **WISH)
  batches = (
    grain.MapDataset.source(stream.epochs(2))
    .map(lambda item: {"image": item["image"], "lesions": np.int32(len(item["boxes"]))})
    .batch(3)
  )
  read = list(batches.to_iter_dataset(grain.ReadOptions(num_threads=2)))
  assert [batch["image"].shape for batch in read] == [(3, *drawn.SHAPE, 1)] * 2
  np.testing.assert_array_equal(read[1]["image"][2], stream.epoch(1)[2]["image"])


@pytest.mark.parametrize("opened", ["ct"], indirect=True)
@pytest.mark.slow  # another process imports JAX and compiles
def test_torch_trains_on_it_by_the_page(opened, tmp_path, monkeypatch):
  import torch

  text = PYTHON_PAGE.read_text()
  (block,) = re.findall(r"^```python\n# fresh.py\n(.*?)^```$", text, re.M | re.S)
  (call,) = re.findall(r"^```\n(loader = .*?)^```$", text, re.M | re.S)
  (tmp_path / "fresh.py").write_text(block)
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  stream = opened.stream(3, **WISH)
  names = {"torch": torch, "stream": stream, **vars(importlib.import_module("fresh"))}
  exec(call.replace("num_workers=4", "num_workers=1").replace("epochs=30", "epochs=3"), names)
  (images, targets), (last, _) = names["loader"]
  assert len(images) == 8
  expected = stream.epoch(2)[0]
  np.testing.assert_array_equal(np.rint(images[6][0].numpy() * 255), expected["image"][..., 0])
  np.testing.assert_array_equal(targets[6]["boxes"], expected["boxes"])
  assert targets[6]["labels"].tolist() == [1] * len(expected["boxes"])
  assert len(last) == 1
