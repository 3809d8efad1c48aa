import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import (
  contenders,
  convergence,
  convergence_data,
  convergence_factors,
  convergence_run,
  table,
)
from benchmarks.torch_baseline import vqgan
from benchmarks.torch_baseline.published import published_step
from benchmarks.yardstick import Curve, compare, first_stays_under, mean_absolute_error, reached
from hiresmed_jax.errors import UserError
from tests import tiny, tiny_run


def test_first_stays_under() -> None:
  values = [0.3, 0.09, 0.12, 0.08, 0.05, 0.06]
  assert first_stays_under(values, 0.1) == 3  # under it at 1 already, but not to stay
  assert first_stays_under(values, 0.06) is None  # it ends on the threshold, not under it
  assert first_stays_under(values, 0.061) == 4
  assert first_stays_under(values, 1.0) == 0
  assert first_stays_under([], 0.1) is None
  assert first_stays_under([0.05, float("nan"), 0.05], 0.1) == 2
  assert first_stays_under([0.05, float("nan")], 0.1) is None


def _recipe(errors: list[list[float]], compile_seconds: float = 0.0) -> dict[str, Any]:
  runs = []
  for seed, train in enumerate(errors):
    curve = Curve(seed)
    for number, error in enumerate(train):
      curve.add(10 * number, 2.0 * number, error, 2 * error)
    facts = reached(curve, (0.1,), steps_per_epoch=5, compile_seconds=compile_seconds)
    seconds = curve.seconds[-1]
    end = {"step": curve.steps[-1], "seconds": seconds}
    end["with_compilation"] = seconds + compile_seconds
    runs.append({"reached": facts, "end": end})
  return {"runs": runs}


def test_what_a_curve_reaches() -> None:
  run = _recipe([[0.3, 0.2, 0.09, 0.05]], compile_seconds=7.0)["runs"][0]
  expected = {"step": 20, "epoch": 4.0, "seconds": 4.0, "with_compilation": 11.0}
  assert run["reached"]["train"]["0.1"] == expected
  assert run["reached"]["held_out"]["0.1"] is None


def test_how_many_times_sooner() -> None:
  ours = _recipe([[0.3, 0.09, 0.08, 0.05]] * 2 + [[0.3, 0.3, 0.3, 0.3]], compile_seconds=10.0)
  slow = _recipe([[0.3, 0.2, 0.2, 0.09]] * 3)
  never = _recipe([[0.3, 0.2, 0.2, 0.2]] * 2 + [[0.3, 0.0, 0.0, 0.0]])
  rows = {
    (row["recipe"], row["images"]): row
    for row in compare({"ours": ours, "slow": slow, "never": never}, (0.1,), ours="ours")
  }
  row = rows["slow", "train"]
  assert row["reached"] is True
  assert (row["ours_steps"], row["baseline_steps"], row["times_steps"]) == (10, 30, 3.0)
  assert (row["ours_seconds"], row["baseline_seconds"]) == (2.0, 6.0)
  # Compilation of ours alone: 12 s against 6 s.
  assert row["times_with_compilation"] == 0.5
  # Two of three seeds never reach it: a lower bound by the end of the run.
  assert rows["never", "train"]["reached"] is False
  assert rows["never", "train"]["baseline_seconds"] == 6.0
  assert rows["slow", "held_out"]["ours_seconds"] is None
  assert rows["slow", "held_out"]["times_seconds"] is None


def test_the_error_is_that_of_all_pixels_whatever_the_batch() -> None:
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (5, 8, 8, 1)).astype(np.float32)
  made = rng.uniform(-3, 3, images.shape).astype(np.float32)
  expected = np.abs((np.clip(made, -1, 1) + 1) / 2 - (images + 1) / 2).mean()
  sizes = []

  def reconstruct(batch: np.ndarray) -> np.ndarray:
    sizes.append(len(batch))
    found = [int(np.flatnonzero((images == x).all(axis=(1, 2, 3)))[0]) for x in batch]
    return made[found]

  for batch_size in (2, 3, 5, 8):
    found = mean_absolute_error(reconstruct, images, batch_size=batch_size)
    assert found == pytest.approx(expected, rel=1e-6)
    assert set(sizes) == {batch_size}  # always whole batches
    sizes.clear()


def test_both_sides_are_judged_by_what_they_make() -> None:
  """The error of a torch run equals that worked out in torch; of grey images in three channels."""
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (3, 16, 16, 1)).astype(np.float32)
  contender = contenders.published("x", "taming", images, channels=3, width=8)
  run = contender.start(0, 2)
  run.take(np.array([0, 1], np.int32))
  found = mean_absolute_error(run.reconstruct, images, batch_size=2)
  step = published_step("taming", channels=3, width=8, steps=2, seed=0)
  x = torch.from_numpy(images).permute(0, 3, 1, 2)
  step(x[:2])
  # In the same batches: a convolution may round otherwise in another one.
  made = torch.cat([step.reconstruct(x[:2]), step.reconstruct(x[[2, 2]])[:1]])
  expected = (made.mean(dim=1, keepdim=True) - x).abs().mean() / 2
  assert found == pytest.approx(float(expected), rel=1e-5)


def _tiny_config(scale: convergence_run.Scale) -> Any:
  config = tiny.get_config().background
  config.batch_size = scale.batch_size
  # No discriminator, plain blocks: a quarter of what compiles. What is measured is not asked here.
  config.gan.weight = 0.0
  config.net.block = "residual"
  config.optimizer.accumulate = 1
  return config


