"""Images that a run was not trained on: a prepared dataset, or a folder that is read for now."""

import collections
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hiresmed_jax import files
from hiresmed_jax.data import identity, records, source_folder
from hiresmed_jax.errors import UserError, printable
from hiresmed_jax.inference import contents
from hiresmed_jax.inference.contents import Contents
from hiresmed_jax.runtime.progress import Progress

_SHOWN = 5  # names of files that cannot be used
_HELD_OUT = "held out, by their patients (groups 0 and 1)"
_HELD_OUT_THERE = "of patients that the run holds out"
_UNKNOWN = "without a word on lesions"
_LESIONS_THERE = "training images whose lesions nothing tells here"


class Backgrounds(NamedTuple):
  """Images that lesions may be put into.

  Attributes:
    source: their records.
    contents: of the whole dataset.
    digests: of the images of `source`.
    groups: of them.
    left_out: number of the others, by reason.
    card: of the dataset; its classes are the run's where it has no labels.
    lesion_free: whether the user says that images without labels show no lesion.
  """

  source: records.Records
  contents: Contents
  digests: frozenset[str]
  groups: frozenset[str]
  left_out: dict[str, int]
  card: Mapping[str, Any]
  lesion_free: bool


@contextlib.contextmanager
def opened(
  path: Path,
  option: str,
  *,
  out: Path | None,
  physics: set[str],
  workers: int = 1,
  say: Callable[[str], Any] = print,
) -> Iterator[records.Dataset]:
  """Opens a prepared dataset, or reads a folder as `prepare` does, into one that is removed again.

  Args:
    path: of either.
    option: that gave it.
    out: folder of the command; the names of a folder's images are written to `OUT.private`. None:
      nowhere.
    physics: of the run; if it is one, it is that of images whose files do not tell.
    workers: threads that encode.
    say: gets lines about what is taken for granted, and files that cannot be used.

  Raises:
    UserError: it is neither; see `source_folder.look`.
  """
  if (path / records.CARD).is_file():
    yield records.open_dataset(path)
    return
  anywhere = Path(tempfile.gettempdir()) / "hiresmed"
  with files.folder_for_now(out or anywhere) as folder:
    private = folder / "private" if out is None else out.absolute().with_name(f"{out.name}.private")
    given = next(iter(physics)) if len(physics) == 1 else None
    try:
      _prepare(path, option, folder / "data", private, given, workers, say)
    except UserError as error:
      raise UserError(
        f"{error} (prepare has more options: name the dataset that it makes with {option})"
      ) from error
    yield records.open_dataset(folder / "data")


def _prepare(
  path: Path,
  option: str,
  data: Path,
  private: Path,
  physics: str | None,
  workers: int,
  say: Callable[[str], Any],
) -> None:
  source = source_folder.checked(path, option, data)
  found = source_folder.look(source, source_folder.Wishes(physics=physics), say=say)
  if physics and found.intake.kind != "dicom":
    say(f"the images of {path} are taken for {physics}, as those of the run are")
  with Progress(len(found.files), "reading", unit="file") as progress:
    card = records.write_dataset(
      found.intake.read(found.files, found.report, progress.advance),
      data,
      kind=found.intake.kind,
      identity=identity.open_identity(source, data, private),
      workers=workers,
      report=found.report,
    )
  for name, why in found.report.skipped[:_SHOWN]:
    say(f"skipped: {printable(name)} {why}")
  skipped = sum(card["skipped"].values()) + sum(card["left_out"].values())
  say(f"{card['images']} images were read, {skipped} files skipped or left out")


@contextlib.contextmanager
def backgrounds(
  path: Path,
  run: Path,
  *,
  lesion_free: bool,
  dataset: records.Dataset | None = None,
  out: Path | None = None,
  workers: int = 1,
  say: Callable[[str], Any] = print,
) -> Iterator[Backgrounds]:
  """The images of another dataset, or of a folder, that a run may put lesions into.

  Args:
    path: see `opened`, as for `out` and `say`; of the option `--onto`.
    run: the workdir.
    lesion_free: images that nobody has labelled show no lesion.
    dataset: of the run, where the workdir may not tell of it.
    workers: threads.

  Raises:
    UserError: see `opened` and `usable`.
  """
  trained = contents.of_run(run, dataset, workers=workers)
  prepared = (path / records.CARD).is_file()
  with opened(path, "--onto", out=out, physics=trained.physics, workers=workers, say=say) as other:
    found = usable(other, run, trained, prepared=prepared, lesion_free=lesion_free, workers=workers)
    for line in _told(found, trained):
      say(line)
    yield found


