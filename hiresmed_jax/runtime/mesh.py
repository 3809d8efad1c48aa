"""Devices: how many processes there are, the mesh, where each array lives, and feeding it.

The mesh has two axes. "data" splits the batch; "fsdp" splits the batch and the large parameters.
"""

from __future__ import annotations

import collections
import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import chex
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hiresmed_jax.errors import UserError

# 4 MiB of float32. Smaller leaves cost more in gathering than they save in memory.
MIN_SHARDED_ELEMENTS = 1 << 20
# A process that has not been heard of for so long is gone, and the run ends. JAX's default is 100.
_HEARTBEAT_SECONDS = 30


def initialize_distributed(environment: Mapping[str, str] = os.environ) -> bool:
  """Joins the other processes of this run, when the environment says that there are any.

  Call it before anything touches a device. Recognised, in this order:
    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID;
    Slurm (`srun` with more than one task) and Open MPI (`mpirun` with more than one rank);
    HIRESMED_DISTRIBUTED=1: whatever `jax.distributed.initialize` finds by itself (TPU pods).
  On the CPU the processes talk through gloo.

  Returns:
    True when there is more than one process, False for an ordinary run.

  Raises:
    UserError: the environment says several processes, but not which of them this one is.
  """
  settings = _process_settings(environment)
  if settings is None:
    return False
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  try:
    jax.distributed.initialize(**settings, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
  except ValueError as error:
    raise UserError(
      f"this run looks like one of several processes, but {str(error).rstrip('.')}: set "
      "JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
    ) from error
  return jax.process_count() > 1


def wait_for_all(name: str) -> None:
  """Returns when every process has come here with the same `name`; at once where there is one."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def gather(values: np.ndarray) -> np.ndarray:
  """The values of all processes one after another: f32[n] each, n may differ; all must call it."""
  chex.assert_rank(values, 1)
  if jax.process_count() == 1:
    return values
  counts = np.ravel(multihost_utils.process_allgather(np.array([len(values)])))
  padded = np.zeros(max(counts), np.float32)
  padded[: len(values)] = values
  every = multihost_utils.process_allgather(padded)
  return np.concatenate([own[:count] for own, count in zip(every, counts)])


def make_mesh(
  *, data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Mesh of all devices (or of `devices`) with the axes ("data", "fsdp").

  Large parameters are split over `fsdp` devices; `data` = -1 takes what these leave.

  Raises:
    UserError: the two sizes do not multiply to the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = axis_sizes(len(devices), data=data, fsdp=fsdp)
  # Not by `jax.make_mesh`: it refuses GPUs of several machines, and on TPUs it mixes the machines,
  # so that the rows which a process gives would lie elsewhere in the batch than those it has.
  ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
  # Written out: the default became Explicit, under which indexing a codebook is an error.
  auto = (AxisType.Auto, AxisType.Auto)
  return Mesh(np.array(ordered, object).reshape(sizes), ("data", "fsdp"), axis_types=auto)


def axis_sizes(count: int, *, data: int = -1, fsdp: int = 1) -> tuple[int, int]:
  """Sizes of the axes "data" and "fsdp" over `count` devices; the arguments are `make_mesh`'s.

  Raises:
    UserError: the two sizes do not multiply to the number of devices.
  """
  if fsdp < 1 or count % fsdp:
    raise UserError(f"mesh.fsdp={fsdp} does not divide the {count} device(s) of this run")
  if data == -1:
    data = count // fsdp
  if data * fsdp != count:
    raise UserError(
      f"mesh.data={data} times mesh.fsdp={fsdp} is {data * fsdp}, but this run has {count} "
      "device(s): set mesh.data=-1 to use them all"
    )
  return data, fsdp


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Sharding of a batch [N, ...]: N is split over all devices, both axes."""
  return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of what every device holds whole."""
  return NamedSharding(mesh, P())


def state_shardings(shapes: Any, mesh: Mesh | AbstractMesh) -> Any:
  """Where each leaf of a training state lives: the same pytree of `NamedSharding`.

  With fsdp > 1, a leaf of at least 2^20 elements (4 MiB of float32) is split along its largest
  dimension that fsdp divides; all others, keys included, are replicated. The rule sees shapes
  only, so a parameter, its moments and its average always lie alike.

  `shapes` are `jax.ShapeDtypeStruct`s, as from `jax.eval_shape(init, key)`; the mesh may be an
  `AbstractMesh` of the axes of `make_mesh`.
  """
  return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf, mesh.shape["fsdp"])), shapes)


def bank_shardings(shapes: Any, mesh: Mesh | AbstractMesh) -> Any:
  """As `state_shardings` for a state of many things side by side: axis 0 is split over all devices.

  Leaves without axes are replicated.
  """
  split = P(("data", "fsdp"))
  return jax.tree.map(lambda leaf: NamedSharding(mesh, split if leaf.ndim else P()), shapes)


def with_shardings(shapes: Any, shardings: Any) -> Any:
  """Pytree of `jax.ShapeDtypeStruct` that also says where each leaf lives (for restoring)."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    shapes,
    shardings,
  )


