"""Baseline `singan`: a SinGAN for a whole image, and images that it makes from noise."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from rich.console import Console

from hiresmed_jax.data import pipeline, records, transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions import sampling
from hiresmed_jax.ops.resize import to_channels
from hiresmed_jax.routes import dataset as datasets
from hiresmed_jax.routes import loop, singan_task
from hiresmed_jax.routes import report as reports
from hiresmed_jax.routes.baselines import samples
from hiresmed_jax.routes.baselines.singan import report
from hiresmed_jax.routes.programs import Programs, evaluate
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype
from hiresmed_jax.types import Array

_ROWS = 4  # of a figure
_IMAGE = 1 << 20  # use of a sample's key: which SinGAN makes it


def skip(config: Any, dataset: records.Dataset) -> str:
  """Why the route cannot be trained on these data; it always can."""
  del config, dataset
  return ""


def train(
  config: Any, dataset: records.Dataset, folder: pathlib.Path, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Trains the levels one after the other, and writes samples and a sheet.

  Raises:
    UserError: too few images; see also `loop.fit`.
  """
  values = config.singan
  images, weight, grey = _images(config, dataset, mesh.size)
  task = singan_task.build(
    values,
    [images],
    [weight],
    steps=values.steps,
    steps_per_call=values.steps_per_call,
    mesh=mesh,
    at_once=1,  # one image fills a device
    dtype=compute_dtype(values.dtype),
    name="singan",
  )

  def finish(state: Any, programs: Programs) -> dict[str, Any]:
    pyramid = singan_task.pyramid_of(values, values.size)
    _write_samples(config, state, folder / "samples", mesh, grey=grey)
    numbers, count = evaluate(task, programs, state, [dict(task.phases[-1].batch or {})])
    made, written = (" x ".join(map(str, size)) for size in (pyramid.sizes[-1], config.data.size))
    enlarged = "" if made == written else f", resized to {written} (bicubic)"
    results: dict[str, Any] = {
      "protocol": "root mean squared error of the training images as repeated, range 2",
      "pyramid": str(pyramid),
      "train": numbers | {"images": count},
      "samples": {"images": values.samples, "made": f"SinGAN at {made}{enlarged}"},
    }
    if jax.process_index() == 0:
      figure, about = folder / "figures" / "samples.png", results["samples"]["made"]
      samples.sheet(figure, folder / "samples", values.samples, about)
      reports.write(folder, results)
    return results

  done = loop.fit(
    task,
    folder=folder,
    identity=datasets.identity(config, "singan", dataset, folder),
    seed=config.seed,
    mesh=mesh,
    cadence=loop.Cadence(
      values.log_every, values.save_every, values.keep_checkpoints, values.max_skipped
    ),
    examples=_ROWS,
    draw=functools.partial(report.draw_level, folder=folder / "figures"),
    finish=finish,
  )
  if jax.process_index() == 0:
    results, console = done["results"], Console(soft_wrap=True)
    numbers = results["train"]
    console.print(f"{numbers['images']} image(s), repeated: error {numbers['rmse']:.3f}")
    console.print(f"{results['samples']['images']} samples: {results['samples']['made']}")
    console.print(f"figures: {folder / 'figures' / 'samples.png'}")
  return done


def _images(
  config: Any, dataset: records.Dataset, devices: int
) -> tuple[np.ndarray, np.ndarray, bool]:
  """(f32[L, S, S, C], weights f32[L], whether they are grey); the devices divide L."""
  values, source = config.singan, datasets.sources(dataset)["train"]
  if len(source) < values.images:
    raise UserError(
      f"{dataset.root} has {len(source)} training images, singan.images={values.images}: use fewer"
    )
  view = transforms.View(
    size=(values.size, values.size),
    fit="stretch",
    window=config.data.window,
    channels=config.data.channels,
  )
  count = values.images
  found = pipeline.eval_batches(source, view=view, batch_size=count, limit=count)
  images = next(found)["images_m11"]
  grey = images.shape[-1] == 1  # as grey images travel
  images = np.asarray(to_channels(images, config.data.channels))
  fill = -count % devices
  weight = np.concatenate([np.ones(count), np.zeros(fill)]).astype(np.float32)
  return np.concatenate([images, np.repeat(images[-1:], fill, axis=0)]), weight, grey


def _write_samples(
  config: Any, state: Any, folder: pathlib.Path, mesh: jax.sharding.Mesh, *, grey: bool
) -> None:
  """Each sample is of one of the SinGANs, drawn by its own key."""
  values = config.singan
  finished = jax.jit(singan_task.finished, out_shardings=meshes.replicated(mesh))
  generators = sampling.Generators(*finished(state)[-1])
  pyramid = singan_task.pyramid_of(values, values.size)
  widths = sampling.widths_of(generators.levels)

  def one(generators: sampling.Generators, key: Array) -> Array:
    index = jax.random.randint(jax.random.fold_in(key, _IMAGE), (), 0, values.images)
    given: dict[str, Any] = {"pyramid": pyramid, "widths": widths, "start": values.start}
    return jnp.clip(sampling.sample(generators, index, key, **given), -1.0, 1.0)

  def here(generators: sampling.Generators, keys: Array) -> Array:
    return jax.lax.map(functools.partial(one, generators), keys)

  split = P(("data", "fsdp"))
  make = jax.jit(
    jax.shard_map(here, mesh=mesh, in_specs=(P(), split), out_specs=split, check_vma=False)
  )
  samples.write(
    folder,
    functools.partial(make, generators),
    count=values.samples,
    batch_size=mesh.size,
    seed=config.seed,
    size=config.data.size,
    grey=grey,
    mesh=mesh,
  )
