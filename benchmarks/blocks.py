"""Does the HDFB reconstruct better than the residual block, with equal steps and settings?

  python -m hiresmed_jax.prepare ... --out data/stones_ct          (see configs/stones_ct.py)
  python -m benchmarks.blocks --data data/stones_ct --out benchmarks/results/blocks_cpu.json

Trains the config with each block and several seeds by the train command, one after another (runs
that are done are not repeated), and compares held-out numbers seed by seed: mean difference and its
95 % t-interval. An interval with zero in it means that no difference was found. Further arguments
are passed on to the train command.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks import harness
from hiresmed_jax.runtime import cli

BLOCKS = ("hdfb", "residual")


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--config", default="stones_ct.py:background")
  parser.add_argument("--data", required=True)
  parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/blocks"))
  parser.add_argument("--seeds", type=int, default=3)
  options, extra = parser.parse_known_args(argv)
  results = {
    block: [_train(options, block, seed, extra) for seed in range(options.seeds)]
    for block in BLOCKS
  }
  facts = {
    "question": "held-out reconstruction, HDFB against residual block, equal steps",
    "config": options.config,
    "overrides": extra,
    "seeds": options.seeds,
    "numbers": {name: _compare(results, name) for name in ("psnr", "l1", "code_usage")},
    "seconds_per_step": {
      b: float(np.median([r["seconds_per_step"] for r in results[b]])) for b in BLOCKS
    },
    "runs": results,
    **harness.environment(),
  }
  _print(facts)
  harness.publish(facts, options.out)


def _train(options: Any, block: str, seed: int, extra: Sequence[str]) -> dict[str, Any]:
  workdir = options.workdir / f"{block}-{seed}"
  command = [sys.executable, "-m", "hiresmed_jax.train", "--config", options.config]
  command += ["--data", options.data, "--workdir", str(workdir), f"--config.seed={seed}"]
  command += [f"--config.background.net.block={block}", *extra]
  subprocess.run(command, check=True)
  folder = workdir / "background"
  results = json.loads((folder / "results.json").read_text())
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
  batch = json.loads((folder / "config.json").read_text())["config"]["background"]["batch_size"]
  return results | {"seconds_per_step": batch / float(np.median(rates))}


def _compare(results: dict[str, list[dict[str, Any]]], name: str) -> dict[str, Any]:
  """Mean and standard deviation of each block, and the paired difference with its interval."""
  values = {block: np.array([r["held_out"][name] for r in results[block]]) for block in BLOCKS}
  difference = values["hdfb"] - values["residual"]
  count = len(difference)
  half = (
    stats.t.ppf(0.975, count - 1) * difference.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
  )
  summary = {
    b: [float(v.mean()), float(v.std(ddof=1)) if count > 1 else None] for b, v in values.items()
  }
  mean = float(difference.mean())
  return summary | {"difference": mean, "interval_95": [mean - float(half), mean + float(half)]}


def _print(facts: dict[str, Any]) -> None:
  table = Table("held out", *BLOCKS, "difference", "95 % interval", title=facts["config"])
  for name, row in facts["numbers"].items():
    cells = [f"{row[b][0]:.4g} ± {row[b][1] or 0:.2g}" for b in BLOCKS]
    low, high = row["interval_95"]
    table.add_row(name, *cells, f"{row['difference']:+.3g}", f"{low:+.3g} to {high:+.3g}")
  Console().print(table)


if __name__ == "__main__":
  cli.run(main)
