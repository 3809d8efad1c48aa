import contextlib
import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.runtime import cost

KIB = 1024


def array(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def total(fn, *args):
  return sum(cost.flops(cost.trace(fn, *args)).values())


def test_matrix_product_and_elementwise():
  assert total(lambda a, b: a @ b, array(3, 5), array(5, 7)) == 2 * 3 * 5 * 7
  assert total(lambda a: jnp.tanh(a) + 1.0, array(4, 4)) == 2 * 16
  assert total(lambda a: jnp.sum(a), array(4, 4)) == 16
  assert total(lambda a: a + 1, array(4, 4, dtype=jnp.int32)) == 0


def test_convolution():
  net = nn.Conv(8, (3, 3), strides=(2, 2), use_bias=False)
  params = jax.eval_shape(net.init, jax.random.key(0), array(2, 8, 8, 4))
  assert total(net.apply, params, array(2, 8, 8, 4)) == 2 * (2 * 4 * 4 * 8) * (3 * 3 * 4)


def test_a_scan_counts_as_often_as_it_runs_and_a_branch_once():
  def loop(x):
    return jax.lax.scan(lambda c, _: (c * 2.0, None), x, length=7)[0]

  def branch(x):
    return jax.lax.cond(x[0] > 0, lambda y: y * 2.0, lambda y: (y * 2.0) * y, x)

  assert total(loop, array(10)) == 70
  assert total(branch, array(10)) == 20


def peak(fn, *args):
  return cost.peak_bytes(cost.trace(fn, *args))


class Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    block = nn.remat(nn.Conv)(6, (3, 3), name="inner")
    return nn.Dense(4, name="outer")(nn.silu(block(nn.GroupNorm(2, name="norm")(x))))


def test_flops_are_told_by_module_through_remat():
  net = Net()
  params = jax.eval_shape(net.init, jax.random.key(0), array(1, 8, 8, 4))
  found = cost.flops(cost.trace(net.apply, params, array(1, 8, 8, 4)))
  assert {"norm", "inner", "outer"} <= set(found)
  assert found["inner"] == 2 * 64 * 6 * 9 * 4 + 64 * 6  # and the bias
  assert found["outer"] == pytest.approx(2 * 64 * 4 * 6, rel=0.1)


@pytest.mark.parametrize("derive", [False, True])
def test_agrees_with_the_compilers_own_count(derive):
  net = Net()
  x = array(2, 32, 32, 4)
  params = jax.eval_shape(net.init, jax.random.key(0), x)

  def loss(params, x):
    return jnp.mean(jnp.square(net.apply(params, x)))

  fn = jax.grad(loss) if derive else loss
  theirs = cost.xla_flops(jax.jit(fn).lower(params, x))
  # XLA leaves out the products with padding, and counts an exponential as more than one.
  assert total(fn, params, x) == pytest.approx(theirs, rel=0.1)


def test_peak_of_a_chain_is_two_neighbours():
  matrix = array(64, 64)  # 16 KiB

  def chain(a):
    for _ in range(5):
      a = a @ a
    return jnp.sum(a)

  assert peak(chain, matrix) == 2 * 16 * KIB


def test_peak_counts_what_the_backward_pass_keeps():
  matrix = array(64, 64)

  def loss(a, b):
    for _ in range(6):
      a = a @ b
    return jnp.sum(a)

  forward = peak(loss, matrix, matrix)
  backward = peak(jax.grad(loss, argnums=1), matrix, matrix)
  assert forward == 2 * 16 * KIB
  assert 6 * 16 * KIB <= backward <= 9 * 16 * KIB


def test_remat_lowers_the_peak():
  def loss(x, remat):
    def stage(x):
      for _ in range(6):
        x = jnp.sin(x @ x)
      return x

    stage = jax.checkpoint(stage) if remat else stage
    for _ in range(4):
      x = stage(x)
    return jnp.sum(x)

  kept, redone = (peak(jax.grad(lambda x, r=r: loss(x, r)), array(64, 64)) for r in (False, True))
  assert redone < 0.6 * kept


def test_fused_results_take_no_memory_but_keep_what_they_read():
  def fused(a, b):
    product = a @ b  # read again at the end, by way of a fused doubling
    doubled = product * 2.0
    for _ in range(3):
      b = b @ b
    return jnp.sum(doubled @ b)

  assert peak(fused, array(64, 64), array(64, 64)) == 3 * 16 * KIB


def test_results_take_the_place_of_arguments():
  assert peak(lambda a: a @ a, array(64, 64)) == 0


def test_tree_bytes_of_one_device():
  mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  tree = {"a": array(8, 16), "b": np.zeros(3, np.int8)}
  spec = {"a": jax.NamedSharding(mesh, jax.P("fsdp")), "b": jax.NamedSharding(mesh, jax.P())}
  assert cost.tree_bytes(tree) == 8 * 16 * 4 + 3
  assert cost.tree_bytes(tree, spec) == 8 * 16 + 3


def test_what_each_device_maps_counts_over_all_of_them():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  mapped = jax.shard_map(jnp.sin, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
  assert sum(cost.flops(cost.trace(mapped, array(16, 4))).values()) == 16 * 4


def test_arrays_that_are_summed_together_cost_as_much_as_one_by_one():
  def together(a):
    zero = jnp.zeros(())
    return jax.lax.reduce((a, a), (zero, zero), lambda x, y: (x[0] + y[0], x[1] + y[1]), (1,))

  a = jax.ShapeDtypeStruct((3, 50), jnp.float32)
  plain = cost.flops(cost.trace(lambda a: (a.sum(1), a.sum(1)), a))
  assert cost.flops(cost.trace(together, a)) == plain == {"": 300.0}


def test_of_ways_chosen_by_the_platform_the_cheapest_counts():
  def dear(x):
    return jnp.sin(jnp.sin(x))

  def chosen(x):
    return jax.lax.platform_dependent(x, cpu=dear, cuda=jnp.sin, default=dear)

  assert sum(cost.flops(cost.trace(chosen, array(5))).values()) == 5


@pytest.fixture
def clock(monkeypatch):
  clock = types.SimpleNamespace(now=50.0)
  monkeypatch.setattr(cost.time, "perf_counter", lambda: clock.now)
  return clock


def test_pauses_do_not_count(clock):
  rate = cost.Rate(8, 3e12, step=100)
  clock.now += 10
  with rate.paused():
    clock.now += 1000
  figures = rate.measure(120)
  assert figures["images_per_second"] == pytest.approx(16.0)
  assert figures["tflops_per_second"] == pytest.approx(6.0)
  clock.now += 5
  assert rate.measure(125)["images_per_second"] == pytest.approx(8.0)


def test_a_pause_ends_with_an_exception_too(clock):
  rate = cost.Rate(1, math.nan, step=0)
  with contextlib.suppress(RuntimeError), rate.paused():
    clock.now += 7
    raise RuntimeError
  clock.now += 1
  assert rate.measure(1)["images_per_second"] == pytest.approx(1.0)


def test_without_a_start_the_first_call_only_starts_the_clock(clock):
  rate = cost.Rate(8, math.nan)
  clock.now += 1
  assert "images_per_second" not in rate.measure(900)
  clock.now += 2
  figures = rate.measure(901)
  assert figures["images_per_second"] == pytest.approx(4.0)
  assert "tflops_per_second" not in figures


def test_flops_are_those_counted_by_hand():
  def loss(x, w):
    return jnp.sum(x @ w)

  shapes = (
    jax.ShapeDtypeStruct((64, 128), jnp.float32),
    jax.ShapeDtypeStruct((128, 32), jnp.float32),
  )
  assert cost.xla_flops(jax.jit(jnp.matmul).lower(*shapes)) == 2 * 64 * 128 * 32
  both = cost.xla_flops(jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes))
  assert both == pytest.approx(2 * 2 * 64 * 128 * 32, rel=0.05)
  assert math.isnan(cost.xla_flops(types.SimpleNamespace(cost_analysis=lambda: None)))


def test_memory_on_the_cpu_is_named_resident():
  figures = cost.peak_memory()
  assert list(figures) == ["peak_resident_memory_bytes"]
  assert 50e6 < figures["peak_resident_memory_bytes"] < 1e12


def test_memory_of_devices_is_the_fullest_ones(monkeypatch):
  devices = [
    types.SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 5}),
    types.SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 9}),
  ]
  monkeypatch.setattr(cost.jax, "local_devices", lambda: devices)
  assert cost.peak_memory() == {"peak_device_memory_bytes": 9.0}
