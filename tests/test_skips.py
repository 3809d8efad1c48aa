import os

import pytest

from tests.conftest import Module, forbidden_skips

ALLOWED = """
# a comment
tests/a.py::test_one  # why
tests/b.py
"""


def test_only_what_is_listed_may_be_skipped():
  skipped = [
    ("tests/a.py::test_one[3]", "x"),
    ("tests/a.py::test_one", "x"),
    ("tests/b.py::test_any", "x"),
    ("tests/a.py::test_one[a@b]@a group", "x"),
    ("tests/a.py::test_one_more", "x"),
    ("tests/bb.py::test", "no torch"),
  ]
  assert forbidden_skips(skipped, ALLOWED) == [
    "tests/a.py::test_one_more: x",
    "tests/bb.py::test: no torch",
  ]


def test_what_needs_a_package_that_this_python_has_no_build_of_may_be_skipped():
  skipped = [
    ("tests/a.py", "could not import 'torch': No module named 'torch'"),
    ("tests/b.py::test", "No module named 'lpips'"),
    ("tests/c.py", "No module named 'torchvision'"),
  ]
  assert forbidden_skips(skipped, "", ["torch", "lpips"]) == [
    "tests/c.py: No module named 'torchvision'",
  ]
  assert len(forbidden_skips(skipped, "")) == 3


@pytest.mark.parametrize("error", [pytest.skip.Exception, Module.CollectError])
def test_a_file_is_skipped_where_a_reference_is_missing_and_nothing_else(request, tmp_path, error):
  missing = "torch" if error is pytest.skip.Exception else "numpy"
  path = tmp_path / "test_it.py"
  path.write_text(f"raise ModuleNotFoundError(name='{missing}')")
  with pytest.raises(error, match=missing):
    Module.from_parent(request.session, path=path).collect()


def test_the_users_cache_is_left_alone():
  assert "hiresmed-tests-" in os.environ["HIRESMED_CACHE"]
