"""The settings of the route `danger`, a U-Net.

The paper gives no numbers but the network: the preset `paper` has those of the published U-Net and
of nnU-Net (momentum 0.99, decay 3e-5, a falling rate from 0.01), and the augmentation of `best`.
"""

from collections.abc import Iterator
from typing import Any

from hiresmed_jax.errors import UserError
from hiresmed_jax.placement.forbidden import RULES
from hiresmed_jax.runtime import rules
from hiresmed_jax.runtime.settings import Departure, Setting, Table

_HALVED = 16  # the network halves the sides of its images four times
_OTHER = "another choice of the U-Net's training"
_ADAM = "a short run on few images: Adam's steps need no tuning"
_LENGTH = "the length that this budget allows"

# Key, value in `paper`, in `best`, what it may be, why another value than the paper's is taken.
# fmt: off
TABLE = Table("danger", (
  Setting("width", 64, 32, rules.whole(1, 1024, "channels at full resolution"),
          "the width that this budget allows"),
  Setting("size", (512, 512), (512, 512), rules.rows_columns(_HALVED, 16_384, multiple=_HALVED),
          "the images' own resolution, or what this budget allows"),
  Setting("crop", 0, 0,
          rules.whole(0, 16_384, "px of a side of random crops; 0: whole images", multiple=_HALVED),
          "crops at native resolution fit the memory, and few images become many"),
  Setting("rule", "", "", rules.one_of("", *RULES), "nobody has drawn masks for these images"),
  Setting("augment.degrees", 10.0, 10.0, rules.number(0, 180), _OTHER),
  Setting("augment.scale", 0.15, 0.15, rules.number(0, 10, "greatest change of size"), _OTHER),
  Setting("augment.shift", 0.05, 0.05, rules.share("of the side"), _OTHER),
  Setting("augment.gain", 0.2, 0.2, rules.share("greatest change of contrast"), _OTHER),
  Setting("augment.offset", 0.1, 0.1, rules.share("of the full range"), _OTHER),
  Setting("augment.gamma", 0.2, 0.2, rules.number(0, 10, "greatest change of the exponent"),
          _OTHER),
  Setting("augment.flip", False, False, rules.FLIP, _OTHER),
  Setting("loss.cross_entropy", 1.0, 1.0, rules.WEIGHT, _OTHER),
  Setting("loss.dice", 1.0, 1.0, rules.WEIGHT, _OTHER),
  # A real lesion proves that its place is allowed; without more weight its few bright pixels would
  # pass for bone.
  Setting("loss.lesions", 1.0, 20.0,
          rules.number(0, 1_000_000, "weight of a real lesion's pixels in the cross-entropy"),
          "where a real lesion is, nothing is forbidden, however bright it is", as_it_was=1.0),
  Setting("optimizer.name", "sgd", "adamw", rules.OPTIMIZER, _ADAM),
  Setting("optimizer.learning_rate", 0.01, 0.002, rules.LEARNING_RATE, _ADAM),
  Setting("optimizer.b1", 0.99, 0.9, rules.MOMENTUM, _ADAM),
  Setting("optimizer.weight_decay", 3e-5, 1e-4, rules.WEIGHT_DECAY, _ADAM),
  Setting("optimizer.schedule", "linear", "linear", rules.SCHEDULE, _ADAM),
  Setting("optimizer.warmup", 0.05, 0.05, rules.share("of the run", below=True), _ADAM),
  Setting("optimizer.accumulate", 1, 1, rules.ACCUMULATE, _ADAM),
  Setting("optimizer.clip", 1.0, 1.0, rules.CLIP, _ADAM),
  Setting("ema", 0.0, 0.99, rules.share("0: no average", below=True),
          "averaged weights make calmer edges than the last ones"),
  Setting("dtype", "auto", "auto", rules.DTYPE),
  Setting("batch_size", 8, 8, rules.BATCH_SIZE, "what the memory holds"),
  Setting("epochs", 100, 100, rules.EPOCHS, _LENGTH),
  Setting("steps", 0, 0, rules.STEPS, _LENGTH),
  Setting("log_every", 50, 50, rules.EVERY),
  Setting("eval_every", 500, 500, rules.EVAL_EVERY),
  Setting("keep_checkpoints", 1, 1, rules.KEEP_CHECKPOINTS),
  Setting("max_skipped", 20, 20, rules.MAX_SKIPPED),
))
# fmt: on


def sizes(config: Any) -> list[tuple[int, int]]:
  """(rows, columns) of the images that the network sees: whole ones, and crops to train on."""
  crop = config.danger.crop
  return [tuple(config.danger.size), *([(crop, crop)] if crop else [])]


def check(config: Any) -> None:
  """Refuses values that do not go together; each for itself is valid.

  Raises:
    UserError: crops larger than the images, no loss.
  """
  values = config.danger
  if values.crop > min(values.size):
    raise UserError(f"danger.crop={values.crop} does not fit in danger.size={tuple(values.size)}")
  if not values.loss.cross_entropy + values.loss.dice:
    raise UserError("danger.loss: use a weight above 0 for cross_entropy or dice")


def readings(config: Any) -> Iterator[Departure]:
  """What the paper leaves open, contradicts or lacks; it holds in the preset `paper` too."""
  del config
  yield Departure(
    "U-Net",
    "no numbers",
    "same-size convolutions with batch normalisation; Dice and cross-entropy",
    "what has become of the published network in nearly all use",
  )
  yield Departure(
    "what is forbidden (Eq. 15)",
    "not said who draws it",
    "the user's masks, the phantom's own, or a rule for images without",
    "a rule is right most of the time; masks by hand are better",
  )
