"""From a config to trained routes: each route's data, task and figures, handed to the loop."""

import functools
import pathlib
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from hiresmed_jax import loop, report
from hiresmed_jax.convert.features import load_perceptual
from hiresmed_jax.data import phantom, pipeline, records, transforms
from hiresmed_jax.data.sample import Sample
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import config as configs
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime import run_folder
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.tasks import background
from hiresmed_jax.tasks.checks import check_background
from hiresmed_jax.tasks.presets import ROUTES

_PLANNED = ("lesion", "location", "danger")


def train(
  config: Any, *, data: pathlib.Path | None, workdir: pathlib.Path, overwrite: bool = False
) -> dict[str, Any]:
  """Trains what config.route names, in order; a finished route is skipped.

  Args:
    config: from `runtime.config.load_config`.
    data: prepared dataset, or None where the config makes its own phantom.
    workdir: holds one folder a route.
    overwrite: remove an earlier run of these routes.

  Returns:
    {route: content of its DONE.json}.

  Raises:
    UserError: no data, a route that this version does not have, another run's folder.
  """
  if config.route in _PLANNED:
    raise UserError(
      f"route {config.route!r} is not in this version; it trains: {', '.join(ROUTES)}"
    )
  wanted = ROUTES if config.route == "all" else (config.route,)
  _check_workdir(workdir, wanted)
  _check_values(config)
  if overwrite:
    meshes.wait_for_all("before an earlier run is removed")
    for route in wanted if jax.process_index() == 0 else ():
      run_folder.clear(workdir / route)
    meshes.wait_for_all("an earlier run is removed")
  dataset = _dataset(config, data, workdir, overwrite=overwrite)
  results = {}
  for route in wanted:
    results[route] = {"background": train_background}[route](config, dataset, workdir / route)
  if config.route == "all" and jax.process_index() == 0:
    print(f"not in this version, and so not trained: {', '.join(_PLANNED)}")
  return results


