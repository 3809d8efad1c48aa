"""The whole config: tables of what all routes share, each route's own table, and what they give.

A config file begins with `base` and changes values. The two presets differ in values only.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from hiresmed_jax import routes
from hiresmed_jax.data import phantom
from hiresmed_jax.data.transforms import FITS
from hiresmed_jax.errors import UserError
from hiresmed_jax.lesions.crops import BOXES
from hiresmed_jax.placement.lung import RULES as HOST_RULES
from hiresmed_jax.runtime import mesh, optim, rules, settings
from hiresmed_jax.runtime.overrides import known_words, leaves
from hiresmed_jax.runtime.settings import Departure, Setting, Table

PRESETS = ("paper", "best")
PRIORS = ("uniform", "atlas", "yolo", "atlas x yolo")  # over places, beside "auto"

_PHANTOM = "a phantom needs no patients"
_AUGMENT = "few images: small changes of pose and gain keep them from being learnt by heart"
_OWN = "this config's own choice"
_SEED = rules.whole(0, 2**32 - 1)
_WORKERS = rules.whole(0, 1024)
_MOST_BYTES = 1 << 36  # of the pixels of a batch: 64 GiB

# Key, value in `paper`, in `best`, what it may be, why another value than the paper's is taken.
# fmt: off
DATA = Table("data", (
  Setting("phantom.kind", "", "", rules.one_of("", *phantom.KINDS), _PHANTOM),  # "": needs --data
  Setting("phantom.num", 0, 0, rules.whole(0, 1_000_000), _PHANTOM),
  Setting("phantom.size", 0, 0, rules.whole(0, 4096, "px"), _PHANTOM),
  Setting("phantom.seed", 0, 0, _SEED, _PHANTOM),
  Setting("phantom.diameter_mm", (), (), rules.span(0.1, 500, "of lesions; (): as usual"),
          _PHANTOM, as_it_was=()),
  Setting("size", (1024, 1024), (1024, 1024), rules.rows_columns(8, 16_384),
          "the images' own resolution: enlarging them adds work and no detail"),
  Setting("fit", "stretch", "pad", rules.one_of(*FITS),
          "stretching changes the shape of a lesion and makes millimetres meaningless"),
  Setting("window", "stored", "stored", rules.interval("stored", "percentile"),
          "the intensities that matter in this modality fill the range"),
  Setting("channels", 3, 1, rules.one_of(1, 3),
          "grey three times over costs memory and adds nothing"),
  Setting("crop", 0, 0, rules.whole(0, 16_384, "px of a side of random crops; 0: whole images"),
          "crops at native resolution fit the memory, and few images become many"),
  Setting("workers", 0, 0, _WORKERS),
  Setting("augment.degrees", 0.0, 5.0, rules.number(0, 180), _AUGMENT),
  Setting("augment.scale", 0.0, 0.05, rules.number(0, 10, "greatest change of size"), _AUGMENT),
  Setting("augment.shift", 0.0, 0.03, rules.share("of the side"), _AUGMENT),
  Setting("augment.gain", 0.0, 0.1, rules.share("greatest change of contrast"), _AUGMENT),
  Setting("augment.offset", 0.0, 0.05, rules.share("of the full range"), _AUGMENT),
  # Situs: left and right of a patient are not exchangeable.
  Setting("augment.flip", False, False, rules.FLIP, _AUGMENT),
))
MESH = Table("mesh", (
  Setting("data", -1, -1, rules.whole(-1, 65_536, "-1: what `fsdp` leaves of the devices")),
  Setting("fsdp", 1, 1, rules.whole(1, 65_536, "devices over which large parameters are split")),
))
# How lesions are put into backgrounds; `synthesize --paper` overrides what the paper says.
SYNTHESIZE = Table("synthesize", (
  # "dataset": padded as the real boxes are.
  Setting("labels.box", "tight", "tight", rules.one_of(*BOXES), _OWN),
  # A background's own lesions are taken out, or labelled where they survived.
  Setting("existing", "inpaint", "inpaint", rules.one_of("inpaint", "label"), _OWN),
  Setting("least_contrast", 0.5, 0.5,
          rules.share("of an own lesion's contrast that must be left for it to be labelled"), _OWN),
  Setting("margin_px", 2.0, 2.0, rules.number(0, 16_384, "between a lesion and forbidden tissue"),
          _OWN),
  Setting("min_gap_px", 6.0, 6.0, rules.number(0, 16_384, "between two lesions"), _OWN),
  Setting("prior", "auto", "auto", rules.one_of("auto", *PRIORS), _OWN, as_it_was="atlas"),
  Setting("danger", "auto", "auto", rules.one_of("auto", "on", "off"), _OWN, as_it_was="off"),
  # What surrounds real lesions, fitted in seconds, multiplies every prior but "uniform".
  Setting("hosts", "on", "on", rules.one_of("on", "off"), _OWN, as_it_was="off"),
  # Where lesions may live in images without a mask of hosts; "": anywhere.
  Setting("host_rule", "", "", rules.one_of("", *HOST_RULES), _OWN, as_it_was=""),
  Setting("floor", 0.05, 0.05, rules.share("of places drawn uniformly from what is likely"), _OWN),
  Setting("flip", False, False, rules.flag("True: a copied lesion may be mirrored"), _OWN),
  Setting("workers", 0, 0, rules.whole(0, 1024, "threads; 0: one a core")),
))
# fmt: on


def base(name: str, *, route: str, preset: str) -> ConfigDict:
  """Everything that a config holds, with the values of one of PRESETS.

  The default workdir is runs/<name>; `route` is "all" or one of `routes.known()`.
  """
  config = settings.values(_run(), preset)
  config.update({"name": name, "route": route})
  for table in tables()[1:]:
    config[table.name] = settings.values(table, preset)
  return config


def values(group: str, preset: str) -> ConfigDict:
  """The values of one group of a config: "data", "mesh", "synthesize" or a route."""
  return settings.values(next(table for table in tables() if table.name == group), preset)


def tables() -> list[Table]:
  """All tables, in the order of a config."""
  own = [_module(route).TABLE for route in routes.known()]
  return [_run(), DATA, MESH, *own, SYNTHESIZE]


def route_and_preset(
  arg: str, presets: Sequence[str] = PRESETS, *, only: str = ""
) -> tuple[str, str]:
  """Reads "ROUTE[,PRESET]" for a config file; the first of its presets is the default.

  A file that is of one route names it as `only`: it is then what "all" stands for.

  Raises:
    UserError: a route or preset that the file does not know.
  """
  route, _, preset = arg.partition(",")
  route, preset = route.strip() or "all", preset.strip() or presets[0]
  known = ("all", *([only] if only else routes.known()))
  if route not in known and arg.strip() in presets:
    raise UserError(f"{route} is a preset, not a route: write ROUTE,{route}, e.g. all,{route}")
  for kind, word, words in (("route", route, known), ("preset", preset, presets)):
    if word not in words:
      raise UserError(f"unknown {kind} {word!r}{known_words(word, words)}")
  return only or route, preset


def wanted(config: Any) -> tuple[str, ...]:
  """The routes that a config asks for, in the order of training; baselines only by name."""
  return tuple(routes.ROUTES) if config.route == "all" else (config.route,)


def check(config: Any, wanted: Iterable[str] = (), *, devices: int = 1) -> None:
  """Refuses what cannot be trained with, before anything is read, drawn or compiled.

  Every value of the config is checked, also those of other routes than `wanted`.

  Raises:
    UserError: one line with the key, its value and what to use.
  """
  settings.check(tables(), config)
  _check_data(config.data)
  for route in wanted:
    mesh.axis_sizes(devices, data=config.mesh.data, fsdp=config.mesh.fsdp)
    own = config[route]
    if "batch_size" in own:
      _check_batch(route, config, devices)
    if "epochs" in own and not own.steps and not own.epochs:
      raise UserError(f"{route}.steps and {route}.epochs: one of them must be above 0")
    if "optimizer" in own:
      _check_optimizer(route, own.optimizer, own.steps)
    _module(route).check(config)


def departures(config: Any, group: str) -> list[Departure]:
  """Where a group leaves the paper: what the paper leaves open first, then changed values."""
  readings = _module(group).readings(config[group]) if group in routes.known() else ()
  table = next(table for table in tables() if table.name == group)
  return [*readings, *settings.departures(table, config[group])]


def stored(values: Mapping[str, Any], where: Any = "it") -> dict[str, Any]:
  """A run's values by group as this version understands them; see `runtime.settings.upgraded`.

  Raises:
    UserError: they have settings that this version does not know, or are no groups of values.
  """
  try:
    upgraded = settings.upgraded(tables(), values)
  except (AttributeError, TypeError) as error:
    raise UserError(f"the config in {where} is damaged, or of another program") from error
  unknown = sorted(dict(leaves(upgraded)).keys() - settings.keyed(tables()).keys())
  if unknown:
    raise UserError(f"{where} was made with a setting that this version lacks: {unknown[0]}")
  return upgraded


def _run() -> Table:
  """What stands at the top of a config."""
  return Table("", (
    Setting("name", "", "", rules.plain_name("a name, for the default workdir")),
    Setting("route", "all", "all", rules.one_of("all", *routes.known())),
    Setting("preset", "paper", "best", rules.one_of(*PRESETS)),
    Setting("seed", 0, 0, _SEED),
  ))  # fmt: skip


def _module(route: str) -> Any:
  return routes.module(route, "settings")


def _check_data(data: Any) -> None:
  made = data.phantom
  if made.kind and (made.num < 1 or made.size < phantom.LEAST_SIDE):
    raise UserError(f"data.phantom: use num >= 1 and size >= {phantom.LEAST_SIDE}")
  if data.crop > min(data.size):
    rows, columns = data.size
    raise UserError(f"crops of {data.crop} px do not fit in a view of {rows} x {columns}")


def _check_batch(route: str, config: Any, devices: int) -> None:
  size = config[route].batch_size
  if size % devices:
    raise UserError(
      f"{route}.batch_size={size} cannot be split over {devices} devices: use a multiple of "
      f"{devices}"
    )
  largest = max(rows * columns for rows, columns in _module(route).sizes(config))
  if 4 * size * largest * config.data.channels > _MOST_BYTES:
    raise UserError(
      f"{route}.batch_size={size}: a batch would have more than {_MOST_BYTES >> 30} GiB of pixels: "
      "use fewer or smaller images"
    )


def _check_optimizer(route: str, values: Any, steps: int) -> None:
  if values.name == "adam" and values.get("weight_decay"):
    raise UserError(
      f"{route}.optimizer.weight_decay={values.weight_decay} belongs to 'adamw': use that as "
      f"{route}.optimizer.name, or no decay"
    )
  if steps and "warmup" in values:
    optim.make_schedule(
      learning_rate=values.learning_rate,
      schedule=values.schedule,
      warmup_steps=round(values.warmup * steps) // values.accumulate,
      total_steps=steps // values.accumulate,
    )
