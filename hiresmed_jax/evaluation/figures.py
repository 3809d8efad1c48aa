"""Pages of pictures: rows are methods, columns are cases, each with a box magnified beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.evaluation.measure import Measured
from hiresmed_jax.evaluation.pictures import Entry, Picture
from hiresmed_jax.evaluation.tables import METRICS, per_key
from hiresmed_jax.runtime.figures import save

_CELL = 2.3  # inches
_CONTEXT = 48.0  # pixels of a magnified window at least
_COLOUR = "#ffc800"
_RANKED = ("ssim", "psnr", "l1")


class Cell(NamedTuple):
  """A picture f32[H, W, C], the box f32[4] that is magnified, and the text below."""

  image: np.ndarray
  box: np.ndarray
  text: str


def ranked(entries: Sequence[Entry], measured: Measured) -> tuple[list[str], str]:
  """(keys of a method's images from worst to best, the metric of the order); ([], "") unpaired."""
  for metric in _RANKED:
    if metric in measured.numbers:
      values, _ = per_key(entries, measured.numbers[metric])
      sign = METRICS[metric][1]
      return sorted(values, key=lambda key: (sign * values[key], key)), metric
  return [], ""


def typical(keys: Sequence[str], count: int) -> list[str]:
  """Keys around the middle of the ranking: at its 25, 50 and 75 % for three."""
  places = [round((i + 1) / (count + 1) * (len(keys) - 1)) for i in range(count)]
  return list(dict.fromkeys(keys[place] for place in places)) if keys else []


def page(
  path: Path,
  keys: Sequence[str],
  methods: Mapping[str, tuple[Sequence[Entry], Measured]],
  *,
  metric: str,
  title: str,
) -> bool:
  """Draws cases of the first method: the real image above, the methods' images of it below.

  A method without an image of a case shows another one, marked as such.

  Returns:
    Whether there was anything to draw.
  """
  names = list(methods)
  columns: list[list[Cell | None]] = []
  for number, key in enumerate(keys):
    first = _load(methods[names[0]], key)
    if first is None or first[1].reference is None:
      continue
    box = _box(first[1])
    cells: list[Cell | None] = [Cell(first[1].reference, box, "")]
    for name in names:
      found = first if name == names[0] else _load(methods[name], key)
      other = found is None
      if found is None:
        found = _load(methods[name], None, number)
      if found is None:
        cells.append(None)
        continue
      index, picture = found
      values = methods[name][1].numbers.get(metric)
      text = "another image" if other else _text(metric, values, index)
      scale = np.tile(np.divide(picture.image.shape[1::-1], first[1].image.shape[1::-1]), 2)
      cells.append(Cell(picture.image, box * scale, text))
    columns.append(cells)
  if columns:
    _draw(path, ["real", *names], columns, title)
  return bool(columns)


def _load(
  method: tuple[Sequence[Entry], Measured], key: str | None, number: int = 0
) -> tuple[int, Picture] | None:
  """The first image of a key, or for None image `number` of a spread; None where there is none."""
  entries, measured = method
  good = [i for i in range(len(entries)) if i not in measured.failed]
  if key is not None:
    good = [i for i in good if entries[i].key == key]
  if not good:
    return None
  index = good[0] if key is not None else good[(2 * number + 1) * len(good) // 7 % len(good)]
  try:
    return index, entries[index].load()
  except Unreadable:
    return None


def _text(metric: str, values: np.ndarray | None, index: int) -> str:
  if values is None or not np.isfinite(values[index]):
    return ""
  name, _, digits = METRICS[metric]
  return f"{name} {values[index]:.{digits}f}"


def _box(picture: Picture) -> np.ndarray:
  """The box of the lesion of middle size; without one, of the place of greatest difference."""
  if len(picture.boxes):
    areas = np.prod(picture.boxes[:, 2:] - picture.boxes[:, :2], axis=1)
    return np.asarray(picture.boxes[np.argsort(areas)[len(areas) // 2]], np.float64)
  assert picture.reference is not None
  error = np.abs(picture.image - picture.reference).mean(axis=-1)
  blurred = cv2.blur(error, (17, 17), borderType=cv2.BORDER_REFLECT)
  row, column = np.unravel_index(int(np.argmax(blurred)), blurred.shape)
  return np.array([column - 8, row - 8, column + 8, row + 8], np.float64)


def _window(cell: Cell) -> tuple[int, int, int, int]:
  """x1, y1, x2, y2 of the magnified window: three times the box, inside the picture."""
  x1, y1, x2, y2 = cell.box
  side = max(3.0 * max(x2 - x1, y2 - y1), _CONTEXT)
  side = min(round(side), *cell.image.shape[:2])
  left, top = (
    int(np.clip(round((low + high - side) / 2), 0, length - side))
    for low, high, length in ((x1, x2, cell.image.shape[1]), (y1, y2, cell.image.shape[0]))
  )
  return left, top, left + side, top + side


def _draw(
  path: Path, names: Sequence[str], columns: Sequence[Sequence[Cell | None]], title: str
) -> None:
  first = [next(cell for cell in cells if cell is not None).image for cells in columns]
  ratios = [r for image in first for r in (image.shape[1] / image.shape[0], 1.0)]
  figure = Figure(
    figsize=(_CELL * sum(ratios) + 0.3, (_CELL + 0.22) * len(names) + 0.5),
    dpi=110,
    layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01),
  )
  FigureCanvasAgg(figure)
  grid = figure.subplots(len(names), len(ratios), width_ratios=ratios, squeeze=False)
  for column, cells in enumerate(columns):
    for row, cell in enumerate(cells):
      whole, inset = grid[row, 2 * column], grid[row, 2 * column + 1]
      for panel in (whole, inset):
        panel.set_xticks([])
        panel.set_yticks([])
      if column == 0:
        whole.set_ylabel(names[row], fontsize=9)
      if cell is None:
        whole.axis("off")
        inset.axis("off")
        continue
      x1, y1, x2, y2 = _window(cell)
      _show(whole, cell.image)
      frame: dict[str, Any] = {"fill": False, "edgecolor": _COLOUR, "lw": 1.0}
      whole.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, **frame))
      _show(inset, cell.image[y1:y2, x1:x2], interpolation="nearest")
      inset.spines[:].set_color(_COLOUR)
      whole.set_xlabel(cell.text, fontsize=8, labelpad=2)
      inset.set_xlabel(f"{x2 - x1} px wide", fontsize=8, labelpad=2)
  figure.suptitle(title, fontsize=9)
  save(figure, path)


def _show(panel: Any, image: np.ndarray, interpolation: str | None = None) -> None:
  picture = np.clip(image, 0.0, 1.0)
  if picture.shape[-1] == 1:
    panel.imshow(picture[..., 0], cmap="gray", vmin=0.0, vmax=1.0, interpolation=interpolation)
  else:
    panel.imshow(picture, interpolation=interpolation)
