"""A source folder as `prepare` reads it: from what the user wishes to files and their intake."""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hiresmed_jax.data import (
  annotations,
  grouping,
  label_checks,
  listing,
  matching,
  recognise,
)
from hiresmed_jax.data.intake import Intake
from hiresmed_jax.data.readers import lidc, mask_values
from hiresmed_jax.data.record_format import CARD, SourceReport
from hiresmed_jax.data.survey import survey
from hiresmed_jax.errors import UserError, printable

Say = Callable[[str], Any]


@dataclasses.dataclass(frozen=True)
class Wishes:
  """What the user says of a source; the fields are the options of `prepare` of these names."""

  kind: str | None = None
  boxes: str | None = None
  labels: Path | None = None
  lesion_class: Sequence[str] = ()
  host_class: Sequence[str] = ()
  forbidden_class: Sequence[str] = ()
  masks: Path | None = None
  mask_values: str = mask_values.MEANINGS[0]
  twins: bool = False
  odd_masks: bool = False
  hosts: Path | None = None
  forbidden: Path | None = None
  groups: Path | None = None
  group_pattern: str | None = None
  split: Path | None = None
  allow_unused: bool = False
  physics: str | None = None
  keep: Collection[str] = ()
  spacing_mm: tuple[float, float] | None = None
  axis: str = "axial"
  agree: int = lidc.AGREE
  nodule_free: int = 0


class Reading(NamedTuple):
  """What is to be read, and how."""

  files: list[Path]
  intake: Intake
  report: SourceReport  # of what is passed over; `Intake.read` adds to it


def checked(source: Path | None, option: str, out: Path) -> Path:
  """A folder of images that is given by an option.

  Raises:
    UserError: it is missing, empty, prepared already, or `out` lies in it.
  """
  if source is None:
    raise UserError(f"{option} is needed: the folder of the images")
  if not source.is_dir():
    packed = ": unpack it" if source.name.lower().endswith(listing.ARCHIVES) else ""
    what = f"not a folder{packed}" if source.exists() else "not there"
    raise UserError(f"{option} {source} is {what}")
  if not any(source.iterdir()):
    raise UserError(f"{option} {source} is empty")
  if (source / CARD).is_file():
    raise UserError(f"{option} {source} is a prepared dataset already")
  if out.resolve().is_relative_to(source.resolve()):
    raise UserError(f"--out {out} lies in the source: name a folder outside of it")
  return source


def look(source: Path, wishes: Wishes, *, say: Say) -> Reading:
  """Looks at a folder; no image is read whole. `say` gets lines about what is taken for granted.

  Raises:
    UserError: no images, or labels, masks and tables that do not fit them.
  """
  if wishes.kind == "lidc":
    _check_lidc(wishes)
  found = recognise.recognise(
    source,
    kind=wishes.kind,
    boxes=wishes.boxes,
    labels=None if wishes.kind == "lidc" else wishes.labels,
    masks_folder=wishes.masks,
    leave_out=[folder for folder in (wishes.hosts, wishes.forbidden) if folder],
    not_labels=[table for table in (wishes.groups, wishes.split) if table],
    twins=wishes.twins,
  )
  if found.kind == "lidc":
    _check_lidc(wishes)
  intake, uses, classes = _intake(wishes, found)
  if not wishes.allow_unused:
    for use in uses:
      use.check()
    if found.unread:
      shown = ", ".join(printable(path.name) for path in found.unread[:3])
      raise UserError(
        f"labels of no format that is read, as it looks: {len(found.unread)} ({shown}, ...). "
        "--boxes FORMAT tells why, --allow-unused goes on without them"
      )
  files = found.files
  if found.kind == "lidc" and wishes.labels:
    readings = listing.list_files(wishes.labels, "lidc")
    files = files + [p for p in readings if p.suffix.lower() == ".xml" and p not in files]
  return Reading(
    files, _as_most_are(intake, files, wishes, say), _report(source, found, uses, classes)
  )


def _check_lidc(wishes: Wishes) -> None:
  """Raises UserError for wishes that LIDC-IDRI cannot fulfil."""
  if wishes.boxes or wishes.masks:
    raise UserError("--kind lidc makes boxes and masks of the readers' outlines: give no others")
  if wishes.labels and not wishes.labels.is_dir():
    raise UserError(f"no folder of readers' XML {wishes.labels}")
  if wishes.agree < 1 or wishes.nodule_free < 0:
    raise UserError("--agree takes 1 or more, --nodule-free 0 or more")


