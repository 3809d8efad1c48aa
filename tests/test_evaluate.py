"""The command, from folders and a workdir to a report."""

import json
import os
import re
import signal
import time

import cv2
import jax
import numpy as np
import pytest

from hiresmed_jax import evaluate, files
from hiresmed_jax.convert import arrays
from hiresmed_jax.data import records
from hiresmed_jax.errors import Stopped
from hiresmed_jax.evaluation import real, run, sets
from hiresmed_jax.nets.inception import SIZE, InceptionFeatures
from hiresmed_jax.runtime import cli, compilation
from tests import tiny_run
from tests.evaluation import scene
from tests.evaluation.test_convergence import run as curve
from tests.evaluation.test_readers import COUNTS
from tests.reference.random_weights import random_arrays

pytestmark = pytest.mark.xdist_group("evaluate")  # the network is compiled once


@pytest.fixture(scope="module", autouse=True)
def soon_compiled():
  """One device, and programs that are soon compiled: that eight are one is test_measure's."""
  one = tiny_run.mesh(1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(compilation, "options", tiny_run.quick)
    patch.setattr(evaluate.mesh, "make_mesh", lambda **_: one)
    yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """real, near and far: folders; data: prepared; net.npz: the beginning of Inception, random."""
  place = tmp_path_factory.mktemp("evaluate")
  images = scene.pictures(8, size=64)
  scene.folder(place / "real", images)
  scene.folder(place / "near", scene.noisy(images, 8.0))
  scene.folder(place / "near2", scene.noisy(images, 8.0, seed=2))
  scene.folder(place / "far", scene.noisy(images, 30.0))
  scene.dataset(place / "data")
  files.write_npz(place / "net.npz", random_arrays(arrays.layout(InceptionFeatures(tap=64), SIZE)))
  (place / "study.csv").write_text(COUNTS)
  return place


def call(place, out, *arguments, lpips="none"):
  network = ["--inception", str(place / "net.npz"), "--tap", "64", "--lpips", lpips]
  evaluate.main([*map(str, arguments), "--out", str(out), *network])
  return json.loads((out / "report.json").read_text()), (out / "report.md").read_text()


def fails(capsys, *arguments):
  with pytest.raises(SystemExit) as left:
    cli.run(evaluate.main, [str(argument) for argument in arguments])
  assert left.value.code == 2
  lines = capsys.readouterr().err.splitlines()
  assert lines[-1].startswith("error: ")
  return lines[-1]


@pytest.mark.slow
def test_folders_against_a_folder(place, tmp_path, capsys):
  report, page = call(
    place, tmp_path / "report", "--real", place / "real", "--baseline", f"near={place / 'near'}",
    "--baseline", f"near={place / 'near2'}", "--baseline", f"far={place / 'far'}",
    "--reader-study", place / "study.csv", "--run", f"a={curve(tmp_path / 'run', [0.3, 0.2])}",
    "--quantity", "val_l1",
    lpips="squeezenet",
  )  # fmt: skip
  near, far = (report["methods"][name] for name in ("near", "far"))
  assert (near["images"], near["keys"], near["samplings"]) == (16, 8, 2)
  assert near["numbers"]["psnr"]["value"] > far["numbers"]["psnr"]["value"]
  images, noise = scene.pictures(8, size=64), scene.noisy(scene.pictures(8, size=64), 30.0)
  expected = [
    10 * np.log10(255**2 / np.mean((images[n].astype(float) - noise[n]) ** 2)) for n in images
  ]
  assert far["numbers"]["psnr"]["value"] == pytest.approx(np.mean(expected), abs=1e-3)
  assert far["numbers"]["psnr"]["sd_images"] == pytest.approx(np.std(expected, ddof=1), abs=1e-3)
  assert near["distances"]["FID"]["name"] == "FID@64"
  assert near["distances"]["FID"]["value"] < far["distances"]["FID"]["value"]
  assert "run `python -m hiresmed_jax.weights" in near["numbers"]["lpips_squeezenet"]["missing"]
  tests = {row["metric"]: row for row in report["tests"]}
  assert tests["psnr"]["better"] == "first"
  assert tests["psnr"]["t"] < 1e-6
  assert report["reader_study"]["readers"]["senior"]["reading"]["counts"]["tp"] == 85
  assert report["convergence"]["rows"][0]["reached"] == 1

  assert "| near |" in page
  assert "FID@64" in page
  assert not re.search(r"\bFID ", page.replace("KID first", "").split("## Tests")[0].replace(
    "FID is compared", ""))  # fmt: skip
  assert "missing: near, LPIPS squeeze; far, LPIPS squeeze: no weights" in page
  assert "## Reader study" in page
  assert "near: **8 images are too few**" in page
  drawn = set(report["figures"]) | {"convergence.png"}
  assert drawn == {"typical.png", "worst.png", "convergence.png"}
  for name in drawn:
    assert cv2.imread(str(tmp_path / "report" / name)).std() > 10
  told = capsys.readouterr()
  assert "evaluate near 100 %  16/16 images" in told.err
  assert "report.md" in told.out


def test_synthetic_images_against_a_dataset(place, tmp_path):
  data = records.open_dataset(place / "data")
  made = [
    {"of": of, "at": (38 + 5 * k, 40 + of), "donor": f"d{k}"} for of in range(8) for k in range(2)
  ]
  out = scene.synthetic(tmp_path / "synthetic", data, made)
  report, page = call(
    place, tmp_path / "report", "--real", place / "data", "--synthetic", out,
  )  # fmt: skip
  found = report["methods"]["synthetic"]
  assert (found["keys"], found["samplings"], found["groups"]) == (8, 2, 4)
  assert found["table_5"]["background"]["groups"] == 8
  assert found["table_5"]["donor"]["groups"] == 2
  six = found["table_6"]
  assert six["ssim_outside"]["value"] > six["ssim"]["value"] > six["ssim_inside"]["value"]
  assert found["lesions"]["lesions"] == 16
  assert report["real"]["lesions"]["lesions"] == 12
  assert "retention" not in found["lesions"]
  assert "N 6 against 8" in found["distances"]["KID"]["protocol"]
  assert "16 of 16 images are real images" in report["methods"]["synthetic"]["caution"]
  # Where the numbers are.
  assert "16 of 16 images are real images" in page.split("## Table 2")[1].split("## ")[0]
  everything = page + json.dumps(report)
  for item in records.source(data, "train"):
    assert item["group"] not in everything
    assert item["image_id"] not in everything


def test_held_out_patients_end_the_command(place, tmp_path, capsys):
  data = records.open_dataset(place / "data")
  held_out = records.source(data, "test")[0]["group"]
  made = scene.synthetic(tmp_path / "s", data, [{"of": 0, "at": (40, 40), "donor_group": held_out}])
  line = fails(
    capsys, "--real", place / "data", "--synthetic", made, "--out", tmp_path / "report"
  )  # fmt: skip
  assert "are of the test split" in line
  assert not (tmp_path / "report").exists()


def test_mistakes_cost_a_line(place, tmp_path, capsys):
  out = ["--out", tmp_path / "report"]
  near = ["--baseline", f"near={place / 'near'}"]
  assert "name images" in fails(capsys, *out)
  assert "--real names the real images" in fails(capsys, *near, *out)
  assert "write NAME=DIR" in fails(capsys, "--baseline", place / "near", *out)
  assert "is not there" in fails(capsys, "--real", tmp_path / "none", *near, *out)
  assert "--samplings 0" in fails(capsys, "--samplings", "0", *near, *out)
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "thesis.tex").touch()
  line = fails(capsys, "--real", place / "real", *near, "--out", tmp_path / "full")
  assert "holds no report" in line
  damaged = scene.folder(tmp_path / "damaged", scene.pictures(1, size=64))
  (damaged / "image0.png").write_bytes(b"no image")
  line = fails(capsys, "--real", place / "real", "--baseline", f"x={damaged}", *out)
  assert "is not a PNG" in line
  assert not (tmp_path / "report").exists()


