import logging
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hiresmed_jax.data.readers.guard import check_growth, check_size, or_unreadable
from hiresmed_jax.data.sample import Sample, Unreadable
from hiresmed_jax.data.stored import (
  extent_of,
  full_range,
  in_use,
  increasing,
  to_stored,
  with_channels,
)

INTEGERS = ("bool", "uint8", "int8", "uint16", "int16", ">i2", ">u2", "uint32", "int32", "int64")
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)


@given(raw=st.sampled_from(INTEGERS).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_integers_come_back_from_what_is_stored(raw: np.ndarray) -> None:
  stored, scale, offset = to_stored(raw)
  back = scale * stored.astype(np.float64) + offset
  assert stored.dtype in (np.uint8, np.uint16)
  assert stored.dtype.isnative
  spread = int(raw.max()) - int(raw.min())
  if raw.dtype.itemsize <= 2:
    np.testing.assert_array_equal(back, raw)
    assert scale == 1.0
  else:
    tolerance = spread / 65535 * 0.5001 + abs(float(raw.max())) * 1e-15
    np.testing.assert_allclose(back, raw.astype(np.float64), rtol=0, atol=tolerance + 1e-9)


@given(
  raw=hnp.arrays(
    st.sampled_from((np.float16, np.float32, np.float64)),
    SHAPES,
    elements=st.floats(-60000, 60000, width=16),
  )
)
def test_floats_are_kept_to_one_level_of_their_range(raw: np.ndarray) -> None:
  stored, scale, offset = to_stored(raw)
  wide = raw.astype(np.float64)
  level = max((wide.max() - wide.min()) / 65535, 1e-12)
  np.testing.assert_allclose(scale * stored + offset, wide, rtol=0, atol=0.5001 * level)


def test_hounsfield_units_in_wide_types_are_stored_exactly() -> None:
  units = np.array([[-1024, 0], [40, 3071]])
  for dtype in (np.int16, np.int32, np.float32, np.float64):
    stored, scale, offset = to_stored(units.astype(dtype))
    assert (scale, offset) == (1.0, -32768.0)
    np.testing.assert_array_equal(stored, units + 32768)


def test_wide_integers_are_spread_over_all_levels() -> None:
  stored, scale, offset = to_stored(np.array([[0, 65536]], np.uint32))
  np.testing.assert_array_equal(stored, [[0, 65535]])
  assert scale * 65535 + offset == pytest.approx(65536)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
  with pytest.raises(Unreadable, match="NaN or infinite"):
    to_stored(np.array([[0.5, bad]], np.float32))


def test_values_that_make_no_image_are_refused() -> None:
  with pytest.raises(Unreadable, match="too far apart"):
    to_stored(np.array([[-1.7e308, 1.7e308]]))
  with pytest.raises(Unreadable, match="not real"):
    to_stored(np.array([[1j]]))


def test_channels() -> None:
  grey = np.arange(6, dtype=np.uint16).reshape(2, 3)
  colour = np.stack([grey, grey + 1, grey], -1)
  alpha = np.stack([grey, grey, grey, grey + 9], -1)
  np.testing.assert_array_equal(with_channels(grey), grey[..., None])
  np.testing.assert_array_equal(with_channels(colour), colour)
  np.testing.assert_array_equal(with_channels(alpha), grey[..., None])
  np.testing.assert_array_equal(with_channels(alpha[..., 2:]), grey[..., None])
  for shape in ((2, 3, 5), (1, 2, 3, 1)):
    with pytest.raises(Unreadable):
      with_channels(np.zeros(shape, np.uint8))


def test_ranges() -> None:
  assert full_range(np.zeros((1, 1), np.uint8)) == (0.0, 255.0)
  assert full_range(np.zeros((1, 1), np.uint16)) == (0.0, 65535.0)
  assert full_range(np.array([[-2.0, 3.0]])) == (-2.0, 3.0)
  assert increasing(3.0, 1.0) == (1.0, 3.0)
  low, high = increasing(1e300, 1e300)
  assert low < high


def test_bounds_on_what_a_file_declares() -> None:
  check_size(10_000, 10_000, 2)
  check_growth(1e6, 10)
  check_growth(1e9, 10**6)
  for rows, columns in ((0, 5), (5, 0), (65535, 65535), (100_000, 1001)):
    with pytest.raises(Unreadable, match="declares"):
      check_size(rows, columns, 1)
  with pytest.raises(Unreadable, match="declares"):
    check_growth(1e9, 10**5)


def noisy_library() -> None:
  warnings.warn("Name^Patient", stacklevel=1)
  logging.getLogger("pydicom").warning("Name^Patient")
  raise KeyError("Name^Patient")


def test_what_a_library_says_stays_inside(
  capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
  before = logging.getLogger("pydicom").level
  with pytest.raises(Unreadable, match=r"^damaged$") as caught, or_unreadable("damaged"):
    noisy_library()
  assert caught.value.__cause__ is None
  assert caught.value.__suppress_context__
  assert not recwarn.list
  assert "Patient" not in "".join(capfd.readouterr())
  assert logging.getLogger("pydicom").level == before


def test_a_reason_already_found_is_kept() -> None:
  with pytest.raises(Unreadable, match=r"^mine$"), or_unreadable("damaged"):
    raise Unreadable("mine")


def _extent(pixels: np.ndarray, bits: int, shown: tuple[float, float], shift: int = 0) -> Any:
  sample = Sample(
    image=(pixels + shift).astype(np.uint16)[None, :, None], group="g", source="s",
    rescale_slope=2.0, rescale_intercept=10.0 - 2.0 * shift, value_range=shown, bits_stored=bits,
  )  # fmt: skip
  return extent_of(sample, np.bincount(sample.image.ravel()))


def test_the_range_in_use_is_that_of_the_set() -> None:
  whole = (10.0, 2 * 65535 + 10.0)
  dark = _extent(np.array([3, 900]), 16, whole)
  full = _extent(np.array([0, 4095]), 16, whole)
  assert (dark.bits_used, full.bits_used) == (10, 12)
  assert in_use([dark, full]) == {whole: (10.0, 2 * 4095 + 10.0)}
  # A text that is burnt in at the end of the range is not of the picture.
  text = _extent(np.array([0, 4000, 65535]), 16, whole)
  assert in_use([text]) == {whole: (10.0, 2 * 4095 + 10.0)}
  # Half of the range is in use, a window is given, or there are 8 bits: nothing changes.
  assert in_use([_extent(np.array([0, 20000]), 16, whole), dark]) == {}
  assert _extent(np.array([0, 4095]), 16, (10.0, 5000.0)) is None
  assert _extent(np.array([0, 4095]), 0, whole) is None
  assert in_use([]) == {}
  # A window of all bits that is off by a level.
  window = (9.0, 2 * 65533.5 + 10.0)
  assert in_use([_extent(np.array([0, 4095]), 16, window)]) == {window: (10.0, 2 * 4095 + 10.0)}
  signed = (10.0 - 65536, 2 * 32767 + 10.0)
  both = _extent(np.array([-1000, 900]), 16, signed, shift=32768)
  assert in_use([both]) == {signed: (10.0 - 2 * 1024, 2 * 1023 + 10.0)}
  above = _extent(np.array([0, 900]), 16, signed, shift=32768)
  assert in_use([above]) == {signed: (10.0, 2 * 1023 + 10.0)}
