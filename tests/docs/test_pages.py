"""The docs are short, complete and linked: pages, settings, refusals."""

import re

import pytest

from hiresmed_jax.errors import UserError
from tests.docs import settings_table
from tests.docs.test_commands import PAGES, REPO

LONG = {"settings", "troubleshooting"}
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
  """Names of the headings, as GitHub makes them."""
  heads = re.findall(r"^#+ (.+)$", text, re.M)
  return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_and_the_pages_are_short():
  words = {page.stem: len(page.read_text().split()) for page in PAGES}
  assert words.pop("README") <= 800
  assert {name: n for name, n in words.items() if n > 1200 and name not in LONG} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
  for link in LINK.findall(page.read_text()):
    path, _, anchor = link.partition("#")
    if path.startswith("http"):
      continue
    target = page.parent / path if path else page
    assert target.exists(), link
    assert not anchor or anchor in anchors(target.read_text()), link


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
