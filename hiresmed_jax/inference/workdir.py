"""What a workdir holds of a run: where its data are, and its trained networks for one picture.

S, T rows and columns of a network's view; C its channels; s its stride.
"""

import collections
import concurrent.futures
import functools
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from hiresmed_jax import files
from hiresmed_jax.data import records, transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import settings, supervised
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.routes.danger import task as danger
from hiresmed_jax.routes.location import task as location
from hiresmed_jax.routes.task import Task
from hiresmed_jax.runtime import checkpoint, compilation, config, mesh, run_folder
from hiresmed_jax.runtime.compilation import compute_dtype

_WAIT_S = 0.1  # for a batch to become full

# (images_m11 f32[S, T, 1 or C], device) -> what the network gives for the image, on the host.
Network = Callable[[np.ndarray, jax.Device], np.ndarray]


class Model(NamedTuple):
  """A trained network and how it sees an image."""

  view: transforms.View  # turns a record into the network's input
  network: Network  # see `Network`
  step: int = 0  # of the checkpoint
  results: Mapping[str, Any] = {}  # what its training found of it, for JSON


def reconstruction(
  net: Any, params: Any, *, channels: int, cosine: bool = True, batch: int = 1
) -> Network:
  """Encoder, codebook and decoder of the route `background`: f32[S, T, C] in [-1, 1].

  `cosine`: codes are compared by cosine, not by distance; `batch` as of `on_images`.
  """

  def pictures(*given: Any) -> Any:
    return background.reconstruct(*given, net=net, cosine=cosine)[0]

  return on_images(pictures, params, channels, batch=batch)


def detection_scores(net: Any, variables: Any, *, channels: int) -> Network:
  """YOLO11 of the route `location`: f32[S / s, T / s] in [0, 1], before any suppression."""
  return on_images(functools.partial(location.score_map, net=net), variables, channels)


def forbidden_chances(net: Any, variables: Any, *, channels: int) -> Network:
  """U-Net of the route `danger`: f32[S, T] in [0, 1]."""
  return on_images(functools.partial(danger.forbidden, net=net), variables, channels)


def on_images(
  apply: Callable[[Any, Any], Any],
  variables: Any,
  channels: int,
  options: Mapping[str, Any] | None = None,
  *,
  batch: int = 1,
) -> Network:
  """Compiles a network for batches of one size; each device gets a copy of its variables.

  The size is the same whatever the number of devices: programs of other sizes round differently.
  Batches of several are gathered from threads that call the network at one time; where they are
  fewer, the last image fills up the rest, so that an image's company makes no difference to it.

  Args:
    apply: (variables, images_m11 f32[N, S, T, C]) -> [N, ...].
    variables: of the network.
    channels: C; grey images are repeated.
    options: of the compiler; None: `compilation.options`.
    batch: N.
  """
  copies: dict[Any, Any] = {}
  options = compilation.options() if options is None else dict(options)
  program = jax.jit(apply, compiler_options=options)

  def run(images_m11: list[np.ndarray], device: jax.Device) -> np.ndarray:
    if device not in copies:
      copies[device] = jax.device_put(variables, device)
    filled = np.stack(images_m11 + images_m11[-1:] * (batch - len(images_m11)))
    return np.asarray(program(copies[device], jax.device_put(filled, device)))

  gathered = Gathered(run, batch)

  def network(image_m11: np.ndarray, device: jax.Device) -> np.ndarray:
    return gathered(transforms.with_channels(image_m11, channels), device)

  return network


class _Batch(NamedTuple):
  images: list[np.ndarray]
  full: threading.Event
  result: concurrent.futures.Future[np.ndarray]


class Gathered:
  """Runs a function on batches of images that threads bring one by one.

  The first image of a batch waits for the others, for a tenth of a second at most, and then for the
  device, which has one batch at a time: meanwhile the next one fills.
  """

  def __init__(self, run: Callable[[list[np.ndarray], Any], np.ndarray], size: int) -> None:
    """`run`: (1 to `size` images of one shape, device) -> [N, ...], a row for each, or more."""
    self._run, self._size, self._lock = run, size, threading.Lock()
    self._open: dict[tuple[Any, tuple[int, ...]], _Batch] = {}
    self._turns: dict[Any, threading.Lock] = collections.defaultdict(threading.Lock)

  def __call__(self, image: np.ndarray, device: Any) -> np.ndarray:
    """The row of one image. Raises what `run` raises, in each thread of the batch."""
    if self._size == 1:
      return self._run([image], device)[0]
    key = device, image.shape
    with self._lock:
      turn = self._turns[device]
      batch = self._open.get(key) or _Batch([], threading.Event(), concurrent.futures.Future())
      self._open[key] = batch
      place = len(batch.images)
      batch.images.append(image)
      if len(batch.images) == self._size:
        del self._open[key]
        batch.full.set()
    if place == 0:
      try:
        batch.full.wait(_WAIT_S)
        with turn:
          self._close(key, batch)
          batch.result.set_result(self._run(batch.images, device))
      except BaseException as error:  # the other threads wait for it
        self._close(key, batch)
        batch.result.set_exception(error)
    return batch.result.result()[place]

  def _close(self, key: tuple[Any, tuple[int, ...]], batch: _Batch) -> None:
    with self._lock:
      if self._open.get(key) is batch:
        del self._open[key]


