"""The runs of the convergence benchmark: equal budgets and one measure for all."""

import argparse
import dataclasses
import gc
import itertools
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from benchmarks import contenders
from benchmarks.contenders import WARM_BATCHES, Contender, Run
from benchmarks.convergence_data import Images
from benchmarks.yardstick import Curve, mean_absolute_error, reached
from configs import stones_ct
from hiresmed_jax.routes import settings

_OVERTIME = 1.5
_TRIAL_STEPS = 5


@dataclasses.dataclass(frozen=True)
class Scale:
  """What a run is made of.

  Attributes:
    size: pixels a side.
    channels: of the networks.
    width: channels of the first level of the published networks; 128 as published.
    levels: their widths by resolution, finest first, in `width`s; None as published.
    images, judged, held_out: to train on, of those to judge by, of other patients.
    points: measurements along a run, denser at its beginning.
    perceptual: network of the perceptual term of both sides, or None.
  """

  size: int
  channels: int
  width: int
  batch_size: int
  images: int
  judged: int
  held_out: int
  points: int
  levels: tuple[int, ...] | None = None
  perceptual: str | None = None


SCALES = {
  # Latents of 16 x 16 as published for 256 px, which takes two halvings here.
  "cpu": Scale(
    64, 1, 16, batch_size=8, images=128, judged=64, held_out=32, points=20, levels=(1, 2, 4)
  ),
  # 8 images of 1,024 x 1,024 are too many for the published network in 80 GB.
  "paper": Scale(1024, 3, 128, batch_size=4, images=128, judged=16, held_out=16, points=16),
}


def scale_of(options: argparse.Namespace) -> Scale:
  """The named scale with what the command line changes."""
  scale = SCALES[options.scale]
  names = ("size", "width", "batch_size", "images", "points", "perceptual")
  changes = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
  scale = dataclasses.replace(scale, **changes)
  return dataclasses.replace(scale, judged=min(scale.judged, scale.images))


def ours_config(scale: Scale) -> ConfigDict:
  """Preset `best`; at the scale `cpu` with the values of the configs for two cores.

  Those have 16, 32 and 64 channels, like the published networks there, and as many halvings.
  """
  config = settings.values("background", "best")
  if scale.levels is not None:
    stones_ct.small_ct(config)
    config.codebook.num_codes = 1024  # as the published networks, and both presets
  config.batch_size = scale.batch_size
  return config


