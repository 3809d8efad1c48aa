"""A folder in which the commands of the docs can run: small sources, a dataset, a trained run.

The run and its dataset are those of tests/data/legacy, phantoms of 64 x 64. A file `kub.py` in the
folder stands for the config of that name: a config is looked for as a path first.
"""

import json
import re
import shutil
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np

from hiresmed_jax.data import phantom, records, writers
from hiresmed_jax.data.sample import Sample
from tests.data.readers import lidc_series

LEGACY = Path(__file__).parents[1] / "data" / "legacy"
_PATIENTS = 12
_CONFIG = '''"""The config of the run in this folder."""
from hiresmed_jax.routes import settings
from hiresmed_jax.runtime.overrides import apply_override


def get_config(arg="all"):
  route, preset = settings.route_and_preset(arg)
  config = settings.base("kub", route=route, preset=preset)
  config.data = settings.values("data", "best")
  config.background.net = settings.values("background", "best").net
  for override in {overrides!r}:
    apply_override(config, override)
  return config
'''


def make(root: Path) -> Path:
  """Writes everything below `root`."""
  drawn = phantom.phantoms("kub", _PATIENTS, 64, seed=0)
  samples = {f"scan_{number}": one.sample for number, one in enumerate(drawn)}
  for name in ("stones", "stones_coco", "stones_voc", "stones_masks"):
    for stem, sample in samples.items():
      _png(root / name / "images" / f"{stem}.png", sample.image)
  _labels(root, samples)
  _dicom(root / "kub_dicom", samples)
  _volumes(root / "ct_volumes")
  _lidc(root)
  _trained(root)
  for number, one in enumerate(phantom.phantoms("kub", 6, 64, seed=9)):
    _png(root / "normals" / f"film_{number}.png", one.sample.image)
  others = (one.sample for one in phantom.phantoms("kub", _PATIENTS, 64, seed=9))
  records.write_dataset(others, root / "data" / "other", kind="phantom")
  (root / "answers.csv").write_text("reader,tp,fn,fp,tn\nsenior,85,15,55,45\njunior,65,35,55,45\n")
  for number in range(3):
    for name in ("real", "ddm"):
      _png(root / name / f"scan_{number}.png", samples[f"scan_{number}"].image)
    made = root / "runs" / "ddm" / "ddm" / "samples" / f"sample_{number:06d}.png"
    _png(made, samples[f"scan_{number}"].image)
  return root


def _png(path: Path, image: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  assert cv2.imwrite(str(path), image)


def _text(path: Path, content: bytes | str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _labels(root: Path, samples: dict[str, Sample]) -> None:
  rows = [f"{stem}.png,patient {number // 2}" for number, stem in enumerate(samples)]
  _text(root / "stones" / "groups.csv", "\n".join(["file,group", *rows]))
  entries = []
  for number, (stem, sample) in enumerate(samples.items()):
    height, width = sample.image.shape[:2]
    yolo = writers.yolo_labels(sample.boxes.tolist(), height=height, width=width)
    _text(root / "stones" / "labels" / f"{stem}.txt", yolo)
    objects = "".join(
      f"<object><name>stone</name><bndbox><xmin>{x1:g}</xmin><ymin>{y1:g}</ymin><xmax>{x2:g}</xmax>"
      f"<ymax>{y2:g}</ymax></bndbox></object>"
      for x1, y1, x2, y2 in sample.boxes
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>1</depth></size>"
    voc = f"<annotation><filename>{stem}.png</filename>{size}{objects}</annotation>"
    _text(root / "stones_voc" / "annotations" / f"{stem}.xml", voc)
    _png(root / "stones_masks" / "lesions" / f"{stem}.png", sample.lesion_mask)
    _png(root / "stones_masks" / "bones" / f"{stem}.png", sample.forbidden_mask * 255)
    lesions = [{"box": box, "area": 9.0, "counts": [height * width]} for box in sample.boxes]
    about = {"id": number, "file_name": f"{stem}.png", "height": height, "width": width}
    entries.append({**about, "lesions": [l | {"box": l["box"].tolist()} for l in lesions]})
  coco = json.loads(writers.coco(entries))
  for annotation in coco["annotations"]:
    del annotation["segmentation"]
  _text(root / "stones_coco" / "annotations.json", json.dumps(coco))


def _dicom(folder: Path, samples: dict[str, Sample]) -> None:
  for number, (stem, sample) in enumerate(samples.items()):
    facts = writers.DicomFacts(
      token="docs", number=number, series=1, derivation="a phantom", rescale_slope=1.0,
      rescale_intercept=0.0, hounsfield=False, value_range=sample.value_range,
      photometric="MONOCHROME2", spacing_mm=(1.0, 1.0),
    )  # fmt: skip
    _text(folder / f"patient_{number}" / f"{stem}.dcm", writers.dicom(sample.image, facts))
    yolo = writers.yolo_labels(sample.boxes.tolist(), height=64, width=64)
    _text(folder / "labels" / f"patient_{number}" / f"{stem}.txt", yolo)


def _volumes(folder: Path) -> None:
  folder.mkdir(parents=True)
  for number in range(3):
    voxels = np.random.default_rng(number).integers(-1000, 1000, (20, 20, 20)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"case_{number}.nii.gz")


def _lidc(root: Path) -> None:
  lidc_series.write_series(root / "LIDC-IDRI" / "LIDC-IDRI-0001" / "study" / "series")
  outline = lidc_series.outline(lidc_series.disc((40, 48), 20, 25, 8))
  rois = [(number, outline, True) for number in (3, 4)]
  readers = [[lidc_series.nodule(rois)], [lidc_series.nodule(rois)]]
  _text(root / "LIDC-XML-only" / "069.xml", lidc_series.message(readers))


def _trained(root: Path) -> None:
  shutil.copytree(LEGACY / "dataset", root / "data" / "kub")
  trained = root / "runs" / "kub"
  # Without the routes that every `synthesize` would restore first, which takes most of its time.
  shutil.copytree(LEGACY / "run", trained, ignore=shutil.ignore_patterns("location", "danger"))
  # What `synthesize` compares with the run; how long it was trained does not matter here.
  of_network = (LEGACY / "make" / "config.sh").read_text().split("trained=(")[0]
  overrides = re.findall(r"\$c\.(\S+)", of_network)
  _text(root / "kub.py", _CONFIG.format(overrides=overrides))
