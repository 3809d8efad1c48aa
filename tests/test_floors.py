"""The shape of the house: who may import whom, how long a file is, what lies at the top."""

import ast
import subprocess
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "hiresmed_jax"
FLOORS = [
  ["types", "errors"],
  ["files"],
  ["ops"],
  ["nets", "losses", "metrics", "data", "runtime"],
  ["placement", "lesions", "convert"],
  ["routes/settings"],
  ["inference"],
  ["routes/train", "synthesis", "evaluation"],
  [
    *("prepare", "train", "synthesize", "reconstruct", "evaluate", "weights", "explain"),
    *("api", "__main__"),
  ],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The upper half of a route and what stands beside the routes; the rest is settings and tasks.
TRAINING = {"train", "fit", "report", "explain", "loop", "programs", "run", "dataset"}
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


def room_of(module: str) -> str:
  """Room of a dotted module name below the package; a route has a lower and an upper half."""
  parts = module.split(".")
  if parts[0] != "routes":
    return parts[0]
  return "routes/train" if TRAINING & set(parts[1:]) else "routes/settings"


def route_of(module: str) -> str:
  """The route that a dotted module name below the package belongs to, or ""."""
  room, *parts = (part for part in module.split(".") if part != "baselines")
  places = (PACKAGE / "routes", PACKAGE / "routes" / "baselines")
  is_route = room == "routes" and any((place / parts[0]).is_dir() for place in places)
  return parts[0] if is_route else ""


def faults(path: Path) -> list[str]:
  """What a module imports and may not."""
  me = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
  if me == "__init__":
    return []
  room, found = room_of(me), []
  for name in imports(path):
    if name.startswith("hiresmed_jax."):
      other = name.removeprefix("hiresmed_jax.")
      allowed = room_of(other) == room or FLOOR[room_of(other)] < FLOOR[room]
      # What two routes share lies below them; only the order of routes knows them all.
      if route_of(me) and route_of(other):
        allowed &= route_of(me) == route_of(other)
      if room == "synthesis":
        allowed &= not other.startswith("routes")
      found += [] if allowed else [f"{me} imports {other}"]
    elif name.split(".")[0] == "jax" and room == "data":
      found.append(f"{me} imports jax, which must not start in worker processes")
  return found


def test_modules_import_lower_floors_or_their_own_room():
  assert len(MODULES) > 100
  assert [fault for path in MODULES for fault in faults(path)] == []


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
