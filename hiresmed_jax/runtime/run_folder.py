"""The folder of one run: whose it is, its metrics, whether it is finished."""

import contextlib
import importlib.util
import json
import logging
import math
import os
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

import jax

from hiresmed_jax import files
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.config import differences


def made_with(folder: pathlib.Path) -> dict[str, Any] | None:
  """What `claim` wrote when the run in a folder was begun; None where there is no run.

  Raises:
    UserError: the file is damaged.
  """
  path = folder / "config.json"
  kinds = {"config": dict, "config_hash": str, "data": str}
  return files.read_json(path, kinds) if path.is_file() else None


def done_with(folder: pathlib.Path) -> dict[str, Any] | None:
  """Content of DONE.json; None where the run is not finished.

  Raises:
    UserError: the file is damaged.
  """
  path = folder / "DONE.json"
  kinds = {"best_step": int, "results": dict}
  cure = "delete it, and the same train command writes it again"
  return files.read_json(path, kinds, cure=cure) if path.is_file() else None


def claim(folder: pathlib.Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
  """Makes the folder this run's. Returns DONE.json's content when the run is already finished.

  `identity` holds "config" (nested values), "config_hash" and "data" (fingerprint) of the run.

  Raises:
    UserError: the folder holds a run of another config or of other data, or cannot be written to.
  """
  done = _look(folder, identity)
  meshes.wait_for_all(f"{folder} is looked at")  # before any process writes there
  if jax.process_index() == 0 and not (folder / "config.json").exists():
    files.write_json(folder / "config.json", identity, sort_keys=True)
  meshes.wait_for_all(f"{folder} is claimed")
  return done


def write_done(
  folder: pathlib.Path, identity: Mapping[str, Any], best: int, results: Mapping[str, Any]
) -> dict[str, Any]:
  """Writes DONE.json, which says that the run is finished, and returns what it holds."""
  done = {"best_step": best, "data": identity["data"], "config_hash": identity["config_hash"]}
  done["results"] = dict(results)
  if jax.process_index() == 0:
    files.write_json(folder / "DONE.json", done, sort_keys=True)
  return done


def clear(folder: pathlib.Path) -> None:
  """Removes an earlier run, for --overwrite; refuses what no run of ours made."""
  if not folder.exists():
    return
  if not made_with(folder):  # raises where it is another program's file of that name
    raise UserError(f"{folder} holds no run of this program: nothing was removed")
  # What is killed meanwhile leaves no finished run, and one that can be removed.
  (folder / "DONE.json").unlink(missing_ok=True)
  for path in folder.iterdir():
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path)
    elif path.name != "config.json":
      path.unlink()
  shutil.rmtree(folder)


def _look(folder: pathlib.Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
  """DONE.json's content, None where the run has still to be made; raises where it must not be."""
  remedy = "use another --workdir, or --overwrite to train anew"
  there = made_with(folder)
  if there:
    changed = differences(there["config"], identity["config"])
    if changed:
      more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
      raise UserError(f"{folder} holds a run of another config ({changed[0]}{more}): {remedy}")
    if there["data"] != identity["data"]:
      raise UserError(f"{folder} holds a run on other data: {remedy}")
    return done_with(folder)
  if folder.is_dir() and any(folder.iterdir()):
    raise UserError(
      f"{folder} is not empty and holds no run of this program: use another --workdir"
    )
  return None


_MOST_BYTES = 1 << 32  # of a metrics.jsonl
_log = logging.getLogger("hiresmed_jax")


class Writer:
  """Writes scalars as clu's writers do, on process 0 only.

  metrics.jsonl gets one object a line: "step", "time" (seconds since 1970) and the values. A value
  that is no number in JSON is written as "NaN", "Infinity" or "-Infinity", which `float` reads
  back. folder/tensorboard gets the same where TensorFlow is installed: clu's own writers cannot be
  imported without it.

  Args:
    folder: <workdir>/<route>.
  """

  def __init__(self, folder: str | os.PathLike[str]) -> None:
    self._folder = pathlib.Path(folder)
    self._writes = jax.process_index() == 0
    if not self._writes:
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    # Line by line, so that a kill loses no line that was written.
    self._file = open(self._folder / "metrics.jsonl", "a", encoding="utf-8", buffering=1)  # noqa: SIM115
    self._board = _tensorboard(self._folder / "tensorboard")

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Adds one line. Values are anything that `float` takes."""
    if not self._writes:
      return
    values = {name: float(value) for name, value in scalars.items()}
    line: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
    line |= {name: v if math.isfinite(v) else _spelled(v) for name, v in values.items()}
    self._file.write(json.dumps(line, allow_nan=False) + "\n")
    _log.info("step %d: %s", step, ", ".join(f"{name} {v:.5g}" for name, v in values.items()))
    if self._board is not None:
      self._board.write_scalars(step, values)

  def flush(self) -> None:
    """Puts everything on the disk."""
    if not self._writes:
      return
    self._file.flush()
    os.fsync(self._file.fileno())
    if self._board is not None:
      self._board.flush()

  def close(self) -> None:
    """Flushes and ends. Nothing may be written afterwards."""
    if not self._writes:
      return
    self.flush()
    self._file.close()
    if self._board is not None:
      self._board.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Lines of a metrics.jsonl, "NaN" and the like as floats again; broken lines are left out."""
  path = pathlib.Path(path)
  lines = files.content(path, _MOST_BYTES).splitlines() if path.is_file() else []
  found = []
  for entry in filter(None, map(_parse, lines)):
    with contextlib.suppress(ValueError, TypeError):
      found.append({k: float(v) for k, v in entry.items()} | {"step": entry["step"]})
  return found


def truncate_metrics(path: str | os.PathLike[str], step: int) -> None:
  """Cuts a metrics.jsonl back to the lines of steps <= `step`, before a run goes on from there.

  A last line that a kill left half-written goes too. Kept lines stay as they are, byte for byte. A
  missing file stays missing. Only process 0 writes.
  """
  path = pathlib.Path(path)
  if jax.process_index() != 0 or not path.is_file():
    return
  kept = []
  for line in path.read_bytes().splitlines(keepends=True):
    entry = _parse(line)
    if entry is not None and entry["step"] <= step and line.endswith(b"\n"):
      kept.append(line)
  files.write(path, b"".join(kept))


def _parse(line: bytes) -> dict[str, Any] | None:
  try:
    entry = json.loads(line)
  except (ValueError, RecursionError):  # not JSON, or not text
    return None
  return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _spelled(value: float) -> str:
  if math.isnan(value):
    return "NaN"
  return "Infinity" if value > 0 else "-Infinity"


def _tensorboard(folder: pathlib.Path) -> Any:
  """clu's TensorBoard writer; None without TensorFlow, for `clu.metric_writers` imports it."""
  if importlib.util.find_spec("tensorflow") is None:
    return None
  import tensorflow as tf
  from clu import metric_writers

  # Left to itself TensorFlow takes all memory of the GPU that jax is about to use.
  tf.config.set_visible_devices([], "GPU")
  return metric_writers.SummaryWriter(str(folder))
