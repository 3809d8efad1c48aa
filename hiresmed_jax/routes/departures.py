"""Where a config leaves the paper (Tang et al. 2025), and why.

Two kinds: what the paper leaves open, contradicts or lacks, so that every implementation must
choose; and values of this config that differ from the preset `paper`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from hiresmed_jax.routes import presets
from hiresmed_jax.runtime.overrides import leaves


class Departure(NamedTuple):
  """One difference. `paper` and `ours` are short phrases or values, `reason` is a sentence."""

  what: str
  paper: str
  ours: str
  reason: str


# Of a value that differs from the preset `paper`, by the longest beginning of its key.
REASONS = {
  "data.phantom": "a phantom needs no patients",
  "data.size": "the images' own resolution: enlarging them adds work and no detail",
  "data.fit": "stretching changes the shape of a lesion and makes millimetres meaningless",
  "data.window": "the intensities that matter in this modality fill the range",
  "data.channels": "grey three times over costs memory and adds nothing",
  "data.crop": "crops at native resolution fit the memory, and few images become many",
  "data.augment": "few images: small changes of pose and gain keep them from being learnt by heart",
  "background.net.strides": "a finer grid: at stride 64 a lesion is a fraction of one code",
  "background.net.channels": "one count for each stage of `strides`",
  "background.net.stem_channels": "the width that this budget allows",
  "background.net.full_resolution_channels": "the width that this budget allows",
  "background.net.encoder_blocks": "the depth that this budget allows",
  "background.net.middle_blocks": "the depth that this budget allows",
  "background.net.decoder_blocks": "the depth that this budget allows",
  "background.net.code_dim": "narrow cosine codes stay in use where wide ones die",
  "background.net.block": "the block that HDFB is compared with, on the same skeleton",
  "background.net.activation": "Eqs. 10 and 11 and the text speak of GELU, Eq. 12 of ReLU",
  "background.net.drop_path_rate": "another strength of regularisation; the paper gives no rate",
  "background.net.upsampling": "no checkerboard, which a transposed convolution can learn",
  "background.net.kernel_init_std": "the paper's N(0, 0.02), which starts slower with these norms",
  "background.codebook.num_codes": "as many codes as these images can keep in use",
  "background.codebook.init": "codes that begin at the centres of real latents are in use at once",
  "background.codebook": "how dead codes are noticed and redrawn; the paper has no such thing",
  "background.loss.reconstruction": "the absolute error blurs edges less than the squared one",
  "background.loss.entropy": "spreads the images over all codes",
  "background.loss": "another balance of the terms",
  "background.perceptual": "a network whose weights, memory and time suit this run",
  "background.gan.augment": "with few images the discriminator learns them by heart without it",
  "background.gan": "another strength or start of the adversarial term",
  "background.optimizer.schedule": "a falling rate ends in a better minimum than a constant one",
  "background.optimizer.warmup": "Adam's first steps are the largest and the least informed",
  "background.optimizer.accumulate": "a larger batch than the memory holds",
  "background.optimizer": "a faster optimiser: few images, and a budget of hours",
  "background.ema": "averaged weights reconstruct better than the last ones",
  "background.batch_size": "what the memory holds",
  "background.epochs": "the length that this budget allows",
  "background.steps": "the length that this budget allows",
  "background.dtype": "the number format of the convolutions",
  "lesion.sides": "windows that this budget allows",
  "lesion.limit": "a bank of so many lesions is varied, and trains in minutes",
  "lesion.steps": "the length that this budget allows",
  "lesion.width": "the width that this budget allows",
  "lesion.max_width": "the width that this budget allows",
  "lesion.start": "levels below repeat the lesion: fewer failures, less variety",
  "lesion": "another balance of SinGAN's training",
  "location.net": "the size of network that this budget allows",
  "location.size": "the images' own resolution, or what this budget allows",
  "location.weights": "a network that has seen other images starts ahead on few",
  "location.optimizer": "a short run on few images: Adam's steps need no tuning",
  "location.ema": "few steps: an average that forgets sooner",
  "location.near": "lesions of a few pixels: a box that begins 15 strides wide overlaps none",
  "location.augment": "another strength of the random changes",
  "location.batch_size": "what the memory holds",
  "location.epochs": "the length that this budget allows",
  "location.steps": "the length that this budget allows",
  "location": "another choice of the detector's training",
  "danger.width": "the width that this budget allows",
  "danger.size": "the images' own resolution, or what this budget allows",
  "danger.crop": "crops at native resolution fit the memory, and few images become many",
  "danger.loss.lesions": "where a real lesion is, nothing is forbidden, however bright it is",
  "danger.rule": "nobody has drawn masks for these images",
  "danger.optimizer": "a short run on few images: Adam's steps need no tuning",
  "danger.ema": "averaged weights make calmer edges than the last ones",
  "danger.batch_size": "what the memory holds",
  "danger.epochs": "the length that this budget allows",
  "danger.steps": "the length that this budget allows",
  "danger": "another choice of the U-Net's training",
}
# What names, seeds, watches or speeds up a run leaves its results as they are.
_NO_DEPARTURE = set(
  "name route preset seed data.workers mesh.data mesh.fsdp background.net.remat "
  "background.log_every background.eval_every background.eval_images background.keep_checkpoints "
  "background.max_skipped lesion.cpu_steps lesion.conv lesion.dtype lesion.at_once "
  "lesion.steps_per_call lesion.cpu_steps_per_call lesion.log_every lesion.save_every "
  "lesion.keep_checkpoints lesion.max_skipped location.log_every location.eval_every "
  "location.keep_checkpoints location.max_skipped location.dtype danger.log_every "
  "danger.eval_every danger.keep_checkpoints danger.max_skipped danger.dtype".split()
)


def departures(config: Any) -> list[Departure]:
  """Departures of the route `background` and its data: the readings first, then the values."""
  others = ("lesion.", "location.", "danger.")
  values = [found for found in _values(config) if not found.what.startswith(others)]
  return [*_readings(config.background), *values]


def lesion_departures(config: Any) -> list[Departure]:
  """Departures of the route `lesion`: the readings first, then the values."""
  values = [found for found in _values(config) if found.what.startswith("lesion.")]
  return [*_lesion_readings(config.lesion), *values]


def location_departures(config: Any) -> list[Departure]:
  """Departures of the route `location`: the readings first, then the values."""
  values = [found for found in _values(config) if found.what.startswith("location.")]
  return [*_location_readings(config.location), *values]


def danger_departures(config: Any) -> list[Departure]:
  """Departures of the route `danger`: the readings first, then the values."""
  values = [found for found in _values(config) if found.what.startswith("danger.")]
  return [*_danger_readings(), *values]


def reason_for(key: str) -> str:
  """Why a value may differ from the paper's; "" for a key that no reason is known for."""
  beginnings = [begin for begin in REASONS if key == begin or key.startswith(f"{begin}.")]
  return REASONS[max(beginnings, key=len)] if beginnings else ""


