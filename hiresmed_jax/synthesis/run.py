"""From a config, a workdir and a request to images: opens what they are made of and makes them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

from hiresmed_jax.data import records
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import places, reconstruct, survey, workdir
from hiresmed_jax.lesions import bank as bank_file
from hiresmed_jax.lesions import labels
from hiresmed_jax.lesions.copying import Copies
from hiresmed_jax.lesions.parametric import Lumps
from hiresmed_jax.runtime import compilation, config
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.synthesis import background, fitting, folder
from hiresmed_jax.synthesis.image import Setting, make
from hiresmed_jax.synthesis.request import Request


def assemble(
  asked: Any, request: Request, folder: Path, *, data: Path | None, dtype: Any, workers: int
) -> tuple[Setting, dict[str, Any]]:
  """Opens everything that a request needs.

  Args:
    asked: the config.
    request: checked.
    folder: the workdir.
    data: prepared dataset; None: the one that the workdir was trained on.
    dtype: of the model's convolutions.
    workers: threads.

  Returns:
    (setting, identity: what images already made must agree on).

  Raises:
    UserError: a route that is not trained, data that are not there, donors that are held out.
  """
  values = asked.synthesize
  _check_values(values)
  dataset = workdir.dataset_of(folder, data)
  source = survey.training_only(records.source(dataset, "train"))
  if not len(source):
    raise UserError(f"{dataset.root} has no training images to put lesions into")
  if (request.backgrounds or 0) > len(source):
    raise UserError(
      f"--backgrounds {request.backgrounds}: {dataset.root} has {len(source)} training images"
    )
  maker, step = background.Maker(None, None, values.existing == "label", values.least_contrast), 0
  if request.background == "reconstruction":
    model = workdir.model_of(folder, asked, dataset, dtype=dtype)
    through = reconstruct.through_model(
      model.net, model.params, channels=model.view.channels, options=compilation.options()
    )
    maker, step = maker._replace(view=model.view, through=through), model.step
  found = survey.kept(dataset, folder, workers=workers)
  lesions, made_by = _lesions(request, folder, dataset, found, flip=values.flip)
  prior, places_by = _prior(values.prior, folder, dataset, dtype)
  forbids, forbidden_by = _danger(values.danger, folder, dataset, dtype)
  mask, digest = _user_mask(request)
  identity = {
    "request": request.identity() | {"mask": digest},
    "config": {key: value for key, value in values.to_dict().items() if key != "workers"},
    "data": dataset.card["fingerprint"],
    "background": step,
    "lesions": made_by,
    "places": places_by,
    "forbidden": forbidden_by,
  }
  return Setting(request, values, source, found, maker, lesions, prior, forbids, mask), identity


def token(identity: dict[str, Any]) -> str:
  """What UIDs are derived from: another request, or another seed, gives others."""
  return config.hash_values(identity)


def _lesions(
  request: Request, folder: Path, dataset: records.Dataset, found: survey.Survey, *, flip: bool
) -> tuple[fitting.Source, str]:
  """The source of lesions, and what tells it from another one of its kind."""
  if request.source == "singan":
    run = workdir.trained_on(folder, "lesion", dataset, instead="--lesion-source copy")
    bank = bank_file.load(folder / "lesion" / "bank")
    for member in bank.members:
      survey.training_donor(member.donor_group, found.groups)
    return bank, f"singan, {run['config_hash']}"
  if request.source == "copy":
    return Copies(found.patches, flip_columns=flip), "copy"
  return Lumps.fit(found.patches), "parametric"


def _prior(
  asked: str, folder: Path, dataset: records.Dataset, dtype: Any
) -> tuple[places.Prior, str]:
  """The prior over places, and what tells it from another one.

  "auto" is the one that the location route found best on validation images, and the atlas where
  that route is not trained.
  """
  if asked not in ("auto", *places.NAMES):
    known = ", ".join(map(repr, ("auto", *places.NAMES)))
    raise UserError(f"synthesize.prior={asked!r}: use {known}")
  if asked == "auto" and not (folder / "location" / "DONE.json").is_file():
    asked = "atlas"
  if asked in ("uniform", "atlas"):
    return places.Prior(asked), asked
  model = workdir.location_of(folder, dataset, dtype=dtype)
  used = model.results["prior"]
  name = used["name"] if asked == "auto" else asked
  through = places.through_detector(
    model.net, model.variables, channels=model.view.channels, options=compilation.options()
  )
  return (
    places.Prior(name, model.view, through, used["powers"].get(name, 1.0)),
    f"{name}, {model.step}, {used['powers']}",
  )


def _danger(
  asked: str, folder: Path, dataset: records.Dataset, dtype: Any
) -> tuple[places.Danger | None, str]:
  """What finds forbidden tissue, and what tells it from another one.

  "auto" is the U-Net of the route danger where that is trained and spares real lesions.
  """
  if asked not in ("auto", "on", "off"):
    raise UserError(f"synthesize.danger={asked!r}: use 'auto', 'on' or 'off'")
  there = (folder / "danger" / "DONE.json").is_file()
  if asked == "off" or (asked == "auto" and not there):
    return None, "off"
  model = workdir.danger_of(folder, dataset, dtype=dtype)
  if asked == "auto" and not model.results["use"]:
    print(f"the danger mask is not used: {model.results['why']}")
    return None, "off"
  through = places.through_unet(
    model.net, model.variables, channels=model.view.channels, options=compilation.options()
  )
  return places.Danger(model.view, through), f"danger, {model.step}"


def _check_values(values: Any) -> None:
  if values.labels.box not in labels.BOXES:
    raise UserError(f"synthesize.labels.box={values.labels.box!r}: use {' or '.join(labels.BOXES)}")
  if values.existing not in ("inpaint", "label"):
    raise UserError(f"synthesize.existing={values.existing!r}: use 'inpaint' or 'label'")
  if not 0 <= values.floor <= 1:
    raise UserError(f"synthesize.floor={values.floor}: use 0 to 1")
  if min(values.margin_px, values.min_gap_px, values.workers) < 0:
    raise UserError("synthesize.margin_px, min_gap_px and workers must not be below 0")


def _user_mask(request: Request) -> tuple[np.ndarray | None, list[str] | None]:
  """(bool[H, W], True where lesions are forbidden; [hash, kind])."""
  if request.mask is None:
    return None, None
  path, kind = request.mask
  content = path.read_bytes()
  image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
  if image is None:
    raise UserError(f"--mask {path} is no image")
  set_pixels = np.asarray(image).reshape(*image.shape[:2], -1)[..., :3].max(axis=-1) > 0
  forbidden = set_pixels if kind == "forbidden" else ~set_pixels
  return forbidden, [hashlib.sha256(content).hexdigest(), kind]


def run(
  setting: Setting,
  out: Path,
  *,
  token: str,
  workers: int,
  devices: Sequence[jax.Device] | None = None,
) -> list[str]:
  """Makes the images of a request that are missing in a folder.

  Every image is one thread's from its index to its files. Its background goes through the model on
  one device; which, makes no difference to its bytes. Lesions are small: the host puts them in.

  Args:
    setting: what they are made of.
    out: the folder, claimed.
    token: see `folder.write`.
    workers: threads.
    devices: all of this process by default.

  Returns:
    A line for each image that could not be made.
  """
  targets, host = list(devices or jax.local_devices()), _host()
  wanted = setting.request.indices()
  missing = [index for index in wanted if not folder.is_made(out, index)]
  failures: list[str] = []

  def one(turn_and_index: tuple[int, int]) -> str | None:
    turn, index = turn_and_index
    with jax.default_device(host):
      try:
        made = make(setting, index, targets[turn % len(targets)])
      except UserError as mistake:
        return f"image {index}: {mistake}"
      with setting.clock("write"):
        folder.write(out, made, form=setting.request.format, token=token)
    return None

  done = len(wanted) - len(missing)
  with Progress(len(wanted), "synthesize", done=done, unit="image") as progress:
    for failure in ordered_map(one, enumerate(missing), workers=workers):
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
