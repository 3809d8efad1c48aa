"""A run in Python: without its dataset, and the same images as the command."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

import hiresmed_jax
from hiresmed_jax import UserError, api, synthesize
from hiresmed_jax.data import records, writers
from hiresmed_jax.inference import canvas, places, survey
from hiresmed_jax.inference.workdir import Model
from hiresmed_jax.placement import atlas
from hiresmed_jax.runtime import compilation
from tests import tiny, tiny_run
from tests.synthesis import drawn

pytestmark = [
  pytest.mark.xdist_group("api"),  # the network is compiled once
  pytest.mark.filterwarnings("ignore:places come from the atlas"),
]
SIZE = "data.size=(96, 112)"


@pytest.fixture(scope="module", autouse=True)
def soon_compiled():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(compilation, "options", tiny_run.quick)
    yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return drawn.dataset(tmp_path_factory.mktemp("api") / "data")


@pytest.fixture(scope="module")
def workdir(data, tmp_path_factory):
  folder = tmp_path_factory.mktemp("api_run")
  tiny_run.untrained(folder, data, SIZE, "synthesize.floor=0.25", "synthesize.hosts=off")
  survey.load_or_make(data, folder)
  return folder


@pytest.fixture(scope="module")
def moved(workdir, tmp_path_factory):
  """The run in another place, which does not know where its data are."""
  folder = tmp_path_factory.mktemp("moved") / "run"
  shutil.copytree(workdir, folder)
  noted = json.loads((folder / "data.json").read_text())
  (folder / "data.json").write_text(json.dumps(noted | {"root": str(folder / "gone")}))
  return hiresmed_jax.open_run(folder)


def test_importing_the_package_does_not_start_jax():
  code = "import hiresmed_jax, sys; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
  assert {"open_run", "UserError"} <= set(hiresmed_jax.__all__)
  with pytest.raises(AttributeError, match="no attribute 'opne_run'"):
    hiresmed_jax.opne_run  # noqa: B018


def test_reconstructions_have_the_shape_type_and_units_of_the_images(moved, data):
  item = records.source(data, "train")[0]
  image = item["image"][..., 0]  # 88 x 104 of 8 bits, as the view shows it
  low_bright = 255 - image
  wide = np.tile(image.astype(np.uint16) * 257, (1, 2))[:, :200]  # shrunk to the view
  made = moved.reconstruct([image, image[..., None], wide])
  assert [(one.shape, one.dtype) for one in made] == [
    ((88, 104), np.uint8), ((88, 104, 1), np.uint8), ((88, 200), np.uint16)
  ]  # fmt: skip
  np.testing.assert_array_equal(made[0], made[1][..., 0])
  # What the network gives for the record itself, in stored values.
  model = moved._background
  device = tiny_run.mesh().devices.flat[0]
  seen = canvas.viewed(item, model.view, lambda image_m11: model.network(image_m11, device))
  np.testing.assert_array_equal(made[0], canvas.stored(seen.values, item)[..., 0])
  (inverted,) = moved.reconstruct([low_bright], photometric="MONOCHROME1")
  np.testing.assert_allclose(255.0 - inverted, made[0].astype(float), atol=1)
  array = moved.reconstruct(np.stack([image, low_bright]))
  assert array.shape == (2, 88, 104)
  np.testing.assert_array_equal(array[0], made[0])


def test_hounsfield_units_go_through_slope_and_intercept(moved, data):
  image = records.source(data, "train")[0]["image"][..., 0]
  (plain,) = moved.reconstruct([image])
  as_hu = (image.astype(np.uint16) * 4 + 31768, (-1000.0, 20.0))
  (made,) = moved.reconstruct([as_hu[0]], value_range=as_hu[1], rescale_intercept=-32768.0)
  np.testing.assert_allclose((made - 31768.0) / 4, plain.astype(float), atol=1)


def test_the_range_that_training_saw_is_the_default(moved, tmp_path):
  folder = tmp_path / "run"
  shutil.copytree(moved.workdir, folder)
  noted = json.loads((folder / "data.json").read_text())
  ranges = [{"declared": [0.0, 65535.0], "in_use": [0.0, 4095.0]}]
  (folder / "data.json").write_text(json.dumps(noted | {"ranges": ranges}))
  run = hiresmed_jax.open_run(folder)
  image = np.random.default_rng(0).integers(0, 4096, (96, 112)).astype(np.uint16)
  (made,) = run.reconstruct([image])
  (told,) = run.reconstruct([image], value_range=(0, 4095))
  (other,) = moved.reconstruct([image])
  np.testing.assert_array_equal(made, told)
  assert (made != other).any()


def test_places_follow_the_atlas_inside_the_body(moved, data):
  item = records.source(data, "train")[0]
  chances = moved.score_places(item["image"])
  scene, found = canvas.real(item), survey.load(moved.workdir, data.card["fingerprint"])
  assert (chances.shape, chances.dtype) == (drawn.SHAPE, np.float32)
  assert chances.sum(dtype=np.float64) == pytest.approx(1)
  assert not chances[~scene.content].any()
  allowed = places.allowed(scene, None, 2.0)
  assert (chances[allowed] > 0).all()
  density = atlas.score_map(found.atlas, scene.content) * allowed
  expected = 0.75 * density / density.sum() + 0.25 * allowed / allowed.sum()
  np.testing.assert_allclose(chances, expected, rtol=1e-4, atol=1e-9)


def test_places_avoid_what_the_network_forbids(moved, data, monkeypatch):
  left = np.tile(np.linspace(1.0, 0.0, 112, dtype=np.float32), (96, 1))
  model = Model(moved._background.view, lambda image_m11, device: left)
  monkeypatch.setattr(places, "open_danger", lambda *_, **__: (model, "danger, 1"))
  chances = hiresmed_jax.open_run(moved.workdir).score_places(
    records.source(data, "train")[0]["image"]
  )
  assert not chances[:, :50].any()
  assert chances[:, 56:].any()


@pytest.mark.slow
@pytest.mark.parametrize("background", ["real", "reconstruction"])
def test_the_command_makes_the_same_images(workdir, tmp_path, background):
  given = ["--config", f"{tiny.__file__}:background", "--config.data.phantom.kind="]
  given += [f"--config.{SIZE}", "--config.background.gan.weight=0.0"]
  given += ["--workdir", str(workdir), "--out", str(tmp_path), "--num", "2", "--seed", "5"]
  given += ["--config.synthesize.hosts=off"]
  given += ["--config.synthesize.floor=0.25", "--lesions", "2", "--diameter-px", "6-8"]
  synthesize.main([*given, "--lesion-source", "copy", "--background", background])
  run = hiresmed_jax.open_run(workdir)
  images = run.synthesize(
    2, seed=5, lesions=2, diameter=(6, 8, "px"), source="copy", background=background
  )
  lines = (tmp_path / "manifest.jsonl").read_text().splitlines()
  assert len(images) == len(list(images)) == len(lines) == 2
  for made, facts in zip(images, map(json.loads, lines)):
    for name, pixels in (("image", made.image), ("twin", made.twin)):
      file = cv2.imread(str(tmp_path / facts[name]), cv2.IMREAD_UNCHANGED)
      np.testing.assert_array_equal(pixels[..., 0], file)
    ids = cv2.imread(str(tmp_path / facts["mask"]), cv2.IMREAD_UNCHANGED)
    assert made.masks.shape == (2, *ids.shape)
    np.testing.assert_array_equal(made.masks, [ids == 1, ids == 2])
    np.testing.assert_allclose(made.boxes, [lesion["box"] for lesion in facts["lesions"]])
    assert made.boxes.dtype == np.float32
    noted = json.loads(writers.json_line(made.provenance))
    assert noted == {key: facts[key] for key in noted}
  np.testing.assert_array_equal(images[-1].image, images[1].image)
  with pytest.raises(IndexError):
    images[2]


def test_other_settings_are_taken_and_checked(workdir):
  run = hiresmed_jax.open_run(workdir)
  known = {"background": "real", "source": "copy", "lesions": (1, 1)}
  for floor, prior in ((0.0, "atlas"), (1.0, "uniform")):
    with pytest.warns(UserWarning, match="places come from the atlas alone"):
      made = run.synthesize(5, **known, settings={"floor": floor})
    assert {one.provenance["lesions"][0]["prior"] for one in made} == {prior}
  for settings, line in (({"floor": 2.0}, "synthesize.floor=2.0: use"), ({"flor": 1}, "floor")):
    with pytest.raises(UserError, match=line):
      run.synthesize(1, **known, settings=settings)


@pytest.mark.parametrize(
  ("options", "line"),
  [
    ({"backgroud": "real"}, "did you mean background"),
    ({"background": "rael"}, "background='rael': use 'reconstruction', 'real'"),
    ({"source": "singen"}, "source='singen': use 'singan'"),
    ({"on_empty": "copies"}, "on_empty='copies': use 'fail', 'copy', 'parametric'"),
    ({"lesions": (0, 0)}, "ask for 1 or more"),
    ({"lesions": "many"}, "use whole numbers"),
    ({"diameter": 5}, "not of its type"),
    ({"diameter": (8, 4, "px")}, "diameter-px 8-4: use"),
    ({"at": [(1.0, 2.0), (3.0, 4.0)], "lesions": 1}, "2 points are given"),
    ({"seed": -1}, "--seed -1"),
    ({"shams": 1.5}, "shams=1.5: use whole numbers"),
    ({"lesions": (1, 2.5)}, "lesions=.* use whole numbers"),
    ({"mask": ("no.png", "forbidden")}, "no.png is not a file"),
    ({"source": "singan", "background": "real"}, "lesion is not there: train it first"),
  ],
)
def test_what_cannot_be_asked_for_is_one_line(workdir, options, line):
  with pytest.raises(UserError, match=line):
    hiresmed_jax.open_run(workdir).synthesize(1, **options)


def test_an_image_that_cannot_be_made_names_its_number(workdir):
  images = hiresmed_jax.open_run(workdir).synthesize(
    2, background="real", source="copy", lesions=(90, 90)
  )
  with pytest.raises(UserError, match="image 1: no room for 90 lesions"):
    images[1]


@pytest.mark.parametrize(
  ("dtype", "common", "units", "shown"),
  [
    (np.uint16, (0.0, 4095.0), {}, (0, 4095)),
    (np.uint16, (0.0, 4095.0), {"value_range": (5, 900)}, (5, 900)),
    (np.uint16, (-160.0, 240.0), {"rescale_intercept": -1024.0}, (-160, 240)),
    (np.uint16, (0.0, 255.0), {}, (0, 65535)),  # perhaps scaled to all bits
    (np.uint8, (0.0, 4095.0), {}, (0, 255)),
    (np.uint8, (20.0, 220.0), {}, (20, 220)),
    (np.uint16, None, {}, (0, 65535)),
  ],
)
def test_what_is_shown_by_default_is_what_training_images_show(dtype, common, units, shown):
  record = api._record(np.zeros((8, 8), dtype), {}, common, **units)
  assert tuple(record["value_range"]) == shown


def test_the_range_of_training_images_is_known(moved, data):
  assert moved._common_range == tuple(map(float, records.source(data, "train")[0]["value_range"]))


@pytest.mark.parametrize(
  ("image", "units", "line"),
  [
    (np.zeros((8, 8)), {}, "float64: give stored values"),
    (np.zeros((8, 8, 2), np.uint8), {}, r"shape \[8, 8, 2\]"),
    (np.zeros((8, 0), np.uint8), {}, r"shape \[8, 0\]"),
    (np.zeros((8, 8), np.uint8), {"value_range": (5.0, 5.0)}, "low below high"),
    (np.zeros((8, 8), np.uint8), {"photometric": "MONOCHROME3"}, "use 'MONOCHROME1'"),
    (np.zeros((8, 8), np.uint8), {"rescale_slope": 0.0}, "slope not 0"),
  ],
)
def test_images_of_another_kind_are_refused(moved, image, units, line):
  with pytest.raises(UserError, match=line):
    moved.reconstruct([image], **units)
  with pytest.raises(UserError, match=line):
    moved.score_places(image, **units)


def test_one_image_is_no_list(moved):
  for shape in ((8, 8), (8, 8, 3)):
    with pytest.raises(UserError, match="is one image: give a list"):
      moved.reconstruct(np.zeros(shape, np.uint8))


def test_what_a_folder_lacks_is_said(moved, data, tmp_path):
  with pytest.raises(UserError, match="holds no trained run"):
    hiresmed_jax.open_run(tmp_path)
  with pytest.raises(UserError, match="gone is not there"):
    moved.synthesize(1, background="real", source="copy")
  again = hiresmed_jax.open_run(moved.workdir, data.root)
  assert len(again.synthesize(1, background="real", source="copy")) == 1
  other = drawn.dataset(tmp_path / "other", physics="ct")
  with pytest.raises(UserError, match="is not the dataset that"):
    hiresmed_jax.open_run(moved.workdir, other.root)
  bare = tmp_path / "bare"
  shutil.copytree(moved.workdir, bare, ignore=shutil.ignore_patterns("survey-*", "background"))
  run = hiresmed_jax.open_run(bare)
  with pytest.raises(UserError, match=r"survey-.* is not there: "):
    run.score_places(np.zeros((8, 8), np.uint8))
  with pytest.raises(UserError, match="background is not there: train it first"):
    run.reconstruct([np.zeros((8, 8), np.uint8)])
