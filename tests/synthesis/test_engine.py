"""Files: the same bytes on one device and on three, only what is missing, shards, refusals."""

import functools
import json
import re
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK
from pycocotools import mask as coco_masks

from hiresmed_jax.data import transforms
from hiresmed_jax.errors import UserError
from hiresmed_jax.inference import workdir
from hiresmed_jax.nets.vqgan import VQGAN
from hiresmed_jax.routes.background import task
from hiresmed_jax.synthesis import background, folder, run
from tests import tiny_run
from tests.synthesis import drawn

IDENTITY = {"request": {"seed": 0}, "data": "a fingerprint"}


def make(setting, out: Path, **options) -> list[str]:
  folder.claim(out, IDENTITY)
  failures = run.write_missing(setting, out, token="token", **{"workers": 1, **options})
  folder.gather(out, setting)
  return failures


def contents(out: Path) -> dict[str, bytes]:
  files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
  return {name: path.read_bytes() for name, path in sorted(files.items())}


@pytest.fixture(scope="module")
def by_a_network():
  return maker(batch=1)


def maker(*, batch: int):
  """A network that nobody trained stands for one: what it draws does not matter here."""
  net = VQGAN(
    in_channels=1, out_channels=1, stem_channels=4, channels=(8,), strides=(4,), encoder_blocks=1,
    full_resolution_channels=4, code_dim=4,
  )  # fmt: skip
  params = {
    "net": tiny_run.quick_jit(net.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))["params"],
    "codebook": jax.random.normal(jax.random.key(1), (16, 4)),
  }
  view = transforms.View(size=(96, 104), fit="pad")
  apply = functools.partial(task.reconstruct, net=net)
  network = workdir.on_images(
    lambda *given: apply(*given)[0], params, channels=1, options=tiny_run.quick(), batch=batch
  )
  return background.Maker(workdir.Model(view, network), label_own=False, least_contrast=0.5)


@pytest.mark.slow
def test_the_same_bytes_on_one_device_and_on_three(prepared, by_a_network, tmp_path):
  setting = drawn.setting(*prepared["projection"], maker=by_a_network, num=4, shams=1)
  one, three = tmp_path / "one", tmp_path / "three"
  assert make(setting, one, devices=jax.devices()[:1]) == []
  assert make(setting, three, devices=jax.devices()[:3], workers=3) == []
  assert contents(one) == contents(three)
  assert len(contents(one)) == 4 * 6 + 4


@pytest.mark.slow
def test_the_same_bytes_whatever_the_company_in_a_batch(prepared, tmp_path):
  setting = drawn.setting(*prepared["projection"], maker=maker(batch=3), num=4, batch=3)
  first, second = tmp_path / "first", tmp_path / "second"
  assert make(setting, first) == []
  # One is there: the others come in other batches, at other places.
  assert make(setting._replace(request=setting.request._replace(shard=(1, 4))), second) == []
  assert make(setting, second, devices=jax.devices()[:2]) == []
  assert contents(first) == contents(second)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_what_is_written_belongs_together(prepared, tmp_path):
  assert make(drawn.setting(*prepared["none"]), tmp_path / "out") == []
  out = tmp_path / "out"
  manifest = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
  coco = json.loads((out / "annotations.json").read_text())
  assert [one["index"] for one in manifest] == [0, 1, 2]
  for facts, entry in zip(manifest, coco["images"], strict=True):
    picture = cv2.imread(str(out / facts["image"]), cv2.IMREAD_UNCHANGED)
    twin = cv2.imread(str(out / facts["twin"]), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(out / facts["mask"]), cv2.IMREAD_UNCHANGED)
    assert picture.shape == twin.shape == mask.shape == drawn.SHAPE
    assert (f"images/{entry['file_name']}", mask.dtype) == (facts["image"], np.uint16)
    lines = (out / "labels" / f"{facts['index']:06d}.txt").read_text().splitlines()
    annotations = [a for a in coco["annotations"] if a["image_id"] == entry["id"]]
    assert len(lines) == len(annotations) == len(facts["lesions"]) == mask.max()
    for annotation, lesion in zip(annotations, facts["lesions"]):
      decoded = coco_masks.decode(annotation["segmentation"])
      np.testing.assert_array_equal(decoded, mask == lesion["id"])
      assert annotation["area"] == (mask == lesion["id"]).sum()
      x, y, width, height = annotation["bbox"]
      assert lesion["box"] == [x, y, x + width, y + height]
    assert re.fullmatch("[0-9a-f]{32}", facts["background"]["image"])
    assert all(re.fullmatch("[0-9a-f]{32}", lesion["donor"]) for lesion in facts["lesions"])


