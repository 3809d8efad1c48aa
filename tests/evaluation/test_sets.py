"""Which image belongs to which real one, and what is refused."""

import json

import numpy as np
import pytest

from hiresmed_jax.data import records
from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.errors import UserError
from hiresmed_jax.evaluation import real, sets
from hiresmed_jax.inference import canvas
from hiresmed_jax.synthesis import background, folder, run
from tests.evaluation import scene
from tests.synthesis import drawn


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return scene.dataset(tmp_path_factory.mktemp("sets") / "data")


@pytest.fixture(scope="module")
def base(data):
  return real.open_real(data.root)


def folder_real(path, count=4):
  return real.open_real(scene.folder(path, scene.pictures(count)))


def test_the_held_out_images_are_the_reference(base, data):
  source = records.source(data, "test")
  assert len(base.entries) == len(source) == 6
  assert {e.group for e in base.entries} == {item["group"] for item in source}
  picture = base.entries[2].load()
  item = base.item(base.entries[2].key)
  np.testing.assert_allclose(picture.image, item["image"] / 255.0, atol=1e-6)
  np.testing.assert_array_equal(picture.boxes, item["boxes"])
  assert (base.bits, base.longest) == (8, max(item["image"].shape[:2]))
  assert base.picture("nobody") is None


def test_a_dataset_without_held_out_images_is_refused(tmp_path):
  samples = [drawn.sample(i, name) for i, name in enumerate(drawn.groups("train", 2))]
  records.write_dataset(samples, tmp_path / "data", kind="phantom", name="x")
  with pytest.raises(UserError, match="no held-out images"):
    real.open_real(tmp_path / "data")


def test_names_pair_with_and_without_numbers(tmp_path):
  base = folder_real(tmp_path / "real")
  images = scene.pictures(4)
  made = {f"image{i}_{k}": images[f"image{i}"] for i in range(3) for k in range(2)}
  found = sets.open_set(
    "m", scene.folder(tmp_path / "m", made | {"other": images["image0"]}), base, option="--baseline"
  )
  assert [(e.key, e.sampling) for e in found.entries[:4]] == [
    ("image0", 0), ("image0", 1), ("image1", 0), ("image1", 1),
  ]  # fmt: skip
  assert "1 of 7 images have the name of no real image" in found.notes[0]
  assert found.notes[1] == "1 real images have no image in it"
  np.testing.assert_array_equal(found.entries[0].load().reference, found.entries[0].load().image)
  assert found.entries[-1].load().reference is None
  kept = sets.equal_samplings(found, None)
  assert {e.key for e in kept.entries} == {"image0", "image1", "image2"}
  assert "1 of 7 images are left out" in kept.notes[-1]
  with pytest.raises(UserError, match="no real image has 3 samplings"):
    sets.equal_samplings(found, 3)
  few = found._replace(entries=found.entries[1:3] + found.entries[4:5] + found.entries[6:])
  few = few._replace(entries=(*few.entries, found.entries[0]))
  alike = sets.equal_samplings(few, None)
  assert [e.sampling for e in alike.entries] == [0] * 5
  assert "all of them count as one sampling" in alike.notes[-1]


def test_the_same_name_twice_is_two_samplings(tmp_path):
  base = folder_real(tmp_path / "real")
  images = scene.pictures(4)
  pair = [
    sets.open_set("m", scene.folder(tmp_path / name, images), base, option="--baseline")
    for name in ("a", "b")
  ]
  merged = sets.as_method(pair)
  assert sorted({(e.key, e.sampling) for e in merged.entries}) == [
    (f"image{i}", k) for i in range(4) for k in (0, 1)
  ]


def test_other_sizes_are_brought_together_or_not_paired(tmp_path):
  base = folder_real(tmp_path / "real")
  images = scene.pictures(2)
  small = {"image0": images["image0"][::2, ::2], "image1": images["image1"][:24]}
  found = sets.open_set("m", scene.folder(tmp_path / "m", small), base, option="--baseline")
  first, second = (entry.load() for entry in found.entries)
  assert first.reference.shape == (24, 24, 1)
  assert second.reference is None
  assert second.no_reference == "it is of 48 x 24 pixels and the real image of 48 x 48"


def test_16_bits_beside_8_are_refused(tmp_path):
  base = folder_real(tmp_path / "real")
  deep = {name: image.astype(np.uint16) * 16 for name, image in scene.pictures(2).items()}
  with pytest.raises(UserError, match="16-bit images and --real 8-bit ones"):
    sets.open_set("m", scene.folder(tmp_path / "m", deep), base, option="--baseline")


