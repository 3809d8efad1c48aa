"""The training step with batches from the input pipeline, beside the step on one fixed batch."""

import functools
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import input_pipeline
from hiresmed_jax.data import pipeline, records, transforms
from hiresmed_jax.routes import settings
from hiresmed_jax.runtime import mesh as meshes

_BITS = 16
_IMAGES = 24
_WARM = 4


def measure(
  take: Callable[[Any], Any], *, batch_size: int, size: int, steps: int
) -> dict[str, float]:
  """Images per second of `steps` steps each way; dispatch runs ahead, as in training.

  Args:
    take: one step on {"images_m11": f32[batch_size, size, size, 1]} on the device; returns scalars,
      which may not be ready yet.
    batch_size: images of a step.
    size: pixels a side.
    steps: timed, after four that are not.

  Returns:
    "resident": with a fixed batch; "fed": with batches from the pipeline; "share": fed / resident.
  """
  put = functools.partial(jax.device_put, device=jax.devices()[0])
  batch = put({"images_m11": np.zeros((batch_size, size, size, 1), np.float32)})
  resident = _rate(take, (batch for _ in range(steps + _WARM)), batch_size)
  with tempfile.TemporaryDirectory() as folder:
    root = input_pipeline.prepare(pathlib.Path(folder), _IMAGES, size)[_BITS]
    iterator = iter(
      pipeline.train_dataset(
        records.source(records.open_dataset(root), "train"),
        view=transforms.View(size),
        augmentation=settings.values("data", "best").augment.to_dict(),
        batch_size=batch_size,
        seed=0,
      )
    )
    ahead: Any = meshes.prefetch_to_device(iterator, put)
    fed = _rate(take, (next(ahead)[0] for _ in range(steps + _WARM)), batch_size)
    ahead.close()
    iterator.close()
  return {"resident": resident, "fed": fed, "share": fed / resident}


def _rate(take: Callable[[Any], Any], batches: Any, batch_size: int) -> float:
  last, count, start = None, -_WARM, 0.0
  for batch in batches:
    if count == 0:
      jax.block_until_ready(last)
      start = time.perf_counter()
    last = take(batch)
    count += 1
  jax.block_until_ready(last)
  return count * batch_size / (time.perf_counter() - start)
