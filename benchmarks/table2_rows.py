"""The rows of the table2 benchmark: their configs, and what its budget changes in them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from configs import stones_ct
from configs.baselines import vqgan
from hiresmed_jax import routes
from hiresmed_jax.routes import settings, singan_task

PHANTOMS, SIDE = 200, 64


class Row(NamedTuple):
  """One method.

  Attributes:
    name: in the table.
    route: that trains it.
    paired: whether it reconstructs real images; else it makes new ones.
    reduce: makes its networks small, and fit for few images of SIDE px.
  """

  name: str
  route: str
  paired: bool
  reduce: Callable[[Any], None]

  def config(self, scale: str) -> Any:
    """The row's config: "reduced" or "full"."""
    small = scale == "reduced"
    config = settings.base("table2", route=self.route, preset="best" if small else "paper")
    if small:
      config.data.phantom.update({"kind": "kub", "num": PHANTOMS, "size": SIDE, "seed": 0})
      config.data.update({"size": (SIDE, SIDE), "fit": "stretch", "crop": 0, "channels": 1})
      self.reduce(config)
      config[self.route].dtype = "float32"
    elif self.name == "VQGAN":
      vqgan.published(config.background)
    return config

  def parameters(self, config: Any) -> int:
    """Of what makes the images."""
    explain = routes.module(self.route, "explain").explain
    found = explain(config, devices=1, on_this_machine=lambda *_: {})["parameters"]
    if isinstance(found, dict):
      return int(found["generator"] + found.get("codebook", 0))
    return int(found)

  def levels(self, config: Any) -> int:
    """Networks that are trained one after the other."""
    if self.route != "singan":
      return 1
    return len(singan_task.pyramid_of(config.singan, config.singan.size).sizes)

  def batch_size(self, config: Any) -> int:
    """Images of a step."""
    return int(config.singan.images if self.route == "singan" else config[self.route].batch_size)

  def set_steps(self, config: Any, steps: int, log_every: int) -> None:
    """The length, of each level; the weights are looked at once, at the end."""
    values = config[self.route]
    every = "save_every" if self.route == "singan" else "eval_every"
    values.update({"steps": steps, "log_every": log_every, every: steps})

  def set_samples(self, config: Any, count: int) -> None:
    """How many images it makes, where it makes any."""
    values = config[self.route]
    if self.route == "ddm":
      values.sampling.images = count
    elif not self.paired:
      values.samples = count


def _ours(config: Any) -> None:
  stones_ct.small_ct(config.background)
  config.background.perceptual.net = None  # as of VQGAN: no weights are needed


def _vqgan(config: Any) -> None:
  background = config.background = settings.values("background", "paper")
  vqgan.published(background)
  # The widths and the rate, of three, with which the convergence benchmark found it best.
  background.net.update({"channels": (16, 32, 64), "strides": (1, 2, 2), "code_dim": 32})
  background.net.update({"stem_channels": 16, "full_resolution_channels": 16, "remat": False})
  background.loss.update({"commitment": 1 / 32, "codebook": 0.25 / 32})
  background.gan.update({"features": (8, 16, 32), "start": 0.5})
  background.optimizer.learning_rate = 2.25e-3
  background.perceptual.net = None
  background.batch_size = 8


def _ddm(config: Any) -> None:
  config.ddm.update({"size": (SIDE, SIDE), "batch_size": 8, "ema": 0.995})
  config.ddm.net.update({"width": 32, "multipliers": (1, 2, 2, 4), "blocks": 1, "attention": (16,)})
  config.ddm.optimizer.learning_rate = 5e-4
  config.ddm.sampling.update({"method": "ddim", "steps": 10})


def _styleswin(config: Any) -> None:
  config.styleswin.update({"size": SIDE, "batch_size": 8, "ema": 0.99})
  config.styleswin.net.update({"style": 64, "mapping": 4, "widest": 64, "multiplier": 1})
  config.styleswin.net.critic_multiplier = 1
  config.styleswin.gen_optimizer.learning_rate = 2e-4


def _singan(config: Any) -> None:
  config.singan.size = SIDE


ROWS = (
  Row("ours", "background", True, _ours),
  Row("VQGAN", "background", True, _vqgan),
  Row("DDM", "ddm", False, _ddm),
  Row("StyleSwin", "styleswin", False, _styleswin),
  Row("SinGAN", "singan", False, _singan),
)
