import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import roofline, table, train_step
from hiresmed_jax.errors import UserError
from hiresmed_jax.nets.vqgan import VQGAN
from hiresmed_jax.runtime import cost
from tests import tiny_run

PEAK = {"matmul_flops_per_second": 1e11, "bytes_per_second": 1e10}


def test_a_summary_counts_with_the_median():
  row = train_step._summary([0.1, 0.2, 0.9], batch=8, gflop=10.0, peak=PEAK)
  assert row["images_per_second"] == pytest.approx(40.0)
  assert row["tflops_per_second"] == pytest.approx(0.05)
  assert row["share_of_matrix_peak"] == pytest.approx(0.5)
  assert (row["p10_ms"], row["p90_ms"]) == pytest.approx((120.0, 760.0))


@pytest.mark.slow
def test_the_stages_are_the_whole_network():
  net = VQGAN(3, 3, 8, (8, 16), (2, 2), 1, 1, 1, 8, code_dim=16, block="residual")
  images = jnp.zeros((1, 16, 16, 3))
  init = jax.jit(net.init, compiler_options=tiny_run.quick())
  params = init(jax.random.key(0), images)["params"]
  with tiny_run.quick_compiler():
    rows = roofline.stages(net, params, images, peak=PEAK, rounds=1)
  assert [row["stage"] for row in rows][-2:] == ["decoder 2, detail", "head"]
  assert rows[-1]["output"] == [1, 16, 16, 3]

  def both(params):
    out, backward = jax.vjp(lambda p, x: net.apply({"params": p}, x), params, images)
    return out, backward(out)

  whole = sum(cost.flops(cost.trace(both, params)).values()) / 1e9
  assert sum(row["gflop"] for row in rows) == pytest.approx(whole, rel=0.02)
  for row in rows:
    assert row["share_of_floor"] == pytest.approx(row["floor_ms"] / row["median_ms"])
    assert row["floor_ms"] >= 1e3 * row["gflop"] * 1e9 / PEAK["matmul_flops_per_second"]


def test_without_torch_it_says_so(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "torch" else find(n))
  with pytest.raises(UserError, match="pip install torch"):
    train_step.main([])


@pytest.mark.slow
def test_both_sides_begin_alike_and_are_told(tmp_path, monkeypatch):
  small = train_step.settings("cpu", "hdfb")
  small.net.update({"stem_channels": 8, "channels": (8,), "strides": (2,), "code_dim": 8})
  small.net.update({"full_resolution_channels": 8, "encoder_blocks": 1})
  small.gan.update({"features": (8,), "scales": 1})
  monkeypatch.setattr(train_step, "settings", lambda scale, block: small)
  monkeypatch.setattr(roofline, "peaks", lambda dtype: PEAK)
  out = tmp_path / "train_step_cpu.json"
  arguments = ["--size=32", "--batch=1", "--rounds=2", "--blocks", "hdfb", "--no-compile"]
  with tiny_run.quick_compiler():
    train_step.main([*arguments, "--out", str(out)])
  facts = json.loads(out.read_text())
  (case,) = facts["cases"]
  assert set(case["step"]) == set(case["network"]) == {"ours", "torch"}
  assert "no-compile" in case["sides"]["torch compiled"]["missing"]
  assert case["images"] == [1, 32, 32, 3]
  assert case["fed"]["share"] > 0
  assert case["kernels"] == {}
  assert np.isfinite(
    [row["median_ms"] for part in ("step", "network") for row in case[part].values()]
  ).all()
  assert len(table.table(tmp_path).splitlines()) == 2 + 2
