import pytest

from hiresmed_jax.data import records
from hiresmed_jax.inference import survey
from tests.synthesis import drawn


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
  """{physics: (dataset, survey)} of small images with known lesions."""
  made = {}
  for physics in ("none", "ct", "projection"):
    data = drawn.dataset(tmp_path_factory.mktemp(physics) / "data", physics=physics)
    made[physics] = data, survey.make(records.source(data, "train"))
  return made
