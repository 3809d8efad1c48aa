"""The recipes that are compared, behind one interface: start with a seed, take steps, reconstruct.

`ours` is the train command's own task, compiled ahead of time; `published` is a VQGAN of
torch_baseline. Both keep the training images on the device and get the rows of each batch.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from hiresmed_jax.convert.features import load_perceptual
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.runtime import compilation, cost
from hiresmed_jax.runtime.compilation import compute_dtype

WARM_BATCHES = 4  # for the k-means start of the codebook, as in the train command


@dataclasses.dataclass
class Run:
  """A model being trained.

  Attributes:
    take: makes one update with these rows of the training images, i32[B]; may return early.
    wait: waits until all updates are done.
    reconstruct: images_m11 f32[B, H, W, C] -> the same shape.
    begin: the work before the first update, given the rows of the first batches; it counts as
      training.
    compile_seconds: spent before the first update.
    first_compiles: whether the first update compiles or warms up.
  """

  take: Callable[[np.ndarray], Any]
  wait: Callable[[], Any]
  reconstruct: Callable[[np.ndarray], np.ndarray]
  begin: Callable[[Sequence[np.ndarray]], Any] = lambda rows: None
  compile_seconds: float = 0.0
  first_compiles: bool = False


@dataclasses.dataclass(frozen=True)
class Contender:
  """A recipe: `start` makes a Run of (seed, length in steps); `about` are facts for the record."""

  name: str
  start: Callable[[int, int], Run]
  about: dict[str, Any]


def ours(
  name: str,
  config: Any,
  train_m11: np.ndarray,
  *,
  channels: int,
  perceptual: str | None = None,
) -> Contender:
  """HiResMed-VQGAN by `routes.background.task`, as the train command runs it on one device.

  Args:
    name: for the record.
    config: settings of the route; `perceptual` replaces its perceptual network.
    train_m11: f32[N, H, W, 1 or channels], all training images.
    channels: of the network.
    perceptual: name of a perceptual network whose weights are there, or None.
  """
  size, batch_size = train_m11.shape[1:3], config.batch_size
  distance, frozen = load_perceptual(perceptual, precision=None) if perceptual else (None, None)
  dtype = compute_dtype(config.dtype)
  build = functools.partial(
    background.build,
    config,
    channels=channels,
    size=size,
    steps_per_epoch=max(1, len(train_m11) // batch_size),
    dtype=dtype,
    distance=distance,
    distance_params=frozen,
  )
  net, _ = background.networks(config, channels=channels, dtype=dtype)
  on_device = jax.device_put(train_m11)
  frozen = jax.device_put({} if frozen is None else frozen)
  shapes = jax.eval_shape(build(steps=1000).init, jax.random.key(0))
  rows = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.gen))
  about: dict[str, Any] = {
    "parameters": parameters,
    "learning_rate": config.optimizer.learning_rate,
    "precision": str(jnp.dtype(dtype)),
    "framework": f"jax {jax.__version__}",
  }

  @functools.cache
  def programs(steps: int) -> dict[str, Any]:
    task = build(steps=steps)
    start = time.perf_counter()

    def step(state: Any, images: Any, frozen: Any, rows: Any) -> Any:
      return task.train_step(state, {"images_m11": images[rows]}, frozen)[0]

    lowered = jax.jit(step, donate_argnums=0).lower(shapes, on_device, frozen, rows)
    about["gflop_per_image"] = round(cost.xla_flops(lowered) / batch_size / 1e9, 2)
    made: dict[str, Any] = {
      "init": jax.jit(task.init, compiler_options=harness.QUICK).lower(jax.random.key(0)).compile(),
      "step": lowered.compile(compilation.options()),
    }
    if task.warm_start is not None:
      warm_start = task.warm_start

      def warm(state: Any, images: Any, frozen: Any, rows: Any) -> Any:
        return warm_start(state, [{"images_m11": images[r]} for r in rows], frozen)

      lowered = jax.jit(warm).lower(shapes, on_device, frozen, [rows] * WARM_BATCHES)
      made["warm"] = lowered.compile(compilation.options())
    made["seconds"] = time.perf_counter() - start
    return made

  reconstruct = jax.jit(
    lambda gen, images: background.reconstruct(gen, _repeated(images, channels), net=net)[0],
    compiler_options=compilation.options(),
  )

  def start(seed: int, steps: int) -> Run:
    made = programs(steps)
    state = jax.block_until_ready(made["init"](jax.random.key(seed)))

    def begin(first: Sequence[np.ndarray]) -> None:
      nonlocal state
      if "warm" in made:
        state = made["warm"](state, on_device, frozen, [jnp.asarray(r) for r in first])

    def take(rows: np.ndarray) -> None:
      nonlocal state
      state = made["step"](state, on_device, frozen, rows)

    def reconstructed(images_m11: np.ndarray) -> np.ndarray:
      # The current weights, not their average, by which the train command reports.
      return _grey_as(np.asarray(reconstruct(state.gen, images_m11)), images_m11)

    def wait() -> None:
      jax.block_until_ready(state)

    return Run(take, wait, reconstructed, begin, compile_seconds=made["seconds"])

  return Contender(name, start, about)


def published(
  name: str,
  recipe: str,
  train_m11: np.ndarray,
  *,
  channels: int,
  width: int,
  levels: Sequence[int] | None = None,
  rate_factor: float = 1.0,
  perceptual: str | None = None,
  compiled: bool = False,
) -> Contender:
  """A published VQGAN recipe in PyTorch, on the device and in the precision that jax uses.

  Args:
    name: for the record.
    recipe: "taming" or "dome272".
    train_m11: f32[N, H, W, 1 or channels].
    width: channels of the first level; 128 as published.
    levels: widths by resolution, finest first, in `width`s; None as published.
    rate_factor: of the published learning rate.
    perceptual: name of a perceptual network whose weights are there, or None.
    compiled: with torch.compile.

  Raises:
    UserError: PyTorch is not installed, or cannot use the GPU that jax uses.
  """
  torch, device, dtype = _torch_of_jax()
  from benchmarks.torch_baseline import lpips, published, vqgan

  rate = rate_factor * published.LEARNING_RATE
  make = functools.partial(
    published.published_step,
    recipe,
    channels=channels,
    width=width,
    learning_rate=rate,
    levels=levels or vqgan.LEVELS,
    perceptual=lpips.load(perceptual).to(device) if perceptual else None,
    device=device,
    dtype=dtype,
  )
  model = make(steps=1, seed=0)
  about: dict[str, Any] = {
    "parameters": model.parameters_count,
    "learning_rate": rate,
    "precision": str(dtype).removeprefix("torch."),
    "framework": f"torch {torch.__version__}{', compiled' if compiled else ''}",
    "gflop_per_image": _torch_gflop(model, train_m11[:1]),
    "loss": model.description,
  }
  start = functools.partial(_torch_run, functools.partial(make, compiled=compiled), train_m11)
  return Contender(name, start, about)


def ours_in_torch(
  name: str,
  config: Any,
  train_m11: np.ndarray,
  *,
  channels: int,
  perceptual: str | None = None,
  compiled: bool = False,
) -> Contender:
  """The recipe of `ours` in PyTorch: it shows what the framework alone changes."""
  torch, device, dtype = _torch_of_jax()
  from benchmarks.torch_baseline import lpips, step

  config = config.copy_and_resolve_references()
  config.perceptual.net = None
  make = functools.partial(
    step.hiresmed_step,
    config,
    channels=channels,
    size=train_m11.shape[1:3],
    perceptual=lpips.load(perceptual).to(device) if perceptual else None,
    revival=True,
    device=device,
    dtype=dtype,
  )
  model = make(steps=1000, seed=0)
  about: dict[str, Any] = {
    "parameters": model.parameters_count,
    "learning_rate": config.optimizer.learning_rate,
    "precision": str(dtype).removeprefix("torch."),
    "framework": f"torch {torch.__version__}{', compiled' if compiled else ''}",
    "loss": model.description,
  }
  start = functools.partial(_torch_run, functools.partial(make, compiled=compiled), train_m11)
  return Contender(name, start, about)


def _torch_run(make: Callable[..., Any], train_m11: np.ndarray, seed: int, steps: int) -> Run:
  torch, device, _ = _torch_of_jax()
  model = make(seed=seed, steps=steps)
  on_device = _nchw(train_m11).to(device)

  def take(rows: np.ndarray) -> None:
    model(on_device[torch.from_numpy(rows).long().to(device)])

  def reconstructed(images_m11: np.ndarray) -> np.ndarray:
    made = model.reconstruct(_nchw(images_m11))
    return _grey_as(made.permute(0, 2, 3, 1).cpu().numpy(), images_m11)

  wait = torch.cuda.synchronize if device == "cuda" else lambda: None
  return Run(take, wait, reconstructed, first_compiles=True)


def _torch_gflop(model: Any, images_m11: np.ndarray) -> float:
  """GFLOP of one image's whole update, as PyTorch counts matrix products and convolutions."""
  from torch.utils.flop_counter import FlopCounterMode

  with FlopCounterMode(display=False) as counter:
    model(_nchw(images_m11))
  return round(counter.get_total_flops() / 1e9, 2)


def _torch_of_jax() -> tuple[Any, str, Any]:
  """(torch, device, dtype) like jax's.

  Raises:
    UserError: PyTorch is not installed, or cannot use the GPU that jax uses.
  """
  device = harness.torch_device()
  import torch

  dtype = torch.bfloat16 if compute_dtype("auto") == jnp.bfloat16 else torch.float32
  return torch, device, dtype


def _nchw(images_m11: np.ndarray) -> Any:
  import torch

  return torch.from_numpy(images_m11).permute(0, 3, 1, 2)


def _repeated(images: Any, channels: int) -> Any:
  return images if images.shape[-1] == channels else jnp.repeat(images, channels, axis=-1)


def _grey_as(made: np.ndarray, images: np.ndarray) -> np.ndarray:
  """The mean of three channels where the images have one."""
  return made if made.shape == images.shape else made.mean(axis=-1, keepdims=True)
