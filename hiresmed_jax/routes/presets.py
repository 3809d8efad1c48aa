"""The settings of each route as plain values, in two presets that differ in values only.

A config file starts from one of them and says what differs. `paper`: Tang et al. 2025, Table 1 and
sections 2.2 to 2.3. `best`: what later work made standard.
"""

from ml_collections import ConfigDict

from hiresmed_jax.routes.danger import settings as danger_settings
from hiresmed_jax.routes.location import settings as location_settings

PRESETS = ("paper", "best")


def base(name: str, *, route: str, preset: str) -> ConfigDict:
  """Everything that a config holds: data, mesh and the routes, with the values of the preset.

  Args:
    name: of the experiment; the default workdir is runs/<name>.
    route: "all" or one of ROUTES.
    preset: "paper" or "best".
  """
  config = ConfigDict()
  config.name = name
  config.route = route
  config.preset = preset
  config.seed = 0
  config.data = data(preset)
  config.mesh = ConfigDict({"data": -1, "fsdp": 1})
  config.background = background(preset)
  config.lesion = lesion(preset)
  config.location = location_settings.location(preset)
  config.danger = danger_settings.danger(preset)
  config.synthesize = synthesize()
  return config


def data(preset: str) -> ConfigDict:
  """How stored images become network input. `paper`: a stretched square, three equal channels."""
  paper = preset == "paper"
  return ConfigDict(
    {
      "phantom": ConfigDict({"kind": "", "num": 0, "size": 0, "seed": 0}),  # kind "" = needs --data
      "size": (1024, 1024),  # rows, columns
      "fit": "stretch" if paper else "pad",
      "window": "stored",  # or "percentile", or (low, high) in rescaled units
      "channels": 3 if paper else 1,
      "crop": 0,  # > 0: train on random crops of this side, at native resolution
      "workers": 0,
      "augment": ConfigDict(
        {
          "degrees": 0.0 if paper else 5.0,
          "scale": 0.0 if paper else 0.05,
          "shift": 0.0 if paper else 0.03,
          "gain": 0.0 if paper else 0.1,
          "offset": 0.0 if paper else 0.05,
          "flip": False,  # situs: left and right of a patient are not exchangeable
        }
      ),
    }
  )


def background(preset: str) -> ConfigDict:
  """HiResMed-VQGAN. `steps` wins over `epochs` when it is above 0; shares are of the whole run."""
  paper = preset == "paper"
  config = ConfigDict()
  config.net = ConfigDict(
    {
      "stem_channels": 64,
      "channels": (128, 256, 512) if paper else (128, 128, 256, 512),
      "strides": (4, 4, 4) if paper else (2, 2, 2, 2),
      "encoder_blocks": 2,
      "middle_blocks": 1,
      "decoder_blocks": 1,
      "full_resolution_channels": 32,
      "code_dim": 256 if paper else 16,
      "block": "hdfb",
      "activation": "relu" if paper else "gelu",
      "drop_path_rate": 0.1 if paper else 0.0,
      "upsampling": "transposed" if paper else "resize",
      "kernel_init_std": 0.0,  # 0 = the default of the network; 0.02 = the paper's likely code base
      "remat": True,
    }
  )
  config.codebook = ConfigDict(
    {
      "num_codes": 1024,
      "init": "random" if paper else "kmeans",
      "usage_decay": 0.9,  # a dead code is known for one after some 20 steps
      "revive_every": 20,  # steps
      "revive_threshold": 0.1,  # of the usage that an evenly used code would have
    }
  )
  config.loss = ConfigDict(
    {
      "reconstruction": "mse" if paper else "l1",
      "commitment": 1.0,
      "codebook": 0.33,
      "entropy": 0.0 if paper else 0.02,
      "entropy_temperature": 0.1,
    }
  )
  config.perceptual = ConfigDict({"net": "vgg16", "weight": 1.0, "bfloat16": False})
  config.gan = ConfigDict(
    {
      "weight": 0.1,
      "start": 0.2,  # share of the run after which the discriminator trains, alone at first
      "warmup": 0.1,  # share of the run until the generator feels it; a ramp as long follows
      "adaptive": False,
      "adaptive_cap": 10.0,
      "features": (64, 128),
      "scales": 3,
      "augment": () if paper else ("color", "translation", "cutout"),
    }
  )
  config.optimizer = ConfigDict(
    {
      "name": "adam" if paper else "adamw",
      "learning_rate": 2.25e-5 if paper else 2e-4,
      "b1": 0.5,
      "b2": 0.9 if paper else 0.99,
      "eps": 1e-8,
      "weight_decay": 0.0 if paper else 1e-4,
      "schedule": "constant" if paper else "cosine",
      "warmup": 0.0 if paper else 0.05,  # share of the run
      "accumulate": 1,
      "clip": 0.0 if paper else 1.0,  # global norm; 0 = off
    }
  )
  config.ema = 0.0 if paper else 0.999
  config.dtype = "auto"  # bfloat16 where the device has it
  config.batch_size = 8
  config.epochs = 3500 if paper else 1000
  config.steps = 0
  config.log_every = 50
  config.eval_every = 1000  # evaluation, checkpoint and figures
  config.eval_images = 64
  config.keep_checkpoints = 2
  config.max_skipped = 20  # non-finite updates in a row that end the run
  return config


