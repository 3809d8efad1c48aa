"""The danger route from phantoms, or images with the user's masks, to a judged mask."""

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax import prepare
from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import workdir
from hiresmed_jax.routes import run
from hiresmed_jax.routes.danger import report
from hiresmed_jax.routes.danger import train as danger
from hiresmed_jax.runtime.config import load_config
from tests import tiny, tiny_run

pytestmark = pytest.mark.xdist_group("danger route")  # trained once
SPEC = f"{tiny.__file__}:danger"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp("danger_route")
  with tiny_run.quick_compiler(), tiny_run.on_one_device():
    done = run.train(load_config(SPEC), data=None, workdir=folder)["danger"]
  return folder, done


@pytest.mark.slow
def test_a_network_is_trained_on_the_phantoms_own_masks_and_judged(trained):
  folder, done = trained
  card = json.loads((folder / "data" / "card.json").read_text())
  told = done["results"]["held_out"]
  assert told["images"] == card["splits"]["test"]
  assert 0 <= told["iou"] <= told["dice"] <= 1
  assert told["hausdorff95"] <= told["hausdorff"]
  assert told["unit"] == "mm"
  assert {"use", "why"} <= done["results"].keys()
  figures = {path.name for path in (folder / "danger" / "figures").iterdir()}
  assert {"held_out.png", "curves.png", "masks_0000004.png"} <= figures


@pytest.mark.slow
def test_what_it_has_learnt_can_be_had_again(trained):
  folder, done = trained
  fingerprint = records.open_dataset(folder / "data").card["fingerprint"]
  model = workdir.danger_of(folder, fingerprint, dtype=jnp.float32)
  assert model.step == done["best_step"]
  assert model.view.shape == (32, 32)
  chances = model.network(np.zeros((32, 32, 1), np.float32), jax.devices()[0])
  assert chances.shape == (32, 32)
  assert 0 <= chances.min() <= chances.max() <= 1


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """Forty images of which those with an even number have a mask; one is of another size."""
  place = tmp_path_factory.mktemp("images")
  rng = np.random.default_rng(0)
  for name in ("raw", "masks"):
    (place / name).mkdir()
  for number in range(40):
    image = cv2.GaussianBlur(rng.uniform(0, 255, (32, 32)), (0, 0), 3)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    cv2.imwrite(str(place / "raw" / f"{number:02d}.png"), image)
    if number % 2 == 0:
      mask = image[:30] if number == 8 else image
      cv2.imwrite(str(place / "masks" / f"{number:02d}.png"), 255 * (mask > 128).astype(np.uint8))
  given = ["--kind", "images", "--source", str(place / "raw")]
  prepare.main([*given, "--out", str(place / "without")])
  prepare.main([*given, "--forbidden", str(place / "masks"), "--out", str(place / "with")])
  return place


def test_a_mask_of_another_size_is_told_at_preparation(images):
  skipped = json.dumps(records.open_dataset(images / "with").card["skipped"])
  assert "mask of another size (32 x 30 pixels, its image 32 x 32)" in skipped


def go(data, folder, *overrides):
  return run.train(load_config(SPEC, ["data.phantom.kind=", *overrides]), data=data, workdir=folder)


def test_images_without_masks_are_told_in_a_line(images, tmp_path):
  with pytest.raises(UserError, match=r"no masks of forbidden tissue: prepare it with --forbidden"):
    go(images / "without", tmp_path)
  with pytest.raises(UserError, match="train images with masks and this run needs 64"):
    go(images / "with", tmp_path, "danger.batch_size=64")


def test_all_routes_leave_it_out_where_there_are_no_masks(images):
  dataset = records.open_dataset(images / "without")
  assert "no masks" in danger.skip(load_config(SPEC), dataset)
  assert not danger.skip(load_config(SPEC, ["danger.rule=abdomen"]), dataset)
  assert not danger.skip(load_config(SPEC), records.open_dataset(images / "with"))


def test_lesions_that_are_forbidden_are_counted():
  mask = np.zeros((10, 12), bool)
  mask[:, 6:] = True
  boxes = np.array([[1, 1, 3, 3], [7, 1, 9, 3], [11, 8, 13, 12]], np.float32)
  told = report.false_exclusion([mask, ~mask], [boxes, np.zeros((0, 4))])
  assert told == {"lesions": 3, "forbidden": 2, "share": pytest.approx(2 / 3)}