def test_no_text_lies_in_a_png(prepared, tmp_path):
  make(drawn.setting(*prepared["none"], num=1), tmp_path / "out")
  for path in (tmp_path / "out").rglob("*.png"):
    data, chunks, at = path.read_bytes(), [], 8
    while at < len(data):
      length = int.from_bytes(data[at : at + 4], "big")
      chunks.append(data[at + 4 : at + 8])
      at += 12 + length
    assert set(chunks) <= {b"IHDR", b"IDAT", b"IEND"}


def test_a_rerun_makes_only_what_is_missing(prepared, tmp_path):
  setting = drawn.setting(*prepared["none"])
  out = tmp_path / "out"
  make(setting, out)
  whole = contents(out)
  times = {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
  (out / "records" / "000001.json").unlink()
  (out / "images" / "000001.png").unlink()
  make(setting, out)
  assert contents(out) == whole
  kept = [path for path, time in times.items() if path.stat().st_mtime_ns == time]
  assert sorted(path.name for path in kept) == ["000000.png", "000002.png"]
  # Files that were lost, or cut short, after their record was written.
  (out / "masks" / "000000.png").unlink()
  (out / "twins" / "000001.png").write_bytes(b"")
  (out / "images" / "000002.png").write_bytes(whole["images/000002.png"][:300])
  make(setting, out)
  assert contents(out) == whole
  for damage in ("", "[]", '{"manifest": {}, "runs": [], "channels": 1}'):
    (out / "records" / "000001.json").write_text(damage)
    with pytest.raises(UserError, match=r"000001.json is damaged.*: delete it, and the same com"):
      folder.gather(out, setting)


def test_shards_make_the_whole_without_overlap(prepared, tmp_path):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  make(drawn.setting(*prepared["none"], num=5), whole)
  seen = []
  for index in (1, 0):
    make(drawn.setting(*prepared["none"], num=5, shard=(index, 2)), parts)
    seen.append(sum(1 for _ in (parts / "images").iterdir()))
  assert seen == [2, 5]
  assert contents(parts) == contents(whole)


def test_an_image_that_cannot_be_made_is_a_line_and_the_others_are_made(prepared, tmp_path):
  setting = drawn.setting(*prepared["none"], lesions=(1, 60), num=4)
  failures = make(setting, tmp_path / "out")
  assert 0 < len(failures) < 4
  assert all(re.match(r"image \d: no room for \d+ lesions", line) for line in failures)
  assert len(list((tmp_path / "out" / "images").iterdir())) == 4 - len(failures)


def test_dicom_is_read_by_another_reader(prepared, tmp_path):
  out, setting = tmp_path / "out", drawn.setting(*prepared["ct"], num=1, format="dicom")
  make(setting, out)
  read = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / "images" / "000000.dcm")))[0]
  made = run.make(setting, 0, jax.devices()[0])
  np.testing.assert_array_equal(read, made.image[..., 0].astype(np.float64) - 32768)
  assert not (out / "data.yaml").exists()


