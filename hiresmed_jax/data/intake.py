"""From the files of a source folder to samples with their groups, boxes and masks."""

import collections
import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from hiresmed_jax.data.annotations import Annotations
from hiresmed_jax.data.audit.pixels import jpeg_quality
from hiresmed_jax.data.grouping import Grouping, name_family
from hiresmed_jax.data.readers import dicom, dicom_header, images, lidc, volumes
from hiresmed_jax.data.record_format import SourceReport
from hiresmed_jax.data.sample import LeftOut, Misplaced, Sample, Unreadable
from hiresmed_jax.errors import UserError

_MISPLACED = 0.1  # share of the labels with boxes: one in a large set is a slip


@dataclasses.dataclass(frozen=True)
class Intake:
  """How to read a source folder.

  Attributes:
    kind: `images`, `dicom`, `volumes` or `lidc`.
    root: folder of the image files.
    annotations: of the images, beside their files.
    grouping: whose image is whose.
    physics: of images and volumes.
    axis: how volumes are sliced.
    agree: readers of `lidc` who must agree on a pixel.
    nodule_free: slices without any nodule to take from each series of `lidc`.
    keep: kinds of `dicom_header.LEFT_OUT` that are not left out.
    note: on every image whose header does not tell its physics.
    allow_unused: labels that cannot be used are no reason to stop.
    groups: filled while reading: by file (group, how it was found, split).
  """

  kind: str
  root: Path
  annotations: Annotations
  grouping: Grouping = dataclasses.field(default_factory=Grouping)
  physics: str = "none"
  axis: str = "axial"
  agree: int = lidc.AGREE
  nodule_free: int = 0
  keep: Collection[str] = dicom_header.LEFT_OUT
  note: str = ""
  allow_unused: bool = False
  groups: dict[str, tuple[str, str, str]] = dataclasses.field(default_factory=dict)

  def read(
    self, files: Sequence[Path], report: SourceReport, advance: Callable[[], None]
  ) -> Iterator[Sample]:
    """Yields all samples of all files, one in memory at a time.

    Args:
      files: below `root`; the readers' XML of `lidc` may lie elsewhere.
      report: gets the files that cannot be read or are left out, the JPEG qualities, and, last,
        the number of files that gave images and how groups were found.
      advance: called after every file.

    Raises:
      UserError: the user's split puts a group into two parts, or many labels have boxes outside of
        their images.
    """
    placed = misplaced = 0

    def refuse(path: Path, reason: object) -> None:
      below = path.relative_to(self.root) if path.is_relative_to(self.root) else path
      found = report.left_out if isinstance(reason, LeftOut) else report.skipped
      found.append((below.as_posix(), str(reason)))

    if self.kind == "lidc":
      yield from self._read_lidc(files, refuse, advance)
      files = ()
    for path in files:
      image, pages = path.relative_to(self.root).as_posix(), 0
      try:
        for sample in map(self._fitting, self._open(path)):
          known = self._known(sample, image)
          placed += len(known.boxes) > 0
          yield known
          pages += 1
        if self.annotations.goes_beyond(image, pages):
          refuse(path, "has labels or masks of pages, frames or slices that it does not hold")
      except Unreadable as reason:
        refuse(path, reason)
        misplaced += isinstance(reason, Misplaced)
      else:
        quality = jpeg_quality(path) if self.kind == "images" else None
        if quality is not None:
          report.jpeg_qualities[quality] += 1
      advance()
    if misplaced > 1 and misplaced > _MISPLACED * (placed + misplaced) and not self.allow_unused:
      raise UserError(
        f"{misplaced} of {placed + misplaced} labels have boxes outside of their images: the "
        "others may be as wrong. Are they of images of another size, or of another format? Mend "
        "them, or add --allow-unused to go on without these"
      )
    unseen = self.grouping.without_images(group for group, _, _ in self.groups.values())
    report.skipped += [("--split", "names a group that has no image")] * unseen
    report.source |= {"read": len(self.groups), "groups": self._group_facts()}

  def _read_lidc(
    self, files: Sequence[Path], refuse: lidc.Refuse, advance: lidc.Advance
  ) -> Iterator[Sample]:
    """A sample of LIDC comes from several files: XML and a series, or an image and masks."""
    samples = lidc.read(
      files,
      root=self.root,
      agree=self.agree,
      nodule_free=self.nodule_free,
      refuse=refuse,
      advance=advance,
    )
    for sample in samples:
      try:
        yield self._known(sample, sample.source)
      except Unreadable as reason:
        refuse(self.root / sample.source, str(reason))

  def _fitting(self, sample: Sample) -> Sample:
    """The sample with the note on its physics. Raises LeftOut for colours among grey images."""
    if sample.image.shape[-1] == 3 and "colour" not in self.keep:
      raise LeftOut("is a colour picture among grey ones (--keep colour)")
    told = self.kind == "dicom" and sample.modality not in ("", "OT")
    if not self.note or told:
      return sample
    return dataclasses.replace(sample, notes=(*sample.notes, self.note))

  def _open(self, path: Path) -> Iterator[Sample]:
    if self.kind == "dicom":
      return dicom.read(path, root=self.root, keep=self.keep)
    if self.kind == "volumes":
      return volumes.read(path, root=self.root, group="", physics=self.physics, axis=self.axis)
    return images.read(path, root=self.root, group="", physics=self.physics)

  def _known(self, sample: Sample, image: str) -> Sample:
    """The sample with its annotations, group and split; `image` is the path of its file."""
    group = self.grouping.group_of(image, sample.group)
    split = self.grouping.split_of(image, group.name)
    known = self.annotations.add_to(sample, image)
    self.groups[image] = (group.name, group.by, split)
    return dataclasses.replace(known, group=group.name, split=split)

  def _group_facts(self) -> dict[str, Any]:
    """How groups were found, for the card, when all is read.

    Returns:
      {"by": files by way, "name_families_across_groups": families of files that differ in their
      last number and lie in several groups, where files are their own groups}.

    Raises:
      UserError: the user's split puts a group into two parts.
    """
    parts = collections.defaultdict(set)
    families = collections.defaultdict(set)
    for image, (group, by, split) in self.groups.items():
      parts[group].add(split)
      if by == "file" and (family := name_family(image)):
        families[family].add(group)
    torn = sum(len(splits) > 1 for splits in parts.values())
    if torn:
      raise UserError(
        f"--split puts {torn} of {len(parts)} groups into several parts: held-out numbers would be "
        "of patients that were trained on. Give each patient one part, or name them by --groups"
      )
    by_way = collections.Counter(by for _, by, _ in self.groups.values())
    across = sum(len(groups) > 1 for groups in families.values())
    return {"by": dict(sorted(by_way.items())), "name_families_across_groups": across}
