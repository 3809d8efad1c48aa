"""`python -m hiresmed_jax.train`: real images in, a trained route out."""

import pathlib
import sys

from hiresmed_jax import routes
from hiresmed_jax.convert.arrays import cache_folder
from hiresmed_jax.errors import Stopped, UserError
from hiresmed_jax.routes import run, settings
from hiresmed_jax.runtime import cli, compilation, config, interrupt, mesh
from hiresmed_jax.runtime.progress import Progress

_EXAMPLE = """\
  python -m hiresmed_jax.train --config demo.py
  python -m hiresmed_jax.prepare --kind images --source photos --out data/mine
  python -m hiresmed_jax.train --config kub.py:background,best --data data/mine --config.seed=1"""

_WORDS = f"""\
CONFIG:ROUTE,PRESET trains one route of a config, with the values of a preset:
  routes    all ({", ".join(routes.ROUTES)}), or one of these, or
            one of what the paper compares with: {", ".join(routes.BASELINES)}
  presets   {", ".join(settings.PRESETS)} (some configs have only one; CONFIG alone takes its first)

words of the log (`metrics.jsonl` in a route's folder has every number):
  steps, step/s, left   updates of the weights, how many a second, time left for this route
  compiling             the program is made for this machine: minutes at first, later kept
  making the first state  weights are drawn, and codes begin at what training images give
  evaluating            validation images, figures and a checkpoint
  measuring             the best weights on held-out images, after the last step
  background            rec: error of the reconstruction; lpips: of its perceptual features;
                        gan: weight of the adversarial loss now; codes: share of codes in use
  lesion                rec: error of the reconstruction, mean over the lesions; the test of
                        shape: whether a sample shows a lesion where its mask is
  location              box, class: losses of the detector; nats: logarithm of how many times
                        as likely real places are as if all places were alike
  danger                cross_entropy, dice_loss: losses of the segmentation; HD95: 95 of 100
                        points of the two outlines are nearer to the other one than that
  ddm                   noise: error of the estimated noise, which has variance 1
  styleswin             gen, disc: losses of the generator and of the discriminator
  singan                rec: error of the reconstruction of the training image
  val_l1, val_map50_95, val_dice
                        score of the validation images, by which the weights are chosen"""


def main(argv: list[str]) -> int:
  """Trains the routes that the config names, in order; 0 when all of them are trained."""
  parser = cli.Parser(
    "train",
    "Trains the routes of a config. The same command again goes on where it stopped.",
    notes=_WORDS,
    example=_EXAMPLE,
    overrides=True,
  )
  add = parser.add_argument
  add("--config", required=True, metavar=cli.CONFIG, help="a path, or a name in configs/")
  add("--data", type=pathlib.Path, help="dataset folder that `prepare` wrote")
  add("--workdir", type=pathlib.Path, help="where the run lives (runs/<config name>)")
  add("--overwrite", action="store_true", help="remove an earlier run of these routes first")
  options, overrides = parser.parse(argv)
  values = config.load_config(options.config, overrides)
  if values.data.phantom.kind and options.data:
    raise UserError(f"{values.name} makes its own phantom: leave out --data")
  workdir = options.workdir or pathlib.Path("runs") / values.name
  compilation.keep_programs(cache_folder())
  try:
    with interrupt.stops_at_once(), interrupt.leave_together(unless=(Stopped,)):
      mesh.initialize_distributed()
      with Progress(None, "train", unit=""):
        run.train(values, data=options.data, workdir=workdir, overwrite=options.overwrite)
  except Stopped as stopped:
    if not stopped.agreed:
      raise
    # All processes come to the same end, and wait for each other.
    print(stopped, file=sys.stderr, flush=True)
    return stopped.code
  return 0


if __name__ == "__main__":
  cli.run(main)
