"""`python -m hiresmed_jax.explain`: what a config amounts to, without training anything."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from hiresmed_jax.routes.background import explain as background
from hiresmed_jax.routes.danger import explain as danger
from hiresmed_jax.routes.lesion import explain as lesion
from hiresmed_jax.routes.location import explain as location
from hiresmed_jax.runtime import cli, config
from hiresmed_jax.runtime.compilation import compute_dtype

_EXAMPLE = """\
  python -m hiresmed_jax.explain --config kub.py
  python -m hiresmed_jax.explain --config kub.py:background,best --devices 8 --json
  python -m hiresmed_jax.explain --config demo.py:lesion
  python -m hiresmed_jax.explain --config demo.py --compile"""


def main(argv: list[str]) -> None:
  """Prints networks, work, memory, mesh and departures of a config; allocates nothing."""
  parser = cli.Parser(
    "explain",
    "Shows what a config amounts to: networks, FLOPs, memory, mesh, departures from the paper.",
    example=_EXAMPLE,
    overrides=True,
  )
  parser.add_argument(
    "--config",
    required=True,
    metavar="FILE.py[:ROUTE[,PRESET]]",
    help="a path or a name in configs/",
  )
  parser.add_argument(
    "--devices", type=int, metavar="N", help="plan for N devices (default: those that are here)"
  )
  parser.add_argument(
    "--compile", action="store_true", help="also compile the training step on this backend"
  )
  parser.add_argument("--json", action="store_true", help="the same as one JSON object")
  options, overrides = parser.parse(argv)
  values = config.load_config(options.config, overrides)
  about = {"name": values.name, "route": values.route, "preset": values.preset}
  facts: dict[str, Any] = {"config": about}
  devices = options.devices or jax.device_count()
  if values.route in ("all", "background"):
    facts |= background.explain(
      values,
      dtype=compute_dtype(values.background.dtype),
      devices=devices,
      compiled=options.compile,
    )
  if values.route in ("all", "lesion"):
    facts["lesion"] = lesion.explain(values, devices=devices, work=values.route == "lesion")
  if values.route in ("all", "location"):
    facts["location"] = location.explain(values, devices=devices)
  if values.route in ("all", "danger"):
    facts["danger"] = danger.explain(values, devices=devices)
  print(json.dumps(facts, indent=2) if options.json else "\n".join(_lines(facts)))


def _lines(facts: dict[str, Any]) -> Iterator[str]:
  about = facts["config"]
  yield f"{about['name']}, preset {about['preset']}"
  if "networks" in facts:
    yield from ("", "ROUTE background", *_background_lines(facts))
  if "lesion" in facts:
    yield from ("", "ROUTE lesion", *_lesion_lines(facts["lesion"]))
  if "location" in facts:
    yield from ("", "ROUTE location", *_location_lines(facts["location"]))
  if "danger" in facts:
    yield from ("", "ROUTE danger", *_danger_lines(facts["danger"]))


def _background_lines(facts: dict[str, Any]) -> Iterator[str]:
  for name, rows in facts["networks"].items():
    yield from ("", f"{name}: shapes and FLOPs are of one image, forward")
    yield from _table(
      ("module", "type", "output", "parameters", "GFLOP"),
      [
        (
          _indented(row["path"]),
          row["type"],
          " x ".join(map(str, row["output"])),
          f"{row['parameters']:,}",
          f"{row['flops_per_image'] / 1e9:,.2f}",
        )
        for row in rows
      ],
    )
  yield from ("", "parameters")
  yield from _table((), [(k, f"{v:,}") for k, v in facts["parameters"].items()])
  yield from ("", "GFLOP per image (a multiply-add is two)")
  yield from _table((), [(k, f"{v / 1e9:,.1f}") for k, v in facts["flops_per_image"].items()])
  mesh = facts["mesh"]
  yield ""
  yield (
    f"mesh: {mesh['devices']} x {mesh['kind']}, data {mesh['data']}, fsdp {mesh['fsdp']}; "
    f"{mesh['images_per_device']} images a device; convolutions in {mesh['dtype']}"
  )
  yield from ("", "memory per device: an estimate from shapes, before the compiler's copies")
  yield from _table((), [(k, _size(v)) for k, v in facts["memory_per_device"].items()])
  if "compiled" in facts:
    yield from _compiled_lines(facts["compiled"])
  yield from _departures(facts["departures"])


def _lesion_lines(facts: dict[str, Any]) -> Iterator[str]:
  yield from ("", "one generator and one critic for every lesion, level and window size")
  rows = [
    (
      f"{side} px" if number == 0 else "",
      f"{level['pixels']} px",
      str(level["width"]),
      f"{level['generator']:,}",
      f"{level['critic']:,}",
      f"{work[number] / 1e9:.1f}" if (work := window.get("flops_per_iteration")) else "",
    )
    for side, window in facts["windows"].items()
    for number, level in enumerate(window["levels"])
  ]
  head = ("window", "level", "channels", "generator", "critic", "GFLOP an iteration")
  yield from _table(head, rows)
  yield from ("", "for each lesion")
  for side, window in facts["windows"].items():
    yield (
      f"  {side} px: {window['parameters']:,} parameters of generators; "
      f"{_size(window['training_bytes'])} of state in training, before intermediates"
    )
  yield ""
  yield "; ".join(f"steps {name}: {count:,}" for name, count in facts["steps"].items())
  yield f"lesions are split over {facts['devices']} device(s); nothing is sent between them"
  yield from _departures(facts["departures"])


def _location_lines(facts: dict[str, Any]) -> Iterator[str]:
  size = facts["size"]
  yield ""
  yield (
    f"YOLO11{facts['net']}, {facts['parameters']:,} parameters, images of {size} x {size}: "
    f"{facts['flops_per_image'] / 1e9:.2f} GFLOP forward"
  )
  yield "positions: " + ", ".join(
    f"{level['positions']:,} of stride {level['stride']}" for level in facts["levels"]
  )
  yield f"{facts['images_per_device']:g} images a device"
  yield from _departures(facts["departures"])


def _danger_lines(facts: dict[str, Any]) -> Iterator[str]:
  yield ""
  rows, columns = facts["levels"][0]["size"]
  yield (
    f"U-Net, {facts['parameters']:,} parameters, training images of {rows} x {columns}: "
    f"{facts['flops_per_image'] / 1e9:.2f} GFLOP forward"
  )
  levels = [f"{level['channels']} of {level['size'][0]} px" for level in facts["levels"]]
  yield "channels and rows: " + ", ".join(levels)
  rule = f", else of the rule {facts['rule']!r}" if facts["rule"] else ""
  yield f"masks: given with the images{rule}"
  yield f"{facts['images_per_device']:g} images a device"
  yield from _departures(facts["departures"])


def _departures(rows: list[dict[str, str]]) -> Iterator[str]:
  yield from ("", "departures from the paper")
  for row in rows:
    yield f"  {row['what']}: paper {row['paper'] or 'nothing'}; here {row['ours']}"
    yield f"    because {row['reason']}" if row["reason"] else ""


def _compiled_lines(facts: dict[str, Any]) -> Iterator[str]:
  yield ""
  yield (
    f"compiled for {facts['devices']} x {facts['backend']} in {facts['seconds_to_compile']:.0f} s: "
    "this backend's own figures"
  )
  bytes_of = facts["bytes_per_device"].items()
  yield from _table((), [(f"{k}, per device", _size(v)) for k, v in bytes_of])
  flops = f"{facts['flops_per_image'] / 1e9:,.1f}"
  yield from _table((), [("GFLOP per image, training step", flops)])


def _indented(path: str) -> str:
  parent, _, name = path.partition("/")
  return f"  {name}" if name else parent


def _size(count: float) -> str:
  return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
  """Columns as wide as they must be; text to the left, numbers to the right."""
  shown = [head, *rows] if head else rows
  widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
  for row in shown:
    cells = [
      cell.rjust(width) if row[i][:1].isdigit() or (row is head and i >= 3) else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    yield "  " + "  ".join(cells).rstrip()


if __name__ == "__main__":
  cli.run(main)
