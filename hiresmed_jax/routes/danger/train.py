"""Route `danger`: a U-Net learns where no lesion can be, and is evaluated on held-out images."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from hiresmed_jax.data import pipeline, records, transforms
from hiresmed_jax.placement import forbidden
from hiresmed_jax.routes import dataset as datasets
from hiresmed_jax.routes import loop
from hiresmed_jax.routes.danger import report
from hiresmed_jax.routes.danger import task as danger
from hiresmed_jax.routes.programs import evaluate
from hiresmed_jax.runtime import run_folder
from hiresmed_jax.runtime.compilation import compute_dtype


def skip(config: Any, dataset: records.Dataset) -> str:
  """Why the route cannot be trained on these data; "" where they have masks, or a rule does."""
  if config.danger.rule or dataset.card["audit"]["images"]["forbidden_masks"]:
    return ""
  return (
    "no masks of forbidden tissue: prepare it with --forbidden FOLDER, or name a rule that finds "
    f"it (danger.rule={' or '.join(forbidden.RULES)})"
  )


def train(
  config: Any, dataset: records.Dataset, folder: pathlib.Path, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Trains the network on the dataset's masks of forbidden tissue, or on those of a rule.

  Raises:
    UserError: too few images; see also `loop.fit`.
  """
  values = config.danger
  view = transforms.View(
    size=tuple(values.size), fit="pad", window=config.data.window, channels=config.data.channels
  )
  who = datasets.identity(config, "danger", dataset, folder)
  run_folder.claim(folder, who)  # before masks are written there
  sources = {
    split: _labelled(source, dataset, values.rule, folder / "masks")
    for split, source in datasets.sources(dataset).items()
  }
  datasets.check_counts(
    sources, "danger", values.batch_size, root=dataset.root, what="images with masks"
  )
  steps_per_epoch = max(1, len(sources["train"]) // values.batch_size)
  task = danger.build(
    values,
    channels=view.channels,
    size=(values.crop, values.crop) if values.crop else view.shape,
    steps=values.steps or values.epochs * steps_per_epoch,
    dtype=compute_dtype(values.dtype),
  )
  train_data = pipeline.train_dataset(
    sources["train"],
    view=view,
    augmentation=values.augment.to_dict(),
    crop=values.crop,
    masks=True,
    **datasets.feed(config, values.batch_size),
  )

  def batches(split: str) -> Iterator[dict[str, Any]]:
    return pipeline.eval_batches(
      sources[split], view=view, batch_size=values.batch_size, masks=True
    )

  done = loop.fit(
    task,
    folder=folder,
    identity=who,
    seed=config.seed,
    mesh=mesh,
    train_data=train_data,
    val_batches=functools.partial(batches, "val"),
    cadence=loop.Cadence(
      values.log_every, values.eval_every, values.keep_checkpoints, values.max_skipped
    ),
    examples=report.ROWS,
    draw=functools.partial(report.draw_masks, folder=folder / "figures"),
    finish=lambda state, programs: report.final_evaluation(
      functools.partial(evaluate, task, programs, state),
      val=batches("val"),
      test=batches("test"),
      folder=folder,
      masks=f"of the rule {values.rule!r}, where none is given" if values.rule else "as given",
    ),
  )
  if jax.process_index() == 0:
    report.print_results(done, folder)
  return done


def _labelled(
  source: records.Records, dataset: records.Dataset, rule: str, folder: pathlib.Path
) -> records.WithForbidden:
  """The records that have masks, those of the rule written once by the first process."""
  images = dataset.card["audit"]["images"]
  if images["forbidden_masks"] == images["count"]:
    return records.WithForbidden(source, folder)
  if not rule:
    return records.WithForbidden(source, None)
  write = functools.partial(forbidden.write, source, folder, rule)
  done = folder / f"{source.split}.done"
  datasets.written_once(done, f"masks, {source.split}", len(source), write)
  return records.WithForbidden(source, folder)
