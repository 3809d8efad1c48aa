import os

from tests.conftest import forbidden_skips

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


def test_the_users_cache_is_left_alone():
  assert "hiresmed-tests-" in os.environ["HIRESMED_CACHE"]
