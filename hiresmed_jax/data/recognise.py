"""What a labelling tool, a scanner's archive or a challenge left in a folder."""

import collections
import contextlib
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from hiresmed_jax.data import listing, matching
from hiresmed_jax.data.readers import layouts, masks
from hiresmed_jax.data.readers.text import BadBoxes, text_of
from hiresmed_jax.errors import UserError
from hiresmed_jax.files import content

# Suffixes of the formats, and where a tool that keeps labels apart from images puts them.
_LABEL_SUFFIX = {
  "yolo": ".txt", "voc": ".xml", "cvat": ".xml", "csv": ".csv",
  "coco": ".json", "labelstudio": ".json", "labelme": ".json",
}  # fmt: skip
_MANIFEST = "manifest.jsonl"  # of `synthesize`
_LABEL_FOLDERS = ("labels", "annotations")
# What files of boxes and outlines hold, of any tool.
_TELLS_BOXES = re.compile(
  rb"b(ounding|nd)?[ _]?box|[xy][ _]?(min|cent)|segmentation\"|shape_attr|\"exterior|<polygon"
  rb"|(rectangle|polygon|brush|ellipse)labels|(^|[,;\t])x[,;\t](.*[,;\t])?y[,;\t\r\n]"
  rb"|coordinates\"|coord_?[xy]|diameter_mm",
  re.IGNORECASE,
)
_BEFORE_HEADER = re.compile(rb"\A(#.*\n|sep=.\r?\n|\s*\n)+", re.IGNORECASE)
_ROW_OF_BOX = re.compile(rb"[^,;\t]*\.(png|jpe?g|tiff?|dcm)([,;\t] ?[\d.]+){4}", re.IGNORECASE)
# No masks here.
_OTHER_PIXELS = tuple(".npy .npz .mat .gif .bmp .webp .jp2 .dcm .nrrd .nhdr .hdr".split())
_MASK_FOLDERS = frozenset(
  "masks mask labels labelstr labelsts segmentations segmentation groundtruth gt annotations "
  "segmentationclass segmentationobject".split()
)


class Source(NamedTuple):
  """A recognised source folder.

  Attributes:
    layout: whose folder it looks like, for the user; "" for none in particular.
    kind: `images`, `dicom`, `volumes` or `lidc`.
    root: folder of the images.
    files: of the images.
    passed_over: (path, why) of other files.
    boxes: format of the labels; None without labels.
    labels: label files.
    label_root: folder that the names of label files are relative to.
    masks: folder of the lesion masks; None without them.
    map_names: classes of the values of label maps.
    unread: files that look like labels, of no format that is read, where there are no others.
    groups: by file below `root`, where the folder tells them; None: it does not.
  """

  layout: str
  kind: str
  root: Path
  files: list[Path]
  passed_over: list[tuple[Path, str]]
  boxes: str | None
  labels: list[Path]
  label_root: Path
  masks: Path | None
  map_names: dict[int, str]
  unread: list[Path]
  groups: dict[str, str] | None = None


