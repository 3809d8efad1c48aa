"""Two real processes on this machine: one mesh, one log, one decision, one checkpoint."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax.runtime import checkpoint, mesh

WORKER = """
import json, os, pathlib, signal, sys, time
import jax
import jax.numpy as jnp
import numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from hiresmed_jax.runtime import checkpoint, interrupt, mesh
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.runtime.run_folder import Writer

assert mesh.initialize_distributed()
folder, me = pathlib.Path(sys.argv[1]), jax.process_index()
grid = mesh.make_mesh(fsdp=2)
batch = np.arange(8.0, dtype=np.float32).reshape(8, 1)[me::2]
images = mesh.put_batch({"images": batch}, mesh.batch_sharding(grid))["images"]
assert images.shape == (8, 1)
total = float(jax.jit(jnp.sum, out_shardings=mesh.replicated(grid))(images))


def init(key):
  return {"kernel": jax.random.normal(key, (1024, 1024)), "key": key}


shardings = mesh.state_shardings(jax.eval_shape(init, jax.random.key(0)), grid)
state = jax.jit(init, out_shardings=shardings)(jax.random.key(5))
with checkpoint.open(folder / "checkpoints") as manager:
  checkpoint.save(manager, 1, state, data_state={"next": 3})
log = Writer(folder)
with interrupt.Interrupt() as stop:
  pace, calls = interrupt.Pace(), 0
  while not pace.agree(stop.requested):
    calls += 1
    time.sleep(0.002)
    if (me, calls) == (1, 20):  # only one of them is told to stop
      os.kill(os.getpid(), signal.SIGTERM)
log.write_scalars(1, {"total": total, "asked": stop.requested})
log.close()
(folder / f"{me}.json").write_text(json.dumps([calls, mesh.gather(np.arange(me + 1.0)).tolist()]))
with Progress(1, f"process {me}", stream=sys.stdout) as bar:
  bar.update(1)
"""


def free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_act_as_one(tmp_path):
  common = {
    **os.environ,
    "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2]),
    "JAX_PLATFORMS": "cpu",
    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
    "JAX_NUM_PROCESSES": "2",
  }
  workers = [
    subprocess.Popen(
      [sys.executable, "-c", WORKER, str(tmp_path)],
      env={**common, "JAX_PROCESS_ID": str(index)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in range(2)
  ]
  said = [worker.communicate(timeout=120)[0] for worker in workers]
  assert [worker.returncode for worker in workers] == [0, 0], said
  assert "process 0 100 %" in said[0]
  assert "process 1" not in said[1]

  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [(line["total"], line["asked"]) for line in lines] == [(28.0, 0.0)]
  # Both stopped at the same call, and what they gathered is the same.
  one, other = (json.loads((tmp_path / f"{me}.json").read_text()) for me in (0, 1))
  assert one == other
  assert one[0] >= 20
  assert one[1] == [0.0, 0.0, 1.0]

  whole = mesh.replicated(mesh.make_mesh(devices=jax.devices()[:1]))
  abstract = {
    "kernel": jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=whole),
    "key": jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=whole),
  }
  with checkpoint.open(tmp_path / "checkpoints") as manager:
    state, data_state, _ = checkpoint.restore(manager, abstract)
  assert data_state == {"next": 3}
  np.testing.assert_allclose(
    state["kernel"], jax.random.normal(jax.random.key(5), (1024, 1024)), rtol=1e-5, atol=1e-6
  )
