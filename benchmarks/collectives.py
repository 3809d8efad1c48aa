"""The communication of a compiled program, read from its text: counts and bytes by kind.

The text is XLA's HLO after partitioning, the program of one device. The traffic on the network
depends on the algorithm (a ring all-reduce of n devices sends 2 (n - 1) / n of the operand's
bytes), so the bytes of the operands are counted.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
  *("all-reduce", "all-gather", "reduce-scatter", "collective-permute"),
  *("all-to-all", "ragged-all-to-all", "collective-broadcast"),
)
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_OPERATION = re.compile(r"(?:^|\s)([a-z][\w-]*)\(")
_COMMENT = re.compile(r"/\*.*?\*/")
_NAME = re.compile(r"[\w.-]+")


class Traffic(NamedTuple):
  """How often a kind of collective runs in a step, and the bytes that one device puts into it."""

  times: int
  bytes: int


def collectives(hlo: str) -> dict[str, Traffic]:
  """Collectives of a compiled program by kind, in the order of KINDS; absent kinds are left out.

  An asynchronous pair counts once, by its start. The body of a loop and a called computation count
  once, however often they run.

  Args:
    hlo: `compiled.as_text()`.
  """
  sizes: dict[str, int] = {}
  found: dict[str, Traffic] = {}
  for name, shape, operation, operands in _instructions(hlo):
    if name is None:  # another computation begins, which may use the same names
      sizes = {}
      continue
    sizes[name] = shape_bytes(shape)
    kind = operation.removesuffix("-start")
    if kind in KINDS:
      known = found.get(kind, Traffic(0, 0))
      more = sum(sizes[operand] for operand in operands)
      found[kind] = Traffic(known.times + 1, known.bytes + more)
  return {kind: found[kind] for kind in KINDS if kind in found}


def shape_bytes(shape: str) -> int:
  """Bytes of an HLO shape such as "f32[3,8]{1,0}" or a tuple "(f32[], u8[4])"."""
  return sum(
    math.ceil(math.prod(int(n) for n in sides.split(",") if n) * _bits(dtype) / 8)
    for dtype, sides in _ARRAY.findall(shape)
  )


def _bits(dtype: str) -> int:
  if dtype == "pred":
    return 8
  if dtype in ("token", "opaque"):
    return 0
  found = re.match(r"[a-z]+(\d+)", dtype)
  if not found:
    raise ValueError(f"an element type that is not known: {dtype}")
  return int(found[1])


def _instructions(hlo: str) -> Iterator[tuple[str | None, str, str, list[str]]]:
  """(name, shape, operation, operands) of each instruction; (None, ...) where a computation ends"""
  for line in hlo.splitlines():
    if line.startswith("}"):
      yield None, "", "", []
    found = _INSTRUCTION.match(line)
    operation = found and _OPERATION.search(_COMMENT.sub("", found[2]))
    if not found or not operation:
      continue
    rest = _COMMENT.sub("", found[2])
    shape, arguments = rest[: operation.start()], rest[operation.end() :]
    yield found[1], shape, operation[1], _operands(arguments)


def _operands(arguments: str) -> list[str]:
  """Names up to the bracket that closes; some versions print each operand's shape before it."""
  depth, end = 1, 0
  while end < len(arguments) and depth:
    depth += {"(": 1, ")": -1}.get(arguments[end], 0)
    end += 1
  inside = re.sub(r"[\[{(][^\[\]{}()]*[\]})]", "", arguments[: end - 1])
  names = (part.split()[-1] for part in inside.split(",") if part.split())
  return [found[0] for name in names if (found := _NAME.search(name.removeprefix("%")))]
