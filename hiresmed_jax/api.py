"""A trained run in Python: `run = hiresmed_jax.open_run("runs/kub")`.

H, W rows and columns; C channels (1 grey, 3 RGB); N lesions. Images are stored values, as files
have them: uint8 or uint16 [H, W] or [H, W, C].
"""

import contextlib
import functools
import math
import os
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from hiresmed_jax.data import records, stored
from hiresmed_jax.data.sample import PHOTOMETRICS
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas, host_prior, other_images, places, survey, workdir
from hiresmed_jax.inference.workdir import Model
from hiresmed_jax.placement import candidates
from hiresmed_jax.routes.settings import SYNTHESIZE
from hiresmed_jax.runtime import settings
from hiresmed_jax.runtime.overrides import known_words, leaves
from hiresmed_jax.synthesis import image, reconstructions, request, run, stream

_OF_FILES = ("num", "format", "shard", "depth", "window", "layout")
_OPTIONS = [name for name in request.Request._fields if name not in _OF_FILES]
_KEPT_MB = 1024  # of backgrounds, by default


class Synthetic(NamedTuple):
  """A synthetic image and its labels.

  Attributes:
    image: uint8 or uint16 [H, W, C], stored values.
    boxes: f32[N, 4] xyxy pixels, half-open.
    masks: bool[N, H, W], the lesions of the boxes.
    twin: as `image`, without lesions.
    provenance: what the manifest of the command `synthesize` says of it.
  """

  image: np.ndarray
  boxes: np.ndarray
  masks: np.ndarray
  twin: np.ndarray
  provenance: dict[str, Any]


class SyntheticImages:
  """The images of a request: `len(images)`, `images[3]`, `for made in images`.

  An image is made each time that it is asked for, and is always the same. One that cannot be made
  raises UserError; the others can still be had.
  """

  def __init__(self, setting: image.Setting):
    self._setting = setting

  def __len__(self) -> int:
    return self._setting.request.num

  def __iter__(self) -> Iterator[Synthetic]:
    return (self[index] for index in range(len(self)))

  def __getitem__(self, index: int) -> Synthetic:
    number = range(len(self))[index]
    try:
      made = run.make(self._setting, number, jax.local_devices()[0])
    except UserError as mistake:
      raise UserError(f"image {number}: {mistake}") from mistake
    ids = np.asarray([fact["id"] for fact in made.facts["lesions"]])
    boxes = np.asarray(made.boxes, np.float32).reshape(-1, 4)
    return Synthetic(made.image, boxes, made.mask == ids[:, None, None], made.twin, made.facts)


