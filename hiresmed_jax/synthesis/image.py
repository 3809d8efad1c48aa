"""One labelled image, made from its index: background, lesions, places, insertion, twin, labels.

H, W rows and columns; C channels.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax.data import writers
from hiresmed_jax.data.records import Records
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas, places
from hiresmed_jax.inference import survey as surveys
from hiresmed_jax.inference.survey import Survey
from hiresmed_jax.inference.workdir import Model
from hiresmed_jax.lesions import crops
from hiresmed_jax.lesions.patch import NoLesion, SourceEmpty, diameter
from hiresmed_jax.ops import insertion
from hiresmed_jax.placement import candidates, paper
from hiresmed_jax.synthesis import export, fitting, insert, shams
from hiresmed_jax.synthesis import mapped as maps
from hiresmed_jax.synthesis.background import Maker
from hiresmed_jax.synthesis.mapped import Kept, MappedBackground
from hiresmed_jax.synthesis.request import Request

_BACKGROUNDS = 50  # tried for an image, at most
_DRAWN_AGAIN = 5  # times, while a lesion of an image is fainter than real ones
_IN_VAIN = 200  # lesions that are drawn for backgrounds which do not take them, about
_SIZES = 8  # lesions drawn until one has a size that the background has places for


Clock = Callable[[str], AbstractContextManager[Any]]  # a context around each stage of an image


class Setting(NamedTuple):
  """All that images are made of.

  Attributes:
    request: what is asked for.
    values: the group `synthesize` of a config.
    source: the training split.
    survey: of it.
    maker: of backgrounds.
    lesions: where they come from.
    prior: over places.
    danger: of `workdir.forbidden_chances`; None: only masks say what is forbidden.
    user_mask: bool[H, W], True where the user forbids lesions; None: nowhere.
    clock: times the stages.
    substitute: gives a lesion where `lesions` has none; None: that image cannot be made.
    look: how PNG show the images.
    classes: of the labels.
    kept: backgrounds that were made of this setting, with any seed.
    origin: what the manifest says of backgrounds of another dataset.
    weak_places: why places come from little; "" where they do not.
  """

  request: Request
  values: Any
  source: Records
  survey: Survey
  maker: Maker
  lesions: fitting.Source
  prior: places.Prior
  danger: Model | None
  user_mask: np.ndarray | None
  faintest: float
  clock: Clock = nullcontext
  substitute: fitting.Source | None = None
  look: export.Look = export.Look()
  classes: writers.Classes = writers.ONE_CLASS
  kept: Kept = Kept(0)
  origin: Mapping[str, Any] = MappingProxyType({})
  weak_places: str = ""


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
  """Makes image `index`; the same bytes whatever else is made, and on any device.

  Where the request cannot be met on a background, the image's random stream goes on with another
  one and as many lesions; the facts say on which and why. Of a request for few backgrounds it is
  the same one again.

  Args:
    setting: what it is made of.
    index: of the image.
    device: for the networks.

  Raises:
    UserError: no background that was tried meets the request, the source of lesions gives none, a
      lesion of a held-out patient.
  """
  request, few, count = setting.request, setting.request.backgrounds, len(setting.source)
  key = jax.random.fold_in(jax.random.key(request.seed), index)
  rng = np.random.default_rng([int(word) for word in jax.random.key_data(key)])
  order = np.random.default_rng(request.seed).permutation(count)
  tried: list[int] = []
  unused, attempts = 0, list[dict[str, str]]()
  lesions: int | None = None
  while len(tried) < (_BACKGROUNDS if few else min(_BACKGROUNDS, count)):
    # After one that cannot be used comes one that is not the first of another image.
    place = order[(index % few + unused * few) % count] if few else rng.integers(count)
    if not few and place in tried:
      continue
    tried.append(int(place))
    mapped = _mapped(setting, int(place), device)
    if mapped is None:
      unused += 1
      continue
    lesions = _count(setting, rng) if lesions is None else lesions
    try:
      made = _composed(setting, rng, mapped, lesions)
    except SourceEmpty:
      raise
    except UserError as mistake:
      attempts.append({"image": mapped.item["image_id"], "why": str(mistake)})
      if len(attempts) * lesions >= _IN_VAIN:
        break
      continue
    for fact in made.facts["lesions"]:
      if fact["kind"] != "own":
        surveys.require_training_donor(fact["donor_group"], setting.survey.groups)
    made.facts["index"] = index
    made.facts["background"] |= {"unused": unused, "attempts": attempts}
    return made
  if attempts:
    more = f" ({len(attempts)} backgrounds tried)" if len(attempts) > 1 else ""
    raise UserError(attempts[-1]["why"] + more)
  raise UserError(
    f"{unused} backgrounds in a row cannot be used: a lesion of their own is left when taken out "
    "(check the boxes), or lost half of its contrast (use synthesize.existing='inpaint', or a "
    f"better model), or no place is for lesions (synthesize.host_rule={setting.values.host_rule!r})"
  )


def _count(setting: Setting, rng: np.random.Generator) -> int:
  """How many lesions an image gets."""
  if setting.request.lesions is None:
    counts = setting.survey.counts
    return counts[rng.integers(len(counts))]
  low, high = setting.request.lesions
  return int(rng.integers(low, high + 1))


def _composed(
  setting: Setting, rng: np.random.Generator, mapped: MappedBackground, count: int
) -> Made:
  """An image with so many new lesions on this background.

  Raises:
    UserError: the request cannot be met on it: no room, a forbidden point, no lesion of that
      diameter, a lesion that nobody would see.
  """
  request = setting.request
  item, ground, scene = mapped.item, mapped.ground, mapped.ground.canvas
  mode = "paper" if request.paper else request.blend or insertion.DEFAULT_MODE[item["physics"]]
  faintest = setting.faintest * fitting.unit(item["physics"], scene.value_range)
  least = 0.0 if request.paper else faintest
  again = 0
  while True:
    with setting.clock("sample"):
      drawn = [_placeable(setting, rng, mapped) for _ in range(count)]
      lesions, reasons = [lesion for lesion, _ in drawn], [reason for _, reason in drawn]
    with setting.clock("place"):
      lesion_sites = _sites(setting, rng, mapped, lesions)
    mask = insert.instances(lesions, lesion_sites, scene.shape)
    with setting.clock("insert"):
      image = insert.inserted(ground.lesion_free, lesions, lesion_sites, mode=mode)
    added = (image - ground.lesion_free).mean(axis=-1)
    faint = sum(bool(added[mask == number].mean() < least) for number in range(1, count + 1))
    if not faint or again == _DRAWN_AGAIN:
      break
    again += 1
  with setting.clock("sample"):
    hidden = _shams(setting, rng, mapped, lesions, mask, mode, most=faintest)
  with setting.clock("insert"):
    twin = hidden[-1].image if hidden else ground.lesion_free
    with_own = np.where(scene.values != ground.lesion_free, scene.values, twin)
    image = insert.inserted(with_own, lesions, lesion_sites, mode=mode)
  for number, own in enumerate(ground.own_lesions, len(lesions) + 1):
    alone = own & (mask == 0)
    if 2 * np.count_nonzero(alone) <= np.count_nonzero(own):
      raise UserError(
        "half of a lesion that the background has of its own is covered by another lesion: a label "
        "would be wrong"
      )
    mask[alone] = number
  total = count + len(ground.own_lesions)
  facts = [_facts(image, twin, mask, number) for number in range(1, total + 1)]
  for fact, lesion, site, reason in zip(facts, lesions, lesion_sites, reasons):
    fact |= _origin(lesion, site) | {"substitute_because": reason}
  image, twin = canvas.stored(image, item), canvas.stored(twin, item)
  export.require_seen(image, twin, mask, total, item, setting.look, form=request.format)
  return Made(
    image=image,
    twin=twin,
    mask=mask,
    sham_mask=shams.instances(hidden, scene.shape) if hidden else None,
    item=item,
    canvas=scene,
    boxes=_boxes(setting, scene, facts),
    facts={
      "seed": request.seed,
      "height": scene.shape[0],
      "width": scene.shape[1],
      "spacing_mm": list(scene.spacing_mm),
      "blend": mode,
      "background": {
        "kind": request.background,
        "image": item["image_id"],
        "group": item["group"],
        **setting.origin,
      },
      "lesions": facts,
      "drawn_again": {"lesions": again, "shams": sum(sham.drawn_again for sham in hidden)},
      "faint": faint,
      "sham_lesions": [_origin(sham.lesion, sham.site) for sham in hidden],
      **({"weak_places": setting.weak_places} if setting.weak_places else {}),
    },
  )


def _mapped(setting: Setting, place: int, device: jax.Device) -> MappedBackground | None:
  """The background of record `place`, the same for every image of a seed; None: of no use."""
  seed = setting.request.seed

  def make() -> MappedBackground | None:
    with setting.clock("read"):
      item = setting.source[place]
    with setting.clock("background"):
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), place), 0)
      ground = setting.maker.make(item, key, device)
    if ground is None:
      return None
    with setting.clock("maps"):
      return maps.make(
        item,
        ground,
        prior=setting.prior,
        atlas=setting.survey.atlas,
        danger=setting.danger,
        user_mask=setting.user_mask,
        margin_px=setting.values.margin_px,
        is_paper=setting.request.paper,
        device=device,
      )

  return setting.kept.get((seed, place, setting.request.paper), make)


def _placeable(
  setting: Setting, rng: np.random.Generator, mapped: MappedBackground
) -> tuple[fitting.Fitted, str | None]:
  """A lesion as of `_lesion`; one whose size has few places in this background is drawn again."""
  for _ in range(_SIZES):
    lesion, reason = _lesion(setting, rng, mapped.ground.canvas)
    share = maps.share_placed(mapped, setting.prior, diameter(lesion.mask))
    if share >= 1.0 or rng.random() < share:
      break
  return lesion, reason


def _lesion(
  setting: Setting, rng: np.random.Generator, scene: canvas.Canvas
) -> tuple[fitting.Fitted, str | None]:
  """(a lesion, why it is a substitute; None where it is not)."""
  asked_px, reason = fitting.asked_px(setting.request.diameter, rng, scene), None
  try:
    lesion = fitting.draw(setting.lesions, rng, scene, asked_px)
  except NoLesion as none:
    if setting.substitute is None:
      raise
    lesion, reason = fitting.draw(setting.substitute, rng, scene, asked_px), none.reason
  return lesion, reason


def _shams(
  setting: Setting,
  rng: np.random.Generator,
  mapped: MappedBackground,
  lesions: list[fitting.Fitted],
  mask: np.ndarray,
  mode: str,
  *,
  most: float,
) -> list[shams.Sham]:
  """Shams of the size of the image's first lesion, or of any where it has none."""
  if not setting.request.shams:
    return []
  ground = mapped.ground
  like = lesions[0] if lesions else _lesion(setting, rng, ground.canvas)[0]
  allowed = (mapped.allowed > 0) & ground.canvas.content & (mask == 0)
  score = np.ones(mask.shape, np.float32)
  if mapped.density is not None:
    size = diameter(like.mask)
    score = places.score_map(setting.prior, mapped.density, ground.canvas, size)
  gap, count = setting.values.min_gap_px, setting.request.shams
  return shams.several(
    rng, count, ground, mask, allowed, score, like, setting.source, setting.survey.atlas,
    most=most, mode=mode, min_gap_px=gap,
  )  # fmt: skip


