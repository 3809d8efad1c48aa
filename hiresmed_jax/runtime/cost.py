"""What a function will cost, by its trace, and what a run costs: its rate and memory.

`flops` counts a trace's arithmetic by module; `peak_bytes` follows which of its arrays are alive at
once. Nothing is compiled, allocated or run. JAX's own `cost_analysis` knows no modules, counts a
loop's body once, and has no memory without compiling for the device.
"""

import collections
import contextlib
import functools
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core

# Arithmetic on floats: one operation per output element.
_ELEMENTWISE = frozenset(
  "add add_any sub mul div neg abs sign max min exp exp2 expm1 log log1p tanh logistic erf erf_inv "
  "sqrt rsqrt cbrt pow integer_pow square sin cos atan2 floor round clamp".split()
)
# These read every input element once.
_REDUCTIONS = frozenset(
  "reduce_sum reduce_max reduce_min reduce_prod argmax argmin cumsum reduce_window_sum "
  "reduce_window_max".split()
)
# What a compiler computes on the way into the next kernel, and never stores.
_FUSED = _ELEMENTWISE | frozenset(
  "select_n convert_element_type broadcast_in_dim reshape squeeze expand_dims stop_gradient copy "
  "eq ne lt le gt ge and or not is_finite iota transpose rev slice pad".split()
)


def trace(fn: Callable[..., Any], *args: Any) -> core.Jaxpr:
  """The program of a pure function for arguments that may be `jax.ShapeDtypeStruct`s."""
  return jax.make_jaxpr(fn)(*args).jaxpr


def flops(program: core.Jaxpr) -> dict[str, float]:
  """Floating-point operations of one run, by the module that does them.

  A multiply-add is two. Convolutions and matrix products are counted by their shapes, padding
  included; other arithmetic is one operation per element. A scan counts its body as often as it
  runs, a while loop once, a branch as its dearest side, the body of a `shard_map` once for each
  device. Of ways that depend on the platform the cheapest counts.

  Returns:
    {"outer/inner" path of Flax modules, "" outside of any: FLOPs}, in the order of the program.
  """
  counts: dict[str, float] = collections.defaultdict(float)
  for path, count in _count(program, ()):
    counts["/".join(path)] += count
  return dict(counts)


def peak_bytes(program: core.Jaxpr) -> int:
  """Most bytes of intermediate arrays alive at once, in the order of the program.

  Neither arguments nor results are counted: a donated state is updated where it lies. Results that
  are made element by element are taken as fused into what reads them, and rematerialised bodies as
  computed where they stand. An estimate: a compiler may reorder, copy for another layout, need
  workspace, or be cleverer.
  """
  return _peak(program, free=frozenset(v for v in program.outvars if isinstance(v, core.Var)))