def open_run(folder: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> "Run":
  """Opens what `train` has made.

  Args:
    folder: the workdir.
    data: where its prepared dataset is now; None: where it was. Only `Run.synthesize` reads it.

  Raises:
    UserError: nothing is trained there, or `data` is another dataset.
  """
  opened = Run(Path(folder), None if data is None else Path(data))
  if data is not None:
    workdir.dataset_of(opened.workdir, opened.data)
  return opened


class Run:
  """A trained run, opened by `open_run`. A network is restored when it is first used.

  `reconstruct` and `score_places` take images with these optional keywords:
    value_range: (low, high) that is shown, in rescaled units; by default that of all training
      lesions' images, if it is one and within the type; else all that the type holds, or what the
      training images hold, where they use fewer of its bits (12 of 16).
    photometric: "MONOCHROME2" (the default), "RGB", or "MONOCHROME1", of which low is bright.
    rescale_slope, rescale_intercept: rescaled = slope * stored + intercept (1 and 0), HU for CT.

  Attributes:
    workdir: its folder.
    data: its prepared dataset; None: where it was.
  """

  def __init__(self, folder: Path, data: Path | None):
    self.workdir, self.data = folder, data
    self._fingerprint = workdir.fingerprint_of(folder)

  def reconstruct(
    self, images: np.ndarray | Sequence[np.ndarray], **units: Any
  ) -> np.ndarray | list[np.ndarray]:
    """Encoder, codebook and decoder of the route `background` applied to images.

    An image larger than the run's view is shrunk to it, and its reconstruction enlarged.

    Args:
      images: a list of uint8 or uint16 [H, W] or [H, W, C] of any sizes, or an array [N, H, W] or
        [N, H, W, C].
      **units: see the class.

    Returns:
      A list, or an array, of the shapes, type and units of `images`. A run that sees grey gives
      grey values in all channels.

    Raises:
      UserError: the route is not trained; images other than these.
    """
    if isinstance(images, np.ndarray) and (images.ndim < 3 or images.shape[2:] in ((1,), (3,))):
      raise UserError(f"an array of shape {list(images.shape)} is one image: give a list of them")
    device = jax.local_devices()[0]
    made = [
      reconstructions.reconstructed(self._record(one, units), self._background, device)
      for one in images
    ]
    made = [one.reshape(np.shape(given)) for one, given in zip(made, images)]
    return np.stack(made) if isinstance(images, np.ndarray) and made else made

  def score_places(self, image: np.ndarray, **units: Any) -> np.ndarray:
    """Chance of each pixel to be the centre of a lesion, as `synthesize` draws places.

    The prior is that of the run's `synthesize.prior`: by default the one that the route `location`
    found best (hosts, and perhaps atlas or YOLO11), and hosts with or without the atlas where that
    route is not trained; it is that of a lesion of mean size. A share `synthesize.floor` of the
    chance is uniform within what is likely. It is 0 outside the body, in saturated
    pixels, where the U-Net of the route `danger` forbids lesions (if `synthesize.danger` is on; by
    default where that route is trained and spares real lesions), and within `synthesize.margin_px`
    of all these. The extent of a lesion is not considered.

    Args:
      image: uint8 or uint16 [H, W] or [H, W, C], without lesions: a detector finds those.
      **units: see the class.

    Returns:
      f32[H, W], sum 1; 0 everywhere where no pixel is allowed.

    Raises:
      UserError: the run has no survey of lesions; an image other than these.
    """
    scene, values = canvas.real(self._record(image, units)), self._values
    density = places.density(self._prior, self._survey.atlas, scene)
    score = places.score_map(self._prior, density, scene)
    forbidden = None if self._danger is None else places.forbidden(self._danger, scene)
    allowed = places.allowed(scene, forbidden, values.margin_px)
    logs = candidates.log_probabilities(score, allowed, values.floor, density.likely)
    return np.exp(logs).astype(np.float32)

  def synthesize(
    self,
    num: int,
    *,
    onto: str | os.PathLike[str] | None = None,
    lesion_free: bool = False,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
  ) -> SyntheticImages:
    """Puts new lesions into backgrounds.

    `run.synthesize(8, lesions=(1, 2), diameter=(8, 12, "px"), background="real", source="copy")`
    gives the images that the command `synthesize` makes with equal options.

    Args:
      num: images.
      onto: puts lesions into other images than the training images: a prepared dataset, or a folder
        that is read as `prepare` reads it. Then `background` is "real" by default.
      lesion_free: images of `onto` that nobody has labelled show no lesion.
      settings: values of the config's group `synthesize`, such as {"floor": 0.0}; the others are
        those that the run was trained with.
      **options: lesions, diameter, at, background, seed, blend, paper, shams, mask, source,
        backgrounds, on_empty, batch; see `synthesis.request.Request`.

    Raises:
      UserError: unknown or impossible options, a route that is not trained, no dataset.
    """
    asked = _request(num, {"background": "real", **options} if onto else options)
    values = _changed(self._values, settings or {})
    workers = values.workers or min(32, os.cpu_count() or 1)
    with contextlib.ExitStack() as stack:
      data: records.Dataset | other_images.Backgrounds
      if onto is None:
        data = workdir.dataset_of(self.workdir, self.data)
      else:
        dataset = workdir.dataset_of(self.workdir, self.data) if self.data else None
        data = stack.enter_context(
          other_images.backgrounds(
            Path(onto),
            self.workdir,
            lesion_free=lesion_free,
            dataset=dataset,
            workers=workers,
            say=_silent,
          )
        )
      setting, _ = run.assemble(values, asked, self.workdir, data, workers=workers, say=_silent)
      _warn(setting)
      images = SyntheticImages(setting)
      # A folder that is read for now is there as long as its images are.
      weakref.finalize(images, stack.pop_all().close)
    return images

  def stream(
    self,
    num: int | None = None,
    *,
    pixels: str = "seen",
    kept_mb: int = _KEPT_MB,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
  ) -> stream.Stream:
    """Fresh labelled images for the training of a detector, see `synthesis.stream.Stream`.

    `run.stream(500, background="real", source="copy").epoch(3)[7]` is a dict of image, boxes,
    classes and instances; a background is made once and kept.

    Args:
      num: images of an epoch; None: as many as the training split has with labels.
      pixels: "seen", grey levels as a person sees them; or "values", in HU or what rescaled values
        are.
      kept_mb: megabytes of backgrounds that are kept in each process.
      settings: see `synthesize`.
      **options: those of `synthesize`; and depth and window, see `synthesis.request.Request`.

    Raises:
      UserError: see `synthesize`.
    """
    if not isinstance(kept_mb, int) or kept_mb < 0:
      raise UserError(f"kept_mb={kept_mb!r}: use a whole number, 0 or more")
    if pixels not in stream.PIXELS:
      raise UserError(f"pixels={pixels!r}: use {' or '.join(map(repr, stream.PIXELS))}")
    shown = ("depth", "window") if pixels == "seen" else ()
    asked = _request(1 if num is None else num, options, shown=shown)
    values = _changed(self._values, settings or {})
    opener = stream.Opener(values, asked, self.workdir, self.data, kept_bytes=kept_mb << 20)
    labelled = len(opener.setting.source)
    _warn(opener.setting)
    return stream.Stream(opener, labelled if num is None else num, pixels=pixels)

  @functools.cached_property
  def _values(self) -> ConfigDict:
    return ConfigDict(workdir.synthesize_of(self.workdir))

  @functools.cached_property
  def _ranges(self) -> dict[tuple[float, float], tuple[float, float]]:
    return workdir.ranges_of(self.workdir)

  @functools.cached_property
  def _background(self) -> Model:
    return workdir.background_of(self.workdir, self._fingerprint)

  def _record(self, image: np.ndarray, units: Mapping[str, Any]) -> dict[str, Any]:
    return _record(image, self._ranges, self._common_range, **units)

  @functools.cached_property
  def _common_range(self) -> tuple[float, float] | None:
    try:
      found = {patch.value_range for patch in self._survey.patches}
    except UserError:  # of a run without lesions
      return None
    return found.pop() if len(found) == 1 else None

  @functools.cached_property
  def _survey(self) -> survey.Survey:
    return survey.load(self.workdir, self._fingerprint)

  @functools.cached_property
  def _prior(self) -> places.Prior:
    fitted, rule = None, self._values.host_rule
    if self._values.hosts == "on" and self._values.prior != "uniform":
      fitted = host_prior.load(self.workdir, self._fingerprint, host_rule=rule)
      if fitted is None:
        dataset = workdir.dataset_of(self.workdir, self.data)
        fitted = host_prior.load_or_make(dataset, self.workdir, self._survey.atlas, host_rule=rule)
    return places.open_prior(
      self._values.prior, self.workdir, self._fingerprint, fitted=fitted, host_rule=rule
    )[0]

  @functools.cached_property
  def _danger(self) -> Model | None:
    asked = self._values.danger
    return places.open_danger(asked, self.workdir, self._fingerprint, say=_silent)[0]


def _record(
  image: np.ndarray,
  ranges: Mapping[tuple[float, float], tuple[float, float]],
  common: tuple[float, float] | None,
  *,
  value_range: tuple[float, float] | None = None,
  photometric: str = "MONOCHROME2",
  rescale_slope: float = 1.0,
  rescale_intercept: float = 0.0,
) -> dict[str, Any]:
  """A user's image as an item of `records.Records`.

  `ranges` are those of `workdir.ranges_of`; `common` is the range of all training lesions' images.
  """
  image = np.asarray(image)
  if image.dtype not in (np.uint8, np.uint16):
    raise UserError(f"an image of {image.dtype}: give stored values, uint8 or uint16")
  pixels = image[..., None] if image.ndim == 2 else image
  if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or not pixels.size:
    raise UserError(f"an image of shape {list(image.shape)}: use [H, W], [H, W, 1] or [H, W, 3]")
  if photometric not in PHOTOMETRICS:
    raise UserError(f"photometric={photometric!r}: use {', '.join(map(repr, PHOTOMETRICS))}")
  if not (rescale_slope and math.isfinite(rescale_slope) and math.isfinite(rescale_intercept)):
    raise UserError("rescale_slope and rescale_intercept: use finite numbers, the slope not 0")
  ends = [rescale_slope * end + rescale_intercept for end in stored.full_range(pixels)]
  least, greatest = sorted(ends)
  shown = ranges.get((least, greatest), (least, greatest))
  if common and shown == (least, greatest) and least <= common[0] and common[1] <= greatest:
    # Not that of 8 bits for an image of 16, which may be scaled to all of them.
    shown = common if common[1] - common[0] > (greatest - least) / 256 else shown
  low, high = shown if value_range is None else value_range
  if not -math.inf < low < high < math.inf:
    raise UserError(f"value_range={value_range}: use (low, high) with low below high")
  return canvas.record_of(
    pixels,
    (low, high),
    photometric=photometric,
    rescale_slope=rescale_slope,
    rescale_intercept=rescale_intercept,
  )


def _request(num: int, options: Mapping[str, Any], *, shown: Sequence[str] = ()) -> request.Request:
  """A request of plain Python values, checked; `shown` are options of how an image is shown."""
  known = (*_OPTIONS, *shown)
  unknown = next((name for name in options if name not in known), None)
  if unknown is not None:
    raise UserError(f"synthesize has no option {unknown!r}{known_words(unknown, known)}")
  plain = dict(options)
  try:
    if isinstance(plain.get("lesions"), int):
      plain["lesions"] = (plain["lesions"],) * 2
    if plain.get("diameter") is not None:
      low, high, unit = plain["diameter"]
      plain["diameter"] = request.Diameter(float(low), float(high), unit)
    plain["at"] = tuple((float(x), float(y)) for x, y in plain.get("at", ()))
    if plain.get("mask") is not None:
      plain["mask"] = Path(plain["mask"][0]).absolute(), plain["mask"][1]
    if not shown:
      plain["window"] = "own"
    return request.checked(request.Request(num, **plain))
  except (TypeError, ValueError, IndexError) as error:
    raise UserError(f"an option of synthesize is not of its type ({error})") from error


def _changed(values: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
  """The group `synthesize` with some values changed, by dotted keys."""
  flat = dict(leaves(values)) | dict(changes)
  settings.check([SYNTHESIZE], {f"synthesize.{key}": value for key, value in flat.items()})
  changed = values.copy_and_resolve_references()
  changed.update_from_flattened_dict(dict(changes))
  return changed


def _warn(setting: image.Setting) -> None:
  if setting.weak_places:
    warnings.warn(setting.weak_places, stacklevel=3)


def _silent(line: str) -> None:
  """Takes a line that a command would print."""
