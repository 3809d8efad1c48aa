"""What an audit means for the user, in sentences."""

from collections.abc import Mapping
from typing import Any


def warnings(audit: Mapping[str, Any]) -> list[str]:
  """Sentences on what a user of these images should know, the most serious first.

  Args:
    audit: the sections that `audit.summarise` makes.
  """
  found = [
    *_leaks(audit["groups"]),
    *_augmentation(audit["augmentation"]),
    *_intensities(audit["images"], audit["jpeg"]),
    *_lesions(audit["lesions"], audit["images"]),
  ]
  return [line for line in found if line]


def _leaks(groups: Mapping[str, Any]) -> list[str]:
  lines = []
  twins = groups["near_duplicates"]
  if groups["across_splits"]:
    lines.append(f"{groups['across_splits']} groups lie in more than one split")
  if twins["across_splits"]:
    lines.append(
      f"{twins['across_splits']} pairs of images in different splits are the same image but for a "
      "rotation or a mirroring: held-out numbers will be too good; give both one group (--groups)"
    )
  elif twins["across_groups"]:
    lines.append(
      f"{twins['across_groups']} pairs of images in different groups are the same image but for a "
      "rotation or a mirroring: give both one group (--groups)"
    )
  if groups["count"] > 1 and groups["images_per_group"][2] == 1:
    lines.append(
      "every image is a group of its own: if a patient has several images, name the patients "
      "(--groups CSV), or images of one patient are trained on and held out at once"
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
  wedges = share + thin >= 0.1
  mirrored = compared and both / compared >= 0.1
  if wedges:
    line = f"{share:.0%} of the images have black rotation wedges"
    line += f" (and {thin:.0%} thin ones)" if thin >= 0.01 else ""
    lines.append(f"{line}: the set was augmented before it was published")
  if mirrored:
    lines.append(
      f"{both} of {compared} groups of several images hold both left-right orientations: the set "
      "was mirrored before it was published; left and right mean little"
    )
  return lines


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
  if len(images["bits"]) > 1:
    counts = ", ".join(f"{n} of {b} bits" for b, n in images["bits"].items())
    lines.append(f"depths are mixed ({counts}): check that they show the same intensities")
  if 0 < images["colour"] < images["count"]:
    lines.append(f"{images['colour']} of {images['count']} images are in colour, the others grey")
  if len(images["photometric"]) > 1 and "MONOCHROME1" in images["photometric"]:
    lines.append(
      f"{images['photometric']['MONOCHROME1']} images are MONOCHROME1: inverted when loaded"
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
