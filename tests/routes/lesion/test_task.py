"""The lesion route: the same lesions on any mesh, in any company, and however often stopped."""

import functools
import itertools
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

from hiresmed_jax.routes import loop, settings
from hiresmed_jax.routes import singan_task as lesion
from hiresmed_jax.routes.programs import Programs, abstract_state, compile_programs
from hiresmed_jax.routes.task import Task
from hiresmed_jax.runtime import mesh as meshes
from tests import tiny_run

# Its programs are compiled once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tiny lesions")]
LESIONS, SIDES, WIDTH = 8, (24, 26), 4
STEPS, A_CALL = 4, 2
CADENCE = loop.Cadence(log=2, evaluate=100, keep=2, max_skipped=4)
# The last lesion fills the devices up.
WEIGHT = np.array([1.0] * (LESIONS - 1) + [0.0], np.float32)


@functools.cache
def crops(side: int) -> np.ndarray:
  """A bright disc that fades, and its mask: f32[LESIONS, side, side, 2]."""
  rng = np.random.default_rng(side)
  row, column = np.mgrid[:side, :side] - side / 2
  radius = rng.uniform(0.15, 0.35, (LESIONS, 1, 1)) * side
  inside = 1 / (1 + np.exp(np.hypot(row, column * rng.uniform(0.7, 1.4, (LESIONS, 1, 1))) - radius))
  grey = 1.2 * inside - 0.6 + rng.normal(0, 0.1, inside.shape)
  return np.stack([grey, 2 * inside - 1], axis=-1).astype(np.float32)


@functools.cache
def task(data: int = 1, at_once: int = 1) -> Task:
  """Two levels of the lesions of one window size, then one of those of another."""
  config = settings.values("lesion", "best")
  config.update(width=WIDTH, max_width=2 * WIDTH)
  whole = lesion.build(
    config,
    [crops(side) for side in SIDES],
    [WEIGHT] * len(SIDES),
    steps=STEPS,
    steps_per_call=A_CALL,
    mesh=tiny_run.mesh(data),
    at_once=at_once,
  )
  next_size = next(
    number for number, phase in enumerate(whole.phases) if phase.name.startswith("lesions of 26")
  )
  return whole._replace(phases=(*whole.phases[:2], whole.phases[next_size]))


_programs: dict[Any, Programs] = {}
_compiling = threading.Lock()


def compiled_before(task: Task, phase: int, mesh: Any, batch: Any, val_batch: Any) -> Programs:
  """What `fit` compiles for a level, only once."""
  shapes = jax.tree.map(lambda leaf: leaf.shape, abstract_state(task, phase, mesh))
  key = (task.train_step, mesh.shape["data"], str(shapes))
  with _compiling:  # levels are compiled side by side
    if key not in _programs:
      with tiny_run.quick_compiler():
        _programs[key] = compile_programs(task, phase, mesh, batch, val_batch)
  return _programs[key]


def fit(
  folder: Path,
  *,
  data: int = 1,
  at_step: Any = None,
  programs: Any = None,
  steps: int = A_CALL,
  **changes: Any,
):
  """-> (the state after the last step, on the host; what was drawn: {step: examples})."""
  kept: list[Any] = []
  drawn: dict[int, list[dict[str, np.ndarray]]] = {}

  def finish(state: Any, programs: Programs) -> dict[str, Any]:
    kept.append(host(state))
    return {"lesions": len(lesion.finished(state))}

  known = {
    "task": task(data),
    "folder": folder,
    "identity": tiny_run.identity(),
    "seed": 0,
    "mesh": tiny_run.mesh(data),
    "cadence": CADENCE,
    "examples": LESIONS,
    "draw": lambda step, examples: drawn.update({step: examples.rows()}),
    "finish": finish,
  }
  with (
    mock.patch.object(loop, "compile_programs", programs or compiled_before),
    tiny_run.asked(at_step, steps=steps),
  ):
    loop.fit(**{**known, **changes})
  return kept[0], drawn


