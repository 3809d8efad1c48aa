"""One labelled image, from its index alone.

H, W rows and columns, C channels. Order: background, lesions, places, insertion, twin, labels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from hiresmed_jax.data.records import Records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas, places
from hiresmed_jax.inference import survey as surveys
from hiresmed_jax.inference.survey import Survey
from hiresmed_jax.lesions import labels
from hiresmed_jax.ops import insertion
from hiresmed_jax.placement import body, candidates, paper
from hiresmed_jax.synthesis import fitting, insert
from hiresmed_jax.synthesis.background import Background, Maker
from hiresmed_jax.synthesis.request import Request

_BACKGROUNDS = 50  # tried until one has kept its own lesions
_PAPER_POINTS = 50  # peaks of the detector's scores that Eq. 14 gives at most
_SATURATED = 0.02  # of the value range below its end: a lesion would not show there


class Clock(Protocol):
  """Times the stages of an image."""

  def __call__(self, stage: str) -> Any:
    """A context manager around the stage."""


@contextmanager
def untimed(stage: str) -> Iterator[None]:
  """No clock."""
  del stage
  yield


class Setting(NamedTuple):
  """All that images are made of.

  Attributes:
    request: what is asked for.
    values: `routes.settings.SYNTHESIZE`.
    source: the training split.
    survey: of it.
    maker: of backgrounds.
    lesions: where they come from.
    prior: over places.
    danger: finds forbidden tissue; None: only what masks say is forbidden.
    user_mask: bool[H, W], True where the user forbids lesions; None without.
    clock: times the stages.
  """

  request: Request
  values: Any
  source: Records
  survey: Survey
  maker: Maker
  lesions: fitting.Source
  prior: places.Prior
  danger: places.Danger | None
  user_mask: np.ndarray | None
  clock: Clock = untimed


class Made(NamedTuple):
  """An image.

  Attributes:
    image, twin: uint8|uint16 [H, W, C], stored as the source is; the twin has no lesions.
    mask: uint16[H, W], instance ids.
    sham_mask: uint16[H, W], ids of the shams; None without.
    item: the record of its background.
    canvas: its geometry.
    boxes: xyxy pixels of the instances, as they are to be labelled.
    facts: for the manifest, without the names of files.
  """

  image: np.ndarray
  twin: np.ndarray
  mask: np.ndarray
  sham_mask: np.ndarray | None
  item: dict[str, Any]
  canvas: canvas.Canvas
  boxes: list[tuple[float, float, float, float]]
  facts: dict[str, Any]


def make(setting: Setting, index: int, device: jax.Device) -> Made:
  """Makes image `index`; the same bytes whatever else is made, and wherever.

  Args:
    setting: what it is made of.
    index: of the image.
    device: for the networks.

  Raises:
    UserError: the request cannot be met on this background: no room, a forbidden point, no lesion
      of that diameter, millimetres without spacing.
  """
  request = setting.request
  key = jax.random.fold_in(jax.random.key(request.seed), index)
  rng = np.random.default_rng([int(word) for word in jax.random.key_data(key)])
  item, ground, unused = _background(setting, index, rng, jax.random.fold_in(key, 0), device)
  with setting.clock("sample"):
    lesions = _lesions(setting, rng, ground.canvas)
    seams = [
      fitting.sham(
        insert.draw(rng, setting.source, setting.survey.atlas, lesions[0].patch), ground.canvas
      )
      for _ in range(request.shams)
    ]
  with setting.clock("place"):
    sites = _sites(setting, rng, ground, lesions + seams, device)
  own_sites, seam_sites = sites[: len(lesions)], sites[len(lesions) :]
  mode = "paper" if request.paper else request.blend or insertion.DEFAULT_MODE[item["physics"]]
  with setting.clock("insert"):
    bare = insert.put_in(ground.bare, seams, seam_sites, mode=mode)
    with_own = np.where(ground.canvas.values != ground.bare, ground.canvas.values, bare)
    full = insert.put_in(with_own, lesions, own_sites, mode=mode)
  shape = ground.canvas.shape
  mask = insert.instances(lesions, own_sites, shape)
  for number, own in enumerate(ground.own, len(lesions) + 1):
    mask[own & (mask == 0)] = number
  found = [_facts(full, bare, mask, n + 1) for n in range(len(lesions) + len(ground.own))]
  for fact, lesion, site in zip(found, lesions, own_sites):
    fact |= _origin(lesion, site)
  return Made(
    image=canvas.stored(full, item),
    twin=canvas.stored(bare, item),
    mask=mask,
    sham_mask=insert.instances(seams, seam_sites, shape) if seams else None,
    item=item,
    canvas=ground.canvas,
    boxes=_boxes(setting, ground.canvas, found),
    facts={
      "index": index,
      "seed": request.seed,
      "height": shape[0],
      "width": shape[1],
      "spacing_mm": list(ground.canvas.spacing_mm),
      "blend": mode,
      "background": {
        "kind": request.background,
        "image": item["image_id"],
        "group": item["group"],
        "unused": unused,
      },
      "lesions": found,
      "sham_lesions": [_origin(seam, site) for seam, site in zip(seams, seam_sites)],
    },
  )


def _background(
  setting: Setting, index: int, rng: np.random.Generator, key: jax.Array, device: jax.Device
) -> tuple[dict[str, Any], Background, int]:
  """A record, its background, and how many could not be used before it."""
  few, count = setting.request.backgrounds, len(setting.source)
  order = np.random.default_rng(setting.request.seed).permutation(count)
  for unused in range(_BACKGROUNDS):
    # One that cannot be used is followed by one that is no other image's first.
    place = rng.integers(count) if few is None else order[(index % few + unused * few) % count]
    with setting.clock("read"):
      item = setting.source[int(place)]
    with setting.clock("background"):
      ground = setting.maker.make(item, key, device)
    if ground is not None:
      return item, ground, unused
  raise UserError(
    f"{_BACKGROUNDS} backgrounds in a row lost half of the contrast of a lesion of their own: use "
    "synthesize.existing='inpaint', or a model that keeps small lesions"
  )


def _lesions(
  setting: Setting, rng: np.random.Generator, ground: canvas.Canvas
) -> list[fitting.Fitted]:
  low, high = setting.request.lesions
  found = []
  for _ in range(int(rng.integers(low, high + 1))):
    lesion = fitting.draw(setting.lesions, rng, ground, _asked_px(setting.request, rng, ground))
    surveys.training_donor(lesion.patch.donor_group, setting.survey.groups)
    found.append(lesion)
  return found


def _asked_px(request: Request, rng: np.random.Generator, ground: canvas.Canvas) -> float | None:
  asked = request.diameter
  if asked is None:
    return None
  value = float(rng.uniform(asked.low, asked.high))
  if asked.unit == "px":
    return value
  if not np.isfinite(ground.mean_spacing_mm):
    raise UserError(
      "--diameter-mm: this background has no known pixel spacing; use --diameter-px, or prepare "
      "the images with --spacing-mm"
    )
  return value / ground.mean_spacing_mm


def _sites(
  setting: Setting,
  rng: np.random.Generator,
  ground: Background,
  lesions: list[fitting.Fitted],
  device: jax.Device,
) -> list[candidates.Site]:
  request, values, prior = setting.request, setting.values, setting.prior
  scene, footprints = ground.canvas, [lesion.mask for lesion in lesions]
  forbidden = _forbidden(setting, ground, device)
  if request.paper:
    if prior.through is not None:
      points = paper.locate(places.seen(prior, scene, device), _PAPER_POINTS)
    else:
      points = body.in_pixels(setting.survey.atlas.centres, body.box(scene.content))
    return paper.place_paper(rng, points, paper.danger(forbidden), footprints, at=request.at)
  return candidates.place(
    rng,
    places.score_map(prior, setting.survey.atlas, scene, device),
    candidates.allowed_pixels(forbidden, scene.content & ~_saturated(ground), values.margin_px),
    footprints,
    at=request.at,
    floor=values.floor,
    min_gap_px=values.min_gap_px,
    prior=prior.name,
  )


def _forbidden(setting: Setting, ground: Background, device: jax.Device) -> np.ndarray:
  """bool[H, W]: known or found to be forbidden, or by the user, or taken by a lesion of its own.

  Where the image's own mask is known it counts, and not what the network makes of it.
  """
  scene = ground.canvas
  forbidden = np.zeros(scene.shape, bool)
  if scene.forbidden_mask.size:
    forbidden |= scene.forbidden_mask > 0
  elif setting.danger is not None:
    forbidden |= places.mask(setting.danger, scene, device)
  if setting.user_mask is not None:
    if setting.user_mask.shape != scene.shape:
      (height, width), (rows, columns) = scene.shape, setting.user_mask.shape
      raise UserError(
        f"--mask is of {columns} x {rows} pixels, and this image is of {width} x {height}"
      )
    forbidden |= setting.user_mask
  for own in ground.own:
    forbidden |= own
  return forbidden


def _saturated(ground: Background) -> np.ndarray:
  low, high = ground.canvas.value_range
  return ground.canvas.values.min(axis=-1) >= high - _SATURATED * (high - low)


def _facts(full: np.ndarray, bare: np.ndarray, mask: np.ndarray, number: int) -> dict[str, Any]:
  """What is true of an instance, whatever it is."""
  mine = mask == number
  area = int(np.count_nonzero(mine))
  rows, columns = np.nonzero(mine)
  size = 2.0 * float(np.sqrt(area / np.pi))
  return {
    "id": number,
    "kind": "own",
    "centre": [float(columns.mean()) + 0.5, float(rows.mean()) + 0.5],
    "area_px": area,
    "diameter_px": size,
    "tight_box": list(labels.tight(mine)),
    "contrast": float((full - bare).mean(axis=-1)[mine].mean()),
  }


def _origin(lesion: fitting.Fitted, site: candidates.Site) -> dict[str, Any]:
  """Where an inserted lesion, or a sham, comes from, and why it lies there."""
  return {
    "kind": lesion.patch.kind,
    "centre": list(site.centre),
    "donor": lesion.patch.donor,
    "donor_group": lesion.patch.donor_group,
    "diameter_asked_px": lesion.asked_px,
    "log_probability": site.log_probability,
    "prior": site.prior,
  }


def _boxes(
  setting: Setting, ground: canvas.Canvas, found: list[dict[str, Any]]
) -> list[tuple[float, float, float, float]]:
  """Boxes as they are to be labelled; also noted, with mm, in the facts."""
  boxes = []
  for fact in found:
    box = tuple(fact["tight_box"])
    if setting.values.labels.box == "dataset":
      box = labels.padded(
        box,
        fact["diameter_px"],
        setting.survey.padding,
        scale=ground.mean_scale,
        shape=ground.shape,
      )
    fact["box"] = list(box)
    fact["diameter_mm"] = fact["diameter_px"] * ground.mean_spacing_mm
    boxes.append(box)
  return boxes
