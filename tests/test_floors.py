"""The shape of the house: who may import whom, how long a file is, what lies at the top."""

import ast
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "hiresmed_jax"
FLOORS = [
  ["types", "errors"],
  ["ops"],
  ["nets", "losses", "metrics", "data", "runtime"],
  ["placement", "lesions", "tasks", "convert"],
  ["loop", "synthesis", "report", "explanation"],
  ["routes", "evaluation"],
  ["prepare", "train", "synthesize", "evaluate", "weights", "explain", "__main__"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TOP_LEVEL = {
  *("pyproject.toml", "README.md"),
  *("hiresmed_jax", "configs", "tests", "benchmarks", "launch"),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
  """Dotted names that a module imports, relative ones made absolute."""
  names: set[str] = set()
  package = (path.relative_to(REPO).parent).as_posix().replace("/", ".").split(".")
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = package[: len(package) - node.level + 1] if node.level else []
      module = ".".join([*base, *([node.module] if node.module else [])])
      names |= {f"{module}.{alias.name}" for alias in node.names}
  return names


def room_of(path: Path) -> str:
  return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_module_imports_lower_floors_or_its_own_room(path):
  room = room_of(path)
  if room == "__init__":
    return
  assert room in FLOOR, f"no floor for {room}"
  for name in imports(path):
    if name.startswith("hiresmed_jax."):
      other = name.split(".")[1]
      assert other == room or FLOOR[other] < FLOOR[room], f"{room} imports {other}"
    elif name.split(".")[0] == "jax" and room == "data":
      raise AssertionError("data runs in worker processes, which must not start jax")


def test_files_are_short_and_hold_one_idea():
  files = [p for folder in TOP_LEVEL for p in (REPO / folder).rglob("*.py")]
  too_long = {p.name: n for p in files if (n := len(p.read_text().splitlines())) > 400}
  assert too_long == {}
  drawers = {"utils", "helpers", "common", "misc"}
  assert [p for p in files if p.stem in drawers] == []


def test_nothing_else_lies_at_the_top():
  command = ["git", "ls-files", "--cached"]
  listed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
  entries = {line.split("/")[0] for line in listed.splitlines()}
  assert {e for e in entries if not e.startswith(".")} <= TOP_LEVEL
