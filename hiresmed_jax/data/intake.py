"""From the files of a source folder to samples that carry all that is known of them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hiresmed_jax.data.annotations import Annotations
from hiresmed_jax.data.audit_intensity import jpeg_quality
from hiresmed_jax.data.card import SourceReport
from hiresmed_jax.data.listing import Groups, folder_group
from hiresmed_jax.data.readers import dicom, images, volumes
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
    kind: `images`, `dicom` or `volumes`.
    root: folder of the image files.
    annotations: what lies beside them.
    groups: the table of groups; None takes the DICOM patient, the folder, or the file.
    physics: of images that do not tell.
    axis: how volumes are sliced.
  """

  kind: str
  root: Path
  annotations: Annotations
  groups: Groups | None = None
  physics: str = "none"
  axis: str = "axial"

  def read(
    self,
    files: Sequence[Path],
    report: SourceReport,
    skipped: list[Skipped],
    advance: Callable[[], None],
  ) -> Iterator[Sample]:
    """Yields all samples of all files, one in memory at a time.

    Args:
      files: below `root`.
      report: counts what cannot be read, by reason, and the JPEG qualities.
      skipped: gets what cannot be read, by name.
      advance: called after every file.
    """
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
