import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from hiresmed_jax.data.readers.volumes import AXES, read
from hiresmed_jax.data.sample import Sample, Unreadable

# A body of 2 x 3 x 4 voxels, [z, y, x] = towards head, back, left: every voxel has its own value.
BODY = np.arange(24, dtype=np.int16).reshape(2, 3, 4) * 100 - 1000
SPACING = (3.0, 0.5, 0.7)  # z, y, x
ORIENTATIONS = ("LPS", "RAS", "RPI", "SLA", "ASR", "PIL")


def values(samples: list[Sample]) -> np.ndarray:
  return np.stack([s.rescale_slope * s.image[..., 0] + s.rescale_intercept for s in samples])


def write_nifti(path: Path, orientation: str, body: np.ndarray = BODY) -> Path:
  """The same body with its axes stored in another order and direction."""
  xyz = body.transpose(2, 1, 0)
  start = nib.orientations.axcodes2ornt("LPS")
  turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(orientation))
  # NIfTI counts to the right and to the front.
  affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
  affine = affine @ nib.orientations.inv_ornt_aff(turn, xyz.shape)
  nib.save(nib.Nifti1Image(nib.orientations.apply_orientation(xyz, turn), affine), path)
  return path


def write_metaimage(path: Path, orientation: str, body: np.ndarray = BODY) -> Path:
  image = sitk.GetImageFromArray(body)
  image.SetSpacing(SPACING[::-1])
  # SimpleITK names an axis by where it comes from in "LPS" terms: the same letters as nibabel's.
  sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(path))
  return path


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["a.nii", "a.nii.gz", "a.mha", "a.mhd"])
def test_slices_lie_as_radiologists_read_them(tmp_path: Path, orientation: str, kind: str) -> None:
  write = write_nifti if ".nii" in kind else write_metaimage
  path = write(tmp_path / kind, orientation)
  axial = list(read(path, physics="ct"))
  np.testing.assert_array_equal(values(axial), BODY)  # right on the left, front on top
  assert axial[0].spacing_mm == pytest.approx((0.5, 0.7))
  coronal = list(read(path, axis="coronal"))
  np.testing.assert_array_equal(values(coronal), BODY[::-1].transpose(1, 0, 2))  # head on top
  assert coronal[0].spacing_mm == pytest.approx((3.0, 0.7))
  sagittal = list(read(path, axis="sagittal"))
  np.testing.assert_array_equal(values(sagittal), BODY[::-1].transpose(2, 0, 1))  # front left
  assert sagittal[0].spacing_mm == pytest.approx((3.0, 0.5))
  assert [sample.source for sample in axial] == [f"{kind}#0", f"{kind}#1"]
  assert {sample.group for sample in axial} == {"a"}


def test_both_libraries_agree_on_what_an_orientation_is(tmp_path: Path) -> None:
  for orientation in ORIENTATIONS:
    path = write_nifti(tmp_path / "a.nii", orientation)
    turned = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(turned), BODY)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_hounsfield_units_are_kept_exactly(tmp_path: Path, dtype: type) -> None:
  for path in (
    write_nifti(tmp_path / "a.nii", "RAS", BODY.astype(dtype)),
    write_metaimage(tmp_path / "a.mha", "RAS", BODY.astype(dtype)),
  ):
    samples = list(read(path, physics="ct"))
    assert samples[0].image.dtype == np.uint16
    assert samples[0].rescale_intercept == -32768.0
    np.testing.assert_array_equal(values(samples), BODY)
    assert samples[0].physics == "ct"
    assert samples[0].value_range == (-1024.0, 3071.0)


def test_without_being_told_a_volume_is_not_ct(tmp_path: Path) -> None:
  sample = next(read(write_nifti(tmp_path / "a.nii", "RAS")))
  assert sample.physics == "none"
  assert sample.value_range == (-1000.0, 1300.0)


def test_fractions_are_quantised_once_for_the_volume(tmp_path: Path) -> None:
  body = np.random.default_rng(0).normal(size=BODY.shape).astype(np.float32)
  samples = list(read(write_nifti(tmp_path / "a.nii", "LPS", body)))
  assert len({sample.rescale_slope for sample in samples}) == 1
  np.testing.assert_allclose(values(samples), body, rtol=0, atol=float(np.ptp(body)) / 65535)
  body[:] = np.nan
  with pytest.raises(Unreadable, match="NaN"):
    list(read(write_nifti(tmp_path / "a.nii", "LPS", body)))


