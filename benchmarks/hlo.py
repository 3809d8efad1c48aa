"""XLA's HLO text, the program of one device after its compiler, as Python values.

`compiled.as_text()` has computations of instructions; those of a fusion, of a loop's body and of
the entry look alike. Tables of source files and lines stand before them.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

_BEGIN = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_OPERATION = re.compile(r"(?:^|\s)([a-z][\w-]*)\(")
_COMMENT = re.compile(r"/\*.*?\*/")
_NAME = re.compile(r"[\w.-]+")
_ROW = re.compile(r"^(\d+) (?:\"(.*)\"|\{(.*)\})$")


class Instruction(NamedTuple):
  """`name` = `shape` `operation`(`operands`), `rest`."""

  name: str
  shape: str
  operation: str
  operands: tuple[str, ...]
  rest: str  # attributes, metadata, the backend's configuration
  root: bool  # whether it is the result of its computation

  def attribute(self, key: str) -> str:
    """The name after "key=", such as calls=%fused_add; "" where there is none."""
    found = re.search(rf"\b{key}=%?([\w.-]+)", self.rest)
    return found[1] if found else ""


Computation = Mapping[str, Instruction]  # by name, in the order of the text


class Program(NamedTuple):
  """A compiled program's computations by name, and where the source of an instruction is."""

  entry: str
  computations: Mapping[str, Computation]
  sources: Mapping[str, str]  # stack frame -> "file.py:line" of the innermost call in the package


def parse(hlo: str, *, package: str = "hiresmed_jax/") -> Program:
  """Reads `compiled.as_text()`; sources are told relative to `package`."""
  entry = ""
  computations: dict[str, dict[str, Instruction]] = {}
  current: dict[str, Instruction] = {}
  for line in hlo.splitlines():
    begins = _BEGIN.match(line)
    if begins:
      current = computations[begins[2]] = {}
      entry = begins[2] if begins[1] else entry
    elif line.startswith("}"):
      current = {}
    elif found := _instruction(line):
      current[found.name] = found
  return Program(entry, computations, _sources(hlo, package))


def array_bytes(shape: str) -> list[tuple[str, int]]:
  """(element type, bytes) of each array of a shape such as "f32[3,8]{1,0}" or "(f32[], u8[4])"."""
  return [
    (dtype, math.ceil(_count(sides) * _bits(dtype) / 8)) for dtype, sides in _ARRAY.findall(shape)
  ]


def shape_bytes(shape: str) -> int:
  """Bytes of all arrays of a shape."""
  return sum(size for _, size in array_bytes(shape))


def elements(shape: str) -> int:
  """Elements of all arrays of a shape."""
  return sum(_count(sides) for _, sides in _ARRAY.findall(shape))


def _count(sides: str) -> int:
  return math.prod(int(n) for n in sides.split(",") if n)


def _bits(dtype: str) -> int:
  if dtype == "pred":
    return 8
  if dtype in ("token", "opaque"):
    return 0
  found = re.match(r"[a-z]+(\d+)", dtype)
  if not found:
    raise ValueError(f"an element type that is not known: {dtype}")
  return int(found[1])


def _instruction(line: str) -> Instruction | None:
  found = _INSTRUCTION.match(line)
  text = found and _COMMENT.sub("", found[3])
  operation = text and _OPERATION.search(text)
  if not found or not text or not operation:
    return None
  shape, arguments = text[: operation.start()], text[operation.end() :]
  depth, end = 1, 0
  while end < len(arguments) and depth:
    depth += {"(": 1, ")": -1}.get(arguments[end], 0)
    end += 1
  operands = _operands(arguments[: end - 1])
  return Instruction(found[2], shape, operation[1], operands, arguments[end:], bool(found[1]))


def _operands(inside: str) -> tuple[str, ...]:
  """Names of the operands; some versions print each one's shape before it."""
  plain = re.sub(r"[\[{(][^\[\]{}()]*[\]})]", "", inside)
  names = (part.split()[-1] for part in plain.split(",") if part.split())
  return tuple(found[0] for name in names if (found := _NAME.search(name.removeprefix("%"))))


def _sources(hlo: str, package: str) -> dict[str, str]:
  """Stack frame -> the innermost place in the package."""
  tables: dict[str, dict[int, str]] = {}
  table: dict[int, str] = {}
  for line in hlo.splitlines():
    if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
      table = tables[line] = {}
    elif found := _ROW.match(line):
      table[int(found[1])] = found[2] if found[2] is not None else found[3]
    elif line.startswith(("%", "ENTRY")):
      break

  def places(frame: int) -> str:
    while frame in tables["StackFrames"]:
      location, parent = (int(n) for n in re.findall(r"=(\d+)", tables["StackFrames"][frame]))
      file, _, line, *_ = (int(n) for n in re.findall(r"=(\d+)", tables["FileLocations"][location]))
      name = tables["FileNames"][file]
      if package in name:
        return f"{name.rpartition(package)[2]}:{line}"
      if parent - 1 >= frame:
        break
      frame = parent - 1
    return ""

  return {str(frame): places(frame) for frame in tables.get("StackFrames", {})}
