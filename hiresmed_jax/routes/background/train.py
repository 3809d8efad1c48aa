"""Route `background`: HiResMed-VQGAN on whole images or crops of them."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from hiresmed_jax.convert.features import load_perceptual
from hiresmed_jax.data import pipeline, records
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import loop
from hiresmed_jax.routes.background import report
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.routes.dataset import identity
from hiresmed_jax.routes.dataset import view as data_view
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype


def train(config: Any, dataset: records.Dataset, folder: pathlib.Path) -> dict[str, Any]:
  """Trains HiResMed-VQGAN on the dataset's training groups; picks by its validation groups."""
  values, crop = config.background, config.data.crop
  mesh = meshes.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
  view = data_view(config.data)
  sources = {split: records.source(dataset, split) for split in ("train", "val", "test")}
  for split, need in (("train", values.batch_size), ("val", 1)):
    if len(sources[split]) < need:
      raise UserError(
        f"{dataset.root} has {len(sources[split])} {split} images and this run needs {need}: "
        "prepare more images, name their patients by --groups, or lower background.batch_size"
      )
  steps_per_epoch = max(1, len(sources["train"]) // values.batch_size)
  distance, weights = (None, None)
  if values.perceptual.net and values.perceptual.weight:
    # float32 whatever the network computes in: in bfloat16 the gradient's cosine with it was .94
    # (AlexNet) and .88 (SqueezeNet) on CT slices; VGG16 was not tried.
    # Its products are the device's own, TF32 where there is one.
    trunk = jnp.bfloat16 if values.perceptual.bfloat16 else jnp.float32
    distance, weights = load_perceptual(values.perceptual.net, dtype=trunk, precision=None)
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
    batch_size=values.batch_size,
    seed=config.seed,
    workers=config.data.workers,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )

  def held(split: str, limit: int | None) -> list[dict[str, Any]]:
    return list(
      pipeline.eval_batches(sources[split], view=view, batch_size=values.batch_size, limit=limit)
    )

  val_batches = held("val", values.eval_images)
  figures = folder / "figures"
  draw = functools.partial(report.draw_reconstructions, batches=val_batches, folder=figures)
  done = loop.fit(
    task,
    folder=folder,
    identity=identity(config, "background", dataset, folder),
    seed=config.seed,
    mesh=mesh,
    train_data=train_data,
    val_batches=val_batches,
    cadence=loop.Cadence(
      log=values.log_every,
      evaluate=values.eval_every,
      keep=values.keep_checkpoints,
      max_skipped=values.max_skipped,
    ),
    draw=draw,
    finish=lambda state, programs: report.judged(
      functools.partial(loop.evaluate, task, programs, state),
      train=held("train", values.eval_images),
      test=held("test", None),
      all_train=lambda: pipeline.eval_batches(
        sources["train"], view=view, batch_size=values.batch_size
      ),
      folder=folder,
    ),
  )
  if jax.process_index() == 0:
    report.print_results(done, folder)
  return done
