"""The rule for lungs beside the phantom's exact ones."""

import numpy as np

from hiresmed_jax.data import phantom, transforms
from hiresmed_jax.placement import body, surroundings
from hiresmed_jax.placement.lung import lung


def drawn(sample):
  values, value_range = transforms.values_of(vars(sample))
  return (
    surroundings.grey_of(values, value_range),
    body.content(values, value_range=value_range),
  )


def test_lungs_of_phantoms_are_found_with_all_nodules():
  for one in phantom.phantoms("chest_ct", 4, 256, seed=5):
    found = lung(*drawn(one.sample))
    host = one.host_mask > 0
    assert (found & host).sum() / (found | host).sum() > 0.85
    inside = one.sample.lesion_mask > 0
    assert found[inside].mean() > 0.95


def test_gas_and_air_beside_the_body_are_no_lung():
  rows, columns = np.mgrid[:200, :240]
  tissue = ((rows - 100) / 90) ** 2 + ((columns - 120) / 110) ** 2 < 1
  grey = np.where(tissue, 0.7, 0.0).astype(np.float32)

  def disc(row: int, column: int, radius: float) -> np.ndarray:
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2

  lungs = disc(100, 75, 30) | disc(100, 165, 30)
  trachea, nodule = disc(60, 120, 8), disc(100, 100, 5)
  grey[lungs], grey[trachea], grey[nodule] = 0.12, 0.02, 0.7
  found = lung(grey, tissue | disc(195, 120, 20))  # a table's air counts as body
  assert found[lungs & ~nodule].mean() > 0.99
  assert found[100, 100]
  assert found[nodule].mean() > 0.8
  assert not found[trachea].any()
  assert not found[~tissue].any()
  assert not lung(np.full((50, 50), 0.7, np.float32), np.ones((50, 50), bool)).any()
