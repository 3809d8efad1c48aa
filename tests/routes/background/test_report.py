"""What DONE.json and the figures say of a trained route."""

import json
import tracemalloc

import cv2
import numpy as np
import pytest

from hiresmed_jax.routes.background import report


def batch(images_m11, boxes=None, *, size=4):
  """A host batch filled up to `size`."""
  count = len(images_m11)
  filled = np.zeros((size, *images_m11.shape[1:]), np.float32)
  filled[:count] = images_m11
  return {
    "images_m11": filled,
    "weight": np.float32([1.0] * count + [0.0] * (size - count)),
    "valid": np.ones(filled.shape[:3], bool),
    "boxes": boxes or [np.zeros((0, 4), np.float32)] * count,
  }


def scene(count, seed=0):
  """Dark images with a bright square of 6 px in each, and its boxes."""
  rng = np.random.default_rng(seed)
  images = np.full((count, 32, 32, 1), -0.5, np.float32) + rng.normal(0, 0.01, (count, 32, 32, 1))
  images[:, 10:16, 12:18] += 0.8
  return images.astype(np.float32), [np.float32([[12, 10, 18, 16]])] * count


def judge(fade):
  """An `evaluate` whose reconstruction has lost a share of the contrast."""

  def evaluate(batches, look):
    images = 0
    for batch in batches:
      pixels = batch["images_m11"]
      look(batch, np.where(pixels > 0, -0.5 + (pixels + 0.5) * (1 - fade), pixels))
      images += int(batch["weight"].sum())
    numbers = {"psnr": 30.0, "l1": 0.01, "code_usage": 0.1, "code_perplexity": 9.0}
    return (numbers, images) if images else ({}, 0)

  return evaluate


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 4, "time": 1, "reconstruction": 0.5}\n{"step": 8, "time": 2, "reconstruction": 0.4}\n'
  )
  return tmp_path


@pytest.mark.slow
def test_the_results_of_a_route(folder):
  images, boxes = scene(7)
  test = [batch(images[:4], boxes[:4]), batch(images[4:], boxes[4:])]
  train = [batch(scene(4, seed=1)[0])]
  found = report.final_evaluation(
    judge(0.25), train=train, test=lambda: iter(test), all_train=lambda: iter(train), folder=folder
  )
  assert found["held_out"]["images"] == 7
  assert found["train"]["images"] == 4
  assert found["gap_psnr"] == 0.0
  assert found["floors"].keys() >= {"mean_image", "nearest_image"}
  assert found["floors"]["mean_image"] > 30  # all training images look alike
  (kept,) = found["contrast_kept"]
  assert (kept["diameter_px"], kept["lesions"]) == ("5 to 8", 7)
  assert kept["median"] == pytest.approx(0.75, abs=0.02)
  assert kept["quartiles"][0] <= kept["median"] <= kept["quartiles"][1]
  assert json.loads((folder / "results.json").read_text()) == found
  for name in ("held_out.png", "curves.png"):
    assert cv2.imread(str(folder / "figures" / name)).size > 10_000


def test_without_held_out_images_nothing_is_made_up(folder):
  train = [batch(scene(4)[0])]
  found = report.final_evaluation(
    judge(0.0), train=train, test=tuple, all_train=lambda: iter(train), folder=folder
  )
  assert found["held_out"] is None
  assert not {"floors", "gap_psnr", "contrast_kept"} & found.keys()
  assert not (folder / "figures" / "held_out.png").exists()
  report.print_results({"results": found}, folder)


def test_the_table_tells_the_floors_and_a_dying_codebook(folder, capsys):
  images, boxes = scene(4)
  test = [batch(images, boxes)]
  found = report.final_evaluation(
    judge(0.5), train=test, test=lambda: iter(test), all_train=lambda: iter(test), folder=folder
  )
  report.print_results({"results": found}, folder)
  printed = capsys.readouterr().out
  for words in ("4 held-out images", "floor: mean training image", "50% of the contrast kept"):
    assert words in printed
  assert "below 20 % of the codes are in use" in printed
  assert str(folder / "figures" / "held_out.png") in printed


def shown(batches):
  examples = report.Examples(report.ROWS)
  for one in batches:
    examples.add(one, one["images_m11"])
  return examples


def test_the_grid_shows_lesions_first_and_no_padding(tmp_path):
  images, boxes = scene(6)
  none = np.zeros((0, 4), np.float32)
  batches = [batch(images[:3], [none] * 3), batch(images[3:], boxes[3:])]
  report.draw_reconstructions(12, shown(batches), folder=tmp_path)
  (path,) = tmp_path.iterdir()
  assert path.name == "reconstruction_0000012.png"
  with_lesions = cv2.imread(str(path))
  report.draw_reconstructions(13, shown(batches[:1]), folder=tmp_path)
  without = cv2.imread(str(tmp_path / "reconstruction_0000013.png"))
  assert with_lesions.shape[1] > without.shape[1]  # the magnified columns


@pytest.mark.slow
def test_the_end_of_a_run_holds_a_few_batches_however_many_images_there_are(folder):
  """Batches are of 1 MB; a copy of all held-out images would be 12 or 60 of them."""

  def stream(count):
    for number in range(count):
      images = np.full((4, 256, 256, 1), -0.5, np.float32)
      images[:, 10:16, 12:18] = 0.1 + number / 1000
      yield batch(images, [np.float32([[12, 10, 18, 16]])] * 4)

  def peak(count):
    tracemalloc.start()
    try:
      found = report.final_evaluation(
        judge(0.5),
        train=stream(1),
        test=lambda: stream(count),
        all_train=lambda: stream(2),
        folder=folder,
      )
      assert found["held_out"]["images"] == 4 * count
      return tracemalloc.get_traced_memory()[1]
    finally:
      tracemalloc.stop()

  peak(1)  # what is compiled, and Matplotlib's caches, stay
  assert peak(60) < peak(12) + 4e6
