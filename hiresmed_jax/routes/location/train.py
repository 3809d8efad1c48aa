"""Route `location`: YOLO11 learns where lesions are, and whether that beats the atlas is judged."""

import functools
import pathlib
from typing import Any

import jax

from hiresmed_jax.convert import yolo as converted
from hiresmed_jax.data import detection, records, transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import emptied, places, prior_scores, survey
from hiresmed_jax.routes import loop
from hiresmed_jax.routes.dataset import identity
from hiresmed_jax.routes.location import report
from hiresmed_jax.routes.location import task as location
from hiresmed_jax.runtime import compilation, run_folder
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype
from hiresmed_jax.runtime.progress import Progress

_JUDGED = 256  # images of a split on which priors are compared, at most


def train(config: Any, dataset: records.Dataset, folder: pathlib.Path) -> dict[str, Any]:
  """Trains the detector, judges it and the priors that it gives.

  Raises:
    UserError: no lesions, too few images; see also `loop.fit`.
  """
  if not dataset.card["boxes"]:
    raise UserError(f"{dataset.root} has no lesions: prepare it with --boxes and --labels")
  values, mesh = config.location, meshes.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
  view = transforms.View(
    size=values.size, fit="pad", window=config.data.window, channels=config.data.channels
  )
  sources = {split: records.source(dataset, split) for split in ("train", "val", "test")}
  if len(sources["train"]) < values.batch_size:
    raise UserError(
      f"{dataset.root} has {len(sources['train'])} train images and this run needs "
      f"{values.batch_size}: prepare more images, or lower location.batch_size"
    )
  plain = {split: source.without_masks() for split, source in sources.items()}
  room = max(detection.most_boxes(plain["train"]), *(_most(plain[s]) for s in ("val", "test")))
  who = identity(config, "location", dataset, folder)
  done = run_folder.claim(folder, who)
  train_source: Any = plain["train"]
  if values.bare and done is None:
    _write_bare(sources["train"], folder / "bare", values.decoys, config.seed)
    train_source = detection.WithoutLesions(plain["train"], folder / "bare")
  steps_per_epoch = max(1, len(train_source) // values.batch_size)
  steps = values.steps or values.epochs * steps_per_epoch
  net = location.network(values, dtype=compute_dtype(values.dtype))
  task = location.build(
    values,
    channels=view.channels,
    size=values.size,
    steps=steps,
    steps_per_epoch=steps_per_epoch,
    dtype=compute_dtype(values.dtype),
    start_from=_weights(values.weights, net, view.channels),
  )
  augment = values.augment.to_dict()
  train_data = detection.train_dataset(
    train_source,
    view=view,
    room=room,
    augmentation=augment,
    mosaic_share=values.mosaic,
    mosaic_batches=max(0, steps - values.close_mosaic * steps_per_epoch),
    bare_share=values.bare,
    batch_size=values.batch_size,
    seed=config.seed,
    workers=config.data.workers,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )

  def held(split: str) -> list[dict[str, Any]]:
    return list(
      detection.eval_batches(plain[split], view=view, room=room, batch_size=values.batch_size)
    )

  val_batches, figures = held("val"), folder / "figures"

  def finish(state: Any, programs: loop.Programs) -> dict[str, Any]:
    test = held("test")
    judge = functools.partial(loop.evaluate, task, programs, state)
    variables = jax.jit(location.averaged, out_shardings=meshes.replicated(mesh))(state)
    prior = places.Prior(
      "yolo",
      view,
      places.through_detector(
        net, jax.device_get(variables), channels=view.channels, options=compilation.options()
      ),
    )
    return report.judged(judge, val=val_batches, test=test, folder=folder) | _priors(
      config, dataset, sources, prior, folder
    )

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
    draw=functools.partial(report.draw_detections, batches=val_batches, folder=figures),
    finish=finish,
  )
  if jax.process_index() == 0:
    report.print_results(done, folder)
  return done


def _priors(
  config: Any,
  dataset: records.Dataset,
  sources: dict[str, records.Records],
  prior: places.Prior,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """{"prior": which one is to be used, by validation images, and what it gives on held-out ones}.

  Every process works it out for itself; there are no collectives in it.
  """
  where = survey.kept(dataset, folder.parent).atlas
  score = functools.partial(
    prior_scores.score_priors,
    prior=prior,
    where=where,
    decoys=config.location.decoys,
    floor=config.synthesize.floor,
    seed=config.seed,
    limit=_JUDGED,
  )
  val = score(sources["val"])
  if not val.groups:
    return {"prior": {"name": "atlas", "powers": {}, "held_out": None}}
  name, powers = prior_scores.best(val)
  used = prior_scores.key_of(name, powers.get(name, 1.0))
  told: dict[str, Any] = {"name": name, "powers": powers, "held_out": None}
  test = score(sources["test"])
  if test.groups:
    told["held_out"] = prior_scores.table(test, used, powers=[*powers.values()], seed=config.seed)
    if jax.process_index() == 0:
      report.draw_priors(test.pictures, folder / "figures" / "priors.png")
  return {"prior": told}


def _most(source: records.Records) -> int:
  return max((len(item["boxes"]) for item in source), default=0)


def _weights(path: str, net: Any, channels: int) -> Any:
  """{"params", "batch_stats"} to begin with; None: random."""
  if not path:
    return None
  return converted.load(pathlib.Path(path), net, channels=channels)


def _write_bare(source: records.Records, folder: pathlib.Path, decoys: float, seed: int) -> None:
  """Images without lesions, written once by the first process."""
  meshes.wait_for_all("images without lesions are looked for")
  done = folder / "DONE"
  if jax.process_index() == 0 and not done.is_file():
    with Progress(len(source), "without lesions", unit="image") as progress:
      emptied.write(source, folder, decoys=decoys, seed=seed, tell=progress.advance)
    done.touch()
  meshes.wait_for_all("images without lesions are there")
