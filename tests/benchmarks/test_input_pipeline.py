import itertools
import json
from pathlib import Path

import pytest

from benchmarks import input_pipeline, table
from hiresmed_jax.errors import UserError


@pytest.mark.slow
def test_a_tiny_run_counts_every_case_and_stage(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  out = tmp_path / "input_pipeline_cpu.json"
  arguments = "--size 32 --images 3 --workers 0 --seconds 0.05 --gpu-images-per-second 10"
  input_pipeline.main([*arguments.split(), "--out", str(out)])
  result = json.loads(out.read_text())
  assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
  assert "most of it" in table.table(tmp_path)
  cases = [tuple(r[key] for key in ("bits", "augmentation", "epoch")) for r in result["rates"]]
  assert cases == list(itertools.product((16, 8), ("none", "best"), ("first", "later")))
  for row in result["stages"]:
    assert tuple(row["milliseconds"]) == input_pipeline.STAGES
    assert min(row["milliseconds"][s] for s in input_pipeline.STAGES[:4]) > 0
  for row in result["feeding"]["rows"]:
    best = max(
      r["images_per_second"]
      for r in result["rates"]
      if (r["bits"], r["augmentation"], r["epoch"]) == (row["bits"], "best", "later")
    )
    per_core = best / result["feeding"]["cores"]
    assert row["cores_for_the_gpu"] == pytest.approx(10 / per_core, abs=0.006)


def test_the_gpu_rate_is_read_from_results_of_accelerators(tmp_path: Path) -> None:
  assert input_pipeline._measured_gpu_rate(tmp_path) == (None, None)
  for name, device, rate in (("cpu", "cpu, A", 900.0), ("h100", "NVIDIA H100", 60.0)):
    content = {"device": device, "cases": [{"step": {"ours": {"images_per_second": rate}}}]}
    (tmp_path / f"train_step_{name}.json").write_text(json.dumps(content))
  assert input_pipeline._measured_gpu_rate(tmp_path) == (60.0, "train_step_h100.json")


def test_a_size_of_nothing_is_one_line() -> None:
  with pytest.raises(UserError, match="above 0"):
    input_pipeline.main(["--size", "0"])
