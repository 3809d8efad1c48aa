"""The settings of the baseline `styleswin`, a GAN of windowed attention.

The paper gives a reference alone: the preset `paper` has the reference's values for images of
1,024 x 1,024. `best` sees smaller images, with DiffAugment.
"""

from collections.abc import Iterator
from typing import Any

from hiresmed_jax.runtime import rules
from hiresmed_jax.runtime.settings import Departure, Setting, Table

_SIZES = (16, 32, 64, 128, 256, 512, 1024)
_NET = "the network that suits this size and this budget"
_LOSS = "another strength of what keeps the discriminator smooth"
_SHORT = "a shorter run on few images"
_LENGTH = "the length that this budget allows"

# Key, value in `paper`, in `best`, what it may be, why another value than the paper's is taken.
# fmt: off
TABLE = Table("styleswin", (
  Setting("size", 1024, 256, rules.one_of(*_SIZES), "what this budget allows"),
  Setting("net.style", 512, 512, rules.whole(1, 4096, "values of a style"), _NET),
  Setting("net.mapping", 8, 8, rules.whole(1, 64, "layers that make a style"), _NET),
  Setting("net.widest", 512, 512, rules.whole(16, 4096, "channels at most", multiple=16), _NET),
  Setting("net.multiplier", 1, 2, rules.whole(1, 16, "of the generator's channels from 64 px on"),
          _NET),
  Setting("net.critic_multiplier", 2, 2,
          rules.whole(1, 16, "of the discriminator's channels from 64 px on"), _NET),
  Setting("loss.r1", 10.0, 10.0, rules.WEIGHT, _LOSS),
  Setting("loss.r1_every", 16, 16, rules.EVERY, _LOSS),
  Setting("loss.consistency", 0.0, 10.0, rules.WEIGHT, _LOSS),
  Setting("loss.augment", ("color", "translation"), ("color", "translation"),
          rules.some_of("color", "translation", "cutout", least=1), _LOSS),
  Setting("gen_optimizer.learning_rate", 5e-5, 5e-5, rules.LEARNING_RATE, _SHORT),
  Setting("gen_optimizer.b1", 0.0, 0.0, rules.MOMENTUM, _SHORT),
  Setting("gen_optimizer.b2", 0.99, 0.99, rules.MOMENTUM, _SHORT),
  Setting("gen_optimizer.clip", 0.0, 0.0, rules.CLIP, _SHORT),
  Setting("disc_optimizer.learning_rate", 2e-4, 2e-4, rules.LEARNING_RATE, _SHORT),
  Setting("disc_optimizer.b1", 0.0, 0.0, rules.MOMENTUM, _SHORT),
  Setting("disc_optimizer.b2", 0.99, 0.99, rules.MOMENTUM, _SHORT),
  Setting("disc_optimizer.clip", 5.0, 5.0, rules.CLIP, _SHORT),
  Setting("schedule", "constant", "constant", rules.SCHEDULE, _SHORT),
  Setting("ema", 0.99778, 0.99778, rules.share("0: no average", below=True),
          "few steps: an average that forgets sooner"),
  Setting("samples", 50, 50, rules.whole(1, 1_000_000, "made at the end of the training")),
  Setting("dtype", "auto", "auto", rules.DTYPE, "the number format of the convolutions"),
  Setting("batch_size", 16, 32, rules.BATCH_SIZE, "what the memory holds"),
  Setting("epochs", 3500, 3500, rules.EPOCHS, _LENGTH),
  Setting("steps", 0, 0, rules.STEPS, _LENGTH),
  Setting("log_every", 50, 50, rules.EVERY),
  Setting("eval_every", 1000, 1000, rules.EVAL_EVERY),
  Setting("eval_images", 64, 64, rules.whole(1, 1_000_000)),
  Setting("keep_checkpoints", 1, 1, rules.KEEP_CHECKPOINTS),
  Setting("max_skipped", 20, 20, rules.MAX_SKIPPED),
))
# fmt: on


def sizes(config: Any) -> list[tuple[int, int]]:
  """(rows, columns) of the images that the networks are trained on."""
  return [(config.styleswin.size, config.styleswin.size)]


def check(config: Any) -> None:
  """All values go together."""
  del config


def readings(config: Any) -> Iterator[Departure]:
  """What the paper leaves open, contradicts or lacks; it holds in the preset `paper` too."""
  yield Departure(
    "StyleSwin",
    "a reference",
    f"the reference's networks and losses, at {config.size} x {config.size}",
    "the paper gives no numbers of it",
  )
  yield Departure(
    "StyleSwin: penalty of the gradient",
    "nothing",
    f"added to the loss of every {config.loss.r1_every}th step, as many times as strong",
    "the reference makes a step of its own of it",
  )
  yield Departure(
    "StyleSwin: length and learning rate",
    "nothing",
    f"the epochs of the paper's own network; the rate is {config.schedule}",
    "the reference trains for 800,000 steps and lets the rate fall in their last part",
  )
  yield Departure(
    "StyleSwin: fit",
    "not given",
    "stretched to a square, and back to data.size (bicubic)",
    "the network makes squares alone",
  )