def recognise(
  source: Path,
  *,
  kind: str | None = None,
  boxes: str | None = None,
  labels: Path | None = None,
  masks_folder: Path | None = None,
  leave_out: Iterable[Path] = (),
  not_labels: Iterable[Path] = (),
  twins: bool = False,
) -> Source:
  """Looks at a folder.

  Args:
    source: the folder.
    kind: of the images; None takes that of most files.
    boxes: format of the labels; None takes what is found.
    labels: label file, or folder of them; None looks in `source` and beside it.
    masks_folder: of the lesion masks.
    leave_out: other folders that hold no images.
    not_labels: tables that are no labels.
    twins: take the twins of a folder of `synthesize`, as negatives.

  Raises:
    UserError: no images, no labels of a format that is asked for, or labels of several formats.
  """
  if (source / _MANIFEST).is_file() and labels is None:
    return _made_by_synthesize(source, twins=twins)
  if twins:
    raise UserError(f"--twins is for a folder of synthesize, and {source} has no {_MANIFEST}")
  kind = kind or listing.kind_of(source)
  if kind is None:
    packed = any(path.name.lower().endswith(listing.ARCHIVES) for path in source.rglob("*"))
    raise UserError(
      f"no image in {source}: no PNG, JPEG, TIFF, DICOM, NIfTI or MetaImage file was found"
      + (", but an archive: unpack it" if packed else "")
    )
  root = listing.image_folder(source) if kind == "images" else source
  map_names: dict[int, str] = {}
  if (source / "imagesTr").is_dir():
    map_names = _map_names(source / "dataset.json")
    own_maps = source / "labelsTr"
    masks_folder = masks_folder or (own_maps if own_maps.is_dir() else None)
  apart = [p for p in (*leave_out, masks_folder, labels) if p and p.is_dir() and p != root]
  inner = [] if kind in ("dicom", "lidc") else _mask_folders(root, kind, apart)
  found = listing.walk(root, kind, leave_out=[*apart, *inner])
  passed_over = list(found.passed_over)
  for folder in inner:
    passed_over += [
      (path, "lies in a folder of masks that is not named: --masks, --hosts or --forbidden")
      for path in listing.list_files(folder, kind)
    ]
  if root != source:
    passed_over += [
      (path, "lies beside the folder that is read: --masks, --hosts or --forbidden")
      for path in listing.list_files(source, kind)
      if not any(path.is_relative_to(folder) for folder in (root, *apart))
    ]
  files = found.files
  if map_names:
    other = matching.other_channels(files)
    passed_over += [(path, "is another channel of an image (nnU-Net)") for path in sorted(other)]
    files = [path for path in files if path not in other]
  if not files:
    likely = listing.kind_of(root)
    hint = f"; it looks like --kind {likely}" if likely and likely != kind else ""
    raise UserError(f"no {kind} files in {root}{hint}")
  labelled: tuple[str | None, list[Path], Path] = (None, [], source)
  unread: list[Path] = []
  if kind != "lidc":
    labelled = _labels(source, boxes, labels, required=labels is not None)
    if boxes is None and not (labels and labels.is_file()):
      unread = _like_labels(labelled[2], files, kind, but={*labelled[1], *not_labels})
  form, label_files, label_root = labelled
  if form in (
    "yolo",
    "voc",
    "labelme",
  ):  # read with the others, each of which tells why it cannot be
    own = {_stem(path) for path in files}
    label_files += [
      p for p in unread if p.suffix.lower() == _LABEL_SUFFIX[form] and _stem(p) in own
    ]
  used = set(label_files)
  return Source(
    _layout(source, files, form, label_files, map_names),
    kind, root, files, [(path, why) for path, why in passed_over if path not in used],
    form, label_files, label_root, masks_folder, map_names, [] if form else unread,
  )  # fmt: skip


def _made_by_synthesize(source: Path, *, twins: bool) -> Source:
  """A folder of `synthesize`, whose manifest tells images, labels and the groups of backgrounds."""
  path = source / _MANIFEST
  try:
    lines = [json.loads(line) for line in content(path).splitlines()]
    groups = {
      line[key]: line["background"]["group"]
      for line in lines
      for key in ("image", "twin")[: 1 + twins]
    }
    version = json.loads(content(source / "request.json")).get("version", 1)
  except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(f"{path} is damaged, or no manifest of synthesize") from error
  if version < 2 or not groups:
    raise UserError(
      f"{source} has no images, or is of an older version of synthesize: prepare its images with "
      "--labels"
    )
  kind = "dicom" if next(iter(groups)).endswith(".dcm") else "images"
  files = [source / name for name in groups]
  return Source(
    "synthesize", kind, source, files, [], "manifest", [path], source, None, {}, [], groups
  )  # fmt: skip


def mask_files(folder: Path, but: Iterable[Path] = ()) -> tuple[list[Path], list[Path]]:
  """(files of a folder that can be masks, others with pixels), which are not images themselves.

  Raises:
    UserError: there is no such folder, or no mask in it.
  """
  if not folder.is_dir():
    raise UserError(f"no folder of masks {folder}")
  taken = set(but)
  files = [path for path in _files(folder) if path not in taken]
  found = [path for path in files if path.name.lower().endswith(masks.SUFFIXES)]
  if not found:
    raise UserError(f"no mask in the folder of masks {folder}: PNG, TIFF, NIfTI or MetaImage")
  return found, [path for path in files if path.name.lower().endswith(_OTHER_PIXELS)]