def test_a_report_is_replaced_only_when_told_to(place, tmp_path, capsys):
  arguments = ["--reader-study", place / "study.csv", "--out", tmp_path / "report"]
  evaluate.main([str(a) for a in arguments])
  before = (tmp_path / "report" / "report.json").read_bytes()
  capsys.readouterr()
  evaluate.main([str(a) for a in [*arguments, "--overwrite", "--json"]])
  assert json.loads(capsys.readouterr().out) == json.loads(before)
  assert "add --overwrite" in fails(capsys, *arguments)
  (tmp_path / "report" / "worst.png").touch()  # of an earlier report with images
  (tmp_path / "report" / "my notes.txt").touch()
  evaluate.main([str(a) for a in [*arguments, "--overwrite"]])
  assert {p.name for p in (tmp_path / "report").iterdir()} == {
    "report.md", "report.json", "my notes.txt",
  }  # fmt: skip
  assert (tmp_path / "report" / "report.json").read_bytes() == before


def test_a_report_is_one_process_s_and_an_unfinished_one_is_made_anew(place, tmp_path, capsys):
  out = tmp_path / "report"
  arguments = ["--reader-study", place / "study.csv", "--out", out]
  with files.locked(out):
    assert "another process writes" in fails(capsys, *arguments)
  out.mkdir()
  (out / "report.md").write_text("killed")
  (out / f".report.json.4194304-{files._own().split('-')[1]}-1.partial").touch()
  evaluate.main([str(a) for a in arguments])
  assert {path.name for path in out.iterdir()} == {"report.md", "report.json"}
  assert "killed" not in (out / "report.md").read_text()


