"""Every command and every Python block of README.md and of the docs runs, at small sizes.

A block after a comment `<!-- not run: WHY -->` is only looked at: what it calls must exist.
`train` checks its config, data and workdir as always and then trains nothing, and `weights fetch`
downloads nothing: tests of their own do both.
"""

import importlib
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from hiresmed_jax import __main__ as entry
from hiresmed_jax import evaluate, explain, synthesize
from hiresmed_jax.convert import published
from hiresmed_jax.data import records
from hiresmed_jax.routes import run, settings
from hiresmed_jax.runtime import compilation
from hiresmed_jax.synthesis import request
from tests import tiny_run
from tests.docs import world

pytestmark = pytest.mark.xdist_group("docs")

REPO = Path(__file__).parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "hiresmed_jax" / "docs").glob("*.md"))]
BLOCK = re.compile(
  r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<kind>bash|python)\n(?P<text>.*?)^```$", re.M | re.S
)
MOST_NOT_RUN = 6
# Numbers for images of 64 x 64, where no place is calm enough for a sham. What the page says is
# read, and checked, first.
NUMBERS = {"--num": 2, "--backgrounds": 2, "--size": 64, "--shams": 0}
TEXTS = {"--diameter-mm": "14-20", "--diameter-px": "2-3.5", "--at": "42,29"}


class Block(NamedTuple):
  kind: str
  text: str
  not_run: str


def blocks(page: Path) -> list[Block]:
  found = BLOCK.finditer(page.read_text())
  return [Block(one["kind"], one["text"], one["why"] or "") for one in found]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
  return world.make(tmp_path_factory.mktemp("docs") / "world")


@pytest.fixture(autouse=True)
def small(monkeypatch):
  """What takes long is left out; what is compiled is soon ready, for one device."""
  one = tiny_run.mesh(1)
  device = one.devices.flat[0]
  monkeypatch.setattr(compilation, "options", tiny_run.quick)
  monkeypatch.setattr(evaluate.mesh, "make_mesh", lambda **_: one)
  monkeypatch.setattr(synthesize.run.jax, "local_devices", lambda **_: [device])
  monkeypatch.setattr(explain.jax, "device_count", lambda: 1)
  monkeypatch.setattr(run, "train", checked)
  monkeypatch.setattr(published, "fetch", lambda net, **_: published.cache_path(net))


def checked(config, *, data, workdir, overwrite=False):
  """Stands for training: the workdir gets the run of the world where it is not there."""
  wanted = settings.wanted(config)
  settings.check(config, wanted, devices=1)
  run._check_workdir(workdir, wanted)
  if data is None:
    assert config.data.phantom.kind
  else:
    assert records.open_dataset(data).card["images"]
  if not workdir.exists():
    shutil.copytree("runs/kub", workdir)
    noted = json.loads((workdir / "data.json").read_text())
    (workdir / "data.json").write_text(
      json.dumps(noted | {"root": str(Path("data/kub").resolve())})
    )


def commands(text: str) -> list[list[str]]:
  """The words of each command of a bash block."""
  lines = text.replace("\\\n", " ").splitlines()
  return [words for line in lines if (words := shlex.split(line, comments=True))]


def called(words: list[str]) -> tuple[str, list[str]]:
  """(command, arguments) of `python -m hiresmed_jax.X ...` or `hiresmed X ...`; ("", []) else."""
  if words[:2] == ["python", "-m"] and words[2].split(".")[0] == "hiresmed_jax":
    return words[2].removeprefix("hiresmed_jax").removeprefix("."), words[3:]
  if words[0] == "hiresmed":
    return words[1], words[2:]
  return "", []


def smaller(command: str, arguments: list[str]) -> list[str]:
  """The arguments with the numbers of the world."""
  if command == "synthesize":
    request.checked(synthesize._request(synthesize._options(arguments)[0]))
  made = list(arguments)
  for place, (option, value) in enumerate(itertools.pairwise(arguments), 1):
    if option in NUMBERS:
      made[place] = str(min(int(value), NUMBERS[option]))
    made[place] = TEXTS.get(option, made[place])
  if {"--paper", "--at"} & set(arguments):  # few places in so small an image
    made += ["--num", "1", "--lesions", "1"]
  return made


def run_command(words: list[str]) -> None:
  if re.fullmatch(r"export [A-Z_]+=\S+|source \.venv/bin/activate", " ".join(words)):
    return
  command, arguments = called(words)
  main = importlib.import_module(f"hiresmed_jax.{command}").main if command else entry.main
  assert command or words[:3] == ["python", "-m", "hiresmed_jax"], f"what is {words[0]}?"
  if "--out" in arguments and command in ("prepare", "synthesize", "reconstruct", "evaluate"):
    out = Path(arguments[arguments.index("--out") + 1])
    if "--shard" not in arguments:
      shutil.rmtree(out, ignore_errors=True)  # of the world, or of an earlier part of the page
  if "--help" in arguments:
    with pytest.raises(SystemExit) as end:
      main(arguments)
    assert end.value.code == 0
  else:
    assert not main(smaller(command, arguments)), words


def look_at(words: list[str]) -> None:
  """What a command that is not run names must be there."""
  if words[0] == "bash":
    script = (REPO / words[1]).read_text()
    assert [word for word in words[2:] if word.startswith("--fast") and word not in script] == []
    words = words[words.index("python") :] if "python" in words else []
    if words:
      run_command(words)
  else:
    assert words[0] in ("git", "cd", "python", "pip", "source")
    assert not called(words)[0], "this one can run"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore:what surrounds lesions does not count")  # too few are there
def test_what_a_page_shows_runs(page, place, tmp_path, monkeypatch):
  folder = tmp_path / "here"
  shutil.copytree(place, folder)
  noted = folder / "runs" / "kub" / "data.json"
  root = {"root": str(folder / "data" / "kub")}
  noted.write_text(json.dumps(json.loads(noted.read_text()) | root))
  monkeypatch.chdir(folder)
  names: dict[str, object] = {}
  for block in blocks(page):
    if block.kind == "python" and block.text.startswith("# "):
      Path(block.text.splitlines()[0].removeprefix("# ")).write_text(block.text)
    elif block.kind == "python":
      exec(compile(block.text, str(page), "exec"), names)
    else:
      for words in commands(block.text):
        (look_at if block.not_run else run_command)(words)


def test_few_blocks_are_not_run():
  left_out = [(page.name, b.not_run) for page in PAGES for b in blocks(page) if b.not_run]
  assert len(left_out) <= MOST_NOT_RUN, left_out
  for page in PAGES:
    fences = re.findall(r"^```(\w+)$", page.read_text(), re.M)
    assert len(fences) == len(blocks(page)), f"{page.name}: only bash and python blocks have a name"