_DATA = "data.json"


class Finished(NamedTuple):
  """A route that is trained."""

  folder: Path  # of the route
  config: dict[str, Any]  # nested values of its config, as `settings.stored` gives them
  config_hash: str  # of the config as it was then
  best_step: int  # of its checkpoint
  results: dict[str, Any]  # what its training found of it


def note(workdir: Path, dataset: records.Dataset, synthesize: dict[str, Any]) -> None:
  """Writes what the other commands need of a run: where its data are, and how it synthesizes."""
  noted = {
    "root": str(dataset.root.absolute()),
    "fingerprint": dataset.card["fingerprint"],
    "synthesize": synthesize,
  }
  if ranges := dataset.card["audit"]["images"].get("ranges"):
    noted["ranges"] = ranges
  if _noted(workdir) != json.loads(json.dumps(noted)):
    files.write_json(workdir / _DATA, noted)


def fingerprint_of(workdir: Path) -> str:
  """The fingerprint of the dataset that a workdir was trained on.

  Raises:
    UserError: it is not a workdir, or no route in it is trained.
  """
  noted = _noted(workdir)
  if noted is None:
    raise UserError(
      f"{workdir} holds no trained run: {_DATA}, which the first trained route leaves, is not there"
    )
  return str(noted["fingerprint"])


def ranges_of(workdir: Path) -> dict[tuple[float, float], tuple[float, float]]:
  """The range in use by the declared one, where the run's images leave bits unused."""
  noted = _noted(workdir) or {}
  return {tuple(pair["declared"]): tuple(pair["in_use"]) for pair in noted.get("ranges", [])}


def synthesize_of(workdir: Path) -> dict[str, Any]:
  """The values of the group `synthesize` that a run was trained with; today's where none are noted.

  Raises:
    UserError: see `settings.stored`.
  """
  noted = _noted(workdir) or {}
  if "synthesize" not in noted:
    return settings.values("synthesize", "best").to_dict()
  return settings.stored({"synthesize": noted["synthesize"]}, workdir)["synthesize"]


def dataset_of(workdir: Path, data: Path | None) -> records.Dataset:
  """Opens the dataset that a workdir was trained on.

  It lies at `data`, else is the phantoms in the workdir, or lies where it was.

  Raises:
    UserError: nothing is there, it is not known where the dataset is, or another one is there.
  """
  noted = _noted(workdir)
  own = workdir / "data"  # phantoms that `train` drew; they move with the workdir
  if data is not None:
    root = data
  elif (own / "card.json").is_file():
    root = own
  elif noted is not None:
    root = Path(noted["root"])
  elif not workdir.exists():
    raise UserError(f"{workdir} is not there: train first, or name prepared data with --data")
  else:
    raise UserError(f"{workdir} does not say which data it was trained on: name them with --data")
  dataset = records.open_dataset(root)
  if noted is not None and dataset.card["fingerprint"] != noted["fingerprint"]:
    raise UserError(f"{root} is not the dataset that {workdir} was trained on")
  return dataset


def finished(workdir: Path, route: str, fingerprint: str, *, instead: str = "") -> Finished:
  """A trained route of a workdir. `instead`: the option that does without it, for the message.

  Raises:
    UserError: the route is not trained, or on other data than those of `fingerprint`.
  """
  folder = workdir / route
  made, done = run_folder.made_with(folder), run_folder.done_with(folder)
  if made is None or done is None:
    state = "is not finished" if made else "is not there"
    raise UserError(
      f"{folder} {state}: train it first, python -m hiresmed_jax.train --config CONFIG:{route} "
      f"--workdir {workdir}" + (f"; or use {instead}" if instead else "")
    )
  if made["data"] != fingerprint:
    raise UserError(f"{folder} was trained on other data than this run's")
  values = _tuples(settings.stored(made["config"], folder))
  return Finished(folder, values, made["config_hash"], int(done["best_step"]), done["results"])


