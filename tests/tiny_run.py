"""What a tiny run is made of, for tests. The compiler takes the time, so tests share programs."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import grain
import jax
import numpy as np

from hiresmed_jax.data import records
from hiresmed_jax.inference import workdir
from hiresmed_jax.routes import dataset as datasets
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.routes.programs import Programs, compile_programs
from hiresmed_jax.routes.task import Task
from hiresmed_jax.runtime import checkpoint, interrupt, run_folder
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.config import hash_values, load_config
from tests import tiny
from tests.tiny import BATCH, CROP, STEPS, get_config

EPOCH = 2
# Figures of a clock, not of the run.
TIMINGS = {"time", "images_per_second", "tflops_per_second", "peak_resident_memory_bytes"}
ONCE = {"xla_backend_optimization_level": 0}  # as the loop compiles what runs once


@functools.cache
def task(*changes: tuple[str, Any], channels: int = 1, **options: Any) -> Task:
  """The route's task; `changes` are ("optimizer.accumulate", 1) and the like."""
  config = get_config("background").background
  config.update_from_flattened_dict(dict(changes))
  known: dict[str, Any] = {"size": (CROP, CROP), "steps": STEPS, "steps_per_epoch": EPOCH}
  return background.build(config, channels=channels, **{**known, **options})


def mesh(data: int = 1, fsdp: int = 1) -> jax.sharding.Mesh:
  return meshes.make_mesh(data=data, fsdp=fsdp, devices=jax.devices()[: data * fsdp])


def images(count: int = 24, size: int = CROP, seed: int = 0) -> np.ndarray:
  """A bright spot on a slope: f32[count, size, size, 1] in [-1, 1]."""
  rng = np.random.default_rng(seed)
  row, column = np.mgrid[:size, :size] / size
  spot = rng.uniform(0.2, 0.8, (2, count, 1, 1))
  width = rng.uniform(0.1, 0.4, (count, 1, 1))
  slope = rng.uniform(-0.5, 0.5, (2, count, 1, 1))
  bright = np.exp(-((column - spot[0]) ** 2 + (row - spot[1]) ** 2) / width**2)
  shapes = 1.2 * bright - 0.6 + slope[0] * column + slope[1] * row
  return np.clip(shapes, -1, 1).astype(np.float32)[..., None]


@dataclasses.dataclass(frozen=True)
class Source:
  """Images of which those in `broken` are NaN."""

  broken: tuple[int, ...] = ()
  size: int = CROP

  def __len__(self) -> int:
    return len(_images(size=self.size))

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return {"images_m11": _images(size=self.size)[index] * (np.nan if index in self.broken else 1)}


_images = functools.cache(images)


def train_data(broken: tuple[int, ...] = (), size: int = CROP) -> grain.IterDataset:
  """Endless batches whose iterator has a state, as those of the pipeline."""
  dataset = grain.MapDataset.source(Source(broken, size)).seed(0).shuffle().repeat()
  batches = dataset.batch(BATCH, drop_remainder=True)
  return batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))


@dataclasses.dataclass(frozen=True)
class Rows:
  """The rows of eight batches, which a function makes by their number."""

  batch: Callable[[int], dict[str, np.ndarray]]
  size: int

  def __len__(self) -> int:
    return 8 * self.size

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return {k: v[index % self.size] for k, v in self.batch(index // self.size).items()}


def train_data_of(batch: Callable[[int], dict[str, np.ndarray]], size: int) -> grain.IterDataset:
  """Endless batches of `Rows`."""
  batches = grain.MapDataset.source(Rows(batch, size)).seed(0).shuffle().repeat().batch(size)
  return batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))


def val_batches(count: int = 5) -> list[dict[str, Any]]:
  """One batch of whole images of 32 px, filled up with what must not count."""
  batch = {
    "images_m11": np.full((BATCH, 32, 32, 1), 0.9, np.float32),
    "weight": np.zeros(BATCH, np.float32),
    "valid": np.ones((BATCH, 32, 32), bool),
    "boxes": [np.zeros((0, 4), np.float32)] * count,
  }
  batch["images_m11"][:count], batch["weight"][:count] = images(count, 32, seed=1), 1.0
  return [batch]


@functools.cache
def quick() -> dict[str, Any]:
  """Options for programs that are soon compiled, and slow."""
  options = ONCE | {"xla_cpu_use_fusion_emitters": False}
  try:
    jax.jit(lambda: 0, compiler_options=options)()
  except jax.errors.JaxRuntimeError:  # not every version has the second one, which halves the time
    return ONCE
  return options


def quick_jit(function: Callable[..., Any]) -> Callable[..., Any]:
  """`jax.jit` for a program that runs once."""
  return jax.jit(function, compiler_options=quick())


