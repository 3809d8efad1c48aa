"""One training step of HiResMed-VQGAN: ours beside the same network in PyTorch, eager and compiled.

  python -m benchmarks.train_step --out benchmarks/results/train_step_cpu.json
  python -m benchmarks.train_step --scale paper --out benchmarks/results/train_step_gpu.json

Same network, weights, batch, precision and device, in one process: each round makes two steps
of each side and times the second. The step is whole (generator, discriminators, both optimisers,
no perceptual loss); "network" is the generator's forward and backward pass alone. The matrix peak
is measured in the same run, FLOPs are counted on the traced program. "fed" is our step with batches
from the real input pipeline. With --remat both sides recompute blocks in the backward pass.
`--scale cpu`: 8 images of 128 x 128, channels 32 64 128, float32, some ten minutes on two cores,
most of it torch.compile; `--scale paper`: kub.py at 1,024 x 1,024.
"""

import functools
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import fed_step, harness, kernels, roofline
from hiresmed_jax import files
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import settings as tables
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.runtime import cli, compilation, cost
from hiresmed_jax.runtime.compilation import compute_dtype

Call = Callable[[], Any]


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--scale", choices=("cpu", "paper"), default="cpu")
  parser.add_argument("--blocks", nargs="+", default=["hdfb", "residual"])
  parser.add_argument("--batch", type=int, help="images of a step (8)", default=8)
  parser.add_argument("--size", type=int, help="side of an image (128; 1024)")
  parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
  parser.add_argument("--no-stages", action="store_true", help="leave the stages' floors out")
  parser.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
  options = parser.parse_args(argv)
  if not importlib.util.find_spec("torch"):
    raise UserError("PyTorch is what this compares with: pip install torch")
  facts = {"benchmark": "train_step", **harness.environment(), "scale": options.scale}
  dtype = compute_dtype(options.dtype)
  facts["precision"] = str(jnp.dtype(dtype))
  facts["peak"] = roofline.peaks(dtype)
  facts["cases"] = []
  for block in options.blocks:
    case = measure(block, options, dtype=dtype, peak=facts["peak"])
    facts["cases"].append(case)
    show(case, facts["peak"])
    if options.out:  # after every block: what is measured outlives a run that is cut off
      files.write_json(options.out, facts, indent=1)
  print(json.dumps(facts))


def settings(scale: str, block: str) -> Any:
  """The route's values, with the discriminators training from the first step."""
  config = tables.values("background", "paper")
  config.net.block = block
  config.net.drop_path_rate = 0.0  # PyTorch would draw other paths
  config.perceptual.net = None
  config.gan.update({"start": 0.0, "warmup": 0.0})
  if scale == "cpu":
    config.net.update({"stem_channels": 32, "channels": (32, 64, 128), "strides": (2, 2, 2)})
    config.net.update({"code_dim": 64, "remat": False})
    config.codebook.num_codes = 256
    config.gan.update({"features": (32, 64), "scales": 2})
  return config


