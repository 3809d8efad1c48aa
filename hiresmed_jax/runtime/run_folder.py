"""The folder of one run: whose it is, and whether the run in it is finished."""

import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
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
  return _read_json(path, ("config", "data")) if path.is_file() else None


def claim(folder: pathlib.Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
  """Makes the folder this run's. Returns DONE.json's content when the run is already finished.

  Args:
    folder: <workdir>/<route>.
    identity: "config" (nested values), "config_hash" and "data" (fingerprint) of the run.

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
    done = folder / "DONE.json"
    return _read_json(done, ("best_step", "results")) if done.is_file() else None
  if folder.is_dir() and any(folder.iterdir()):
    raise UserError(
      f"{folder} is not empty and holds no run of this program: use another --workdir"
    )
  return None


def _read_json(path: pathlib.Path, keys: Sequence[str]) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text())
    return {key: content[key] for key in keys} | content
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is damaged, or no file of this program") from error
