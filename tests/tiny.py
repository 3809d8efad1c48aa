"""The smallest config with every part of the route in it: a run of it takes a second, compiled.

python -m hiresmed_jax.train --config tests/tiny.py:background
"""

from hiresmed_jax.routes import settings

STEPS, BATCH, CROP, CODES = 10, 8, 16, 16
GAN_START, GAN_WARMUP = 2, 2  # steps
REVIVE_EVERY = 3


def get_config(arg: str = "all"):
  route, _ = settings.route_and_preset(arg, presets=("best",))
  config = settings.base("tiny", route=route, preset="best")
  config.data.phantom.update({"kind": "kub", "num": 40, "size": 32, "seed": 0})
  config.data.update({"size": (32, 32), "crop": CROP, "channels": 1, "fit": "pad"})
  route = config.background
  route.net.update({"stem_channels": 4, "channels": (8,), "strides": (4,), "encoder_blocks": 1})
  route.net.update({"full_resolution_channels": 4, "code_dim": 4, "kernel_init_std": 0.0})
  route.net.update({"block": "hdfb", "upsampling": "resize", "activation": "gelu"})
  route.net.update({"drop_path_rate": 0.1, "remat": False})
  # Most codes count as dead, so that every revival redraws some.
  route.codebook.update({"num_codes": CODES, "init": "kmeans", "usage_decay": 0.9})
  route.codebook.update({"revive_every": REVIVE_EVERY, "revive_threshold": 1.0})
  route.loss.update({"reconstruction": "l1", "commitment": 1.0, "codebook": 0.33})
  route.loss.update({"entropy": 0.02, "entropy_temperature": 0.1})
  route.perceptual.net = None
  route.gan.update({"start": GAN_START / STEPS, "warmup": GAN_WARMUP / STEPS, "weight": 0.1})
  route.gan.update({"features": (4, 8), "scales": 2, "adaptive": False})
  route.gan.augment = ("color", "translation", "cutout")
  route.optimizer.update({"name": "adamw", "learning_rate": 1e-3, "b1": 0.5, "b2": 0.99})
  route.optimizer.update({"schedule": "constant", "warmup": 0.0, "accumulate": 2, "clip": 1.0})
  route.ema = 0.9
  route.update({"dtype": "float32", "batch_size": BATCH, "steps": STEPS, "eval_images": 4})
  route.update({"log_every": 4, "eval_every": 5, "keep_checkpoints": 2, "max_skipped": 4})
  config.lesion.update({"sides": (32,), "limit": 3, "width": 4, "max_width": 8, "cpu_steps": 2})
  config.lesion.update({"critic_steps": 1, "generator_steps": 1, "cpu_steps_per_call": 2})
  config.lesion.update({"log_every": 2, "save_every": 4, "factor": 0.5})
  config.lesion.least_accepted = 0.0  # in so few steps no SinGAN learns a lesion
  route = config.location
  route.update({"size": 32, "batch_size": BATCH, "steps": 4, "close_mosaic": 0, "dtype": "float32"})
  route.update({"log_every": 2, "eval_every": 2, "keep_checkpoints": 2})
  route = config.danger
  route.update({"size": (32, 32), "width": 2, "batch_size": BATCH, "steps": 4, "dtype": "float32"})
  route.update({"log_every": 2, "eval_every": 2, "keep_checkpoints": 2})
  route = config.ddm
  route.update({"size": (16, 16), "patch": 2, "batch_size": BATCH, "steps": 2, "dtype": "float32"})
  route.net.update({"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)})
  route.diffusion.levels = 6
  route.sampling.update({"images": 3, "steps": 3})
  route.update({"log_every": 1, "eval_every": 2, "eval_images": 4})
  route = config.styleswin
  route.update({"size": 16, "batch_size": BATCH, "steps": 2, "dtype": "float32"})
  route.net.update({"style": 8, "mapping": 1, "widest": 16})
  route.update({"log_every": 1, "eval_every": 2, "eval_images": 4})
  route.samples = 3
  route = config.singan
  route.update({"size": 40, "max_size": 28, "width": 4, "max_width": 4, "steps": 2})
  route.update({"critic_steps": 1, "generator_steps": 1, "learning_rate": 0.1})
  route.update({"log_every": 1, "save_every": 2, "samples": 3})
  return config