def _files(folder: Path) -> list[Path]:
  """All files that are not hidden."""
  return sorted(
    path
    for path in folder.rglob("*")
    if path.is_file()
    and not any(
      part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts
    )
  )


def _labels(
  source: Path, boxes: str | None, labels: Path | None, *, required: bool
) -> tuple[str | None, list[Path], Path]:
  """(format, files, folder of their names)."""
  role = next((p for p in (source, source.parent) if p.name.casefold() in matching.ROLES), None)
  if labels is None and role is not None:
    beside = (role.parent / name / source.relative_to(role) for name in _LABEL_FOLDERS)
    labels = next((folder for folder in beside if folder.is_dir()), None)
  folder = source if labels is None else labels
  if folder.is_file():
    form = boxes or layouts.format_of(folder)
    if form is None:
      raise UserError(f"--labels {folder} is no label file of {', '.join(layouts.FORMATS)}")
    return form, [folder], folder.parent
  if not folder.is_dir():
    raise UserError(f"no folder or file of labels {folder}: name it with --labels")
  if boxes is not None:
    suffix = _LABEL_SUFFIX[boxes]
    found = [path for path in _files(folder) if path.suffix.lower() == suffix]
    found = [path for path in found if not layouts.BY_PRODUCTS.fullmatch(path.name)]
    if boxes in (*layouts.OF_MANY, "labelme") and len(found) > 1:
      found = [path for path in found if layouts.format_of(path) == boxes]
    if not found:
      raise UserError(f"no {suffix} file of the format {boxes} in the folder of labels {folder}")
    return boxes, found, folder
  by_form = _by_form(_files(folder))
  if not by_form and labels is None and role is not None:
    near = _by_form(p for p in sorted(role.parent.iterdir()) if p.is_file() and p.suffix != ".txt")
    by_form = {form: paths for form, paths in near.items() if form in layouts.OF_MANY}
  if len(by_form) > 1:
    listed = ", ".join(f"{form} ({len(files)} files)" for form, files in sorted(by_form.items()))
    raise UserError(f"{folder} holds labels of several formats, {listed}: choose one with --boxes")
  if not by_form:
    if required:
      raise UserError(f"no labels in {folder} of {', '.join(layouts.FORMATS)}")
    return None, [], folder
  ((form, found),) = by_form.items()
  return form, found, folder


def _by_form(paths: Iterable[Path]) -> dict[str, list[Path]]:
  """The label files among some files, by format."""
  found = collections.defaultdict(list)
  for path in paths:
    if path.suffix.lower() in _LABEL_SUFFIX.values() and (form := layouts.format_of(path)):
      found[form].append(path)
  return found


def _like_labels(
  folder: Path, files: Iterable[Path], kind: str, *, but: Iterable[Path]
) -> list[Path]:
  """Files that are named as an image or tell of boxes, and are of no format that is read."""
  known, stems = {path.resolve() for path in but}, {_stem(path) for path in files}

  def looks_so(path: Path) -> bool:
    suffix = path.suffix.lower()
    if _stem(path) in stems and (suffix == ".txt" or (kind == "images" and suffix != ".csv")):
      return True
    if suffix == ".txt":
      return False
    start = _start_of(path, suffix)
    if suffix in (".csv", ".tsv"):
      start = _BEFORE_HEADER.sub(b"", start).partition(b"\n")[0] + b"\n"
    return bool(_TELLS_BOXES.search(start) or _ROW_OF_BOX.match(start))

  suffixes = {*_LABEL_SUFFIX.values(), ".tsv", ".jsonl", ".ndjson", ".xlsx"}
  return [
    path
    for path in _files(folder)
    if path.suffix.lower() in suffixes
    and not layouts.BY_PRODUCTS.fullmatch(path.name)
    and path.resolve() not in known
    and looks_so(path)
  ]


def _start_of(path: Path, suffix: str) -> bytes:
  """The first 64 kB of a file, of a workbook those of its texts."""
  with contextlib.suppress(zipfile.BadZipFile, KeyError, OSError):
    if suffix == ".xlsx":
      with zipfile.ZipFile(path) as book, book.open("xl/sharedStrings.xml") as texts:
        return texts.read(1 << 16)
    with path.open("rb") as file:
      return file.read(1 << 16).replace(b"\0", b"")  # of UTF-16
  return b""


