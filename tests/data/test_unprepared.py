from pathlib import Path

import pytest

from hiresmed_jax.data.listing import kind_of, prepare_command
from tests.data.readers.lidc_series import message, write_series


def test_the_command_fits_what_lies_there(tmp_path: Path) -> None:
  folder = tmp_path / "my scans"
  write_series(folder / "CT", positions=[0.0, 5.0])
  assert kind_of(folder) == "dicom"
  (folder / "other.xml").write_text("<annotation/>")
  assert kind_of(folder) == "dicom"
  (folder / "CT" / "069.xml").write_text(message([]))
  assert kind_of(folder) == "lidc"
  expected = f"--kind lidc --source '{folder}' --out '{folder}_prepared'"
  assert prepare_command(folder).endswith(expected)


@pytest.mark.parametrize(
  ("name", "kind"), [("a.png", "images"), ("a.nii.gz", "volumes"), ("a.txt", None)]
)
def test_kinds_by_name(tmp_path: Path, name: str, kind: str | None) -> None:
  (tmp_path / name).write_bytes(b"")
  assert kind_of(tmp_path) == kind
