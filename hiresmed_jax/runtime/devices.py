"""Accelerators by their data sheets, and what a training step would cost on one: a prediction."""

from typing import Any, NamedTuple


class Device(NamedTuple):
  """An accelerator."""

  name: str
  bytes_per_second: float  # of its memory
  flops_per_second: float  # of dense matrix products in `dtype`
  memory: int  # bytes that a program may use
  dtype: str  # in which convolutions are fast


def _tpu(name: str, bandwidth: float, flops: float, gib: float) -> Device:
  return Device(name, bandwidth, flops, int(gib * (1 << 30)), "bfloat16")


# The usable memory of a v5e is what its compiler allows a program.
DEVICES = {
  "h200": Device("NVIDIA H200", 4.8e12, 989e12, 151_397_597_184, "bfloat16"),
  "h100": Device("NVIDIA H100 80GB HBM3", 3.35e12, 989e12, 85_520_809_984, "bfloat16"),
  "a100": Device("NVIDIA A100-SXM4-80GB", 2.04e12, 312e12, 85_097_971_712, "bfloat16"),
  # No bfloat16, and no tensor cores for float32.
  "v100": Device("Tesla V100-SXM2-32GB", 0.9e12, 15.7e12, 34_079_637_504, "float32"),
  "v5e": _tpu("v5e", 0.82e12, 197e12, 15.75),
  "v5p": _tpu("v5p", 2.77e12, 459e12, 95.0),
  "v6e": _tpu("v6e", 1.64e12, 918e12, 31.25),
}
# Of the least time of a step: the one step that an H200 was measured with took 159 ms
# (benchmarks/results/first_look_h200.json), and its program, some commits later, moved 160 GB
# (programs_h200_before.json there), which is 33 ms.
SHARE = 0.21


def predict(
  device: Device, *, images: int, flops: float, moved: float | None, steps: int | None
) -> dict[str, Any]:
  """The least time of a step on a device, and what to expect.

  Args:
    device: which.
    images: of a step, on this device.
    flops: of the step, a multiply-add being two.
    moved: bytes that its kernels read and write; None: not known, by arithmetic alone.
    steps: of the training; None: not known.

  Returns:
    {"least_ms", "by": "traffic" or "arithmetic", "images_per_second": {"at_most", "expected"}} and,
    where the steps are known, "hours": {"at_least", "expected"}. What is expected is the share
    `SHARE` of the most.
  """
  by = {"arithmetic": flops / device.flops_per_second}
  if moved is not None:
    by["traffic"] = moved / device.bytes_per_second
  bound = max(by, key=lambda name: by[name])
  found: dict[str, Any] = {
    "least_ms": 1e3 * by[bound],
    "by": bound,
    "images_per_second": {"at_most": images / by[bound], "expected": SHARE * images / by[bound]},
  }
  if steps is not None:
    hours = steps * by[bound] / 3600
    found["hours"] = {"at_least": hours, "expected": hours / SHARE}
  return found
