"""`reconstruct`, and reconstructions of other images in `synthesize` and `evaluate`."""

import json
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

import hiresmed_jax
from hiresmed_jax import evaluate, reconstruct, synthesize
from hiresmed_jax.data import records
from hiresmed_jax.data.readers import dicom
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import contents, survey
from hiresmed_jax.runtime import cli, compilation
from tests import tiny_run
from tests.evaluation import scene
from tests.synthesis import drawn
from tests.test_onto import NAMES, command, folder_of, monochrome1, pictures, without_lesions
from tests.test_train import environment

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("reconstruct")]  # a network is compiled


@pytest.fixture(scope="module", autouse=True)
def soon_compiled():
  one = tiny_run.mesh(1)
  device = one.devices.flat[0]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(compilation, "options", tiny_run.quick)
    patch.setattr(evaluate.mesh, "make_mesh", lambda **_: one)
    patch.setattr(synthesize.run.jax, "local_devices", lambda **_: [device])
    yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(a run that has learnt nothing, its dataset of 8 bits)."""
  place = tmp_path_factory.mktemp("reconstruct")
  data = drawn.dataset(place / "data")
  tiny_run.untrained(place / "run", data, "data.size=(96, 112)")
  survey.load_or_make(data, place / "run")
  contents.of_run(place / "run", data)
  return place / "run", data


def call(run, images, out, *more):
  arguments = ["--workdir", run, "--images", images, "--out", out, *more]
  reconstruct.main([str(one) for one in arguments])
  return [json.loads(line) for line in (out / "reconstructions.jsonl").read_text().splitlines()]


def refused(capsys, main, *arguments):
  with pytest.raises(SystemExit) as left:
    cli.run(main, [str(a) for a in arguments])
  assert left.value.code == 2
  return capsys.readouterr().err.splitlines()[-1]


def test_a_folder_comes_back_as_the_model_makes_it(trained, tmp_path, capsys):
  run, data = trained
  images = folder_of(tmp_path / "scans", NAMES[:3])
  seen = records.source(data, "train")[0]
  cv2.imwrite(str(images / "known.png"), seen["image"])
  out = tmp_path / "out"
  lines = call(run, images, out, "--metrics")
  told = capsys.readouterr().out
  assert "reconstructions: 4, in" in told
  assert "1 of them are of images that the run was trained or chosen on" in told
  assert [line["in_training_data"] for line in lines].count("train") == 1
  originals = {image.shape: image for image in map(without_lesions, range(3))}
  opened = hiresmed_jax.open_run(run)
  for line in lines:
    made = cv2.imread(str(out / line["image"]), cv2.IMREAD_UNCHANGED)
    assert made.shape == (line["height"], line["width"])
    image = seen["image"][..., 0] if line["in_training_data"] else originals[made.shape]
    np.testing.assert_array_equal(made, opened.reconstruct([image])[0])
    if max(made.shape) <= 104:  # no larger than the view
      error = np.mean((made / 255.0 - image / 255.0) ** 2)
      assert line["psnr"] == pytest.approx(-10 * np.log10(error), abs=0.1)
      assert -1 < line["ssim"] < 1
  written = "".join(path.read_text() for path in out.rglob("*.json*"))
  assert "scans" not in written
  assert cv2.imread(str(out / "figures" / "pairs.png")).std() > 10
  # The same command again: nothing is made, nothing changes; another request is refused.
  before = {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
  whole = pictures(out)
  (out / "records" / "000001.json").unlink()
  call(run, images, out, "--metrics")
  assert pictures(out) == whole
  changed = [path.name for path, then in before.items() if path.stat().st_mtime_ns != then]
  assert changed == ["000001.png"]
  given = ["--workdir", run, "--images", images, "--out", out]
  assert "holds images of another request" in refused(capsys, reconstruct.main, *given)
  # Batches of three: the same but for rounding, and told as another request.
  batched = tmp_path / "batched"
  for line in call(run, images, batched, "--batch", 3, "--metrics"):
    one, other = (cv2.imread(str(place / line["image"])).astype(int) for place in (out, batched))
    assert np.abs(one - other).max() <= 1
  assert "holds images of another request" in refused(
    capsys, reconstruct.main, *given, "--batch", 3, "--metrics"
  )
  lines = call(run, images, out, "--overwrite", "--json")
  assert json.loads(capsys.readouterr().out)["images"] == 4
  assert "psnr" not in lines[0]
  assert not list(tmp_path.glob(".*"))


def test_monochrome1_stays_monochrome1_in_dicom_and_is_turned_in_png(trained, tmp_path):
  run, _ = trained
  images = monochrome1(tmp_path / "dr", NAMES[:2])
  (png, _), (line, _) = (
    call(run, images, tmp_path / form, "--format", form) for form in ("png", "dicom")
  )
  (read,) = dicom.read(tmp_path / "dicom" / line["image"])
  assert (read.photometric, read.image.shape[:2]) == ("MONOCHROME1", (117, 139))
  assert read.spacing_mm == pytest.approx((0.6, 0.6))
  shown = cv2.imread(str(tmp_path / "png" / png["image"]), cv2.IMREAD_UNCHANGED)
  np.testing.assert_allclose(255 - read.image[..., 0] * (255 / 4000), shown, atol=1.5)


def test_a_reconstruction_has_the_view_of_training(trained, tmp_path):
  run, _ = trained
  onto = folder_of(tmp_path / "normals", NAMES[:3])
  lines = command(
    run, onto, tmp_path / "out", "--lesion-free", "--background", "reconstruction",
    "--backgrounds", "3", "--num", "3",
  )  # fmt: skip
  # 88 x 104 fits the view of 96 x 112 as it is, the others are shrunk to it.
  shapes = {without_lesions(seed).shape for seed in range(3)}
  found = sorted((line["height"], line["width"]) for line in lines)
  assert (88, 104) in found
  assert all(height <= 96 and width <= 112 for height, width in found)
  assert len(found) == len(shapes)


def test_a_run_is_measured_on_another_dataset_without_what_it_has_seen(trained, tmp_path, capsys):
  run, _ = trained
  names = [name for name in drawn.groups("test", 4)[1:] for _ in (0, 1)]
  # Seeds 0 and 1 are training images of the run.
  samples = [drawn.sample(seed, name) for seed, name in zip((0, 50, 51, 52, 53, 54), names)]
  samples += [drawn.sample(60, NAMES[0])]
  records.write_dataset(samples, tmp_path / "other", kind="phantom")
  arguments = ["--workdir", f"ours={run}", "--data", tmp_path / "other", "--lpips", "none"]
  evaluate.main([str(a) for a in [*arguments, "--out", tmp_path / "report"]])
  report = json.loads((tmp_path / "report" / "report.json").read_text())
  assert report["methods"]["ours"]["images"] == 4
  assert "2 of them, of patients that a run was trained on, are left out" in report["real"]["what"]
  assert "trained on another dataset" in report["methods"]["ours"]["notes"][0]
  page = (tmp_path / "report" / "report.md").read_text()
  assert "ours: trained on another dataset" in page
  # As the real images beside other methods, and where nobody asks for another dataset, it is not.
  line = refused(
    capsys, evaluate.main, "--workdir", run, "--real", tmp_path / "other", "--lpips", "none",
    "--out", tmp_path / "no",
  )  # fmt: skip
  assert "is not the dataset that" in line
  records.write_dataset(samples[:2], tmp_path / "seen", kind="phantom")
  line = refused(
    capsys, evaluate.main, "--workdir", run, "--data", tmp_path / "seen", "--lpips", "none",
    "--out", tmp_path / "no",
  )  # fmt: skip
  assert "all 2 held-out images are of patients that a run was trained on" in line


def test_a_window_in_hu_is_no_window_of_other_units(trained, tmp_path, capsys):
  run = tmp_path / "run"
  data = scene.dataset(tmp_path / "data", physics="ct")
  tiny_run.untrained(run, data, "data.size=(96, 112)", "data.window=(-500.0, 300.0)")
  images = folder_of(tmp_path / "scans", NAMES[:1])
  given = ["--workdir", run, "--images", images, "--out", tmp_path / "out"]
  line = refused(capsys, reconstruct.main, *given)
  assert "holds images in other units (ct, 0 to 255) than" in line


def test_it_stops_at_a_signal_and_leaves_nothing_beside(trained, tmp_path):
  run, _ = trained
  images = folder_of(tmp_path / "scans", NAMES[:2])
  command = [sys.executable, "-m", "hiresmed_jax.reconstruct", "--workdir", str(run)]
  command += ["--images", str(images), "--out", str(tmp_path / "out")]
  process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
  began = time.monotonic()
  while not list(tmp_path.glob(".out.*")) and time.monotonic() - began < 240:
    assert process.poll() is None
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  _, told = process.communicate(timeout=60)
  assert process.returncode == 143
  assert told.strip().splitlines()[-1].startswith("stopped")
  assert not list(tmp_path.glob(".out.*"))


@pytest.mark.filterwarnings("ignore:what surrounds lesions does not count")  # not fitted there
def test_in_python(trained, tmp_path):
  run, _ = trained
  onto = folder_of(tmp_path / "normals", NAMES[:2])
  opened = hiresmed_jax.open_run(run)
  images = opened.synthesize(
    2, onto=onto, lesion_free=True, source="copy", lesions=(1, 2), backgrounds=2
  )
  lines = command(
    run, onto, tmp_path / "out", "--lesion-free", "--backgrounds", "2", "--num", "2"
  )  # fmt: skip
  for made, line in zip(images, lines, strict=True):
    written = cv2.imread(str(tmp_path / "out" / line["image"]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(made.image[..., 0], written)
    assert made.provenance["background"]["dataset"] == line["background"]["dataset"]
  with pytest.raises(UserError, match="without a word on lesions"):
    opened.synthesize(2, onto=onto, source="copy")
