"""Table 2: budgets become steps, a run is made once, and what still moves is not tested."""

import argparse
import json
from types import SimpleNamespace

import pytest

from benchmarks import table2, table2_rows
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import settings

RATE = 40.0  # images a second
ROWS = {row.name: row for row in table2_rows.ROWS}


@pytest.mark.parametrize("name", ROWS)
def test_the_configs_are_sound(name):
  for scale, channels in (("reduced", 1), ("full", 3)):
    config = ROWS[name].config(scale)
    ROWS[name].set_steps(config, 7, 1)
    ROWS[name].set_samples(config, 5)
    settings.check(config, settings.wanted(config))
    assert config.data.channels == channels
  assert config.data.size == (1024, 1024)


def train(config, *, data, workdir):
  """Writes the log of a run."""
  row = next(row for row in table2_rows.ROWS if row.route == config.route and not row.paired)
  steps, every = config[row.route].steps, config[row.route].log_every
  folder = workdir / row.route
  folder.mkdir(parents=True, exist_ok=True)
  lines = [
    json.dumps({"step": step, "images_per_second": RATE})
    for level in range(row.levels(config))
    for step in range(level * steps + every, (level + 1) * steps + 1, every)
  ]
  (folder / "metrics.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(("name", "steps"), [("DDM", 25), ("SinGAN", 33)])
def test_a_budget_of_seconds_becomes_steps_and_a_run_is_made_once(
  tmp_path, monkeypatch, name, steps
):
  made = []
  monkeypatch.setattr(table2.training, "train", lambda c, **o: made.append(o) or train(c, **o))
  options = argparse.Namespace(scale="reduced", seconds=10.0, images=None, work=tmp_path)
  dataset = SimpleNamespace(root=tmp_path / "data")
  seconds = table2._step_seconds(ROWS[name], options, dataset)
  assert table2._step_seconds(ROWS[name], options, dataset) == seconds
  given = (ROWS[name], options, dataset, 0.5, 0, 3, seconds)
  one = table2._trained(*given)
  levels = 1 if name == "DDM" else 6
  assert one["steps"] == steps * levels
  assert one["seconds"] == pytest.approx(5.0, rel=0.05)
  assert table2._trained(*given)["steps"] == one["steps"]
  assert [run["workdir"].name for run in made] == [name, f"{name}-0.5-0"]


def test_a_folder_keeps_to_its_budget_and_a_killed_run_is_completed(tmp_path, monkeypatch):
  asked = {"budget": {"seconds": 240.0}, "samples": 4}
  table2._require_same(tmp_path / "table2.json", asked)
  table2._require_same(tmp_path / "table2.json", asked)
  with pytest.raises(UserError, match="use another --work"):
    table2._require_same(tmp_path / "table2.json", asked | {"budget": {"seconds": 480.0}})
  dataset = SimpleNamespace(card={"name": "x", "fingerprint": "y"})
  monkeypatch.setattr(table2, "_dataset", lambda *_: dataset)
  monkeypatch.setattr(table2.records, "source", lambda *_: [])
  with pytest.raises(UserError, match="holds runs of another table"):
    table2.main(["--work", str(tmp_path), "--seconds", "480", "--samples", "4"])
  samples = tmp_path / "samples"
  samples.mkdir()
  for number in range(2 * table2.SAMPLINGS):
    (samples / f"{number}.png").write_bytes(bytes([number]))
  (tmp_path / "out" / "0").mkdir(parents=True)  # killed here
  parts = table2._samplings(samples, tmp_path / "out")
  assert [len(list(part.iterdir())) for part in parts] == [2] * table2.SAMPLINGS


@pytest.mark.parametrize(
  "given", ["--seconds 0", "--seconds 9 --shares 0.5 nan", "--images 9 --seeds 0"]
)
def test_numbers_that_train_nothing_are_refused(given):
  with pytest.raises(UserError, match="takes numbers above 0"):
    table2._options(["--work", "x", *given.split()])


def report(kids, tests=()):
  def method(name):
    kid = {"name": "KID", "value": kids[name], "sd": 0.01}
    return {"images": 3, "distances": {"KID": kid}, "numbers": {"psnr": {"value": 20.0}}}

  names = (*ROWS, "copy")
  floors = {"KID": {"name": "KID", "value": 0.0, "sd": 0.02}}
  return {"methods": {n: method(n) for n in names}, "real": {"floors": floors}, "tests": tests}


def test_what_still_moves_is_said_and_not_tested():
  before = dict.fromkeys((*ROWS, "copy"), 0.5)
  after = before | {"DDM": 0.3, "StyleSwin": 0.7, "VQGAN": 0.485, "copy": 0.5}
  tests = [{"first": "ours", "second": second} for second in ("VQGAN", "DDM")]
  reports = {0.5: report(before), 1.0: report(after, tests)}
  run = {"steps": 2, "seconds": 1.0, "wall": 2.0}
  runs = {(name, share): [run] for name in ROWS for share in reports}
  found = table2.summary(reports, table2_rows.ROWS, runs, ["copy"], dict.fromkeys(ROWS, 9))
  assert {n for n, row in found["rows"].items() if not row["converged"]} == {"DDM", "StyleSwin"}
  assert found["tests"] == tests[:1]
  assert [point["value"] for point in found["rows"]["DDM"]["KID_over_budget"]] == [0.5, 0.3]
  assert "numbers" not in found["rows"]["DDM"]  # unpaired: no reconstruction
  assert found["rows"]["ours"]["numbers"]["psnr"]["value"] == 20.0
  assert found["floors"]["copy"]["value"] == 0.5
  assert not table2.converged([{"value": 1.0}], 0.0)