def test_the_contact_sheet_says_that_it_is_synthetic(prepared, tmp_path, monkeypatch):
  said = {}
  monkeypatch.setattr(folder, "image_grid", lambda path, rows, **more: said.update(more))
  for form in ("png", "dicom"):
    make(drawn.setting(*prepared["none"], format=form), tmp_path / form)
    records = folder.gather(tmp_path / form, drawn.setting(*prepared["none"], format=form))
    assert folder.draw_contact_sheet(tmp_path / form, records).parent == tmp_path / form
    assert all("SYNTHETIC" in title for title in said["columns"])
    assert "SYNTHETIC" in said["footer"]
  copied = {"kind": "copy"}, {"kind": "parametric"}
  facts = {"lesions": copied, "background": {"kind": "real"}}
  made_of = folder._made_of([{"manifest": facts}])
  assert made_of == ("copies of training lesions and lesions from a formula in training images")


def test_a_folder_belongs_to_one_request(tmp_path):
  out = tmp_path / "out"
  folder.claim(out, IDENTITY)
  folder.claim(out, IDENTITY)
  other = {**IDENTITY, "request": {"seed": 1}}
  with pytest.raises(UserError, match=r"another request \(request.seed: 0 -> 1\)"):
    folder.claim(out, other)
  (out / "images").mkdir()
  folder.claim(out, other, overwrite=True)
  assert not (out / "images").exists()
  mine = tmp_path / "mine"
  mine.mkdir()
  (mine / "thesis.txt").write_text("years of work")
  with pytest.raises(UserError, match="holds no images of this program"):
    folder.claim(mine, IDENTITY, overwrite=True)
  (out / "request.json").write_text(json.dumps({**IDENTITY, "version": 3}))
  with pytest.raises(UserError, match=r"another version .* --out, or --overwrite"):
    folder.claim(out, IDENTITY)
  (out / "request.json").write_text("{")
  with pytest.raises(UserError, match="damaged"):
    folder.claim(out, IDENTITY)


def test_where_writing_ends_early_no_image_is_without_labels(tmp_path, monkeypatch):
  plain, written = folder.files.write, []

  def write(path, content, **options):
    written.append(path.parent.name)
    plain(path, content, **options)

  monkeypatch.setattr(folder.files, "write", write)
  contents = {"images/0.png": b"", "labels/0.txt": b"", "masks/0.png": b""}
  folder.write_image(tmp_path, 0, contents, {})
  assert written[-2:] == ["images", "records"]


def test_what_others_left_in_a_folder_does_not_stop_it_from_being_overwritten(tmp_path):
  out, other = tmp_path / "out", {**IDENTITY, "request": {"seed": 1}}
  folder.claim(out, IDENTITY)
  (out / "labels.cache").touch()  # of a program that has trained on it
  folder.claim(out, other, overwrite=True)
  folder.claim(out, other)
  (tmp_path / "elsewhere").mkdir()
  (out / "images").symlink_to(tmp_path / "elsewhere")
  with pytest.raises(UserError, match="images is a link"):
    folder.claim(out, IDENTITY, overwrite=True)
  folder.claim(out, other)


def test_of_shards_that_begin_at_once_the_first_says_what_is_made(tmp_path, monkeypatch):
  other = {**IDENTITY, "request": {"seed": 1}}
  plain, turns = folder.files.write_json, []

  def write_json(path, content, **options):
    if not turns:  # another shard writes its request after this one has found none
      turns.append(True)
      folder.claim(path.parent, other)
    plain(path, content, **options)

  monkeypatch.setattr(folder.files, "write_json", write_json)
  with pytest.raises(UserError, match=r"another request \(request.seed: 1 -> 0\)"):
    folder.claim(tmp_path / "a", IDENTITY)
  (tmp_path / "b").mkdir()
  (tmp_path / "b" / ".request.json.1-x-1.partial").touch()  # it is being written
  folder.claim(tmp_path / "b", IDENTITY)


def test_another_seed_gives_other_uids():
  assert run.token(IDENTITY) != run.token({**IDENTITY, "request": {"seed": 1}})
