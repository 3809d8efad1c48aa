"""What the values of a route may be: a wrong one is told before anything is compiled."""

import difflib
import math
from collections.abc import Sequence
from typing import Any

from hiresmed_jax.errors import UserError
from hiresmed_jax.nets.yolo import SIZES as YOLO_SIZES
from hiresmed_jax.runtime.overrides import leaves

_ONE_OF = {
  "net.block": ("hdfb", "residual"),
  "net.activation": ("relu", "gelu"),
  "net.upsampling": ("transposed", "resize", "subpixel"),
  "codebook.init": ("random", "kmeans"),
  "loss.reconstruction": ("l1", "mse"),
  "gan.augment": ("color", "translation", "cutout"),
}
_AT_LEAST_ONE = (
  "net.stem_channels net.full_resolution_channels net.code_dim codebook.num_codes "
  "codebook.revive_every batch_size log_every eval_every eval_images keep_checkpoints max_skipped"
).split()
SIDES = (32, 48, 64, 96, 128)  # of lesions' windows, px
_LEAST_LEVEL = 12  # px: the five convolutions of a critic see 11
_HALVED = 16  # the sides of a U-Net's images divide by this
_SHARES = ("codebook.usage_decay", "gan.start", "gan.warmup", "optimizer.warmup", "ema")


def check_background(config: Any, *, sizes: Sequence[tuple[int, int]]) -> None:
  """Refuses what the route cannot train with, or would read otherwise than it is meant.

  Args:
    config: nested values of `presets.background`.
    sizes: height and width of all images that the network will see.

  Raises:
    UserError: a word that is none of the known ones, a number out of its range, strides or a
      discriminator that do not fit the images.
  """
  values = dict(leaves(config))
  for key, known in _ONE_OF.items():
    for word in values[key] if isinstance(values[key], tuple) else (values[key],):
      _check_word(f"background.{key}", word, known)
  for key in _AT_LEAST_ONE:
    if values[key] < 1:
      raise UserError(f"background.{key}={values[key]}: use 1 or more")
  for key in _SHARES:
    if not 0 <= values[key] <= 1:
      raise UserError(f"background.{key}={values[key]} is a share: use 0 to 1")
  if (values["steps"] or values["epochs"]) < 1:
    raise UserError("background.steps and background.epochs: one of them must be above 0")
  _check_strides(config.net, sizes)
  if config.gan.weight:
    _check_discriminator(config.gan, min(min(size) for size in sizes))


def check_lesion(config: Any) -> None:
  """Refuses what the route cannot train with.

  Args:
    config: nested values of `presets.lesion`.

  Raises:
    UserError: a number out of its range, a word that is none of the known ones.
  """
  for key in (
    "width max_width steps cpu_steps critic_steps generator_steps steps_per_call "
    "cpu_steps_per_call log_every save_every keep_checkpoints max_skipped"
  ).split():
    if config[key] < 1:
      raise UserError(f"lesion.{key}={config[key]}: use 1 or more")
  for key in ("limit", "at_once", "start", "alpha", "penalty"):
    if config[key] < 0:
      raise UserError(f"lesion.{key}={config[key]}: use 0 or more")
  for key in ("decay_at", "decay", "b1", "b2"):
    if not 0 <= config[key] <= 1:
      raise UserError(f"lesion.{key}={config[key]} is a share: use 0 to 1")
  if config.min_size < _LEAST_LEVEL:
    raise UserError(f"lesion.min_size={config.min_size}: use {_LEAST_LEVEL} px or more")
  if not config.sides or not set(config.sides) <= set(SIDES):
    raise UserError(f"lesion.sides={tuple(config.sides)}: use some of {SIDES}")
  _check_word("lesion.conv", config.conv, ("auto", "patches", "vendor"))


