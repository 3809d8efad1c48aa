"""Route `lesion`: a bank of SinGANs, one for each lesion of the training split."""

import functools
import operator
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import survey
from hiresmed_jax.lesions import bank
from hiresmed_jax.lesions.patch import LesionPatch, spread
from hiresmed_jax.lesions.sampling import Generators
from hiresmed_jax.ops.pyramid import lesion_pyramid
from hiresmed_jax.routes import loop
from hiresmed_jax.routes.dataset import identity, no_lesions
from hiresmed_jax.routes.lesion import report
from hiresmed_jax.routes.lesion import task as lesion
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype


def skip(config: Any, dataset: records.Dataset) -> str:
  """Why the route cannot be trained on these data; "" where it can."""
  del config
  return no_lesions(dataset)


def train(
  config: Any, dataset: records.Dataset, folder: pathlib.Path, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Trains the bank and writes it to `folder`/bank.

  Raises:
    UserError: the training split has no lesion that can be used; see also `loop.fit`.
  """
  values = resolved(config.lesion, jax.default_backend())
  found = survey.load_or_make(dataset, folder.parent)
  patches = chosen(found.patches, values)
  if not patches:
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.skipped.items())
    raise UserError(
      f"{dataset.root} has no training lesion that can be used ({reasons or 'there are none'})"
    )
  by_side = _by_side(patches)
  crops, weights = _arrays(list(by_side.values()), mesh.size)
  task = lesion.build(
    values,
    crops,
    weights,
    steps=values.steps,
    steps_per_call=values.steps_per_call,
    mesh=mesh,
    at_once=values.at_once,
    dtype=compute_dtype(values.dtype),
  )
  facts = {
    "windows": {str(side): len(group) for side, group in by_side.items()},
    "skipped": dict(found.skipped),
    "steps": values.steps,
  }

  def finish(state: Any, _: Any) -> dict[str, Any]:
    # On every device whole: the bank is small, and all processes take part.
    whole = jax.jit(lesion.finished, out_shardings=meshes.replicated(mesh))(state)
    if jax.process_index():
      return facts
    groups = _groups(jax.device_get(whole), list(by_side.values()), values.min_size)
    bank.save(folder / "bank", groups, start=values.start)
    opened = bank.load(folder / "bank")
    report.draw_samples(opened, patches, folder / "figures" / "samples.png", seed=config.seed)
    return facts | report.measure(opened, patches, seed=config.seed)

  done = loop.fit(
    task,
    folder=folder,
    identity=identity(config, "lesion", dataset, folder, {"lesion": values.to_dict()}),
    seed=config.seed,
    mesh=mesh,
    cadence=loop.Cadence(
      values.log_every, values.save_every, values.keep_checkpoints, values.max_skipped
    ),
    examples=report.ROWS,
    draw=functools.partial(report.draw_level, folder=folder / "figures"),
    finish=finish,
  )
  if jax.process_index() == 0:
    report.print_results(done, folder)
  return done


def chosen(patches: Sequence[LesionPatch], values: Any) -> list[LesionPatch]:
  """Those of a training split's lesions that a bank is trained on, small windows first.

  Args:
    patches: of `survey.Survey`.
    values: of `routes.lesion.settings`.
  """
  fitting = [patch for patch in patches if patch.alpha.shape[0] in values.sides]
  return sorted(spread(fitting, values.limit), key=lambda patch: patch.alpha.shape[0])


def resolved(values: Any, backend: str) -> Any:
  """The values of `routes.lesion.settings`, those of this backend in the place of the general ones.

  A CPU makes fewer steps, one lesion after the other; a run that is begun on one kind of device
  goes on only there.
  """
  own = values.copy_and_resolve_references().unlock()
  on_cpu = backend == "cpu"
  for name in ("steps", "steps_per_call"):
    if on_cpu:
      own[name] = own[f"cpu_{name}"]
    del own[f"cpu_{name}"]
  if on_cpu and not own.at_once:
    own.at_once = 1
  return own.lock()


def _by_side(patches: Sequence[LesionPatch]) -> dict[int, list[LesionPatch]]:
  groups: dict[int, list[LesionPatch]] = {}
  for patch in patches:
    groups.setdefault(patch.alpha.shape[0], []).append(patch)
  return groups


def _arrays(
  groups: Sequence[Sequence[LesionPatch]], devices: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """(windows f32[L, S, S, C + 1], weights f32[L]) of each size; the devices divide every L."""
  crops, weights = [], []
  for group in groups:
    fill = -len(group) % devices
    images = np.stack([bank.training_image(patch) for patch in group])
    crops.append(np.concatenate([images, np.repeat(images[-1:], fill, axis=0)]))
    weights.append(np.concatenate([np.ones(len(group)), np.zeros(fill)]).astype(np.float32))
  return crops, weights


def _groups(
  finished: Sequence[Any], members: Sequence[Sequence[LesionPatch]], min_size: float
) -> list[bank.Group]:
  """The bank of what was trained, without what only filled the devices up."""
  groups = []
  for trained, own in zip(finished, members, strict=True):
    first = operator.itemgetter(slice(len(own)))
    levels, amplitudes, fixed = jax.tree.map(first, trained)
    groups.append(
      bank.Group(
        tuple(bank.member_of(patch) for patch in own),
        Generators(levels, amplitudes, fixed),
        lesion_pyramid(own[0].alpha.shape[0], min_size=min_size),
      )
    )
  return groups
