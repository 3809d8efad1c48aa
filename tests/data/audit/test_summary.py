import json
import re
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hiresmed_jax.data import annotations, grouping, intake, listing, matching
from hiresmed_jax.data.audit import findings
from hiresmed_jax.data.audit import summary as audit
from hiresmed_jax.data.audit.findings import warnings
from hiresmed_jax.data.identity import split_of
from hiresmed_jax.data.record_format import SourceReport
from hiresmed_jax.data.sample import Sample


def _facts(samples: list[Sample]) -> list[audit.ImageFacts]:
  return [audit.image_facts(s, group=s.group, split=split_of(s.group)) for s in samples]


def _sample(seed: int, **known: Any) -> Sample:
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 250, (40, 60, 1), dtype=np.uint8)
  return Sample(**{"image": image, "group": f"g{seed}", "source": f"s{seed}", **known})


def test_plain_facts() -> None:
  boxes = np.array([[10, 10, 20, 14], [30, 20, 34, 25]], np.float32)
  mask = np.zeros((40, 60), np.uint16)
  samples = [
    _sample(0, boxes=boxes, lesion_mask=mask, spacing_mm=(2.0, 0.5)),
    _sample(1, modality="CT"),
    _sample(2, modality="MUSTERMANN", image=np.zeros((10, 20, 3), np.uint8), photometric="RGB"),
    _sample(3, image=np.full((9, 9, 1), 4095, np.uint16), group="g0"),
  ]
  found = audit.summarise(_facts(samples), jpeg_qualities={75: 3, 90: 1})
  images, lesions = found["images"], found["lesions"]
  assert images["count"] == 4
  assert images["height"] == [9, 25, 40]
  assert images["sizes"] == 3
  assert images["bits"] == {"8": 3, "16": 1}
  assert images["bits_used"] == 12
  assert images["colour"] == 1
  assert images["modality"] == {"": 2, "CT": 1, "other": 1}  # nothing a header could smuggle in
  assert images["physics"] == {"none": 4}
  assert images["spacing_known"] == 1
  assert images["spacing_mm"] == [0.5, 1.25, 2.0]
  assert images["lesion_masks"] == 1
  assert lesions["boxes"] == 2
  assert lesions["images_without_box"] == 3
  assert lesions["box_width_px"] == [4, 7, 10]
  # 10 x 4 px of 0.5 x 2 mm and 4 x 5 px: the side of a square of their area.
  np.testing.assert_allclose(lesions["box_diameter_mm"][::2], [20**0.5, 40**0.5], atol=1e-3)
  assert found["groups"]["count"] == 3
  assert found["groups"]["images_per_group"] == [1, 1, 2]
  assert found["jpeg"]["quality"] == {"75": 3, "90": 1}
  assert found["jpeg"]["files"] == 4
  json.dumps(found, allow_nan=False)


def test_a_leak_between_splits_is_the_first_warning() -> None:
  image = np.zeros((64, 64, 1), np.uint8)
  y, x = np.indices((64, 64))
  image[..., 0] = 100 + 60 * np.sin(x / 5) * np.cos(y / 9 + x / 17)
  twins = [
    _sample(0, image=image, group="acq002"),  # training
    _sample(1, image=np.ascontiguousarray(image[:, ::-1]), group="acq001"),  # held out
  ]
  found = audit.summarise(_facts(twins))
  assert found["groups"]["near_duplicates"]["across_splits"] == 1
  assert found["groups"]["near_duplicates"]["across_groups"] == 1
  assert "1 pair of images in different splits" in found["warnings"][0]


def test_a_clean_set_has_no_warnings() -> None:
  rng = np.random.default_rng(0)
  samples = []
  for i in range(40):
    image = rng.integers(0, 4000, (48, 48, 1), dtype=np.uint16)
    known = {"group": f"patient {i // 2}", "value_range": (0.0, 4095.0), "spacing_mm": (1.0, 1.0)}
    samples.append(_sample(i, image=image, **known))
  assert audit.summarise(_facts(samples))["warnings"] == []


def _parts(**images: int) -> dict[str, Any]:
  return {split: {"images": n, "groups": n, "boxes": 0} for split, n in images.items()}