def check_location(config: Any) -> None:
  """Refuses what the route cannot train with.

  Args:
    config: nested values of `location_presets.location`.

  Raises:
    UserError: a number out of its range, a word that is none of the known ones.
  """
  _check_word("location.net", config.net, tuple(YOLO_SIZES))
  _check_word("location.optimizer.name", config.optimizer.name, ("adam", "adamw", "sgd"))
  if config.size < 32 or config.size % 32:
    raise UserError(f"location.size={config.size}: use a multiple of 32, the coarsest stride")
  for key in "batch_size log_every eval_every keep_checkpoints max_skipped".split():
    if config[key] < 1:
      raise UserError(f"location.{key}={config[key]}: use 1 or more")
  for key in ("bare", "mosaic", "nms_iou"):
    if not 0 <= config[key] <= 1:
      raise UserError(f"location.{key}={config[key]} is a share: use 0 to 1")
  for key in ("decoys", "close_mosaic"):
    if config[key] < 0:
      raise UserError(f"location.{key}={config[key]}: use 0 or more")
  if (config.steps or config.epochs) < 1:
    raise UserError("location.steps and location.epochs: one of them must be above 0")


def check_danger(config: Any) -> None:
  """Refuses what the route cannot train with.

  Args:
    config: nested values of `danger_presets.danger`.

  Raises:
    UserError: a number out of its range, a word that is none of the known ones.
  """
  _check_word("danger.optimizer.name", config.optimizer.name, ("adam", "adamw", "sgd"))
  if len(config.size) != 2 or any(side < _HALVED or side % _HALVED for side in config.size):
    raise UserError(
      f"danger.size={tuple(config.size)}: use (rows, columns), multiples of {_HALVED}, which the "
      "network halves four times"
    )
  if config.crop < 0 or config.crop % _HALVED or config.crop > min(config.size):
    raise UserError(
      f"danger.crop={config.crop}: use 0, or a multiple of {_HALVED} that fits in danger.size"
    )
  for key in "width batch_size log_every eval_every keep_checkpoints max_skipped".split():
    if config[key] < 1:
      raise UserError(f"danger.{key}={config[key]}: use 1 or more")
  for key, share in (("ema", config.ema), ("optimizer.warmup", config.optimizer.warmup)):
    if not 0 <= share < 1:
      raise UserError(f"danger.{key}={share} is a share: use 0 to less than 1")
  if min(config.loss.values()) < 0 or not config.loss.cross_entropy + config.loss.dice:
    raise UserError("danger.loss: use weights of 0 or more, and one loss above 0")
  if (config.steps or config.epochs) < 1:
    raise UserError("danger.steps and danger.epochs: one of them must be above 0")


def _check_word(key: str, word: Any, known: Sequence[str]) -> None:
  if word in known:
    return
  near = difflib.get_close_matches(str(word), known, n=1)
  hint = f"; did you mean {near[0]!r}?" if near else ""
  raise UserError(f"{key}={word!r}: use {', '.join(map(repr, known))}{hint}")


def _check_strides(net: Any, sizes: Sequence[tuple[int, int]]) -> None:
  strides = tuple(net.strides)
  if len(strides) != len(net.channels) or any(s < 2 or s & (s - 1) for s in strides):
    raise UserError(
      f"background.net.strides={strides}: use powers of two from 2, one for each of "
      f"background.net.channels={tuple(net.channels)}"
    )
  factor = math.prod(strides)
  for height, width in sizes:
    if height % factor or width % factor:
      raise UserError(
        f"images of {height} x {width} do not divide by background.net.strides={strides}: make "
        f"data.size and data.crop multiples of {factor}"
      )


def _check_discriminator(gan: Any, side: int) -> None:
  """Its coarsest scale must be left with at least one logit."""
  if gan.scales < 1 or not gan.features:
    raise UserError(
      "background.gan: use at least one of `scales` and one of `features`, or weight=0"
    )
  least = 2 ** (gan.scales - 1) * 2 ** len(gan.features) * 2
  if side < least:
    raise UserError(
      f"background.gan.scales={gan.scales} needs images of {least} px or more, not {side}: "
      "use fewer scales"
    )