def synthesize() -> ConfigDict:
  """How lesions are put into backgrounds; `synthesize --paper` overrides what the paper says."""
  return ConfigDict(
    {
      "labels": ConfigDict({"box": "tight"}),  # or "dataset": padded as the real boxes are
      "existing": "inpaint",  # the background's own lesions; or "label", where they survived
      "least_contrast": 0.5,  # of an own lesion's contrast that must be left for it to be labelled
      "margin_px": 2.0,  # between a lesion and forbidden tissue
      "min_gap_px": 6.0,  # between two lesions
      "prior": "auto",  # or "uniform", "atlas", "yolo", "atlas x yolo"; see synthesis.prior
      "danger": "auto",  # or "on", "off": the mask of the route danger; see synthesis.danger
      "floor": 0.3,  # share of places drawn uniformly from what is allowed
      "flip": False,  # may a copied lesion be mirrored: situs, as in data.augment.flip
      "workers": 0,  # threads; 0 = one a core
    }
  )


def lesion(preset: str) -> ConfigDict:
  """SinGAN. `steps` are those of each level on an accelerator, `cpu_steps` those on a CPU."""
  paper = preset == "paper"
  return ConfigDict(
    {
      "sides": (32, 48, 64, 96, 128),  # windows, px: 3 x the lesion; others' lesions are left out
      "limit": 0 if paper else 64,  # lesions at most, of as many patients as there are; 0 = all
      "min_size": 25.0,  # side of the coarsest level, or half the window's where that is less
      "width": 32,  # channels of the first four levels, doubled after every fourth
      "max_width": 128,
      "steps": 2000,
      "cpu_steps": 300,
      "critic_steps": 3,
      "generator_steps": 3,
      "learning_rate": 5e-4,
      "b1": 0.5,
      "b2": 0.999,
      "decay_at": 0.8,  # share of a level's steps after which the rate falls
      "decay": 0.1,
      "alpha": 10.0,  # of the reconstruction
      "penalty": 0.1,  # of the critic's gradient
      "start": 0,  # level from which on samples are new; those below repeat the lesion
      "conv": "auto",  # "patches" or "vendor"
      "dtype": "float32",
      "at_once": 0,  # lesions side by side on a device; 0 = all, on a CPU one after the other
      "steps_per_call": 100,  # of one compiled loop
      "cpu_steps_per_call": 10,
      "log_every": 100,
      "save_every": 1000,
      "keep_checkpoints": 1,
      "max_skipped": 20,
    }
  )
