"""Broken inputs for `faults.py`: files that no reader may hang on, crash on or swallow."""

import io
import json
import os
import pathlib
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import cv2
import nibabel
import numpy as np

from benchmarks import faults_places
from hiresmed_jax import files

Path = pathlib.Path
_PREPARE = ("prepare", "--source", "{}/src", "--physics", "ct", "--overwrite", "--out", "{}/out",
            "--private", "{}/private")  # fmt: skip


class Bad(NamedTuple):
  """A broken input."""

  name: str
  make: Callable[[Path], None]  # writes it into the folder of a trial
  command: tuple[str, ...]  # "{}" is that folder


def png(rows: int, columns: int, depth: int = 1, *, cut: int = 0) -> bytes:
  """A grey PNG of zeros, made line by line; without its last `cut` bytes."""
  pack = zlib.compressobj(9)
  line = bytes(1 + (columns * depth + 7) // 8)
  block = line * 64
  packed = b"".join(pack.compress(block) for _ in range(rows // 64))
  packed += pack.compress(line * (rows % 64)) + pack.flush()
  parts = [(b"IHDR", struct.pack(">IIBBBBB", columns, rows, depth, 0, 0, 0, 0))]
  parts += [(b"IDAT", packed), (b"IEND", b"")]
  made = b"\x89PNG\r\n\x1a\n"
  for kind, content in parts:
    made += struct.pack(">I", len(content)) + kind + content
    made += struct.pack(">I", zlib.crc32(kind + content))
  return made[: len(made) - cut]


def npz(name: str, header: bytes, content: bytes = b"") -> bytes:
  """An .npz whose one array has this header."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded))
    archive.writestr(f"{name}.npy", start + padded + content)
  return file.getvalue()


def _write(name: str, content: bytes) -> Callable[[Path], None]:
  def make(folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)

  return make


def _sparse(name: str, start: bytes, size: int) -> Callable[[Path], None]:
  def make(folder: Path) -> None:
    with (folder / name).open("wb") as file:
      file.write(start)
      file.truncate(size)

  return make


def _special(name: str, kind: str) -> Callable[[Path], None]:
  def make(folder: Path) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
      os.mkfifo(path)
    elif kind == "folder":
      path.mkdir()
    else:
      path.symlink_to({"zeros": "/dev/zero", "nowhere": "not there", "itself": path.name}[kind])

  return make


def _volume(folder: Path) -> None:
  """1,000 x 1,000 x 1,000 voxels in 2 MB."""
  header = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.int16), np.eye(4)).header
  header.set_data_shape((1000, 1000, 1000))
  pack = zlib.compressobj(9, wbits=31)
  block = bytes(1 << 20)
  packed = pack.compress(header.binaryblock + bytes(4))
  packed += b"".join(pack.compress(block) for _ in range(2_000_000_000 >> 20)) + pack.flush()
  (folder / "src" / "huge.nii.gz").write_bytes(packed)


_DEEP = b"[" * 200_000
# How a file of JSON is damaged.
_TEXTS = {
  "empty": b"",
  "cut": b'{"schema_version": 1, "name"',
  "no JSON": b"\x00\x01\x02 not JSON",
  "a list": b"[1, 2]",
  "null": b"null",
  "other keys": b'{"a": 1}',
  "no text": b'{"name": "\xff\xfe"}',
  "deep": _DEEP,
}


def bad_inputs(folder: Path) -> Iterator[Bad]:
  """All of them; `folder`: of the references."""
  yield from _images()
  yield from _beside_images()
  yield from _weights(folder)
  yield from _of_runs(folder)
  yield from _of_reports(folder)


def _with_images(folder: Path, make: Callable[[Path], None], count: int = 6) -> None:
  (folder / "src").mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  for number in range(count):
    cv2.imwrite(
      str(folder / "src" / f"good{number}.png"), rng.integers(0, 255, (40, 48), dtype=np.uint8)
    )
  make(folder)


def _images() -> Iterator[Bad]:
  noise = np.random.default_rng(1).integers(0, 255, 3000, dtype=np.uint8).tobytes()
  makes: dict[str, Callable[[Path], None]] = {}
  starts = {
    "png": b"\x89PNG\r\n\x1a\n",
    "jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "tif": b"II*\0\x08\0\0\0",
    "dcm": bytes(128) + b"DICM",
    "nii.gz": b"\x1f\x8b\x08\0",
    "nii": b"\\\x01\0\0",
    "mha": b"ObjectType = Image\nNDims = 3\nDimSize = 9 9 9\n",
    "nrrd": b"NRRD0004\ntype: short\ndimension: 3\nsizes: 9 9 9\n",
  }
  for suffix, start in starts.items():
    makes[f"empty .{suffix}"] = _write(f"src/bad.{suffix}", b"")
    makes[f"noise .{suffix}"] = _write(f"src/bad.{suffix}", noise)
    makes[f"start and noise .{suffix}"] = _write(f"src/bad.{suffix}", start + noise)
  for suffix in ("png", "jpg", "tif", "dcm", "nii.gz", "nrrd"):
    makes[f"pipe .{suffix}"] = _special(f"src/bad.{suffix}", "pipe")
  for kind in ("folder", "zeros", "nowhere", "itself"):
    makes[f"{kind} .png"] = _special("src/bad.png", kind)
  for suffix in ("png", "dcm", "nii.gz", "nii", "tif"):
    makes[f"10 GB .{suffix}"] = _sparse(f"src/bad.{suffix}", starts[suffix], 10_000_000_000)
  makes["link to /dev/zero .dcm"] = _special("src/bad.dcm", "zeros")
  makes["link to /dev/zero .nii.gz"] = _special("src/bad.nii.gz", "zeros")
  makes["32,000 x 32,000 .png"] = _write("src/bad.png", png(32_000, 32_000))
  makes["0 x 0 .png"] = _write("src/bad.png", png(0, 0))
  makes["cut .png"] = _write("src/bad.png", png(64, 64, 8, cut=20))
  makes["1,000 x 1,000 x 1,000 .nii.gz"] = _volume
  for name, make in makes.items():
    kinds = ("--kind", "volumes") if "nii" in name or "nrrd" in name or "mha" in name else ()
    kinds = ("--kind", "dicom") if "dcm" in name else kinds
    yield Bad(f"image: {name}", partial(_with_images, make=make), (*_PREPARE, *kinds))


def _beside_images() -> Iterator[Bad]:
  """Masks, labels and tables of good images."""
  masks = {
    "32,000 x 32,000": png(32_000, 32_000), "of another size": png(7, 9, 8), "empty": b"",
    "cut": png(40, 48, 8, cut=30), "noise": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9,
  }  # fmt: skip
  for name, content in masks.items():
    make = _write("masks/good1.png", content)
    yield Bad(f"mask: {name}", partial(_with_images, make=make),
              (*_PREPARE, "--masks", "{}/masks"))  # fmt: skip
  for kind in ("pipe", "zeros"):
    make = _special("masks/good1.png", kind)
    yield Bad(f"mask: {kind}", partial(_with_images, make=make),
              (*_PREPARE, "--masks", "{}/masks"))  # fmt: skip
  labels = {
    "yolo/good1.txt": (b"0 nan nan 1 1\n", b"0 .5\n", b"\0\0\0", b"0 9 9 9 9\n", b"9" * 100_000),
    "coco/labels.json": (b"", b"{", _DEEP, b'{"images": 3, "annotations": null}',
                         b'{"images": [{"id": 1e400}], "annotations": [], "categories": []}'),
    "voc/good1.xml": (b"", b"<annotation><object>", b"<!DOCTYPE a [<!ENTITY b 'x'>]><annotation/>"),
  }  # fmt: skip
  for file, contents in labels.items():
    form = file.split("/")[0]
    for number, content in enumerate(contents):
      make = _write(f"labels/{file.split('/')[1]}", content)
      yield Bad(f"label: {form} {number}", partial(_with_images, make=make),
                (*_PREPARE, "--boxes", form, "--labels", "{}/labels"))  # fmt: skip
  tables = (b"", b"file\n", b"\xff\xfe\0\0", b"file,group\n" + b'"' * 1000, b"file,group\0\na,b\n")
  for number, content in enumerate(tables):
    make = _write("groups.csv", content)
    yield Bad(f"table: groups {number}", partial(_with_images, make=make),
              (*_PREPARE, "--groups", "{}/groups.csv"))  # fmt: skip
  make = _special("groups.csv", "pipe")
  yield Bad("table: pipe", partial(_with_images, make=make),
            (*_PREPARE, "--groups", "{}/groups.csv"))  # fmt: skip


def _weights(folder: Path) -> Iterator[Bad]:
  huge = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
  objects = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
  whole = (folder / "net.npz").read_bytes()
  contents = {
    "4 TiB .npz": npz("conv1/kernel", huge),
    "objects .npz": npz("conv1/kernel", objects, b"\x80."),
    "empty .npz": b"",
    "cut .npz": whole[: len(whole) // 2],
    "noise .npz": b"PK\x03\x04" + bytes(99),
    "long header .safetensors": struct.pack("<Q", 1 << 60) + b"{}",
    "other file .safetensors": b"\0" * 50,
    "pickle .pth": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
  }
  command = ("weights", "convert", "{}/net.npz", "--net", "squeezenet", "--out", "{}/o.npz")
  for name, content in contents.items():
    file = f"net.{name.rsplit('.', 1)[1]}"
    own = tuple(part.replace("net.npz", file) for part in command)
    yield Bad(f"weights: {name}", _write(file, content), own)
  for kind in ("pipe", "zeros"):
    yield Bad(f"weights: {kind}", _special("net.npz", kind), command)


def _of_runs(folder: Path) -> Iterator[Bad]:
  """Files of JSON that commands believe."""
  command = next(p.command for p in faults_places.places(folder) if p.name == "synthesize")
  wanted = {
    "data/card.json": _TEXTS, "run/data.json": _TEXTS, "run/lesion/bank/bank.json": _TEXTS,
    "run/danger/DONE.json": _TEXTS, "run/danger/config.json": _TEXTS,
    "data/records/features.json": _TEXTS, "data/records/dataset_info.json": _TEXTS,
    "made/request.json": _TEXTS,
  }  # fmt: skip
  for path in (folder / "run").glob("images-*.json"):  # a cache
    wanted[f"run/{path.name}"] = _TEXTS
  for file, texts in wanted.items():
    for name, content in texts.items():
      yield Bad(f"{file}: {name}", partial(_copied, folder, file=file, content=content), command)

  survey = next((folder / "run").glob("survey-*.npz"))
  huge = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
  caches = {
    "noise": b"PK\x03\x04" + bytes(99),
    "cut": survey.read_bytes()[:-100],
    "4 TiB": npz("values", huge),
    "other arrays": npz("a", b"{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }"),
  }
  for name, content in caches.items():
    file = f"run/{survey.name}"
    yield Bad(f"survey: {name}", partial(_copied, folder, file=file, content=content), command)


def _copied(folder: Path, trial: Path, file: str, content: bytes) -> None:
  for name in ("data", "run"):
    shutil.copytree(folder / name, trial / name)
  if file.startswith("made/"):
    shutil.copytree(folder / "made", trial / "made")
  (trial / file).write_bytes(content)
  for digests in trial.rglob(files.DIGESTS):  # else they would find it
    if "checkpoints" not in digests.parts:
      digests.unlink()


def _of_reports(folder: Path) -> Iterator[Bad]:
  command = ("evaluate", "--real", "{}/data", "--synthetic", "{}/made", "--lpips", "none", "--out",
             "{}/report")  # fmt: skip

  def changed(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(trial: Path) -> None:
      for name in ("data", "made"):
        shutil.copytree(folder / name, trial / name)
      change(trial)

    return make

  line = json.loads((folder / "made" / "manifest.jsonl").read_text().splitlines()[0])
  makes = {
    "pipe": _special(f"made/{line['image']}", "pipe"),
    "link to /dev/zero": _special(f"made/{line['image']}", "zeros"),
    "mask of 32,000 x 32,000": _write(f"made/{line['mask']}", png(32_000, 32_000)),
    "mask: pipe": _special(f"made/{line['mask']}", "pipe"),
    "mask: link to /dev/zero": _special(f"made/{line['mask']}", "zeros"),
    "manifest: deep": _write("made/manifest.jsonl", _DEEP),
    "manifest: pipe": _special("made/manifest.jsonl", "pipe"),
    "manifest: other keys": _write("made/manifest.jsonl", b'{"background": {"image": 1}}\n'),
    "manifest: a file elsewhere": _write(
      "made/manifest.jsonl", json.dumps(line | {"image": "/etc/passwd"}).encode()
    ),
  }
  for name, make in makes.items():
    yield Bad(f"evaluate: {name}", changed(make), command)
  for number, content in enumerate((b"", b"reader,tp\n", b"reader,tp,fn,fp,tn\na,-1,x,nan,1e99\n")):
    yield Bad(f"reader study: {number}", _write("answers.csv", content),
              ("evaluate", "--reader-study", "{}/answers.csv", "--out", "{}/report"))  # fmt: skip
  yield Bad("reader study: pipe", _special("answers.csv", "pipe"),
            ("evaluate", "--reader-study", "{}/answers.csv", "--out", "{}/report"))  # fmt: skip
  yield Bad("curve: noise", _write("run/metrics.jsonl", b"\xff{}\n[1]\n{\"step\": 1e999}\n"),
            ("evaluate", "--run", "a={}/run", "--out", "{}/report"))  # fmt: skip
