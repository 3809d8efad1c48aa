import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import hlo
from benchmarks.collectives import Traffic
from benchmarks.collectives import collectives as count
from benchmarks.hlo import shape_bytes
from hiresmed_jax.runtime import mesh as meshes

# Written by hand after what XLA prints: tuples, comments, layouts, pairs, operands with shapes.
TEXT = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%body (x: bf16[8]) -> bf16[8] {
  %x = bf16[8]{0} parameter(0)
  ROOT %collective-permute.2 = bf16[8]{0} collective-permute(%x), source_target_pairs={{0,1}}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0), metadata={op_name="all-reduce(nothing)"}
  %q = u8[3,5]{1,0:T(8,128)S(1)} constant({...})
  %all-reduce.7 = (f32[4]{0}, /*index=1*/u8[3,5]{1,0}) all-reduce(%p, /*index=1*/%q), \
replica_groups={{0,1},{2,3}}, to_apply=%add
  %g.0 = f32[4]{0} get-tuple-element(%all-reduce.7), index=0
  %start = (f32[4]{0}, f32[16]{0}) all-gather-start(f32[4]{0} %g.0), dimensions={0}
  %done = f32[16]{0} all-gather-done((f32[4]{0}, f32[16]{0}) %start)
  %all-reduce.8 = f32[16]{0} all-reduce(%done), to_apply=%add
  %rs = f32[4]{0} reduce-scatter(%all-reduce.8), dimensions={0}, to_apply=%add
  ROOT %a2a = f32[4]{0} all-to-all(%rs), dimensions={0}
}
"""


def collectives(text):
  return count(hlo.parse(text))


def test_a_program_written_by_hand():
  assert collectives(TEXT) == {
    "all-reduce": Traffic(2, 4 * 4 + 15 + 16 * 4),
    "all-gather": Traffic(1, 4 * 4),
    "reduce-scatter": Traffic(1, 16 * 4),
    "collective-permute": Traffic(1, 8 * 2),
    "all-to-all": Traffic(1, 4 * 4),
  }


@pytest.mark.parametrize(
  ("shape", "size"),
  [
    ("f32[]", 4),
    ("bf16[3,8]{1,0}", 48),
    ("pred[5]{0}", 5),
    ("s4[3]{0:E(4)}", 2),
    ("f8e4m3fn[2,2]", 4),
    ("c64[2]", 16),
    ("(f32[2]{0}, (u32[], token[]))", 12),
    ("f32[0,7]", 0),
  ],
)
def test_bytes_of_a_shape(shape, size):
  assert shape_bytes(shape) == size


def test_an_unknown_element_type_is_told():
  with pytest.raises(ValueError, match="not known: fancy"):
    shape_bytes("fancy[3]")


def compiled(fn, *shapes):
  return collectives(jax.jit(fn).lower(*shapes).compile().as_text())


def test_what_the_compiler_makes():
  mesh = meshes.make_mesh(data=2, fsdp=4)
  split = NamedSharding(mesh, P(("data", "fsdp")))
  columns = NamedSharding(mesh, P(None, "fsdp"))
  batch = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=split)
  kernel = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=columns)

  def loss(kernel, batch):
    return jnp.sum(jnp.square(batch @ kernel))

  assert compiled(lambda x: x + 1.0, batch) == {}
  # The sum over all devices: one number from each.
  assert compiled(jnp.sum, batch) == {"all-reduce": Traffic(1, 4)}
  # A device gives its quarter of the columns, or its own rows, whichever is less.
  gathered = compiled(
    lambda kernel: jax.lax.with_sharding_constraint(kernel, NamedSharding(mesh, P())), kernel
  )
  assert gathered == {"all-gather": Traffic(1, 32 * 16 * 4)}
  assert "all-reduce" in compiled(jax.grad(loss), kernel, batch)
