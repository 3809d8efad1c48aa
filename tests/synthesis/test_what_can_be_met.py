"""Requests that can be met: other backgrounds, counts as in training, diameters told beforehand."""

import collections
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from hiresmed_jax import synthesize
from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import survey
from hiresmed_jax.lesions.copying import Copies
from hiresmed_jax.lesions.patch import SourceEmpty
from hiresmed_jax.routes import settings
from hiresmed_jax.synthesis import background, fitting, folder, image, run
from hiresmed_jax.synthesis.mapped import Kept
from hiresmed_jax.synthesis.request import Diameter
from tests import tiny
from tests.synthesis import drawn


def made_of(setting, index):
  return image.make(setting, index, jax.devices()[0])


class Blocked(background.Maker):
  """Forbids all of some backgrounds."""

  blocked = frozenset()

  def make(self, item, key, device):
    ground = super().make(item, key, device)
    if item["image_id"] not in self.blocked:
      return ground
    everywhere = np.ones(drawn.SHAPE, np.uint8)
    return ground._replace(canvas=ground.canvas._replace(forbidden_mask=everywhere))


@pytest.fixture
def blocked(prepared, monkeypatch):
  """A setting in which lesions fit two of six backgrounds."""
  data, found = prepared["ct"]
  setting = drawn.setting(
    data, found, maker=Blocked(None, False, 0.5), at=((52.0, 44.0),), lesions=(1, 1)
  )
  ids = [setting.source[index]["image_id"] for index in range(6)]
  monkeypatch.setattr(Blocked, "blocked", frozenset(ids[:4]))
  return setting._replace(kept=Kept(1 << 30))


def test_where_a_point_does_not_fit_another_background_is_drawn(blocked):
  tries = collections.Counter()
  for index in range(12):
    made = made_of(blocked, index)
    about = made.facts["background"]
    assert about["image"] not in Blocked.blocked
    refused = [attempt["image"] for attempt in about["attempts"]]
    assert len(set(refused)) == len(refused) <= 4
    assert set(refused) <= Blocked.blocked
    assert all("on what is forbidden" in attempt["why"] for attempt in about["attempts"])
    tries[len(refused)] += 1
    (lesion,) = made.facts["lesions"]
    assert np.hypot(*(np.asarray(lesion["centre"]) - (52, 44))) < 1
  assert len(tries) > 2
  assert str(made_of(blocked, 3).facts) == str(made_of(blocked, 3).facts)


def test_it_fails_when_none_fits(blocked, monkeypatch):
  monkeypatch.setattr(
    Blocked, "blocked", frozenset(blocked.source[index]["image_id"] for index in range(6))
  )
  with pytest.raises(UserError, match=r"on what is forbidden: .* \(6 backgrounds tried\)"):
    made_of(blocked, 0)


def test_of_few_backgrounds_none_is_left(blocked):
  few = blocked._replace(request=blocked.request._replace(backgrounds=6))
  order = np.random.default_rng(few.request.seed).permutation(6)
  for index, place in enumerate(order):
    if place < 4:
      with pytest.raises(UserError, match="50 backgrounds tried"):
        made_of(few, index)
    else:
      assert made_of(few, index).facts["background"]["attempts"] == []


def test_a_source_without_lesions_is_asked_once(prepared):
  setting = drawn.setting(*prepared["ct"])._replace(lesions=Copies([]))
  with pytest.raises(SourceEmpty, match=r"no lesion to draw from: .*used$"):
    made_of(setting, 0)


def test_by_default_counts_are_those_of_training_images(prepared):
  data, found = prepared["ct"]
  assert found.counts == (2,) * 6
  setting = drawn.setting(data, found._replace(counts=(1, 3, 3, 3)), lesions=None)
  setting = setting._replace(kept=Kept(1 << 30))
  counts = collections.Counter(len(made_of(setting, i).facts["lesions"]) for i in range(20))
  assert set(counts) == {1, 3}
  assert counts[3] > counts[1]


def test_some_images_may_have_no_lesion(prepared, tmp_path):
  setting = drawn.setting(*prepared["none"], lesions=(0, 1), shams=1, num=5)
  folder.claim(tmp_path, {})
  assert run.write_missing(setting, tmp_path, token="", workers=1) == []
  records = folder.gather(tmp_path, setting)
  bare = [r["manifest"] for r in records if not r["manifest"]["lesions"]]
  assert 0 < len(bare) < 5
  for facts in bare:
    assert (tmp_path / "labels" / f"{facts['index']:06d}.txt").read_text() == ""
    assert len(facts["sham_lesions"]) == 1
    image, twin = ((tmp_path / facts[name]).read_bytes() for name in ("image", "twin"))
    assert image == twin
  coco = json.loads((tmp_path / "annotations.json").read_text())
  assert len(coco["images"]) == 5
  assert len(coco["annotations"]) == 5 - len(bare)
  assert folder.draw_contact_sheet(tmp_path, records).is_file()


