"""What pyproject.toml says against what the code does."""

import re
import sys
import tomllib

from tests.test_floors import MODULES, REPO, imports

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
# Distributions that are imported under another name.
IMPORTED_AS = {
  "absl-py": "absl",
  "opencv-python-headless": "cv2",
  "orbax-checkpoint": "orbax",
  "pillow": "PIL",
  "pyyaml": "yaml",
  "scikit-learn": "sklearn",
  "tensorflow-datasets": "tensorflow_datasets",
}
# Imported where it is there.
OPTIONAL = {"pycocotools", "tensorflow", "torch"}
# Used by a library that we use, when it is there.
NEVER_IMPORTED = {
  "filelock",
  "pylibjpeg",
  "pylibjpeg-libjpeg",
  "pylibjpeg-openjpeg",
  "pylibjpeg-rle",
}


def declared(requirements):
  return {re.split(r"[<>=\[]", requirement)[0] for requirement in requirements}


def test_dependencies_are_what_is_imported():
  found = {name.split(".")[0] for path in MODULES for name in imports(path)}
  found -= set(sys.stdlib_module_names) | {"hiresmed_jax"}
  wanted = declared(PROJECT["project"]["dependencies"]) - NEVER_IMPORTED
  assert found - OPTIONAL == {IMPORTED_AS.get(name, name) for name in wanted}


def test_the_wheel_holds_every_package():
  rooms = {path.parent.relative_to(REPO).as_posix() for path in MODULES}
  configs = {path.parent.relative_to(REPO).as_posix() for path in (REPO / "configs").rglob("*.py")}
  expected = rooms | {f"hiresmed_jax/{folder}" for folder in configs}
  listed = PROJECT["tool"]["setuptools"]["packages"]
  assert {name.replace(".", "/") for name in listed} == expected


def test_the_wheel_holds_the_docs():
  patterns = PROJECT["tool"]["setuptools"]["package-data"]["hiresmed_jax"]
  shipped = {path for pattern in patterns for path in (REPO / "hiresmed_jax").glob(pattern)}
  assert shipped == set((REPO / "hiresmed_jax" / "docs").iterdir())
