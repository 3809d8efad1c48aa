"""Baseline `ddm`: DDPM on whole images, and images that it makes from noise."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from hiresmed_jax.data import pipeline, records, transforms
from hiresmed_jax.ops import diffusion
from hiresmed_jax.routes import dataset as datasets
from hiresmed_jax.routes import loop, supervised
from hiresmed_jax.routes.baselines import samples
from hiresmed_jax.routes.baselines.ddm import report, sample
from hiresmed_jax.routes.baselines.ddm import task as ddm
from hiresmed_jax.routes.programs import Programs, evaluate
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype
from hiresmed_jax.runtime.progress import Progress


def skip(config: Any, dataset: records.Dataset) -> str:
  """Why the route cannot be trained on these data; it always can."""
  del config, dataset
  return ""


def train(
  config: Any, dataset: records.Dataset, folder: pathlib.Path, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Trains the network on the training groups, and writes samples.

  Raises:
    UserError: too few images; see also `loop.fit`.
  """
  values = config.ddm
  # Stretched: a network that sees padding draws it.
  view = transforms.View(
    size=tuple(values.size),
    fit="stretch",
    window=config.data.window,
    channels=config.data.channels,
  )
  sources = datasets.sources(dataset)
  datasets.check_counts(sources, "ddm", values.batch_size, root=dataset.root, what="images")
  steps_per_epoch = max(1, len(sources["train"]) // values.batch_size)
  task = ddm.build(
    values,
    channels=view.channels,
    size=view.shape,
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
    variables = jax.jit(_params, out_shardings=meshes.replicated(mesh))(state)
    _write_samples(config, variables, folder / "samples", mesh, grey=_is_grey(batches("val")))
    return report.final_evaluation(
      functools.partial(evaluate, task, programs, state),
      train=batches("train", values.eval_images),
      val=batches("val", values.eval_images),
      test=batches("test"),
      samples=folder / "samples",
      count=values.sampling.images,
      about=_about(config),
      folder=folder,
    )

  done = loop.fit(
    task,
    folder=folder,
    identity=datasets.identity(config, "ddm", dataset, folder),
    seed=config.seed,
    mesh=mesh,
    train_data=train_data,
    val_batches=functools.partial(batches, "val", values.eval_images),
    cadence=loop.Cadence(
      values.log_every, values.eval_every, values.keep_checkpoints, values.max_skipped
    ),
    examples=report.ROWS,
    draw=functools.partial(report.draw_estimates, folder=folder / "figures"),
    finish=finish,
  )
  if jax.process_index() == 0:
    report.print_results(done, folder, folder / "samples")
  return done


def _params(state: supervised.State) -> dict[str, Any]:
  return {"params": supervised.averaged(state)["params"]}


def _write_samples(
  config: Any, variables: Any, folder: pathlib.Path, mesh: jax.sharding.Mesh, *, grey: bool
) -> None:
  values = config.ddm
  sampling = values.sampling
  rows, columns = (side // values.patch for side in values.size)
  missing = sum(not samples.path_of(folder, n).is_file() for n in range(sampling.images))
  batches = -(-missing // values.batch_size)
  with Progress(batches * sampling.steps, "samples") as progress:
    make = sample.maker(
      variables,
      net=ddm.network(values, dtype=compute_dtype(values.dtype)),
      plan=diffusion.steps(
        **ddm.known_levels(values),
        number=sampling.steps,
        sampler=sampling.method,
        variance=sampling.variance,
      ),
      shape=(rows, columns, values.patch**2 * config.data.channels),
      patch=values.patch,
      progress=progress,
      mesh=mesh,
    )
    samples.write(
      folder,
      make,
      count=sampling.images,
      batch_size=values.batch_size,
      seed=config.seed,
      size=config.data.size,
      grey=grey,
      mesh=mesh,
    )


def _is_grey(batches: Iterator[dict[str, Any]]) -> bool:
  """Grey images travel as one channel, whatever the network sees."""
  return bool(next(batches)["images_m11"].shape[-1] == 1)


def _about(config: Any) -> str:
  values = config.ddm
  made, written = (" x ".join(map(str, size)) for size in (values.size, config.data.size))
  enlarged = "" if made == written else f", resized to {written} (bicubic)"
  return f"DDPM at {made}{enlarged}, {values.sampling.steps} steps, {values.sampling.method}"
