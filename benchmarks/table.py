"""The results table of benchmarks/README.md, made from benchmarks/results/*.json.

  python -m benchmarks.table            rewrites the part between the two markers
  python -m benchmarks.table --check    exit code 2 when the README differs from the results

The function that `table_rows.SUMMARIES` names for a benchmark makes the rows of its result.
"""

import argparse
import json
from pathlib import Path

from benchmarks.table_rows import SUMMARIES, Result
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import cli

FOLDER = Path(__file__).parent
BEGIN = "<!-- results: written by `python -m benchmarks.table` -->"
END = "<!-- end of results -->"


def main(argv: list[str]) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--check", action="store_true")
  options = parser.parse_args(argv)
  readme = FOLDER / "README.md"
  there = readme.read_text()
  wanted = rewritten(there, table(FOLDER / "results"))
  if options.check:
    if there != wanted:
      raise UserError("benchmarks/README.md differs from results/: python -m benchmarks.table")
  elif there != wanted:
    readme.write_text(wanted)


def table(folder: Path) -> str:
  """Markdown of all results of a folder, files in the order of their names.

  Raises:
    UserError: a file is not JSON, or belongs to a benchmark that SUMMARIES does not name.
  """
  lines = ["| benchmark | what | figure | device | date | commit |", "|---|---|---|---|---|---|"]
  for path in sorted(folder.glob("*.json")):
    try:
      result = json.loads(path.read_text())
    except ValueError as error:
      raise UserError(f"{path.name} is not JSON: {error}") from error
    # Older files have no such key; their names are <benchmark>_<device>.json.
    name = result.get("benchmark") or path.stem.rpartition("_")[0]
    if name not in SUMMARIES:
      known = ", ".join(sorted(SUMMARIES))
      raise UserError(f"{path.name} is of an unknown benchmark {name!r}: table_rows.py has {known}")
    device = f"{result['device']}, {_devices(result)}"
    for what, figure, made in SUMMARIES[name](result):
      date, commit = (made.get(key, result[key]) for key in ("date", "commit"))
      cells = (f"[{name}](results/{path.name})", what, figure, device, date, f"`{commit}`")
      lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def rewritten(readme: str, between: str) -> str:
  """`readme` with the part between the markers replaced.

  Raises:
    UserError: a marker is missing.
  """
  head, begin, rest = readme.partition(BEGIN)
  _, end, tail = rest.partition(END)
  if not begin or not end:
    raise UserError(f"benchmarks/README.md has lost a marker: {BEGIN} ... {END}")
  return f"{head}{BEGIN}\n\n{between}\n\n{END}{tail}"


def _devices(result: Result) -> str:
  if str(result["device"]).startswith("cpu"):
    return f"{result['cores']} cores"
  count = result.get("devices", 1)
  return f"{count} device{'s' if count > 1 else ''}"


if __name__ == "__main__":
  cli.run(main)