def require_same_network(workdir: Path, fingerprint: str, asked: Any) -> None:
  """Compares a command's config with that of the trained background route.

  Raises:
    UserError: the route is not trained; or other values of `data` or `background.net`.
  """
  there = finished(workdir, "background", fingerprint, instead="--background real").config
  now = {"data": asked.data.to_dict(), "net": asked.background.net.to_dict()}
  now["data"].pop("workers")
  changed = config.differences({"data": there["data"], "net": there["background"]["net"]}, now)
  if changed:
    raise UserError(
      f"{workdir} was trained with another config ({changed[0]}): give synthesize the same "
      "--config and --config.key=value as train"
    )


def background_of(workdir: Path, fingerprint: str, *, dtype: Any = None, batch: int = 1) -> Model:
  """HiResMed-VQGAN of the route `background`, with averaged weights where the run kept them.

  `dtype` is that of the convolutions; None: as the route's config says. `batch` as of `on_images`.

  Raises:
    UserError: it is not trained, or on other data than those of `fingerprint`.
  """
  run = finished(workdir, "background", fingerprint, instead="--background real")
  values, data = ConfigDict(run.config["background"]), ConfigDict(run.config["data"])
  view = transforms.View(
    size=tuple(data.size), fit=data.fit, window=data.window, channels=data.channels
  )
  size = (data.crop, data.crop) if data.crop else view.shape
  task = background.build(values, channels=view.channels, size=size, steps=1, steps_per_epoch=1)
  net, _ = background.networks(
    values, channels=view.channels, dtype=dtype or compute_dtype(values.dtype)
  )
  params = jax.device_get(background.averaged(_restored(task, run)))
  cosine = values.codebook.distance == "cosine"
  network = reconstruction(net, params, channels=view.channels, cosine=cosine, batch=batch)
  return Model(view, network, run.best_step, run.results)


def location_of(workdir: Path, fingerprint: str, *, dtype: Any = None) -> Model:
  """YOLO11 of the route `location`; else as `background_of`."""
  run = finished(workdir, "location", fingerprint, instead="--config.synthesize.prior=atlas")
  values, view = _padded_view(run, "location")
  dtype = dtype or compute_dtype(values.dtype)
  task = location.build(
    values, channels=view.channels, size=values.size, steps=1, steps_per_epoch=1, dtype=dtype
  )
  net = location.network(values, dtype=dtype)
  return _supervised(task, run, view, functools.partial(detection_scores, net))


def danger_of(workdir: Path, fingerprint: str, *, dtype: Any = None) -> Model:
  """U-Net of the route `danger`; else as `background_of`."""
  run = finished(workdir, "danger", fingerprint, instead="--config.synthesize.danger=off")
  values, view = _padded_view(run, "danger")
  dtype = dtype or compute_dtype(values.dtype)
  size = (values.crop, values.crop) if values.crop else view.shape
  task = danger.build(values, channels=view.channels, size=size, steps=1, dtype=dtype)
  net = danger.network(values, dtype=dtype)
  return _supervised(task, run, view, functools.partial(forbidden_chances, net))


def _supervised(
  task: Task, run: Finished, view: transforms.View, network: Callable[..., Network]
) -> Model:
  variables = jax.device_get(supervised.averaged(_restored(task, run)))
  return Model(view, network(variables, channels=view.channels), run.best_step, run.results)


def _padded_view(run: Finished, route: str) -> tuple[ConfigDict, transforms.View]:
  """(the route's values, its view)."""
  values, data = ConfigDict(run.config[route]), run.config["data"]
  view = transforms.View(
    size=values.size, fit="pad", window=data["window"], channels=data["channels"]
  )
  return values, view


def _restored(task: Task, run: Finished) -> Any:
  """The state of a finished run at its best step, on one device."""
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  one = mesh.make_mesh(data=1, devices=jax.local_devices()[:1])
  abstract = mesh.with_shardings(shapes, mesh.state_shardings(shapes, one))
  if task.select is None:
    raise ValueError(f"the route {task.name} keeps its best step")
  name, sign = task.select
  with checkpoint.open(
    run.folder / "checkpoints",
    keep=run.config[task.name]["keep_checkpoints"],
    best=name,
    best_mode="max" if sign > 0 else "min",
    writes=False,
  ) as manager:
    state, _, _ = checkpoint.restore(manager, abstract, step=run.best_step)
  return state


def _tuples(value: Any) -> Any:
  """JSON's lists as tuples, as configs have them."""
  if isinstance(value, dict):
    return {key: _tuples(one) for key, one in value.items()}
  return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def _noted(workdir: Path) -> dict[str, Any] | None:
  """What `note` wrote; None where it wrote nothing."""
  path, kinds = workdir / _DATA, {"root": str, "fingerprint": str}
  cure = "delete it, and the same train command writes it again"
  return files.read_json(path, kinds, cure=cure) if path.is_file() else None
