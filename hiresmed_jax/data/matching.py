"""Names in labels, masks and tables, matched to the images that they mean.

A name may be a path of another machine, written in another case or another Unicode form, with or
without its suffix. It is matched by its last part; the folders before it must not contradict.
"""

import collections
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hiresmed_jax.data.readers import images, volumes
from hiresmed_jax.errors import UserError, printable

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
SUFFIXES = (*volumes.SUFFIXES, *images.SUFFIXES, *DICOM_SUFFIXES, ".bmp")
# Folders that tell what lies in them, not whose it is.
ROLES = frozenset(
  "images image imgs img jpegimages labels label annotations annotation masks mask imagestr "
  "imagests labelstr labelsts obj_train_data segmentationclass segmentationobject".split()
)
SPLIT_FOLDERS = frozenset("train training valid validation val dev test testing".split())

_LEAST_USED = 0.9  # of the label files
_SHOWN = 3  # names in a message
_STRICT = 2  # forms of a name that keep its case

_PAGE = re.compile(r"(.+)#(\d+)")
_CHANNEL = re.compile(r"_0000$")  # nnU-Net: of an image, not of its label
_OTHER_CHANNEL = re.compile(r"_(?!0000)\d{4}$")
_HASH = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it before the name of an upload
_ABSOLUTE = re.compile(r"^(/|[a-z]:/|[a-z0-9]+://|\.\./)", re.IGNORECASE)
MASK_ENDING = re.compile(
  r"([ _.-](masks?|seg|segmentation|labels?|lesions?|gt|groundtruth|annotation))$", re.IGNORECASE
)


# By the relative path of an image, then by page, frame or slice; None is the whole file.
ByImage = Mapping[str, Mapping[int | None, Any]]


class Use(NamedTuple):
  """What became of label or mask files.

  Attributes:
    what: "labels", "lesion masks", ...
    found: number of them.
    ambiguous: names of those that fit several images.
    unused: names of those that fit no image.
  """

  what: str
  found: int
  ambiguous: tuple[str, ...]
  unused: tuple[str, ...]

  def check(self) -> None:
    """Raises UserError when none is used, or more than a tenth is not."""
    lost = len(self.ambiguous) + len(self.unused)
    if self.found and self.found - lost >= max(1, _LEAST_USED * self.found):
      return
    if not self.found:
      raise UserError(f"no {self.what} were found")
    why = [f"{len(self.ambiguous)} fit several images{_some(self.ambiguous)}"] * bool(
      self.ambiguous
    )
    why += [f"{len(self.unused)} fit none{_some(self.unused)}"] * bool(self.unused)
    raise UserError(
      f"{self.found - lost} of {self.found} {self.what} are used: {'; '.join(why)}. Give images "
      "and labels the same names or folders, or add --allow-unused"
    )


class Matched(NamedTuple):
  """What each name means.

  Attributes:
    found: {(number of an image, page): number of its name}; page None is a whole file.
    ambiguous: numbers of the names that fit several images, or an image as well as another name.
    unused: numbers of the names that fit no image.
  """

  found: dict[tuple[int, int | None], int]
  ambiguous: list[int]
  unused: list[int]


def stem_of(name: str) -> str:
  """A file's name or path without the suffix of an image, `.nii.gz` as a whole."""
  lower = name.lower()
  if not lower.endswith(SUFFIXES):
    return name
  for suffix in SUFFIXES:
    if lower.endswith(suffix):
      return name[: -len(suffix)]
  return name


def other_channels(paths: Sequence[Path]) -> set[Path]:
  """Files that are a second or later channel of an image in nnU-Net's names: `a_0001`."""
  first = {_CHANNEL.sub("", stem_of(str(p))) for p in paths if _CHANNEL.search(stem_of(p.name))}
  return {
    p
    for p in paths
    if (found := _OTHER_CHANNEL.search(stem_of(str(p))))
    and stem_of(str(p))[: found.start()] in first
  }


class _Name(NamedTuple):
  """A path in parts; `forms` are keys of its last part, the strictest first."""

  folders: tuple[str, ...]
  forms: tuple[str, ...]
  page: int | None
  is_absolute: bool


def match(names: Sequence[str], paths: Sequence[str]) -> Matched:
  """Matches names to images.

  Args:
    names: paths or file names as a label gives them, with or without suffix; `stack#2` is the
      third page, frame or slice of `stack`.
    paths: relative paths of the images, all different.
  """
  known = [_parsed(image) for image in paths]
  # By the last part, and by the whole path, which spares a search among equal last parts.
  index: tuple[dict[Any, list[int]], ...] = tuple(collections.defaultdict(list) for _ in range(5))
  for number, image in enumerate(known):
    for level, form in enumerate(image.forms):
      index[level][form].append(number)
      if level < _STRICT:
        index[level][image.folders, form].append(number)
  hashed = frozenset(form for image in known for form in image.forms[:_STRICT] if "#" in form)
  asked = [_parsed(name, hashed) for name in names]
  shared = _shared_folders(known), _shared_folders(asked)
  claims: dict[tuple[int, int | None], list[tuple[tuple[int, int], int]]] = collections.defaultdict(
    list
  )
  ambiguous: list[int] = []
  unused: list[int] = []
  for number, name in enumerate(asked):
    fits, rank = _fitting(name, known, index, shared)
    if len(fits) == 1:
      claims[fits[0], name.page].append((rank, number))
    else:
      (ambiguous if fits else unused).append(number)
  found = {}
  for key, claim in claims.items():
    claim.sort()
    if len(claim) > 1 and claim[0][0] == claim[1][0]:
      ambiguous += [number for _, number in claim]
    else:
      found[key] = claim[0][1]
      unused += [number for _, number in claim[1:]]
  return Matched(found, sorted(ambiguous), sorted(unused))


