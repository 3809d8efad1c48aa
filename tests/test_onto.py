"""`synthesize --onto`: a trained run puts lesions into other images than it was trained on."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest

from hiresmed_jax import UserError, synthesize
from hiresmed_jax.data import records, writers
from hiresmed_jax.data.identity import Identity
from hiresmed_jax.data.readers import dicom
from hiresmed_jax.inference import contents, survey, workdir
from hiresmed_jax.routes import settings
from hiresmed_jax.runtime import cli, compilation
from tests import tiny_run
from tests.synthesis import drawn

NAMES, HELD_OUT = drawn.groups("train", 12)[6:], drawn.groups("test", 3)[1:]


@pytest.fixture(scope="module", autouse=True)
def soon_compiled():
  device = tiny_run.mesh(1).devices.flat[0]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(compilation, "options", tiny_run.quick)
    patch.setattr(synthesize.run.jax, "local_devices", lambda **_: [device])
    yield


def workdir_of(place, physics):
  """(a run without routes, whose dataset is gone; that dataset under another name)."""
  data = drawn.dataset(place / "data", physics=physics)
  workdir.note(place / "run", data, settings.values("synthesize", "best").to_dict())
  survey.load_or_make(data, place / "run")
  contents.of_run(place / "run", data)
  return place / "run", records.open_dataset((place / "data").rename(place / "moved"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  return workdir_of(tmp_path_factory.mktemp("plain"), "none")


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
  return workdir_of(tmp_path_factory.mktemp("radiographs"), "projection")


def without_lesions(seed):
  """uint8[H, W], a body of its own size, without lesions."""
  sample = drawn.sample(seed, "x")
  body = np.where(sample.lesion_mask > 0, 90, sample.image[..., 0])
  return cv2.resize(cv2.medianBlur(body, 9), (104 + 20 * seed, 88 + 12 * seed))


def folder_of(place, names=NAMES):
  place.mkdir(parents=True)
  for seed, name in enumerate(names):
    cv2.imwrite(str(place / f"{name}.png"), without_lesions(seed))
  return place


def command(run, onto, out, *more):
  given = ["--workdir", run, "--onto", onto, "--out", out, "--num", "4", "--lesion-source", "copy"]
  synthesize.main([str(one) for one in [*given, "--lesions", "1-2", *more]])
  return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def refused(capsys, *arguments):
  with pytest.raises(SystemExit) as left:
    cli.run(synthesize.main, [str(a) for a in arguments])
  assert left.value.code == 2
  return capsys.readouterr().err.splitlines()[-1]


def pictures(out):
  return {
    path.relative_to(out).as_posix(): path.read_bytes()
    for path in out.rglob("*")
    if path.suffix in (".png", ".txt", ".dcm")
  }


def test_a_folder_gets_lesions_in_the_pixels_of_its_images(plain, tmp_path, capsys):
  run, _ = plain
  onto = folder_of(tmp_path / "normals", [*NAMES, *HELD_OUT])
  lines = command(run, onto, tmp_path / "out", "--lesion-free", "--backgrounds", "4")
  told = capsys.readouterr().out
  assert "lesions are put into 6 of 8 images; not into 2 held out" in told
  assert "taken for none, as those of the run are" in told
  originals = {without_lesions(seed).shape: without_lesions(seed) for seed in range(6)}
  assert len({(line["height"], line["width"]) for line in lines}) == 4
  for line in lines:
    twin, image, mask = (
      cv2.imread(str(tmp_path / "out" / line[key]), cv2.IMREAD_UNCHANGED)
      for key in ("twin", "image", "mask")
    )
    np.testing.assert_array_equal(twin, originals[twin.shape])
    assert (image != twin)[mask > 0].mean() > 0.5
    near = cv2.dilate((mask > 0).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    np.testing.assert_array_equal(image[~near], twin[~near])
    assert line["background"]["kind"] == "real"
    assert line["background"]["run"] == contents.of_run(run).fingerprint
    assert {lesion["kind"] for lesion in line["lesions"]} == {"copy"}
  written = "".join(p.read_text() for p in (tmp_path / "out").rglob("*.json*"))
  assert not any(name in written for name in NAMES)
  table = (tmp_path / "out.private" / "data.csv").read_text()
  assert all(line["background"]["image"] in table for line in lines)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["normals", "out", "out.private"]


@pytest.mark.slow  # four commands
def test_the_same_command_makes_the_same_bytes_and_goes_on(plain, tmp_path):
  run, _ = plain
  onto, out = folder_of(tmp_path / "normals", NAMES[:2]), tmp_path / "out"
  given = ["--lesion-free", "--backgrounds", "2", "--num", "2"]
  command(run, onto, out, *given)
  whole, manifest = pictures(out), (out / "manifest.jsonl").read_bytes()
  command(run, onto, tmp_path / "other", *given)
  assert pictures(tmp_path / "other") == whole
  (out / "records" / "000001.json").unlink()
  (out / "images" / "000001.png").unlink()
  command(run, onto, out, *given)
  assert pictures(out) == whole
  assert (out / "manifest.jsonl").read_bytes() == manifest
  # Other images are another request.
  cv2.imwrite(str(onto / f"{NAMES[0]}.png"), without_lesions(5))
  with pytest.raises(UserError, match="holds images of another request"):
    command(run, onto, out, *given)
  command(run, onto, out, *given, "--overwrite")
  assert pictures(out) != whole
  assert not list(tmp_path.glob(".*"))


def test_images_without_a_word_on_lesions_are_refused(plain, tmp_path, capsys):
  run, _ = plain
  given = ["--workdir", run, "--num", "1", "--out", tmp_path / "out", "--lesion-source", "copy"]
  onto = folder_of(tmp_path / "unknown")
  line = refused(capsys, *given, "--onto", onto)
  assert "6 without a word on lesions; label them" in line
  assert "--lesion-free" in line
  assert "--lesion-free is said of" in refused(capsys, *given, "--lesion-free")
  assert not (tmp_path / "out").exists()
  line = refused(capsys, *given, "--onto", tmp_path / "none")
  assert "--onto" in line
  assert "is not there" in line


def test_labels_of_a_folder_count_and_own_lesions_are_taken_out(plain, tmp_path, capsys):
  run, _ = plain
  onto = folder_of(tmp_path / "labelled", NAMES[:4])
  for name in NAMES[:2]:
    (onto / f"{name}.txt").write_text("")
  with_lesions = drawn.sample(45, "x")
  cv2.imwrite(str(onto / f"{NAMES[0]}.png"), with_lesions.image)
  height, width = drawn.SHAPE
  labels = writers.yolo_labels(with_lesions.boxes.tolist(), height=height, width=width)
  (onto / f"{NAMES[0]}.txt").write_bytes(labels)
  lines = command(run, onto, tmp_path / "out", "--backgrounds", "2", "--num", "2")
  assert "into 2 of 4 images; not into 2 without a word on lesions" in capsys.readouterr().out
  (line,) = (line for line in lines if (line["height"], line["width"]) == drawn.SHAPE)
  twin = cv2.imread(str(tmp_path / "out" / line["twin"]), cv2.IMREAD_UNCHANGED).astype(float)
  image, mine = with_lesions.image[..., 0], with_lesions.lesion_mask > 0
  assert (image - twin)[mine].mean() > 30  # `synthesize.existing` is "inpaint"
  np.testing.assert_array_equal(twin[:20], image[:20])


def test_images_of_the_run_are_recognised_by_their_pixels(plain, tmp_path, capsys):
  run, data = plain
  onto = folder_of(tmp_path / "mixed")
  held_out = records.source(data, "test")[0]
  cv2.imwrite(str(onto / f"{NAMES[0]}.png"), held_out["image"])
  trained = records.source(data, "train")[0]
  cv2.imwrite(str(onto / f"{NAMES[1]}.png"), trained["image"])
  lines = command(run, onto, tmp_path / "out", "--lesion-free", "--backgrounds", "4")
  told = capsys.readouterr().out
  assert "into 4 of 6 images; not into 1 of patients that the run holds out, 1 training" in told
  shapes = {(line["height"], line["width"]) for line in lines}
  assert drawn.SHAPE not in shapes


def test_labels_that_name_fewer_lesions_than_are_known_are_not_believed(plain, tmp_path, capsys):
  run, data = plain
  onto = folder_of(tmp_path / "labelled", NAMES[:1])
  (onto / f"{NAMES[0]}.txt").write_text("")
  known = next(item for item in records.source(data, "train") if len(item["boxes"]) > 1)
  height, width = known["image"].shape[:2]
  cv2.imwrite(str(onto / f"{NAMES[1]}.png"), known["image"])
  labels = writers.yolo_labels(known["boxes"][:1].tolist(), height=height, width=width)
  (onto / f"{NAMES[1]}.txt").write_bytes(labels)
  command(run, onto, tmp_path / "out", "--num", "1")
  assert "1 training images whose lesions nothing tells here" in capsys.readouterr().out


def prepared(place, names, seeds, physics="none"):
  samples = (drawn.sample(seed, name, physics=physics) for seed, name in zip(seeds, names))
  records.write_dataset(samples, place, kind="images", identity=Identity(b"other", None))
  return place


def test_held_out_images_that_a_run_was_trained_on_are_refused(plain, tmp_path, capsys):
  run, _ = plain
  # Seed 0 is a training image of the run, and here a patient of the test split.
  onto = prepared(tmp_path / "data", [HELD_OUT[0], *NAMES[:2]], [0, 40, 41])
  given = ["--workdir", run, "--onto", onto, "--num", "1", "--lesion-source", "copy"]
  line = refused(capsys, *given, "--out", tmp_path / "out")
  assert "1 held-out images of" in line
  assert "are training images of" in line


def test_units_must_be_those_of_the_run(plain, radiographs, tmp_path, capsys):
  onto = prepared(tmp_path / "ct", NAMES[:2], [40, 41], physics="ct")
  given = ["--onto", onto, "--num", "1", "--lesion-source", "copy", "--out", tmp_path / "out"]
  line = refused(capsys, "--workdir", plain[0], *given)
  assert "holds images in other units (ct, HU) than" in line
  assert "(none, 0 to 255)" in line


def monochrome1(folder, names):
  """DICOM files of 12 bits, low is bright, with a finer spacing than the run's."""
  folder.mkdir()
  for number, name in enumerate(names):
    sample = drawn.sample(40 + number, name, physics="projection", photometric="MONOCHROME1")
    image = cv2.resize(sample.image, (139, 117))[..., None]
    facts = writers.DicomFacts(
      token="onto", number=number, series=1, derivation="a test", rescale_slope=1.0,
      rescale_intercept=0.0, hounsfield=False, value_range=(0.0, 4000.0),
      photometric="MONOCHROME1", spacing_mm=(0.6, 0.6),
    )  # fmt: skip
    (folder / f"{name}.dcm").write_bytes(writers.dicom(image, facts))
  return folder