def test_nifti_scale_and_offset(tmp_path: Path) -> None:
  counts = np.array([[[-6, -6.5], [-7, 1]], [[20, 0], [3.5, 4]]])
  image = nib.Nifti1Image(counts, np.diag([-1, -1, 1, 1]))
  image.set_data_dtype(np.int16)
  image.header.set_slope_inter(0.5, -7)
  path = tmp_path / "a.nii"
  nib.save(image, path)
  found = values(list(read(path)))
  expected = nib.load(path).get_fdata().transpose(2, 1, 0)  # type: ignore[attr-defined]
  np.testing.assert_allclose(found, expected)


def test_shapes_of_one_volume_and_others(tmp_path: Path) -> None:
  path = tmp_path / "a.nii"
  affine = np.diag([-1.0, -1.0, 1.0, 1.0])
  for shape, count in (((4, 3), 1), ((4, 3, 2, 1), 2)):
    nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), affine), path)
    assert len(list(read(path))) == count
  nib.save(nib.Nifti1Image(np.ones((4, 3, 2, 5), np.uint8), affine), path)
  with pytest.raises(Unreadable, match="not one volume"):
    list(read(path))
  colour = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
  nib.save(nib.Nifti1Image(colour, affine), path)
  with pytest.raises(Unreadable, match="colours"):
    list(read(path))
  vectors = sitk.GetImageFromArray(np.zeros((2, 2, 2, 3), np.float32), isVector=True)
  sitk.WriteImage(vectors, str(tmp_path / "a.mha"))
  with pytest.raises(Unreadable, match="several values"):
    list(read(tmp_path / "a.mha"))
  flat = sitk.GetImageFromArray(np.ones((3, 4), np.uint8))
  sitk.WriteImage(flat, str(tmp_path / "a.mha"))
  assert next(read(tmp_path / "a.mha")).image.shape == (3, 4, 1)


@pytest.mark.parametrize(
  "name",
  ["../secret.raw", "/etc/hostname", "sub/secret.raw", "..", "sub\\secret.raw", "link.raw"],
)
def test_voxels_outside_the_folder_are_never_opened(tmp_path: Path, name: str) -> None:
  folder = tmp_path / "scans"
  (folder / "sub").mkdir(parents=True)
  for secret in (tmp_path / "secret.raw", folder / "sub" / "secret.raw"):
    secret.write_bytes(bytes(1000))
  (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
  path = write_metaimage(folder / "a.mhd", "LPS")
  path.write_text(path.read_text().replace("a.raw", name))
  with pytest.raises(Unreadable, match="outside its own folder"):
    list(read(path))


def test_a_header_may_end_without_a_line_end(tmp_path: Path) -> None:
  path = write_metaimage(tmp_path / "a.mhd", "LPS")
  path.write_text(path.read_text().strip())
  np.testing.assert_array_equal(values(list(read(path))), BODY)


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ("NDims = 3", "NDims = 3512"),  # what overwrites the memory of the library
    ("NDims = 3", "NDims = 2"),
    ("NDims = 3", ""),
    ("DimSize = 4 3 2", "DimSize = 4 3 2 1"),
    ("DimSize = 4 3 2", "DimSize = 4 3 -2"),
    ("DimSize = 4 3 2", "DimSize = 4 3 2e0"),
    ("DimSize = 4 3 2", "DimSize = 4 3 0"),
    ("ElementSpacing = ", "ElementSpacing = nan "),
    ("ElementType = MET_SHORT", "ElementType = MET_ASCII_CHAR"),
    ("ElementType = MET_SHORT", "ElementType = MET_DOUBLE"),
    ("BinaryData = True", "BinaryData = False"),
    ("BinaryData = True", "BinaryData = maybe"),
    ("CompressedData = False", "CompressedData = True"),
    ("CompressedData = False", "CompressedData = True\nCompressedDataSize = 9999"),
    ("CompressedData = False", "CompressedData = False\nCompressedData = False"),
    ("CompressedData = False", "HeaderSize = 7"),
    ("ObjectType = Image", "ObjectType = Im\0age"),
    ("ObjectType = Image", "some words"),
  ],
)
def test_headers_that_lie_never_reach_the_library(tmp_path: Path, old: str, new: str) -> None:
  path = write_metaimage(tmp_path / "a.mha", "LPS")
  whole = path.read_bytes()
  assert old.encode() in whole
  path.write_bytes(whole.replace(old.encode(), new.encode(), 1))
  with pytest.raises(Unreadable):
    list(read(path))


