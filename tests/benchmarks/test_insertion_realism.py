import numpy as np
import pytest

from benchmarks import insertion_realism, table
from hiresmed_jax.data import records
from tests.synthesis import drawn


@pytest.mark.slow  # compiles the insertion and the filling of holes for several windows
def test_patches_of_every_kind(tmp_path):
  names = drawn.groups("train", 4)
  samples = (drawn.sample(2 * i + k, n, physics="ct") for i, n in enumerate(names) for k in (0, 1))
  records.write_dataset(samples, tmp_path / "data", kind="phantom", name="scene")
  source = records.source(records.open_dataset(tmp_path / "data"), "train")
  sites = insertion_realism.find_sites(source[i] for i in range(len(source)))
  assert len(sites) >= 4
  groups = np.unique([s.patch.donor_group for s in sites], return_inverse=True)[1]
  sets = insertion_realism.make(sites, groups, np.zeros(len(sites), int), modes=("paper", "ct"))
  assert set(sets) >= {kind for pair in insertion_realism.couples(("paper", "ct")).values()
                       for kind in pair}  # fmt: skip
  middle = (slice(None), slice(23, 26), slice(23, 26))
  grey = {name: patches.pixels[middle].astype(float).mean((1, 2)) for name, patches in sets.items()}
  for name in ("ct", "paper", "rectangle"):
    assert (grey[name] > grey["removed"] + 20).mean() > 0.7, name
  # Another patient's lesion, not the site's own.
  differ = np.abs(sets["ct"].pixels.astype(int) - sets["real"].pixels).max((1, 2))
  assert differ.min() > 5
  for distances in insertion_realism.seams(sets, ["ct"]).values():
    assert set(distances) == {"gradient", "noise", "change"}
    assert all(0 <= one <= 1 for one in distances.values())
  assert set(insertion_realism.clipped(sets, ["ct"])) == {"real", "ct"}
  assert insertion_realism.sheet(sets).dtype == np.uint8


def test_its_row_in_the_table():
  verdicts = {
    "forest": {"auc": 0.6, "interval": [0.5, 0.7]},
    "network": {"auc": 0.55, "interval": [0.4, 0.6]},
  }
  result = {"data": "d", "lesions": 9, "groups": 3, "auc": {"inserted, ct": verdicts}}
  rows = list(table.SUMMARIES["insertion_realism"](result | {"clipped": {"real": [0.5, 0.9]}}))
  assert rows[0].figure == "0.60 (95 % interval 0.50 to 0.70); others 0.55"
  assert "strictest judge (forest)" in rows[0].what
  assert rows[1].figure == "90 %"
  row = {"diameter_mm": 9.0, "sites": 4}
  row |= {w: {"median": 0.031, "90_percent": 0.1} for w in ("known", "intensity", "estimated")}
  (row,) = table.SUMMARIES["physics_oracle"]({"rows": [row]})
  assert "3.1 %" in row.figure
