"""Labelled images that are made as an epoch asks for them: a source for grain and for torch.

H, W rows and columns; C channels; N lesions.
"""

import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hiresmed_jax.convert.arrays import cache_folder
from hiresmed_jax.data import transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import workdir
from hiresmed_jax.runtime import compilation
from hiresmed_jax.synthesis import export, run
from hiresmed_jax.synthesis.image import Made, Setting
from hiresmed_jax.synthesis.mapped import Kept
from hiresmed_jax.synthesis.request import Request

PIXELS = ("seen", "values")
_MOST_IMAGES = 2**32  # numbers that `jax.random.fold_in` takes


class Opener:
  """Opens what images are made of: once in each process, when the first image is asked for.

  Another process uses the prior that the first one found, and must find the same networks.
  """

  def __init__(self, values: Any, request: Request, folder: Path, data: Path | None, *,
               kept_bytes: int) -> None:  # fmt: skip
    self._given = values, request, folder, data, kept_bytes
    self._identity: dict[str, Any] | None = None
    self._lock = threading.Lock()

  @functools.cached_property
  def setting(self) -> Setting:
    """What images are made of.

    Raises:
      UserError: see `run.assemble`; or the run has changed since the stream was opened.
    """
    values, request, folder, data, kept_bytes = self._given
    if jax.config.values["jax_compilation_cache_dir"] is None:
      compilation.keep_programs(cache_folder())  # each worker needs the same ones
    found, identity = run.assemble(
      values,
      request,
      folder,
      workdir.dataset_of(folder, data),
      kept_bytes=kept_bytes,
      begun=self._identity,
      say=_silent,
    )
    if self._identity not in (None, identity):
      raise UserError(f"{folder} has changed since this stream was opened: open it again")
    self._identity = identity
    return found

  def make(self, number: int) -> Made:
    """Image `number` of the request."""
    with self._lock:
      setting = self.setting
    return run.make(setting, number, jax.local_devices()[0])

  def __getstate__(self) -> dict[str, Any]:
    return {"_given": self._given, "_identity": self._identity}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state, _lock=threading.Lock())


class Stream:
  """Images with labels, made when they are asked for; `api.Run.stream` opens one.

  `stream[i]` is image i of epoch 0, `stream.epoch(e)[i]` that of epoch e, which is always the same,
  in any order and process: image `e * len(stream) + i` of the command `synthesize` with equal
  options. It can be pickled.
  """

  def __init__(self, opener: Opener, length: int, *, pixels: str = "seen",
               numbers: range | None = None) -> None:  # fmt: skip
    self._opener, self._length, self._pixels = opener, length, pixels
    self._numbers = range(length) if numbers is None else numbers

  def epoch(self, epoch: int) -> "Stream":
    """The images of one epoch, from 0 on."""
    return self._of(range(epoch * self._length, (epoch + 1) * self._length))

  def epochs(self, count: int) -> "Stream":
    """The images of the first epochs one after the other: one source for a whole training."""
    return self._of(range(count * self._length))

  @property
  def kept(self) -> Kept:
    """The backgrounds that this process has made and kept."""
    return self._opener.setting.kept

  def _of(self, numbers: range) -> "Stream":
    if not 0 <= numbers.start <= numbers.stop <= _MOST_IMAGES:
      raise ValueError(f"images {numbers.start} to {numbers.stop}: use 0 to {_MOST_IMAGES}")
    return Stream(self._opener, self._length, pixels=self._pixels, numbers=numbers)

  def __len__(self) -> int:
    return len(self._numbers)

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    return (self[index] for index in range(len(self)))

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """One image.

    Returns:
      image: uint8 [H, W, C], as a person sees it (uint16 with depth=16); of a stream of values
        f32[H, W, C], in HU or what rescaled values are, dense tissue bright.
      boxes: f32[N, 4] xyxy pixels, half-open.
      classes: int32[N], numbers from 0 as in a YOLO label.
      instances: uint16[H, W], n where the lesion of boxes[n - 1] is, 0 elsewhere.

    Raises:
      UserError: the image cannot be made.
    """
    number = self._numbers[index]
    try:
      made = self._opener.make(number)
    except UserError as mistake:
      raise UserError(f"image {number}: {mistake}") from mistake
    setting = self._opener.setting
    if self._pixels == "seen":
      image = export.levels(made.image, made.item, setting.look)
    else:
      image, _ = transforms.values_of({**made.item, "image": made.image})
    boxes = np.asarray(made.boxes, np.float32).reshape(-1, 4)
    class_number = setting.classes.yolo()[setting.classes.lesion]
    classes = np.full(len(boxes), class_number, np.int32)
    return {"image": image, "boxes": boxes, "classes": classes, "instances": made.mask}

  def __repr__(self) -> str:
    # grain keeps it in the state of an iterator, so that it must hold no path and no address.
    return f"Stream({self._numbers.start} to {self._numbers.stop})"


def _silent(line: str) -> None:
  """Takes a line that a command would print."""