def test_a_data_file_with_a_space_in_its_name(tmp_path: Path) -> None:
  path = write_metaimage(tmp_path / "a b.mhd", "LPS")
  np.testing.assert_array_equal(values(list(read(path))), BODY)


def test_voxels_in_many_or_missing_files_are_refused(tmp_path: Path) -> None:
  path = write_metaimage(tmp_path / "a.mhd", "LPS")
  text = path.read_text()
  for name, reason in (("LIST", "many files"), ("a%02d.raw 1 2 1", "many"), ("b.raw", "missing")):
    path.write_text(text.replace("a.raw", name))
    with pytest.raises(Unreadable, match=reason):
      list(read(path))


def test_truncated_files_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
  for path in (
    write_nifti(tmp_path / "a.nii", "LPS"),
    write_nifti(tmp_path / "a.nii.gz", "LPS"),
    write_metaimage(tmp_path / "a.mha", "LPS"),
    write_metaimage(tmp_path / "a.mhd", "LPS").with_suffix(".raw"),
  ):
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(Unreadable):
      list(read(path.with_suffix(".mhd") if path.suffix == ".raw" else path))
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha"])
def test_one_flipped_bit_in_compressed_voxels_is_noticed(tmp_path: Path, name: str) -> None:
  body = np.random.default_rng(0).integers(-99, 99, (5, 30, 40)).astype(np.int16)
  path = tmp_path / name
  if name == "a.mha":
    sitk.WriteImage(sitk.GetImageFromArray(body), str(path), useCompression=True)
  else:
    write_nifti(path, "LPS", body)
  np.testing.assert_array_equal(values(list(read(path))), body)
  whole = path.read_bytes()
  for share in (0.3, 0.5, 0.7, 0.9):
    damaged = bytearray(whole)
    damaged[int(share * len(whole))] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(Unreadable):
      list(read(path))


def test_bombs_are_refused(tmp_path: Path) -> None:
  header = nib.Nifti1Header()
  header.set_data_dtype(np.uint8)
  header.set_data_shape((30_000, 30_000, 30_000))
  path = tmp_path / "a.nii.gz"
  path.write_bytes(gzip.compress(header.binaryblock + bytes(100)))
  with pytest.raises(Unreadable, match="more than this program"):
    list(read(path))
  header.set_data_shape((800, 800, 800))
  path.write_bytes(gzip.compress(header.binaryblock + bytes(100)))
  with pytest.raises(Unreadable, match="MB of pixels"):
    list(read(path))
  meta = tmp_path / "a.mha"
  for compressed, reason in ((False, "bytes of voxels and holds 48"), (True, "MB of pixels")):
    sitk.WriteImage(sitk.GetImageFromArray(BODY), str(meta), useCompression=compressed)
    meta.write_bytes(meta.read_bytes().replace(b"DimSize = 4 3 2", b"DimSize = 800 800 800"))
    with pytest.raises(Unreadable, match=reason):
      list(read(meta))


@pytest.mark.parametrize(
  "fill", [-1e10, np.finfo(np.float32).min / 4, 3.4e38, np.nan, -np.inf, -50000.0]
)
def test_fill_values_cost_the_tissue_nothing(tmp_path: Path, fill: float) -> None:
  body = np.tile(BODY, (3, 4, 4)).astype(np.float32) + 0.25
  truth = body.copy()
  body[:2, :, :5] = fill
  body[0, 0, 5] = fill / 3  # as a resampling leaves at the edge
  samples = list(read(write_nifti(tmp_path / "a.nii", "LPS", body), physics="ct"))
  found = values(samples)
  np.testing.assert_allclose(found[:, :, 6:], truth[:, :, 6:], rtol=0, atol=1)
  if fill != -50000.0:  # whose third is in the range of HU
    assert found[0, 0, :6].max() == pytest.approx(found.min(), abs=1)
  assert [len(sample.notes) for sample in samples] == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("fills", [[-32768], [32767], [-32768, 32767]])