def test_a_stop_leaves_no_report(place, tmp_path, monkeypatch):
  def write(request, *_):
    (request.out / "report.md").touch()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)

  monkeypatch.setattr(run, "_write", write)
  out = tmp_path / "report"
  with pytest.raises(Stopped, match="begins anew") as stopped:
    evaluate.main(["--reader-study", str(place / "study.csv"), "--out", str(out)])
  assert stopped.value.code == 143
  assert not out.exists()


def test_one_image_gives_reasons_and_no_numbers(place, tmp_path):
  one = scene.folder(tmp_path / "one", scene.noisy(scene.pictures(1, size=64), 5.0))
  report, page = call(
    place, tmp_path / "report", "--real", place / "real", "--baseline", f"one={one}"
  )
  found = report["methods"]["one"]
  assert found["numbers"]["psnr"]["sd_images"] is None
  assert "two or more" in found["distances"]["FID"]["missing"]
  assert "7 real images have no image in it" in found["notes"]
  assert "one, FID@64" in page


@pytest.fixture(scope="module")
def workdir(place, tmp_path_factory):
  """A run of the tiny config that has not learnt anything."""
  folder = tmp_path_factory.mktemp("run")
  data = records.open_dataset(place / "data")
  found = {"held_out": {"psnr": 20.0}, "train": {"psnr": 21.0}, "gap_psnr": 1.0,
           "floors": {"mean_image": 12.7, "nearest_image": 12.0}}  # fmt: skip
  tiny_run.untrained(folder, data, "data.size=(96, 112)", "seed=3", results=found)
  return folder


@pytest.mark.slow
def test_a_trained_run_on_its_held_out_images(place, workdir, tmp_path):
  report, page = call(
    place, tmp_path / "report", "--workdir", f"hdfb={workdir}", "--workdir", f"hdfb={workdir}"
  )
  found = report["methods"]["hdfb"]
  assert (found["images"], found["keys"], found["samplings"]) == (12, 6, 2)
  assert found["numbers"]["psnr"]["sd"] == 0.0
  assert found["runs"][0]["seed"] == 3
  assert found["lesions"]["lesions"] == 24
  assert {"kept", "cnr", "cnr_reference", "ssim", "retention"} <= set(found["lesions"])
  assert "are lost" in page  # a network that has learnt nothing keeps no lesion
  assert "| hdfb | 3 | 10 | 20.00 | 21.00 | 1.00 | 12.70 | 12.00 |" in page
  # Padding is cut away: the real image stands beside the reconstruction as it is stored.
  base = real.open_real(place / "data")
  picture = sets.model_set("hdfb", workdir, base, devices=jax.devices()[:1]).entries[0].load()
  item = base.item(base.entries[0].key)
  np.testing.assert_allclose(picture.reference, item["image"] / 255.0, atol=1e-6)
  np.testing.assert_array_equal(picture.boxes, item["boxes"])


@pytest.mark.slow
def test_a_workdir_of_other_data_is_refused(place, workdir, tmp_path, capsys):
  scene.dataset(tmp_path / "other", physics="ct")
  line = fails(
    capsys, "--workdir", workdir, "--real", tmp_path / "other", "--out", tmp_path / "report"
  )  # fmt: skip
  assert "is not the dataset that" in line
  line = fails(
    capsys, "--workdir", workdir, "--real", place / "real", "--out", tmp_path / "report"
  )  # fmt: skip
  assert "prepared dataset" in line


def test_help_has_an_example_that_is_understood(capsys):
  with pytest.raises(SystemExit):
    evaluate.main(["--help"])
  text = capsys.readouterr().out.replace("\\\n", " ")
  lines = re.findall(r"^  python -m hiresmed_jax\.evaluate (.+)", text, re.MULTILINE)
  assert len(lines) == 6
  for line in lines:
    evaluate._options(line.split())
