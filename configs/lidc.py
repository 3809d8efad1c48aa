"""The paper's second setting: lung CT slices (LIDC-IDRI) at 1,024 x 1,024, enlarged from 512.

  python -m hiresmed_jax.train --config lidc.py --data DATA
  python -m hiresmed_jax.train --config lidc.py:background,best --data DATA
  python -m hiresmed_jax.train --config lidc.py:lesion,best --data DATA

The lung window is -1,000 to 400 HU. Preset `paper` enlarges every slice to 1,024 x 1,024, as the
paper does; that adds pixels and no information. `best` stays at the scanner's 512 x 512.
Cost and result at full size: not measured. `explain --config lidc.py` shows FLOPs and memory.
"""

from hiresmed_jax.routes import settings


def get_config(arg: str = "all"):
  route, preset = settings.route_and_preset(arg)
  config = settings.base("lidc", route=route, preset=preset)
  with config.data.ignore_type():  # the preset has a word here
    config.data.window = (-1000.0, 400.0)
  if preset == "best":
    config.data.size = (512, 512)
  config.synthesize.host_rule = "lung"
  return config
