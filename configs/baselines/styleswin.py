"""The paper's comparison system StyleSwin (Zhang et al. 2022), radiographs at 1,024 x 1,024.

  python -m hiresmed_jax.train --config baselines/styleswin.py --data DATA
  python -m hiresmed_jax.train --config baselines/styleswin.py:styleswin,best --data DATA
  python -m hiresmed_jax.evaluate --real DATA --out report \\
    --baseline StyleSwin=runs/styleswin/styleswin/samples

The training ends with a sheet of samples (figures/samples.png) and a folder of PNGs. Preset `paper`
(the default) has the published networks for 1,024 x 1,024, `best` those for 256 x 256. For lung CT:
`--config lidc.py:styleswin`.
Cost and result at full size: not measured. `explain --config baselines/styleswin.py` shows FLOPs
and memory.
"""

from hiresmed_jax.routes import settings


def get_config(arg: str = "all"):
  route, preset = settings.route_and_preset(arg, only="styleswin")
  return settings.base("styleswin", route=route, preset=preset)
