"""Baseline `styleswin`: StyleSwin on whole images, and images that it makes from random numbers."""

import functools
import pathlib
from typing import Any

import jax

from hiresmed_jax.data import records
from hiresmed_jax.routes.baselines import fit, samples
from hiresmed_jax.routes.baselines.styleswin import report
from hiresmed_jax.routes.baselines.styleswin import task as styleswin
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype


def skip(config: Any, dataset: records.Dataset) -> str:
  """Why the route cannot be trained on these data; it always can."""
  del config, dataset
  return ""


def train(
  config: Any, dataset: records.Dataset, folder: pathlib.Path, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Trains both networks, and writes samples, see `fit.fit`."""
  values = config.styleswin
  dtype = compute_dtype(values.dtype)
  baseline = fit.Baseline(
    route="styleswin",
    title="StyleSwin",
    samples=values.samples,
    network="StyleSwin",
    how="",
    build=lambda view, steps: styleswin.build(
      values, channels=view.channels, steps=steps, dtype=dtype
    ),
    write_samples=lambda state, where, grey: _write_samples(config, state, where, mesh, grey=grey),
    draw=report.draw_made,
    protocol="mean logits of the discriminator, images one by one, after the last step: where "
    "those of training images lie above those of others, it knows them by heart",
    line=lambda numbers: (
      f"logit {numbers['real_logit']:.2f}, of made ones {numbers['made_logit']:.2f}"
    ),
  )
  return fit.fit(baseline, config, dataset, folder, mesh)


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
