"""The effect of single factors: ours with one setting changed, for the same number of images."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from benchmarks.convergence_run import Runner, ours_config
from benchmarks.yardstick import compare

# Settings of the config by path; `_changed` interprets words such as "quarter".
FACTORS: Mapping[str, Mapping[str, Any]] = {
  "residual": {"net.block": "residual"},
  "random-codes": {"codebook.init": "random"},
  "no-revival": {"codebook.revive_every": 1_000_000_000},
  "bare-codes": {"codebook.init": "random", "codebook.revive_every": 1_000_000_000},
  "no-entropy": {"loss.entropy": 0.0},
  "wide-codes": {"net.code_dim": 256},
  "published-rate": {"optimizer.learning_rate": 2.25e-5},
  "quarter-rate": {"optimizer.learning_rate": "quarter"},
  "b1": {"optimizer.b1": "other"},
  "constant-rate": {"optimizer.schedule": "constant", "optimizer.warmup": 0.0},
  "no-clip": {"optimizer.clip": 0.0},
  "mse": {"loss.reconstruction": "mse"},
  "no-gan": {"gan.weight": 0.0},
  "half-batch": {"batch_size": "half"},
  "double-batch": {"batch_size": "double"},
  "bfloat16": {"dtype": "bfloat16"},
  "float32": {"dtype": "float32"},
  "torch": {},  # the same recipe in PyTorch, for the speed of a step
}
_LONGEST = 3.0  # times the budget: equal steps may take longer than those of ours


def measure(
  runner: Runner, base: Mapping[str, Any], names: Sequence[str], seeds: int
) -> dict[str, Any]:
  """One entry a factor: its values, its runs, and when it reaches what ours reaches.

  Args:
    base: what `runner` measured of ours.
    names: of FACTORS, or "all".
    seeds: 0 to seeds - 1, at most those of `base`.
  """
  seeds = min(seeds, len(base["runs"]))
  ours = {**base, "runs": base["runs"][:seeds]}
  steps = ours["runs"][0]["steps"][-1]
  found: dict[str, Any] = {"seeds": seeds}
  for name in FACTORS if "all" in names else names:
    config = ours_config(runner.scale)
    changes = {path: _changed(config, path, value) for path, value in FACTORS[name].items()}
    config.update_from_flattened_dict(changes)
    make = runner.ours_in_torch if name == "torch" else runner.ours
    entry = runner.measure(
      make(name, config),
      range(seeds),
      batch_size=config.batch_size,
      steps=round(steps * runner.scale.batch_size / config.batch_size),
      longest=_LONGEST,
    )
    entry["changes"] = changes
    entry["comparison"] = compare({"ours": ours, name: entry}, runner.thresholds, ours="ours")
    found[name] = entry
  return found


def as_table(found: Mapping[str, Any]) -> Table:
  """End errors and the time of a step, for every factor."""
  table = Table(
    "ours but", "s/step", "end: training", "held out", title=f"one factor, seeds: {found['seeds']}"
  )
  for name, entry in found.items():
    if name != "seeds":
      ends = [run["final"] for run in entry["runs"]]
      means = [sum(end[key] for end in ends) / len(ends) for key in ("train", "held_out")]
      table.add_row(name, f"{entry['seconds_per_step']:.3f}", *(f"{mean:.4f}" for mean in means))
  return table


def _changed(config: Any, path: str, value: Any) -> Any:
  if value == "quarter":
    return config.optimizer.learning_rate / 4
  if value == "other":
    return 0.5 if config.optimizer.b1 == 0.9 else 0.9
  if value in ("half", "double"):
    return config.batch_size // 2 if value == "half" else config.batch_size * 2
  return value
