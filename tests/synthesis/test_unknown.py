"""Images that nobody has labelled are never taken for lesion-free."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hiresmed_jax.data import detection, records
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes.location import train
from hiresmed_jax.runtime.config import load_config
from hiresmed_jax.synthesis import run
from tests import tiny, tiny_run
from tests.synthesis import drawn


def half_unknown(folder: Path, *, labelled: int = 4) -> tuple[records.Dataset, set[str]]:
  """Training images, the first of which are labelled, and the ids of these."""
  samples = []
  for number, group in enumerate([*drawn.groups("train", 8), *drawn.groups("val", 2)]):
    one = drawn.sample(number, group)
    if labelled <= number < 8:
      one = dataclasses.replace(
        one, boxes=np.zeros((0, 4), np.float32), lesion_mask=np.zeros((0, 0), np.uint16)
      )
    samples.append(one)
  records.write_dataset(samples, folder, kind="phantom")
  data = records.open_dataset(folder)
  known = {i["image_id"] for i in records.source(data, "train") if i["labelled"]}
  assert len(known) == labelled
  return data, known


def test_backgrounds_and_shams_are_of_labelled_images(tmp_path):
  data, known = half_unknown(tmp_path / "data")
  values = load_config(f"{tiny.__file__}:location").synthesize
  values.prior = "atlas"
  setting, _ = run.assemble(values, drawn.REQUEST, tmp_path, data)
  assert {item["image_id"] for item in setting.source} == known
  none, _ = half_unknown(tmp_path / "none", labelled=0)
  with pytest.raises(UserError, match="somebody has labelled"):
    run.assemble(values, drawn.REQUEST, tmp_path, none)


def test_the_detector_takes_no_unknown_image_as_negative(tmp_path, monkeypatch):
  data, known = half_unknown(tmp_path / "data")
  seen = {}

  class Reached(Exception):
    pass

  def feed(source, **_):
    seen["train"] = {item["image_id"] for item in (source[n] for n in range(len(source)))}
    raise Reached

  monkeypatch.setattr(detection, "train_dataset", feed)
  config = load_config(f"{tiny.__file__}:location", ["location.batch_size=2", "location.size=64"])
  with pytest.raises(Reached):
    train.train(config, data, tmp_path / "location", tiny_run.mesh())
  assert seen["train"] == known
