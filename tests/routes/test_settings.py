"""The tables of settings: what we ship is sound, what is wrong is refused in one line."""

import math

import pytest

from hiresmed_jax import routes
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import explain, settings
from hiresmed_jax.runtime.config import load_config
from hiresmed_jax.runtime.overrides import apply_override, leaves
from hiresmed_jax.runtime.rules import whole
from hiresmed_jax.runtime.settings import Setting, keyed
from tests import tiny

BASELINES = ("baselines/ddm", "baselines/styleswin", "baselines/singan")
CONFIGS = ("demo", "kub", "lidc", "nodules_ct", "stones_ct", "baselines/vqgan", *BASELINES)
BOTH_PRESETS = ("kub", "lidc", *BASELINES)
WILD = (
  *(-1, 0, 1, 2, 3, 7, 10**6, 10**30, -(10**30), -0.5, 0.5, 1.0, 1e-30, 1e30),
  *(math.nan, math.inf, -math.inf, True, False, None, "", "no such word", "auto", "(1, 2)"),
  *((), (0,), (-1, -1), (7, 7), (10**9, 10**9), (0.5,), (math.nan, 1.0), ("color", "hue")),
  *((64, 64, 64), (None,), ((1, 2), (3, 4)), (1.0, -1.0), ("stored", 1)),
)


def config(*overrides, route="all"):
  made = tiny.get_config(route)
  for override in overrides:
    apply_override(made, override)
  return made


def check(*overrides, devices=1, made=None):
  made = made or config(*overrides)
  settings.check(made, settings.wanted(made), devices=devices)


def test_what_we_ship_is_sound():
  check()
  for name in CONFIGS:
    for preset in ("", *(f",{preset}" for preset in settings.PRESETS if name in BOTH_PRESETS)):
      check(made=load_config(f"{name}.py:all{preset}"))
  check("background.gan.weight=0", "background.gan.scales=9", "background.gan.augment=()")
  check("background.steps=0", "background.epochs=1")
  check("data.window=(-1000,400)")


