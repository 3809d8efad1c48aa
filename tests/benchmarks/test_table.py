import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import table
from hiresmed_jax.errors import UserError

ABOUT = {"device": "cpu, A", "cores": 2, "date": "2026-01-02", "commit": "abc"}


def _write(folder: Path, name: str, content: Any) -> None:
  (folder / name).write_text(json.dumps(content))


def test_the_committed_readme_says_what_the_results_say() -> None:
  table.main(["--check"])


def test_a_changed_result_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(table, "FOLDER", tmp_path)
  (tmp_path / "results").mkdir()
  readme = tmp_path / "README.md"
  readme.write_text(f"above\n{table.BEGIN}\nold\n{table.END}\nbelow\n")
  row = {"pass": "forward", "ours": {"median_ms": 2.0}, "lax": {"median_ms": 5.0}}
  result = {"benchmark": "depthwise", **ABOUT, "rows": [row]}
  _write(tmp_path / "results", "depthwise_cpu.json", result)
  with pytest.raises(UserError, match="differs from results"):
    table.main(["--check"])
  table.main([])
  table.main(["--check"])
  text = readme.read_text()
  assert text.startswith("above\n")
  assert text.endswith("below\n")
  assert "median 2.5x" in text
  assert "| cpu, A, 2 cores | 2026-01-02 | `abc` |" in text
  row["lax"]["median_ms"] = 6.0  # type: ignore[index]
  _write(tmp_path / "results", "depthwise_cpu.json", result)
  with pytest.raises(UserError, match="differs from results"):
    table.main(["--check"])


def test_virtual_devices_are_called_so(tmp_path: Path) -> None:
  def row(scaling: str, devices: int, batch: int, rate: float) -> dict[str, Any]:
    known = {"data": devices, "fsdp": 1, "processes": 1, "bytes_sent_per_device": 2e6}
    known |= {"scaling": scaling, "devices": devices, "batch": batch, "images_per_second": rate}
    return known

  rows = [row("strong", 1, 8, 40.0), row("weak", 1, 1, 30.0), row("weak", 8, 8, 20.0)]
  result = {**ABOUT, "virtual_devices": True, "rows": rows}
  _write(tmp_path, "scaling_cpu.json", result)
  (line,) = table.table(tmp_path).splitlines()[2:]
  assert "8 virtual devices, which share the cores: data 8 x fsdp 1, 8 images" in line
  assert "20.0 images/s (40.0 on one with all of the images; 30.0 on one with its share" in line


def test_what_is_unknown_or_broken_is_one_line(tmp_path: Path) -> None:
  _write(tmp_path, "guess_cpu.json", ABOUT)
  with pytest.raises(UserError, match=r"guess_cpu\.json is of an unknown benchmark 'guess'"):
    table.table(tmp_path)
  (tmp_path / "guess_cpu.json").write_text("{")
  with pytest.raises(UserError, match="not JSON"):
    table.table(tmp_path)
  with pytest.raises(UserError, match="lost a marker"):
    table.rewritten("no markers", "")
