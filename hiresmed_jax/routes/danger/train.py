"""Route `danger`: a U-Net learns where no lesion can be, and is judged on held-out images."""

import functools
import pathlib
from typing import Any

import jax

from hiresmed_jax.data import records, segmentation, transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.placement import forbidden
from hiresmed_jax.routes import loop
from hiresmed_jax.routes.danger import report
from hiresmed_jax.routes.danger import task as danger
from hiresmed_jax.routes.dataset import identity
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime import run_folder
from hiresmed_jax.runtime.compilation import compute_dtype
from hiresmed_jax.runtime.progress import Progress


def can_train(config: Any, dataset: records.Dataset) -> bool:
  """Whether there are masks to learn from, or a rule that makes them."""
  return bool(config.danger.rule or dataset.card["audit"]["images"]["forbidden_masks"])


def train(config: Any, dataset: records.Dataset, folder: pathlib.Path) -> dict[str, Any]:
  """Trains the network on the dataset's masks of forbidden tissue, or on those of a rule.

  Raises:
    UserError: neither masks nor a rule, too few images; see also `loop.fit`.
  """
  if not can_train(config, dataset):
    raise UserError(
      f"{dataset.root} has no masks of forbidden tissue: prepare it with --forbidden FOLDER, or "
      f"name a rule that finds it (danger.rule={' or '.join(forbidden.RULES)})"
    )
  values, mesh = config.danger, meshes.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
  view = transforms.View(
    size=tuple(values.size), fit="pad", window=config.data.window, channels=config.data.channels
  )
  who = identity(config, "danger", dataset, folder)
  run_folder.claim(folder, who)  # before masks are written there
  sources = {
    split: _labelled(records.source(dataset, split), dataset, values.rule, folder / "masks")
    for split in ("train", "val", "test")
  }
  if len(sources["train"]) < values.batch_size:
    raise UserError(
      f"{dataset.root} has {len(sources['train'])} train images with masks and this run needs "
      f"{values.batch_size}: prepare more images, or lower danger.batch_size"
    )
  steps_per_epoch = max(1, len(sources["train"]) // values.batch_size)
  steps = values.steps or values.epochs * steps_per_epoch
  task = danger.build(
    values,
    channels=view.channels,
    size=(values.crop, values.crop) if values.crop else view.shape,
    steps=steps,
    dtype=compute_dtype(values.dtype),
  )
  train_data = segmentation.train_dataset(
    sources["train"],
    view=view,
    augmentation=values.augment.to_dict(),
    crop=values.crop,
    batch_size=values.batch_size,
    seed=config.seed,
    workers=config.data.workers,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )

  def held(split: str) -> list[dict[str, Any]]:
    batches = segmentation.eval_batches(sources[split], view=view, batch_size=values.batch_size)
    return list(batches)

  val_batches, figures = held("val"), folder / "figures"
  if not val_batches:
    raise UserError(
      f"{dataset.root} has no val images with masks to choose the weights by: prepare more images, "
      "from more patients"
    )

  def finish(state: Any, programs: loop.Programs) -> dict[str, Any]:
    judge = functools.partial(loop.evaluate, task, programs, state)
    masks = f"of the rule {values.rule!r}, where none is given" if values.rule else "as given"
    return report.judged(judge, val=val_batches, test=held("test"), folder=folder, masks=masks)

  done = loop.fit(
    task,
    folder=folder,
    identity=who,
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
    draw=functools.partial(report.draw_masks, batches=val_batches, folder=figures),
    finish=finish,
  )
  if jax.process_index() == 0:
    report.print_results(done, folder)
  return done


def _labelled(
  source: records.Records, dataset: records.Dataset, rule: str, folder: pathlib.Path
) -> segmentation.Labelled:
  """The records that have masks, those of the rule written once by the first process."""
  images = dataset.card["audit"]["images"]
  if images["forbidden_masks"] == images["count"]:
    return segmentation.Labelled(source, folder)
  if not rule:
    return segmentation.Labelled(source, folder, segmentation.with_mask(source))
  meshes.wait_for_all(f"masks of {source.split} images are looked for")
  done = folder / f"{source.split}.done"
  if jax.process_index() == 0 and not done.is_file():
    with Progress(len(source), f"masks, {source.split}", unit="image") as progress:
      forbidden.write(source, folder, rule, advance=progress.advance)
    done.touch()
  meshes.wait_for_all(f"masks of {source.split} images are there")
  return segmentation.Labelled(source, folder)
