"""DICOM files of other projects' test suites, where the shared folder is there."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.filereader import dcmread
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.uid import ImplicitVRLittleEndian

from hiresmed_jax.data.readers.dicom import read
from hiresmed_jax.data.sample import Sample, Unreadable

REFUSALS = Path(__file__).with_name("dicom_refusals.json")
MENDED = "wg04/rg2_cr_hip_jpeg12_lossy.dcm"  # its scan header is refused as it is
SAME_CT = (
  "wg04/ct1_j2k_reversible.dcm",
  "wg04/ct1_jpeg_lossless.dcm",
  "wg04/ct1_jpegls_lossless.dcm",
  "wg04/ct1_rle.dcm",
  "dicomparser/ct1_explicit_big_endian.dcm",
  "dicomparser/ct1_explicit_le.dcm",
  "dicomparser/ct1_implicit_le.dcm",
  "dicomparser/ct1_jpegls_fragmented_no_bot.dcm",
  "fodicom/ct1_rle_fragments.dcm",
)


@pytest.fixture(scope="module")
def root(shared: Path) -> Path:
  return shared / "data" / "dicom"


@pytest.fixture(scope="module")
def outcomes(root: Path) -> dict[str, list[Sample] | str]:
  """{file: its samples or the reason of its refusal}, outside malformed/."""
  found: dict[str, list[Sample] | str] = {}
  for path in sorted(path for path in root.rglob("*") if path.is_file()):
    name = path.relative_to(root).as_posix()
    if name.startswith("malformed/"):
      continue
    try:
      found[name] = list(read(path, root=root))
    except Unreadable as reason:
      found[name] = str(reason)
  return found


def test_refusals_are_the_committed_ones(outcomes: dict[str, list[Sample] | str]) -> None:
  refused = {name: found for name, found in outcomes.items() if isinstance(found, str)}
  assert refused == json.loads(REFUSALS.read_text())
  assert len(outcomes) - len(refused) >= 45


def expected_values(path: Path) -> np.ndarray:
  """pydicom's own pixels, [frames, H, W] in rescaled units or [frames, H, W, 3] colours."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ds = dcmread(path, force=True)
    if "TransferSyntaxUID" not in ds.file_meta:
      ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    pixels = ds.pixel_array
    if ds.PhotometricInterpretation == "PALETTE COLOR":
      pixels = apply_color_lut(pixels, ds)
    elif ds.SamplesPerPixel == 1:
      pixels = apply_modality_lut(pixels, ds)
  if "SharedFunctionalGroupsSequence" in ds:
    groups = ds.SharedFunctionalGroupsSequence[0]
    if "PixelValueTransformationSequence" in groups:
      rescale = groups.PixelValueTransformationSequence[0]
      pixels = pixels * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
  return pixels if int(ds.get("NumberOfFrames") or 1) > 1 else pixels[None]


def test_every_image_holds_the_pixels_that_pydicom_decodes(
  outcomes: dict[str, list[Sample] | str], root: Path
) -> None:
  for name, samples in outcomes.items():
    if isinstance(samples, str) or name == MENDED:
      continue
    expected = expected_values(root / name)
    assert len(samples) == len(expected), name
    for sample, pixels in zip(samples, expected):
      values = sample.rescale_slope * sample.image.astype(np.float64) + sample.rescale_intercept
      if pixels.ndim == 2:
        pixels = pixels[..., None]
      # Floating pixels are kept to one of 65,536 levels, all others exactly.
      level = float(np.ptp(pixels)) / 65535 if pixels.dtype == np.float32 else 0.0
      tolerance = 0.5001 * level + 1e-9 * float(np.abs(pixels).max())
      assert values.shape == pixels.shape, name
      assert np.abs(values - pixels).max() <= tolerance, name


def test_a_jpeg_with_a_wrong_scan_header_is_decoded(
  outcomes: dict[str, list[Sample] | str],
) -> None:
  lossy, lossless = outcomes[MENDED][0], outcomes["wg04/rg2_cr_hip_mono2_10bit_j2k.dcm"][0]
  assert isinstance(lossy, Sample)
  assert isinstance(lossless, Sample)
  difference = lossy.image.astype(int) - lossless.image
  assert 0 < np.abs(difference).mean() < 5


def test_photometric_is_the_header_s(outcomes: dict[str, list[Sample] | str], root: Path) -> None:
  for name, samples in outcomes.items():
    if isinstance(samples, str):
      continue
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      declared = pydicom.dcmread(root / name, force=True).PhotometricInterpretation
    colour = declared not in ("MONOCHROME1", "MONOCHROME2")
    assert {sample.photometric for sample in samples} == {"RGB" if colour else declared}, name


def test_nine_encodings_of_one_slice_give_one_array(
  outcomes: dict[str, list[Sample] | str],
) -> None:
  samples = [sample for name in SAME_CT for sample in outcomes[name] if isinstance(sample, Sample)]
  assert len(samples) == 9
  first = samples[0]
  assert first.image.dtype == np.uint16
  for sample in samples:
    np.testing.assert_array_equal(sample.image, first.image)
    assert sample.rescale_slope == first.rescale_slope
    assert sample.rescale_intercept == first.rescale_intercept
    assert sample.spacing_mm == first.spacing_mm
  lossy = outcomes["wg04/ct1_j2k_lossy.dcm"][0]
  assert isinstance(lossy, Sample)
  difference = lossy.image.astype(int) - first.image
  assert 0 < np.abs(difference).mean() < 40


# One process for all files, so that a hang or a crash is seen from outside; a memory limit, so that
# a bomb is.
_PROBE = """
import resource, sys, time
from pathlib import Path
from hiresmed_jax.data.readers.dicom import read
from hiresmed_jax.data.sample import Unreadable
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for path in sorted(Path(sys.argv[1]).iterdir()):
  start = time.monotonic()
  try:
    outcome = f"{len(list(read(path)))} read"
  except Unreadable as reason:
    outcome = f"refused: {reason}"
  print(f"{path.name}\\t{time.monotonic() - start:.3f}\\t{outcome}", flush=True)
"""


def test_malformed_files_neither_crash_nor_hang_nor_eat_memory(root: Path) -> None:
  folder = root / "malformed"
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c", _PROBE, str(folder)],
    capture_output=True,
    text=True,
    timeout=60,
    cwd=Path(__file__).resolve().parents[3],
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert done.stderr == ""
  rows = [line.split("\t") for line in done.stdout.splitlines()]
  assert [row[0] for row in rows] == sorted(path.name for path in folder.iterdir())
  assert all(float(seconds) < 5.0 for _, seconds, _ in rows)
  read_anyway = {name.split("_")[0] for name, _, outcome in rows if outcome == "1 read"}
  # no photometric interpretation of one grey sample, senseless windows, constant pixels, an odd
  # name, no suffix: the pixels are sound
  assert read_anyway == {"13", "16", "20", "22", "28", "29"}
