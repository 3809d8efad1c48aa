"""The settings of the baseline `singan`: SinGAN on whole images, one for each.

The paper gives a reference alone: both presets have the values of its code.
"""

from collections.abc import Iterator
from typing import Any

from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import singan_settings
from hiresmed_jax.runtime import rules
from hiresmed_jax.runtime.settings import Departure, Setting, Table

_BALANCE = singan_settings.BALANCE
_SIZE = "what this budget allows"

# Key, value in `paper`, in `best`, what it may be, why another value than the paper's is taken.
# fmt: off
TABLE = Table("singan", (
  Setting("size", 1024, 1024, rules.whole(16, 4096, "px of a side"), _SIZE),
  Setting("images", 1, 1, rules.whole(1, 10_000, "of the training split, a SinGAN for each")),
  Setting("min_size", 25.0, 25.0, rules.number(12, 1024, "px of the coarsest level"), _BALANCE),
  Setting("max_size", 250.0, 250.0, rules.number(13, 4096, "px of the finest level, at most"),
          _SIZE),
  *singan_settings.ROWS,
  Setting("steps", 2000, 2000, rules.whole(1, 1_000_000, "of a level"),
          "the length that this budget allows"),
  Setting("start", 0, 0,
          rules.whole(0, 64, "level from which on samples are new; those below repeat the image"),
          "levels below repeat the image: its layout stays, and variety is lost"),
  Setting("samples", 50, 50, rules.whole(1, 1_000_000, "made at the end of the training")),
  Setting("dtype", "float32", "float32", rules.DTYPE),
  Setting("steps_per_call", 100, 100, rules.whole(1, 100_000, "at most, of one call")),
  Setting("log_every", 100, 100, rules.EVERY),
  Setting("save_every", 1000, 1000, rules.EVAL_EVERY),
  Setting("keep_checkpoints", 1, 1, rules.KEEP_CHECKPOINTS),
  Setting("max_skipped", 20, 20, rules.MAX_SKIPPED),
))
# fmt: on


def sizes(config: Any) -> list[tuple[int, int]]:
  """(rows, columns) of the images, before they are reduced."""
  return [(config.singan.size, config.singan.size)]


def check(config: Any) -> None:
  """Refuses values that do not go together; each for itself is valid.

  Raises:
    UserError: a coarsest level that is not coarser than the finest.
  """
  values = config.singan
  finest = min(values.size, values.max_size)
  if values.min_size >= finest:
    raise UserError(
      f"singan.min_size={values.min_size:g} of a finest level of {finest:g} px: use less, or a "
      "larger singan.size"
    )


def readings(config: Any) -> Iterator[Departure]:
  """What the paper leaves open, contradicts or lacks; it holds in the preset `paper` too."""
  yield Departure(
    "SinGAN: which image",
    "nothing",
    f"{config.images} of the training images, spread over the split, one SinGAN each",
    "a SinGAN knows one image",
  )
  yield Departure(
    "SinGAN: size",
    "nothing",
    f"at most {config.max_size:g} px, stretched to a square; samples are resized to data.size "
    "(bicubic)",
    "the reference's own limit",
  )
  yield Departure(
    "SinGAN: levels of grey",
    "nothing",
    "float between levels",
    "the reference rounds to 8 bit, and the next level learns the rounding",
  )
  yield Departure(
    "SinGAN: noise of the reconstruction, generator's steps",
    "nothing",
    "fixed noise; the generator is evaluated anew at each of its steps",
    "the reference's paper says so; its code steps along gradients of other weights",
  )
