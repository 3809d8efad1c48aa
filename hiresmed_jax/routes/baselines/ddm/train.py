"""Baseline `ddm`: DDPM on whole images, and images that it makes from noise."""

import pathlib
from typing import Any

import jax

from hiresmed_jax.data import records
from hiresmed_jax.ops import diffusion
from hiresmed_jax.routes import supervised
from hiresmed_jax.routes.baselines import fit, samples
from hiresmed_jax.routes.baselines.ddm import report, sample
from hiresmed_jax.routes.baselines.ddm import task as ddm
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
  """Trains the network, and writes samples, see `fit.fit`."""
  values = config.ddm
  dtype, sampling = compute_dtype(values.dtype), values.sampling
  baseline = fit.Baseline(
    route="ddm",
    title="DDM",
    samples=sampling.images,
    network="DDPM",
    how=f", {sampling.steps} steps, {sampling.method}",
    build=lambda view, steps: ddm.build(
      values, channels=view.channels, size=view.shape, steps=steps, dtype=dtype
    ),
    write_samples=lambda state, where, grey: _write_samples(config, state, where, mesh, grey=grey),
    draw=report.draw_estimates,
    protocol="mean squared error of the estimated noise, which has variance 1, levels spread "
    "evenly; averaged weights after the last step",
    line=lambda numbers: f"error of the noise {numbers['noise_mse']:.4f}",
  )
  return fit.fit(baseline, config, dataset, folder, mesh)


def _params(state: supervised.State) -> dict[str, Any]:
  return {"params": supervised.averaged(state)["params"]}


def _write_samples(
  config: Any, state: Any, folder: pathlib.Path, mesh: jax.sharding.Mesh, *, grey: bool
) -> None:
  values = config.ddm
  sampling = values.sampling
  rows, columns = (side // values.patch for side in values.size)
  missing = sum(not samples.path_of(folder, n).is_file() for n in range(sampling.images))
  batches = -(-missing // values.batch_size)
  with Progress(batches * sampling.steps, "samples") as progress:
    make = sample.maker(
      jax.jit(_params, out_shardings=meshes.replicated(mesh))(state),
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
