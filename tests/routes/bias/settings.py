"""The settings of a route that learns one number: the mean of the images."""

from hiresmed_jax.runtime import rules
from hiresmed_jax.runtime.settings import Departure, Setting, Table

# fmt: off
TABLE = Table("bias", (
  Setting("rate", 0.1, 0.5, rules.share("of the way, at each step"), "fewer steps"),
  Setting("batch_size", 8, 8, rules.BATCH_SIZE, "what the memory holds"),
  Setting("steps", 6, 6, rules.STEPS, "another length"),
))
# fmt: on


def sizes(config):
  return [tuple(config.data.size)]


def check(config):
  del config


def readings(config):
  del config
  yield Departure("the mean", "nothing", "a bias", "the smallest route there can be")