def _stem(path: Path) -> str:
  """Of an image or of its label: `a` of `a.png`, `a.txt` and `a.png.txt`."""
  name = (
    path.name[: -len(path.suffix)] if path.suffix.lower() in _LABEL_SUFFIX.values() else path.name
  )
  return matching.stem_of(name)


def _mask_folders(root: Path, kind: str, known: Sequence[Path]) -> list[Path]:
  """Folders inside `root` that are named as folders of masks and hold files of the kind."""
  taken = {path.resolve() for path in known}
  folders = [p for p in root.rglob("*") if _is_of_masks(p.name) and p.is_dir()]
  return [p for p in folders if p.resolve() not in taken and listing.list_files(p, kind)]


def _is_of_masks(name: str) -> bool:
  """Whether a folder is named `masks`, `lesion_masks`, `mask 2`."""
  words = re.split(r"[ _.-]+", name.casefold())
  return bool({name.casefold(), words[-1]} & _MASK_FOLDERS) or words[0] in ("mask", "masks", "gt")


def _map_names(path: Path) -> dict[int, str]:
  """Class of each value of the label maps, without the background, from a dataset.json."""
  try:
    labels = json.loads(content(path)).get("labels", {})
    pairs = [
      (int(k), str(v)) if str(k).isdecimal() else (int(v), str(k)) for k, v in labels.items()
    ]
  except (OSError, ValueError, TypeError, AttributeError, RecursionError):
    return {}
  return {value: name for value, name in pairs if value}


def _layout(
  source: Path,
  files: Sequence[Path],
  form: str | None,
  labels: Sequence[Path],
  map_names: dict[int, str],
) -> str:
  """The tool or challenge that a folder looks like."""
  names = {path.name.lower() for path in source.iterdir()}
  beside = {path.parent for path in labels} & {path.parent for path in files}
  parents = {part for path in files[:100] for part in path.relative_to(source).parts[:-1]}
  if (source / "imagesTr").is_dir():
    return "nnU-Net" if "dataset.json" in names and map_names else "Decathlon / nnU-Net"
  if "readme.roboflow.txt" in names or any(".rf." in path.name for path in files[:20]):
    return "Roboflow"
  if (
    form == "cvat"
    or "obj_train_data" in parents
    or any(p.stem == "instances_default" for p in labels)
  ):
    return "CVAT"
  if form in ("labelstudio", "labelme"):
    return {"labelstudio": "Label Studio", "labelme": "labelme"}[form]
  if form == "csv":
    return "VinDr / RSNA"
  if form == "voc":
    return "LabelImg" if beside else "Pascal VOC"
  if form == "yolo":
    return "darknet" if beside else "ultralytics" if "data.yaml" in names else "YOLO"
  if form is None and any(p.lower().startswith("patient") for p in parents):
    return "CheXpert / MURA"
  return "COCO" if form == "coco" else ""


def class_names(folders: Sequence[Path]) -> list[str]:
  """Names of YOLO's classes, from data.yaml, classes.txt or obj.names of the first that has one.

  Raises:
    UserError: the labels hold key points.
  """
  for folder in folders:
    for path in (folder / "classes.txt", *sorted(folder.glob("*.names"))):
      if path.is_file():
        lines = text_of(path).rstrip().splitlines()
        return [line.strip() or str(number) for number, line in enumerate(lines)]
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
      try:
        facts = yaml.safe_load(text_of(path)) or {}
        names, key_points = facts.get("names"), facts.get("kpt_shape")
      except (yaml.YAMLError, AttributeError, BadBoxes):
        continue
      if key_points:  # two-dimensional ones look like the corners of an outline
        raise UserError(f"{path} tells of key points (kpt_shape), which are not read: export boxes")
      if isinstance(names, dict):
        named = {int(number): name for number, name in names.items()}
        names = [str(named.get(n, n)) for n in range(max(named, default=-1) + 1)]
      if isinstance(names, list):
        return [str(name) for name in names]
  return []
