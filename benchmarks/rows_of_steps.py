"""The rows of the results table that are about training steps: their programs and their time."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Result = Mapping[str, Any]


class Row(NamedTuple):
  """One line of the table; `made` holds date and commit where they are not those of the file."""

  what: str
  figure: str
  made: Mapping[str, str] = {}


def programs(result: Result) -> Iterator[Row]:
  for name, program in result["programs"].items():
    size = " x ".join(str(side) for side in program["size"])
    what = f"{name}: {program['images']} images of {size}"
    if "traced" in program:
      cost = program["traced"]
      gflop, gib = cost["flops"] / 1e9, cost["intermediate_bytes"] / 2**30
      yield Row(f"{what}, traced", f"{gflop:,.0f} GFLOP a step, {gib:.2f} GiB of intermediates")
    cost = program.get("compiled")
    if cost and cost["collectives"]:
      held = cost["state_and_batch_bytes"] + cost["intermediate_bytes"]
      sent = sum(kind["bytes"] for kind in cost["collectives"].values())
      yield Row(
        f"{what}, compiled, per device",
        f"{held / 2**20:,.0f} MiB held, {sent / 2**20:,.0f} MiB in collectives a step",
      )


def device_programs(result: Result) -> Iterator[Row]:
  for name, program in result["programs"].items():
    moved = f"{program['bytes'] / 1e9:.1f} GB moved by {program['kernels']:,} kernels"
    held = f"{program['temporary_bytes'] / 1e9:.1f} GB of temporaries"
    images, rows, columns = program["images"]
    yield Row(
      f"{name}: {images} images of {rows} x {columns} a device",
      f"{moved}, {held}, floor {program['floor_ms']:.0f} ms",
      program,
    )


def scaling(result: Result) -> Iterator[Row]:
  rows = result["rows"]
  most = max(row["devices"] for row in rows)
  alone = {row["scaling"]: row["images_per_second"] for row in rows if row["devices"] == 1}
  kind = "virtual devices, which share the cores" if result["virtual_devices"] else "devices"
  for row in rows:
    if row["devices"] != most or row["devices"] == 1:
      continue
    several = f", {row['processes']} processes" if row["processes"] > 1 else ""
    # The largest case is in the file once, as weak scaling; strong scaling has the same batch.
    one = "; ".join(
      f"{rate:.1f} on one with {'its share' if name == 'weak' else 'all'} of the images"
      for name, rate in alone.items()
    )
    yield Row(
      f"{most} {kind}: data {row['data']} x fsdp {row['fsdp']}{several}, {row['batch']} images",
      f"{row['images_per_second']:.1f} images/s ({one}); {row['bytes_sent_per_device'] / 1e6:.1f} "
      "MB sent by each a step",
    )


def train_step(result: Result) -> Iterator[Row]:
  for case in result["cases"]:
    shape = " x ".join(str(side) for side in case["images"])
    for part, name in (("step", "a whole step"), ("network", "the network alone")):
      ours = case[part]["ours"]
      share = f"{100 * ours['share_of_matrix_peak']:.0f} % of the measured matrix peak"
      others = "".join(
        f"; {side} {other['images_per_second']:.2f}, ours "
        f"{ours['images_per_second'] / other['images_per_second']:.2f}x"
        for side, other in case[part].items()
        if side != "ours"
      )
      yield Row(
        f"{case['block']}, {shape}, {result['precision']}: {name}, images/s",
        f"{ours['images_per_second']:.2f}, {share}{others}",
      )


def _shape(shape: list[int]) -> str:
  return " x ".join(map(str, shape))


def first_look(result: Result) -> Iterator[Row]:
  step = result["step"]
  images, median = step["images"][0], statistics.median(step["milliseconds"])
  longest = sum(row["milliseconds"] for row in step["longest"][:4])
  yield Row(
    f"{step['block']}, {_shape(step['images'])}, {result['precision']}: our step before the "
    "depthwise kernel gradient was changed",
    f"{images / median * 1e3:.1f} images/s ({median:.1f} ms, of which that gradient {longest:.1f})",
  )
  for row in result["operations"]:
    if row["what"] == "wgrad grouped":
      yield Row(
        f"depthwise {row['kernel']}x{row['kernel']} kernel gradient by cuDNN, "
        f"{_shape(row['shape'])}",
        f"{row['milliseconds']:.2f} ms",
      )
