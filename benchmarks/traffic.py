"""What the kernels of a compiled program move, read from its text, without its device.

A kernel is what is launched by itself: a fusion, a call of cuDNN or cuBLAS, a copy, a sort, a
collective. Its traffic is its operands and its results, each once: what cannot stay in a cache.
What a fusion only slices is charged for what it reads, what it updates in place for the update; a
loop's body counts as often as it runs; a library's workspace is counted apart.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import hlo

# Instructions that launch nothing; an asynchronous pair is charged at its start.
_FREE = frozenset(
  "parameter constant get-tuple-element tuple bitcast opt-barrier after-all partition-id "
  "replica-id domain add-dependency async-update async-done copy-done send-done recv-done "
  "all-reduce-done all-gather-done collective-permute-done".split()
)
_MOVES = frozenset(
  "parameter constant get-tuple-element tuple bitcast broadcast reshape transpose copy slice "
  "concatenate pad reverse iota convert dynamic-slice dynamic-update-slice gather select "
  "bitcast-convert opt-barrier".split()
)
_SLICES = ("slice", "dynamic-slice", "gather")
_REDUCES = ("reduce", "reduce-window")
_CONVOLUTION = re.compile(r"__cudnn\$conv")
_PRODUCT = re.compile(r"__cublas|__triton|gemm")
_LAYOUT = ("copy", "transpose")
_WORKSPACE = ("u8", "s8")
_LARGE = 4 << 20  # bytes


class Kernel(NamedTuple):
  """One launched kernel, as often as it runs in a step."""

  name: str
  kind: str  # "convolution", "product", "copy", "collective" or "other"
  times: int
  read: int  # bytes of one run
  written: int
  wide: int  # bytes of `read` and `written` in float32, of arrays of a million elements and more
  workspace: int
  flops: int  # of one run of a fusion: arithmetic and sums, an operation each
  module: str
  source: str
  shapes: str  # operands -> results

  @property
  def bytes(self) -> int:
    return self.times * (self.read + self.written)


def kernels(program: hlo.Program) -> list[Kernel]:
  """The kernels of a program in the order in which they run."""
  return list(_kernels(program, program.entry, 1))


def _kernels(program: hlo.Program, name: str, times: int) -> Iterator[Kernel]:
  computation = program.computations[name]
  for one in computation.values():
    if one.operation in _FREE:
      continue
    if one.operation == "while":
      yield from _kernels(program, one.attribute("body"), times * trips(one))
    elif one.operation == "conditional":
      # The dearest branch.
      branches = [list(_kernels(program, branch, times)) for branch in _branches(one)]
      yield from max(branches, key=lambda found: sum(k.bytes for k in found))
    elif called := _called(one):
      yield from _kernels(program, called, times)
    else:
      yield _kernel(program, computation, one, times)


def trips(loop: hlo.Instruction) -> int:
  """How often a loop runs; 1 where the compiler does not know."""
  found = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
  return int(found[1]) if found else 1


def _called(one: hlo.Instruction) -> str:
  if one.operation == "call":
    return one.attribute("to_apply")
  return one.attribute("calls") if one.operation == "async-start" else ""


def _branches(one: hlo.Instruction) -> list[str]:
  listed = re.search(r"branch_computations=\{([^}]*)\}", one.rest)
  if listed:
    return [name.strip().removeprefix("%") for name in listed[1].split(",")]
  return [one.attribute("true_computation"), one.attribute("false_computation")]


def _kernel(
  program: hlo.Program, computation: hlo.Computation, one: hlo.Instruction, times: int
) -> Kernel:
  body = program.computations.get(one.attribute("calls"), {}) if one.operation == "fusion" else {}
  shapes = [computation[name].shape for name in one.operands]
  results = hlo.array_bytes(one.shape)
  workspace = 0
  if one.operation == "custom-call" and len(results) > 1 and results[-1][0] in _WORKSPACE:
    workspace = results.pop()[1]
  reads, kept = _reads(one, body, shapes)
  # A value that is read under two names counts once.
  once: dict[tuple[str, ...], int] = {}
  for name, size in zip(one.operands, reads):
    origin = _origin(computation, name)
    once[origin] = max(size, once.get(origin, 0))
  arrays = [*results, *(array for shape in shapes for array in hlo.array_bytes(shape))]
  return Kernel(
    name=one.name,
    kind=_kind(one, body),
    times=times,
    read=sum(once.values()),
    written=sum(size for _, size in results) - kept,
    wide=sum(size for dtype, size in arrays if dtype == "f32" and size >= _LARGE),
    workspace=workspace,
    flops=sum(_flops(body, inner) for inner in body.values()),
    module=module(one.rest),
    source=program.sources.get(_frame(one.rest), ""),
    shapes=f"{', '.join(_short(s) for s in shapes)} -> {_short(one.shape)}",
  )


def _origin(computation: hlo.Computation, name: str) -> tuple[str, ...]:
  """What a name stands for: through bitcasts and tuples, so that a value read twice counts once."""
  path: list[str] = []
  while True:
    one = computation[name]
    if one.operation == "get-tuple-element":
      path.append(one.attribute("index"))
      name = one.operands[0]
    elif one.operation == "bitcast":
      name = one.operands[0]
    elif one.operation in ("tuple", "opt-barrier") and path:
      if one.operation == "tuple":
        name = one.operands[int(path.pop())]
      else:
        name = one.operands[0]
    else:
      return (name, *path)


def _short(shape: str) -> str:
  """Without layouts."""
  return re.sub(r"\{[^}]*\}", "", shape)


def _frame(rest: str) -> str:
  found = re.search(r"stack_frame_id=(\d+)", rest)
  return found[1] if found else ""


def module(rest: str) -> str:
  """The layers of an instruction's `op_name`, and "back" where it is of the backward pass."""
  found = re.search(r'op_name="([^"]*)"', rest)
  if not found:
    return ""
  back = ", back" if "transpose(" in found[1] else ""
  plain = re.sub(r"\w+\(|\)", "", found[1])
  return "/".join(plain.split("/")[1:-1]) + back


