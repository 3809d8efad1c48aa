"""Values that cannot be trained with are told in a line that names the key and what to use."""

import pytest

from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import presets
from hiresmed_jax.routes.checks import check_background
from hiresmed_jax.runtime.overrides import apply_override
from tests import tiny


def check(*overrides, config=None, sizes=((32, 32), (16, 16))):
  config = config or tiny.get_config("background")
  for override in overrides:
    apply_override(config, override)
  check_background(config.background, sizes=sizes)


def test_what_we_ship_is_sound():
  check()
  for preset in presets.PRESETS:
    config = presets.base("kub", route="background", preset=preset)
    check(config=config, sizes=[tuple(config.data.size)])
  check("background.gan.augment=()")
  check("background.gan.weight=0", "background.gan.scales=9")
  check("background.steps=0", "background.epochs=1")


@pytest.mark.parametrize(
  ("override", "says"),
  [
    ("net.block=hdbf", r"net.block='hdbf': use 'hdfb', 'residual'; did you mean 'hdfb'\?"),
    ("net.activation=elu", "use 'relu', 'gelu'; did you mean"),
    ("net.upsampling=nearest", "use 'transposed', 'resize', 'subpixel'"),
    ("codebook.init=k-means", r"did you mean 'kmeans'\?"),
    ("loss.reconstruction=l2", "use 'l1', 'mse'"),
    ("gan.augment=('color','cutout','hue')", "gan.augment='hue': use 'color'"),
    ("codebook.num_codes=0", "num_codes=0: use 1 or more"),
    ("log_every=0", "log_every=0: use 1 or more"),
    ("batch_size=-8", "batch_size=-8: use 1 or more"),
    ("gan.start=20", "gan.start=20.0 is a share: use 0 to 1"),
    ("ema=-0.1", "ema=-0.1 is a share"),
    ("steps=-3", "steps and background.epochs: one of them must be above 0"),
    ("net.strides=(3,)", "powers of two from 2"),
    ("net.strides=(4,2)", r"one for each of background.net.channels=\(8,\)"),
    ("net.strides=(32,)", "images of 16 x 16 do not divide by .* multiples of 32"),
    ("gan.scales=3", "gan.scales=3 needs images of 32 px or more, not 16"),
    ("gan.scales=0", "at least one of"),
  ],
)
def test_a_wrong_value_is_told(override, says):
  with pytest.raises(UserError, match=says) as told:
    check(f"background.{override}")
  assert "\n" not in str(told.value)


def test_every_image_must_divide():
  with pytest.raises(UserError, match="images of 30 x 32 do not divide"):
    check(sizes=[(16, 16), (30, 32)])
