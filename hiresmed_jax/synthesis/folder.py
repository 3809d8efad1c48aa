"""The folder of a request: one set of files an image, and files about all of them.

images/ twins/   <number>.png or .dcm
masks/           <number>.png, uint16 instance ids, id = line in labels/
shams/           <number>.png, where lesion-free content was put
labels/          <number>.txt, YOLO; data.yaml beside it
records/         <number>.json, written last: the image is made
annotations.json manifest.jsonl contact_sheet.png request.json
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiresmed_jax import files
from hiresmed_jax.data import stored, writers
from hiresmed_jax.data.readers import dicom as reader
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas
from hiresmed_jax.runtime.config import differences
from hiresmed_jax.runtime.figures import image_grid
from hiresmed_jax.synthesis.image import Made

REQUEST, MANIFEST, COCO = "request.json", "manifest.jsonl", "annotations.json"
_CONTACT_SHEET = "contact_sheet.png"
_SHEET_ROWS = 8
_FOLDERS = ("images", "twins", "masks", "shams", "labels", "records")
_SUFFIX = {"png": "png", "dicom": "dcm"}


def claim(out: Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> None:
  """Makes the folder this request's, or finds that it is.

  Raises:
    UserError: it holds images of another request, or something else.
  """
  path = out / REQUEST
  if overwrite and path.is_file():
    for name in _FOLDERS:
      shutil.rmtree(out / name, ignore_errors=True)
    for name in (REQUEST, MANIFEST, COCO, _CONTACT_SHEET, "data.yaml"):
      (out / name).unlink(missing_ok=True)
  if path.is_file():
    try:
      changed = differences(json.loads(path.read_text()), identity)
    except (ValueError, TypeError, AttributeError) as error:
      raise UserError(f"{path} is damaged: use another --out") from error
    if changed:
      raise UserError(
        f"{out} holds images of another request ({changed[0]}): use another --out, or --overwrite"
      )
    return
  if out.is_file() or (out.is_dir() and any(out.iterdir())):
    raise UserError(f"{out} is there and holds no images of this program: name another --out")
  files.write_json(path, identity, sort_keys=True)


def is_made(out: Path, index: int) -> bool:
  """Whether image `index` is there, whole."""
  return (out / "records" / f"{index:06d}.json").is_file()


def write(out: Path, made: Made, *, form: str, token: str) -> None:
  """Writes the files of one image, its record last.

  Args:
    out: the folder.
    made: the image.
    form: "png" or "dicom".
    token: what the UIDs of DICOM are derived from.
  """
  facts = dict(made.facts)
  index = facts["index"]
  name = f"{index:06d}"
  paths = {"image": f"images/{name}.{_SUFFIX[form]}", "twin": f"twins/{name}.{_SUFFIX[form]}"}
  paths["mask"] = f"masks/{name}.png"
  for series, (key, pixels) in enumerate({"image": made.image, "twin": made.twin}.items(), 1):
    if form == "png":
      content = stored.encode_png(pixels)
    else:
      content = writers.dicom(pixels, _about(made, token, series))
    files.write(out / paths[key], content)
  files.write(out / paths["mask"], stored.encode_png(made.mask))
  if made.sham_mask is not None:
    paths["shams"] = f"shams/{name}.png"
    files.write(out / paths["shams"], stored.encode_png(made.sham_mask))
  text = writers.yolo_labels(made.boxes, height=facts["height"], width=facts["width"])
  files.write(out / "labels" / f"{name}.txt", text)
  runs = [writers.run_lengths(made.mask == n + 1) for n in range(len(made.boxes))]
  record = {"manifest": facts | paths, "runs": runs, "shown": _shown(made)}
  files.write(out / "records" / f"{name}.json", writers.json_line(record))


def gather(out: Path) -> list[dict[str, Any]]:
  """Writes what is about all images that are there, and returns their records, in order.

  Several shards may do it at a time: images that appear meanwhile are included.
  """
  files.write(out / "data.yaml", writers.yolo_dataset(name=writers.CATEGORY))
  while True:
    paths = _records(out)
    records = [json.loads(path.read_text()) for path in paths]
    lines = [writers.json_line(record["manifest"]) for record in records]
    files.write(out / MANIFEST, b"".join(lines))
    files.write(out / COCO, writers.coco([_coco(record) for record in records]))
    if _records(out) == paths:
      return records


def substitutes(records: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
  """(lesions that stand in for one that the bank did not give, inserted lesions) of `gather`."""
  lesions = [fact for record in records for fact in record["manifest"]["lesions"]]
  inserted = [fact for fact in lesions if fact["kind"] != "own"]
  return sum(fact.get("substitute_because") is not None for fact in inserted), len(inserted)


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
    "file_name": facts["image"],
    "height": facts["height"],
    "width": facts["width"],
    "lesions": lesions,
  }


def _shown(made: Made) -> dict[str, Any]:
  """How a viewer shows the stored values, for the contact sheet."""
  return {
    "value_range": list(made.canvas.value_range),
    "slope": float(made.item["rescale_slope"]),
    "intercept": float(made.item["rescale_intercept"]),
    "inverted": made.item["photometric"] == "MONOCHROME1",
    "channels": made.image.shape[-1],
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
    hounsfield=item["physics"] == "ct" and not np.isclose(item["rescale_intercept"], 0.0),
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
    rows.append([_picture_in_01(out / facts[key], record["shown"]) for key in ("image", "twin")])
    boxes.append(np.asarray([lesion["tight_box"] for lesion in facts["lesions"]]))
  path = out / _CONTACT_SHEET
  image_grid(
    path,
    rows,
    columns=("SYNTHETIC", "SYNTHETIC, its twin without lesions"),
    boxes=boxes,
    labels=[f"{record['manifest']['index']:06d}" for record in chosen],
    cell=512,
    footer=f"SYNTHETIC images, not of any patient's lesions; {len(records)} in all",
  )
  return path


def _picture_in_01(path: Path, scale: dict[str, Any]) -> np.ndarray:
  low, high = scale["value_range"]
  return canvas.shown(
    _pixels(path, scale["channels"]),
    (low, high),
    slope=scale["slope"],
    intercept=scale["intercept"],
    inverted=scale["inverted"],
  )


def _pixels(path: Path, channels: int) -> np.ndarray:
  if path.suffix == ".dcm":
    (sample,) = reader.read(path)
    return sample.image
  return stored.decode_image(path.read_bytes(), dtype=np.uint16, channels=channels)