@pytest.mark.parametrize("form", ["png", "dicom"])
def test_low_is_bright_in_radiographs_of_another_spacing(radiographs, tmp_path, form):
  run, _ = radiographs
  onto = monochrome1(tmp_path / "dr", NAMES[:3])
  lines = command(
    run, onto, tmp_path / "out", "--lesion-free", "--format", form, "--diameter-mm", "5"
  )
  for line in lines:
    assert (line["height"], line["width"]) == (117, 139)
    if form == "png":
      image, twin = (
        cv2.imread(str(tmp_path / "out" / line[key]), cv2.IMREAD_UNCHANGED).astype(float)
        for key in ("image", "twin")
      )
    else:
      (read,) = dicom.read(tmp_path / "out" / line["image"])
      (read_twin,) = dicom.read(tmp_path / "out" / line["twin"])
      assert read.photometric == "MONOCHROME1"
      image, twin = (4000.0 - one.image[..., 0].astype(float) for one in (read, read_twin))
    mask = cv2.imread(str(tmp_path / "out" / line["mask"]), cv2.IMREAD_UNCHANGED)
    for lesion in line["lesions"]:
      assert lesion["diameter_mm"] == pytest.approx(5.0, rel=0.1)
      mine = mask == lesion["id"]
      assert image[mine].mean() > twin[mine].mean()