def measure(block: str, options: Any, *, dtype: Any, peak: dict[str, float]) -> dict[str, Any]:
  """Times of both parts ("step", "network") of all sides, and the roofline of our stages."""
  config = settings(options.scale, block)
  config.net.remat = options.remat
  config.batch_size = options.batch
  side = options.size or (128 if options.scale == "cpu" else 1024)
  channels = 3
  # Grey, as patients' images are; both sides make three equal channels of it.
  grey = np.random.default_rng(0).uniform(-1, 1, (options.batch, side, side, 1)).astype(np.float32)
  images = np.repeat(grey, channels, -1)
  task = background.build(
    config, channels=channels, size=(side, side), steps=1000, steps_per_epoch=1000, dtype=dtype
  )
  state = jax.jit(task.init, compiler_options=harness.QUICK)(jax.random.key(0))
  net, _ = background.networks(config, channels=channels, dtype=dtype)
  weights = jax.device_get({"gen": state.gen, "disc": state.disc})
  progress = functools.partial(print, f"{block}:", file=sys.stderr, flush=True)
  progress("compiling ours")
  sides: dict[str, dict[str, Call]] = {"step": {}, "network": {}}
  about: dict[str, Any] = {"sides": {}}
  take, network, about["sides"]["ours"] = _ours(task, net, state, grey, images)
  on_device = {"images_m11": jax.device_put(grey)}
  sides["step"]["ours"] = lambda: jax.block_until_ready(take(on_device))
  sides["network"]["ours"] = network
  del state
  for name, compiled in (("torch", False), ("torch compiled", True)):
    if compiled and options.no_compile:
      about["sides"][name] = {"missing": "left out by --no-compile"}
      continue
    progress(f"first steps of {name}")
    try:
      both, record = _torch(config, weights, images, dtype=dtype, compiled=compiled)
    except UserError as error:
      about["sides"][name] = {"missing": str(error)}
      continue
    sides["step"][name], sides["network"][name] = both
    about["sides"][name] = record
  progress("timing")
  times = {part: harness.interleaved(calls, options.rounds) for part, calls in sides.items()}
  flops = about["sides"]["ours"]["gflop"]
  progress("fed by the input pipeline")
  about["fed"] = fed_step.measure(
    take, batch_size=options.batch, size=side, steps=2 * options.rounds
  )
  about["kernels"] = kernels.longest(sides["step"]["ours"])
  about["stages"] = []
  if not options.no_stages:
    progress("timing our stages")
    about["stages"] = roofline.stages(
      net, jax.device_put(weights["gen"]["net"]), jnp.asarray(images), peak=peak, rounds=5
    )
  return {
    "block": block,
    "images": [options.batch, side, side, channels],
    "remat": options.remat,
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights["gen"])),
    "rounds": options.rounds,
    **{
      p: {s: _summary(t, options.batch, flops[p], peak) for s, t in times[p].items()} for p in times
    },
    **about,
  }


def _ours(
  task: Any, net: Any, state: Any, grey: np.ndarray, images: np.ndarray
) -> tuple[Callable[[Any], Any], Call, dict[str, Any]]:
  """(one step on a batch, the network's passes, facts); the step's scalars may not be ready."""
  options, batch = compilation.options(), {"images_m11": jax.device_put(grey)}
  begin = time.perf_counter()
  step = jax.jit(task.train_step, donate_argnums=0).lower(state, batch, {}).compile(options)
  compile_s = time.perf_counter() - begin

  def loss(params: Any, images_m11: Any) -> Any:
    return jnp.mean(jnp.square(net.apply({"params": params}, images_m11) - images_m11))

  params, on_device = jax.tree.map(jnp.copy, state.gen["net"]), jax.device_put(images)
  passes = jax.value_and_grad(loss)
  network = jax.jit(passes).lower(params, on_device).compile(options)
  gflop = {
    "step": sum(cost.flops(cost.trace(task.train_step, state, batch, {})).values()) / 1e9,
    "network": sum(cost.flops(cost.trace(passes, params, on_device)).values()) / 1e9,
  }
  holder = [state]

  def take(batch: Any) -> Any:
    holder[0], scalars = step(holder[0], batch, {})
    return scalars

  memory: Any = step.memory_analysis()
  return (
    take,
    lambda: jax.block_until_ready(network(params, on_device)),
    {
      "framework": f"jax {jax.__version__}",
      "compile_seconds": compile_s,
      "gflop": gflop,
      "program_bytes": memory.temp_size_in_bytes + memory.argument_size_in_bytes,
      **cost.peak_memory(),
    },
  )


