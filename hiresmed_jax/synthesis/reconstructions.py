"""Images as the background model gives them back: made, measured, and written to a folder.

images/                 <number>.png or .dcm, of the size of the image that was given
records/                <number>.json, written last: the image is made
figures/pairs.png       some images and their reconstructions
reconstructions.jsonl   one line for each image
request.json            what was asked for
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hiresmed_jax import files
from hiresmed_jax.data import records, stored, transforms, writers
from hiresmed_jax.data.identity import Split
from hiresmed_jax.data.parallel import ordered_map
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import canvas
from hiresmed_jax.inference.contents import Contents, Image
from hiresmed_jax.inference.workdir import Model
from hiresmed_jax.metrics import image as image_metrics
from hiresmed_jax.metrics import ssim
from hiresmed_jax.runtime.figures import image_grid
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.synthesis import export, folder

MANIFEST = "reconstructions.jsonl"
_PAIRS = 8  # images of the figure
_KINDS = {"index": int, "image": str, "split": str}
_CURE = "delete it, and the same command makes that image again"


class Job(NamedTuple):
  """What is to be made.

  Attributes:
    model: of the route `background`.
    sources: records by split.
    images: in the order of their numbers.
    trained: contents of the dataset that the model was trained on.
    form: "png" or "dicom".
    look: how PNG show the images.
    measured: whether PSNR and SSIM are added.
    token: what the UIDs of DICOM are derived from.
    batch: images that go through the model at a time, on each device.
  """

  model: Model
  sources: Mapping[Split, records.Records]
  images: tuple[Image, ...]
  trained: Contents
  form: str
  look: export.Look
  measured: bool
  token: str
  batch: int = 1


def reconstructed(item: Mapping[str, Any], model: Model, device: jax.Device) -> np.ndarray:
  """A record's image through the model, in its size, type and units.

  Raises:
    UserError: the model's view would cut the image.
  """
  pixels, view = item["image"], model.view
  shape = pixels.shape[:2]
  if min(transforms.place(shape, view.shape, view.fit).corner) < 0:
    raise UserError(
      f"this run crops images to the aspect of {view.shape[0]} x {view.shape[1]} (data.fit='crop') "
      f"and one has {shape[0]} x {shape[1]} pixels: crop it first"
    )
  made = canvas.viewed(item, view, lambda image_m11: model.network(image_m11, device))
  values = transforms.place(made.shape, shape, "stretch").resize(made.values)
  return canvas.stored(transforms.with_channels(values, pixels.shape[-1]), item)


def write_missing(job: Job, out: Path, *, workers: int) -> None:
  """Makes and writes the images that are not there; the device makes no difference to them.

  Raises:
    UserError: see `reconstructed`.
  """
  devices = jax.local_devices()
  if job.batch > 1:  # a batch is of as many threads
    workers = max(workers, 2 * job.batch * len(devices))
  missing = [n for n in range(len(job.images)) if not folder.is_made(out, n)]

  def write(turn_and_number: tuple[int, int]) -> None:
    turn, number = turn_and_number
    _write(job, out, number, devices[turn % len(devices)])

  done = len(job.images) - len(missing)
  with Progress(len(job.images), "reconstruct", done=done, unit="image") as progress:
    for _ in ordered_map(write, enumerate(missing), workers=workers):
      progress.advance()


def _write(job: Job, out: Path, number: int, device: jax.Device) -> None:
  image = job.images[number]
  item = job.sources[image.split][image.number]
  kept: list[np.ndarray] = []

  def network(image_m11: np.ndarray, device: jax.Device) -> np.ndarray:
    kept.append(job.model.network(image_m11, device))
    return kept[-1]

  made = reconstructed(item, job.model._replace(network=network), device)
  name = f"images/{number:06d}.{'png' if job.form == 'png' else 'dcm'}"
  there = {one.digest: one.split for one in job.trained.images}
  facts = {
    "index": number,
    "image": name,
    "of": item["image_id"],
    "group": item["group"],
    "split": image.split,
    "in_training_data": there.get(image.digest),
    "height": made.shape[0],
    "width": made.shape[1],
    "spacing_mm": [float(side) for side in item["spacing_mm"]],
    "run": job.trained.fingerprint,
    "step": job.model.step,
  }
  if job.form == "png":
    facts["pixels"] = export.units(item, job.look)
    content = stored.encode_png(export.levels(made, item, job.look))
  else:
    content = writers.dicom(made, _about(item, job.token, number))
  if job.measured:
    facts |= _measured(item, job.model.view, kept[0])
  folder.write_image(out, number, {name: content}, facts)


def _measured(
  item: Mapping[str, Any], view: transforms.View, output_m11: np.ndarray
) -> dict[str, float]:
  """PSNR and SSIM of what the network sees and gives, without padding, as `evaluate` has them."""
  example, output_m11 = canvas.without_padding(item, view, lambda _: output_m11)
  before, after = (
    (np.clip(x, -1, 1)[None] + 1.0) / 2.0 for x in (example["images_m11"], output_m11)
  )
  found = {"psnr": float(image_metrics.psnr(after, before, data_range=1.0)[0])}
  if min(before.shape[1:3]) >= ssim.WINDOW:
    found["ssim"] = float(ssim.ssim(after, before, data_range=1.0)[0])
  return found


def _about(item: Mapping[str, Any], token: str, number: int) -> writers.DicomFacts:
  low, high = (float(end) for end in item["value_range"])
  return writers.DicomFacts(
    token=token,
    number=number,
    series=1,
    derivation="Synthetic: a patient's image as a trained model gives it back, which is not "
    "anonymous",
    rescale_slope=float(item["rescale_slope"]),
    rescale_intercept=float(item["rescale_intercept"]),
    hounsfield=canvas.is_hounsfield(item),
    value_range=(low, high),
    photometric=item["photometric"],
    spacing_mm=(float(item["spacing_mm"][0]), float(item["spacing_mm"][1])),
  )


def gather(job: Job, out: Path) -> list[dict[str, Any]]:
  """Writes what is about all images, and returns the lines of the manifest, in order."""
  paths = [out / "records" / f"{number:06d}.json" for number in range(len(job.images))]
  lines = [files.read_json(path, _KINDS, cure=_CURE) for path in paths]
  for line in lines:
    line.pop("bytes", None)  # of its files, for `folder.is_made`
  files.write(out / MANIFEST, b"".join(writers.json_line(line) for line in lines))
  chosen = lines[:: max(1, -(-len(lines) // _PAIRS))]
  rows = []
  for line in chosen:
    image = job.images[line["index"]]
    item = job.sources[image.split][image.number]
    rows.append([_shown(item, job.look), folder.picture_in_01(out / line["image"])])
  image_grid(
    out / "figures" / "pairs.png",
    rows,
    columns=("the image", "its reconstruction"),
    boxes=[np.zeros((0, 4))] * len(rows),
    labels=[f"{line['index']:06d}" for line in chosen],
    cell=512,
    footer=f"reconstructions: {len(lines)}. Not anonymous.",
  )
  return lines


def _shown(item: Mapping[str, Any], look: export.Look) -> np.ndarray:
  """A record as it is written, f32[H, W, C] in [0, 1]."""
  levels = export.levels(item["image"], item, look)
  return levels.astype(np.float32) / np.iinfo(levels.dtype).max