@contextlib.contextmanager
def quick_compiler() -> Iterator[None]:
  """What is compiled within is soon ready, and slow."""
  whole = jax.stages.Lowered.compile
  jax.stages.Lowered.compile = lambda self, options=None: whole(self, quick() | (options or {}))
  jax.config.update("jax_disable_most_optimizations", True)  # functions that compile when called
  try:
    yield
  finally:
    jax.config.update("jax_disable_most_optimizations", False)
    jax.stages.Lowered.compile = whole


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
  """A command within uses one device: each other one would need programs of its own."""
  one = mesh()
  with (
    mock.patch.object(meshes, "make_mesh", return_value=one),
    mock.patch.object(jax, "local_devices", return_value=list(one.devices.flat)),
  ):
    yield


_programs: dict[tuple[int, ...], Programs] = {}


def programs(task: Task, data: int = 1, fsdp: int = 1, size: int = CROP) -> Programs:
  """What `fit` compiles for a task (one that is kept) on so many devices; only once."""
  key = (id(task), data, fsdp, size)
  if key not in _programs:
    with quick_compiler():
      first = {"images_m11": _images(size=size)[:BATCH]}
      made = compile_programs(task, 0, mesh(data, fsdp), first, val_batches()[0])
    _programs[key] = made
  return _programs[key]


def begin(task: Task, programs: Programs) -> Any:
  """A state to start from, new each time, since steps consume it."""
  # On one device first: how it is made is compiled once for all meshes, and for `fit`.
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  one = meshes.state_shardings(shapes, mesh())
  state = jax.jit(task.init, out_shardings=one, compiler_options=ONCE)(jax.random.key(0))
  return jax.tree.map(
    lambda leaf, like: jax.device_put(leaf, like.sharding), state, programs.abstract_state
  )


def batch(programs: Programs, number: int = 0, *, broken: bool = False, size: int = CROP) -> Any:
  """A training batch on the devices; in a broken one a single pixel is not a number."""
  rows = np.arange(number * BATCH, (number + 1) * BATCH) % len(_images(size=size))
  pixels = _images(size=size)[rows]
  pixels[-1, 3, 4] = np.nan if broken else pixels[-1, 3, 4]
  return meshes.put_batch({"images_m11": pixels}, programs.batch_sharding)


def identity(**changes: Any) -> dict[str, Any]:
  values = {"background": get_config("background").background.to_dict(), **changes}
  return {"config": values, "config_hash": hash_values(values), "data": "a fingerprint"}


def metrics(folder: Path) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl, without the figures of a clock."""
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
  """A list that grows with every program compiled within."""
  compiled: list[str] = []

  def listen(event: str, seconds: float, **_: Any) -> None:
    compiled.extend([event] if event == "/jax/core/compile/backend_compile_duration" else [])

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    jax.jit(lambda x: x + 1.25)(1.0)
    assert compiled  # it does hear
    yield compiled
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


class _Asked(interrupt.Pace):
  """Calls a function in place of asking other processes."""

  def __init__(self, at_call: Callable[[bool], Any], steps: int):
    super().__init__(steps)
    self.steps, self._at_call = steps, at_call

  def agree(self, asked: bool, steps: int = 1) -> bool:
    return bool(self._at_call(asked))


@contextlib.contextmanager
def asked(
  at_call: Callable[[bool], Any] | None = None,
  *,
  in_evaluation: Callable[[bool], Any] | None = None,
  steps: int = 1,
) -> Iterator[None]:
  """Within, functions see after each call whether `fit` is asked to stop, and say whether it is.

  Args:
    at_call: after each call of a training step.
    in_evaluation: after each batch of an evaluation.
    steps: of a call, at most.
  """

  def pace(*most: int) -> _Asked:
    return _Asked((at_call if most else in_evaluation) or bool, steps)

  with mock.patch.object(interrupt, "Pace", pace):
    yield


def compiled_by_step(fit: Callable[[], Any]) -> list[int]:
  """How many programs have been compiled after each step of a run."""
  counts: list[int] = []
  with compilations() as compiled, asked(lambda _: counts.append(len(compiled))):
    fit()
  return counts


def untrained(
  folder: Path, data: records.Dataset, *overrides: str, results: dict[str, Any] | None = None
) -> Any:
  """Writes a finished background run whose network is as it begins; returns its config."""
  given = ["data.phantom.kind=", "background.gan.weight=0.0", *overrides]
  config = load_config(f"{tiny.__file__}:background", given)
  route = folder / "background"
  who = datasets.identity(config, "background", data, route)
  run_folder.claim(route, who)
  begun = background.build(
    config.background, channels=1, size=(CROP, CROP), steps=1, steps_per_epoch=1
  )
  state = jax.jit(begun.init, compiler_options=ONCE)(jax.random.key(0))
  with checkpoint.open(route / "checkpoints", keep=2, best="l1", best_mode="min") as manager:
    checkpoint.save(manager, 10, state, metrics={"l1": 0.1})
  run_folder.write_done(route, who, 10, results or {})
  workdir.note(folder, data, config.synthesize.to_dict())
  return config