def _found(**changes: Any) -> dict[str, Any]:
  summary = audit.summarise(_facts([_sample(i, group=f"p{i // 2}") for i in range(20)]))
  summary["images"]["spacing_known"] = 20
  for path, value in changes.items():
    section, name = path.split("__")
    summary[section][name] = value
  return summary


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"augmentation__wedge_share": 0.34}, "34% of the images have black rotation wedges"),
    (
      {"augmentation__groups_compared": 145, "augmentation__groups_with_both_orientations": 62},
      "62 of 145 groups .* left and right mean little",
    ),
    ({"jpeg__grid_excess": 0.17}, "every 8th column is 17% above"),
    ({"lesions__boxes": 9, "lesions__censored_share": 0.67}, "67% of the lesions"),
    ({"lesions__boxes": 9, "lesions__box_over_half_maximum_area": 2.2}, "2.2 x the area"),
    ({"lesions__boxes": 9, "lesions__unboxed_blobs_per_image": 3.0}, "3.0 regions per image"),
    ({"lesions__boxes": 9, "images__spacing_known": 0}, "20 images have no known pixel spacing"),
    ({"images__saturated_share": 0.2}, "20% of all pixels are saturated"),
    ({"images__bits": {"8": 3, "16": 17}}, "depths are mixed"),
    ({"images__colour": 3}, "3 of 20 images are in colour"),
    ({"images__bits": {"16": 20}, "images__grey_levels": [20, 250, 256]}, "8-bit data"),
    ({"images__photometric": {"MONOCHROME1": 3, "MONOCHROME2": 17}}, "3 images are MONOCHROME1"),
    ({"images__modality": {"CT": 12, "CR": 3, "DX": 4, "": 1}}, "12 CT, 7 radiograph"),
    ({"images__physics": {"none": 12, "projection": 8}}, "12 none, 8 projection"),
    ({"groups__across_splits": 2}, "2 groups in more than one split"),
    ({"groups__splits": _parts(train=7, val=6, test=7)}, "only 7 of 20 images are trained on"),
    ({"groups__images_per_group": [1, 1, 1]}, "every image is a group of its own"),
  ],
)
def test_each_finding_is_said_in_plain_words(changes: dict[str, Any], says: str) -> None:
  said = warnings(_found(**changes))
  plain = warnings(_found())
  new = [line for line in said if line not in plain]
  assert len(new) == 1
  assert re.search(says, new[0])


def test_radiographs_are_of_one_kind() -> None:
  of_one = _found(images__modality={"CR": 12, "DX": 8}, images__physics={"projection": 20})
  assert warnings(of_one) == warnings(_found())


def test_empty_splits_are_named() -> None:
  found = audit.summarise(_facts([_sample(0, group="acq001")]))
  assert any("no image fell into: train, val" in line for line in found["warnings"])


def test_the_table_can_be_read_on_a_narrow_terminal() -> None:
  card = {
    "name": "set",
    "images": 20,
    "bits": 8,
    "channels": 1,
    "skipped": {"is empty": 2},
    "left_out": {"is hidden": 3},
    "notes": {"was turned": 1},
    "unknown": 4,
    "source": {},
    "audit": _found(),
  }
  stream = StringIO()
  findings.show(card, Console(file=stream, width=80))
  text = stream.getvalue()
  assert "60 x 40 px (width x height)" in text
  for line in ("skipped 2", "left out 3", "noted 1", "4 images"):
    assert line in text
  assert max(map(len, text.splitlines()[:30])) <= 80


@pytest.mark.slow
def test_stones_ct_shows_what_was_measured_on_it(shared: Path) -> None:
  """The values of the data's README, found again by other code."""
  root = shared / "data" / "stones_ct"
  files = listing.list_files(root / "images", "images")
  names = [path.name for path in files]
  groups, _ = grouping.read_groups(root / "groups.csv", names)
  labels = annotations.read_labels(sorted((root / "labels").iterdir()), "yolo", root)
  by_image, _ = matching.attach(labels, [label.name for label in labels], names, "labels")
  known = annotations.Annotations(labels=by_image)
  reader = intake.Intake("images", root / "images", known, grouping.Grouping(groups))
  report = SourceReport()
  samples = list(reader.read(files, report, lambda: None))
  began = time.process_time()
  facts = _facts(samples)
  found = audit.summarise(facts, jpeg_qualities=report.jpeg_qualities)
  assert time.process_time() - began < 20
  assert found["images"]["count"] == 622
  assert found["groups"]["count"] == 180
  assert found["groups"]["splits"]["test"]["images"] == 111
  assert found["augmentation"]["groups_with_both_orientations"] == pytest.approx(62, abs=10)
  assert found["augmentation"]["wedge_share"] == pytest.approx(0.34, abs=0.04)
  assert found["lesions"]["censored_share"] == pytest.approx(0.67, abs=0.02)
  assert found["lesions"]["box_over_half_maximum_area"] == pytest.approx(2.2, abs=0.15)
  assert found["lesions"]["half_maximum_extent_px"][1] == pytest.approx(7, abs=1)
  assert found["lesions"]["box_width_px"][1] == pytest.approx(11, abs=0.5)
  assert found["lesions"]["box_height_px"][1] == pytest.approx(9, abs=0.5)
  assert found["jpeg"]["grid_excess"] == pytest.approx(0.17, abs=0.02)
  assert found["jpeg"]["grid_phase"] == 7
  assert found["images"]["negatives"] == 0
  assert not any(found["lesions"]["mirrored_boxes_fit"])
  assert max(map(abs, found["lesions"]["half_maximum_offset"])) < 0.1
  assert found["jpeg"]["quality"] == {"75": 622}
  assert found["groups"]["near_duplicates"]["across_splits"] == 0
  said = " ".join(found["warnings"])
  for words in ("rotation wedges", "left and right mean little", "censored", "loose", "JPEG"):
    assert words in said


def test_other_real_sets_raise_no_false_alarm(shared: Path) -> None:
  data = shared / "data"
  for folder in ("nodules_ct", "cxr"):
    root = data / folder / "images"
    reader = intake.Intake("images", root, annotations.Annotations())
    files = listing.list_files(root, "images")[::4]
    samples = list(reader.read(files, SourceReport(), lambda: None))
    found = audit.summarise(_facts(samples))
    assert found["augmentation"]["wedge_share"] <= 0.03
    assert found["images"]["negatives"] == 0
    assert found["groups"]["near_duplicates"]["across_groups"] == 0
