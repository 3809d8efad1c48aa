"""Route `location`: YOLO11 learns where lesions are, and is compared with the atlas."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from hiresmed_jax.convert import yolo as converted
from hiresmed_jax.data import detection, records, transforms
from hiresmed_jax.inference import emptied, host_prior, prior_scores, survey, workdir
from hiresmed_jax.inference.prior_scores import WITH_DETECTOR
from hiresmed_jax.routes import dataset as datasets
from hiresmed_jax.routes import loop, supervised
from hiresmed_jax.routes.location import report
from hiresmed_jax.routes.location import task as location
from hiresmed_jax.routes.programs import Programs, evaluate
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime import run_folder
from hiresmed_jax.runtime.compilation import compute_dtype

_PRIOR_IMAGES = 256  # of a split on which priors are compared, at most


def skip(config: Any, dataset: records.Dataset) -> str:
  """Why the route cannot be trained on these data; "" where it can."""
  del config
  return datasets.no_lesions(dataset)


def train(
  config: Any, dataset: records.Dataset, folder: pathlib.Path, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Trains the detector, and evaluates it and the priors that it gives.

  Raises:
    UserError: too few images; see also `loop.fit`.
  """
  values, dtype = config.location, compute_dtype(config.location.dtype)
  view = transforms.View(
    size=values.size, fit="pad", window=config.data.window, channels=config.data.channels
  )
  sources = {split: source.labelled() for split, source in datasets.sources(dataset).items()}
  what = "labelled images"
  datasets.check_counts(sources, "location", values.batch_size, root=dataset.root, what=what)
  plain = {split: source.without_masks() for split, source in sources.items()}
  room = max(detection.most_boxes(plain["train"]), *(_most(plain[s]) for s in ("val", "test")))
  who = datasets.identity(config, "location", dataset, folder)
  train_source: Any = plain["train"]
  if run_folder.claim(folder, who) is None and values.lesion_free:
    write = functools.partial(
      emptied.write_all, sources["train"], folder / "bare", decoys=values.decoys, seed=config.seed
    )
    datasets.written_once(
      folder / "bare" / "DONE", "images without lesions", len(sources["train"]), write
    )
    train_source = records.WithLesionFree(plain["train"], folder / "bare")
  steps_per_epoch = max(1, len(train_source) // values.batch_size)
  steps = values.steps or values.epochs * steps_per_epoch
  net = location.network(values, dtype=dtype)
  task = location.build(
    values,
    channels=view.channels,
    size=values.size,
    steps=steps,
    steps_per_epoch=steps_per_epoch,
    dtype=dtype,
    start_from=_weights(values.weights, net, view.channels),
  )
  train_data = detection.train_dataset(
    train_source,
    view=view,
    room=room,
    augmentation=values.augment.to_dict(),
    mosaic_share=values.mosaic,
    mosaic_batches=max(0, steps - values.close_mosaic * steps_per_epoch),
    lesion_free_share=values.lesion_free,
    **datasets.feed(config, values.batch_size),
  )

  def batches(split: str) -> Iterator[dict[str, Any]]:
    return detection.eval_batches(plain[split], view=view, room=room, batch_size=values.batch_size)

  def finish(state: Any, programs: Programs) -> dict[str, Any]:
    results = report.final_evaluation(
      functools.partial(evaluate, task, programs, state),
      val=batches("val"),
      test=batches("test"),
      folder=folder,
    )
    variables = jax.jit(supervised.averaged, out_shardings=meshes.replicated(mesh))(state)
    network = workdir.detection_scores(net, jax.device_get(variables), channels=view.channels)
    detector = workdir.Model(view, network)
    return results | _priors(config, dataset, sources, detector, folder)

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
    draw=functools.partial(report.draw_detections, folder=folder / "figures"),
    finish=finish,
  )
  if jax.process_index() == 0:
    report.print_results(done, folder)
  return done


def _priors(
  config: Any,
  dataset: records.Dataset,
  sources: dict[str, records.Records],
  detector: workdir.Model,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """{"prior": the one to use, chosen on validation images, and its scores on held-out ones}.

  Every process computes all of it, without collectives.
  """
  atlas, rule = survey.load_or_make(dataset, folder.parent).atlas, config.synthesize.host_rule
  fitted = None
  if config.synthesize.hosts == "on":
    fitted = host_prior.load_or_make(dataset, folder.parent, atlas, host_rule=rule)
  score = functools.partial(
    prior_scores.score_priors,
    detector=detector,
    atlas=atlas,
    fitted=fitted,
    host_rule=rule,
    decoys=config.location.decoys,
    floor=config.synthesize.floor,
    seed=config.seed,
    limit=_PRIOR_IMAGES,
  )
  val = score(sources["val"])
  if not val.groups:
    return {"prior": {"name": "atlas", "powers": {}, "hosts_powers": {}, "held_out": None}}
  without = prior_scores.best(val, hosts=False)
  best = prior_scores.best(val, hosts=True)
  name, used = next(iter(best.items()))
  chosen: dict[str, Any] = {
    "name": name,
    "powers": {key: one.power for key, one in (without | best).items() if key in WITH_DETECTOR},
    "hosts_powers": {key: one.hosts_power for key, one in best.items() if one.hosts_power},
    "held_out": None,
  }
  test = score(sources["test"])
  if test.groups:
    others = [one.key for one in (*without.values(), *best.values())]
    chosen["held_out"] = prior_scores.table(test, used.key, others=others, seed=config.seed)
    if jax.process_index() == 0:
      report.draw_priors(test.pictures, folder / "figures" / "priors.png")
  return {"prior": chosen}


def _most(source: records.Records) -> int:
  return max((len(item["boxes"]) for item in source), default=0)


def _weights(path: str, net: Any, channels: int) -> Any:
  """{"params", "batch_stats"} to begin with; None: random."""
  if not path:
    return None
  return converted.load(pathlib.Path(path), net, channels=channels)
