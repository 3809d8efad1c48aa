"""The least time of each stage of HiResMed-VQGAN by its arithmetic and its memory traffic.

A stage's forward and backward pass is compiled alone and timed beside its floor, the larger of
FLOPs / measured matrix peak and bytes / measured bandwidth. FLOPs are counted on the traced
program. Bytes are those that the compiled, fused program reads and writes by XLA's own analysis;
with caches a stage can be faster than that.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.nets.vqgan import VQGAN
from hiresmed_jax.runtime import compilation, cost

Stage = tuple[str, Callable[[Any, Any], Any]]


def peaks(dtype: Any) -> dict[str, float]:
  """Best of several: matrix product in FLOP/s in `dtype`, and a float32 a + b in bytes/s."""
  gpu = jax.default_backend() != "cpu"
  side, length = (8192, 1 << 28) if gpu else (1536, 1 << 24)
  square = jnp.ones((side, side), dtype)
  vectors = jnp.ones((2, length), jnp.float32)
  product = _ready(lambda a: a @ a, square)
  total = _ready(lambda v: v[0] + v[1], vectors)
  return {
    "matmul_flops_per_second": 2.0 * side**3 / min(_times(product, 10)),
    "bytes_per_second": 3.0 * 4 * length / min(_times(total, 10)),
  }


def stages(
  net: VQGAN, params: Any, images_m11: Any, *, peak: dict[str, float], rounds: int
) -> list[dict[str, Any]]:
  """One row a stage, forward + backward: GFLOP, GB, floor and median time in ms, floor / median.

  Args:
    net: its computation dtype decides what is timed.
    params: of the network.
    images_m11: [N, H, W, in_channels].
    peak: of `peaks`.
    rounds: timed calls of each stage.
  """
  rows = []
  x: Any = images_m11
  for name, run in _stages(net):
    forward = functools.partial(_apply, net, run)
    shape = jax.eval_shape(forward, params, x)
    grad = jnp.ones(shape.shape, shape.dtype)
    passes = functools.partial(_passes, forward)
    lowered = jax.jit(passes).lower(params, x, grad)
    compiled = lowered.compile(compilation.options())
    call = functools.partial(compiled, params, x, grad)
    flops = sum(cost.flops(cost.trace(passes, params, x, grad)).values())
    analysis: Any = compiled.cost_analysis()
    moved = float(analysis["bytes accessed"])
    floor = max(flops / peak["matmul_flops_per_second"], moved / peak["bytes_per_second"])
    call()
    median = statistics.median(_times(call, rounds))
    rows.append(
      {
        "stage": name,
        "output": list(shape.shape),
        "gflop": flops / 1e9,
        "gbytes": moved / 1e9,
        "bound": "memory" if floor > flops / peak["matmul_flops_per_second"] else "arithmetic",
        "floor_ms": 1e3 * floor,
        "median_ms": 1e3 * median,
        "share_of_floor": floor / median,
      }
    )
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape.shape, np.float32), shape.dtype)
  return rows


def _stages(net: VQGAN) -> list[Stage]:
  """(name, function of the network and the previous stage's output), in the order of the data."""

  def indexed(group: str, index: int) -> Callable[[Any, Any], Any]:
    return lambda module, x: getattr(module, group)[index](x, False)

  def last(module: Any, x: Any) -> Any:
    return module.decoder_tail(*module.decoder_stages[-1](x, False, apart=True))

  count = len(net.strides)
  return [
    ("stem", lambda module, x: module.stem(x)),
    *((f"encoder {i + 1}", indexed("encoder_stages", i)) for i in range(count)),
    ("encoder middle", lambda module, x: module.encoder_middle(x, False)),
    ("latents", lambda module, x: module.latent_conv(module.latent_norm(x).astype(jnp.float32))),
    ("codes, middle", lambda module, x: module.decoder_middle(module.code_conv(x), False)),
    *((f"decoder {i + 1}", indexed("decoder_stages", i)) for i in range(count - 1)),
    (f"decoder {count}, detail", last),
    ("head", lambda module, x: module.head(x)),
  ]


def _apply(net: VQGAN, run: Callable[[Any, Any], Any], params: Any, x: Any) -> Any:
  return net.apply({"params": params}, x, method=run)


def _passes(forward: Callable[[Any, Any], Any], params: Any, x: Any, grad: Any) -> Any:
  out, backward = jax.vjp(forward, params, x)
  return out, backward(grad)


def _ready(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
  compiled = jax.jit(function).lower(*arguments).compile(compilation.options())
  call = functools.partial(compiled, *arguments)
  jax.block_until_ready(call())
  return call


def _times(call: Callable[[], Any], rounds: int) -> list[float]:
  seconds = []
  for _ in range(rounds):
    start = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - start)
  return seconds
