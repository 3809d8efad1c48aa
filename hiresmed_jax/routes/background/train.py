"""Route `background`: HiResMed-VQGAN on whole images or crops of them."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from hiresmed_jax.convert.features import load_perceptual
from hiresmed_jax.data import pipeline, records
from hiresmed_jax.routes import dataset as datasets
from hiresmed_jax.routes import loop
from hiresmed_jax.routes.background import report
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.routes.programs import evaluate
from hiresmed_jax.runtime.compilation import compute_dtype


def skip(config: Any, dataset: records.Dataset) -> str:
  """Why the route cannot be trained on these data; it always can."""
  del config, dataset
  return ""


def train(
  config: Any, dataset: records.Dataset, folder: pathlib.Path, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Trains HiResMed-VQGAN on the dataset's training groups; picks by its validation groups.

  Raises:
    UserError: too few images; see also `loop.fit`.
  """
  values, crop = config.background, config.data.crop
  view, sources = datasets.view(config.data), datasets.sources(dataset)
  datasets.check_counts(sources, "background", values.batch_size, root=dataset.root, what="images")
  steps_per_epoch = max(1, len(sources["train"]) // values.batch_size)
  distance, weights = None, None
  if values.perceptual.net and values.perceptual.weight:
    # float32 whatever the network computes in: in bfloat16 the gradient's cosine with it was .94
    # (AlexNet) and .88 (SqueezeNet) on CT slices; VGG16 was not tried.
    # Its products are the device's own, TF32 where there is one.
    trunk = jnp.bfloat16 if values.perceptual.bfloat16 else jnp.float32
    # On accelerators an example a device at a time: of a batch VGG16 keeps more than all the rest.
    at_once = None if jax.default_backend() == "cpu" else mesh.size
    distance, weights = load_perceptual(
      values.perceptual.net, dtype=trunk, precision=None, at_once=at_once
    )
  task = background.build(
    values,
    channels=config.data.channels,
    size=(crop, crop) if crop else view.shape,
    steps=values.steps or values.epochs * steps_per_epoch,
    steps_per_epoch=steps_per_epoch,
    dtype=compute_dtype(values.dtype),
    distance=distance,
    distance_params=weights,
  )
  train_data = pipeline.train_dataset(
    sources["train"],
    view=view,
    augmentation=config.data.augment.to_dict(),
    crop=crop,
    **datasets.feed(config, values.batch_size),
  )

  def batches(split: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
    return pipeline.eval_batches(
      sources[split], view=view, batch_size=values.batch_size, limit=limit
    )

  done = loop.fit(
    task,
    folder=folder,
    identity=datasets.identity(config, "background", dataset, folder),
    seed=config.seed,
    mesh=mesh,
    train_data=train_data,
    val_batches=functools.partial(batches, "val", values.eval_images),
    cadence=loop.Cadence(
      values.log_every, values.eval_every, values.keep_checkpoints, values.max_skipped
    ),
    examples=report.ROWS,
    draw=functools.partial(report.draw_reconstructions, folder=folder / "figures"),
    finish=lambda state, programs: report.final_evaluation(
      functools.partial(evaluate, task, programs, state),
      train=batches("train", values.eval_images),
      test=lambda: batches("test"),
      all_train=lambda: batches("train"),
      folder=folder,
    ),
  )
  if jax.process_index() == 0:
    report.print_results(done, folder)
  return done
