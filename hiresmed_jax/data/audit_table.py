"""The audit as a person reads it on a terminal or in a log."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def show(card: Mapping[str, Any], console: Console) -> None:
  """Prints a dataset card: a table of what was found, then the warnings."""
  table = Table(title=f"{card['name']}: {card['images']} images", title_justify="left")
  table.add_column("what", style="bold", no_wrap=True)
  table.add_column("found")
  for name, text in rows(card):
    table.add_row(name, text)
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
    f"{twins['pairs']} pairs among {twins['compared']} images, {twins['across_groups']} across "
    f"groups, {twins['across_splits']} across splits",
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
  for reason, count in card["skipped"].items():
    yield f"skipped {count}", reason


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
