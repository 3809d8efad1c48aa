"""How fast is a training step of DDM and of StyleSwin beside the same networks in PyTorch?

  python -m benchmarks.baseline_step --out benchmarks/results/baseline_step_cpu.json

Reduced networks, as in the table2 benchmark, the same weights and images on both sides, in one
process: two calls of each in turn, of which the second counts; medians. A step is all updates with
clipping, Adam and the running average; StyleSwin's without the penalty of the gradient, which is in
every 16th step. PyTorch is not compiled.
"""

import copy
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from benchmarks import harness, table2_rows
from hiresmed_jax.ops import diffusion
from hiresmed_jax.routes.baselines.ddm import task as ddm
from hiresmed_jax.routes.baselines.styleswin import task as styleswin
from hiresmed_jax.runtime import cli, compilation

Call = Callable[[], Any]


def main(argv: list[str]) -> None:
  """Times both systems on both sides."""
  parser = harness.parser(__doc__)
  parser.add_argument("--rounds", type=int, default=10)
  options = parser.parse_args(argv)
  facts: dict[str, Any] = {"benchmark": "baseline_step", **harness.environment(), "cases": []}
  for row in table2_rows.ROWS:
    if row.route in ("ddm", "styleswin"):
      config = row.config("reduced")
      calls = {"ddm": _ddm, "styleswin": _styleswin}[row.route](config[row.route])
      times = harness.interleaved(calls, options.rounds, limit_s=120)
      medians = {side: 1e3 * float(np.median(found)) for side, found in times.items()}
      facts["cases"].append(
        {"name": row.name, "batch": row.batch_size(config), "side": table2_rows.SIDE,
         "parameters": row.parameters(config), "median_ms": medians,
         "rounds": len(times["ours"])}
      )  # fmt: skip
  harness.publish(facts, options.out)


def _images(config: Any) -> np.ndarray:
  shape = (config.batch_size, table2_rows.SIDE, table2_rows.SIDE, 1)
  return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def _ours(task: Any, state: Any, images: np.ndarray) -> Call:
  batch = {"images_m11": jax.device_put(images)}
  step = jax.jit(task.train_step, donate_argnums=0)
  compiled = step.lower(state, batch, {}).compile(compilation.options())
  holder = [state]

  def call() -> None:
    holder[0], scalars = compiled(holder[0], batch, {})
    jax.block_until_ready(scalars)

  return call


def _twin(net: Any, params: Any) -> Any:
  from benchmarks.torch_baseline.convert import state_dict

  net.load_state_dict(state_dict(jax.device_get(params), net))
  return net


def _average(average: Any, net: Any, decay: float) -> None:
  import torch

  with torch.no_grad():
    torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)


def _ddm(config: Any) -> dict[str, Call]:
  import torch

  from tests.reference import ddpm as reference

  images = _images(config)
  task = ddm.build(config, channels=1, size=images.shape[1:3], steps=1000)
  state = jax.jit(task.init, compiler_options=harness.QUICK)(jax.random.key(0))
  net = config.net.to_dict()
  net.pop("dropout")
  twin = _twin(reference.DDPM(1, images.shape[1], **net), state.params)
  average, device = copy.deepcopy(twin), harness.torch_device()
  twin.to(device), average.to(device)
  adam = torch.optim.Adam(twin.parameters(), lr=config.optimizer.learning_rate)
  known = diffusion.levels(**ddm.known_levels(config))
  signal, noise = (torch.tensor(np.asarray(x), device=device)[:, None, None, None] for x in known)
  x = torch.tensor(images.transpose(0, 3, 1, 2), device=device)

  def theirs() -> None:
    at = torch.randint(len(signal), (len(x),), device=device)
    eps = torch.randn_like(x)
    twin.levels = at
    loss = (twin(signal[at] * x + noise[at] * eps) - eps).square().mean()
    adam.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), config.optimizer.clip)
    adam.step()
    _average(average, twin, config.ema)
    loss.item()

  return {"ours": _ours(task, state, images), "torch": theirs}


def _styleswin(config: Any) -> dict[str, Call]:
  import torch
  from torch.nn.functional import softplus

  from tests.reference import styleswin as reference

  config.loss.update({"r1": 0.0, "consistency": 0.0})
  images, style = _images(config), config.net.style
  task = styleswin.build(config, channels=1, steps=1000)
  state = jax.jit(task.init, compiler_options=harness.QUICK)(jax.random.key(0))
  levels = images.shape[1].bit_length() - 2  # from 4 px on
  widths, device = [config.net.widest] * levels, harness.torch_device()
  gen = _twin(reference.Generator(config.size, 1, widths, config.net.mapping, style), state.gen)
  disc = _twin(reference.Discriminator(config.size, 1, config.net.widest), state.disc)
  average = copy.deepcopy(gen)
  gen.to(device), disc.to(device), average.to(device)
  stats = flax.traverse_util.flatten_dict(jax.device_get(state.stats))
  disc.vectors = {
    path[-1].split("/")[0]: torch.tensor(np.asarray(value)[0], device=device)
    for path, value in stats.items()
    if path[-1].endswith("/u")
  }
  adams = [
    torch.optim.Adam(net.parameters(), lr=values.learning_rate, betas=(values.b1, values.b2))
    for net, values in ((gen, config.gen_optimizer), (disc, config.disc_optimizer))
  ]
  real = torch.tensor(images.transpose(0, 3, 1, 2), device=device)

  def theirs() -> None:
    latents = torch.randn(2, len(real), style, device=device)
    with torch.no_grad():
      fake = gen(latents[0])
    loss = (softplus(-disc(real)) + softplus(disc(fake))).mean()
    adams[1].zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(disc.parameters(), config.disc_optimizer.clip)
    moved = disc.moved()
    adams[1].step()
    disc.requires_grad_(False)  # its own gradients would be thrown away
    fooled = softplus(-disc(gen(latents[1]))).mean()
    adams[0].zero_grad(set_to_none=True)
    fooled.backward()
    adams[0].step()
    disc.requires_grad_(True)
    disc.vectors = moved
    _average(average, gen, config.ema)
    fooled.item()

  return {"ours": _ours(task, state, images), "torch": theirs}


if __name__ == "__main__":
  cli.run(main)
