"""What baselines share that are trained on whole images and make new ones: from data to samples."""

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from hiresmed_jax.data import pipeline, records, transforms
from hiresmed_jax.routes import dataset as datasets
from hiresmed_jax.routes import loop, report
from hiresmed_jax.routes.baselines import samples
from hiresmed_jax.routes.programs import Programs, evaluate
from hiresmed_jax.routes.task import Task

ROWS = 4  # of a figure


class Baseline(NamedTuple):
  """What one of them gives.

  Attributes:
    route: its name, and its group in the config.
    title: its name in tables.
    samples: images that it makes at the end.
    network: that makes them, as text.
    how: it does so, as text that goes on: ", 200 steps"; or "".
    build: (view, steps of the run) -> its task.
    write_samples: (state, folder, whether files have one channel) writes them.
    draw: (step, examples, folder=) draws validation images.
    protocol: what its numbers are.
    line: of the numbers of images, for the terminal.
  """

  route: str
  title: str
  samples: int
  network: str
  how: str
  build: Callable[[transforms.View, int], Task]
  write_samples: Callable[[Any, pathlib.Path, bool], None]
  draw: Callable[..., None]
  protocol: str
  line: Callable[[dict[str, Any]], str]


def fit(
  baseline: Baseline,
  config: Any,
  dataset: records.Dataset,
  folder: pathlib.Path,
  mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
  """Trains on the training groups, evaluates the last weights, and writes samples and a sheet.

  The results hold "train", "val" and "held_out" (numbers and images, or None), "samples" and
  "protocol".

  Raises:
    UserError: too few images; see also `loop.fit`.
  """
  route, values = baseline.route, config[baseline.route]
  # Stretched: a network that sees padding draws it.
  view = transforms.View(
    size=values.size if isinstance(values.size, int) else tuple(values.size),
    fit="stretch",
    window=config.data.window,
    channels=config.data.channels,
  )
  sources = datasets.sources(dataset)
  datasets.check_counts(sources, route, values.batch_size, root=dataset.root, what="images")
  steps_per_epoch = max(1, len(sources["train"]) // values.batch_size)
  task = baseline.build(view, values.steps or values.epochs * steps_per_epoch)
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
    baseline.write_samples(state, folder / "samples", grey)
    made, written = (" x ".join(map(str, size)) for size in (view.shape, config.data.size))
    enlarged = "" if made == written else f", resized to {written} (bicubic)"
    results: dict[str, Any] = {
      "protocol": f"{baseline.protocol}; held-out groups (sha256 rule, group 0)",
      "samples": {
        "images": baseline.samples,
        "made": f"{baseline.network} at {made}{enlarged}{baseline.how}",
      },
    }
    limits = {"train": values.eval_images, "val": values.eval_images, "test": None}
    for split, limit in limits.items():
      numbers, images = evaluate(
        task, programs, state, batches(split, limit), lambda batch, made: None
      )
      name = "held_out" if split == "test" else split
      results[name] = numbers | {"images": images} if images else None
    if jax.process_index() == 0:
      about = results["samples"]["made"]
      samples.sheet(folder / "figures" / "samples.png", folder / "samples", baseline.samples, about)
      report.write(folder, results)
    return results

  done = loop.fit(
    task,
    folder=folder,
    identity=datasets.identity(config, route, dataset, folder),
    seed=config.seed,
    mesh=mesh,
    train_data=train_data,
    val_batches=functools.partial(batches, "val", values.eval_images),
    cadence=loop.Cadence(
      values.log_every, values.eval_every, values.keep_checkpoints, values.max_skipped
    ),
    examples=ROWS,
    draw=functools.partial(baseline.draw, folder=folder / "figures"),
    finish=finish,
  )
  if jax.process_index() == 0:
    _print(baseline, done["results"], folder)
  return done


def _print(baseline: Baseline, results: dict[str, Any], folder: pathlib.Path) -> None:
  """The results on the terminal, and what to do with the samples."""
  console = Console(soft_wrap=True)
  for name in ("train", "val", "held_out"):
    if numbers := results[name]:
      told = baseline.line(numbers)
      console.print(f"{numbers['images']} images, {name.replace('_', '-')}: {told}")
  console.print(f"{results['samples']['images']} samples: {results['samples']['made']}")
  console.print(f"figures: {folder / 'figures' / 'samples.png'}")
  console.print(
    f"compare: python -m hiresmed_jax.evaluate --baseline {baseline.title}={folder / 'samples'} "
    "--real ..."
  )


def shown(images_m11: np.ndarray) -> np.ndarray:
  """[..., C] in [-1, 1] -> [...] in [0, 1]."""
  return np.clip((np.asarray(images_m11, np.float32).mean(axis=-1) + 1.0) / 2.0, 0.0, 1.0)
