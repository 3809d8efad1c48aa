"""The settings of the route `background`, HiResMed-VQGAN. Preset `paper`: Tang et al. 2025, Table 1
and sections 2.2 to 2.3; `best`: what later work made standard."""

import math
from collections.abc import Iterator
from typing import Any

from hiresmed_jax.convert.features import TRUNKS
from hiresmed_jax.errors import UserError
from hiresmed_jax.runtime import rules
from hiresmed_jax.runtime.settings import Departure, Setting, Table

_BUDGET = "that this budget allows"
_WIDTH, _DEPTH, _LENGTH = (f"the {what} {_BUDGET}" for what in ("width", "depth", "length"))
_DEAD = "how dead codes are noticed and redrawn; the paper has no such thing"
_BALANCE = "another balance of the terms"
_PERCEPTUAL = "a network whose weights, memory and time suit this run"
_GAN = "another strength or start of the adversarial term"
_FASTER = "a faster optimiser: few images, and a budget of hours"

# Key, value in `paper`, in `best`, what it may be, why another value than the paper's is taken.
# fmt: off
TABLE = Table("background", (
  Setting("net.skeleton", "hiresmed", "hiresmed", rules.one_of("hiresmed", "taming"),
          "the published VQGAN, which the paper compares with", as_it_was="hiresmed"),
  Setting("net.stem_channels", 64, 64, rules.whole(1, 4096), _WIDTH),
  Setting("net.channels", (128, 256, 512), (128, 128, 256, 512), rules.wholes(1, 8192),
          "one count for each stage of `strides`"),
  Setting("net.strides", (4, 4, 4), (2, 2, 2, 2), rules.wholes(1, 64, "powers of two"),
          "a finer grid: at stride 64 a lesion is a fraction of one code"),
  Setting("net.encoder_blocks", 2, 2, rules.whole(0, 64), _DEPTH),
  Setting("net.middle_blocks", 1, 1, rules.whole(0, 64), _DEPTH),
  Setting("net.decoder_blocks", 1, 1, rules.whole(0, 64), _DEPTH),
  Setting("net.full_resolution_channels", 32, 32, rules.whole(1, 4096), _WIDTH),
  Setting("net.code_dim", 256, 16, rules.whole(1, 4096),
          "narrow cosine codes stay in use where wide ones die"),
  Setting("net.block", "hdfb", "hdfb", rules.one_of("hdfb", "residual"),
          "the block that HDFB is compared with, on the same skeleton"),
  Setting("net.activation", "relu", "gelu", rules.one_of("relu", "gelu"),
          "Eqs. 10 and 11 and the text speak of GELU, Eq. 12 of ReLU"),
  Setting("net.drop_path_rate", 0.1, 0.0, rules.share(below=True),
          "another strength of regularisation; the paper gives no rate"),
  Setting("net.upsampling", "transposed", "resize",
          rules.one_of("transposed", "resize", "subpixel"),
          "no checkerboard, which a transposed convolution can learn"),
  Setting("net.kernel_init_std", 0.0, 0.0, rules.number(0, 10, "0: the default of the network"),
          "the paper's N(0, 0.02), which starts slower with these norms"),
  Setting("net.remat", True, True, rules.flag("True computes blocks twice and takes less memory")),
  Setting("codebook.num_codes", 1024, 1024, rules.whole(1, 1_048_576),
          "as many codes as these images can keep in use"),
  Setting("codebook.init", "random", "kmeans", rules.one_of("random", "kmeans"),
          "codes that begin at the centres of real latents are in use at once"),
  Setting("codebook.distance", "cosine", "cosine", rules.one_of("cosine", "euclidean"),
          "as the published VQGAN compares latents and codes", as_it_was="cosine"),
  # At 0.9 a dead code is noticed after some 20 steps.
  Setting("codebook.usage_decay", 0.9, 0.9, rules.share("of the usage so far, kept at each step"),
          _DEAD),
  Setting("codebook.revive_every", 20, 20, rules.EVERY, _DEAD),
  Setting("codebook.revive_threshold", 0.1, 0.1,
          rules.number(0, 1_000_000, "share of the usage of an evenly used code"), _DEAD),
  Setting("loss.reconstruction", "mse", "l1", rules.one_of("l1", "mse"),
          "the absolute error blurs edges less than the squared one"),
  Setting("loss.commitment", 1.0, 1.0, rules.WEIGHT, _BALANCE),
  Setting("loss.codebook", 0.33, 0.33, rules.WEIGHT, _BALANCE),
  Setting("loss.entropy", 0.0, 0.02, rules.WEIGHT, "spreads the images over all codes"),
  Setting("loss.entropy_temperature", 0.1, 0.1, rules.number(1e-6, 1_000_000), _BALANCE),
  Setting("perceptual.net", "vgg16", "vgg16", rules.one_of(*TRUNKS, None), _PERCEPTUAL),
  Setting("perceptual.weight", 1.0, 1.0, rules.WEIGHT, _PERCEPTUAL),
  Setting("perceptual.bfloat16", False, False, rules.flag("False: float32"), _PERCEPTUAL),
  Setting("gan.weight", 0.1, 0.1, rules.number(0, 1_000_000, "0: no discriminator"), _GAN),
  Setting("gan.start", 0.2, 0.2,
          rules.share("of the run after which the discriminator trains, alone at first"), _GAN),
  Setting("gan.warmup", 0.1, 0.1,
          rules.share("of the run until the generator feels it; a ramp as long follows"), _GAN),
  Setting("gan.adaptive", False, False, rules.flag("True: weighed by the gradients"), _GAN),
  Setting("gan.adaptive_cap", 10.0, 10.0, rules.WEIGHT, _GAN),
  Setting("gan.network", "multiscale", "multiscale", rules.one_of("multiscale", "taming"),
          "the published VQGAN's discriminator", as_it_was="multiscale"),
  Setting("gan.features", (64, 128), (64, 128), rules.wholes(1, 4096), _GAN),
  Setting("gan.scales", 3, 3, rules.whole(1, 16), _GAN),
  Setting("gan.augment", (), ("color", "translation", "cutout"),
          rules.some_of("color", "translation", "cutout"),
          "with few images the discriminator learns them by heart without it"),
  Setting("optimizer.name", "adam", "adamw", rules.OPTIMIZER, _FASTER),
  Setting("optimizer.learning_rate", 2.25e-5, 2e-4, rules.LEARNING_RATE, _FASTER),
  Setting("optimizer.b1", 0.5, 0.5, rules.MOMENTUM, _FASTER),
  Setting("optimizer.b2", 0.9, 0.99, rules.MOMENTUM, _FASTER),
  Setting("optimizer.eps", 1e-8, 1e-8, rules.number(1e-30, 1), _FASTER),
  Setting("optimizer.weight_decay", 0.0, 1e-4, rules.WEIGHT_DECAY, _FASTER),
  Setting("optimizer.schedule", "constant", "cosine", rules.SCHEDULE,
          "a falling rate ends in a better minimum than a constant one"),
  # Schedules and warm-ups span the steps of their network: the discriminator begins at `gan.start`.
  Setting("optimizer.warmup", 0.0, 0.05, rules.share("of the steps of a network"),
          "Adam's first steps are the largest and the least informed"),
  Setting("optimizer.accumulate", 1, 1, rules.ACCUMULATE, "a larger batch than the memory holds"),
  Setting("optimizer.clip", 0.0, 1.0, rules.CLIP, _FASTER),
  Setting("ema", 0.0, 0.999, rules.share("0: no average", below=True),
          "averaged weights reconstruct better than the last ones"),
  Setting("dtype", "auto", "auto", rules.DTYPE, "the number format of the convolutions"),
  Setting("batch_size", 8, 8, rules.BATCH_SIZE, "what the memory holds"),
  Setting("epochs", 3500, 1000, rules.EPOCHS, _LENGTH),
  Setting("steps", 0, 0, rules.STEPS, _LENGTH),
  Setting("log_every", 50, 50, rules.EVERY),
  Setting("eval_every", 1000, 1000, rules.EVAL_EVERY),
  Setting("eval_images", 64, 64, rules.whole(1, 1_000_000)),
  Setting("keep_checkpoints", 2, 2, rules.KEEP_CHECKPOINTS),
  Setting("max_skipped", 20, 20, rules.MAX_SKIPPED),
))
# fmt: on


