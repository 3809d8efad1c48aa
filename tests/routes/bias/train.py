"""Data, task and loop of the smallest route."""

import jax
import jax.numpy as jnp

from hiresmed_jax.data import pipeline
from hiresmed_jax.routes import dataset as datasets
from hiresmed_jax.routes import loop
from hiresmed_jax.routes.task import Phase, Task


def skip(config, dataset):
  del config, dataset
  return ""


def build(values):
  def train_step(state, batch, frozen):
    del frozen
    gap = jnp.mean(batch["images_m11"]) - state["bias"]
    return {"bias": state["bias"] + values.rate * gap}, {"gap": jnp.abs(gap)}

  def eval_step(state, batch, frozen):
    del frozen
    means = jnp.mean(batch["images_m11"], (1, 2, 3))
    errors = jnp.abs(means - state["bias"]) * batch["weight"]
    return {"error": errors.sum(), "weight": batch["weight"].sum()}, batch["images_m11"]

  return Task(
    name="bias",
    phases=(Phase("bias", values.steps, values.batch_size),),
    init=lambda key: {"bias": jax.random.normal(key, ())},
    train_step=train_step,
    eval_step=eval_step,
    eval_arrays=("images_m11", "weight"),
    summarise=lambda totals: {"error": float(totals["error"] / totals["weight"])},
    select=("error", -1),
  )


def train(config, dataset, folder, mesh):
  values, view = config.bias, datasets.view(config.data)
  sources = datasets.sources(dataset)
  return loop.fit(
    build(values),
    folder=folder,
    identity=datasets.identity(config, "bias", dataset, folder),
    seed=config.seed,
    mesh=mesh,
    train_data=pipeline.train_dataset(
      sources["train"],
      view=view,
      augmentation=config.data.augment.to_dict(),
      crop=0,
      **datasets.feed(config, values.batch_size),
    ),
    val_batches=lambda: pipeline.eval_batches(
      sources["val"], view=view, batch_size=values.batch_size
    ),
    cadence=loop.Cadence(2, 3, 1, 5),
    examples=1,
    draw=lambda step, examples: None,
    finish=lambda state, programs: {"bias": float(state["bias"])},
  )
