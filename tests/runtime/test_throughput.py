"""Rates without pauses, FLOPs against a count by hand, memory named for what it is."""

import contextlib
import math
import types

import jax
import jax.numpy as jnp
import pytest

from hiresmed_jax.runtime import throughput


@pytest.fixture
def clock(monkeypatch):
  clock = types.SimpleNamespace(now=50.0)
  monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock.now)
  return clock


def test_pauses_do_not_count(clock):
  rate = throughput.Rate(8, 3e12, step=100)
  clock.now += 10
  with rate.paused():
    clock.now += 1000
  figures = rate.measure(120)
  assert figures["images_per_second"] == pytest.approx(16.0)
  assert figures["tflops_per_second"] == pytest.approx(6.0)
  clock.now += 5
  assert rate.measure(125)["images_per_second"] == pytest.approx(8.0)


def test_a_pause_ends_with_an_exception_too(clock):
  rate = throughput.Rate(1, math.nan, step=0)
  with contextlib.suppress(RuntimeError), rate.paused():
    clock.now += 7
    raise RuntimeError
  clock.now += 1
  assert rate.measure(1)["images_per_second"] == pytest.approx(1.0)


def test_without_a_start_the_first_call_only_starts_the_clock(clock):
  rate = throughput.Rate(8, math.nan)
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
  assert throughput.flops(jax.jit(jnp.matmul).lower(*shapes)) == 2 * 64 * 128 * 32
  both = throughput.flops(jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes))
  assert both == pytest.approx(2 * 2 * 64 * 128 * 32, rel=0.05)
  assert math.isnan(throughput.flops(types.SimpleNamespace(cost_analysis=lambda: None)))


def test_memory_on_the_cpu_is_named_resident():
  figures = throughput.peak_memory()
  assert list(figures) == ["peak_resident_memory_bytes"]
  assert 50e6 < figures["peak_resident_memory_bytes"] < 1e12


def test_memory_of_devices_is_the_fullest_ones(monkeypatch):
  devices = [
    types.SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 5}),
    types.SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 9}),
  ]
  monkeypatch.setattr(throughput.jax, "local_devices", lambda: devices)
  assert throughput.peak_memory() == {"peak_device_memory_bytes": 9.0}
