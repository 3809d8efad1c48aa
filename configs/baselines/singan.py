"""The paper's comparison system SinGAN (Shaham et al. 2019), on a whole radiograph.

  python -m hiresmed_jax.train --config baselines/singan.py --data DATA
  python -m hiresmed_jax.evaluate --real DATA --out report \\
    --baseline SinGAN=runs/singan/singan/samples

A SinGAN is trained on one image, in ten levels up to 250 x 250 px, and makes images like that one;
they are enlarged to 1,024 x 1,024. The training ends with a sheet of samples (figures/samples.png)
and a folder of PNGs. For lung CT: `--config lidc.py:singan`.
Cost and result at full size: not measured. `explain --config baselines/singan.py` shows the levels.
"""

from hiresmed_jax.routes import settings


def get_config(arg: str = "all"):
  route, preset = settings.route_and_preset(arg, only="singan")
  return settings.base("singan", route=route, preset=preset)
