"""From a run and a request to images: opens what they are made of, and makes those that lack."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hiresmed_jax.data import records, transforms
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.data.readers import images
from hiresmed_jax.data.sample import Unreadable
from hiresmed_jax.errors import UserError, counted
from hiresmed_jax.inference import host_prior, other_images, places, survey, workdir
from hiresmed_jax.lesions import bank as banks
from hiresmed_jax.lesions.copying import Copies
from hiresmed_jax.lesions.parametric import Lumps
from hiresmed_jax.runtime import config
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.synthesis import background, export, fitting, folder, image, shams
from hiresmed_jax.synthesis.image import Setting
from hiresmed_jax.synthesis.mapped import Kept
from hiresmed_jax.synthesis.request import Request

_KEPT_BYTES = 1 << 30  # of backgrounds: 420 of 391 x 320 pixels, 50 of 1,024 x 1,024


def assemble(
  values: Any,
  request: Request,
  run: Path,
  data: records.Dataset | other_images.Backgrounds,
  *,
  dtype: Any = None,
  workers: int = 1,
  kept_bytes: int = _KEPT_BYTES,
  begun: Mapping[str, Any] | None = None,
  say: Callable[[str], Any] = print,
) -> tuple[Setting, dict[str, Any]]:
  """Opens everything that a request needs.

  Args:
    values: the group `synthesize` of a config, checked.
    request: checked.
    run: the workdir.
    data: the dataset that it was trained on, or images of another one as backgrounds.
    dtype: of the networks' convolutions; None: as the run's config says.
    workers: threads.
    kept_bytes: of backgrounds that are kept in memory.
    begun: identity of images that were made before: where the config leaves the choice of prior and
      forbidden tissue to what is trained, theirs are used again.
    say: gets a line about what is left out, and what can be asked for.

  Returns:
    (setting, identity: what images already made must agree on).

  Raises:
    UserError: a route that is not trained, no training images, donors that are held out.
  """
  origin: dict[str, Any] = {}
  if isinstance(data, records.Dataset):
    fingerprint, source = data.card["fingerprint"], _labelled(data)
    found = survey.load_or_make(data, run, workers=workers)
  else:
    fingerprint, source = workdir.fingerprint_of(run), data.source
    found = survey.load(run, fingerprint)
    origin = {"dataset": data.contents.fingerprint, "run": fingerprint}
  if (request.backgrounds or 0) > len(source):
    raise UserError(
      f"--backgrounds {request.backgrounds}: there are {len(source)} images to put lesions into"
    )
  model = None
  if request.background == "reconstruction":
    model = workdir.background_of(run, fingerprint, dtype=dtype, batch=request.batch)
  maker = background.Maker(model, values.existing == "label", values.least_contrast)
  lesions, lesions_label = _lesions(
    request.source, run, fingerprint, found, flip=values.flip, say=say
  )
  substitute = None
  if request.on_empty != "fail":
    substitute, _ = _lesions(request.on_empty, run, fingerprint, found, flip=values.flip, say=say)
  if request.diameter and lesions.native_px.size:
    sides = _sides(request, source, model)
    say(fitting.require_diameter(request.diameter, lesions.native_px, sides))
  asked_prior, asked_danger = _chosen(values, begun or {}, fingerprint, run, say)
  fitted, rule = None, values.host_rule
  if values.hosts == "on" and values.prior != "uniform" and not request.paper:
    if isinstance(data, records.Dataset):
      fitted = host_prior.load_or_make(data, run, found.atlas, host_rule=rule, workers=workers)
    else:
      fitted = host_prior.load(run, fingerprint, host_rule=rule) or host_prior.NOT_FITTED
  prior, prior_label = places.open_prior(
    asked_prior, run, fingerprint, fitted=fitted, host_rule=rule, dtype=dtype
  )
  weak = "" if request.paper else places.why_weak(prior, fitted)
  if weak:
    say(f"warning: {weak}")
  danger, danger_label = places.open_danger(asked_danger, run, fingerprint, dtype=dtype, say=say)
  mask, digest = _user_mask(request)
  fitting.require_one_scale(
    {patch.physics for patch in found.patches},
    source.display_ranges() | {patch.value_range for patch in found.patches},
  )
  look = export.look_of(request, source)
  if few := export.few_levels(request.depth, data.card["bits"]):
    say(few)
  classes, joined = export.classes_of(data.card)
  if joined:
    say(joined)
  identity = {
    "request": request.identity() | {"mask": digest},
    "config": _counted(values),
    "data": fingerprint,
    "background": model.step if model else 0,
    "lesions": lesions_label,
    "places": prior_label,
    "forbidden": danger_label,
    "window": look.window,
    "classes": [classes.numbers, classes.lesion],
  }
  if isinstance(data, other_images.Backgrounds):
    identity["onto"] = [data.contents.fingerprint, data.lesion_free]
  setting = Setting(
    request, values, source, found, maker, lesions, prior, danger, mask,
    shams.faintest(found.patches), substitute=substitute, look=look, classes=classes,
    kept=Kept(kept_bytes), origin=origin, weak_places=weak,
  )  # fmt: skip
  return setting, identity


def _labelled(dataset: records.Dataset) -> records.Records:
  """The training images that somebody has labelled."""
  source = records.source(dataset, "train").labelled()
  if not len(source):
    raise UserError(
      f"{dataset.root} has no training images to put lesions into that somebody has labelled: an "
      "image without a label file may show lesions; an empty file says that it shows none"
    )
  return source


def _chosen(
  values: Any, begun: Mapping[str, Any], fingerprint: str, run: Path, say: Callable[[str], Any]
) -> tuple[str, str]:
  """(prior, danger) to open: those of the images that are there, where the config says "auto"."""
  prior, danger = values.prior, values.danger
  if begun.get("data") != fingerprint:
    return prior, danger
  older = []
  if prior == "auto" and (label := str(begun.get("places", ""))):
    prior = places.asked_again(label)
    older += ["location"] if prior != "auto" else []
  if danger == "auto" and (label := str(begun.get("forbidden", ""))):
    danger = "off" if label == "off" else "on"
    older += ["danger"] if label == "off" else []
  if later := [route for route in older if (run / route / "DONE.json").is_file()]:
    say(
      f"the images that are there were made without the route {' and '.join(later)}, and so are "
      "these: another --out, or --overwrite, may use it"
    )
  return prior, danger


def _sides(request: Request, source: records.Records, model: workdir.Model | None) -> np.ndarray:
  """f64[M], the side of a pixel of each record, in mm or in pixels of the output."""
  if request.diameter is not None and request.diameter.unit == "mm":
    return np.array([np.sqrt(np.prod(spacing.astype(float))) for _, spacing, _ in source.facts()])
  if model is None:
    return np.ones(1)
  view, shapes = model.view, {shape for shape, _, _ in source.facts()}
  scales = [transforms.place(shape, view.shape, view.fit).scale for shape in sorted(shapes)]
  return np.array([np.sqrt(scale.prod()) for scale in scales])


def _counted(values: Any) -> dict[str, Any]:
  """The values of a config that count; folders of older versions do not hold those added later."""
  without = {"workers": values.workers, "hosts": "off", "host_rule": ""}
  return {
    key: value
    for key, value in values.to_dict().items()
    if key not in without or value != without[key]
  }


def token(identity: dict[str, Any]) -> str:
  """What UIDs are derived from: another request, or another seed, gives others."""
  return config.hash_values(identity)


def _lesions(
  kind: str,
  run: Path,
  fingerprint: str,
  found: survey.Survey,
  *,
  flip: bool,
  say: Callable[[str], Any],
) -> tuple[fitting.Source, str]:
  """(a source of lesions, one of `request.SOURCES`; text that differs for another one)."""
  if kind == "singan":
    route = workdir.finished(run, "lesion", fingerprint, instead="--lesion-source copy")
    with jax.default_device(_host()):  # where lesions are drawn
      bank = banks.load(route.folder / "bank")
    for member in bank.members:
      survey.require_training_donor(member.donor_group, found.groups)
    return bank, f"singan, {route.config_hash}"
  # A lesion that its mask shows in part would bring the rest along without a label.
  shown = [p for p in found.patches if banks.seen_overlap(p.values.mean(-1), p.mask) >= banks.FITS]
  # Where most masks show a part only, people drew them by another rule.
  patches = shown if 2 * len(shown) >= len(found.patches) else found.patches
  if passed_over := len(found.patches) - len(patches):
    say(f"{counted(passed_over, 'training lesion')} passed over: the mask shows only a part")
  if kind == "copy":
    return Copies(patches, flip_columns=flip), "copy"
  return Lumps.fit(patches), "parametric"


def _user_mask(request: Request) -> tuple[np.ndarray | None, list[str] | None]:
  """(bool[H, W], True where lesions are forbidden; [hash of the file, kind])."""
  if request.mask is None:
    return None, None
  path, kind = request.mask
  try:
    marked = images.plain(path).max(axis=-1) > 0
  except Unreadable as error:
    raise UserError(f"--mask {path} {error}") from error
  forbidden = marked if kind == "forbidden" else ~marked
  return forbidden, [hashlib.sha256(path.read_bytes()).hexdigest(), kind]


def make(setting: Setting, index: int, device: jax.Device) -> image.Made:
  """Image `index`: networks run on `device`, all else on the host, where lesions are soon inserted.

  Raises:
    UserError: see `image.make`.
  """
  with jax.default_device(_host()):
    return image.make(setting, index, device)


def write_missing(
  setting: Setting,
  out: Path,
  *,
  token: str,
  workers: int,
  devices: Sequence[jax.Device] | None = None,
) -> list[str]:
  """Makes the images of a request that are missing in a folder.

  A thread makes an image from its index to its files. On which device its background goes through
  the model makes no difference to its bytes.

  Args:
    setting: what they are made of.
    out: the folder, claimed.
    token: see `folder.write`.
    workers: threads; more where batches need them.
    devices: all of this process by default.

  Returns:
    A line for each image that could not be made.
  """
  devices = list(devices or jax.local_devices())
  if setting.request.batch > 1:  # a batch is of as many threads
    workers = max(workers, 2 * setting.request.batch * len(devices))
  wanted = setting.request.indices()
  missing = [index for index in wanted if not folder.is_made(out, index)]
  failures: list[str] = []

  def write(turn_and_index: tuple[int, int]) -> str | None:
    turn, index = turn_and_index
    try:
      made = make(setting, index, devices[turn % len(devices)])
      with setting.clock("write"):
        folder.write(out, made, setting, token=token)
    except UserError as mistake:
      return f"image {index}: {mistake}"
    return None

  done = len(wanted) - len(missing)
  with Progress(len(wanted), "synthesize", done=done, unit="image") as progress:
    for failure in ordered_map(write, enumerate(missing), workers=workers):
      if failure is not None:
        failures.append(failure)
        progress.print(failure)
      progress.advance()
  return failures


def _host() -> jax.Device:
  """The first CPU; where only an accelerator was asked for, that."""
  try:
    return jax.local_devices(backend="cpu")[0]
  except RuntimeError:
    return jax.local_devices()[0]