def _report(
  source: Path, found: recognise.Source, uses: list[matching.Use], classes: dict[str, Any]
) -> SourceReport:
  report = SourceReport()
  report.left_out += [(_below(path, source), why) for path, why in found.passed_over]
  report.skipped += [
    (_below(path, source), "looks like labels of no format that is read") for path in found.unread
  ]
  report.skipped += [
    (name, f"is one of the {use.what} and {why}")
    for use in uses
    for names, why in ((use.ambiguous, "fits several images"), (use.unused, "fits no image"))
    for name in names
  ]
  report.source = {
    "layout": found.layout,
    "files": len(found.files),
    "labels_format": found.boxes or "",
    "uses": {
      use.what: {
        "found": use.found,
        "used": use.found - len(use.ambiguous) - len(use.unused),
        "fit_several": len(use.ambiguous),
        "fit_none": len(use.unused),
      }
      for use in uses
    },
    **classes,
  }
  return report


def _below(path: Path, source: Path) -> str:
  return path.relative_to(source).as_posix() if path.is_relative_to(source) else path.name


def _intake(
  wishes: Wishes, found: recognise.Source
) -> tuple[Intake, list[matching.Use], dict[str, Any]]:
  """(how the images are read, what becomes of labels, masks and tables, classes for the card)."""
  names = [path.relative_to(found.root).as_posix() for path in found.files]
  uses: list[matching.Use] = []

  def masks_of(folder: Path | None, what: str) -> matching.ByImage:
    if folder is None:
      return {}
    files, other = recognise.mask_files(folder, found.files)
    mask_values.check_jpegs(files)
    own = [path.relative_to(folder).as_posix() for path in files]
    by_image, use = matching.attach(files, own, names, what)
    lost = tuple(path.relative_to(folder).as_posix() for path in other)
    uses.append(use._replace(found=use.found + len(lost), unused=use.unused + lost))
    return by_image

  labels = annotations.read_labels(found.labels, found.boxes, found.label_root)
  if found.groups is not None:  # the manifest names the twins too
    labels = [label for label in labels if label.name in found.groups]
  by_image: matching.ByImage = {}
  if found.labels:
    labels = label_checks.settle_names(labels, names)
    by_image, use = matching.attach(labels, [label.name for label in labels], names, "labels")
    uses.append(use)
  counts = annotations.class_counts(labels)
  classes = annotations.choose(
    counts or dict.fromkeys(found.map_names.values(), 0),
    wishes.lesion_class, wishes.host_class, wishes.forbidden_class,
  )  # fmt: skip
  known = annotations.Annotations(
    root=found.root,
    labels=by_image,
    classes=classes,
    lesion_masks=masks_of(found.masks, "lesion masks"),
    host_masks=masks_of(wishes.hosts, "host masks"),
    forbidden_masks=masks_of(wishes.forbidden, "masks of forbidden tissue"),
    mask_values=wishes.mask_values,
    odd_masks=wishes.odd_masks,
    map_names=found.map_names,
    axis=wishes.axis,
    physics=wishes.physics or "",
    spacing_mm=wishes.spacing_mm or (math.nan, math.nan),
  )
  intake = Intake(
    kind=found.kind,
    root=found.root,
    annotations=known,
    grouping=_grouping(wishes, names, uses, found.groups),
    physics=wishes.physics or "none",
    axis=wishes.axis,
    agree=wishes.agree,
    nodule_free=wishes.nodule_free,
    allow_unused=wishes.allow_unused,
  )
  told = {
    "classes": counts,
    "class_numbers": annotations.class_numbers(labels),
    "lesion_classes": [name for name in counts if classes.is_lesion(name)],
  }
  return intake, uses, told


def _grouping(
  wishes: Wishes,
  names: list[str],
  uses: list[matching.Use],
  own: dict[str, str] | None,
) -> grouping.Grouping:
  if wishes.groups and wishes.group_pattern:
    raise UserError("--groups and --group-pattern both name the groups: give one of them")
  table, split, by_group = None if wishes.group_pattern else own, None, False
  if wishes.groups:
    table, use = grouping.read_groups(wishes.groups, names)
    uses.append(use)
  if wishes.split:
    split, by_group, use_of_split = grouping.read_split(wishes.split, names)
    uses += [use_of_split] if use_of_split else []
  pattern = grouping.pattern_of(wishes.group_pattern) if wishes.group_pattern else None
  return grouping.Grouping(table, pattern, split, by_group)


def _as_most_are(intake: Intake, files: list[Path], wishes: Wishes, say: Say) -> Intake:
  """The intake that leaves out what most files are not, with the physics that they look like."""
  if intake.kind == "lidc":
    return intake
  found = survey(files, intake.kind, wishes.keep)
  intake = dataclasses.replace(intake, keep=found.keep)
  if wishes.physics:
    if intake.kind != "dicom" and found.physics not in ("", None, wishes.physics):
      say(f"warning: the images look like {found.physics}, and are taken for {wishes.physics}")
    return intake
  if found.physics:
    note = f"looks like {found.physics}: physics is {found.physics} (--physics says otherwise)"
  else:
    note = (
      "does not tell whether it is a slice or a projection: physics is none "
      "(--physics ct or projection?)"
    )
  if intake.kind != "dicom":
    say(f"every image {note}")
  return dataclasses.replace(intake, physics=found.physics or "none", note=note)