@pytest.mark.parametrize(
  ("override", "line"),
  [
    ("route=backgruond", "route='backgruond': use .*did you mean 'background'"),
    ("seed=-1", "seed=-1: use a whole number from 0"),
    ("data.size=512", r"data.size=\(512,\): use \(rows, columns\)"),
    ("data.size=(1000000,1000000)", "data.size=.*to 16,384 px"),
    ("data.fit=strech", "did you mean 'stretch'"),
    ("data.window=(5,5)", "with low below high"),
    ("data.channels=2", "data.channels=2: use 1 or 3"),
    ("data.workers=-1", "data.workers=-1: use"),
    ("data.crop=64", "crops of 64 px do not fit in a view of 32 x 32"),
    ("name=../kub", r"name='../kub': use a name, .*without slashes"),
    ("name=..", "without slashes"),
    ("data.phantom.kind=knee", "data.phantom.kind='knee': use"),
    ("data.phantom.num=0", "use num >= 1 and size >= 32"),
    (
      "data.phantom.diameter_mm=(9.0,4.0)",
      r"diameter_mm=\(9.0, 4.0\): use \(\) or",
    ),
    ("data.augment.shift=1.5", "data.augment.shift=1.5: use a number from 0 to 1"),
    ("mesh.fsdp=3", "does not divide the 1 device"),
    ("background.net.block=hdbf", r"net.block='hdbf': use 'hdfb' or 'residual'; did you mean"),
    ("background.net.strides=(3,)", "powers of two from 2"),
    ("background.net.strides=(4,2)", r"one for each of background.net.channels=\(8,\)"),
    ("background.net.strides=(32,)", "images of 16 x 16 do not divide by .* multiples of 32"),
    ("background.perceptual.net=vgg", "did you mean 'vgg16'"),
    ("background.gan.augment=colour", r"augment=\('colour',\): use any of .*did you mean 'color'"),
    ("background.gan.scales=3", "gan.scales=3 needs images of 32 px or more, not 16"),
    (
      "background.gan.start=20",
      "gan.start=20.0: use a number from 0 to 1",
    ),
    ("background.optimizer.learning_rate=-0.1", "learning_rate=-0.1: use a number from 0"),
    ("background.optimizer.learning_rate=inf", "learning_rate=inf: use a number from 0"),
    ("background.optimizer.name=adam", "belongs to 'adamw'"),
    ("background.optimizer.warmup=1.0", "a cosine schedule needs more steps"),
    ("background.ema=1.0", "background.ema=1.0: use a number from 0 to less than 1"),
    ("background.batch_size=0", "background.batch_size=0: use a whole number from 1"),
    ("background.batch_size=None", "background.batch_size=None: use"),
    ("background.steps=0", "steps and background.epochs: one of them must be above 0"),
    ("lesion.sides=(33,)", r"lesion.sides=\(33,\): use one or more of 32, 48"),
    ("lesion.min_size=3.0", "lesion.min_size=3.0: use a number from 12"),
    ("lesion.conv=fast", "lesion.conv='fast': use 'auto'"),
    ("location.size=100", "location.size=100: use a multiple of 32"),
    ("location.net=x", "location.net='x': use 'p', 'n', 's' or 'm'"),
    ("location.weights=nowhere.npz", "location.weights=nowhere.npz is not there"),
    ("location.augment.scale=1.0", "use a number from 0 to less than 1"),
    ("danger.size=(32,40)", r"danger.size=\(32, 40\): use \(rows, columns\), multiples of 16"),
    ("danger.crop=48", "danger.crop=48 does not fit"),
    ("danger.rule=abdomn", "did you mean 'abdomen'"),
    ("danger.loss.dice=-1", "danger.loss.dice=-1.0: use a number from 0"),
    ("ddm.size=(16,18)", r"ddm.size=\(16, 18\): use multiples of 4, for ddm.patch=2 and 2 l"),
    ("ddm.sampling.steps=7", "sampling.steps=7 of ddm.diffusion.levels=6: use as many steps"),
    ("ddm.sampling.method=dimm", "did you mean 'ddim'"),
    ("styleswin.size=100", "styleswin.size=100: use 16, 32, 64"),
    ("synthesize.prior=atlass", "did you mean 'atlas'"),
    ("synthesize.workers=-1", "synthesize.workers=-1: use"),
  ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(override, line):
  more = {
    "background.optimizer.warmup=1.0": ["background.optimizer.schedule=cosine"],
    "background.steps=0": ["background.epochs=0"],
    "ddm.size=(16,18)": ["route=ddm"],
    "ddm.sampling.steps=7": ["route=ddm"],
  }
  with pytest.raises(UserError, match=line) as refused:
    check(*more.get(override, ()), override)
  assert "\n" not in str(refused.value)


def test_what_does_not_go_together():
  with pytest.raises(UserError, match="batch_size=12 cannot be split over 8 devices: use a multi"):
    check("location.batch_size=12", devices=8)
  with pytest.raises(UserError, match="use a weight above 0 for cross_entropy or dice"):
    check("danger.loss.dice=0", "danger.loss.cross_entropy=0")
  with pytest.raises(UserError, match="more than 64 GiB of pixels"):
    check("danger.batch_size=65536", "danger.size=(8192,8192)", devices=8)
  # Of a route that is not wanted, values are checked, and not what the images have to fit.
  settings.check(config("background.gan.scales=9"), ["location"])
  with pytest.raises(UserError, match=r"lesion\.width=0"):
    settings.check(config("lesion.width=0"), ["background"])


def test_any_value_passes_or_is_refused_in_a_line_and_nothing_else():
  for key in keyed(settings.tables()):
    made = config()
    *path, last = key.split(".")
    group = made
    for name in path:
      group = group[name]
    refused = []
    for value in WILD:
      del group[last]  # a ConfigDict would turn the next value into the type of this one
      group[last] = value
      try:
        check(made=made)
      except UserError as line:
        refused.append(str(line))
    assert refused, key
    assert [line for line in refused if "\n" in line or len(line) > 300] == []


def test_everything_that_the_presets_differ_in_has_its_reason():
  rows = keyed(settings.tables())
  differing = [key for key, row in rows.items() if row.paper != row.best and key != "preset"]
  assert len(differing) > 20
  assert [key for key in differing if not rows[key].why] == []
  assert [key for key, row in rows.items() if len(row.why) > 100 or "\n" in row.why] == []


def found(*overrides, preset="paper"):
  made = settings.base("toy", route="all", preset=preset)
  for override in overrides:
    apply_override(made, override)
  groups = [table.name for table in settings.tables() if table.name]
  return {row.what: row for group in groups for row in settings.departures(made, group)}


def test_the_paper_preset_departs_only_where_the_paper_is_unclear():
  assert found()
  assert not found().keys() & keyed(settings.tables()).keys()


def test_a_changed_value_is_listed_with_both_values():
  listed = found("background.gan.weight=0.5", "seed=3", "background.log_every=1")
  assert listed["background.gan.weight"][1:3] == ("0.1", "0.5")
  assert "seed" not in listed
  assert "background.log_every" not in listed


@pytest.mark.parametrize(
  ("override", "what"),
  [
    ("background.net.block=residual", "HDFB"),
    ("background.net.drop_path_rate=0", "DropPath"),
    ("background.net.kernel_init_std=0.02", "initial kernels"),
    ("background.net.upsampling=resize", "initial upsampling kernels"),
    ("background.gan.weight=0", "start of the adversarial loss"),
    ("location.lesion_free=0", "what the detector is trained on"),
  ],
)
def test_a_reading_that_does_not_apply_is_not_listed(override, what):
  assert what in found()
  assert what not in found(override)


@pytest.mark.parametrize("route", routes.known())
def test_a_new_row_is_in_the_preset_the_check_the_departures_and_the_upgrade(route, monkeypatch):
  module = routes.module(route, "settings")
  row = Setting("net2.depth", 2, 3, whole(1, 9), "deeper sees farther", as_it_was=1)
  monkeypatch.setattr(module, "TABLE", module.TABLE._replace(rows=(*module.TABLE.rows, row)))
  key = f"{route}.net2.depth"
  assert dict(leaves(settings.base("toy", route="all", preset="best")))[key] == 3
  assert found(f"{key}=5")[key] == (key, "2", "5", "deeper sees farther")
  check(f"{key}=9")
  with pytest.raises(UserError, match=rf"{key}=10: use a whole number from 1 to 9"):
    check(f"{key}=10")
  assert {"key": key, "value": 3, "use": row.valid.use, "why": row.why} in explain.every_setting(
    config()
  )
  assert settings.stored({route: {"max_skipped": 4}})[route]["net2"] == {"depth": 1}


def test_a_run_of_another_version_with_what_this_one_lacks_is_not_used():
  with pytest.raises(UserError, match=r"runs/a was made with a setting that .* lacks: danger\.foo"):
    settings.stored({"danger": {"foo": 1}}, "runs/a")


@pytest.mark.parametrize(
  ("arg", "expected"),
  [
    ("background", ("background", "paper")),
    ("danger,best", ("danger", "best")),
    (",best", ("all", "best")),
    ("", ("all", "paper")),
  ],
)
def test_route_and_preset(arg, expected):
  assert settings.route_and_preset(arg) == expected


@pytest.mark.parametrize(
  ("arg", "line"),
  [
    ("backgruond", "unknown route 'backgruond'; did you mean background?"),
    ("zz", "there are all, background, lesion, location, danger, ddm, styleswin, singan"),
    ("best", "write ROUTE,best"),
    ("all,bst", "unknown preset 'bst'; did you mean best?"),
  ],
)
def test_a_wrong_route_or_preset(arg, line):
  with pytest.raises(UserError) as refused:
    settings.route_and_preset(arg)
  assert line in str(refused.value)


@pytest.mark.parametrize(
  ("route", "override", "meant"),
  [
    ("background", "optimizer.lr=1", "config.background.optimizer.learning_rate?"),
    ("lesion", "lr=1", "config.lesion.learning_rate?"),
    ("background", "bs=1", "config.background.batch_size?"),
    ("location", "batch=1", "config.location.batch_size?"),
    ("danger", "wd=1", "config.danger.optimizer.weight_decay?"),
    ("danger", "background.lr=1", "config.background.optimizer.learning_rate?"),
    ("location", "epoch=1", "config.location.epochs?"),
    ("location", "location.bare=0", "config.location.lesion_free?"),
    ("background", "background.gan.wieght=1", "config.background.gan.weight?"),
    ("background", "num_workers=1", "config.data.workers or config.synthesize.workers?"),
  ],
)
def test_another_common_name_suggests_the_right_key(route, override, meant):
  with pytest.raises(UserError) as refused:
    config(override, route=route)
  assert str(refused.value).endswith(f"did you mean {meant}")