def train_background(config: Any, dataset: records.Dataset, folder: pathlib.Path) -> dict[str, Any]:
  """Trains HiResMed-VQGAN on the dataset's training groups; picks by its validation groups."""
  values, crop = config.background, config.data.crop
  mesh = meshes.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
  view = _view(config.data)
  sources = {split: records.source(dataset, split) for split in ("train", "val", "test")}
  for split, need in (("train", values.batch_size), ("val", 1)):
    if len(sources[split]) < need:
      raise UserError(
        f"{dataset.root} has {len(sources[split])} {split} images and this run needs {need}: "
        "prepare more images, name their patients by --groups, or lower background.batch_size"
      )
  steps_per_epoch = max(1, len(sources["train"]) // values.batch_size)
  distance, weights = (None, None)
  if values.perceptual.net and values.perceptual.weight:
    # float32 whatever the network computes in: in bfloat16 the gradient's cosine with it was .94
    # (AlexNet) and .88 (SqueezeNet) on CT slices; VGG16 was not tried.
    # Its products are the device's own, TF32 where there is one.
    trunk = jnp.bfloat16 if values.perceptual.bfloat16 else jnp.float32
    distance, weights = load_perceptual(values.perceptual.net, dtype=trunk, precision=None)
  task = background.build(
    values,
    channels=config.data.channels,
    size=(crop, crop) if crop else view.shape,
    steps=values.steps or values.epochs * steps_per_epoch,
    steps_per_epoch=steps_per_epoch,
    dtype=compute_dtype(values.dtype),
    distance=distance,
    distance_params=weights,
  )
  train_data = pipeline.train_dataset(
    sources["train"],
    view=view,
    augmentation=config.data.augment.to_dict(),
    crop=crop,
    batch_size=values.batch_size,
    seed=config.seed,
    workers=config.data.workers,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )

  def held(split: str, limit: int | None) -> list[dict[str, Any]]:
    return list(
      pipeline.eval_batches(sources[split], view=view, batch_size=values.batch_size, limit=limit)
    )

  val_batches = held("val", values.eval_images)
  figures = folder / "figures"
  draw = functools.partial(report.draw_reconstructions, batches=val_batches, folder=figures)
  done = loop.fit(
    task,
    folder=folder,
    identity=identity(config, "background", dataset),
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
    draw=draw,
    finish=lambda state, programs: report.background(
      functools.partial(loop.evaluate, task, programs, state),
      train=held("train", values.eval_images),
      test=held("test", None),
      all_train=lambda: pipeline.eval_batches(
        sources["train"], view=view, batch_size=values.batch_size
      ),
      folder=folder,
    ),
  )
  if jax.process_index() == 0:
    report.print_background(done, folder)
  return done


def identity(config: Any, route: str, dataset: records.Dataset) -> dict[str, Any]:
  """What a finished or resumed run must agree on. Devices and reading speed may change under it."""
  data = config.data.to_dict()
  data.pop("workers")
  values = {"seed": config.seed, "data": data, route: config[route].to_dict()}
  return {
    "config": values,
    "config_hash": configs.hash_values(values),
    "data": dataset.card["fingerprint"],
  }


def compute_dtype(name: str) -> Any:
  """The dtype of the convolutions: "auto" is bfloat16 where the hardware has it, else float32.

  V100 and older GPUs have no bfloat16 units, and CPUs gain nothing.

  Raises:
    UserError: an unknown name.
  """
  if name == "auto":
    device = jax.devices()[0]
    if device.platform == "gpu":
      major = int(str(getattr(device, "compute_capability", "0")).split(".")[0])
      return jnp.bfloat16 if major >= 8 else jnp.float32
    return jnp.bfloat16 if device.platform == "tpu" else jnp.float32
  if name not in ("float32", "bfloat16"):
    raise UserError(f"background.dtype={name!r}: use 'auto', 'float32' or 'bfloat16'")
  return jnp.dtype(name)


def _dataset(
  config: Any, data: pathlib.Path | None, workdir: pathlib.Path, *, overwrite: bool
) -> records.Dataset:
  made = config.data.phantom
  if not made.kind:
    if data is None:
      raise UserError(
        f"{config.name} needs images: --data FOLDER, made by "
        "`python -m hiresmed_jax.prepare --kind images --source YOUR_IMAGES --out FOLDER`"
      )
    return records.open_dataset(data)
  if made.kind not in phantom.KINDS:
    raise UserError(f"data.phantom.kind={made.kind!r}: use {' or '.join(phantom.KINDS)}")
  if made.num < 1 or made.size < phantom.LEAST_SIDE:
    raise UserError(f"data.phantom: use num >= 1 and size >= {phantom.LEAST_SIDE}")
  folder, name = workdir / "data", f"{made.kind} x {made.num}, {made.size} px, seed {made.seed}"
  there = records.open_dataset(folder) if folder.exists() else None
  if there and there.card["name"] != name and not overwrite:
    raise UserError(
      f"{folder} holds other phantoms ({there.card['name']}) than this config's ({name}): "
      "use another --workdir, or --overwrite"
    )
  meshes.wait_for_all("the phantoms are looked at")
  if jax.process_index() == 0 and (not there or there.card["name"] != name):
    drawn = phantom.phantoms(made.kind, made.num, made.size, seed=made.seed)
    with Progress(made.num, "phantoms", unit="image") as progress:
      samples = _samples(drawn, progress)
      records.write_dataset(samples, folder, kind="phantom", name=name, overwrite=overwrite)
  meshes.wait_for_all("the phantoms are drawn")
  return records.open_dataset(folder)


def _samples(drawn: Iterable[phantom.Phantom], progress: Progress) -> Iterator[Sample]:
  for one in drawn:
    yield one.sample
    progress.advance()


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


def _check_values(config: Any) -> None:
  """What can be told before there are data: nothing is drawn, read or compiled in vain."""
  values, crop = config.background, config.data.crop
  view = _view(config.data)
  check_background(values, sizes=[view.shape, (crop, crop)] if crop else [view.shape])
  compute_dtype(values.dtype)
  mesh = meshes.make_mesh(data=config.mesh.data, fsdp=config.mesh.fsdp)
  if values.batch_size % mesh.size:
    raise UserError(
      f"background.batch_size={values.batch_size} cannot be split over {mesh.size} devices: "
      f"use a multiple of {mesh.size}"
    )


def _view(data: Any) -> transforms.View:
  size = tuple(data.size)
  if len(size) != 2:
    raise UserError(f"data.size={size}: use (rows, columns)")
  return transforms.View(size=size, fit=data.fit, window=data.window, channels=data.channels)