def test_16_bits_are_shown_as_the_record_is(tmp_path):
  data = scene.dataset(tmp_path / "data", physics="ct")
  base = real.open_real(data.root, window=(-200.0, 200.0))
  key = base.entries[0].key
  image = base.item(key)["image"][..., 0]
  found = sets.open_set("m", scene.folder(tmp_path / "m", {key: image}), base, option="--baseline")
  picture = found.entries[0].load()
  np.testing.assert_array_equal(picture.image, picture.reference)
  share = (image.astype(float) - 32768 + 200) / 400
  np.testing.assert_allclose(picture.image[..., 0], np.clip(share, 0, 1), atol=1e-6)
  assert len(picture.boxes) == 2
  assert found.entries[0].group == base.entries[0].group


def test_a_damaged_file_has_its_reason(tmp_path):
  base = folder_real(tmp_path / "real")
  path = scene.folder(tmp_path / "m", scene.pictures(3))
  whole = (path / "image1.png").read_bytes()
  (path / "image1.png").write_bytes(whole[: len(whole) // 2])
  found = sets.open_set("m", path, base, option="--baseline")
  with pytest.raises(Unreadable, match="damaged or cut short"):
    found.entries[1].load()
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="holds no PNG"):
    sets.open_set("m", tmp_path / "empty", base, option="--baseline")
  with pytest.raises(UserError, match="not there"):
    sets.open_set("m", tmp_path / "nothing", base, option="--baseline")


def test_synthetic_images_belong_to_their_backgrounds(tmp_path, data, base):
  made = [
    {"of": 0, "at": (40, 40), "donor": "d1"},
    {"of": 1, "at": (50, 30), "donor": "d1"},
    {"of": 0, "at": (60, 45), "donor": "d2"},
  ]
  found = sets.open_set("s", scene.synthetic(tmp_path, data, made), base, option="--synthetic")
  train = records.source(data, "train")
  assert [(e.key, e.sampling, e.donors) for e in found.entries] == [
    (train[0]["image_id"], 0, ("d1",)),
    (train[1]["image_id"], 0, ("d1",)),
    (train[0]["image_id"], 1, ("d2",)),
  ]
  picture = found.entries[2].load()
  np.testing.assert_allclose(picture.reference, train[0]["image"] / 255.0, atol=1e-6)
  np.testing.assert_array_equal(
    picture.lesion_mask > 0, np.abs(picture.image - picture.reference)[..., 0] > 1e-6
  )
  np.testing.assert_array_equal(picture.boxes, [[60, 45, 66, 51]])
  assert not found.same_lesions


@pytest.mark.parametrize("whose", ["group", "donor_group"])
def test_held_out_patients_are_refused(tmp_path, data, base, whose):
  held_out = records.source(data, "test")[0]["group"]
  made = [{"of": 0, "at": (40, 40)}, {"of": 1, "at": (40, 40), whose: held_out}]
  path = scene.synthetic(tmp_path, data, made)
  with pytest.raises(UserError, match="of 1 groups are of the test split") as refused:
    sets.open_set("s", path, base, option="--synthetic")
  assert held_out not in str(refused.value)


def test_strangers_and_folders_cannot_be_checked_and_that_is_said(tmp_path, data, base):
  path = scene.synthetic(tmp_path / "s", data, [{"of": 0, "at": (9, 9), "donor_group": "stranger"}])
  found = sets.open_set("s", path, base, option="--synthetic")
  assert "1 of 2 groups" in found.notes[0]
  found = sets.open_set("s", path, folder_real(tmp_path / "real"), option="--synthetic")
  assert "not checked" in found.notes[0]
  assert found.entries[0].load().reference is None


def test_a_damaged_manifest_is_told(tmp_path, base):
  (tmp_path / "manifest.jsonl").write_text(json.dumps({"index": 0}) + "\n")
  with pytest.raises(UserError, match="is damaged"):
    sets.open_set("s", tmp_path, base, option="--synthetic")


class Untouched:
  """Backgrounds as they are, own lesions included: nothing has to be compiled to take them out."""

  def make(self, item, key, device):
    made = canvas.real(item)
    return background.Background(made, made.values, [])


def test_what_synthesize_writes_is_understood(tmp_path, data, base):
  folder.claim(tmp_path, {"request": {"seed": 0}})
  setting = drawn.setting(data, num=2, maker=Untouched())
  assert run.write_missing(setting, tmp_path, token="token", workers=1) == []
  folder.gather(tmp_path, setting)
  found = sets.open_set("s", tmp_path, base, option="--synthetic")
  assert found.kind == "synthetic, backgrounds: real"
  assert found.longest == max(drawn.SHAPE)
  assert all(e.donors and base.places[e.key].split == "train" for e in found.entries)
  picture = found.entries[0].load()
  assert picture.reference.shape == picture.image.shape == (*drawn.SHAPE, 1)
  assert picture.lesion_mask.max() == len(picture.boxes) > 0
