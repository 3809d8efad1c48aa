"""Checkpoints of a run: its arrays, its place in the data, and what it was made with.

The only module that knows orbax. Saves run in the background; a checkpoint counts once it is
whole, so a run killed while saving goes on from the one before.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import logging
import math
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as preserve

from hiresmed_jax import files
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime.mesh import wait_for_all

Manager: TypeAlias = ocp.CheckpointManager
_REPLACED = ".replaced"  # folder of a checkpoint in whose place another is being written


@contextlib.contextmanager
def open(
  directory: str | os.PathLike[str],
  *,
  keep: int = 3,
  best: str | None = None,
  best_mode: Literal["min", "max"] = "max",
  writes: bool = True,
) -> Iterator[Manager]:
  """Opens, or makes, a directory of checkpoints. On leaving, all that was saved is on the disk.

  The manager's `latest_step()` and `best_step()` are None while there is no such checkpoint.

  Args:
    directory: the route's `checkpoints` folder.
    keep: how many of the latest stay.
    best: name of the metric whose best checkpoint stays besides.
    best_mode: whether the largest or the smallest value is best.
    writes: False for a reader, which leaves the directory to the run that may be writing there.

  Raises:
    UserError: a checkpoint's metrics are damaged; on leaving, when the last save could not be
      written: older checkpoints are whole.
  """
  _hush_orbax()
  latest, value = preserve.LatestN(keep), None
  policy: preserve.PreservationPolicy = latest
  if best is not None:
    value = lambda metrics: metrics[best]  # noqa: E731
    ranked = preserve.BestN(
      get_metric_fn=value,
      reverse=best_mode == "min",
      n=1,
      keep_checkpoints_without_metrics=False,
    )
    policy = preserve.AnyPreservationPolicy([latest, ranked])
  directory = pathlib.Path(directory).absolute()
  for path in sorted(directory.glob("[0-9]*/metrics/metrics")):  # the manager reads all of them
    files.read_json(path, {}, cure=_delete(path.parents[1]))
  options = ocp.CheckpointManagerOptions(
    preservation_policy=policy,
    best_fn=value,
    best_mode=best_mode,
    read_only=not writes,  # nor makes the directory, nor cleans it up
    cleanup_tmp_directories=True,
    # Before a checkpoint gets its name, so that every whole one has digests.
    async_options=ocp.AsyncOptions(post_finalization_callback=lambda: _write_digests(directory)),
  )
  manager = Manager(directory, options=options)
  if writes:
    _put_in_order(manager)
  try:
    yield manager
  finally:
    with _one_line_of_failure(manager):
      manager.close()


def save(
  manager: Manager,
  step: int,
  state: Any,
  *,
  data_state: Any = None,
  metadata: Mapping[str, Any] | None = None,
  metrics: Mapping[str, float] | None = None,
  replace: bool = False,
) -> None:
  """Saves in the background; `state` may be donated as soon as this returns.

  Args:
    manager: from `open`.
    step: number of the checkpoint; one that exists is left as it is, unless `replace`.
    state: pytree of arrays, typed keys included.
    data_state: the data iterator's state, JSON or bytes, the same on every process.
    metadata: JSON that says what made it, such as the route and the hash of the config.
    metrics: values at this step, among them `best`; without a finite one it is never the best.
    replace: whether one of this step that exists is replaced; then this returns when it is.

  Raises:
    UserError: this checkpoint, or the one before it, could not be written: the disk is full, say.
      Older checkpoints are whole.
  """
  old = step in manager.all_steps()
  if old and not replace:
    return
  if isinstance(data_state, bytes):
    data_state = {"base64": base64.b64encode(data_state).decode()}
  about = {"metadata": dict(metadata or {}), "data": data_state, "tree": _outline(state)}
  args = ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about))
  finite = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)}
  needed, free = _size_bytes(state), shutil.disk_usage(manager.directory).free
  if needed > free:
    raise _unwritten(manager, f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB left on the disk")
  with _one_line_of_failure(manager):
    if old:
      manager.wait_until_finished()
      _move(manager, f"{step}", f"{step}{_REPLACED}")
    manager.save(step, args=args, metrics=finite or None, force=True)
    if old:
      manager.wait_until_finished()
      _put_in_order(manager)


def _write_digests(directory: pathlib.Path) -> None:
  """Of the checkpoint that is being written, the only one without its name."""
  for folder in directory.glob("*.orbax-checkpoint-tmp*") if jax.process_index() == 0 else ():
    # orbax still writes files beside these folders.
    found = (path for path in folder.glob("*/**/*") if path.is_file())
    files.write_digests(folder, (path.relative_to(folder).as_posix() for path in found))


def _move(manager: Manager, name: str, to: str) -> None:
  """Renames a checkpoint's folder, by the first process."""
  if jax.process_index() == 0:
    pathlib.Path(manager.directory, name).rename(pathlib.Path(manager.directory, to))
  wait_for_all(f"{name} is {to}")
  manager.reload()


