from pathlib import Path

import pytest

from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import survey


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_that_is_held_out_is_refused(split):
  with pytest.raises(UserError, match="training split alone"):
    survey.make(records.Records(Path("nowhere"), split, 3))
