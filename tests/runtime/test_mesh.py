"""Where arrays live, how batches get there, and when several processes are believed in."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import mesh


def test_mesh_takes_all_devices_with_automatic_axes():
  grid = mesh.make_mesh()
  assert dict(grid.shape) == {"data": 8, "fsdp": 1}
  assert grid.axis_types == (AxisType.Auto, AxisType.Auto)
  assert dict(mesh.make_mesh(fsdp=4).shape) == {"data": 2, "fsdp": 4}
  assert dict(mesh.make_mesh(data=1, devices=jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1}


def test_the_devices_of_a_process_lie_together_however_they_are_listed():
  # Of several machines, whose rows of a batch must lie where their devices do.
  listed = jax.devices()
  grid = mesh.make_mesh(devices=[*listed[::2], *listed[1::2]])
  assert list(grid.devices.ravel()) == listed


@pytest.mark.parametrize("sizes", [{"fsdp": 3}, {"data": 3}, {"data": 2, "fsdp": 2}, {"fsdp": 0}])
def test_sizes_that_do_not_fit_are_the_users_to_mend(sizes):
  with pytest.raises(UserError, match=r"8\s+device"):
    mesh.make_mesh(**sizes)


def test_large_leaves_are_split_and_their_moments_alike():
  def init(key):
    params = {
      "kernel": jnp.zeros((3, 3, 512, 1024)),
      "odd": jnp.zeros((1025, 1031)),
      "tall": jnp.zeros((1026, 1023)),
      "small": jnp.zeros((512, 512)),
      "bias": jnp.zeros(8),
    }
    return {"params": params, "opt": optax.adam(1e-3).init(params), "key": key}

  shapes = jax.eval_shape(init, jax.random.key(0))
  grid = mesh.make_mesh(fsdp=2)
  shardings = mesh.state_shardings(shapes, grid)
  specs = {name: s.spec for name, s in shardings["params"].items()}
  assert specs == {
    "kernel": P(None, None, None, "fsdp"),
    "odd": P(),
    "tall": P("fsdp"),
    "small": P(),
    "bias": P(),
  }
  assert shardings["opt"][0].mu == shardings["params"]
  assert shardings["opt"][0].nu == shardings["params"]
  assert shardings["key"].spec == P()
  state = jax.jit(init, out_shardings=shardings)(jax.random.key(0))
  assert state["params"]["kernel"].addressable_data(0).shape == (3, 3, 512, 512)
  abstract = mesh.with_shardings(shapes, shardings)
  assert abstract["params"]["kernel"].sharding == shardings["params"]["kernel"]
  assert abstract["key"].dtype == state["key"].dtype

  alone = mesh.state_shardings(shapes, mesh.make_mesh(fsdp=1))
  assert {s.spec for s in jax.tree.leaves(alone)} == {P()}


@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_batch_is_split_over_both_axes(fsdp):
  sharding = mesh.batch_sharding(mesh.make_mesh(fsdp=fsdp))
  batch = {"images_m11": np.arange(16 * 3.0, dtype=np.float32).reshape(16, 3), "n": np.arange(16)}
  placed = mesh.put_batch(batch, sharding)
  np.testing.assert_array_equal(placed["images_m11"], batch["images_m11"])
  assert placed["images_m11"].addressable_data(0).shape == (2, 3)
  with pytest.raises(UserError, match="multiple of 8"):
    mesh.put_batch(np.zeros((12, 3)), sharding)


class Counter:
  """Host batches 0 .. n-1 that know where they are, as grain's do; the state is one live dict."""

  def __init__(self, count):
    self.count, self.state = count, {"next": 0}

  def __iter__(self):
    return self

  def __next__(self):
    if self.state["next"] == self.count:
      raise StopIteration
    self.state["next"] += 1
    return np.full(8, self.state["next"] - 1)

  def get_state(self):
    return self.state


@pytest.mark.parametrize("size", [1, 2, 5, 50])
def test_reading_ahead_keeps_order_and_the_state_of_what_was_used(size):
  under_way = []
  seen = []

  def put(batch):
    under_way.append(batch)
    return batch + 0

  for batch, state in mesh.prefetch_to_device(Counter(7), put, size=size):
    seen.append((int(batch[0]), state["next"]))
    assert len(under_way) == min(len(seen) - 1 + size, 7)
  assert seen == [(i, i + 1) for i in range(7)]


def test_reading_ahead_of_an_iterator_without_state():
  pairs = list(mesh.prefetch_to_device(iter([1, 2, 3]), lambda b: b * 10))
  assert pairs == [(10, None), (20, None), (30, None)]


def test_a_run_resumes_from_the_state_of_the_batch_it_used():
  dataset = (
    grain.MapDataset.range(40).seed(3).shuffle().repeat().batch(4, drop_remainder=True)
  ).to_iter_dataset()
  straight = iter(dataset)
  expected = [next(straight) for _ in range(8)]
  first = mesh.prefetch_to_device(iter(dataset), jnp.asarray, size=3)
  for _ in range(5):
    _, state = next(first)
  resumed = iter(dataset)
  resumed.set_state(state)
  for want in expected[5:]:
    np.testing.assert_array_equal(next(resumed), want)


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, None),  # a batch script without srun
    ({"SLURM_STEP_NUM_TASKS": "1"}, None),
    ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "1"}, {}),
    (
      {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "2",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
      },
      {"local_device_ids": [0, 1, 2, 3]},
    ),
    ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, {}),
    ({"HIRESMED_DISTRIBUTED": "1"}, {}),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "1",
      },
      {"coordinator_address": "a:1", "num_processes": 2, "process_id": 1},
    ),
  ],
)
def test_other_processes_are_believed_in_only_when_the_environment_names_them(
  environment, expected
):
  assert mesh._process_settings(environment) == expected


def test_an_ordinary_run_joins_nothing():
  assert mesh.initialize_distributed({}) is False