def put_batch(batch: Any, sharding: NamedSharding) -> Any:
  """Global arrays [N, ...] of every process's share [N / processes, ...] of a batch; no strings.

  Raises:
    UserError: the devices do not divide the batch.
  """
  local_devices = len(sharding.addressable_devices)
  for leaf in jax.tree.leaves(batch):
    if leaf.shape[0] % local_devices:
      raise UserError(
        f"a batch of {leaf.shape[0]} per process cannot be split over {local_devices} devices: "
        f"set batch_size to a multiple of {sharding.num_devices}"
      )
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def prefetch_to_device(
  iterator: Iterator[Any], put: Callable[[Any], Any], *, size: int = 2
) -> Iterator[tuple[Any, Any]]:
  """Keeps `size` batches on their way to the device while the device is busy with others.

  Transfers and steps are dispatched without waiting, so the host reads ahead in their shadow. The
  iterator is one of batches on the host, with grain's `get_state()` or without; `put` makes a batch
  on the device of one.

  Yields:
    (device batch, the iterator's state just after this batch): a run that saves this state after
    the batch was used goes on with the very next one, whatever was read ahead. The state is None
    for an iterator that has none.
  """
  get_state = getattr(iterator, "get_state", lambda: None)
  ahead: collections.deque[tuple[Any, Any]] = collections.deque()

  def read() -> None:
    try:
      batch = next(iterator)
    except StopIteration:
      return
    # Copied: an iterator may hand out the very dict that it goes on counting in.
    ahead.append((put(batch), copy.deepcopy(get_state())))

  for _ in range(size):
    read()
  while ahead:
    yield ahead.popleft()
    read()


def _spec(leaf: Any, fsdp: int) -> P:
  large = leaf.size >= MIN_SHARDED_ELEMENTS
  if fsdp == 1 or not large or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return P()
  divisible = [i for i, n in enumerate(leaf.shape) if n % fsdp == 0]
  if not divisible:
    return P()
  axis = max(divisible, key=lambda i: leaf.shape[i])
  return P(*(None,) * axis, "fsdp")


def _process_settings(environment: Mapping[str, str]) -> dict[str, Any] | None:
  """Arguments for `jax.distributed.initialize`, or None for a run of one process."""
  env = environment
  if env.get("JAX_COORDINATOR_ADDRESS"):
    settings: dict[str, Any] = {"coordinator_address": env["JAX_COORDINATOR_ADDRESS"]}
    for argument, names in {
      "num_processes": ("JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE"),
      "process_id": ("JAX_PROCESS_ID", "OMPI_COMM_WORLD_RANK"),
    }.items():
      value = next((env[n] for n in names if n in env), None)
      if value is not None:
        settings[argument] = int(value)
    return settings
  if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
    return _one_task_per_node(env)
  if int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1 or env.get("HIRESMED_DISTRIBUTED") == "1":
    return {}
  return None


def _one_task_per_node(env: Mapping[str, str]) -> dict[str, Any]:
  # JAX gives each Slurm task the one device of its local number. With one task on a node that
  # would leave all but the first device idle.
  visible = env.get("CUDA_VISIBLE_DEVICES", "")
  if env.get("SLURM_STEP_NUM_TASKS") == env.get("SLURM_STEP_NUM_NODES") and visible:
    return {"local_device_ids": list(range(len(visible.split(","))))}
  return {}
