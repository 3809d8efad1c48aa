"""The folder of a request: one set of files an image, and files about all of them.

images/ twins/   <number>.png or .dcm
masks/           <number>.png, uint16 instance ids, id = line in labels/
shams/           <number>.png, where lesion-free content was put
labels/          <number>.txt, YOLO; data.yaml beside it where images are PNG
records/         <number>.json, written last: the image is made
annotations.json manifest.jsonl contact_sheet.png request.json

The layout "coco" has no labels/ and no data.yaml. The layout "nnunet" has in place of images/,
labels/ and annotations.json: imagesTr/<number>_0000.png, labelsTr/<number>.png (1: lesion) and
dataset.json. real/ holds images and labels for validation.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hiresmed_jax import files
from hiresmed_jax.data import stored, writers
from hiresmed_jax.data.readers import dicom as reader
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas
from hiresmed_jax.runtime.config import differences
from hiresmed_jax.runtime.figures import image_grid
from hiresmed_jax.synthesis import export
from hiresmed_jax.synthesis.image import Made, Setting

REQUEST, MANIFEST, COCO = "request.json", "manifest.jsonl", "annotations.json"
_CONTACT_SHEET = "contact_sheet.png"
_SHEET_ROWS = 8
# What the contact sheet says of lesions and backgrounds, by their kinds in the manifest.
_LESIONS = {
  "singan": "generated lesions",
  "copy": "copies of training lesions",
  "parametric": "lesions from a formula",
  "own": "real lesions of the backgrounds",
}
_GROUNDS = {"real": "training images", "reconstruction": "reconstructions of training images"}
# 2: PNG as a person sees them, compressed run lengths. 3: other insertion, places and holes. 4:
# holes are filled with real grain. 5: fainter traces of lesions count, and hosts only where they
# help. 6: in radiographs a dense lesion darkens nothing. 7: copies keep their pixels. A folder that
# was begun before would hold images of both kinds.
_VERSION = 7
_FOLDERS = tuple("images twins masks shams labels records imagesTr labelsTr real figures".split())
_TEXTS = (MANIFEST, "reconstructions.jsonl", "data.yaml", "dataset.json")
# What every record has.
_FACTS = {"index": int, "height": int, "width": int, "lesions": list}
_KINDS = {"runs": list, "channels": int, "manifest": _FACTS}
_CURE = "delete it, and the same command makes that image again"


def claim(out: Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> None:
  """Makes the folder this request's, or finds that it is.

  `identity` may hold a "version" of its own in place of that of synthetic images.

  Raises:
    UserError: it holds images of another request, or something else.
  """
  path, identity = out / REQUEST, {"version": _VERSION} | dict(identity)
  ours = path.is_file()
  if overwrite and ours:
    for name in _FOLDERS:
      if (out / name).is_symlink():
        raise UserError(f"{out / name} is a link: remove it, then {out} can be overwritten")
    for name in _FOLDERS:
      shutil.rmtree(out / name, ignore_errors=True)
    for name in (COCO, _CONTACT_SHEET, *_TEXTS, REQUEST):  # the last says whose folder it is
      (out / name).unlink(missing_ok=True)
  if not path.is_file():
    # Another shard may be about to write it.
    foreign = out.is_dir() and any(not one.name.endswith(".partial") for one in out.iterdir())
    if out.is_file() or (foreign and not ours and not path.is_file()):
      raise UserError(f"{out} is there and holds no images of this program: name another --out")
    files.write_json(path, identity, sort_keys=True, replace=False)
  try:
    before = json.loads(files.content(path))
    changed, version = differences(before, identity), before.get("version", 1)
  except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(f"{path} is damaged: use another --out") from error
  if version != identity["version"]:
    raise UserError(
      f"{out} was made by another version of this program, whose files differ (version "
      f"{version}, this one writes {identity['version']}): use another --out, or --overwrite"
    )
  if changed:
    raise UserError(
      f"{out} holds images of another request ({changed[0]}): use another --out, or --overwrite"
    )


def begun(out: Path) -> dict[str, Any] | None:
  """The identity of the images in a folder; None where there is none that can be read."""
  try:
    found = json.loads(files.content(out / REQUEST))
  except (OSError, ValueError, RecursionError):
    return None
  return found if isinstance(found, dict) else None


def is_made(out: Path, index: int) -> bool:
  """Whether image `index` is there, and each of its files as long as it was written."""
  try:
    record = json.loads(files.content(_record(out, index)))
    return all((out / name).stat().st_size == size for name, size in record["bytes"].items())
  except FileNotFoundError:
    return False
  except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError):
    return True  # of an earlier version, or damaged, which `gather` tells


def write_image(
  out: Path, index: int, contents: Mapping[str, bytes], record: Mapping[str, Any]
) -> None:
  """Writes the files of an image, {name in the folder: content}, and its record, which is last.

  The image comes after its labels: where writing ends early, none is without.
  """
  for name in sorted(contents, key=lambda name: name.startswith("images")):
    files.write(out / name, contents[name])
  sizes = {name: len(content) for name, content in contents.items()}
  files.write(_record(out, index), writers.json_line(dict(record) | {"bytes": sizes}))


def _record(out: Path, index: int) -> Path:
  return out / "records" / f"{index:06d}.json"


def write(out: Path, made: Made, setting: Setting, *, token: str) -> None:
  """Writes the files of one image; see `write_image`.

  Args:
    out: the folder.
    made: the image.
    setting: what it is made of: its request, look and classes.
    token: what the UIDs of DICOM are derived from.
  """
  form, layout, facts = setting.request.format, setting.request.layout, dict(made.facts)
  name, contents = f"{facts['index']:06d}", {}
  suffix = "png" if form == "png" else "dcm"
  paths = {"image": f"images/{name}.{suffix}", "twin": f"twins/{name}.{suffix}"}
  paths["mask"] = f"masks/{name}.png"
  if layout == "nnunet":
    paths["image"] = f"imagesTr/{name}_0000.png"
    contents[f"labelsTr/{name}.png"] = stored.encode_png((made.mask > 0).astype(np.uint8))
  shown = {key: export.levels(getattr(made, key), made.item, setting.look)
           for key in ("image", "twin")}  # fmt: skip
  if form == "png":
    facts["pixels"] = export.units(made.item, setting.look)
  for series, (key, pixels) in enumerate(shown.items(), 1):
    if form == "png":
      contents[paths[key]] = stored.encode_png(pixels)
    else:
      contents[paths[key]] = writers.dicom(getattr(made, key), _about(made, token, series))
  contents[paths["mask"]] = stored.encode_png(made.mask)
  if made.sham_mask is not None:
    paths["shams"] = f"shams/{name}.png"
    contents[paths["shams"]] = stored.encode_png(made.sham_mask)
  if layout == "ultralytics":
    contents[f"labels/{name}.txt"] = writers.yolo_labels(
      made.boxes,
      height=facts["height"],
      width=facts["width"],
      number=setting.classes.yolo()[setting.classes.lesion],
    )
  runs = [writers.run_lengths(made.mask == n + 1) for n in range(len(made.boxes))]
  record = {"manifest": facts | paths, "runs": runs, "channels": made.image.shape[-1]}
  write_image(out, facts["index"], contents, record)


def gather(out: Path, setting: Setting, *, has_real: bool = False) -> list[dict[str, Any]]:
  """Writes what is about all images that are there, and returns their records, in order.

  Several shards may do it at a time: images that appear meanwhile are included.

  Args:
    out: the folder.
    setting: of the images; its request, look and classes are used.
    has_real: whether real images for validation lie in it.
  """
  request, classes = setting.request, setting.classes
  if request.layout == "ultralytics" and request.format == "png":
    val = "real/images" if has_real else None
    files.write(out / "data.yaml", writers.yolo_dataset(classes, val=val))
  while True:
    paths = _records(out)
    records = [files.read_json(path, _KINDS, cure=_CURE) for path in paths]
    lines = [writers.json_line(record["manifest"]) for record in records]
    files.write(out / MANIFEST, b"".join(lines))
    if request.layout == "nnunet":
      channels = max((record["channels"] for record in records), default=1)
      about = writers.nnunet_dataset(classes, channels=channels, images=len(records))
      files.write(out / "dataset.json", about)
    else:
      files.write(out / COCO, writers.coco([_coco(record) for record in records], classes))
    if _records(out) == paths:
      return records


def substitutes(records: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
  """(lesions that stand in for one that the bank did not give, inserted lesions) of `gather`."""
  lesions = [fact for record in records for fact in record["manifest"]["lesions"]]
  inserted = [fact for fact in lesions if fact["kind"] != "own"]
  return sum(fact.get("substitute_because") is not None for fact in inserted), len(inserted)


def drawn_again(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
  """How often lesions too faint to see, and shams that stood out, were drawn again; of `gather`."""
  facts = [record["manifest"].get("drawn_again", {}) for record in records]
  return {what: sum(fact.get(what, 0) for fact in facts) for what in ("lesions", "shams")}


def faint(records: Sequence[Mapping[str, Any]]) -> int:
  """How many lesions stayed fainter than 99 of 100 real ones, however often they were drawn."""
  return sum(record["manifest"].get("faint", 0) for record in records)


def _records(out: Path) -> list[Path]:
  return sorted((out / "records").glob("[0-9]*.json"))


def _coco(record: Mapping[str, Any]) -> dict[str, Any]:
  facts = record["manifest"]
  lesions = [
    {"box": fact["box"], "area": fact["area_px"], "counts": counts}
    for fact, counts in zip(facts["lesions"], record["runs"], strict=True)
  ]
  return {
    "id": facts["index"],
    "file_name": Path(facts["image"]).name,
    "height": facts["height"],
    "width": facts["width"],
    "lesions": lesions,
  }


def _about(made: Made, token: str, series: int) -> writers.DicomFacts:
  facts, item = made.facts, made.item
  lesions = len(facts["lesions"]) if series == 1 else 0
  ground = "the pixels" if facts["background"]["kind"] == "real" else "a reconstruction"
  return writers.DicomFacts(
    token=token,
    number=facts["index"],
    series=series,
    derivation=f"Synthetic: {lesions} lesions in {ground} of a patient's image, which is not "
    f"anonymous; insertion {facts['blend']}",
    rescale_slope=float(item["rescale_slope"]),
    rescale_intercept=float(item["rescale_intercept"]),
    hounsfield=canvas.is_hounsfield(item),
    value_range=made.canvas.value_range,
    photometric=item["photometric"],
    spacing_mm=made.canvas.spacing_mm,
  )


def draw_contact_sheet(out: Path, records: Sequence[dict[str, Any]]) -> Path:
  """Writes a page with a few images and twins, evenly from the set, and a lesion magnified in each.

  Args:
    out: folder of the images.
    records: of `gather`, at least one.

  Returns:
    The path of the PNG.
  """
  count = min(_SHEET_ROWS, len(records))
  chosen = [records[i * len(records) // count] for i in range(count)]
  rows, boxes = [], []
  for record in chosen:
    facts = record["manifest"]
    rows.append([picture_in_01(out / facts[key]) for key in ("image", "twin")])
    boxes.append(np.asarray([lesion["box"] for lesion in facts["lesions"]]))
  path = out / _CONTACT_SHEET
  image_grid(
    path,
    rows,
    columns=("SYNTHETIC", "SYNTHETIC, its twin without lesions"),
    boxes=boxes,
    labels=[f"{record['manifest']['index']:06d}" for record in chosen],
    cell=512,
    footer=f"SYNTHETIC, {len(records)} images: {_made_of(records)}. Not anonymous.",
  )
  return path


def _made_of(records: Sequence[dict[str, Any]]) -> str:
  """Where lesions and backgrounds of a folder come from, in words."""
  facts = [record["manifest"] for record in records]
  kinds = {lesion["kind"] for fact in facts for lesion in fact["lesions"]}
  lesions = " and ".join(words for kind, words in _LESIONS.items() if kind in kinds)
  grounds = {fact["background"]["kind"] for fact in facts}
  ground = " and ".join(words for kind, words in _GROUNDS.items() if kind in grounds)
  if any("dataset" in fact["background"] for fact in facts):
    ground = ground.replace("training images", "images of another dataset")
  return f"{lesions or 'no lesions'} in {ground}"


def picture_in_01(path: Path) -> np.ndarray:
  """A written image as a viewer shows it, f32[H, W, C] in [0, 1]."""
  if path.suffix == ".dcm":
    (sample,) = reader.read(path)
    return canvas.shown(
      sample.image,
      sample.value_range,
      slope=sample.rescale_slope,
      intercept=sample.rescale_intercept,
      inverted=sample.photometric == "MONOCHROME1",
    )
  levels = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
  colour = levels[..., ::-1] if levels.ndim == 3 else levels[..., None]
  return colour.astype(np.float32) / np.iinfo(levels.dtype).max
