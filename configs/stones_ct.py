"""Kidney stones on coronal CT: 622 public slices of 391 x 320, split by acquisition group.

  python -m hiresmed_jax.prepare --kind images --source SOURCE/images --labels SOURCE/labels \
    --boxes yolo --groups SOURCE/groups.csv --out data/stones_ct
  python -m hiresmed_jax.weights fetch squeezenet
  python -m hiresmed_jax.train --config stones_ct.py --data data/stones_ct
  python -m hiresmed_jax.synthesize --config stones_ct.py --num 20 --background real --out out

Route background: 3 minutes on 2 CPU cores (400 steps of 4 crops; 3.5 steps per second; the step
compiles in some 35 s).
Measured on 2026-11-28, 3 seeds, 111 held-out images (benchmarks/results/evaluate_stones_ct.md):
PSNR 26.2 dB, SD 0.6 (floors: training mean 12.7, nearest training image 12.0), L1 0.030; contrast
kept, median: 65 % of stones below 5 px, 79 % of 5 to 8, 83 % of 8 to 12, 90 % above. With residual
blocks 27.0 dB, SD 0.3: run against run no difference was found (HDFB less residual -0.8 dB, 95 %
interval -2.0 to 0.4).
Route location, measured on 2026-11-28, one seed: 12 epochs, some 5 minutes on 2 idle cores;
held-out mAP50 0.41; the product of atlas and detector is used
(benchmarks/results/placement_cpu.json).
Route danger, measured on 2026-11-28, one seed (benchmarks/results/danger_cpu.json): 6 minutes on
cores that were also used otherwise. Mean Dice against 20 masks corrected by hand: 0.900; of the
rule that it learns from 0.987, which is flattering (tests/data/danger/README.md). It misses ribs
and takes clear fat for lung. 0 of 232 real held-out stones lie in what it forbids (0 by the rule;
by the rule 13 of 416 in 200 images of other groups). Without the weight on real lesions (300 steps
of 8) it was 162 of 232, at a Dice of 0.920 against the rule's masks; with it 0.908.
"""

from hiresmed_jax.routes import settings


def get_config(arg: str = "all"):
  route, _ = settings.route_and_preset(arg, presets=("best",))
  config = settings.base("stones_ct", route=route, preset="best")
  # Native resolution: a stone of 7 px would be 2 px at a third of it. The network is convolutional:
  # it trains on crops and is evaluated on whole slices.
  config.data.update({"size": (320, 392), "crop": 96})
  small_ct(config.background)
  config.lesion.update({"sides": (32,), "limit": 20})  # what two cores train in half an hour
  config.location.update({"size": 320, "batch_size": 16, "epochs": 12, "close_mosaic": 3})
  config.location.update({"log_every": 25, "eval_every": 100})
  config.danger.update({"size": (320, 400), "crop": 160, "width": 8, "rule": "abdomen"})
  config.danger.update({"batch_size": 4, "steps": 400, "log_every": 20, "eval_every": 200})
  return config


def small_ct(route):
  """What two cores train in minutes: f4 latents, few channels, SqueezeNet as perceptual net."""
  route.net.update({"stem_channels": 16, "channels": (32, 64), "strides": (2, 2)})
  route.net.update({"full_resolution_channels": 16, "encoder_blocks": 1, "remat": False})
  route.codebook.update({"num_codes": 512})
  route.perceptual.net = "squeezenet"
  route.gan.update({"start": 0.5, "features": (32, 64), "scales": 2})
  route.optimizer.update({"learning_rate": 2e-3, "b1": 0.9})
  route.ema = 0.99
  route.update({"batch_size": 4, "steps": 400, "log_every": 20, "eval_every": 200})
  route.eval_images = 16
