"""The paper's comparison system DDM: DDPM (Ho et al. 2020), radiographs at 128 x 128, enlarged.

  python -m hiresmed_jax.train --config baselines/ddm.py --data DATA
  python -m hiresmed_jax.train --config baselines/ddm.py:ddm,best --data DATA
  python -m hiresmed_jax.evaluate --real DATA --baseline DDM=runs/ddm/ddm/samples --out report

The training ends with a sheet of samples (figures/samples.png) and a folder of PNGs. Preset `paper`
(the default) sees 128 x 128 pixels; its samples are enlarged to 1,024 x 1,024, as in the paper.
`best` sees 256 x 256. For lung CT: `--config lidc.py:ddm`.
Cost and result at full size: not measured. `explain --config baselines/ddm.py` shows FLOPs and
memory.
"""

from hiresmed_jax.routes import settings


def get_config(arg: str = "all"):
  route, preset = settings.route_and_preset(arg, only="ddm")
  return settings.base("ddm", route=route, preset=preset)
