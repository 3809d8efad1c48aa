"""Images side by side, their pixels kept as pixels and their lesions magnified."""

from __future__ import annotations

import io
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hiresmed_jax import files
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import run_folder

_DPI = 100
_GAP = 4  # pixels between cells
_LINE = 20  # pixels of a line of text, and, below, of a letter's width
_LETTER = 8
_OUTLINE = (255, 200, 0)
_NOT_A_NUMBER = (255, 0, 255)
_MARK = {
  "color": "#ffc800",
  "ha": "left",
  "va": "top",
  "size": 8,
  "bbox": {"facecolor": "black", "edgecolor": "none", "pad": 1.5},
}

_Text = tuple[float, float, str, dict[str, Any]]  # x, y from the upper left; matplotlib's arguments


def image_grid(
  path: str | os.PathLike[str],
  rows: Sequence[Sequence[np.ndarray]],
  *,
  columns: Sequence[str] = (),
  labels: Sequence[str] = (),
  boxes: Sequence[np.ndarray] | None = None,
  cell: int = 512,
  footer: str = "",
) -> None:
  """Writes a PNG of images in rows and columns, lesions outlined and magnified.

  Pixels stay pixels: an image larger than its cell is reduced by the mean of k x k pixels, one that
  fits twice is enlarged by a whole factor. With `boxes`, every column appears a second time,
  magnified around the row's first box by a whole factor, which is written in the corner, with the
  same grey values.

  Args:
    path: the PNG.
    rows: images [H, W], [H, W, 1] or [H, W, 3], float in [0, 1] (clipped) or uint8. Images of one
      row have one size. NaN is drawn in magenta.
    columns: title of each column.
    labels: text left of each row.
    boxes: for each row f32[N, 4], xyxy pixels of its images; N may be 0.
    cell: longest side of an image on the page, in pixels.
    footer: a line below.

  Raises:
    ValueError: an image of another shape or dtype.
  """
  lesions = (
    [np.zeros((0, 4))] * len(rows) if boxes is None else [np.reshape(b, (-1, 4)) for b in boxes]
  )
  cells, marks = [], []
  for row, row_boxes in zip(rows, lesions):
    pictures = [_as_rgb(image) for image in row]
    shown = [_whole(image, row_boxes, cell) for image in pictures]
    factor = 0
    if len(row_boxes):
      side = shown[0].shape[0]
      insets, factors = zip(*(_magnified(image, row_boxes[0], side) for image in pictures))
      shown, factor = [*shown, *insets], factors[0]
    cells.append(shown)
    marks.append(factor)

  titles = [*columns, *(f"{title}, magnified" for title in columns if boxes is not None)]
  width = max(len(row) for row in cells)
  heights = [max(picture.shape[0] for picture in row) for row in cells]
  widths = [max(row[c].shape[1] for row in cells if c < len(row)) for c in range(width)]
  letters = max((len(line) for label in labels for line in label.split("\n")), default=0)
  left = _starts(widths, first=_LETTER * letters + 2 * _GAP if letters else _GAP)
  top = _starts(heights, first=_LINE + _GAP if titles else _GAP)
  page = np.full((top[-1] + (_LINE if footer else 0), left[-1], 3), 255, np.uint8)
  texts: list[_Text] = []
  for r, row in enumerate(cells):
    for c, picture in enumerate(row):
      page[top[r] :, left[c] :][: picture.shape[0], : picture.shape[1]] = picture
      if marks[r] and c >= len(row) // 2:
        texts.append((left[c] + 4, top[r] + 4, f"x{marks[r]}", _MARK))
  for r, label in enumerate(labels):
    texts.append((_GAP, top[r] + heights[r] / 2, label, {"ha": "left", "va": "center"}))
  for c, title in enumerate(titles[:width]):
    texts.append((left[c] + widths[c] / 2, top[0] - _GAP, title, {"ha": "center", "va": "bottom"}))
  if footer:
    texts.append((_GAP, page.shape[0] - _GAP, footer, {"ha": "left", "va": "bottom"}))
  _write_png(path, _with_texts(page, texts))


def _starts(sizes: Sequence[int], *, first: int) -> list[int]:
  """Where each cell begins, and where the last one and its gap end."""
  return [int(start) for start in first + np.cumsum([0, *(size + _GAP for size in sizes)])]