def _kind(one: hlo.Instruction, body: hlo.Computation) -> str:
  target = re.search(r'custom_call_target="([^"]*)"', one.rest)
  if one.operation == "convolution" or (target and _CONVOLUTION.match(target[1])):
    return "convolution"
  if one.operation == "dot" or _PRODUCT.search(target[1] if target else "") or _is_gemm(one):
    return "product"
  if one.operation.startswith(("all-", "reduce-scatter", "collective-", "ragged-")):
    return "collective"
  inner = {i.operation for i in body.values()} - {"parameter", "bitcast", "tuple"}
  if one.operation in _LAYOUT or (inner and inner <= set(_LAYOUT)):
    return "copy"
  return "other"


def _is_gemm(one: hlo.Instruction) -> bool:
  return one.operation == "fusion" and "__triton" in one.rest and "gemm" in one.rest


def _reads(one: hlo.Instruction, body: hlo.Computation, shapes: list[str]) -> tuple[list[int], int]:
  """(bytes read of each operand, bytes of the results that an update in place leaves alone)."""
  sizes, kept = [hlo.shape_bytes(shape) for shape in shapes], 0
  if one.operation in _SLICES:
    sizes[0] = hlo.shape_bytes(one.shape)
  elif one.operation == "dynamic-update-slice":
    kept, sizes[0] = sizes[0] - sizes[1], 0
  for number, name in enumerate(_parameters(body)):
    readers, same = _readers(body, name)
    operations = {reader.operation for reader in readers}
    heads = all(reader.operands[0] in same for reader in readers)
    if readers and heads and operations <= set(_SLICES):
      sliced = sum(hlo.shape_bytes(reader.shape) for reader in readers)
      sizes[number] = min(sizes[number], sliced)
    elif len(readers) == 1 and heads and operations == {"dynamic-update-slice"}:
      kept += sizes[number] - hlo.shape_bytes(body[readers[0].operands[1]].shape)
      sizes[number] = 0
  return sizes, kept


def _parameters(body: hlo.Computation) -> list[str]:
  """Names of a computation's parameters in their order."""
  found = {int(one.operands[0]): one.name for one in body.values() if one.operation == "parameter"}
  return [found[number] for number in sorted(found)]


def _readers(body: hlo.Computation, name: str) -> tuple[list[hlo.Instruction], set[str]]:
  """What reads a value, through bitcasts, and the names that it has."""
  same, found = {name}, []
  for one in body.values():
    if not same.isdisjoint(one.operands):
      if one.operation == "bitcast":
        same.add(one.name)
      else:
        found.append(one)
  return found, same


def _flops(body: hlo.Computation, one: hlo.Instruction) -> int:
  if one.operation in _REDUCES:
    return sum(hlo.elements(body[name].shape) for name in one.operands if name in body)
  return 0 if one.operation in _MOVES else hlo.elements(one.shape)
