"""The paper's first setting: kidney-ureter-bladder radiographs at 1,024 x 1,024.

  python -m hiresmed_jax.train --config kub.py --data DATA
  python -m hiresmed_jax.train --config kub.py:background,best --data DATA
  python -m hiresmed_jax.train --config kub.py:lesion,best --data DATA

Preset `paper` (the default) is Tang et al. 2025, Table 1: 16 x 16 latents, batch 8, Adam 2.25e-5,
3,500 epochs, VGG16 perceptual loss (`python -m hiresmed_jax.weights fetch vgg16` first). `best`
keeps 64 x 64 latents and trains with what later work made standard; use it for small lesions.
Cost and result at full size: not measured. `explain --config kub.py` shows FLOPs and memory.
"""

from hiresmed_jax.routes import settings


def get_config(arg: str = "all"):
  route, preset = settings.route_and_preset(arg)
  return settings.base("kub", route=route, preset=preset)
