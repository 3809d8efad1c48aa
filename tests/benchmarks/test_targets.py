"""What the compilers of described devices make of the regions; only where they are installed."""

import re

import jax
import jax.numpy as jnp
import pytest

from benchmarks import device_programs, hlo, targets, traffic
from hiresmed_jax.errors import UserError
from hiresmed_jax.nets import blocks
from hiresmed_jax.runtime.devices import DEVICES

ONE = 8 * 256 * 256 * 32 * 2  # bytes of a tensor of the block in bfloat16


def moved(form, *shapes):
  """(bytes in units of ONE, kernels) of a function's forward and backward pass on an H200."""
  mesh = jax.sharding.Mesh(targets.devices("h200"), ("data",))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  def passes(arguments, grad):
    out, back = jax.vjp(form, *arguments)
    return out, back(grad)

  *arguments, grad = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes
  )
  compiled = jax.jit(passes).lower(tuple(arguments), grad).compile()
  found = traffic.kernels(hlo.parse(compiled.as_text()))
  return sum(k.bytes for k in found) / ONE, len(found)


def apply(net, params, *args):
  return net.apply({"params": params}, *args)


if targets.installed("h200"):

  def test_a_block_reads_and_writes_no_more_than_it_must():
    net, x = blocks.HDFB(32, dtype=jnp.bfloat16), jnp.zeros((1, 8, 8, 32))
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x, False))["params"]
    image = jax.ShapeDtypeStruct((8, 256, 256, 32), jnp.bfloat16)
    units, kernels = moved(lambda params, x: apply(net, params, x, True), params, image, image)
    # Counted by hand: 19 forwards and 34 backwards, and one sum that another kernel may take.
    assert units < 54.5
    assert kernels < 65


def test_targets_are_described_by_positive_numbers():
  for target in DEVICES.values():
    assert min(target.bytes_per_second, target.flops_per_second, target.memory) > 0


def test_what_is_not_described_is_told(monkeypatch):
  monkeypatch.setattr(targets, "installed", lambda name: False)
  with pytest.raises(UserError, match=r"launch/targets\.sh"):
    targets.devices("h200")
  monkeypatch.setattr(targets, "installed", lambda name: True)
  with pytest.raises(UserError, match="no slice of v5e with 7 devices"):
    targets.devices("v5e", 7)


def test_a_route_is_planned_for_a_device_in_its_number_format():
  program = device_programs.Program("demo.py:danger")
  task, batch = device_programs.planned(program._replace(devices=2), "bfloat16")
  assert batch["images_m11"].shape[0] == 8
  state = jax.eval_shape(task.init, jax.random.key(0))
  step = jax.make_jaxpr(task.train_step)(state, batch, task.frozen)
  assert re.search(r"bf16\[[\d,]+\] = conv_general_dilated", str(step))
