"""The records that a config trains on, and what makes a run this run and no other."""

import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import jax

from hiresmed_jax import files
from hiresmed_jax.data import phantom, records, transforms
from hiresmed_jax.data.identity import SPLITS
from hiresmed_jax.data.sample import Sample
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import settings
from hiresmed_jax.runtime import config as configs
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime import run_folder
from hiresmed_jax.runtime.progress import Progress

_LONGEST_DRAWING = 6 * 3600.0  # seconds


def open_or_draw(
  config: Any, data: pathlib.Path | None, workdir: pathlib.Path, *, overwrite: bool
) -> records.Dataset:
  """The prepared dataset of `data`, or the config's own phantoms, drawn where they are not yet.

  Raises:
    UserError: no data, data that are not prepared, other phantoms in the workdir.
  """
  made = config.data.phantom
  if not made.kind:
    if data is None:
      raise UserError(
        f"{config.name} needs images: --data FOLDER, made by "
        "`python -m hiresmed_jax.prepare --kind images --source YOUR_IMAGES --out FOLDER`"
      )
    return records.open_dataset(data)
  folder, name = workdir / "data", f"{made.kind} x {made.num}, {made.size} px, seed {made.seed}"
  diameter_mm = tuple(made.diameter_mm)
  if diameter_mm:
    name += ", lesions of {:g} to {:g} mm".format(*diameter_mm)
  there = records.open_dataset(folder) if folder.exists() else None
  if there and there.card["name"] != name and not overwrite:
    raise UserError(
      f"{folder} holds other phantoms ({there.card['name']}) than this config's ({name}): "
      "use another --workdir, or --overwrite"
    )
  meshes.wait_for_all("the phantoms are looked at")
  if jax.process_index() == 0 and (not there or there.card["name"] != name):
    # Another route's training, begun at the same time, may be drawing them.
    with files.locked(workdir / ".phantoms", refused=folder, patience=_LONGEST_DRAWING):
      if not folder.exists() or records.open_dataset(folder).card["name"] != name:
        drawn = phantom.phantoms(
          made.kind, made.num, made.size, seed=made.seed, diameter_mm=diameter_mm or None
        )
        with Progress(made.num, "phantoms", unit="image") as progress:
          samples = _samples(drawn, progress)
          records.write_dataset(samples, folder, kind="phantom", name=name, overwrite=overwrite)
  meshes.wait_for_all("the phantoms are drawn")
  return records.open_dataset(folder)


def _samples(drawn: Iterable[phantom.Phantom], progress: Progress) -> Iterator[Sample]:
  for one in drawn:
    yield one.sample
    progress.advance()


def view(data: Any) -> transforms.View:
  """How a network of this config sees a stored image."""
  return transforms.View(
    size=tuple(data.size), fit=data.fit, window=data.window, channels=data.channels
  )


def identity(
  config: Any,
  route: str,
  dataset: records.Dataset,
  folder: pathlib.Path,
  values: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """What a finished or resumed run must agree on. Devices and reading speed may change under it.

  The same run begun in `folder` by an older version keeps the identity that it has there, since its
  checkpoints hold that. Beside the seed, `values` count, by name; None: the route's part of the
  config, and how images are read.

  Returns:
    {"config": nested values, "config_hash", "data": fingerprint}.
  """
  if values is None:
    data = config.data.to_dict()
    data.pop("workers")
    values = {"data": data, route: config[route].to_dict()}
  whole = {"seed": config.seed, **values}
  made = run_folder.made_with(folder)
  if made and not configs.differences(settings.stored(made["config"], folder), whole):
    whole = made["config"]
  return {
    "config": whole,
    "config_hash": configs.hash_values(whole),
    "data": dataset.card["fingerprint"],
  }


def no_lesions(dataset: records.Dataset) -> str:
  """Why a route of lesions cannot be trained on a dataset; "" where it can."""
  return "" if dataset.card["boxes"] else "no lesions: prepare it with --boxes and --labels"


def sources(dataset: records.Dataset) -> dict[str, records.Records]:
  """The records of every split."""
  return {split: records.source(dataset, split) for split in SPLITS}


def check_counts(
  sources: Mapping[str, Sized], route: str, batch_size: int, *, root: pathlib.Path, what: str
) -> None:
  """Refuses splits that are too small: a batch to train on, an image to choose the weights by.

  Raises:
    UserError: too few.
  """
  for split, need in (("train", batch_size), ("val", 1)):
    count = len(sources[split])
    if count < need:
      raise UserError(
        f"{root} has {count} {split} {what} and this run needs {need}: prepare more images, name "
        f"their patients by --groups, or lower {route}.batch_size"
      )


def written_once(done: pathlib.Path, what: str, count: int, write: Callable[..., None]) -> None:
  """Lets the first process `write(advance=...)` unless `done` is there; all others wait for it."""
  meshes.wait_for_all(f"{what} are looked for")
  if jax.process_index() == 0 and not done.is_file():
    with Progress(count, what, unit="image") as progress:
      write(advance=progress.advance)
    done.parent.mkdir(parents=True, exist_ok=True)  # perhaps there was nothing to write
    done.touch()
  meshes.wait_for_all(f"{what} are there")


def feed(config: Any, batch_size: int) -> dict[str, Any]:
  """Arguments of every dataset of training batches: size, seed, workers, this process's share."""
  return {
    "batch_size": batch_size,
    "seed": config.seed,
    "workers": config.data.workers,
    "process_index": jax.process_index(),
    "process_count": jax.process_count(),
  }
