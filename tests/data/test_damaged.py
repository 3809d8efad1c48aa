"""What is not whole costs a line that says what to do."""

from pathlib import Path

import pytest

from hiresmed_jax import files
from hiresmed_jax.data import phantom, records
from hiresmed_jax.errors import UserError


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b"\xff"])
def test_damaged_descriptions_of_records_are_one_line(tmp_path: Path, name, content) -> None:
  samples = (one.sample for one in phantom.phantoms("kub", 1, 32, seed=0))
  records.write_dataset(samples, tmp_path / "out", kind="phantom")
  (tmp_path / "out" / files.DIGESTS).unlink()
  (tmp_path / "out" / "records" / name).write_bytes(content)
  with pytest.raises(UserError, match=r"records is damaged .train.: prepare the dataset again"):
    records.source(records.open_dataset(tmp_path / "out"), "train").display_ranges()
