"""An audit as text: its warnings in sentences, and its table for a terminal or a log."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hiresmed_jax.errors import counted, printable

_FAR_OFF = 0.2  # sides of a box: corners taken for centres give 0.25 to 0.4, right boxes up to 0.13
_FEW_TRAINED = 0.5  # a share of the images; the split aims at 0.6
_RADIOGRAPHS = ("CR", "DX", "RG", "RF")  # modalities that are alike


def warnings(audit: Mapping[str, Any]) -> list[str]:
  """Warnings for a user of these images, the most serious first.

  Args:
    audit: the sections of `summary.summarise`.
  """
  return [
    *_leaks(audit["groups"]),
    *_augmentation(audit["augmentation"]),
    *_mixed(audit["images"]),
    *_intensities(audit["images"], audit["jpeg"]),
    *_lesions(audit["lesions"], audit["images"]),
  ]


def _leaks(groups: Mapping[str, Any]) -> list[str]:
  lines = []
  twins = groups["near_duplicates"]
  if groups["across_splits"]:
    lines.append(f"{counted(groups['across_splits'], 'group')} in more than one split")
  if twins["across_splits"]:
    lines.append(
      f"{counted(twins['across_splits'], 'pair')} of images in different splits, the same image "
      "but for a rotation or a mirroring: held-out numbers will be too good; give both one group "
      "(--groups)"
    )
  elif twins["across_groups"]:
    lines.append(
      f"{counted(twins['across_groups'], 'pair')} of images in different groups, the same image "
      "but for a rotation or a mirroring: give both one group (--groups)"
    )
  if groups["count"] > 1 and groups["images_per_group"][2] == 1:
    lines.append(
      "every image is a group of its own: if a patient has several images, name the patients "
      "(--groups CSV), or images of one patient are trained on and held out at once"
    )
  images = {split: part["images"] for split, part in groups["splits"].items()}
  if 0 < images["train"] < _FEW_TRAINED * sum(images.values()):
    lines.append(
      f"only {images['train']} of {sum(images.values())} images are trained on: a split by the "
      f"names of {counted(groups['count'], 'group')} can fall out so; choose it with --split CSV"
    )
  empty = [split for split, part in groups["splits"].items() if not part["images"]]
  if empty:
    lines.append(
      f"no image fell into: {', '.join(empty)} (the split follows the group's name; "
      f"there are {groups['count']} groups)"
    )
  return lines


def _augmentation(found: Mapping[str, Any]) -> list[str]:
  lines = []
  share, thin = found["wedge_share"], found["thin_wedge_share"]
  both, compared = found["groups_with_both_orientations"], found["groups_compared"]
  if share + thin >= 0.1:
    line = f"{share:.0%} of the images have black rotation wedges"
    line += f" (and {thin:.0%} thin ones)" if thin >= 0.01 else ""
    lines.append(f"{line}: the set was augmented before it was published")
  if compared and both / compared >= 0.1:
    lines.append(
      f"{both} of {compared} groups of several images hold both left-right orientations: the set "
      "was mirrored before it was published; left and right mean little"
    )
  return lines


def _mixed(images: Mapping[str, Any]) -> list[str]:
  kinds: collections.Counter[str] = collections.Counter()
  for name, count in images["modality"].items():
    kinds["radiograph" if name in _RADIOGRAPHS else name] += count
  del kinds[""]  # files that do not tell
  if len(kinds) < 2:
    kinds = collections.Counter(images["physics"])
  if len(kinds) < 2:
    return []
  counts = ", ".join(f"{count} {name}" for name, count in kinds.most_common())
  return [
    f"images of different kinds are mixed ({counts}): one model learns them all, and lesions of "
    "one kind are put into another; prepare each kind by itself"
  ]


def _intensities(images: Mapping[str, Any], jpeg: Mapping[str, Any]) -> list[str]:
  lines = []
  if jpeg["grid_excess"] >= 0.05:
    quality = ", ".join(jpeg["quality"])
    lines.append(
      f"JPEG blocks show: the gradient at every 8th column is {jpeg['grid_excess']:.0%} above the "
      f"mean{f' (quality {quality})' if quality else ''}; a model will learn them"
    )
  if list(images["bits"]) == ["16"] and images["grey_levels"][1] <= 256:
    lines.append("the images are stored in 16 bits but have at most 256 grey levels: 8-bit data")
  for pair in images["ranges"]:
    declared, used = (f"{_number(low)} to {_number(high)}" for low, high in pair.values())
    lines.append(f"no image uses more than {used} of {declared}: a network sees {used}")
  if not images["ranges"] and len(images["bits_in_use"]) > 1:
    counts = ", ".join(f"{n} images {b} bits" for b, n in images["bits_in_use"].items())
    lines.append(f"images use different numbers of bits ({counts}): dark ones are nearly constant")
  if len(images["bits"]) > 1:
    counts = ", ".join(f"{n} of {b} bits" for b, n in images["bits"].items())
    lines.append(f"depths are mixed ({counts}): check that they show the same intensities")
  if 0 < images["colour"] < images["count"]:
    lines.append(f"{images['colour']} of {images['count']} images are in colour, the others grey")
  if len(images["photometric"]) > 1 and "MONOCHROME1" in images["photometric"]:
    lines.append(
      f"{images['photometric']['MONOCHROME1']} images are MONOCHROME1: inverted when loaded"
    )
  if images["negatives"]:
    lines.append(
      f"{images['negatives']} of {images['count']} images look like negatives of the others (their "
      "names stand above): make all of one polarity before you prepare them"
    )
  if images["coloured_marks"]:
    lines.append(
      f"{images['coloured_marks']} images are grey but for coloured marks, such as boxes or text: "
      "a model learns them; export the images without"
    )
  if images["saturated_share"] >= 0.05:
    lines.append(f"{images['saturated_share']:.0%} of all pixels are saturated")
  return lines


def _lesions(lesions: Mapping[str, Any], images: Mapping[str, Any]) -> list[str]:
  if not lesions["boxes"]:
    return []
  lines = []
  censored = lesions["censored_share"]
  if censored is not None and censored >= 0.1:
    lines.append(
      f"{censored:.0%} of the lesions reach the brightest grey value: their contrast is censored"
    )
  tightness = lesions["box_over_half_maximum_area"]
  if tightness is not None and tightness >= 1.5:
    lines.append(
      f"boxes are loose: the median box has {tightness:.1f} x the area of the lesion's own box at "
      "half maximum"
    )
  ways = ("left to right", "top to bottom", "by half a turn")
  for way, fits in zip(ways, lesions["mirrored_boxes_fit"] or ()):
    if fits:
      lines.append(
        f"most boxes fit better mirrored {way}: were images and labels turned alike, and do rows "
        "count from the top?"
      )
  offset = lesions["half_maximum_offset"]
  if offset and max(map(abs, offset)) >= _FAR_OFF:
    right, down = ("right" if offset[0] > 0 else "left"), ("lower" if offset[1] > 0 else "upper")
    lines.append(
      f"the lesions lie in the {down} {right} of their boxes (by {abs(offset[0]):.2f} and "
      f"{abs(offset[1]):.2f} of a side): are corners given as centres, or centres as corners?"
    )
  blobs = lesions["unboxed_blobs_per_image"]
  if blobs is not None and blobs >= 0.5:
    lines.append(
      f"{blobs:.1f} regions per image are as bright, small and compact as its lesions but have no "
      "box: look at some before an image counts as lesion-free"
    )
  if images["spacing_known"] < images["count"]:
    unknown = images["count"] - images["spacing_known"]
    lines.append(
      f"{unknown} images have no known pixel spacing: sizes in mm cannot be used (--spacing-mm)"
    )
  return lines


def show(card: Mapping[str, Any], console: Console) -> None:
  """Prints the audit of a dataset card: the table, then the warnings."""
  table = Table(
    title=escape(printable(f"{card['name']}: {card['images']} images")), title_justify="left"
  )
  table.add_column("what", style="bold", no_wrap=True)
  table.add_column("found")
  for name, text in rows(card):
    table.add_row(name, escape(printable(text)))
  console.print(table)
  for line in card["audit"]["warnings"]:
    console.print(f"warning: {line}", style="yellow", markup=False, highlight=False)


def rows(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  """(what, found) for every line of the table."""
  audit = card["audit"]
  images, groups, lesions = audit["images"], audit["groups"], audit["lesions"]
  augmentation, jpeg = audit["augmentation"], audit["jpeg"]
  yield "size", f"{_range(images['width'])} x {_range(images['height'])} px (width x height)"
  yield (
    "depth",
    f"{images['bits_used']} of {card['bits']} bits used, {_range(images['grey_levels'])} grey "
    f"levels, {card['channels']} channel{'s' if card['channels'] > 1 else ''}",
  )
  polarity = ", ".join(f"{name} {count}" for name, count in images["photometric"].items())
  yield "polarity", polarity
  yield "physics", _counts(images["physics"], images["modality"])
  spacing = images["spacing_mm"]
  known = f"{_range(spacing)} mm, of {images['spacing_known']} images" if spacing else "unknown"
  yield "spacing", known
  yield "saturated", f"{images['saturated_share']:.2%} of the pixels"
  per_group = _range(groups["images_per_group"])
  yield "groups", f"{groups['count']}, with {per_group} images"
  for split, part in groups["splits"].items():
    held_out = " (held out)" if split == "test" else ""
    yield (
      f"  {split}{held_out}",
      f"{part['images']} images, {part['groups']} groups, {part['boxes']} boxes",
    )
  twins = groups["near_duplicates"]
  yield (
    "near-duplicates",
    f"{counted(twins['pairs'], 'pair')} among {counted(twins['compared'], 'image')}, "
    f"{twins['across_groups']} across groups, {twins['across_splits']} across splits",
  )
  yield (
    "rotation wedges",
    f"{augmentation['wedge_share']:.0%} of the images, {augmentation['thin_wedge_share']:.0%} "
    f"thin{_optional(' ({} degrees)', augmentation['wedge_degrees'])}",
  )
  yield (
    "both orientations",
    f"{augmentation['groups_with_both_orientations']} of {augmentation['groups_compared']} groups "
    "of several images",
  )
  qualities = ", ".join(f"{q} ({n} files)" for q, n in jpeg["quality"].items())
  yield "JPEG", f"quality {qualities}" if qualities else "no JPEG files"
  yield "8-px grid", f"{jpeg['grid_excess']:+.0%} gradient at column phase {jpeg['grid_phase']}"
  yield from _lesion_rows(lesions, images)
  yield from _source_rows(card)
  for reason, count in card["skipped"].items():
    yield f"skipped {count}", reason
  for reason, count in card["left_out"].items():
    yield f"left out {count}", reason
  for note, count in card["notes"].items():
    yield f"noted {count}", note


def source_warnings(
  source: Mapping[str, Any], labelled: int, boxes: int, left_out: Mapping[str, int]
) -> list[str]:
  """What a source's files say against its groups and labels.

  Args:
    source: of the card.
    labelled: images that somebody has labelled.
    boxes: number of lesions.
    left_out: of the card.
  """
  lines = []
  masks = sum(count for reason, count in left_out.items() if "--masks" in reason)
  if masks and not boxes:
    lines.append(
      f"no image has a lesion, and {masks} images that may be masks are not used: name their "
      "folder (--masks)"
    )
  across = source["groups"]["name_families_across_groups"] if source else 0
  if across:
    lines.append(
      f"{across} families of files whose names differ in their last number only lie in several "
      "groups: if such files are of one patient, say so (--group-pattern or --groups)"
    )
  if source and labelled and not boxes:
    lines.append(
      f"not one of the {labelled} labelled images shows a lesion: are the labels empty, or the "
      "masks black?"
    )
  return lines


def _source_rows(card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  """What was found in the source folder, and what was used of it."""
  source = card["source"]
  yield "unknown", f"{card['unknown']} images that nobody has labelled: never taken as lesion-free"
  if not source:
    return
  layout = f", {source['layout']}" if source["layout"] else ""
  yield "source", f"{source['files']} image files found, {source['read']} used{layout}"
  for what, use in source["uses"].items():
    form = f" ({source['labels_format']})" if what == "labels" else ""
    yield (
      f"{what}{form}",
      f"{use['used']} used of {use['found']}; {use['fit_several']} fit several images, "
      f"{use['fit_none']} none",
    )
  if source["classes"]:
    yield "classes", ", ".join(f"{name} {count}" for name, count in source["classes"].items())
  yield "groups by", ", ".join(f"{by} {count}" for by, count in source["groups"]["by"].items())


def _lesion_rows(
  lesions: Mapping[str, Any], images: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
  yield "boxes", f"{lesions['boxes']}; {lesions['images_without_box']} images without one"
  if lesions["boxes"]:
    width, height = _range(lesions["box_width_px"]), _range(lesions["box_height_px"])
    millimetres = _optional("; {} mm across", lesions["box_diameter_mm"])
    yield "  box size", f"{width} x {height} px{millimetres}"
    if lesions["mask_diameter_px"]:
      millimetres = _optional(", {} mm", lesions["mask_diameter_mm"])
      yield "  diameter", f"{_range(lesions['mask_diameter_px'])} px{millimetres}, of masks"
    yield "  at half maximum", _optional("{} px across", lesions["half_maximum_extent_px"])
    yield (
      "  box looseness",
      f"{_number(lesions['box_over_half_maximum_area'])} x the half-maximum box (median)",
    )
    yield "  censored", f"{lesions['censored_share']:.0%} reach the brightest grey value"
    yield (
      "  without a box",
      f"{_number(lesions['unboxed_blobs_per_image'])} lesion-like bright regions per image",
    )
    if lesions["instances"]:
      areas = _range(lesions["instance_area_px"])
      yield "  instances", f"{lesions['instances']} in masks, of {areas} px"
  if images["lesion_masks"] or images["forbidden_masks"]:
    masks = f"{images['lesion_masks']} of lesions, {images['forbidden_masks']} of forbidden tissue"
    yield "masks", masks


def _counts(physics: Mapping[str, int], modality: Mapping[str, int]) -> str:
  parts = [", ".join(f"{name} {count}" for name, count in physics.items())]
  parts += [", ".join(f"{name} {count}" for name, count in modality.items() if name)]
  return "; ".join(part for part in parts if part)


def _range(spread: Sequence[float]) -> str:
  """Least to greatest with the median, or the one value."""
  low, middle, high = spread
  return (
    _number(low) if low == high else f"{_number(low)} to {_number(high)} (median {_number(middle)})"
  )


def _optional(text: str, spread: Sequence[float] | None) -> str:
  return text.format(_range(spread)) if spread else ""


def _number(value: float | None) -> str:
  return "unknown" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
