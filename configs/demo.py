"""A radiograph phantom, a small model and a few lesions, from nothing to images with labels.

  python -m hiresmed_jax.train --config demo.py
  python -m hiresmed_jax.synthesize --config demo.py --background real --num 8 --on-empty copy \\
    --out runs/demo/out

It draws its own phantoms in the workdir (runs/demo), uses no perceptual weights, and runs every
route. The models are far too small and too briefly trained for anything else.
`launch/demo.sh` does the same, two routes at a time. Measured on 2026-11-30 with it, two cores of
two kinds, no programs kept, ten seeds of phantoms and training: 5 min 25 s to 6 min 4 s each, one
with other work beside it 7 min 31 s; 8 of 8 images each, 6 of 81 lesions copies where the bank gave
none (seeds 0, 2 and 4 to 9). 19 held-out phantoms each; lowest, median and highest of the ten:
contrast kept of stones of 5 to 8 px 47, 64 and 81 %, of 8 to 12 px 60, 77 and 84 %, above 74, 88
and 97 %; PSNR 25.1, 27.4 and 29.4 dB (floors of seed 0: training mean 18.9, nearest 21.6); the
detector's mAP50 0.36, 0.61 and 0.74. The prior that is used is better than the atlas alone with
each seed. The danger mask forbids more than 5 % of the real stones with two seeds: it is left out
there. Of the SinGANs' samples 6 to 40 % pass the test of shape. A label's mask and what an image
shows of the stone above half maximum have an intersection over union of 0.78 (median of 75 stones),
and their boxes differ by 2 px at most in 97 of 100. Body, spine, ribs and pelvis are blurred in
reconstructions: no vertebra is sharp.
"""

from hiresmed_jax.routes import settings


def get_config(arg: str = "all"):
  route, _ = settings.route_and_preset(arg, presets=("best",))
  config = settings.base("demo", route=route, preset="best")
  config.data.phantom.update({"kind": "kub", "num": 96, "size": 320, "seed": 0})
  config.data.phantom.diameter_mm = (12.0, 20.0)  # 9 to 16 px
  config.data.update({"size": (320, 320), "crop": 128})
  # What is turned or shifted is blurred: in so few steps small stones came out fainter.
  config.data.augment.update({"degrees": 0.0, "scale": 0.0, "shift": 0.0})
  small(config.background)
  config.background.update({"batch_size": 4, "steps": 900, "log_every": 20})
  config.background.update({"eval_every": 900, "eval_images": 12})
  config.background.gan.weight = 0.0  # no discriminator: its time goes into more steps
  # Two cores spend as long on compiling a level as on training it.
  config.lesion.update({"sides": (32,), "limit": 3, "factor": 0.5, "cpu_steps": 120})
  # Some phantom stones lie on the edge of gas or bone, where a mask does not show them.
  config.lesion.least_overlap = 0.5
  # Nothing is trained again: time is bounded, and `--on-empty copy` fills what a weak bank misses.
  config.lesion.least_accepted = 0.0
  # Few steps: whole images, hardly changed, and most of them with their lesions.
  config.location.update({"size": 256, "batch_size": 4, "steps": 240, "mosaic": 0.0})
  config.location.update({"log_every": 40, "eval_every": 240, "lesion_free": 0.3})
  config.location.augment.scale = 0.2
  config.danger.update({"size": (320, 320), "crop": 128, "width": 4, "batch_size": 4, "steps": 160})
  config.danger.update({"log_every": 20, "eval_every": 160})
  # No stone away from where the prior says.
  config.synthesize.floor = 0.0
  # Of the baselines, which are trained by name.
  config.ddm.update({"size": (32, 32), "batch_size": 8, "steps": 1000, "ema": 0.99})
  config.ddm.net.update({"width": 32, "multipliers": (1, 2, 2), "blocks": 1, "attention": (8,)})
  config.ddm.optimizer.learning_rate = 1e-3
  config.ddm.sampling.update({"images": 24, "steps": 200})
  config.ddm.update({"log_every": 50, "eval_every": 500, "eval_images": 16})
  return config


def small(route):
  """A network that two cores can train: one stage, latents of a quarter of the resolution."""
  route.net.update({"stem_channels": 16, "channels": (64,), "strides": (4,)})
  route.net.update({"full_resolution_channels": 8, "encoder_blocks": 1, "remat": False})
  route.codebook.update({"num_codes": 512})
  route.perceptual.net = None
  route.gan.update({"start": 0.5, "features": (16, 32), "scales": 2})
  route.optimizer.update({"learning_rate": 4e-3, "b1": 0.9})
  route.ema = 0.99