def test_a_fill_value_among_integers_does_not_widen_the_range(
  tmp_path: Path, fills: list[int]
) -> None:
  tissue = np.random.default_rng(0).integers(10, 900, (6, 12, 16)).astype(np.int16)
  body = tissue.copy()
  for row, fill in enumerate(fills):
    body[:, row] = fill
  (sample, *_) = read(write_nifti(tmp_path / "a.nii", "LPS", body))
  kept = tissue[:, len(fills) :]
  assert sample.value_range == (kept.min(), kept.max())
  assert sample.notes
  for plain in (tissue, np.where(tissue > 800, tissue, 0)):  # 0 is a background
    samples = list(read(write_nifti(tmp_path / "b.nii", "LPS", plain.astype(np.int16))))
    np.testing.assert_array_equal(values(samples), plain)
    assert all(sample.notes == () for sample in samples)


def test_large_numbers_are_no_fill_values(tmp_path: Path) -> None:
  body = np.random.default_rng(0).random((6, 20, 20)).astype(np.float32)
  for scale in (3e4, 3e8):
    samples = list(read(write_nifti(tmp_path / "a.nii", "LPS", body * scale)))
    np.testing.assert_allclose(values(samples), body * scale, rtol=0, atol=scale / 65000)
    assert not any(sample.notes for sample in samples)
  body[:2] = 1e10
  samples = list(read(write_nifti(tmp_path / "a.nii", "LPS", body)))
  np.testing.assert_allclose(values(samples)[2:], body[2:], rtol=0, atol=1 / 65000)


def test_sheared_slices_are_told(tmp_path: Path) -> None:
  affine = np.diag([1.0, 1.0, 3.0, 1.0])
  affine[1, 2] = 0.8  # 15 degrees
  path = tmp_path / "a.nii"
  nib.save(nib.Nifti1Image(BODY.transpose(2, 1, 0), affine), path)
  assert all("tilted" in sample.notes[0] for sample in read(path))


def test_other_names_and_axes(tmp_path: Path) -> None:
  with pytest.raises(Unreadable, match="is none of"):
    list(read(tmp_path / "a.nrrd"))
  with pytest.raises(ValueError, match="oblique"):
    list(read(tmp_path / "a.nii", axis="oblique"))
  with pytest.raises(Unreadable):
    list(read(tmp_path / "missing.nii"))


@given(
  data=st.binary(max_size=300),
  suffix=st.sampled_from([".nii", ".nii.gz", ".mha", ".mhd"]),
  whole=st.booleans(),
)
def test_any_bytes_are_a_volume_or_unreadable(
  data: bytes, suffix: str, whole: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
  path = tmp_path_factory.mktemp("volumes") / f"a{suffix}"
  start = b""
  if whole:
    write = write_nifti if "nii" in suffix else write_metaimage
    start = write(path, "LPS").read_bytes()
  at = len(data) * 7 % (len(start) + 1)
  path.write_bytes(start[:at] + data + start[at + len(data) :])
  try:
    samples = list(read(path))
  except Unreadable as reason:
    assert str(path.parent) not in str(reason)  # noqa: PT017
    return
  assert all(isinstance(sample, Sample) for sample in samples)


def test_real_volumes(shared: Path) -> None:
  abdomen = shared / "data" / "abdomen_drr" / "example_ct.nii.gz"
  counts = {axis: len(list(read(abdomen, physics="ct", axis=axis))) for axis in AXES}
  assert counts == {"axial": 112, "coronal": 101, "sagittal": 122}
  axial = values(list(read(abdomen, physics="ct")))
  bone = np.argwhere(axial > 300)
  assert bone[:, 1].mean() > axial.shape[1] / 2  # the spine is at the back, below
  liver = (axial > 20) & (axial < 90)
  upper = liver[-20:]  # the liver is on the patient's right: left in the image
  assert upper[..., :61].sum() > 1.2 * upper[..., 61:].sum()
  for name, depth in (("DataCropped.mha", 14), ("PartSolidLesionCropped.mha", 59)):
    samples = list(read(shared / "data" / "hu_volumes" / name, physics="ct"))
    assert len(samples) == depth
    assert values(samples).min() == -1024
    assert samples[0].rescale_slope == 1.0
