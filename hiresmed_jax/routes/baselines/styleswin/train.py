"""Baseline `styleswin`: StyleSwin on whole images, and images that it makes from random numbers."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from hiresmed_jax.data import pipeline, records, transforms
from hiresmed_jax.routes import dataset as datasets
from hiresmed_jax.routes import loop
from hiresmed_jax.routes.baselines import samples
from hiresmed_jax.routes.baselines.styleswin import report
from hiresmed_jax.routes.baselines.styleswin import task as styleswin
from hiresmed_jax.routes.programs import Programs, evaluate
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype


def skip(config: Any, dataset: records.Dataset) -> str:
  """Why the route cannot be trained on these data; it always can."""
  del config, dataset
  return ""


def train(
  config: Any, dataset: records.Dataset, folder: pathlib.Path, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Trains both networks on the training groups, and writes samples.

  Raises:
    UserError: too few images; see also `loop.fit`.
  """
  values = config.styleswin
  view = transforms.View(
    size=values.size, fit="stretch", window=config.data.window, channels=config.data.channels
  )
  sources = datasets.sources(dataset)
  datasets.check_counts(sources, "styleswin", values.batch_size, root=dataset.root, what="images")
  steps_per_epoch = max(1, len(sources["train"]) // values.batch_size)
  task = styleswin.build(
    values,
    channels=view.channels,
    steps=values.steps or values.epochs * steps_per_epoch,
    dtype=compute_dtype(values.dtype),
  )
  train_data = pipeline.train_dataset(
    sources["train"],
    view=view,
    augmentation=config.data.augment.to_dict(),
    **datasets.feed(config, values.batch_size),
  )

  def batches(split: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
    return pipeline.eval_batches(
      sources[split], view=view, batch_size=values.batch_size, limit=limit
    )

  def finish(state: Any, programs: Programs) -> dict[str, Any]:
    grey = next(batches("val"))["images_m11"].shape[-1] == 1  # as grey images travel
    _write_samples(config, state, folder / "samples", mesh, grey=grey)
    made, written = (" x ".join(map(str, size)) for size in (view.shape, config.data.size))
    return report.final_evaluation(
      functools.partial(evaluate, task, programs, state),
      train=batches("train", values.eval_images),
      val=batches("val", values.eval_images),
      test=batches("test"),
      samples=folder / "samples",
      count=values.samples,
      about=f"StyleSwin at {made}"
      + ("" if made == written else f", resized to {written} (bicubic)"),
      folder=folder,
    )

  done = loop.fit(
    task,
    folder=folder,
    identity=datasets.identity(config, "styleswin", dataset, folder),
    seed=config.seed,
    mesh=mesh,
    train_data=train_data,
    val_batches=functools.partial(batches, "val", values.eval_images),
    cadence=loop.Cadence(
      values.log_every, values.eval_every, values.keep_checkpoints, values.max_skipped
    ),
    examples=report.ROWS,
    draw=functools.partial(report.draw_made, folder=folder / "figures"),
    finish=finish,
  )
  if jax.process_index() == 0:
    report.print_results(done, folder, folder / "samples")
  return done


def _write_samples(
  config: Any, state: Any, folder: pathlib.Path, mesh: jax.sharding.Mesh, *, grey: bool
) -> None:
  values, split = config.styleswin, meshes.batch_sharding(mesh)
  dtype = compute_dtype(values.dtype)
  gen, _ = styleswin.networks(values, channels=config.data.channels, dtype=dtype)
  params = jax.jit(styleswin.averaged, out_shardings=meshes.replicated(mesh))(state)

  def make(params: Any, keys: jax.Array) -> jax.Array:
    return gen.apply({"params": params}, samples.normal(keys, 0, (values.net.style,)))

  samples.write(
    folder,
    functools.partial(jax.jit(make, out_shardings=split), params),
    count=values.samples,
    batch_size=values.batch_size,
    seed=config.seed,
    size=config.data.size,
    grey=grey,
    mesh=mesh,
  )
