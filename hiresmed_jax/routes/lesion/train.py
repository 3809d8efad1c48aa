"""Route `lesion`: a bank of SinGANs, one for each lesion of the training split."""

import functools
import operator
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import survey
from hiresmed_jax.lesions import bank
from hiresmed_jax.lesions.patch import LesionPatch, spread
from hiresmed_jax.lesions.sampling import Generators
from hiresmed_jax.routes import loop
from hiresmed_jax.routes import singan_task as lesion
from hiresmed_jax.routes.dataset import identity, no_lesions
from hiresmed_jax.routes.lesion import report
from hiresmed_jax.runtime import config as configs
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype


class Part(NamedTuple):
  """Lesions whose SinGANs are trained together.

  Attributes:
    config: of the run.
    dataset: whose lesions they are.
    values: of `resolved`.
    mesh: of all devices.
    patches: the lesions, small windows first.
    folder: of the training.
    seed: of its first state.
  """

  config: Any
  dataset: records.Dataset
  values: Any
  mesh: jax.sharding.Mesh
  patches: Sequence[LesionPatch]
  folder: pathlib.Path
  seed: int


def skip(config: Any, dataset: records.Dataset) -> str:
  """Why the route cannot be trained on these data; "" where it can."""
  del config
  return no_lesions(dataset)