def attach(
  items: Sequence[Any], names: Sequence[str], image_names: Sequence[str], what: str
) -> tuple[ByImage, Use]:
  """Gives items their images by name; see `matching.match`."""
  matched = match(names, image_names)
  found: dict[str, dict[int | None, Any]] = collections.defaultdict(dict)
  for (image, page), number in matched.found.items():
    found[image_names[image]][page] = items[number]
  lost = (tuple(names[n] for n in numbers) for numbers in (matched.ambiguous, matched.unused))
  return found, Use(what, len(items), *lost)


def _parsed(text: str, hashed: frozenset[str] | None = None) -> _Name:
  """A name; of an image where `hashed`, names of images with a # that tells no page, is None."""
  of_image = hashed is None
  text = unicodedata.normalize("NFC", text).replace("\\", "/")
  parts = [part for part in text.split("/") if part not in ("", ".", "..")] or [""]
  folders = tuple(part for part in parts[:-1] if part.casefold() not in ROLES)
  last, page = parts[-1], None
  own = hashed is None or not hashed.isdisjoint((last, stem_of(last)))
  if not own and (of_page := _PAGE.fullmatch(stem_of(last))):
    last, page = of_page.group(1), int(of_page.group(2))
  stem = stem_of(last)
  loose = _CHANNEL.sub("", stem) if of_image else MASK_ENDING.sub("", _HASH.sub("", stem))
  forms = (last, stem, last.casefold(), stem.casefold(), loose.casefold())
  return _Name(folders, forms, page, bool(_ABSOLUTE.match(text)))


def _fitting(
  name: _Name,
  known: Sequence[_Name],
  index: Sequence[dict[Any, list[int]]],
  shared: tuple[tuple[str, ...], tuple[str, ...]],
) -> tuple[list[int], tuple[int, int]]:
  """(numbers of the images that a name fits equally well, how well: less is better)."""
  for level, form in enumerate(name.forms[:_STRICT]):
    whole = index[level].get((name.folders, form))
    if whole and len(whole) == 1:
      return whole, (level, -len(name.folders) - 1)
  for level, form in enumerate(name.forms):
    if level in (0, 2) and form == name.forms[level + 1]:
      continue  # without a suffix, a name fits files with any and without
    best: list[int] = []
    longest = -1
    for number in index[level].get(form, ()):
      tail = _common_tail(name, known[number].folders, shared, fold=level > 1)
      if tail is None or tail < longest:
        continue
      best = [number] if tail > longest else [*best, number]
      longest = tail
    if best:
      return best, (level, -longest)
  return [], (0, 0)


def _common_tail(
  name: _Name,
  folders: tuple[str, ...],
  shared: tuple[tuple[str, ...], tuple[str, ...]],
  *,
  fold: bool,
) -> int | None:
  """Number of last folders that agree; None where the folders contradict each other.

  Folders that all images, or all names, have in common are no contradiction: another machine's,
  or folders for the kinds of files. Those with a number in them could be a patient's.
  """
  one, other = name.folders, folders
  if fold:
    one, other = (tuple(part.casefold() for part in parts) for parts in (one, other))
  common = 0
  for a, b in zip(reversed(one), reversed(other)):
    if a != b:
      break
    common += 1
  if common in (len(one), len(other)):
    return common
  heads = folders[: len(folders) - common], name.folders[: len(one) - common]
  tell_nothing = heads[0] == shared[0] and (
    name.is_absolute or (heads[1] == shared[1] and not re.search(r"\d", "".join(sum(heads, ()))))
  )
  differ = {one[-common - 1].casefold(), other[-common - 1].casefold()}
  return common if tell_nothing and not differ & SPLIT_FOLDERS else None


def _shared_folders(names: Sequence[_Name]) -> tuple[str, ...]:
  """The first folders that all names have in common."""
  if not names:
    return ()
  paths = [name.folders for name in names]
  least, most = min(paths), max(paths)
  length = next((n for n, (a, b) in enumerate(zip(least, most)) if a != b), None)
  return least[:length] if length is not None else least[: min(len(least), len(most))]


def _some(names: Sequence[str]) -> str:
  """Some names, printable, for the terminal."""
  shown = ", ".join(printable(name) for name in names[:_SHOWN])
  return f" ({shown}{', ...' if len(names) > _SHOWN else ''})"
