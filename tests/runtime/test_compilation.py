"""A program that was compiled once is read back by the next process."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from hiresmed_jax.runtime import compilation

_PROGRAM = """
import pathlib, sys
import jax, jax.numpy as jnp
from hiresmed_jax.runtime import compilation
compilation.LEAST_SECONDS = 0.0
compilation.keep_programs(pathlib.Path(sys.argv[1]))
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: jnp.sin(x @ x)).lower(jnp.ones((8, 8))).compile()
print(sum(name == "/jax/compilation_cache/cache_hits" for name in events))
"""


def test_a_program_that_was_half_kept_is_removed(tmp_path):
  (tmp_path / "xla").mkdir()
  for name in ("a-cache", "a-atime", "b-cache", "c-cache"):
    (tmp_path / "xla" / name).touch()
    os.utime(tmp_path / "xla" / name, (0, 0))
  os.utime(tmp_path / "xla" / "c-cache")  # of a process at work
  compilation._remove_half_kept(tmp_path / "xla")
  assert {path.name for path in (tmp_path / "xla").iterdir()} == {"a-cache", "a-atime", "c-cache"}


@pytest.mark.slow
def test_the_second_process_compiles_nothing(tmp_path):
  def hits():
    command = [sys.executable, "-W", "error", "-c", _PROGRAM, str(tmp_path)]
    result = subprocess.run(
      command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}, check=True
    )
    return int(result.stdout)

  assert hits() == 0
  assert hits() > 0
  (folder,) = tmp_path.iterdir()
  assert folder.name.startswith("xla-")


def test_the_compiler_takes_the_options():
  assert compilation.options(), "XLA has renamed the option: convolutions run on one core again"
  product = jax.jit(lambda x: x @ x, compiler_options=compilation.options())
  assert product(jnp.full((1, 1), 2.0)) == 4.0


def test_an_option_that_the_compiler_does_not_know_is_left_out(monkeypatch):
  def refuse(*_, **__):
    raise jax.errors.JaxRuntimeError("No such compile option")

  compilation.options.cache_clear()
  monkeypatch.setattr(jax, "jit", refuse)
  assert compilation.options() == {}
  compilation.options.cache_clear()