def _count(jaxpr: core.Jaxpr, outside: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
  for eqn in jaxpr.eqns:
    # Parts with a dot are methods and parts with brackets transformations, not modules.
    scope = str(eqn.source_info.name_stack).split("/")
    path = outside + tuple(part for part in scope if part.isidentifier() and part.islower())
    inner = _inner(eqn)
    if inner:
      times = _times(eqn)
      bodies = [list(_count(body, path)) for body in inner]
      choose = min if eqn.params.get("branches_platforms") else max
      counted = choose(bodies, key=lambda body: sum(count for _, count in body))
      yield from ((where, count * times) for where, count in counted)
    else:
      yield path, _operations(eqn)


def _times(eqn: Any) -> int:
  """How often an equation's body runs; what every device runs, over all devices."""
  if eqn.primitive.name == "scan":
    return int(eqn.params["length"])
  if eqn.primitive.name == "reduce":  # of one value and what is summed up so far
    return int(eqn.invars[0].aval.size)
  return int(eqn.params["mesh"].size) if eqn.primitive.name == "shard_map" else 1


def _operations(eqn: Any) -> float:
  name = eqn.primitive.name
  out = eqn.outvars[0].aval
  if name == "conv_general_dilated":
    kernel, numbers = eqn.invars[1].aval, eqn.params["dimension_numbers"]
    per_output = math.prod(kernel.shape) / kernel.shape[numbers.rhs_spec[0]]
    # Zeros that dilation puts between the inputs are not work.
    return 2.0 * out.size * per_output / math.prod(eqn.params["lhs_dilation"])
  if name == "dot_general":
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval
    return 2.0 * out.size * math.prod(left.shape[axis] for axis in contracted)
  if not jax.numpy.issubdtype(getattr(out, "dtype", bool), jax.numpy.floating):
    return 0.0
  if name in _ELEMENTWISE:
    return float(out.size)
  return float(eqn.invars[0].aval.size) if name in _REDUCTIONS else 0.0


def _peak(jaxpr: core.Jaxpr, free: frozenset[Any] = frozenset()) -> int:
  """Walks the equations in order; an array lives from its equation to its last reader.

  `free` variables take no memory of their own.
  """
  last = _last_readers(jaxpr)
  ends: dict[int, list[int]] = collections.defaultdict(list)
  alive = peak = 0
  for index, eqn in enumerate(jaxpr.eqns):
    made = 0
    if eqn.primitive.name not in _FUSED:
      for var in eqn.outvars:
        size = 0 if var in free else _bytes(var.aval)
        made += size
        ends[last.get(var, index)].append(size)
    inside = max((_peak(body) for body in _inner(eqn)), default=0)
    # A body's own results are counted within it, so the two are not added.
    peak = max(peak, alive + max(made, inside))
    alive += made - sum(ends.pop(index, ()))
  return peak


def _last_readers(jaxpr: core.Jaxpr) -> dict[Any, int]:
  """Index of the last equation that reads each variable, through fused ones; outputs never end."""
  end = len(jaxpr.eqns)
  last: dict[Any, int] = {var: end for var in jaxpr.outvars if isinstance(var, core.Var)}
  for index in reversed(range(end)):
    eqn = jaxpr.eqns[index]
    reader = index
    if eqn.primitive.name in _FUSED:
      # A fused result is never stored: whoever reads it reads its inputs.
      reader = max(last.get(var, index) for var in eqn.outvars)
    for var in eqn.invars:
      if isinstance(var, core.Var):
        last[var] = max(last.get(var, 0), reader)
  return last


def _inner(eqn: Any) -> list[core.Jaxpr]:
  """Programs that an equation runs: a call's body, all sides of a branch."""
  found: list[Any] = []
  for key, value in eqn.params.items():
    if key in ("jaxpr", "call_jaxpr", "body_jaxpr", "branches", "fun_jaxpr"):
      found += value if isinstance(value, tuple) else [value]
  return [getattr(body, "jaxpr", body) for body in found]


@functools.cache
def _bytes_of(shape: tuple[int, ...], dtype: Any) -> int:
  return math.prod(shape) * dtype.itemsize


def _bytes(aval: Any) -> int:
  return _bytes_of(aval.shape, aval.dtype) if hasattr(aval, "shape") else 0


def tree_bytes(tree: Any, shards: Any = None) -> int:
  """Bytes of a pytree of arrays or shapes; with `shards`, a tree of shardings, of one device."""
  leaves: Sequence[Any] = jax.tree.leaves(tree)
  if shards is None:
    return sum(_bytes(leaf) for leaf in leaves)
  shardings = jax.tree.leaves(shards)
  pairs = zip(leaves, shardings, strict=True)
  return sum(_bytes_of(s.shard_shape(leaf.shape), leaf.dtype) for leaf, s in pairs)


class Rate:
  """Images and FLOPs per second between two measurements, pauses left out.

  Args:
    batch_size: images of one step, over all processes.
    flops_per_step: over all devices, from `flops`; NaN when unknown.
    step: where the run begins; without it the first call of `measure` only starts the clock.
  """

  def __init__(self, batch_size: int, flops_per_step: float, *, step: int | None = None) -> None:
    self._batch_size, self._flops_per_step = batch_size, flops_per_step
    self._step = step
    self._since = time.perf_counter()
    self._paused = 0.0

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Time spent within does not count: evaluation, figures, checkpoints."""
    began = time.perf_counter()
    try:
      yield
    finally:
      self._paused += time.perf_counter() - began

  def measure(self, step: int) -> dict[str, float]:
    """Figures since the last call; the step's arrays must be ready, as after reading its losses.

    Returns:
      "images_per_second", "tflops_per_second" (where the FLOPs are known), and `peak_memory()`.
    """
    now = time.perf_counter()
    seconds, self._since, self._paused = now - self._since - self._paused, now, 0.0
    figures = peak_memory()
    if self._step is not None and step > self._step and seconds > 0:
      steps_per_second = (step - self._step) / seconds
      figures["images_per_second"] = steps_per_second * self._batch_size
      if math.isfinite(self._flops_per_step):
        figures["tflops_per_second"] = steps_per_second * self._flops_per_step / 1e12
    self._step = step
    return figures


def xla_flops(lowered: Any) -> float:
  """FLOPs of one call over all devices by XLA, NaN when the backend does not tell.

  `lowered` is `jitted.lower(...)`, before `.compile()`: a compiled program tells of one device's
  share, and of whatever rewriting the compiler has done. A multiply-add is two. The body of a loop
  is counted once, whatever its trip count.
  """
  analysis = lowered.cost_analysis()
  return float((analysis or {}).get("flops", math.nan))


def peak_memory() -> dict[str, float]:
  """Most memory that was in use at once since the process began, in bytes, named for what it is.

  "peak_device_memory_bytes" is the fullest local device's; on the CPU, which has no memory of its
  own, "peak_resident_memory_bytes" is the whole process's resident set.
  """
  stats = [device.memory_stats() for device in jax.local_devices()]
  peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
  if peaks:
    return {"peak_device_memory_bytes": float(max(peaks))}
  unit = 1 if sys.platform == "darwin" else 1024
  resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  return {"peak_resident_memory_bytes": float(resident)}