def _values(config: Any) -> Iterator[Departure]:
  paper = dict(leaves(presets.base(config.name, route="all", preset="paper")))
  for key, value in leaves(config):
    if key in _NO_DEPARTURE or paper.get(key, value) == value:
      continue
    if key == "background.epochs" and config.background.steps:
      continue  # steps win
    yield Departure(key, str(paper[key]), str(value), reason_for(key) or "this config's own choice")


def _readings(config: Any) -> Iterator[Departure]:
  """What holds in the preset `paper` too. config: `presets.background`, perhaps changed."""
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


def _lesion_readings(config: Any) -> Iterator[Departure]:
  """What holds in the preset `paper` too. config: `presets.lesion`, perhaps changed."""
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
    "noise of the reconstruction",
    "fixed (the published code draws it anew)",
    "fixed",
    "a lesion can only be repeated from what does not change",
  )


def _location_readings(config: Any) -> Iterator[Departure]:
  """What holds in the preset `paper` too. config: `location_presets.location`, perhaps changed."""
  yield Departure(
    "what the detector tells (Eq. 14)",
    "where it finds lesions in an image that has none",
    "all class scores before any is thrown away, times the atlas where that is better",
    "in such an image a good detector finds nothing",
  )
  if config.bare:
    yield Departure(
      "what the detector is trained on",
      "images with their lesions",
      f"{config.bare:.0%} of the images have them taken out, boxes kept, with "
      f"{config.decoys:g} filled hole(s) elsewhere for each",
      "it is to know where lesions occur, and not what they look like",
    )
  yield Departure(
    "left and right",
    "YOLO11 mirrors half of its images",
    "mirrored" if config.augment.flip else "never exchanged",
    "situs: left and right of a patient are not exchangeable",
  )


def _danger_readings() -> Iterator[Departure]:
  """What holds in the preset `paper` too."""
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
