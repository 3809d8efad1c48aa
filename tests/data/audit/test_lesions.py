import numpy as np
import pytest

from hiresmed_jax.data.audit import pixels, summary
from hiresmed_jax.data.sample import Sample


def _scene(sigma: float = 3.0, peak: float = 120.0) -> np.ndarray:
  """A Gaussian lesion at (50, 40) on grey 60: its half maximum is 2.355 sigma across."""
  y, x = np.indices((80, 100))
  blob = np.exp(-((x - 50) ** 2 + (y - 40) ** 2) / (2 * sigma**2))
  return np.round(60 + peak * blob).astype(np.uint8)


def _measure(grey: np.ndarray, box: list[float], ceiling: int = 250) -> pixels.Lesion | None:
  return pixels.measure(grey, grey[..., None], np.array(box, np.float32), ceiling)


@pytest.mark.parametrize("sigma", [2.0, 3.0, 4.0])
def test_the_half_maximum_of_a_gaussian(sigma: float) -> None:
  lesion = _measure(_scene(sigma), [38, 28, 63, 53])
  assert lesion is not None
  assert lesion.extent == pytest.approx(2.355 * sigma, abs=1.1)
  assert lesion.level == pytest.approx(120, abs=2)
  assert lesion.area == pytest.approx(np.pi * (1.177 * sigma) ** 2, rel=0.25)
  assert lesion.tightness == pytest.approx(25 * 25 / lesion.extent**2, rel=0.01)
  assert not lesion.censored


@pytest.mark.parametrize(("shift", "says"), [(0, ""), (-13, "lower right"), (13, "upper left")])
def test_boxes_beside_their_lesions_are_told(shift: int, says: str) -> None:
  box = np.array([[37, 27, 64, 54]], np.float32) + shift
  samples = [
    Sample(_scene(peak=100 + n)[..., None], group=f"g{n}", source="s", boxes=box) for n in range(12)
  ]
  found = summary.summarise(
    [summary.image_facts(one, group=one.group, split="train") for one in samples]
  )
  told = [line for line in found["warnings"] if "of their boxes" in line]
  assert [says in line for line in told] == [True] * bool(says)


@pytest.mark.parametrize("way", ["", "left to right", "top to bottom", "half a turn"])
def test_boxes_of_mirrored_images_are_told(way: str) -> None:
  flip = {"": (0, 0), "left to right": (0, 1), "top to bottom": (1, 0), "half a turn": (1, 1)}[way]
  facts = []
  for n in range(10):
    image = np.roll(_scene(peak=100 + n), (-20 + n, 9 + 2 * n), axis=(0, 1))
    box = np.float32([[46 + 2 * n, 7 + n, 73 + 2 * n, 34 + n]])
    image = image[:: -1 if flip[0] else 1, :: -1 if flip[1] else 1, None]
    sample = Sample(np.ascontiguousarray(image), group=f"g{n}", source="s", boxes=box)
    facts.append(summary.image_facts(sample, group=f"g{n}", split="train"))
  told = [
    line for line in summary.summarise(facts)["warnings"] if "mirrored" in line and "fit" in line
  ]
  assert [way in line for line in told] == [True] * bool(way)


def test_a_second_bright_spot_in_the_box_is_not_part_of_it() -> None:
  grey = _scene()
  grey[30:33, 40:43] = 170
  lesion = _measure(grey, [38, 28, 63, 53])
  assert lesion is not None
  assert lesion.extent == pytest.approx(7, abs=1.1)


def test_censored() -> None:
  lesion = _measure(_scene(peak=195), [38, 28, 63, 53])
  assert lesion is not None
  assert lesion.censored


def test_a_lesion_that_is_not_brighter_has_no_extent() -> None:
  lesion = _measure(np.full((80, 100), 60, np.uint8), [38, 28, 63, 53])
  assert lesion is not None
  assert lesion.area == 0
  assert np.isnan(lesion.extent)
  assert lesion.width == 25


@pytest.mark.parametrize(
  "box", [[0, 0, 4, 4], [96, 76, 100, 80], [0, 0, 100, 80], [10, 10, 10.4, 10.4]]
)
def test_boxes_at_the_border_and_smaller_than_a_pixel(box: list[float]) -> None:
  assert _measure(_scene(), box) is not None


def test_bright_blobs_without_a_box() -> None:
  grey = _scene()
  lesion = _measure(grey, [44, 34, 57, 47])
  assert lesion is not None
  boxes = np.array([[44, 34, 57, 47]], np.float32)
  assert pixels.unboxed_blobs(grey, boxes, [lesion]) == 0
  y, x = np.indices(grey.shape)
  for centre in ((15, 15), (85, 60)):  # two stones that nobody boxed
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 18)
    grey = np.maximum(grey, np.round(60 + 120 * blob).astype(np.uint8))
  grey[:, 70:74] = 200  # a bone: bright but large
  grey[60:62, 10:40] = 200  # a line: bright but long
  assert pixels.unboxed_blobs(grey, boxes, [lesion]) == 2


def test_nothing_to_compare_with() -> None:
  assert pixels.unboxed_blobs(_scene(), np.zeros((0, 4), np.float32), []) is None


def test_lesions_are_measured_as_displayed() -> None:
  """A tight box fits as well, and a lesion saturates as well, in both polarities."""
  grey = _scene(peak=190)
  box = np.array([[47, 37, 54, 44]], np.float32)
  found = []
  for inverted in (False, True):
    image = (255 - grey if inverted else grey)[..., None]
    name = "MONOCHROME1" if inverted else "MONOCHROME2"
    sample = Sample(image=image, group="g", source="s", boxes=box, photometric=name)
    facts = summary.image_facts(sample, group="g", split="train")
    found.append((facts.lesions, facts.at_top, facts.unboxed_blobs))
  assert found[0] == found[1]
  assert found[0][0][0].tightness == pytest.approx(1.0, abs=0.3)
  assert found[0][0][0].censored