def sizes(config: Any) -> list[tuple[int, int]]:
  """(rows, columns) of the images that the networks see: whole ones, and crops to train on."""
  crop = config.data.crop
  return [tuple(config.data.size), *([(crop, crop)] if crop else [])]


def check(config: Any) -> None:
  """Refuses values that do not go together; each for itself is valid.

  Raises:
    UserError: strides or a discriminator that do not fit the images, or what a network lacks.
  """
  net, gan = config.background.net, config.background.gan
  strides = tuple(net.strides)
  if net.skeleton == "taming":
    _check_taming(net)
  elif len(strides) != len(net.channels) or any(s < 2 or s & (s - 1) for s in strides):
    raise UserError(
      f"background.net.strides={strides}: use powers of two from 2, one for each of "
      f"background.net.channels={tuple(net.channels)}"
    )
  if config.background.codebook.distance == "euclidean":
    _check_euclidean(config.background)
  factor = math.prod(strides)
  for height, width in sizes(config):
    if height % factor or width % factor:
      raise UserError(
        f"images of {height} x {width} do not divide by background.net.strides={strides}: make "
        f"data.size and data.crop multiples of {factor}"
      )
  side = min(min(size) for size in sizes(config))
  least = 2 ** (gan.scales - 1) * 2 ** len(gan.features) * 2  # one logit at the coarsest scale
  if gan.network == "taming":
    least = 3 * 2 ** (len(gan.features) - 1)
    if gan.scales != 1:
      raise UserError(
        f"background.gan.scales={gan.scales}: background.gan.network='taming' has one"
      )
  if gan.weight and side < least:
    raise UserError(
      f"background.gan.scales={gan.scales} needs images of {least} px or more, not {side}: "
      "use fewer scales"
    )


