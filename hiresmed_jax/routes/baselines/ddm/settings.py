"""The settings of the baseline `ddm`: DDPM, a denoising diffusion model.

The paper gives its size, 128 x 128 x 3, and a reference: the preset `paper` has the reference's
values for images of 256 x 256 and the paper's own number of epochs. `best` is its network for that
size, with a shorter training.
"""

from collections.abc import Iterator
from typing import Any

from hiresmed_jax.errors import UserError
from hiresmed_jax.ops import diffusion
from hiresmed_jax.runtime import rules
from hiresmed_jax.runtime.settings import Departure, Setting, Table

_NET = "the network that suits this size and this budget"
_NOISE = "larger images need more of the noisy levels"
_SAMPLING = "fewer steps of the network for an image"
_SHORT = "a shorter run on few images"
_LENGTH = "the length that this budget allows"

# Key, value in `paper`, in `best`, what it may be, why another value than the paper's is taken.
# fmt: off
TABLE = Table("ddm", (
  Setting("size", (128, 128), (256, 256), rules.rows_columns(8, 16_384),
          "the images' own resolution, or what this budget allows"),
  Setting("patch", 1, 1, rules.whole(1, 64, "px of a side that become channels of one position"),
          "more pixels at the same cost"),
  Setting("net.width", 128, 128, rules.whole(4, 4096, multiple=2), _NET),
  Setting("net.multipliers", (1, 1, 2, 2, 4), (1, 1, 2, 2, 4, 4),
          rules.wholes(1, 64, "of the width, level by level"), _NET),
  Setting("net.blocks", 2, 2, rules.whole(1, 16, "of a level"), _NET),
  Setting("net.attention", (16,), (16,),
          rules.wholes(1, 4096, "rows of the feature maps that have it", least=0), _NET),
  Setting("net.dropout", 0.0, 0.0, rules.share(below=True), "few images are learnt by heart"),
  Setting("diffusion.schedule", "linear", "cosine", rules.one_of(*diffusion.SCHEDULES), _NOISE),
  Setting("diffusion.levels", 1000, 1000, rules.whole(2, 100_000), _NOISE),
  Setting("sampling.images", 50, 50,
          rules.whole(1, 1_000_000, "that are made at the end of the training")),
  # In a short run on phantoms, 100 steps of DDIM left noise where 200 ancestral ones did not.
  Setting("sampling.method", "ancestral", "ancestral", rules.one_of(*diffusion.SAMPLERS),
          _SAMPLING),
  Setting("sampling.variance", "small", "small",
          rules.one_of(*diffusion.VARIANCES), "another published choice, of 'ancestral' alone"),
  Setting("sampling.steps", 1000, 250, rules.whole(1, 100_000, "at most diffusion.levels"),
          _SAMPLING),
  Setting("optimizer.name", "adam", "adam", rules.OPTIMIZER, _SHORT),
  Setting("optimizer.learning_rate", 2e-5, 1e-4, rules.LEARNING_RATE, _SHORT),
  Setting("optimizer.b1", 0.9, 0.9, rules.MOMENTUM, _SHORT),
  Setting("optimizer.weight_decay", 0.0, 0.0, rules.WEIGHT_DECAY, _SHORT),
  Setting("optimizer.schedule", "constant", "constant", rules.SCHEDULE, _SHORT),
  Setting("optimizer.warmup", 0.05, 0.05, rules.share("of the run", below=True), _SHORT),
  Setting("optimizer.accumulate", 1, 1, rules.ACCUMULATE, "a larger batch than the memory holds"),
  Setting("optimizer.clip", 1.0, 1.0, rules.CLIP, _SHORT),
  Setting("ema", 0.9999, 0.999, rules.share("0: no average", below=True),
          "few steps: an average that forgets sooner"),
  Setting("dtype", "auto", "auto", rules.DTYPE, "the number format of the convolutions"),
  Setting("batch_size", 64, 16, rules.BATCH_SIZE, "what the memory holds"),
  Setting("epochs", 3500, 1000, rules.EPOCHS, _LENGTH),
  Setting("steps", 0, 0, rules.STEPS, _LENGTH),
  Setting("log_every", 50, 50, rules.EVERY),
  Setting("eval_every", 1000, 1000, rules.EVAL_EVERY),
  Setting("eval_images", 64, 64, rules.whole(1, 1_000_000)),
  Setting("keep_checkpoints", 1, 1, rules.KEEP_CHECKPOINTS),
  Setting("max_skipped", 20, 20, rules.MAX_SKIPPED),
))
# fmt: on


def sizes(config: Any) -> list[tuple[int, int]]:
  """(rows, columns) of the images that the network is trained on."""
  return [tuple(config.ddm.size)]


def check(config: Any) -> None:
  """Refuses values that do not go together; each for itself is valid.

  Raises:
    UserError: sides that cannot be halved so often, attention at feature maps that there are not,
      more steps than levels.
  """
  values = config.ddm
  factor = values.patch << (len(values.net.multipliers) - 1)
  if any(side % factor for side in values.size):
    raise UserError(
      f"ddm.size={tuple(values.size)}: use multiples of {factor}, for ddm.patch={values.patch} and "
      f"{len(values.net.multipliers)} levels of ddm.net.multipliers"
    )
  rows = [values.size[0] // values.patch >> level for level in range(len(values.net.multipliers))]
  if not set(values.net.attention) <= set(rows):
    raise UserError(
      f"ddm.net.attention={tuple(values.net.attention)}: the feature maps of ddm.size="
      f"{tuple(values.size)} have {', '.join(map(str, rows))} rows: use some of them, or ()"
    )
  if values.sampling.steps > values.diffusion.levels:
    raise UserError(
      f"ddm.sampling.steps={values.sampling.steps} of ddm.diffusion.levels="
      f"{values.diffusion.levels}: use as many steps as levels, or fewer"
    )


def readings(config: Any) -> Iterator[Departure]:
  """What the paper leaves open, contradicts or lacks; it holds in the preset `paper` too."""
  yield Departure(
    "DDM: the network",
    "128 x 128 x 3 and a reference to DDPM",
    f"DDPM's U-Net, {len(config.net.multipliers)} levels",
    "the reference has networks for 32 and 256 pixels; that for 128 lies between them",
  )
  yield Departure(
    "DDM: optimiser and length",
    "nothing",
    "DDPM's for 256 x 256, and the epochs of the paper's own network",
    "the same number of passes over the images is the plainest comparison",
  )
  yield Departure(
    "DDM: enlarged to the size of the images",
    "upsampled",
    "bicubic, to data.size",
    "the usual way to enlarge an image",
  )
  yield Departure(
    "DDM: fit",
    "not given",
    "stretched to the network's size, and back",
    "the samples of a network that sees padding have it too",
  )
  yield Departure(
    "DDM: left and right",
    "nothing",
    "as data.augment has it; DDPM mirrors half of its images",
    "situs: left and right of a patient are not exchangeable",
  )