@pytest.fixture
def tiny_scale(monkeypatch: pytest.MonkeyPatch) -> None:
  for module in (convergence_run, convergence_factors):
    monkeypatch.setattr(module, "ours_config", _tiny_config)
  scale = convergence_run.Scale(32, 1, 8, batch_size=2, images=6, judged=3, held_out=2, points=2)
  monkeypatch.setitem(convergence_run.SCALES, "cpu", scale)


@pytest.mark.slow
def test_ours_is_judged_without_the_running_average(tiny_scale: None) -> None:
  scale = convergence_run.SCALES["cpu"]
  images = convergence_data.load(None, scale)
  config = _tiny_config(scale)
  runs = {}
  for ema in (0.0, 0.99):
    config.ema = ema
    run = contenders.ours("x", config.copy_and_resolve_references(), images.train, channels=1)
    with tiny_run.quick_compiler():
      started = run.start(0, 4)
    started.begin([np.array([0, 1], np.int32)] * contenders.WARM_BATCHES)
    for _ in range(3):
      started.take(np.array([0, 1], np.int32))
    runs[ema] = started.reconstruct(images.judged[:2])
  np.testing.assert_allclose(runs[0.0], runs[0.99], atol=1e-4)


@pytest.mark.slow
def test_a_run_of_a_few_steps_says_all(
  tiny_scale: None,
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  found = convergence_run.Runner._steps

  def three(*arguments: Any) -> int:  # of the baseline too, which finds its own
    assert found(*arguments) >= 2
    return 3

  monkeypatch.setattr(convergence_run.Runner, "_steps", three)
  out = tmp_path / "convergence_cpu.json"
  options = "--seconds 1000 --seeds 2 --rates 1 10 --recipes ours taming --ours-steps 3"
  with tiny_run.quick_compiler():
    convergence.main([*options.split(), "--factors", "half-batch", "--out", str(out)])
  result = json.loads(out.read_text())
  assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
  names = ["ours", "taming, published rate", "taming, best rate"]
  assert list(result["recipes"]) == names
  for recipe in result["recipes"].values():
    assert [run["seed"] for run in recipe["runs"]] == [0, 1]
    for run in recipe["runs"]:
      assert run["steps"][0] == run["seconds"][0] == 0
      assert np.all(np.diff(run["seconds"]) > 0)
      assert len(run["steps"]) == len(run["seconds"]) == len(run["train"]) == len(run["held_out"])
      assert np.isfinite(run["train"] + run["held_out"]).all()
  # Before the first step the weights differ by seed alone: both rates begin alike.
  first, second = (result["recipes"][name]["runs"][0]["train"][0] for name in names[1:])
  assert first == second
  rates = result["recipes"]["taming, best rate"]["chosen_from"]
  chosen = result["recipes"]["taming, best rate"]["learning_rate"]
  assert rates[str(chosen)] == min(rates.values())
  assert result["factors"]["half-batch"]["runs"][0]["steps"][-1] == 6
  assert out.with_suffix(".jpg").stat().st_size > 10_000
  assert "convergence" in table.table(tmp_path)
  assert "ours but half-batch | training 0." in table.table(tmp_path)


def test_the_recipe_of_ours_runs_in_torch(tiny_scale: None) -> None:
  scale = convergence_run.SCALES["cpu"]
  images = convergence_data.load(None, scale)
  config = _tiny_config(scale)
  config.net.block = "hdfb"
  contender = contenders.ours_in_torch("torch", config, images.train, channels=1)
  run = contender.start(0, 4)
  before = run.reconstruct(images.judged[:2])
  for _ in range(2):
    run.take(np.array([0, 1], np.int32))
  after = run.reconstruct(images.judged[:2])
  assert before.shape == after.shape == (2, 32, 32, 1)
  assert np.isfinite(after).all()
  assert not np.allclose(before, after)


def test_the_order_of_the_images_is_the_seeds() -> None:
  rows = convergence_run.rows_of_batches(7, 2, 0)
  epoch = np.concatenate([next(rows) for _ in range(3)])
  assert len(set(epoch.tolist())) == 6
  again = convergence_run.rows_of_batches(7, 2, 0)
  np.testing.assert_array_equal(np.concatenate([next(again) for _ in range(3)]), epoch)
  other = convergence_run.rows_of_batches(7, 2, 1)
  assert not np.array_equal(np.concatenate([next(other) for _ in range(3)]), epoch)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
  with pytest.raises(UserError, match="add ours"):
    convergence.main(["--recipes", "taming", "--factors"])
  with pytest.raises(UserError, match="above 0"):
    convergence.main(["--seeds", "0"])
  with pytest.raises(UserError, match="not there"):
    convergence.main(["--data", str(tmp_path / "none")])


def test_both_sides_have_latents_of_the_same_size() -> None:
  for name, factor in (("cpu", 4), ("paper", 16)):
    scale = convergence_run.SCALES[name]
    config = convergence_run.ours_config(scale)
    assert np.prod(config.net.strides) == factor
    assert config.codebook.num_codes == vqgan.NUM_CODES
    net = vqgan.taming(1, 8, levels=scale.levels or vqgan.LEVELS)
    images = torch.zeros(1, 1, 32, 32)
    assert net(images).indices.shape == (1, 32 // factor, 32 // factor)
    other = vqgan.dome272(1, 8, levels=scale.levels or vqgan.LEVELS)
    assert other(images).recon.shape == images.shape
