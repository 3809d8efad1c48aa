"""The settings of the route `lesion`, SinGAN. `steps` are those of each level on an accelerator,
`cpu_steps` those on a CPU."""

from collections.abc import Iterator
from typing import Any

from hiresmed_jax.routes import singan_settings
from hiresmed_jax.runtime import rules
from hiresmed_jax.runtime.settings import Departure, Setting, Table

SIDES = (32, 48, 64, 96, 128)  # of windows, px
_LEAST_LEVEL = 12  # px: the five convolutions of a critic see 11
_BALANCE = singan_settings.BALANCE
_LENGTH = "the length that this budget allows"

# Key, value in `paper`, in `best`, what it may be, why another value than the paper's is taken.
# fmt: off
TABLE = Table("lesion", (
  Setting("sides", SIDES, SIDES, rules.some_of(*SIDES, least=1), "windows that this budget allows",
          as_it_was=SIDES),
  Setting("limit", 0, 64,
          rules.whole(0, 1_000_000, "lesions of as many patients as there are; 0: all"),
          "a bank of so many lesions is varied, and trains in minutes"),
  Setting("least_overlap", 0.0, 0.0,
          rules.share("of a lesion's mask with what is above half maximum: those below are passed "
                      "over where the limit is reached without them"),
          "a SinGAN of a lesion that its mask does not show draws such masks", as_it_was=0.0),
  Setting("min_size", 25.0, 25.0,
          rules.number(_LEAST_LEVEL, 1024, "px of the coarsest level, at most half the window"),
          _BALANCE),
  *singan_settings.ROWS,
  Setting("steps", 2000, 2000, rules.whole(1, 1_000_000), _LENGTH),
  Setting("cpu_steps", 300, 300, rules.whole(1, 1_000_000)),
  Setting("start", 0, 0,
          rules.whole(0, 64, "level from which on samples are new; those below repeat the lesion"),
          "levels below repeat the lesion: fewer failures, less variety"),
  Setting("trainings", 3, 3,
          rules.whole(1, 100, "times at most that a lesion is trained, each from another seed"),
          "a SinGAN whose samples are no lesions may be luck", as_it_was=3),
  Setting("least_accepted", 0.125, 0.125,
          rules.share("of samples that must be lesions to keep a SinGAN; 0: all are kept"),
          "drawing from one whose samples are no lesions fails", as_it_was=0.125),
  Setting("dtype", "float32", "float32", rules.DTYPE),
  Setting("at_once", 0, 0,
          rules.whole(0, 1_000_000, "lesions side by side on a device; 0: all, on a CPU one")),
  Setting("steps_per_call", 100, 100, rules.whole(1, 100_000, "at most, of one call")),
  Setting("cpu_steps_per_call", 10, 10, rules.whole(1, 100_000, "at most, of one call")),
  Setting("log_every", 100, 100, rules.EVERY),
  Setting("save_every", 1000, 1000, rules.EVAL_EVERY),
  Setting("keep_checkpoints", 1, 1, rules.KEEP_CHECKPOINTS),
  Setting("max_skipped", 20, 20, rules.MAX_SKIPPED),
))
# fmt: on


def sizes(config: Any) -> list[tuple[int, int]]:
  """(rows, columns) of the windows that the networks see."""
  return [(side, side) for side in config.lesion.sides]


def check(config: Any) -> None:
  """Nothing more: any valid values go together."""


def readings(config: Any) -> Iterator[Departure]:
  """What the paper leaves open, contradicts or lacks; it holds in the preset `paper` too.

  Args:
    config: the values of the group.
  """
  yield Departure(
    "what SinGAN is given",
    "a lesion's image",
    "a square window at native resolution, three times the lesion, and its soft mask as a channel",
    "a sample then brings its own outline along, and nothing is resized in silence",
  )
  yield Departure(
    "pyramid",
    "SinGAN's: coarsest side 25 px",
    f"coarsest side {config.min_size:g} px or half the window, three levels or more",
    "a window of 32 px would have one level, and a lesion of 8 px no coarse form",
  )
  yield Departure(
    "levels of grey",
    "8 bit between levels, three channels",
    "float, the images' own channels",
    "rounding between levels is noise that the next level learns",
  )
  yield Departure(
    "generator's steps",
    f"{config.generator_steps} with one evaluation",
    "the generator is evaluated anew at each",
    "the published code steps along a gradient that is no longer that of its weights",
  )
  yield Departure(
    "SinGANs whose samples are no lesions",
    "nothing",
    f"below {config.least_accepted:.1%} of samples trained again, {config.trainings} times in all, "
    "then left out",
    "training may fail by its rounding alone, and no lesion can be drawn from such a SinGAN",
  )
  yield Departure(
    "noise of the reconstruction",
    "fixed (the published code draws it anew)",
    "fixed",
    "a lesion can only be repeated from what does not change",
  )
