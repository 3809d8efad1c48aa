"""`python -m hiresmed_jax.explain`: what a config amounts to, without training it."""

import json

import jax

from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import explain, settings
from hiresmed_jax.runtime import cli, config
from hiresmed_jax.runtime.devices import DEVICES

_EXAMPLE = """\
  python -m hiresmed_jax.explain --config kub.py
  python -m hiresmed_jax.explain --config kub.py:background,best --devices 8 --json
  python -m hiresmed_jax.explain --config kub.py:background,paper --target h100
  python -m hiresmed_jax.explain --config demo.py:lesion
  python -m hiresmed_jax.explain --config demo.py --settings
  python -m hiresmed_jax.explain --config demo.py:background --time"""


def main(argv: list[str]) -> None:
  """Prints networks, work, memory, mesh and departures of a config, without its arrays."""
  parser = cli.Parser(
    "explain",
    "Shows what a config amounts to: networks, FLOPs, memory, mesh, departures from the paper.",
    example=_EXAMPLE,
    overrides=True,
  )
  add = parser.add_argument
  add("--config", required=True, metavar=cli.CONFIG, help="a path, or a name in configs/")
  add("--devices", type=int, metavar="N", help="plan for N devices (default: those that are here)")
  add("--target", choices=DEVICES, help="an accelerator that is not here: whether the training "
      "fits, and how long it would take (predicted, not measured)")  # fmt: skip
  add("--compile", action="store_true", help="also compile the training step on this backend")
  add("--time", action="store_true", help="compile it, and try some steps on this machine: how "
      "long the training will take (of the routes that compile one step)")  # fmt: skip
  add("--settings", action="store_true", help="list every setting instead, and what it may be")
  add("--json", action="store_true", help="the same as one JSON object")
  options, overrides = parser.parse(argv)
  values = config.load_config(options.config, overrides)
  devices = jax.device_count() if options.devices is None else options.devices
  if devices < 1:
    raise UserError(f"--devices {devices}: plan for 1 or more")
  settings.check(values, settings.wanted(values), devices=devices)
  if options.settings:
    rows = explain.every_setting(values)
    print(json.dumps(rows, indent=2) if options.json else "\n".join(explain.setting_lines(rows)))
    return
  if options.target and (options.compile or options.time):
    raise UserError("--target is predicted: leave out --compile and --time, which need the device")
  facts = explain.explain(
    values,
    devices=devices,
    compiled=options.compile,
    timed=options.time,
    target=options.target or "",
  )
  print(json.dumps(facts, indent=2) if options.json else "\n".join(explain.lines(facts)))


if __name__ == "__main__":
  cli.run(main)
