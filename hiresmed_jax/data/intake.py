"""From the files of a source folder to samples that carry all that is known of them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hiresmed_jax.data.annotations import Annotations
from hiresmed_jax.data.audit.pixels import jpeg_quality
from hiresmed_jax.data.listing import Groups, folder_group
from hiresmed_jax.data.readers import dicom, images, lidc, volumes
from hiresmed_jax.data.record_format import SourceReport
from hiresmed_jax.data.sample import Sample, Unreadable


@dataclasses.dataclass(frozen=True)
class Skipped:
  """A file that gave nothing, or not all it holds. For its owner's eyes: it bears a name."""

  path: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Intake:
  """How to read a source folder.

  Attributes:
    kind: `images`, `dicom`, `volumes` or `lidc`.
    root: folder of the image files.
    annotations: what lies beside them.
    groups: the table of groups; None takes the DICOM patient, the folder, or the file.
    physics: of images that do not tell.
    axis: how volumes are sliced.
    agree: readers of `lidc` who must agree on a pixel.
    nodule_free: slices without any nodule to take from each series of `lidc`.
  """

  kind: str
  root: Path
  annotations: Annotations
  groups: Groups | None = None
  physics: str = "none"
  axis: str = "axial"
  agree: int = lidc.AGREE
  nodule_free: int = 0

  def read(
    self,
    files: Sequence[Path],
    report: SourceReport,
    skipped: list[Skipped],
    advance: Callable[[], None],
  ) -> Iterator[Sample]:
    """Yields all samples of all files, one in memory at a time.

    Args:
      files: below `root`; the readers' XML of `lidc` may lie elsewhere.
      report: counts what cannot be read, by reason, and the JPEG qualities.
      skipped: gets what cannot be read, by name.
      advance: called after every file.
    """
    if self.kind == "lidc":
      yield from self._read_lidc(files, report, skipped, advance)
      return
    for path in files:
      below = path.relative_to(self.root)
      try:
        for sample in self._open(path):
          yield self.annotations.add_to(sample, below)
      except Unreadable as reason:
        report.skipped[str(reason)] += 1
        skipped.append(Skipped(below.as_posix(), str(reason)))
      else:
        quality = jpeg_quality(path) if self.kind == "images" else None
        if quality is not None:
          report.jpeg_qualities[quality] += 1
      advance()

  def _read_lidc(
    self,
    files: Sequence[Path],
    report: SourceReport,
    skipped: list[Skipped],
    advance: Callable[[], None],
  ) -> Iterator[Sample]:
    """A sample needs several files here: readers' XML and a whole series, or an image and masks."""

    def refuse(path: Path, reason: str) -> None:
      below = path.relative_to(self.root) if path.is_relative_to(self.root) else path
      report.skipped[reason] += 1
      skipped.append(Skipped(below.as_posix(), reason))

    samples = lidc.read(
      files,
      root=self.root,
      agree=self.agree,
      nodule_free=self.nodule_free,
      refuse=refuse,
      advance=advance,
    )
    for sample in samples:
      path = self.root / sample.source
      group = self.groups.of(path, self.root) if self.groups else sample.group
      if group is None:
        refuse(path, "has no row in the groups file")
        continue
      try:
        known = self.annotations.add_to(sample, Path(sample.source))
      except Unreadable as reason:
        refuse(path, str(reason))
        continue
      yield dataclasses.replace(known, group=group)

  def _open(self, path: Path) -> Iterator[Sample]:
    group = self.groups.of(path, self.root) if self.groups else None
    if self.groups and group is None:
      raise Unreadable("has no row in the groups file")
    if self.kind == "dicom":
      samples = dicom.read(path, root=self.root)
      return (dataclasses.replace(s, group=group) for s in samples) if group else samples
    group = group or folder_group(path, self.root)
    if self.kind == "volumes":
      return volumes.read(path, root=self.root, group=group, physics=self.physics, axis=self.axis)
    return images.read(path, root=self.root, group=group, physics=self.physics)