def _check_taming(net: Any) -> None:
  """The other settings of `net` say what the published network is, and nothing else."""
  first, levels = net.channels[0], len(net.channels)
  wanted = {
    "strides": (1, *(2,) * (levels - 1)),
    "stem_channels": first,
    "full_resolution_channels": first,
    "middle_blocks": 2,
    "block": "residual",
    "upsampling": "resize",
    "drop_path_rate": 0.0,
    "kernel_init_std": 0.0,
  }
  for key, value in wanted.items():
    given = tuple(net[key]) if key == "strides" else net[key]
    if given != value:
      raise UserError(
        f"background.net.{key}={given!r}: background.net.skeleton='taming' has {value!r} alone"
      )


def _check_euclidean(background: Any) -> None:
  """What is made for unit vectors must be off."""
  for key, value in (
    ("codebook.init", "random"),
    ("codebook.revive_threshold", 0.0),
    ("loss.entropy", 0.0),
  ):
    group, name = key.split(".")
    if (given := background[group][name]) != value:
      raise UserError(
        f"background.{key}={given!r}: background.codebook.distance='euclidean' goes with {value!r}"
      )


def readings(config: Any) -> Iterator[Departure]:
  """What the paper leaves open, contradicts or lacks; it holds in the preset `paper` too."""
  if config.net.skeleton == "taming":
    yield Departure(
      "VQGAN",
      "a reference",
      "the reference's network, codes, losses and discriminator; attention at the coarsest level",
      "the paper gives no numbers of it",
    )
    yield Departure(
      "VQGAN: start of the adversarial loss",
      "nothing",
      f"after {config.gan.start:.0%} of the run, for both players",
      "the reference's 10,000 steps would be beyond the end of a short run",
    )
    yield Departure(
      "VQGAN: initial kernels",
      "nothing",
      "variance 1 / fan-in",
      "the reference has the default of another framework, a third of it",
    )
    yield Departure(
      "VQGAN: the discriminator's step",
      "nothing",
      "on the reconstruction that the generator was trained on, and its gradient to that one alone",
      "the reference makes a second reconstruction for it",
    )
    return
  yield Departure(
    "downsampling",
    "three times, 1,024 to 16",
    f"stages of stride {', '.join(map(str, config.net.strides))}",
    "only stride 4 a stage, two halvings each, agrees with both of the paper's numbers",
  )
  if config.net.block == "hdfb":
    yield Departure(
      "HDFB",
      "Eq. 5 norms twice in a row; the text has a convolution between",
      "3x3 convolution between",
      "two norms in a row do nothing, and the channels could not change",
    )
  yield Departure(
    "normalisation",
    "GroupNorm; the text also has batch normalisation after SiLU",
    "GroupNorm, 32 groups",
    "the paper itself argues that it must not depend on the batch",
  )
  if config.net.drop_path_rate:
    yield Departure(
      "DropPath",
      "no rate",
      f"{config.net.drop_path_rate}, linear in depth",
      "the usual rate for networks of this depth",
    )
  if not config.net.kernel_init_std:
    yield Departure(
      "initial kernels",
      "N(0, 0.02)",
      "variance 1 / fan-in",
      "signals keep their size; --config.background.net.kernel_init_std=0.02 is the paper's",
    )
  if config.net.upsampling == "transposed":
    yield Departure(
      "initial upsampling kernels",
      "N(0, 0.02)",
      "bilinear kernel times a channel matrix",
      "a random start prints a checkerboard of 0.8 to 0.95 of the signal (measured)",
    )
  yield Departure(
    "codebook losses",
    "norms, not squared",
    "squared distance of unit vectors, summed over the code, mean over positions",
    "the paper compares by cosine, and the reconstruction term of Eq. 1 is squared too",
  )
  yield Departure(
    "dead codes",
    "nothing",
    f"redrawn from the batch every {config.codebook.revive_every} steps",
    "without it plain cosine quantisation of 128 real images kept 3 of 256 codes in use",
  )
  if config.gan.weight:
    yield Departure(
      "weight of the adversarial loss",
      "1 (Eq. 1)",
      f"{config.gan.weight}{', adaptive' if config.gan.adaptive else ''}",
      "at 1 it wins over the reconstruction on few images",
    )
    yield Departure(
      "start of the adversarial loss",
      "not given",
      f"the discriminator trains from {config.gan.start:.0%} of the run; the generator feels it "
      f"{config.gan.warmup:.0%} later, in full after a ramp of as much",
      "an untrained discriminator's gradient ruins the reconstruction",
    )
    yield Departure(
      "discriminator",
      "two convolutions, a norm, an activation; local, medium and global",
      f"such a one on each of {config.gan.scales} scales of the image",
      "the plainest network that fits the words",
    )
  yield Departure(
    "split",
    "not given",
    "by patient, 1 in 5 held out from everything",
    "images of one patient on both sides would measure memory",
  )
