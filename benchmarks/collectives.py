"""The communication of a compiled program, read from its text: counts and bytes by kind.

The text is XLA's HLO after partitioning, the program of one device. The traffic on the network
depends on the algorithm (a ring all-reduce of n devices sends 2 (n - 1) / n of the operand's
bytes), so the bytes of the operands are counted.
"""

from typing import NamedTuple

from benchmarks import hlo

KINDS = (
  *("all-reduce", "all-gather", "reduce-scatter", "collective-permute"),
  *("all-to-all", "ragged-all-to-all", "collective-broadcast"),
)


class Traffic(NamedTuple):
  """How often a kind of collective runs in a step, and the bytes that one device puts into it."""

  times: int
  bytes: int


def collectives(program: hlo.Program) -> dict[str, Traffic]:
  """Collectives of a compiled program by kind, in the order of KINDS; absent kinds are left out.

  An asynchronous pair counts once, by its start. The body of a loop and a called computation count
  once, however often they run.
  """
  found: dict[str, Traffic] = {}
  for computation in program.computations.values():
    for one in computation.values():
      kind = one.operation.removesuffix("-start")
      if kind in KINDS:
        known = found.get(kind, Traffic(0, 0))
        more = sum(hlo.shape_bytes(computation[operand].shape) for operand in one.operands)
        found[kind] = Traffic(known.times + 1, known.bytes + more)
  return {kind: found[kind] for kind in KINDS if kind in found}
