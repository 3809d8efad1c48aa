"""The settings of the route `location`, YOLO11.

The paper gives no numbers but the network: the preset `paper` has the published ones of YOLO11,
without exchanging left and right. `best` averages sooner, as runs on few images are short, and its
boxes begin small, as lesions are.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from hiresmed_jax.errors import UserError
from hiresmed_jax.nets.yolo import SIZES
from hiresmed_jax.runtime import rules
from hiresmed_jax.runtime.settings import Departure, Setting, Table

_OTHER = "another choice of the detector's training"
_RANDOM = "another strength of the random changes"
_ADAM = "a short run on few images: Adam's steps need no tuning"
_FORGETS = "few steps: an average that forgets sooner"
_LENGTH = "the length that this budget allows"

# Key, value in `paper`, in `best`, what it may be, why another value than the paper's is taken.
# fmt: off
TABLE = Table("location", (
  Setting("net", "n", "n", rules.one_of(*SIZES), "the size of network that this budget allows"),
  Setting("p2", False, False, rules.flag("True: one more level, of stride 4"), _OTHER),
  Setting("near", 0.0, 1.0, rules.number(0, 100, "how small boxes begin, see `nets.yolo.Yolo11`"),
          "lesions of a few pixels: a box that begins 15 strides wide overlaps none",
          as_it_was=0.0),
  Setting("size", 640, 640, rules.whole(32, 8192, "px of a side", multiple=32),
          "the images' own resolution, or what this budget allows"),
  Setting("weights", "", "",
          rules.text("a file of tensors to begin with, .safetensors, .npz or .pth; '': random"),
          "a network that has seen other images starts ahead on few"),
  # A prior must know where lesions occur, not what they look like.
  Setting("lesion_free", 0.5, 0.5, rules.share("of images whose lesions are taken out"), _OTHER),
  Setting("decoys", 1.0, 1.0,
          rules.number(0, 1000, "holes filled elsewhere for each lesion that is taken out"),
          _OTHER),
  Setting("augment.scale", 0.5, 0.5, rules.share("greatest change of size", below=True), _RANDOM),
  Setting("augment.shift", 0.1, 0.1, rules.share("of the side"), _RANDOM),
  Setting("augment.gain", 0.4, 0.4, rules.share("greatest change of brightness"), _RANDOM),
  Setting("augment.flip", False, False, rules.FLIP, _RANDOM),
  Setting("mosaic", 1.0, 1.0, rules.share("of the images that are made of four"), _OTHER),
  Setting("close_mosaic", 10, 10, rules.whole(0, 10_000_000, "epochs at the end without"), _OTHER),
  Setting("assign.top", 10, 10, rules.whole(1, 10_000, "positions of a box"), _OTHER),
  Setting("assign.alpha", 0.5, 0.5, rules.number(0, 100, "weight of the class"), _OTHER),
  Setting("assign.beta", 6.0, 6.0, rules.number(0, 100, "weight of the place"), _OTHER),
  Setting("assign.least_side", 16.0, 16.0,
          rules.number(0, 8192, "px; smaller boxes count as so large"), _OTHER),
  Setting("gains.box", 7.5, 7.5, rules.WEIGHT, _OTHER),
  Setting("gains.classes", 0.5, 0.5, rules.WEIGHT, _OTHER),
  Setting("gains.bins", 1.5, 1.5, rules.WEIGHT, _OTHER),
  Setting("optimizer.name", "sgd", "adamw", rules.OPTIMIZER, _ADAM),
  Setting("optimizer.learning_rate", 0.01, 0.002, rules.LEARNING_RATE, _ADAM),
  Setting("optimizer.b1", 0.937, 0.9, rules.MOMENTUM, _ADAM),
  Setting("optimizer.weight_decay", 5e-4, 5e-4, rules.number(0, 10, "of a batch of 64"), _ADAM),
  Setting("optimizer.schedule", "linear", "linear", rules.SCHEDULE, _ADAM),
  Setting("optimizer.warmup_epochs", 3.0, 3.0, rules.number(0, 1_000_000), _ADAM),
  Setting("optimizer.accumulate", 1, 1, rules.ACCUMULATE, _ADAM),
  Setting("optimizer.clip", 10.0, 10.0, rules.CLIP, _ADAM),
  Setting("ema.decay", 0.9999, 0.995, rules.share("0: no average", below=True), _FORGETS),
  Setting("ema.tau", 2000.0, 100.0, rules.number(1e-3, 1_000_000_000, "steps"), _FORGETS),
  Setting("nms_iou", 0.7, 0.7, rules.share("overlap of boxes that are one"), _OTHER),
  Setting("dtype", "auto", "auto", rules.DTYPE),
  Setting("batch_size", 16, 16, rules.BATCH_SIZE, "what the memory holds"),
  Setting("epochs", 100, 100, rules.EPOCHS, _LENGTH),
  Setting("steps", 0, 0, rules.STEPS, _LENGTH),
  Setting("log_every", 50, 50, rules.EVERY),
  Setting("eval_every", 500, 500, rules.EVAL_EVERY),
  Setting("keep_checkpoints", 1, 1, rules.KEEP_CHECKPOINTS),
  Setting("max_skipped", 20, 20, rules.MAX_SKIPPED),
), renamed={"bare": "lesion_free"})
# fmt: on


def sizes(config: Any) -> list[tuple[int, int]]:
  """(rows, columns) of the images that the network sees."""
  return [(config.location.size, config.location.size)]


def check(config: Any) -> None:
  """Refuses a file of weights that is not there.

  Raises:
    UserError: it is not there.
  """
  weights = config.location.weights
  if weights and not pathlib.Path(weights).is_file():
    raise UserError(f"location.weights={weights} is not there; use '' to begin at random")


def readings(config: Any) -> Iterator[Departure]:
  """What the paper leaves open, contradicts or lacks; it holds in the preset `paper` too."""
  yield Departure(
    "what the detector tells (Eq. 14)",
    "where it finds lesions in an image that has none",
    "all class scores before any is thrown away, times the atlas where that is better",
    "in such an image a good detector finds nothing",
  )
  if config.lesion_free:
    yield Departure(
      "what the detector is trained on",
      "images with their lesions",
      f"{config.lesion_free:.0%} of the images have them taken out, boxes kept, with "
      f"{config.decoys:g} filled hole(s) elsewhere for each",
      "it is to know where lesions occur, and not what they look like",
    )
  yield Departure(
    "left and right",
    "YOLO11 mirrors half of its images",
    "mirrored" if config.augment.flip else "never exchanged",
    "situs: left and right of a patient are not exchangeable",
  )
