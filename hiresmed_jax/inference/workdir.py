"""What a workdir knows: where its run found its data, and the model that it trained."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from hiresmed_jax.data import records, transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import settings, supervised
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.routes.danger import task as danger
from hiresmed_jax.routes.location import task as location
from hiresmed_jax.routes.task import Task
from hiresmed_jax.runtime import checkpoint, config, mesh

DATA = "data.json"  # written by `train`


class Model(NamedTuple):
  """HiResMed-VQGAN as a workdir has trained it.

  Attributes:
    net: its network.
    params: {"net", "codebook"}, the averaged ones where the run kept an average.
    view: how it sees a record.
    step: of the checkpoint.
  """

  net: nn.Module
  params: Any
  view: transforms.View
  step: int


class Trained(NamedTuple):
  """A network of places as a workdir has trained it.

  Attributes:
    net: the network.
    variables: {"params", "batch_stats"}, averaged where the run kept an average.
    view: how it sees a record.
    step: of the checkpoint.
    results: what the route found of itself.
  """

  net: nn.Module
  variables: Any
  view: transforms.View
  step: int
  results: dict[str, Any]


def dataset_of(workdir: Path, data: Path | None) -> records.Dataset:
  """The dataset that a workdir was trained on, or that of --data.

  Raises:
    UserError: nobody knows where it is, or what lies there is another one.
  """
  noted = _read(workdir / DATA, ("root", "fingerprint"))
  if data is not None:
    root = data
  elif noted is not None:
    root = Path(noted["root"])
  elif (workdir / "data" / "card.json").is_file():  # phantoms that `train` drew
    root = workdir / "data"
  else:
    raise UserError(f"{workdir} does not say which data it was trained on: name them with --data")
  dataset = records.open_dataset(root)
  if noted is not None and dataset.card["fingerprint"] != noted["fingerprint"]:
    raise UserError(f"{root} is not the dataset that {workdir} was trained on")
  return dataset


def trained_on(
  workdir: Path, route: str, dataset: records.Dataset, *, instead: str = ""
) -> dict[str, Any]:
  """The config of a finished route, as `train` noted it, and its best step.

  Args:
    workdir: of the run.
    route: which one.
    dataset: that it must have been trained on.
    instead: the option that does without the route, for the message.

  Returns:
    {"config": nested values in the terms of this version, "config_hash": of the config as it was
    trained, "best_step": int, "results": what the route says of itself}.

  Raises:
    UserError: the route is not trained, or on other data.
  """
  folder = workdir / route
  made = _read(folder / "config.json", ("config", "config_hash", "data"))
  done = _read(folder / "DONE.json", ("best_step", "results"))
  if made is None or done is None:
    state = "is not finished" if made else "is not there"
    raise UserError(
      f"{folder} {state}: train it first, python -m hiresmed_jax.train --config CONFIG:{route} "
      f"--workdir {workdir}" + (f"; or use {instead}" if instead else "")
    )
  if made["data"] != dataset.card["fingerprint"]:
    raise UserError(f"{folder} was trained on other data than {dataset.root}")
  return {
    "config": settings.stored(made["config"], folder),
    "config_hash": made["config_hash"],
    "best_step": int(done["best_step"]),
    "results": done["results"],
  }


def model_of(workdir: Path, asked: Any, dataset: records.Dataset, *, dtype: Any) -> Model:
  """Restores the background route's model.

  Args:
    workdir: of the run.
    asked: the config of this command: its network and its data must be those of the run.
    dataset: what it was trained on.
    dtype: of the convolutions.

  Raises:
    UserError: it is not trained, or was trained by another config.
  """
  run = trained_on(workdir, "background", dataset, instead="--background real")
  there = run["config"]
  now = {"data": asked.data.to_dict(), "net": asked.background.net.to_dict()}
  now["data"].pop("workers")
  changed = config.differences({"data": there["data"], "net": there["background"]["net"]}, now)
  if changed:
    raise UserError(
      f"{workdir} was trained with another config ({changed[0]}): give synthesize the same "
      "--config and --config.key=value as train"
    )
  data, route = asked.data, ConfigDict(_tuples(there["background"]))
  view = transforms.View(
    size=tuple(data.size), fit=data.fit, window=data.window, channels=data.channels
  )
  task = background.build(
    route,
    channels=data.channels,
    size=(data.crop, data.crop) if data.crop else view.shape,
    steps=1,
    steps_per_epoch=1,
  )
  folder = workdir / "background" / "checkpoints"
  state = _restored(task, folder, step=run["best_step"], keep=route.keep_checkpoints)
  net, _ = background.networks(route, channels=data.channels, dtype=dtype)
  return Model(net, jax.device_get(background.averaged(state)), view, run["best_step"])


def location_of(workdir: Path, dataset: records.Dataset, *, dtype: Any) -> Trained:
  """Restores the YOLO11 of the route `location`, by the config that it was trained with.

  Args:
    workdir: of the run.
    dataset: what it was trained on.
    dtype: of the convolutions.

  Raises:
    UserError: it is not trained, or on other data.
  """
  run = trained_on(workdir, "location", dataset, instead="--config.synthesize.prior=atlas")
  route, view = _places(run["config"], "location")
  task = location.build(
    route, channels=view.channels, size=route.size, steps=1, steps_per_epoch=1, dtype=dtype
  )
  folder = workdir / "location" / "checkpoints"
  state = _restored(task, folder, step=run["best_step"], keep=route.keep_checkpoints)
  net, variables = location.network(route, dtype=dtype), supervised.averaged(state)
  return Trained(net, jax.device_get(variables), view, run["best_step"], run["results"])


def danger_of(workdir: Path, dataset: records.Dataset, *, dtype: Any) -> Trained:
  """Restores the U-Net of the route `danger`; else as `location_of`."""
  run = trained_on(workdir, "danger", dataset, instead="--config.synthesize.danger=off")
  route, view = _places(run["config"], "danger")
  size = (route.crop, route.crop) if route.crop else view.shape
  task = danger.build(route, channels=view.channels, size=size, steps=1, dtype=dtype)
  folder = workdir / "danger" / "checkpoints"
  state = _restored(task, folder, step=run["best_step"], keep=route.keep_checkpoints)
  net, variables = danger.network(route, dtype=dtype), supervised.averaged(state)
  return Trained(net, jax.device_get(variables), view, run["best_step"], run["results"])


def _places(stored: dict[str, Any], name: str) -> tuple[Any, transforms.View]:
  """(the route's values, its view) of a run's config."""
  route, data = ConfigDict(_tuples(stored[name])), stored["data"]
  view = transforms.View(
    size=route.size, fit="pad", window=_tuples(data["window"]), channels=data["channels"]
  )
  return route, view


def _restored(task: Task, folder: Path, *, step: int, keep: int) -> Any:
  """The state of a finished run at its best step, on one device."""
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  one = mesh.make_mesh(data=1, devices=jax.devices()[:1])
  abstract = mesh.with_shardings(shapes, mesh.state_shardings(shapes, one))
  if task.select is None:
    raise ValueError(f"the route {task.name} keeps its best step")
  name, sign = task.select
  with checkpoint.open(
    folder, keep=keep, best=name, best_mode="max" if sign > 0 else "min"
  ) as manager:
    state, _, _ = checkpoint.restore(manager, abstract, step=step)
  return state


def _tuples(value: Any) -> Any:
  """What JSON made lists of, as configs have it."""
  if isinstance(value, dict):
    return {key: _tuples(one) for key, one in value.items()}
  return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, Any] | None:
  """A JSON file with these keys; None where there is none."""
  if not path.is_file():
    return None
  try:
    content = json.loads(path.read_text())
    return {key: content[key] for key in keys}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is damaged, or no file of this program") from error
