"""The page hiresmed_jax/docs/settings.md, made from the tables of settings.

python -m tests.docs.settings_table            writes the page
python -m tests.docs.settings_table --check    exit code 2 when the page differs from the tables
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hiresmed_jax import routes
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import settings
from hiresmed_jax.runtime import cli

PAGE = Path(__file__).parents[2] / "hiresmed_jax" / "docs" / "settings.md"
ABOUT = """\
# Settings

Every setting, its value in the presets `paper` and `best`, and what it may be. Change one on the
command line: `--config.KEY=VALUE`. `python -m hiresmed_jax.explain --config FILE.py --settings`
lists the settings with the values of one config, which may be others.

This page is written by `python -m tests.docs.settings_table`.
"""
SHARED = {"": "The run", "data": "Data", "mesh": "Devices", "synthesize": "Synthesis"}


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--check", action="store_true")
  options = parser.parse_args(argv)
  wanted = page()
  if not options.check:
    PAGE.write_text(wanted)
  elif PAGE.read_text() != wanted:
    raise UserError(f"{PAGE.name} differs from the tables: python -m tests.docs.settings_table")


def page() -> str:
  return "\n".join([ABOUT, *_lines()])


def _lines() -> Iterator[str]:
  for table in settings.tables():
    kind = "Baseline" if table.name in routes.BASELINES else "Route"
    yield f"## {SHARED.get(table.name, f'{kind} {table.name}')}\n"
    yield "| setting | paper | best | use | reason for another value than the paper's |"
    yield "|---|---|---|---|---|"
    for row in table.rows:
      key = f"{table.name}.{row.key}" if table.name else row.key
      cells = f"`{key}`", _shown(row.paper), _shown(row.best), row.valid.use, row.why
      yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _shown(value: Any) -> str:
  return f"`{value!r}`"


if __name__ == "__main__":
  cli.run(main)
