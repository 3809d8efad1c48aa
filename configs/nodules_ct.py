"""Lung nodules on axial CT: 125 public slices at 1 mm per pixel, split by series.

  python -m hiresmed_jax.prepare --kind images --source SOURCE/images --labels SOURCE/labels \
    --boxes yolo --groups SOURCE/nodules.csv --out data/nodules_ct
  python -m hiresmed_jax.weights fetch squeezenet
  python -m hiresmed_jax.train --config nodules_ct.py --data data/nodules_ct
  python -m hiresmed_jax.synthesize --config nodules_ct.py --num 20 --background real --out out

Cost: as stones_ct.py, some 3 minutes on 2 CPU cores. Held-out result: not measured.
"""

from hiresmed_jax.routes import settings


def get_config(arg: str = "all"):
  route, _ = settings.route_and_preset(arg, presets=("best",))
  config = settings.base("nodules_ct", route=route, preset="best")
  config.data.update({"size": (480, 480), "crop": 96})
  route = config.background
  route.net.update({"stem_channels": 16, "channels": (32, 64), "strides": (2, 2)})
  route.net.update({"full_resolution_channels": 16, "encoder_blocks": 1, "remat": False})
  route.codebook.update({"num_codes": 512})
  route.perceptual.net = "squeezenet"
  route.gan.update({"start": 0.5, "features": (32, 64), "scales": 2})
  route.optimizer.update({"learning_rate": 2e-3, "b1": 0.9})
  route.ema = 0.99
  route.update({"batch_size": 4, "steps": 400, "log_every": 20, "eval_every": 200})
  route.eval_images = 16
  config.location.update({"size": 320, "batch_size": 8, "epochs": 20, "close_mosaic": 3})
  config.location.update({"log_every": 25, "eval_every": 100})
  config.lesion.update({"sides": (32,), "limit": 20})  # what two cores train in half an hour
  config.synthesize.host_rule = "lung"
  return config