def _sites(
  setting: Setting,
  rng: np.random.Generator,
  mapped: MappedBackground,
  lesions: list[fitting.Fitted],
) -> list[candidates.Site]:
  request, values, prior = setting.request, setting.values, setting.prior
  density, scene = mapped.density, mapped.ground.canvas
  footprints = [lesion.mask for lesion in lesions]
  if mapped.points is not None:
    return paper.place_paper(rng, mapped.points, mapped.allowed, footprints, at=request.at)
  assert density is not None  # what is not the paper's has one
  return candidates.place(
    rng,
    [places.score_map(prior, density, scene, diameter(shape)) for shape in footprints],
    mapped.allowed,
    footprints,
    likely=density.likely,
    at=request.at,
    floor=values.floor,
    min_gap_px=values.min_gap_px,
    prior=prior.label,
  )


def _facts(image: np.ndarray, twin: np.ndarray, mask: np.ndarray, number: int) -> dict[str, Any]:
  """What the manifest says of an instance, inserted or not."""
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
    "tight_box": list(crops.tight(mine)),
    "contrast": float((image - twin).mean(axis=-1)[mine].mean()),
  }


def _origin(lesion: fitting.Fitted, site: candidates.Site) -> dict[str, Any]:
  """Where an inserted lesion or sham comes from, and what chose its place."""
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
  setting: Setting, scene: canvas.Canvas, facts: list[dict[str, Any]]
) -> list[tuple[float, float, float, float]]:
  """Boxes as they are labelled; they and millimetres are added to the facts."""
  boxes = []
  for fact in facts:
    box = tuple(fact["tight_box"])
    if setting.values.labels.box == "dataset":
      padding, size = setting.survey.padding, fact["diameter_px"]
      box = crops.padded(box, size, padding, scale=scene.mean_scale, shape=scene.shape)
    fact["box"] = list(box)
    fact["diameter_mm"] = fact["diameter_px"] * scene.mean_spacing_mm
    boxes.append(box)
  return boxes
