import json

import jax
import pytest

from benchmarks import cpu_gains, table, train_step
from hiresmed_jax.errors import UserError
from hiresmed_jax.ops import activation, convolution, cpu, norm
from tests import tiny_run


def test_what_is_taken_away_comes_back():
  def now():
    return (cpu.conv_gradients, cpu.halve_rows, cpu.sums, activation.silu)

  before = now()
  with cpu_gains._plain(["kernels", "upsampling", "sums", "silu"]):
    assert cpu.conv_gradients is convolution.plain_gradients
    assert cpu.sums is norm.plain_sums
    assert activation.silu is jax.nn.silu
    assert not any(a is b for a, b in zip(before, now(), strict=True))
  assert before == now()


def test_the_question_is_the_cpus(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  with pytest.raises(UserError, match="JAX_PLATFORMS=cpu"):
    cpu_gains.main([])


@pytest.mark.slow
def test_every_variant_is_timed_and_told(tmp_path, monkeypatch):
  small = train_step.settings("cpu", "hdfb")
  small.net.update({"stem_channels": 8, "channels": (8,), "strides": (2,), "code_dim": 8})
  small.net.update({"full_resolution_channels": 8, "encoder_blocks": 1, "middle_blocks": 0})
  monkeypatch.setattr(cpu_gains, "settings", lambda scale, block: small)
  monkeypatch.setattr(cpu, "LARGE", 0)
  out = tmp_path / "cpu_gains_cpu.json"
  with tiny_run.quick_compiler():
    made = cpu_gains._programs((1, 16, 16, 3))
    monkeypatch.setattr(cpu_gains, "_programs", lambda images: made)  # compiled once
    cpu_gains.main(["--size=16", "--batch=1", "--rounds=2", "--out", str(out)])
  losses = {name: float(call()[0]) for name, call in made[0].items()}
  assert losses == pytest.approx(dict.fromkeys(losses, losses[cpu_gains.EVERYTHING]), rel=1e-5)
  facts = json.loads(out.read_text())
  assert set(facts["without"]) == set(cpu_gains.TAKEN_AWAY)
  assert len(table.table(tmp_path).splitlines()) == 2 + len(cpu_gains.TAKEN_AWAY) - 1