def _torch(
  config: Any, weights: Any, images: np.ndarray, *, dtype: Any, compiled: bool
) -> tuple[tuple[Call, Call], dict[str, Any]]:
  """((a step, the network's passes), facts), from the same weights.

  Raises:
    UserError: torch cannot use the device, or cannot compile.
  """
  import torch

  from benchmarks.torch_baseline.step import hiresmed_step

  device = harness.torch_device()
  half = jnp.dtype(dtype) == jnp.bfloat16
  if device == "cuda":
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.cuda.reset_peak_memory_stats()
  start = time.perf_counter()
  step = hiresmed_step(
    config,
    channels=images.shape[-1],
    size=images.shape[1],
    steps=1000,
    params=weights["gen"]["net"],
    codebook=weights["gen"]["codebook"],
    disc_params=weights["disc"],
    revival=True,
    remat=config.net.remat,
    device=device,
    dtype=torch.bfloat16 if half else torch.float32,
    compiled=compiled,
  )
  x = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(device, memory_format=torch.channels_last)
  net: Any = step.generator.net
  forward: Any = torch.compile(net, dynamic=False) if compiled else net
  wait: Call = torch.cuda.synchronize if device == "cuda" else lambda: None

  def one_step() -> None:
    step(x)
    wait()

  def network() -> None:
    net.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16, enabled=half):
      out = forward(x)
    torch.nn.functional.mse_loss(out.float(), x).backward()
    wait()

  one_step()
  about: dict[str, Any] = {
    "framework": f"torch {torch.__version__}",
    "threads": torch.get_num_threads(),
    "first_step_seconds": time.perf_counter() - start,
  }
  if device == "cuda":
    about["peak_device_memory_bytes"] = torch.cuda.max_memory_allocated()
  return (one_step, network), about


def _summary(
  seconds: list[float], batch: int, gflop: float, peak: dict[str, float]
) -> dict[str, float]:
  low, median, high = np.percentile(seconds, (10, 50, 90))
  return {
    "images_per_second": batch / median,
    "p10_ms": 1e3 * low,
    "median_ms": 1e3 * median,
    "p90_ms": 1e3 * high,
    "tflops_per_second": gflop / 1e3 / median,
    "share_of_matrix_peak": 1e9 * gflop / median / peak["matmul_flops_per_second"],
  }


def show(case: dict[str, Any], peak: dict[str, float]) -> None:
  """The two tables of a case."""
  console = Console(width=120)
  shape = " x ".join(map(str, case["images"]))
  table = Table(title=f"{case['block']}, {shape}, {case['rounds']} rounds")
  for column in ("part", "side", "ms (10, 50, 90 %)", "images/s", "of the peak", "ours is"):
    table.add_column(column, justify="right" if column != "side" else "left")
  for part in ("step", "network"):
    ours = case[part]["ours"]["median_ms"]
    for name, row in case[part].items():
      spread = f"{row['p10_ms']:.1f} {row['median_ms']:.1f} {row['p90_ms']:.1f}"
      share = f"{100 * row['share_of_matrix_peak']:.1f} %"
      ratio = "" if name == "ours" else f"{row['median_ms'] / ours:.2f}x"
      table.add_row(part, name, spread, f"{row['images_per_second']:.2f}", share, ratio)
  console.print(table)
  for name, facts in case["sides"].items():
    if "missing" in facts:
      console.print(f"{name}: {facts['missing']}")
  fed = case["fed"]
  console.print(
    f"fed by the input pipeline: {fed['fed']:.2f} images/s, {100 * fed['share']:.0f} % of a batch "
    "that is there already"
  )
  for row in case["kernels"].get("longest", ())[:12]:
    console.print(f"{row['milliseconds']:8.3f} ms  {row['launches']:.0f}x  {row['operation']}")
  if not case["stages"]:
    return
  table = Table(
    title=f"stages, forward + backward; peak {peak['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s, "
    f"{peak['bytes_per_second'] / 1e9:.0f} GB/s"
  )
  for column in ("stage", "output", "GFLOP", "GB", "bound by", "floor ms", "measured ms", "share"):
    table.add_column(column, justify="left" if column in ("stage", "bound by") else "right")
  for row in case["stages"]:
    numbers = [f"{row[key]:.2f}" for key in ("gflop", "gbytes")]
    times = [f"{row[key]:.1f}" for key in ("floor_ms", "median_ms")]
    share = f"{100 * row['share_of_floor']:.0f} %"
    output = " ".join(map(str, row["output"]))
    table.add_row(row["stage"], output, *numbers, row["bound"], *times, share)
  total = [sum(row[key] for row in case["stages"]) for key in ("floor_ms", "median_ms")]
  table.add_row(
    "sum", "", "", "", "", *(f"{t:.1f}" for t in total), f"{100 * total[0] / total[1]:.0f} %"
  )
  console.print(table)


if __name__ == "__main__":
  cli.run(main)
