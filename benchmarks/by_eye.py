"""Where do real lesions lie, by anatomy that was drawn by eye?

  python -m benchmarks.by_eye --stones data/stones_ct --nodules data/nodules_ct \
    [--figure FILE] [--out FILE]

  stones    share of the real stones' centres in the collecting system, kidney, ureter's corridor,
            bladder, and elsewhere, on 24 validation images
  nodules   share of the real nodules' centres inside the lung, at its edge, and outside

The drawings are in tests/data/by_eye, with a page on how they were made. Any places on these images
can be judged by them: `drawings`, `digest_of`, `regions`. Nothing may be fitted to them.
"""

import collections
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.path import Path as Outline

from benchmarks import harness
from hiresmed_jax import files
from hiresmed_jax.data import records
from hiresmed_jax.errors import UserError
from hiresmed_jax.placement import atlas
from hiresmed_jax.runtime import cli

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "by_eye"
IMAGES = 24
EDGE_PX = 5.0  # a centre so near to the lung's outline is at its edge
# Of two organs at a point the first counts; drawn in these colours (BGR).
ORGANS = {
  "collecting_system": (60, 160, 255),
  "kidney": (60, 255, 60),
  "ureter_corridor": (255, 80, 255),
  "bladder": (255, 255, 60),
  "lung": (60, 255, 60),
}
ELSEWHERE = "elsewhere"


class Shape(NamedTuple):
  """One outline: an organ, its side of the picture, whether the annotator was sure of it."""

  organ: str
  side: str
  certain: bool
  polygon: np.ndarray  # f64[N, 2] (x, y); pixel (0, 0) covers 0 to 1


class Drawing(NamedTuple):
  """The outlines of one image."""

  digest: str
  size: tuple[int, int]  # width, height in pixels
  shapes: tuple[Shape, ...]


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--stones", type=Path, required=True, help="prepared stones_ct")
  parser.add_argument("--nodules", type=Path, required=True, help="prepared nodules_ct")
  parser.add_argument("--figure", type=Path, help="JPEG of all drawings")
  options = parser.parse_args(argv)
  result = {"benchmark": "by_eye", **harness.environment()}
  cells = []
  for name, root in (("stones_ct", options.stones), ("nodules_ct", options.nodules)):
    drawn = drawings(name)
    items = drawn_items(drawn, records.source(records.open_dataset(root), "val"))
    centres = [atlas.centres_of(item) for item in items]
    result[name] = _shares(drawn, centres)
    cells += [_cell(item, one, at) for item, one, at in zip(items, drawn, centres)]
  if options.figure:
    sheet = np.concatenate([np.concatenate(cells[i : i + 8], 1) for i in range(0, len(cells), 8)])
    _, coded = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 72])
    files.write(options.figure, coded.tobytes())
  harness.publish(result, options.out)


def drawings(name: str) -> list[Drawing]:
  """The drawings of the images of a dataset ("stones_ct", "nodules_ct"), in the order of choice."""
  content = json.loads((FOLDER / f"{name}.json").read_text())
  return [
    Drawing(
      one["digest"],
      (one["size"][0], one["size"][1]),
      tuple(
        Shape(s["organ"], s["side"], s["certain"], np.array(s["polygon"], float))
        for s in one["shapes"]
      ),
    )
    for one in content["images"]
  ]


def digest_of(image: np.ndarray) -> str:
  """sha256 (64 hex digits) of the stored pixels [H, W, C]: the same whatever salt made the ids."""
  head = f"{image.dtype}{image.shape}".encode()
  return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).hexdigest()


def choose(source: Iterable[Mapping[str, Any]]) -> list[str]:
  """Digests of the images to draw: of each group the least digest, then of each the second ..."""
  groups = collections.defaultdict(list)
  for item in source:
    groups[item["group"]].append(digest_of(item["image"]))
  ranked = (pair for digests in groups.values() for pair in enumerate(sorted(digests)))
  return [digest for _, digest in sorted(ranked)[:IMAGES]]


