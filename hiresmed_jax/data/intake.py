"""From the files of a source folder to samples with their groups, boxes and masks."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from hiresmed_jax.data.annotations import Annotations
from hiresmed_jax.data.audit.pixels import jpeg_quality
from hiresmed_jax.data.listing import folder_group, group_in
from hiresmed_jax.data.readers import dicom, dicom_header, images, lidc, volumes
from hiresmed_jax.data.record_format import SourceReport
from hiresmed_jax.data.sample import LeftOut, Sample, Unreadable


@dataclasses.dataclass(frozen=True)
class Intake:
  """How to read a source folder.

  Attributes:
    kind: `images`, `dicom`, `volumes` or `lidc`.
    root: folder of the image files.
    annotations: of the images, beside their files.
    groups: of `listing.read_groups`; None takes the DICOM patient, the folder, or the file.
    physics: of images and volumes.
    axis: how volumes are sliced.
    agree: readers of `lidc` who must agree on a pixel.
    nodule_free: slices without any nodule to take from each series of `lidc`.
    keep: kinds of `dicom_header.LEFT_OUT` that are not left out.
    note: on every image whose header does not tell its physics.
  """

  kind: str
  root: Path
  annotations: Annotations
  groups: Mapping[str, str] | None = None
  physics: str = "none"
  axis: str = "axial"
  agree: int = lidc.AGREE
  nodule_free: int = 0
  keep: Collection[str] = dicom_header.LEFT_OUT
  note: str = ""

  def read(
    self, files: Sequence[Path], report: SourceReport, advance: Callable[[], None]
  ) -> Iterator[Sample]:
    """Yields all samples of all files, one in memory at a time.

    Args:
      files: below `root`; the readers' XML of `lidc` may lie elsewhere.
      report: gets the files that cannot be read or are left out, and the JPEG qualities.
      advance: called after every file.
    """

    def refuse(path: Path, reason: str | Unreadable) -> None:
      below = path.relative_to(self.root) if path.is_relative_to(self.root) else path
      found = report.left_out if isinstance(reason, LeftOut) else report.skipped
      found.append((below.as_posix(), str(reason)))

    if self.kind == "lidc":
      yield from self._read_lidc(files, refuse, advance)
      return
    for path in files:
      try:
        for sample in map(self._fitting, self._open(path)):
          yield self.annotations.add_to(sample, path.relative_to(self.root))
      except Unreadable as reason:
        refuse(path, reason)
      else:
        quality = jpeg_quality(path) if self.kind == "images" else None
        if quality is not None:
          report.jpeg_qualities[quality] += 1
      advance()

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
      path = self.root / sample.source
      try:
        group = self._group(path) or sample.group
        known = self.annotations.add_to(sample, Path(sample.source))
        yield dataclasses.replace(known, group=group)
      except Unreadable as reason:
        refuse(path, str(reason))

  def _fitting(self, sample: Sample) -> Sample:
    """The sample with the note on its physics. Raises LeftOut for colours among grey images."""
    if sample.image.shape[-1] == 3 and "colour" not in self.keep:
      raise LeftOut("is a colour picture among grey ones (--keep colour)")
    told = self.kind == "dicom" and sample.modality not in ("", "OT")
    if not self.note or told:
      return sample
    return dataclasses.replace(sample, notes=(*sample.notes, self.note))

  def _open(self, path: Path) -> Iterator[Sample]:
    group = self._group(path)
    if self.kind == "dicom":
      samples = dicom.read(path, root=self.root, keep=self.keep)
      return (dataclasses.replace(s, group=group) for s in samples) if group else samples
    group = group or folder_group(path, self.root)
    if self.kind == "volumes":
      return volumes.read(path, root=self.root, group=group, physics=self.physics, axis=self.axis)
    return images.read(path, root=self.root, group=group, physics=self.physics)

  def _group(self, path: Path) -> str | None:
    """The group of the table. Raises Unreadable where there is a table without the file."""
    if self.groups is None:
      return None
    group = group_in(self.groups, path, self.root)
    if group is None:
      raise Unreadable("has no row in the groups file")
    return group
