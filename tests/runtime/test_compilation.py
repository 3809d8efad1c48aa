"""A program that was compiled once is read back by the next process."""

import os
import subprocess
import sys

_PROGRAM = """
import pathlib, sys
import jax, jax.numpy as jnp
from hiresmed_jax.runtime import compilation
compilation._LEAST_SECONDS = 0.0
compilation.keep_programs(pathlib.Path(sys.argv[1]))
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: jnp.sin(x @ x)).lower(jnp.ones((8, 8))).compile()
print(sum(name == "/jax/compilation_cache/cache_hits" for name in events))
"""


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