def drawn_items(
  drawn: Sequence[Drawing], source: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
  """The records of the drawings, in their order.

  Raises:
    UserError: the dataset lacks one of the images.
  """
  found = {digest_of(item["image"]): item for item in source}
  missing = sum(one.digest not in found for one in drawn)
  if missing:
    raise UserError(f"{missing} of {len(drawn)} drawn images are not in this dataset's part val")
  return [found[one.digest] for one in drawn]


def masks(drawing: Drawing) -> dict[str, np.ndarray]:
  """bool[H, W] of each organ that was drawn: pixels whose middle is within an outline."""
  width, height = drawing.size
  found: dict[str, np.ndarray] = {}
  for shape in drawing.shapes:
    left, top = np.floor(shape.polygon.min(axis=0)).astype(int)
    right, bottom = np.ceil(shape.polygon.max(axis=0)).astype(int)
    rows, columns = np.mgrid[top:bottom, left:right]
    middles = np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5
    mask = found.setdefault(shape.organ, np.zeros((height, width), bool))
    mask[top:bottom, left:right] |= _within(shape.polygon, middles).reshape(rows.shape)
  return found


def regions(drawing: Drawing, points: np.ndarray) -> list[str]:
  """The organ at each point (x, y) of f64[N, 2], or `ELSEWHERE`."""
  found = np.full(len(points), ELSEWHERE, object)
  for organ in reversed(ORGANS):
    for shape in drawing.shapes:
      if shape.organ == organ:
        found[_within(shape.polygon, points)] = organ
  return list(found)


def depth(drawing: Drawing, points: np.ndarray) -> np.ndarray:
  """f64[N]: pixels from each point to the nearest outline, positive within one."""
  outlines = [shape.polygon.astype(np.float32) for shape in drawing.shapes]
  found = [
    [cv2.pointPolygonTest(outline, (float(x), float(y)), True) for outline in outlines]
    for x, y in points
  ]
  return np.max(found, axis=1)


def _within(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
  return Outline(np.vstack([polygon, polygon[:1]]), closed=True).contains_points(points)


def _shares(drawn: Sequence[Drawing], centres: Sequence[np.ndarray]) -> dict[str, Any]:
  """Lesions by region, and by distance from the outlines."""
  counts = collections.Counter[str]()
  within, covered = collections.Counter[str](), collections.Counter[str]()
  deep: list[float] = []
  for drawing, points in zip(drawn, centres):
    for organ, mask in masks(drawing).items():
      covered[organ] += mask.mean()
      within[organ] += int(mask[tuple(points.T[::-1].astype(int))].sum())
    counts.update(regions(drawing, points))
    deep += list(depth(drawing, points))
  total = len(deep)
  edge = np.abs(deep) <= EDGE_PX
  return {
    "images": len(drawn),
    "lesions": total,
    "share": {name: count / total for name, count in sorted(counts.items())},
    # Outlines overlap: of all lesions, and of all pixels, so many lie within this one.
    "within": {organ: found / total for organ, found in sorted(within.items())},
    "of_the_picture": {organ: area / len(drawn) for organ, area in sorted(covered.items())},
    "inside": float(np.mean(~edge & (np.array(deep) > 0))),
    "at_the_edge": float(np.mean(edge)),
    "outside": float(np.mean(~edge & (np.array(deep) < 0))),
    "edge_px": EDGE_PX,
    "outside_by_px": sorted(round(-d, 1) for d in deep if d < 0),
  }


def _cell(item: Mapping[str, Any], drawing: Drawing, centres: np.ndarray) -> np.ndarray:
  """uint8[200, 245, 3]: an image with its outlines, darker where unsure, and the lesions."""
  width, height = 245, 200
  grey = item["image"][..., 0]
  factor = min(width / grey.shape[1], height / grey.shape[0])
  small = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
  cell = np.zeros((height, width, 3), np.uint8)
  cell[: small.shape[0], : small.shape[1]] = small[..., None]
  at = functools.partial(np.multiply, factor)
  for shape in drawing.shapes:
    colour = np.array(ORGANS[shape.organ]) // (1 if shape.certain else 2)
    corners = [np.round(at(shape.polygon) * 16).astype(np.int32)]
    cv2.polylines(cell, corners, True, colour.tolist(), 1, cv2.LINE_AA, 4)
  for x, y in np.round(at(centres)).astype(int):
    cv2.circle(cell, (int(x), int(y)), 1, (40, 40, 255), -1)
  return cell


if __name__ == "__main__":
  cli.run(main)
