"""The settings of a SinGAN, of a lesion or of a whole image."""

from hiresmed_jax.runtime import rules
from hiresmed_jax.runtime.settings import Setting

BALANCE = "another balance of SinGAN's training"
_BALANCE, _WIDTH = BALANCE, "the width that this budget allows"

# As in the tables of the routes.
# fmt: off
ROWS = (
  Setting("factor", 0.75, 0.75, rules.number(0.5, 0.95, "of neighbouring levels, about"), BALANCE,
          as_it_was=0.75),
  Setting("width", 32, 32,
          rules.whole(1, 4096, "channels of the first four levels, doubled after every fourth"),
          _WIDTH),
  Setting("max_width", 128, 128, rules.whole(1, 4096, "channels"), _WIDTH),
  Setting("critic_steps", 3, 3, rules.whole(1, 1000), _BALANCE),
  Setting("generator_steps", 3, 3, rules.whole(1, 1000), _BALANCE),
  Setting("learning_rate", 5e-4, 5e-4, rules.LEARNING_RATE, _BALANCE),
  Setting("b1", 0.5, 0.5, rules.MOMENTUM, _BALANCE),
  Setting("b2", 0.999, 0.999, rules.MOMENTUM, _BALANCE),
  Setting("decay_at", 0.8, 0.8, rules.share("of a level's steps after which the rate falls"),
          _BALANCE),
  Setting("decay", 0.1, 0.1, rules.share("of the rate that is left then"), _BALANCE),
  Setting("alpha", 10.0, 10.0, rules.number(0, 1_000_000, "weight of the reconstruction"),
          _BALANCE),
  Setting("penalty", 0.1, 0.1, rules.number(0, 1_000_000, "weight of the critic's gradient"),
          _BALANCE),
  Setting("conv", "auto", "auto", rules.one_of("auto", "patches", "vendor")),
)
# fmt: on
