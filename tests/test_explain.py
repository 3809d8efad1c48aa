import contextlib
import io
import json

import jax
import jax.numpy as jnp
import pytest

from hiresmed_jax import explain, train
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes.background import task
from hiresmed_jax.runtime.config import load_config
from hiresmed_jax.runtime.devices import DEVICES
from hiresmed_jax.runtime.overrides import leaves
from tests import tiny_run
from tests.conftest import REPO

SMALL = """
from hiresmed_jax.routes import settings

def get_config(arg):
  route, preset = settings.route_and_preset(arg)
  config = settings.base("small", route=route, preset=preset)
  config.data.size = (32, 32)
  config.background.net.update({"channels": (32,), "strides": (2,), "stem_channels": 16})
  config.background.net.update({"encoder_blocks": 1, "code_dim": 16})
  config.background.gan.update({"features": (8, 16), "scales": 1})
  config.background.perceptual.net = "alexnet"
  return config
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
  path = tmp_path_factory.mktemp("explain") / "small.py"
  path.write_text(SMALL)
  return str(path)


@pytest.fixture(scope="module")
def alone(spec):
  """What is told as JSON for one device, and how many arrays that left behind."""
  before, out = len(jax.live_arrays()), io.StringIO()
  with contextlib.redirect_stdout(out):
    explain.main(["--config", spec, "--devices", "1", "--json"])
  return json.loads(out.getvalue())["background"] | {"arrays": len(jax.live_arrays()) - before}


@pytest.mark.slow
def test_counts_are_those_of_the_networks(alone, spec):
  net, disc = task.networks(load_config(spec).background, channels=3, dtype=jnp.float32)
  image = jnp.zeros((1, 32, 32, 3))
  for name, module in (("generator", net), ("discriminator", disc)):
    params = jax.eval_shape(module.init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert alone["parameters"][name] == count
    assert sum(row["parameters"] for row in outermost(alone["networks"][name])) == count
  heads = 64 + 192 + 384 + 256 + 256
  assert alone["parameters"]["perceptual, frozen"] == 2_469_696 + heads
  hdfb = next(row for row in alone["networks"]["generator"] if row["path"].endswith("block0"))
  assert hdfb["type"] == "HDFB"
  assert hdfb["output"] == [16, 16, 32]
  # 16 to 32 channels: MSConvFE(32), both norms, the 3x3 convolution, the 1x1 of the skip.
  assert hdfb["parameters"] == 10 * 32**2 + 30 * 32 + 96 + 9 * 16 * 32 + 32 + 16 * 32 + 32


def outermost(rows):
  """Rows that no other row holds; the two middle stacks stand for themselves by their blocks."""
  return [row for row in rows if "/" not in row["path"] or "_middle/" in row["path"]]


@pytest.mark.slow
def test_flops_of_the_parts_are_the_whole(alone):
  parts = sum(row["flops_per_image"] for row in outermost(alone["networks"]["generator"]))
  whole = alone["flops_per_image"]["encoder"] + alone["flops_per_image"]["decoder"]
  assert parts == pytest.approx(whole, rel=0.02)
  assert alone["flops_per_image"]["training step"] > 3 * whole


@pytest.mark.slow
def test_nothing_is_allocated(alone):
  assert alone["arrays"] <= 1  # the key that shapes are asked with


def test_a_summary_comes_first_and_departures_last_each_once(capsys, spec):
  asked = ["--config", f"{spec}:background,best", "--devices", "1"]
  explain.main(asked)
  text = capsys.readouterr().out
  summary, departures = text.split("\n\n")[0].splitlines(), text.split("\nDEPARTURES ")[1]
  assert len(summary) <= 10
  explain.main([*asked, "--json"])
  facts = json.loads(capsys.readouterr().out)
  trained = sum(n for name, n in facts["background"]["parameters"].items() if "frozen" not in name)
  step = facts["background"]["flops_per_image"]["training step"] / 1e9
  assert f"{trained:,} parameters" in summary[2]
  assert f"{step:,.0f} GFLOP" in summary[2]
  rows = facts["background"]["departures"] + facts["departures"]
  for row in rows:
    assert (
      departures.count(f"  {row['what']}: paper ") == text.count(f"  {row['what']}: paper ") == 1
    )
  reasons = [line for line in departures.splitlines() if line.startswith("    because ")]
  assert {line.removeprefix("    because ") for line in reasons} == {row["reason"] for row in rows}
  assert len(reasons) == len(set(reasons))


@pytest.mark.slow
def test_the_text_and_devices_that_are_not_here(alone, capsys, spec):
  overrides = ["--config.mesh.fsdp=2", "--config.background.ema=0.5"]
  explain.main(["--config", f"{spec}:background,best", "--devices", "4", *overrides])
  text = capsys.readouterr().out
  assert alone["images_per_device"] == 8
  assert ", mesh of data 2, fsdp 2\n" in text
  assert "\n2 images a device\n" in text
  assert "background.ema: paper 0.0; here 0.5" in text
  assert "ROUTE lesion" not in text
  for part in ("generator:", "discriminator:", "training step", "4 x", "MiB", "because"):
    assert part in text
  assert max(map(len, text.splitlines())) < 200


@pytest.mark.parametrize(
  ("argv", "line"),
  [
    (["--devices", "3"], "cannot be split over 3"),
    (["--devices", "4", "--config.mesh.fsdp=3"], "does not divide"),
    (["--devices", "0"], "plan for 1 or more"),
  ],
)
def test_devices_that_the_batch_cannot_be_split_over(spec, argv, line):
  with pytest.raises(UserError, match=line):
    explain.main(["--config", spec, *argv])


@pytest.mark.parametrize(
  "override",
  [
    "data.size=512",
    "data.size=31,32",
    "data.channels=2",
    "data.workers=-1",
    "background.batch_size=0",
    "background.gan.augment=colour",
    "background.dtype=half",
    "background.optimizer.learning_rate=-1",
    "background.optimizer.lr=1",
    "lesion.sides=()",
    "location.weights=nowhere",
    "danger.crop=1024",
    "synthesize.floor=2",
    "seed=-1",
    "route=all,best",
  ],
)
def test_explain_refuses_what_train_refuses_with_the_same_line(spec, override, tmp_path):
  lines = []
  for command in (explain, train):
    argv = ["--config", spec, f"--config.{override}"]
    with pytest.raises(UserError) as refused:
      command.main([*argv, *(["--workdir", str(tmp_path / "run")] if command is train else [])])
    lines.append(str(refused.value))
  assert lines[0] == lines[1]
  assert not (tmp_path / "run").exists()


def test_every_setting_is_listed_with_what_it_may_be(capsys, spec):
  explain.main(["--config", f"{spec}:danger", "--settings"])
  text = capsys.readouterr().out
  assert "background.net.channels = (32,)\n  use one or more whole numbers from 1 to" in text
  assert "data.workers = 0\n  use a whole number from 0 to 1,024\n" in text
  explain.main(["--config", spec, "--settings", "--json"])
  rows = json.loads(capsys.readouterr().out)
  assert {row["key"] for row in rows} == set(dict(leaves(load_config(spec))))
  assert all(row["use"] for row in rows)


def test_the_danger_route(capsys, spec):
  explain.main(["--config", f"{spec}:danger,paper", "--config.data.channels=3", "--json"])
  found = json.loads(capsys.readouterr().out)["danger"]
  assert found["parameters"] == 31_037_698
  assert found["levels"][-1] == {"size": [32, 32], "channels": 1024}
  explain.main(["--config", f"{spec}:danger,best", "--config.danger.rule=abdomen"])
  told = capsys.readouterr().out
  assert "else of the rule 'abdomen'" in told
  assert "danger.width: paper 64; here 32" in told


@pytest.mark.slow
def test_the_lesion_route(capsys, spec):
  explain.main(["--config", f"{spec}:lesion,best", "--config.lesion.width=16", "--json"])
  found = json.loads(capsys.readouterr().out)
  assert "background" not in found
  window = found["lesion"]["windows"]["32"]
  assert [level["pixels"] for level in window["levels"]] == [16, 20, 23, 27, 32]
  # 2 to 16 channels, three times 16 to 16, 16 to 2; norms; biases (best: one channel and a mask).
  assert window["levels"][0]["generator"] == 9 * (2 * 16 + 3 * 256 + 32) + 4 * 3 * 16 + 2
  assert window["levels"][4]["width"] == 32
  assert len(window["flops_per_iteration"]) == 5
  assert "lesion.width" in {row["what"] for row in found["lesion"]["departures"]}


def test_what_a_device_that_is_not_here_would_need(capsys, spec):
  asked = ["--config", spec, "--devices", "1", "--config.background.steps=1000"]
  asked.append("--config.background.dtype=auto")
  explain.main([*asked, "--target", "h200", "--json"])
  found = json.loads(capsys.readouterr().out)["background"]
  target, device = found["target"], DEVICES["h200"]
  assert found["dtype"] == "bfloat16"
  by_flops = 8 * found["flops_per_image"]["training step"] / device.flops_per_second
  by_bytes = found["bytes_moved_per_step"] / device.bytes_per_second
  assert target["least_ms"] == pytest.approx(1e3 * max(by_flops, by_bytes))
  assert target["by"] == "traffic"
  assert target["hours"]["at_least"] == pytest.approx(1000 * target["least_ms"] / 3.6e6)
  assert target["hours"]["expected"] > target["hours"]["at_least"]
  explain.main([*asked, "--target", "v100"])
  told = capsys.readouterr().out
  assert "predicted: fits" in told
  assert "convolutions in float32" in told
  with pytest.raises(UserError, match="--target is predicted"):
    explain.main([*asked, "--target", "v100", "--compile"])


@pytest.mark.slow
def test_bytes_are_predicted_near_what_a_compiler_was_seen_to_move(capsys):
  plain = ["--config.background.perceptual.net=None", "--config.background.net.remat=False"]
  plain += ["--devices", "1"]
  explain.main(["--config", "kub.py:background,paper", "--target", "h200", "--json", *plain])
  found = json.loads(capsys.readouterr().out)["background"]
  counted = json.loads((REPO / "benchmarks/results/programs_h200.json").read_text())
  moved = counted["programs"]["paper"]["bytes"]
  assert found["bytes_moved_per_step"] == pytest.approx(moved, rel=0.03)
  assert found["memory_per_device"]["total"] > counted["programs"]["paper"]["temporary_bytes"]


@pytest.mark.slow
def test_the_estimate_is_near_what_the_compiler_takes(capsys, spec):
  quick = ["--config.background.perceptual.net=None", "--config.background.net.remat=False"]
  with tiny_run.quick_compiler():  # the memory is planned before
    explain.main(["--config", f"{spec}:background", "--compile", "--json", *quick])
  found = json.loads(capsys.readouterr().out)
  found = found["background"]
  compiled = found["compiled"]
  assert "cpu" in compiled["backend"]
  assert compiled["devices"] == jax.device_count()
  estimate = found["memory_per_device"]["intermediates and gradients"]
  assert estimate == pytest.approx(compiled["bytes_per_device"]["intermediates"], rel=0.5)
  step = found["flops_per_image"]["training step"]
  assert compiled["flops_per_image"] == pytest.approx(step, rel=0.1)