def test_what_a_workdir_was_trained_on_is_asked_of_its_dataset(plain, tmp_path, capsys):
  run, data = plain
  bare = tmp_path / "run"
  shutil.copytree(run, bare, ignore=shutil.ignore_patterns("images-*"))
  onto = folder_of(tmp_path / "normals", NAMES[:2])
  given = ["--workdir", bare, "--onto", onto, "--lesion-free", "--num", "1"]
  given += ["--lesion-source", "copy", "--out", tmp_path / "out"]
  assert "does not tell which images it was trained on" in refused(capsys, *given)
  command(bare, onto, tmp_path / "out", "--lesion-free", "--data", data.root)
  assert len(list(bare.glob("images-*.json"))) == 1


def test_a_copy_of_a_workdir_has_phantoms_of_its_own(tmp_path):
  data = drawn.dataset(tmp_path / "run" / "data", physics="none")
  workdir.note(tmp_path / "run", data, settings.values("synthesize", "best").to_dict())
  shutil.copytree(tmp_path / "run", tmp_path / "copy")
  assert workdir.dataset_of(tmp_path / "copy", None).root == tmp_path / "copy" / "data"


def test_a_bank_that_is_not_there_is_missed_before_images_are_looked_at(tmp_path, capsys):
  data = drawn.dataset(tmp_path / "data", physics="none")
  workdir.note(tmp_path / "run", data, settings.values("synthesize", "best").to_dict())
  line = refused(capsys, "--workdir", tmp_path / "run", "--num", "1", "--out", tmp_path / "out")
  assert "lesion is not there: train it first" in line
  assert [path.name for path in (tmp_path / "run").iterdir()] == ["data.json"]