def host(state: Any) -> Any:
  """Copies as numpy, with keys as numbers."""

  def copied(leaf: Any) -> np.ndarray:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(leaf) if is_key else leaf)

  return jax.tree.map(copied, state)


def assert_same(a: Any, b: Any) -> None:
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


class Whole:
  """A run that nothing stopped."""

  def __init__(self, folder: Path):
    self.folder = folder
    self.state, self.drawn = fit(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  return Whole(tmp_path_factory.mktemp("whole") / "lesion")


def test_what_a_run_leaves_behind(whole):
  lines = tiny_run.metrics(whole.folder)
  # A line after two iterations, an evaluation at the end of every level.
  assert [line["step"] for line in lines] == [2, 4, 4, 6, 8, 8, 10, 12, 12]
  assert {key for key in lines[0] if key != "step"} == {
    *("critic", "adversarial", "reconstruction", "skipped", "skipped_in_a_row"),
  }
  assert all(np.isfinite(list(line.values())).all() for line in lines)
  assert [line["val_rmse"] > 0 for line in lines if "val_rmse" in line] == [True] * 3
  assert lines[-1].get("skipped", 0) == 0
  # The lesion, its reconstruction, three samples; without the one that fills up.
  shapes = {step: [row["made"].shape for row in rows] for step, rows in whole.drawn.items()}
  assert shapes == {
    4: [(12, 5 * 12, 2)] * 7,
    8: [(15, 5 * 15, 2)] * 7,
    12: [(13, 5 * 13, 2)] * 7,
  }


def test_every_level_of_every_size_is_handed_on(whole):
  (levels, amplitudes, fixed), (other, other_amplitudes, other_fixed) = lesion.finished(whole.state)
  assert len(levels) == 2
  assert amplitudes.shape == (LESIONS, 2)
  assert fixed.shape == (LESIONS, 12, 12, 1)
  assert (amplitudes[:, 0] == 1).all()
  assert ((amplitudes[:, 1] > 0) & (amplitudes[:, 1] < 0.2)).all()
  assert (len(other), other_amplitudes.shape) == (1, (LESIONS, 1))
  assert other_fixed.shape == (LESIONS, 13, 13, 1)
  kernels = [level["params"]["body"]["kernel1"] for level in (*levels, *other)]
  assert all(kernel.shape == (LESIONS, 3, 3, WIDTH, WIDTH) for kernel in kernels)
  # No two lesions, and no two levels, are alike.
  for one, two in itertools.combinations([k for kernel in kernels for k in kernel], 2):
    assert np.abs(one - two).max() > 1e-5


def stop(folder: Path, calls: int, **options: Any) -> int:
  """Stops a run after so many calls of the compiled loop -> the step it is saved at."""
  done = iter(range(1, 1000))
  with pytest.raises(loop.Stopped) as stopped:
    fit(folder, at_step=lambda flag: next(done) == calls, **options)
  return int(str(stopped.value).split("step ")[1].split(":")[0])


# In the middle of a level, at its border, both, and at the border of window sizes.
@pytest.mark.parametrize("stops", [(1,), (2,), (3, 1), (5,)], ids=str)
def test_a_stopped_run_goes_on_to_the_last_bit(whole, tmp_path, stops):
  folder = tmp_path / "lesion"
  for number, calls in enumerate(stops):
    assert stop(folder, calls) == A_CALL * sum(stops[: number + 1])
  state, drawn = fit(folder)
  assert_same(whole.state, state)
  assert tiny_run.metrics(whole.folder) == tiny_run.metrics(folder)
  for step, rows in drawn.items():
    assert_same(whole.drawn[step], rows)


def test_eight_devices_make_the_lesions_of_one(whole, tmp_path):
  state, drawn = fit(tmp_path / "lesion", data=8, task=task(8, at_once=0))
  for one, other in zip(
    tiny_run.metrics(whole.folder), tiny_run.metrics(tmp_path / "lesion"), strict=True
  ):
    assert one == pytest.approx(other, rel=1e-5, abs=1e-5)
  for a, b in zip(jax.tree.leaves(whole.drawn), jax.tree.leaves(drawn), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)
  assert len(state.done) == 1


def test_one_program_a_level_made_while_those_before_train_and_nothing_between(whole, tmp_path):
  by_call, last = [], threading.Event()

  def programs(task: Task, phase: int, *rest: Any) -> Programs:
    if phase == 2:
      last.set()
    return compiled_before(task, phase, *rest)

  def count(flag):
    assert last.wait(60.0)  # in the first level's first call
    by_call.append(len(compiled))
    return flag

  asked = mock.Mock(side_effect=programs)
  with tiny_run.compilations() as compiled:
    fit(tmp_path / "lesion", programs=asked, at_step=count)
  assert asked.call_count == 3
  assert len(by_call) == 6
  assert by_call[0] == by_call[1]
  assert by_call[2] == by_call[3]


def first_level(at_once: int, images: np.ndarray) -> tuple[Any, list[dict[str, float]]]:
  """Both calls of the first level: (state, scalars of each step)."""
  known = task(at_once=at_once)
  batch = {"images_m11": images, "weight": WEIGHT}
  programs = compiled_before(known, 0, tiny_run.mesh(), batch, batch)
  state = jax.jit(known.init, compiler_options=tiny_run.ONCE)(jax.random.key(0))
  put = functools.partial(meshes.put_batch, sharding=programs.batch_sharding)
  rows = []
  for _ in range(STEPS // A_CALL):
    count = np.int32(A_CALL)
    state, scalars = programs.step(state, put(batch), programs.frozen, count)
    rows += [{name: float(value[i]) for name, value in scalars.items()} for i in range(A_CALL)]
  return host(state), rows


def test_lesions_side_by_side_are_those_one_after_the_other():
  (_, one), (_, other) = (first_level(number, crops(SIDES[0])) for number in (1, 3))
  for a, b in zip(one, other, strict=True):
    assert a == pytest.approx(b, rel=1e-5, abs=1e-5)


def test_a_lesion_that_is_not_finite_is_left_out_and_does_no_harm():
  images = crops(SIDES[0])
  broken = images.copy()
  broken[2, 5, 6, 0] = np.nan
  (right, _), (state, rows) = first_level(1, images), first_level(1, broken)
  lesions = [n for n in range(LESIONS) if n != 2]
  assert_same(*(jax.tree.map(lambda a: a[lesions], s.players) for s in (right, state)))
  begun = jax.jit(task().init, compiler_options=tiny_run.ONCE)(jax.random.key(0))
  assert_same(*(jax.tree.map(lambda a: a[2], s.players) for s in (host(begun), state)))
  assert [row["skipped"] for row in rows] == [1, 2, 3, 4]
  assert rows[-1]["skipped_in_a_row"] == 4
  np.testing.assert_array_equal(state.skipped[2], [4, 4])


def test_a_lesion_is_the_same_in_any_company():
  images = crops(SIDES[0])
  company = np.concatenate([images[:1], images[:0:-1]])
  (one, _), (other, _) = first_level(1, images), first_level(1, company)
  assert_same(*(jax.tree.map(lambda a: a[0], s.players) for s in (one, other)))
  kernels = [s.players.critic["body"]["kernel1"][1] for s in (one, other)]
  assert np.abs(kernels[0] - kernels[1]).max() > 1e-5


def test_calls_of_any_length_make_the_same_run(whole, tmp_path):
  folder = tmp_path / "lesion"
  state, drawn = fit(folder, steps=1)
  assert_same(whole.state, state)
  assert tiny_run.metrics(whole.folder) == tiny_run.metrics(folder)
  assert_same(whole.drawn, drawn)
