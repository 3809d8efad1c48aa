"""The paper's comparison system VQGAN (Esser et al. 2021), radiographs at 1,024 x 1,024.

  python -m hiresmed_jax.train --config baselines/vqgan.py --data DATA
  python -m hiresmed_jax.evaluate --workdir VQGAN=runs/vqgan --workdir ours=runs/kub --out report

It is trained by the route `background`, with the published network, codes, losses, discriminator
and learning rate: all that reads a run of that route reads this one. Its images are
reconstructions; the training ends with a sheet of them (figures/held_out.png).
Cost and result at full size: not measured. `explain --config baselines/vqgan.py` shows FLOPs and
memory.
"""

from hiresmed_jax.routes import settings

CHANNELS = (128, 128, 256, 256, 512)
CODE_DIM = 256


def get_config(arg: str = "all"):
  route, _ = settings.route_and_preset(arg, presets=("paper",), only="background")
  config = settings.base("vqgan", route=route, preset="paper")
  published(config.background)
  return config


def published(background):
  """Changes the values of the route `background` to those of the published recipe."""
  net = background.net
  net.update({"skeleton": "taming", "channels": CHANNELS, "strides": (1, 2, 2, 2, 2)})
  net.update({"stem_channels": CHANNELS[0], "full_resolution_channels": CHANNELS[0]})
  net.update({"encoder_blocks": 2, "middle_blocks": 2, "decoder_blocks": 3, "code_dim": CODE_DIM})
  net.update({"block": "residual", "upsampling": "resize", "drop_path_rate": 0.0})
  codebook, loss, gan = background.codebook, background.loss, background.gan
  codebook.update({"distance": "euclidean", "num_codes": 1024, "revive_threshold": 0.0})
  # The published losses are means over the code, too, and have the weight 0.25 on the codes' side.
  loss.update({"reconstruction": "l1", "commitment": 1 / CODE_DIM, "codebook": 0.25 / CODE_DIM})
  gan.update({"network": "taming", "features": (64, 128, 256, 512), "scales": 1, "weight": 0.8})
  # 10,000 of some 90,000 steps; both players begin together.
  gan.update({"adaptive": True, "adaptive_cap": 1e4, "start": 0.1, "warmup": 0.0})
  background.batch_size = 5
