"""Operations on the CPU by the way that they take on accelerators."""

from typing import Any

from hiresmed_jax.ops import copies, cpu, norm


def as_on_accelerators(monkeypatch: Any) -> None:
  """Copies behind barriers, one reduction for several sums, and nothing kept for the way back."""
  monkeypatch.setattr(cpu, "sums", norm.one_reduction)
  monkeypatch.setattr(copies, "one", copies.each)
  monkeypatch.setattr(copies, "widened", lambda compute, kept, *values: compute(*values))
