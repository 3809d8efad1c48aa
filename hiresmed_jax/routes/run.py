"""From a config to trained routes, one after another, in one workdir."""

import contextlib
import os
import pathlib
import shlex
from typing import Any

import jax

from hiresmed_jax import files, routes
from hiresmed_jax.convert import features
from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import contents, survey
from hiresmed_jax.inference import workdir as workdirs
from hiresmed_jax.routes import settings
from hiresmed_jax.routes.dataset import open_or_draw
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime import run_folder


def train(
  config: Any, *, data: pathlib.Path | None, workdir: pathlib.Path, overwrite: bool = False
) -> dict[str, Any]:
  """Trains what config.route names, in order, each in its folder of `workdir`.

  A finished route is skipped. `data` is None where the config makes its own phantom; `overwrite`
  removes an earlier run of these routes.

  Returns:
    {route: content of its DONE.json}.

  Raises:
    UserError: no weights of the perceptual network, no data, another run's folder, or one that
      another process holds.
  """
  wanted = settings.wanted(config)
  settings.check(config, wanted, devices=jax.device_count())
  _check_workdir(workdir, wanted)
  if config.data.phantom.kind:  # to be drawn, which takes minutes
    _need_weights(config, wanted)
  # Other routes may be trained there at the same time, but not while a run is removed.
  with _held(workdir, shared=not overwrite):
    mesh = meshes.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
    dataset = open_or_draw(config, data, workdir, overwrite=overwrite)
    _need_weights(config, wanted)
    reasons = {route: _module(route).skip(config, dataset) for route in wanted}
    if config.route != "all" and (reason := reasons[config.route]):
      raise UserError(f"{dataset.root} has {reason}")
    if overwrite:  # now that nothing is missing
      meshes.wait_for_all("before an earlier run is removed")
      for route in wanted if jax.process_index() == 0 else ():
        run_folder.clear(workdir / route)
      meshes.wait_for_all("an earlier run is removed")
    results = {}
    for route in wanted:
      if reason := reasons[route]:
        if jax.process_index() == 0:
          print(f"the route {route} is left out: {dataset.root} has {reason}")
        continue
      with _held(workdir / route):
        results[route] = _module(route).train(config, dataset, workdir / route, mesh)
      if route in routes.ROUTES:
        _note(config, dataset, workdir)
  return results


def _need_weights(config: Any, wanted: tuple[str, ...]) -> None:
  """Raises UserError where the perceptual loss has no weights; nothing is read of the images."""
  perceptual = config.background.perceptual
  if "background" in wanted and perceptual.net and perceptual.weight:
    without = "train without it: --config.background.perceptual.net=None"
    features.need(perceptual.net, instead=without)


def _held(folder: pathlib.Path, *, shared: bool = False) -> contextlib.AbstractContextManager[None]:
  """Held by the first process, for all of the run."""
  first = jax.process_index() == 0
  return files.locked(folder, shared=shared) if first else contextlib.nullcontext()


def _module(route: str) -> Any:
  """The train.py of a route: `skip` and `train`."""
  return routes.module(route, "train")


def _note(config: Any, dataset: records.Dataset, workdir: pathlib.Path) -> None:
  """Writes what the other commands need beside the routes, so that a workdir can be moved."""
  if jax.process_index() == 0:
    workdirs.note(workdir, dataset, config.synthesize.to_dict())
    contents.of_run(workdir, dataset, workers=os.cpu_count() or 1)
    if dataset.card["audit"]["groups"]["splits"]["train"]["boxes"]:
      survey.load_or_make(dataset, workdir, workers=os.cpu_count() or 1)


def _check_workdir(workdir: pathlib.Path, wanted: tuple[str, ...]) -> None:
  """A dataset, or some other program's folder, is not a workdir."""
  if (workdir / "card.json").is_file():
    raise UserError(f"{workdir} is a dataset, not a workdir: --data {shlex.quote(str(workdir))}")
  for path in (workdir, *workdir.parents):
    if path.is_file():
      raise UserError(f"{path} is a file: --workdir takes a folder")
  if (workdir / "config.json").is_file():
    raise UserError(
      f"{workdir} is the folder of one route ({wanted[0]} would go below it): "
      f"use --workdir {shlex.quote(str(workdir.parent))}"
    )
