"""The docs are short, complete and linked: pages, settings, refusals."""

import ast
import importlib
import re
from collections.abc import Iterator

import pytest

from hiresmed_jax.__main__ import COMMANDS
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import cli
from tests.docs import settings_table
from tests.docs.test_commands import PAGES, REPO

PACKAGE = REPO / "hiresmed_jax"
# What ends a command or leaves a file out.
TOLD = {
  "UserError",
  "NoLesion",
  "SourceEmpty",
  "Unreadable",
  "LeftOut",
  "BadBoxes",
  "or_unreadable",
  "refuse",
}
LONG = {"settings", "troubleshooting"}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
  """Names of the headings, as GitHub makes them."""
  heads = re.findall(r"^#+ (.+)$", text, re.M)
  return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_and_the_pages_are_short():
  words = {page.stem: len(page.read_text().split()) for page in PAGES}
  assert words.pop("README") <= 800
  assert {name: n for name, n in words.items() if n > 1200 and name not in LONG} == {}


def test_links_lead_somewhere():
  for page in [*PAGES, REPO / "benchmarks" / "README.md"]:
    for link in LINK.findall(page.read_text()):
      path, _, anchor = link.partition("#")
      if path.startswith("http"):
        continue
      target = page.parent / path if path else page
      assert target.exists(), f"{page.name}: {link}"
      assert not anchor or anchor in anchors(target.read_text()), f"{page.name}: {link}"


def test_every_page_is_linked_from_the_readme():
  links = LINK.findall(PAGES[0].read_text())
  for page in PAGES[1:]:
    assert page.relative_to(REPO).as_posix() in links


def test_the_settings_page_is_that_of_the_tables(monkeypatch, tmp_path):
  settings_table.main(["--check"])
  changed = tmp_path / "settings.md"
  changed.write_text(settings_table.page().replace("`data.size`", "`data.sise`"))
  monkeypatch.setattr(settings_table, "PAGE", changed)
  with pytest.raises(UserError, match="differs from the tables"):
    settings_table.main(["--check"])
  settings_table.main([])
  settings_table.main(["--check"])


def test_the_exit_codes_are_those_of_the_commands():
  page = (PACKAGE / "docs" / "getting_started.md").read_text()
  table = page.split("| exit code | meaning |")[1].split("\n\n")[0]
  codes = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)]
  assert sorted(codes) == sorted(cli.EXIT_CODES)


def messages() -> list[tuple[str, str]]:
  """(where, words by which it is found on the page) of every line that a user can be told."""
  found = []
  for path in sorted(PACKAGE.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
      if name in TOLD and node.args:
        message = node.args[-1 if name == "refuse" else 0]
        parts = [re.split(r"[:;,(]", part.strip(" (),.:;`"))[0] for part in constants(message)]
        words = next((part.split()[:5] for part in parts if len(part.split()) > 1), [])
        if words:
          found.append((f"{path.relative_to(PACKAGE)}:{node.lineno}", " ".join(words)))
  return found


def constants(node: ast.expr) -> Iterator[str]:
  """The constant parts of a text, without those of the values in it."""
  if isinstance(node, ast.BinOp):
    yield from constants(node.left)
    yield from constants(node.right)
  elif isinstance(node, ast.JoinedStr):
    yield from (part.value.strip() for part in node.values if isinstance(part, ast.Constant))
  elif isinstance(node, ast.Constant):
    yield str(node.value).strip()


def test_every_line_that_a_user_can_be_told_has_its_cure():
  page = (REPO / "hiresmed_jax" / "docs" / "troubleshooting.md").read_text()
  told = messages()
  assert len(told) > 200
  assert [(where, text) for where, text in told if text not in page] == []


def test_every_option_that_is_named_exists(capsys):
  known = {"--fast", "--raw", "--check"}  # of launch/test.sh, of gdcmconv, of the settings table
  known.add("--diameter")  # --diameter-… of a message
  for command in [*COMMANDS, *(f"weights {action}" for action in ("list", "fetch", "convert"))]:
    name, *more = command.split()
    with pytest.raises(SystemExit):
      importlib.import_module(f"hiresmed_jax.{name}").main([*more, "--help"])
    known |= set(OPTION.findall(capsys.readouterr().out))
  for name in ("anchor", "placement", "insertion_realism", "train_step"):
    with pytest.raises(SystemExit):
      importlib.import_module(f"benchmarks.{name}").main(["--help"])
    known |= set(OPTION.findall(capsys.readouterr().out))
  named = {option for page in PAGES for option in OPTION.findall(page.read_text())}
  assert named - known == set()
