"""Batches that threads fill."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hiresmed_jax.inference.workdir import Gathered


def images(count: int, side: int = 2) -> list[np.ndarray]:
  return [np.full((side, side, 1), number, np.float32) for number in range(count)]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_each_thread_gets_the_row_of_its_image(size):
  sizes, lock = [], threading.Lock()

  def run(batch, device):
    with lock:
      sizes.append(len(batch))
    return np.stack(batch)[:, 0, 0, 0] * 10 + device

  gathered = Gathered(run, size)
  with ThreadPoolExecutor(2 * size) as pool:
    jobs = [(image, device) for device in (0, 1) for image in images(17)]
    found = list(pool.map(lambda job: float(gathered(*job)), jobs))
  assert found == [10.0 * number + device for device in (0, 1) for number in range(17)]
  assert sum(sizes) == 34
  assert max(sizes) == size  # full where there are enough, and never more


def test_images_of_other_shapes_are_in_other_batches():
  gathered = Gathered(lambda batch, _: np.stack(batch).sum((1, 2, 3)), 4)
  with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda image: float(gathered(image, None)), images(4) + images(4, 3)))
  assert found == [0, 4, 8, 12, 0, 9, 18, 27]


def test_each_thread_of_a_batch_is_told_what_went_wrong():
  def run(batch, device):
    raise ValueError(f"{len(batch)} images")

  gathered = Gathered(run, 3)
  with ThreadPoolExecutor(3) as pool:
    waiting = [pool.submit(gathered, image, None) for image in images(3)]
    for future in waiting:
      with pytest.raises(ValueError, match="3 images"):
        future.result()


def test_after_an_interruption_nothing_waits(monkeypatch):
  gathered = Gathered(lambda batch, _: np.stack(batch)[:, 0, 0, 0], 2)
  with monkeypatch.context() as patch:
    patch.setattr(threading.Event, "wait", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
      gathered(images(1)[0], None)
  with ThreadPoolExecutor(1) as pool:
    assert float(pool.submit(gathered, images(4)[3], None).result(timeout=10)) == 3


def test_a_device_has_one_batch_at_a_time_and_the_next_one_fills():
  under_way, most, sizes = [], [], []

  def run(batch, device):
    under_way.append(device)
    most.append(under_way.count(device))
    time.sleep(0.3)
    under_way.remove(device)
    sizes.append(len(batch))
    return np.stack(batch)[:, 0, 0, 0]

  gathered = Gathered(run, 4)
  with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda image: float(gathered(image, 0)), images(24)))
  assert found == list(range(24))
  assert max(most) == 1
  assert sizes.count(4) >= 4