def test_validation_images_are_none_of_the_backgrounds(plain, tmp_path, capsys):
  run, _ = plain
  onto = folder_of(tmp_path / "normals", NAMES[:1])
  seen = cv2.imread(str(onto / f"{NAMES[0]}.png"), cv2.IMREAD_UNCHANGED)[..., None]
  sample = drawn.sample(0, "a")
  copy = type(sample)(image=seen, group="b", source="b", labelled=True, split="val")
  records.write_dataset([copy], tmp_path / "val", kind="images", identity=Identity(b"x", None))
  line = refused(
    capsys, "--workdir", run, "--onto", onto, "--lesion-free", "--num", "1", "--lesion-source",
    "copy", "--out", tmp_path / "out", "--with-real", tmp_path / "val",
  )  # fmt: skip
  assert "--with-real" in line
  assert "1 of its patients are training patients" in line


def test_validation_images_are_no_training_images_of_the_run(plain, tmp_path, capsys):
  run, data = plain
  # The training image of seed 0, prepared again with another key for patients.
  copy = dataclasses.replace(drawn.sample(0, "b"), split="val")
  records.write_dataset([copy], tmp_path / "val", kind="images", identity=Identity(b"x", None))
  line = refused(
    capsys, "--workdir", run, "--data", data.root, "--background", "real", "--num", "1",
    "--lesion-source", "copy", "--out", tmp_path / "out", "--with-real", tmp_path / "val",
  )  # fmt: skip
  assert "1 of its patients are training patients" in line


def test_validation_images_are_seen_through_the_window_of_the_others(
  plain, radiographs, tmp_path, capsys
):
  def line(run, data, image, *given):
    folder = tmp_path / image.physics
    sample = dataclasses.replace(image, split="val", group="b")
    records.write_dataset([sample], folder, kind="images", identity=Identity(b"x", None))
    return refused(
      capsys, "--workdir", run, "--data", data.root, "--background", "real", "--num", "1",
      "--lesion-source", "copy", "--out", tmp_path / "out", "--with-real", folder,
    )  # fmt: skip

  # In a window of 12 bits an image of 8 bits would be black.
  few_bits = dataclasses.replace(drawn.sample(20, "b"), physics="projection")
  assert "no one window shows all images well" in line(*radiographs, few_bits)
  assert "in other units" in line(*plain, drawn.sample(21, "b", physics="ct"))


def test_a_run_needs_a_name_and_overrides_a_config(plain, capsys):
  given = ["--num", "1", "--out", "x"]
  assert "name the run: --workdir, or --config" in refused(capsys, *given)
  line = refused(capsys, *given, "--workdir", plain[0], "--config.synthesize.floor=0.5")
  assert "changes a config: name it with --config" in line