def usable(
  dataset: records.Dataset,
  run: Path,
  trained: Contents,
  *,
  prepared: bool,
  lesion_free: bool,
  workers: int = 1,
) -> Backgrounds:
  """The images that lesions may be put into.

  They are of the dataset's training split. An image of the run's own dataset is recognised by its
  pixels, and all images of its group with it: those that are held out there are left out.

  Args:
    dataset: the other one, or the run's.
    run: the workdir, for messages.
    trained: contents of its dataset.
    prepared: the user has prepared it, so that its split is meant.
    lesion_free: see `backgrounds`.
    workers: threads.

  Raises:
    UserError: none is left; other units; a held-out image of it is a training image of the run.
  """
  found = contents.make(dataset, workers=workers)
  contents.require_units(run, trained, found, str(dataset.root) if prepared else "the folder")
  # Of equal images the one with most lesions.
  there = {image.digest: image for image in sorted(trained.images, key=lambda one: one.lesions)}
  own = dataset.card["fingerprint"] == trained.fingerprint
  shared = sum(
    image.split != "train" and image.digest in there and there[image.digest].split == "train"
    for image in found.images
  )
  if prepared and shared and not own:
    raise UserError(
      f"{shared} held-out images of {dataset.root} are training images of {run}: lesions of "
      "held-out patients would get into training images; prepare both with the same --groups or "
      "--split"
    )
  held_out = {image.group for image in trained.images if image.split != "train"}
  held_out |= {
    image.group
    for image in found.images
    if image.digest in there and there[image.digest].split != "train"
  }
  kept, left_out = [], collections.Counter[str]()
  for image in found.images:
    known = there.get(image.digest)
    if image.split != "train":
      left_out[_HELD_OUT] += 1
    elif image.group in held_out:
      left_out[_HELD_OUT_THERE] += 1
    elif known and image.lesions < known.lesions:
      left_out[_LESIONS_THERE] += 1
    elif not (image.labelled or lesion_free):
      left_out[_UNKNOWN] += 1
    else:
      kept.append(image)
  if not kept:
    raise UserError(_nothing_left(dataset.card["images"], left_out))
  classes = dataset.card["source"] if found.source.get("lesion_classes") else trained.source
  return Backgrounds(
    source=records.source(dataset, "train").chosen([image.number for image in kept]),
    contents=found,
    digests=frozenset(image.digest for image in kept),
    groups=frozenset(image.group for image in kept),
    left_out=dict(left_out),
    card={**dataset.card, "source": classes},
    lesion_free=lesion_free,
  )


def _nothing_left(images: int, left_out: collections.Counter[str]) -> str:
  reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
  cure = "prepare more images, or give their split with prepare --split"
  if left_out[_UNKNOWN]:
    cure = (
      "label them (an empty label file: no lesion), or say --lesion-free if none shows a lesion"
    )
  return f"none of the {images} images can be a background: {reasons}; {cure}"


def _told(found: Backgrounds, trained: Contents) -> Iterator[str]:
  """Lines about which images are used, which are not, and what is not known of them."""
  total = len(found.contents.images)
  reasons = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
  used = f"lesions are put into {len(found.source)} of {total} images"
  yield used + (f"; not into {reasons}" if reasons else "")
  if not (found.contents.spaced and trained.spaced):
    yield (
      "the pixel spacing of some images is not known: there a lesion keeps its size in pixels "
      "(--diameter-px asks for another one)"
    )


def training_images(dataset: records.Dataset, found: Contents, trained: Contents) -> frozenset[str]:
  """Ids of the held-out images of a dataset whose groups a run has seen in training or validation.

  Args:
    dataset: of the images.
    found: its contents.
    trained: contents of the run's dataset.
  """
  seen = {image.digest for image in trained.images if image.split != "test"}
  own = {image.group for image in trained.images if image.split != "test"}
  groups = {image.group for image in found.images if image.digest in seen} | own
  source = records.source(dataset, "test").without_masks()
  return frozenset(
    source[image.number]["image_id"]
    for image in found.images
    if image.split == "test" and image.group in groups
  )