def test_the_diameters_that_can_be_made_are_told():
  natives, one = np.array([5.0, 6.25, 40.0], np.float32), np.ones(1)
  told = fitting.require_diameter(Diameter(4, 8.75, "px"), natives, one)
  assert told == "diameters of 3.5 to 8.75 and 28 to 56 px can be made"
  for low, high in ((3, 8), (4, 30), (10, 12), (28, 57)):
    with pytest.raises(UserError, match=rf"--diameter-px {low}-{high}: {told}, as a lesion is"):
      fitting.require_diameter(Diameter(low, high, "px"), natives, one)
  told = fitting.require_diameter(Diameter(2, 8, "mm"), natives, np.array([0.5, 1.0]))
  assert told == "diameters of 1.75 to 8.75 and 14 to 56 mm can be made"
  with pytest.raises(UserError, match="--diameter-mm: 1 of 2 images have no known pixel spacing"):
    fitting.require_diameter(Diameter(2, 4, "mm"), natives, np.array([0.5, np.nan]))


def command(data, place, *flags):
  given = ["--config", f"{tiny.__file__}:background", "--config.data.phantom.kind="]
  given += ["--data", str(data.root), "--workdir", str(place), "--out", str(place / "out")]
  given += ["--background", "real", "--lesion-source", "copy", "--config.synthesize.workers=1"]
  synthesize.main([*given, *flags])


def test_a_command_goes_on_with_the_prior_that_it_began_with(prepared, tmp_path, capsys):
  data, found = prepared["ct"]
  survey.files.write_npz(survey._path(tmp_path, data.card["fingerprint"]), survey._packed(found))
  with pytest.raises(UserError, match=r"--diameter-px 3-4: diameters of .* px can be made"):
    command(data, tmp_path, "--num", "1", "--diameter-px", "3-4")
  command(data, tmp_path, "--num", "1", "--diameter-mm", "5-6")
  assert "mm can be made" in capsys.readouterr().out
  for route in ("location", "danger"):  # as if they had been trained meanwhile
    (tmp_path / route).mkdir()
    (tmp_path / route / "DONE.json").write_text("{}")
  command(data, tmp_path, "--num", "2", "--diameter-mm", "5-6")
  assert "made without the route location and danger, and so are these" in capsys.readouterr().out
  assert len(list((tmp_path / "out" / "images").iterdir())) == 2
  with pytest.raises(UserError, match=r"location.* is damaged"):
    command(data, tmp_path, "--num", "2", "--diameter-mm", "5-6", "--overwrite")


def test_older_surveys_know_counts_of_what_can_be_used(prepared, tmp_path):
  data, found = prepared["ct"]
  path = survey._path(tmp_path, data.card["fingerprint"])
  packed = {name: array for name, array in survey._packed(found).items() if name != "counts"}
  survey.files.write_npz(path, packed)
  donors = collections.Counter(patch.donor for patch in found.patches)
  assert survey.load(tmp_path, data.card["fingerprint"]).counts == tuple(donors.values())
  assert survey.load_or_make(data, tmp_path).counts == (2,) * 6
  assert survey.load(tmp_path, data.card["fingerprint"]).counts == (2,) * 6


def test_images_of_8_bits_beside_deeper_ones_are_refused(tmp_path):
  groups = drawn.groups("train", 2)
  few = drawn.sample(0, groups[0])
  deep = few.image.astype(np.uint16) * 257
  more = dataclasses.replace(
    few, image=deep, value_range=(0.0, 65535.0), group=groups[1], source="another"
  )
  records.write_dataset([few, more], tmp_path / "data", kind="phantom", name="drawn")
  data, values = records.open_dataset(tmp_path / "data"), settings.values("synthesize", "best")
  values.hosts = "off"
  with pytest.raises(UserError, match="black or white in another"):
    run.assemble(values, drawn.REQUEST._replace(window="own"), tmp_path / "run", data)
  ranges = [few.value_range, more.value_range]
  fitting.require_one_scale({"projection"}, ranges)  # scaled to each other
  fitting.require_one_scale({"none"}, ranges[1:])


def test_copies_are_of_lesions_that_their_masks_show(prepared):
  said: list[str] = []
  _, found = prepared["none"]
  # Its mask is a corner of what is seen: the rest would come along without a label.
  part = found.patches[0]
  rows, _ = np.nonzero(part.mask)
  corner = (np.indices(part.mask.shape)[0] <= np.quantile(rows, 0.3)) & part.mask
  bad = part._replace(alpha=np.where(corner, part.alpha, 0.0).astype(np.float32))
  several = found._replace(patches=[bad, *found.patches])
  copies, _ = run._lesions("copy", Path("run"), "", several, flip=False, say=said.append)
  assert len(copies.patches) == len(found.patches)
  assert said == ["1 training lesion passed over: the mask shows only a part"]
  assert copies.patches[0] is found.patches[0]
  # Where most masks are drawn by another rule, all are used.
  copies, _ = run._lesions(
    "copy", Path("run"), "", found._replace(patches=[bad] * 3), flip=False, say=said.append
  )
  assert len(copies.patches) == 3