def train(
  config: Any, dataset: records.Dataset, folder: pathlib.Path, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Trains the bank and writes it to `folder`/bank.

  Members of whose samples fewer than `least_accepted` are lesions are trained again from other
  seeds. Those that stay so are left out.

  Raises:
    UserError: the training split has no lesion that can be used, or no member is left; see also
      `loop.fit`.
  """
  values = resolved(config.lesion, jax.default_backend())
  found = survey.load_or_make(dataset, folder.parent)
  patches = chosen(found.patches, values)
  if not patches:
    reasons = ", ".join(f"{count} {reason}" for reason, count in found.skipped.items())
    raise UserError(
      f"{dataset.root} has no training lesion that can be used ({reasons or 'there are none'})"
    )
  part = Part(config, dataset, values, mesh, patches, folder, config.seed)

  def finish(state: Any) -> dict[str, Any]:
    groups = _measured(part, state)
    again = 0
    for turn in range(1, values.trainings):
      weak = _weak(groups, values.least_accepted)
      if not weak:
        break
      again = max(again, len(weak))
      groups = _trained_again(part, groups, weak, turn)
    weak = _weak(groups, values.least_accepted)
    left_out = [member for number, member in enumerate(_members(groups)) if number in weak]
    if len(weak) == len(patches):
      raise UserError(
        f"no SinGAN of {len(patches)} gives lesions: at most "
        f"{max(member.accepted for member in left_out):.0%} of the samples of one pass the test of "
        f"shape, after {values.trainings} trainings: train longer (lesion.steps, on a CPU "
        "lesion.cpu_steps), keep the coarse layout (lesion.start=1), or leave this route out and "
        "use --lesion-source copy"
      )
    groups = [kept for group in groups if (kept := _without(group, values.least_accepted)).members]
    facts = {
      "windows": {str(group.pyramid.sizes[-1][0]): len(group.members) for group in groups},
      "skipped": dict(found.skipped),
      "steps": values.steps,
      "trained_again": again,
      "left_out": len(left_out),
    }
    if jax.process_index():
      return facts
    bank.save(folder / "bank", groups, start=values.start, left_out=left_out)
    opened = bank.load(folder / "bank")
    own = [patch for number, patch in enumerate(patches) if number not in weak]
    report.draw_samples(opened, own, folder / "figures" / "samples.png", seed=config.seed)
    return facts | report.measure(opened, own, seed=config.seed)

  done = _fit(part, finish)
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
  least = values.least_overlap
  if least and 0 < values.limit < len(fitting):
    seen = [p for p in fitting if bank.seen_overlap(p.values.mean(-1), p.mask) >= least]
    fitting = seen if len(seen) >= values.limit else fitting
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


def _fit(part: Part, finish: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
  """Trains the SinGANs of a part; `finish` gets the last state. Returns what DONE.json holds."""
  values, folder, mesh = part.values, part.folder, part.mesh
  crops, weights = _arrays(list(_by_side(part.patches).values()), mesh.size)
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
  counted = {"seed": part.seed, "lesion": values.to_dict()}
  return loop.fit(
    task,
    folder=folder,
    identity=identity(part.config, "lesion", part.dataset, folder, counted),
    seed=part.seed,
    mesh=mesh,
    cadence=loop.Cadence(
      values.log_every, values.save_every, values.keep_checkpoints, values.max_skipped
    ),
    examples=report.ROWS,
    draw=functools.partial(report.draw_level, folder=folder / "figures"),
    finish=lambda state, _: finish(state),
  )


def _measured(part: Part, state: Any) -> list[bank.Group]:
  """The bank of a trained state, of each member the share of samples that are lesions.

  All processes take part and get the same; the first one draws the samples.
  """
  values = part.values
  # On every device whole: the bank is small.
  whole = jax.jit(lesion.finished, out_shardings=meshes.replicated(part.mesh))(state)
  groups = _groups(jax.device_get(whole), list(_by_side(part.patches).values()), values)
  shares = np.zeros(0, np.float32)
  if jax.process_index() == 0:
    opened = bank.Bank(
      [group._replace(generators=jax.device_put(group.generators)) for group in groups],
      start=values.start,
    )
    shares = report.accepted(opened, seed=part.seed)
  every = iter(meshes.gather(shares))
  return [
    group._replace(members=tuple(m._replace(accepted=float(next(every))) for m in group.members))
    for group in groups
  ]


def _members(groups: Sequence[bank.Group]) -> list[bank.Member]:
  return [member for group in groups for member in group.members]


def _weak(groups: Sequence[bank.Group], least: float) -> set[int]:
  """Numbers of the members of whose samples too few are lesions."""
  return {number for number, one in enumerate(_members(groups)) if one.accepted < least}


def _trained_again(
  part: Part, groups: Sequence[bank.Group], weak: set[int], turn: int
) -> list[bank.Group]:
  """The bank with weak members trained anew from another seed, where that made them better.

  It is a run of its own in a folder of its own, so that it goes on where it was stopped.
  """
  patches = [patch for number, patch in enumerate(part.patches) if number in weak]
  if jax.process_index() == 0:
    print(
      f"of {len(patches)} of {len(part.patches)} lesions too few samples pass the test of shape: "
      f"their SinGANs are trained again from another seed ({turn} of {part.values.trainings - 1})"
    )
  whose = configs.hash_values({"lesions": sorted(weak)})[:8]
  seed = int(np.random.SeedSequence([part.seed, turn]).generate_state(1)[0])
  again = part._replace(
    patches=patches, folder=part.folder / "again" / f"{turn}-{whose}", seed=seed
  )

  def finish(state: Any) -> dict[str, Any]:
    made = _measured(again, state)
    if jax.process_index() == 0:
      bank.save(again.folder / "bank", made, start=part.values.start)
    return {"lesions": len(patches)}

  _fit(again, finish)
  meshes.wait_for_all(f"lesions are trained again, {turn}")
  retrained = iter(bank.load(again.folder / "bank").groups)
  least = part.values.least_accepted
  return [_improved(group, retrained, least) if _weak([group], least) else group
          for group in groups]  # fmt: skip


def _improved(group: bank.Group, retrained: Iterator[bank.Group], least: float) -> bank.Group:
  """A group with the next of the retrained ones in the place of its weak members."""
  new, places = next(retrained), sorted(_weak([group], least))
  pairs = [
    (old, number)
    for number, old in enumerate(places)
    if new.members[number].accepted > group.members[old].accepted
  ]
  members = list(group.members)
  for old, number in pairs:
    members[old] = new.members[number]

  def replaced(before: Any, after: Any) -> np.ndarray:
    whole = np.array(before)
    for old, number in pairs:
      whole[old] = after[number]
    return whole

  generators = jax.tree.map(replaced, group.generators, new.generators)
  return group._replace(members=tuple(members), generators=generators)


def _without(group: bank.Group, least: float) -> bank.Group:
  """A group without its weak members."""
  weak = _weak([group], least)
  kept = [number for number in range(len(group.members)) if number not in weak]
  return group._replace(
    members=tuple(group.members[number] for number in kept),
    generators=jax.tree.map(lambda array: np.asarray(array)[kept], group.generators),
  )


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
  finished: Sequence[Any], members: Sequence[Sequence[LesionPatch]], values: Any
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
        lesion.pyramid_of(values, own[0].alpha.shape[0]),
      )
    )
  return groups