def _put_in_order(manager: Manager) -> None:
  """Removes checkpoints that were replaced; those that were not, as the run was killed, stay."""
  found = sorted(pathlib.Path(manager.directory).glob(f"*{_REPLACED}"))
  wait_for_all("replaced checkpoints are looked for")  # all find the same
  for folder in found:
    step = folder.name.removesuffix(_REPLACED)
    if int(step) not in manager.all_steps():
      _move(manager, folder.name, step)
    elif jax.process_index() == 0:
      shutil.rmtree(folder)


def _delete(folder: pathlib.Path) -> str:
  return f"delete the folder {folder} to go on from an earlier checkpoint"


def wait(manager: Manager) -> None:
  """Returns when what was saved is on the disk. Raises UserError when it could not be written."""
  with _one_line_of_failure(manager):
    manager.wait_until_finished()


def metadata(manager: Manager, step: int) -> dict[str, Any]:
  """What a checkpoint was saved with.

  Raises:
    UserError: it cannot be read.
  """
  return dict(_about(manager, step)["metadata"])


def restore(
  manager: Manager,
  abstract_state: Any,
  *,
  step: int | None = None,
  expect: Mapping[str, Any] | None = None,
) -> tuple[Any, Any, dict[str, Any]]:
  """Restores on any number of devices, whatever number the checkpoint was made on.

  Args:
    manager: from `open`.
    abstract_state: pytree of `jax.ShapeDtypeStruct` with shardings (`mesh.with_shardings`).
    step: which checkpoint, the latest by default.
    expect: entries that the checkpoint's metadata must have.

  Returns:
    (state, data_state, metadata), as they were saved.

  Raises:
    UserError: no checkpoint, an unreadable one, or one that another config made.
  """
  step = manager.latest_step() if step is None else step
  if step not in manager.all_steps():
    which = "" if step is None else f"of step {step} "
    raise UserError(f"no checkpoint {which}in {manager.directory}")
  folder = pathlib.Path(manager.directory, str(step))
  if jax.process_index() == 0 and folder.is_dir():
    files.check_digests(folder, _delete(folder))
  about = _about(manager, step)
  data_state, metadata, outline = about["data"], about["metadata"], about["tree"]
  here = dict.fromkeys(outline, "missing") | _outline(abstract_state)
  difference = _difference(metadata, expect or {}) or _difference(outline, here)
  if difference:
    raise UserError(
      f"the checkpoints in {manager.directory} were made by another config ({difference}): "
      "use another --workdir, or the config they were made with (SinGANs: and as many devices)"
    )
  args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
  try:
    state = manager.restore(step, args=args).state
  except (ValueError, OSError) as error:
    raise _damaged(manager, step) from error
  if isinstance(data_state, dict) and set(data_state) == {"base64"}:
    data_state = base64.b64decode(data_state["base64"])
  return state, data_state, metadata


def _about(manager: Manager, step: int) -> dict[str, Any]:
  try:
    about = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
    return {key: about[key] for key in ("data", "metadata", "tree")}
  except (KeyError, TypeError, ValueError, OSError) as error:
    raise _damaged(manager, step) from error


def _damaged(manager: Manager, step: int) -> UserError:
  return UserError(
    f"{manager.directory}/{step} is damaged, or not a whole checkpoint of hiresmed_jax: delete "
    "that folder to go on from an earlier checkpoint"
  )


def _outline(tree: Any) -> dict[str, str]:
  """Name -> dtype[shape] of every leaf."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype}{list(x.shape)}"
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
  names = [name for name in here if there.get(name) != here[name]]
  if not names:
    return ""
  more = f", and {len(names) - 1} more" if len(names) > 1 else ""
  return f"{names[0]} is {there.get(names[0], 'missing')} there, {here[names[0]]} here{more}"


def _size_bytes(state: Any) -> int:
  # A random key has no itemsize, and is a few bytes.
  return sum(x.size * getattr(x.dtype, "itemsize", 8) for x in jax.tree.leaves(state))


@contextlib.contextmanager
def _one_line_of_failure(manager: Manager) -> Iterator[None]:
  try:
    yield
  except (OSError, ValueError) as error:
    # The operating system's own words, out of what the storage library wraps them in.
    said = re.search(r"([^:\n]+) \[os_error_code=", str(error))
    reason = said.group(1).strip() if said else getattr(error, "strerror", None)
    if not reason:
      raise
    raise _unwritten(manager, reason) from error


def _unwritten(manager: Manager, reason: str) -> UserError:
  return UserError(
    f"cannot write a checkpoint in {manager.directory}: {reason}. Older checkpoints are whole: "
    "mend that, and the same command goes on from the latest"
  )


@functools.cache
def _hush_orbax() -> None:
  """What a user must know is raised; the libraries' own tracebacks are not for the terminal."""

  def from_elsewhere(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname

  def hook(unraisable: Any) -> None:
    # When one array fails, orbax closes the event loop on which the others are still to report.
    if str(unraisable.exc_value) != "Event loop is closed":
      previous(unraisable)

  logging.getLogger("absl").addFilter(from_elsewhere)
  previous, sys.unraisablehook = sys.unraisablehook, hook