class Runner:
  """Trains contenders on the same images for the same time.

  Args:
    seconds: of training, per run.
    thresholds: of the error.
    ours_steps: length of a run of ours, where it is known; else a trial finds it.
  """

  def __init__(
    self,
    scale: Scale,
    images: Images,
    seconds: float,
    thresholds: Sequence[float],
    ours_steps: int | None = None,
  ) -> None:
    self.scale, self.seconds, self.thresholds = scale, seconds, thresholds
    self._images = images
    self._ours_steps = ours_steps
    self._step_seconds: dict[str, float] = {}

  def ours(self, name: str, config: ConfigDict | None = None) -> Contender:
    """Ours with `config`, or as the scale has it."""
    return contenders.ours(
      name,
      ours_config(self.scale) if config is None else config,
      self._images.train,
      channels=self.scale.channels,
      perceptual=self.scale.perceptual,
    )

  def published(self, name: str, recipe: str, rate_factor: float, compiled: bool) -> Contender:
    """A published recipe with its learning rate times `rate_factor`."""
    return contenders.published(
      name,
      recipe,
      self._images.train,
      channels=self.scale.channels,
      width=self.scale.width,
      levels=self.scale.levels,
      rate_factor=rate_factor,
      perceptual=self.scale.perceptual,
      compiled=compiled,
    )

  def ours_in_torch(self, name: str, config: ConfigDict) -> Contender:
    """The recipe of ours in PyTorch."""
    return contenders.ours_in_torch(
      name,
      config,
      self._images.train,
      channels=self.scale.channels,
      perceptual=self.scale.perceptual,
    )

  def measure(
    self,
    contender: Contender,
    seeds: Iterable[int],
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    longest: float = _OVERTIME,
  ) -> dict[str, Any]:
    """One run for each seed -> facts of the contender and "runs"; {} where there are no seeds.

    Args:
      batch_size: where it is not the scale's.
      steps: of a run; None as many as the budget holds.
      longest: times its budget, after which a run ends: something else took the machine.
    """
    batch_size = batch_size or self.scale.batch_size
    runs = []
    compile_seconds = 0.0
    for seed in seeds:
      length = steps or self._steps(contender, batch_size)
      print(f"{contender.name}, seed {seed}: {length} steps", flush=True)
      curve, seconds = self._train(contender, seed, length, batch_size, longest)
      compile_seconds = max(compile_seconds, seconds)
      runs.append(self._facts(curve, seconds, batch_size))
      gc.collect()
    if not runs:
      return {}
    per_step = statistics.median(run["seconds"][-1] / run["steps"][-1] for run in runs)
    return {
      **contender.about,
      "batch_size": batch_size,
      "seconds_per_step": round(per_step, 5),
      "compile_seconds": round(compile_seconds, 2),
      "runs": runs,
    }

  def joined(self, first: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """The same contender's runs with other seeds together."""
    if not rest:
      return first
    runs = first["runs"] + rest["runs"]
    per_step = statistics.median(run["seconds"][-1] / run["steps"][-1] for run in runs)
    longest = max(first["compile_seconds"], rest["compile_seconds"])
    return first | {
      "runs": runs,
      "seconds_per_step": round(per_step, 5),
      "compile_seconds": longest,
    }

  def _steps(self, contender: Contender, batch_size: int) -> int:
    """How many steps the budget holds, by a short trial, once for each name."""
    if contender.name == "ours" and self._ours_steps:
      return self._ours_steps
    key = contender.name.split(" x")[0]  # a recipe takes the same time at every learning rate
    if key not in self._step_seconds:
      run = contender.start(0, 1000)
      rows = rows_of_batches(len(self._images.train), batch_size, 0)
      for _ in range(2):
        run.take(next(rows))
      run.wait()
      times = []
      for _ in range(3):
        start = time.perf_counter()
        for _ in range(_TRIAL_STEPS):
          run.take(next(rows))
        run.wait()
        times.append((time.perf_counter() - start) / _TRIAL_STEPS)
      self._step_seconds[key] = min(times)  # of a machine that others use too
    return max(2, round(self.seconds / self._step_seconds[key]))

  def _train(
    self, contender: Contender, seed: int, steps: int, batch_size: int, longest: float
  ) -> tuple[Curve, float]:
    """(curve, seconds of compilation)."""
    run, points = contender.start(seed, steps), self.scale.points
    marks = sorted({max(1, round(steps * (i / points) ** 1.5)) for i in range(1, points + 1)})
    curve = Curve(seed)
    curve.add(0, 0.0, *self._errors(run, batch_size))
    rows = rows_of_batches(len(self._images.train), batch_size, seed)
    step, seconds, first = 0, 0.0, 0.0
    for mark in marks:
      start = time.perf_counter()
      if not step:
        early = list(itertools.islice(rows, WARM_BATCHES))
        rows = itertools.chain(early, rows)
        run.begin(early)
        run.take(next(rows))
        run.wait()
        now = time.perf_counter()
        step, first, start = 1, now - start, now
      for _ in range(mark - step):
        run.take(next(rows))
      run.wait()
      seconds += time.perf_counter() - start
      step = mark
      curve.add(step, seconds, *self._errors(run, batch_size))
      if seconds > longest * self.seconds:
        break
    # The first step, too, took its time; where it compiled, what it took above others is no
    # training.
    usual = seconds / max(1, step - 1)
    took = min(first, usual) if run.first_compiles else first
    curve.seconds = [0.0, *(round(s + took, 3) for s in curve.seconds[1:])]
    return curve, run.compile_seconds + first - took

  def _errors(self, run: Run, batch_size: int) -> list[float]:
    return [
      mean_absolute_error(run.reconstruct, part, batch_size=batch_size)
      for part in (self._images.judged, self._images.held_out)
    ]

  def _facts(self, curve: Curve, compile_seconds: float, batch_size: int) -> dict[str, Any]:
    per_epoch = len(self._images.train) / batch_size
    end = {
      "step": curve.steps[-1],
      "epoch": round(curve.steps[-1] / per_epoch, 2),
      "seconds": curve.seconds[-1],
      "with_compilation": round(curve.seconds[-1] + compile_seconds, 3),
    }
    return {
      **dataclasses.asdict(curve),
      "compile_seconds": round(compile_seconds, 2),
      "final": {"train": curve.train[-1], "held_out": curve.held_out[-1]},
      "end": end,
      "reached": reached(
        curve, self.thresholds, steps_per_epoch=per_epoch, compile_seconds=compile_seconds
      ),
    }


def rows_of_batches(count: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
  """Endless batches of row numbers i32[batch_size]; no epoch shows an image twice."""
  rng = np.random.default_rng([seed, 1])
  while True:
    order = rng.permutation(count).astype(np.int32)
    for start in range(0, count - batch_size + 1, batch_size):
      yield order[start : start + batch_size]