def _as_rgb(image: np.ndarray) -> np.ndarray:
  """[H, W(, 1 or 3)] uint8, or float in [0, 1] -> uint8[H, W, 3]."""
  image = np.asarray(image)
  if image.ndim == 2:
    image = image[..., None]
  if image.ndim != 3 or image.shape[-1] not in (1, 3):
    raise ValueError(f"an image is [H, W], [H, W, 1] or [H, W, 3], not {image.shape}")
  missing = np.zeros(image.shape[:2], bool)
  if image.dtype.kind == "f":
    missing = np.isnan(image).any(axis=-1)
    image = np.rint(255.0 * np.clip(np.nan_to_num(image), 0.0, 1.0)).astype(np.uint8)
  if image.dtype != np.uint8:
    raise ValueError(f"an image is uint8 or float in [0, 1], not {image.dtype}")
  rgb = np.repeat(image, 3 // image.shape[-1], axis=-1)
  rgb[missing] = _NOT_A_NUMBER
  return rgb


def _whole(image: np.ndarray, boxes: np.ndarray, cell: int) -> np.ndarray:
  """The image at a whole scale that fits a cell, each box outlined at a distance."""
  longest = max(image.shape[:2])
  if longest <= cell:
    scale: float = cell // longest
    fitted = _enlarged(image, cell // longest)
  else:
    step = -(-longest // cell)
    scale = 1 / step
    edges = ((0, -image.shape[0] % step), (0, -image.shape[1] % step), (0, 0))
    padded = np.pad(image, edges, mode="edge")
    size = padded.shape[1] // step, padded.shape[0] // step
    fitted = cv2.resize(padded, size, interpolation=cv2.INTER_AREA)
  for x1, y1, x2, y2 in boxes * scale:
    low = int(np.floor(x1)) - 1 - _GAP, int(np.floor(y1)) - 1 - _GAP
    high = int(np.ceil(x2)) + _GAP, int(np.ceil(y2)) + _GAP
    cv2.rectangle(fitted, low, high, _OUTLINE, 1)
  return fitted


def _magnified(image: np.ndarray, box: np.ndarray, cell: int) -> tuple[np.ndarray, int]:
  """-> (square window around a box with as much context on each side, whole factor)."""
  x1, y1, x2, y2 = box
  context = max(3.0 * max(x2 - x1, y2 - y1), 24.0)
  factor = max(int(cell / context), 1)
  tall, wide = (min(-(-cell // factor), n) for n in image.shape[:2])
  left = int(np.clip(round((x1 + x2 - wide) / 2), 0, image.shape[1] - wide))
  top = int(np.clip(round((y1 + y2 - tall) / 2), 0, image.shape[0] - tall))
  inset = _enlarged(image[top : top + tall, left : left + wide], factor)
  low = int((x1 - left) * factor) - 2, int((y1 - top) * factor) - 2
  high = int((x2 - left) * factor) + 1, int((y2 - top) * factor) + 1
  _draw_corners(inset, low, high)
  return inset[:cell, :cell], factor


def _draw_corners(image: np.ndarray, low: tuple[int, int], high: tuple[int, int]) -> None:
  """Brackets at the corners of a box: a full outline would compete with the lesion's edge."""
  arm = max(min(high[0] - low[0], high[1] - low[1]) // 5, 3)
  for x, towards_x in ((low[0], arm), (high[0], -arm)):
    for y, towards_y in ((low[1], arm), (high[1], -arm)):
      cv2.line(image, (x, y), (x + towards_x, y), _OUTLINE, 1)
      cv2.line(image, (x, y), (x, y + towards_y), _OUTLINE, 1)


def _enlarged(image: np.ndarray, factor: int) -> np.ndarray:
  return np.ascontiguousarray(image.repeat(factor, axis=0).repeat(factor, axis=1))


def _with_texts(page: np.ndarray, texts: Sequence[_Text]) -> np.ndarray:
  """Draws (x, y, text, how) in pixels from the upper left; the page's own pixels stay exact."""
  height, width = page.shape[:2]
  # Slightly more than the page: rounding down would lose its last row or column.
  figure = Figure(figsize=((width + 0.01) / _DPI, (height + 0.01) / _DPI), dpi=_DPI)
  canvas = FigureCanvasAgg(figure)
  figure.figimage(page)
  for x, y, text, how in texts:
    style: dict[str, Any] = {"size": 9, "parse_math": False} | how
    figure.text(x / width, 1 - y / height, text, **style)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3]


def _write_png(path: str | os.PathLike[str], rgb: np.ndarray) -> None:
  bgr = np.ascontiguousarray(rgb[..., ::-1])
  files.write(pathlib.Path(path), cv2.imencode(".png", bgr)[1].tobytes())


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
  """Writes a matplotlib figure as PNG."""
  content = io.BytesIO()
  figure.savefig(content, format="png")
  files.write(pathlib.Path(path), content.getvalue())


# Titles of panels: the quantity and its unit. Others show their own name.
_TITLES = {
  "psnr": "PSNR (dB)",
  "ssim": "SSIM",
  "l1": "L1 (share of the intensity range)",
  "reconstruction": "reconstruction loss",
  "perceptual": "perceptual distance (LPIPS)",
  "lpips": "perceptual distance (LPIPS)",
  "commitment": "commitment (squared distance, 0..4)",
  "codebook": "codebook (squared distance, 0..4)",
  "entropy": "code entropy term (nats)",
  "gan_weight": "weight of the GAN term",
  "code_usage": "share of codes in use",
  "code_perplexity": "code perplexity (codes)",
  "revived": "codes revived (per step)",
  "gradient_norm": "norm of the gradient",
  "skipped": "updates skipped (count)",
  "images_per_second": "images per second",
}
_FIRST = ("total", "reconstruction", "psnr", "l1", "ssim", "perceptual", "lpips")
_LATER = ("code_usage", "code_perplexity", "revived", "gradient_norm", "skipped")
_LAST = ("images_per_second",)
# One number for the whole run, or a repetition of another curve.
_NOT_CURVES = (
  "step",
  "time",
  "skipped_in_a_row",
  "tflops_per_second",
  "peak_device_memory_bytes",
  "peak_resident_memory_bytes",
)
_LINEAR = ("psnr", "ssim", "code_usage", "code_perplexity", "gan_weight")
# Without noise: a running mean would only blur their steps.
_EXACT = ("gan_weight", "skipped", "revived", "code_usage", "code_perplexity")
_TRAIN, _VALIDATION, _BROKEN = "#1f5fa8", "#d1610c", "#c00000"


def loss_curves(metrics: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
  """Draws every quantity of a metrics.jsonl over the steps, training and validation together.

  A key "val_x" shares the panel of "x". A quantity that stays positive and spans more than a factor
  of 20 gets a logarithmic axis. Long training curves are drawn faintly, their running mean boldly.
  Steps at which a value was not finite are marked on the lower edge.

  Raises:
    UserError: the file holds nothing to draw.
  """
  entries = run_folder.read_metrics(metrics)
  keys = dict.fromkeys(key.removeprefix("val_") for entry in entries for key in entry)
  names = [name for name in keys if name not in _NOT_CURVES]
  if not names:
    raise UserError(f"{metrics} holds no measurements to draw")
  names.sort(key=lambda name: (name in _LAST, name in _LATER, _rank(name)))
  across = min(3, len(names))
  down = -(-len(names) // across)
  figure = Figure(figsize=(4.4 * across, 2.7 * down), dpi=100, layout="constrained")
  FigureCanvasAgg(figure)
  panels = np.ravel(figure.subplots(down, across, squeeze=False))
  for panel, name in itertools.zip_longest(panels, names):
    if name is None:
      panel.axis("off")
    else:
      _draw_curve(panel, name, entries)
  save(figure, path)


def _draw_curve(panel: Axes, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
  drawn = []
  for key, label, colour in ((name, "train", _TRAIN), (f"val_{name}", "validation", _VALIDATION)):
    found = [(entry["step"], entry[key]) for entry in entries if key in entry]
    if not found:
      continue
    steps, values = (np.array(column, float) for column in zip(*found))
    finite = np.isfinite(values)
    if not finite.all():
      edge = panel.get_xaxis_transform()
      broken: dict[str, Any] = {
        "color": _BROKEN,
        "marker": "|",
        "ls": "",
        "transform": edge,
        "clip_on": False,
      }
      panel.plot(steps[~finite], np.zeros((~finite).sum()), label="not finite", **broken)
    steps, values = steps[finite], values[finite]
    if not len(values):
      continue
    drawn.append(values)
    label = f"{label} (last {values[-1]:.4g})"
    if key.startswith("val_"):
      panel.plot(steps, values, color=colour, marker="o", ms=3.5, lw=1.2, label=label, zorder=3)
    else:
      window = 1 if name in _EXACT else len(values) // 40
      _draw_train(panel, steps, values, colour, label, window)
  panel.set_title(_TITLES.get(name, name.replace("_", " ")), fontsize=10)
  panel.set_xlabel("step", fontsize=8)
  panel.set_xlim(0, max(entry["step"] for entry in entries) or 1)
  panel.tick_params(labelsize=8)
  panel.grid(alpha=0.25)
  panel.spines[["top", "right"]].set_visible(False)
  values = np.concatenate(drawn) if drawn else np.ones(1)
  if name not in _LINEAR and values.min() > 0 and values.max() > 20 * values.min():
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
  if name == "code_usage":
    panel.set_ylim(0, 1.02)
  panel.legend(fontsize=8, frameon=False)


def _draw_train(
  panel: Axes, steps: np.ndarray, values: np.ndarray, colour: str, label: str, window: int
) -> None:
  if window < 2:
    panel.plot(steps, values, color=colour, lw=1.2, label=label)
    return
  panel.plot(steps, values, color=colour, lw=0.7, alpha=0.3)
  mean = np.convolve(values, np.ones(window) / window, mode="valid")
  middle = np.convolve(steps, np.ones(window) / window, mode="valid")
  panel.plot(middle, mean, color=colour, lw=1.6, label=f"{label}, mean of {window}")


def _rank(name: str) -> int:
  return _FIRST.index(name) if name in _FIRST else len(_FIRST)
