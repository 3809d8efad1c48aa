"""A mistake costs a user one line, never data, and never the wait for a compiler."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiresmed_jax import prepare, train
from hiresmed_jax.data import phantom, records
from hiresmed_jax.errors import UserError
from hiresmed_jax.files import locked
from hiresmed_jax.inference import survey
from hiresmed_jax.routes import ROUTES, loop, run
from hiresmed_jax.routes.background import task as background
from hiresmed_jax.routes.dataset import identity
from hiresmed_jax.runtime import cli, run_folder
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.compilation import compute_dtype
from hiresmed_jax.runtime.config import hash_values, load_config
from tests import tiny

TINY = f"{tiny.__file__}:background"
LESION = f"{tiny.__file__}:lesion"
DANGER = f"{tiny.__file__}:danger"
LOCATION = f"{tiny.__file__}:location"
REAL = [TINY, "--data", "data", "--config.data.phantom.kind="]


def write_images(folder: Path, count: int) -> Path:
  """Grey PNG images of sizes that differ."""
  folder.mkdir()
  rng = np.random.default_rng(0)
  for number in range(count):
    shape = (30 + number % 5, 36 - number % 7)
    smooth = cv2.GaussianBlur(rng.uniform(0, 255, shape), (0, 0), 3)
    stretched = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    cv2.imwrite(str(folder / f"scan-{number:02d}.png"), stretched)
  return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
  """raw: a few images; data: they prepared; empty: nothing; run: of another config."""
  place = tmp_path_factory.mktemp("place")
  write_images(place / "raw", 40)
  prepare.main(["--kind", "images", "--source", str(place / "raw"), "--out", str(place / "data")])
  (place / "empty").mkdir()
  (place / "file").touch()
  config = load_config(TINY, ["seed=5"])
  data = records.open_dataset(place / "data")
  run_folder.claim(
    place / "run" / "background", identity(config, "background", data, place / "run")
  )
  return place


def files(folder: Path) -> dict[str, bytes]:
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    (["--config", "kub.py"], "kub needs images: --data FOLDER, made by `python -m hiresmed_jax."),
    (["--config", "kub.py", "--data", "nowhere"], "nowhere is not there"),
    (["--config", "kub.py", "--data", "empty"], "empty is empty"),
    (["--config", "kub.py", "--data", "file"], "file is not a folder"),
    (["--config", "kub.py", "--data", "raw"], "is not prepared; run: python -m hiresmed_jax.prep"),
    (["--config", "kubb.py"], "did you mean kub.py?"),
    (["--config", "kub.py:backgruond"], "did you mean background?"),
    (["--config", "kub.py:background,bets"], "did you mean best?"),
    (["--config", TINY, "--config.background.gan.wieght=1"], "mean config.background.gan.weight?"),
    (["--config", TINY, "--config.background.steps=two"], "expected an integer"),
    (["--config", TINY, "--config.background.loss.reconstruction=l2"], "use 'l1' or 'mse'"),
    (["--config", TINY, "--config.data.crop=18"], "images of 18 x 18 do not divide"),
    (["--config", TINY, "--config.mesh.fsdp=3"], "does not divide the 8 device(s)"),
    (["--config", TINY, "--config.background.batch_size=12"], "use a multiple of 8"),
    (
      ["--config", *REAL, "--config.background.batch_size=64"],
      "train images and this run needs 64",
    ),
    (["--config", *REAL, "--config.background.perceptual.net=vgg16"], "hiresmed_jax.weights fetch"),
    (["--config", TINY, "--data", "data"], "makes its own phantom: leave out --data"),
    (["--config", TINY, "--workdir", "data"], "data is a dataset, not a workdir: --data"),
    (["--config", TINY, "--workdir", "file"], "file is a file: --workdir takes a folder"),
    (["--config", TINY, "--workdir", "file/below"], "file is a file"),
    (["--config", TINY, "--workdir", "run/background"], "use --workdir run"),
    (
      ["--config", *REAL, "--workdir", "run"],
      "holds a run of another config (",
    ),
    (
      ["--config", LOCATION, "--data", "data", "--config.data.phantom.kind="],
      "has no lesions",
    ),
    (
      ["--config", DANGER, "--data", "data", "--config.data.phantom.kind="],
      "has no masks of forbidden tissue",
    ),
    (
      ["--config", LESION, "--data", "data", "--config.data.phantom.kind="],
      "has no lesions",
    ),
    (["--config", TINY, "--wrkdir", "run"], "did you mean --workdir?"),
    (["--workdir", "run"], "required: --config"),
  ],
  ids=lambda value: None if isinstance(value, str) else " ".join(value).replace(TINY, "tiny"),
)
def test_a_mistake_is_one_line_and_costs_nothing(
  place, tmp_path, monkeypatch, capsys, arguments, says
):
  monkeypatch.chdir(place)
  monkeypatch.setattr(loop, "compile_programs", lambda *_: pytest.fail("compiled"))
  before = files(place)
  if "--workdir" not in arguments:
    arguments = [*arguments, "--workdir", str(tmp_path / "work")]
  with pytest.raises(SystemExit) as left:
    cli.run(train.main, arguments)
  told = capsys.readouterr().err.strip().splitlines()
  assert says in told[-1]
  assert told[-1].startswith("error: ")
  assert [line for line in told[:-1] if not line.startswith("phantoms ")] == []
  assert left.value.code == 2
  assert files(place) == before
  assert not (tmp_path / "work" / "background").exists()


@pytest.mark.parametrize("data", [[], ["--data", "data", "--config.data.phantom.kind="]])
def test_missing_weights_are_told_before_images_are_read(place, tmp_path, monkeypatch, data):
  monkeypatch.chdir(place)
  monkeypatch.setattr(records, "source", lambda *_: pytest.fail("read"))
  asked = ["--config", TINY, *data, "--config.background.perceptual.net=vgg16"]
  with pytest.raises(UserError, match=r"weights fetch vgg16.* or train without it: --config\."):
    train.main([*asked, "--workdir", str(tmp_path / "work")])
  assert not (tmp_path / "work" / "data").exists()


class Compiling(Exception):
  """The run has come so far that it compiles."""


@pytest.fixture
def compiling(monkeypatch):
  def compile_programs(*_):
    raise Compiling

  monkeypatch.setattr(loop, "compile_programs", compile_programs)


def test_phantoms_of_another_config_are_not_used_in_silence(tmp_path, compiling):
  def go(*overrides, overwrite=False):
    config = load_config(TINY, ["data.phantom.num=24", *overrides])
    with pytest.raises(Compiling):
      run.train(config, data=None, workdir=tmp_path, overwrite=overwrite)
    return records.open_dataset(tmp_path / "data").card

  first = go()
  assert first["images"] == 24
  stamp = (tmp_path / "data" / "card.json").stat().st_mtime_ns
  assert go() == first
  assert (tmp_path / "data" / "card.json").stat().st_mtime_ns == stamp
  with pytest.raises(UserError, match=r"other phantoms \(kub x 24, 32 px, seed 0\) than this conf"):
    go("data.phantom.seed=1")
  with pytest.raises(UserError, match="lesions of 9 to 14 mm"):
    go("data.phantom.diameter_mm=(9.0,14.0)")
  assert records.open_dataset(tmp_path / "data").card == first
  assert go("data.phantom.seed=1", overwrite=True)["fingerprint"] != first["fingerprint"]


def test_overwriting_removes_the_run_and_nothing_else(place, tmp_path, compiling):
  (tmp_path / "lesion").mkdir()
  (tmp_path / "lesion" / "config.json").write_text("{}")
  for seed, overwrite in ((1, False), (2, True)):
    config = load_config(TINY, [f"seed={seed}", "data.phantom.kind="])
    with pytest.raises(Compiling):
      run.train(config, data=place / "data", workdir=tmp_path, overwrite=overwrite)
    assert (
      json.loads((tmp_path / "background" / "config.json").read_text())["config"]["seed"] == seed
    )
    assert not (tmp_path / "background" / "of the earlier run").exists()
    (tmp_path / "background" / "of the earlier run").touch()
  assert (tmp_path / "lesion" / "config.json").exists()


def test_nothing_is_removed_where_something_is_missing(place, tmp_path, compiling):
  config = load_config(TINY, ["data.phantom.kind="])
  with pytest.raises(Compiling):
    run.train(config, data=place / "data", workdir=tmp_path)
  with pytest.raises(UserError, match="typo"):
    run.train(config, data=place / "typo", workdir=tmp_path, overwrite=True)
  config = load_config(TINY, ["data.phantom.kind=", "background.perceptual.net=vgg16"])
  with pytest.raises(UserError, match="weights fetch vgg16"):
    run.train(config, data=place / "data", workdir=tmp_path, overwrite=True)
  assert (tmp_path / "background" / "config.json").is_file()


def test_phantoms_that_another_training_draws_are_waited_for(tmp_path, compiling, monkeypatch):
  config = load_config(TINY, ["data.phantom.num=24"])
  samples = [one.sample for one in phantom.phantoms("kub", 24, 32, seed=0)]
  drawing, over = threading.Event(), threading.Event()

  def first() -> None:
    with locked(tmp_path / ".phantoms"):
      drawing.set()
      over.wait(60)
      name = "kub x 24, 32 px, seed 0"
      records.write_dataset(samples, tmp_path / "data", kind="phantom", name=name)

  other = threading.Thread(target=first)
  other.start()
  assert drawing.wait(60)
  monkeypatch.setattr(phantom, "phantoms", lambda *_, **__: pytest.fail("drawn twice"))
  threading.Timer(0.3, over.set).start()
  with pytest.raises(Compiling):
    run.train(config, data=None, workdir=tmp_path)
  assert over.is_set()
  assert not (tmp_path / ".phantoms").exists()
  other.join()


def test_a_run_is_told_by_what_it_trains_on_and_not_by_where(place, tmp_path):
  data = records.open_dataset(place / "data")

  def hash_of(*overrides):
    return identity(load_config(TINY, overrides), "background", data, tmp_path)["config_hash"]

  plain = hash_of()
  for same in ("mesh.fsdp=2", "data.workers=3"):
    assert hash_of(same) == plain
  for other in ("seed=1", "data.crop=8", "background.steps=11", "background.net.block=residual"):
    assert hash_of(other) != plain
  found = identity(load_config(TINY), "background", data, tmp_path)
  assert found["data"] == data.card["fingerprint"]


def test_a_run_begun_before_a_setting_existed_is_the_same_run(place, tmp_path):
  data = records.open_dataset(place / "data")

  def who(*overrides):
    config = load_config(LOCATION, ["data.phantom.kind=", *overrides])
    return identity(config, "location", data, tmp_path)

  made = who("location.near=0.0")
  del made["config"]["location"]["near"]
  made["config"]["location"]["bare"] = made["config"]["location"].pop("lesion_free")
  made["config_hash"] = hash_values(made["config"])
  run_folder.claim(tmp_path, made)
  # Boxes began wide then, one setting had another name, and checkpoints hold the hash of then.
  assert who("location.near=0.0")["config_hash"] == made["config_hash"]
  assert run_folder.claim(tmp_path, who("location.near=0.0")) is None
  for other in (["location.near=1.0"], ["location.near=0.0", "seed=1"]):
    with pytest.raises(UserError, match="holds a run of another config"):
      run_folder.claim(tmp_path, who(*other))


def test_the_type_to_compute_in():
  assert compute_dtype("float32") == jnp.float32
  assert compute_dtype("bfloat16") == jnp.bfloat16
  assert compute_dtype("auto") == jnp.float32  # on a CPU


@pytest.mark.parametrize(
  ("platform", "capability", "expected"),
  [
    ("gpu", "7.0", jnp.float32),  # V100: no bfloat16 units
    ("gpu", "8.0", jnp.bfloat16),
    ("gpu", "10.0", jnp.bfloat16),
    ("tpu", None, jnp.bfloat16),
  ],
)
def test_the_type_to_compute_in_follows_the_device(monkeypatch, platform, capability, expected):
  device = SimpleNamespace(platform=platform, compute_capability=capability)
  monkeypatch.setattr(jax, "devices", lambda: [device])
  assert compute_dtype("auto") == expected


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "best"])
def test_a_step_at_full_size_can_be_lowered(preset):
  config = load_config(f"kub.py:background,{preset}", ["background.perceptual.net=None"])
  values = config.background
  task = background.build(
    values, channels=config.data.channels, size=config.data.size, steps=1000, steps_per_epoch=10
  )
  mesh = meshes.make_mesh()
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  shardings = meshes.state_shardings(shapes, mesh)
  images = jax.ShapeDtypeStruct(
    (values.batch_size, *config.data.size, 1),
    jnp.float32,
    sharding=meshes.batch_sharding(mesh),
  )
  assert images.shape == (8, 1024, 1024, 1)
  out = (shardings, meshes.replicated(mesh))
  step = jax.jit(task.train_step, donate_argnums=0, out_shardings=out)
  lowered = step.lower(meshes.with_shardings(shapes, shardings), {"images_m11": images}, {})
  state, scalars = lowered.out_info
  assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
    lambda x: (x.shape, x.dtype), shapes
  )
  assert all(scalar.shape == () for scalar in scalars.values())


class Route:
  """Stands for a route's module; its training is over at once."""

  def __init__(self, name: str, calls: list[str]):
    self.name, self.calls = name, calls

  def skip(self, config, dataset):
    if self.name == "danger":
      return "no masks" if not dataset.card["audit"]["images"]["forbidden_masks"] else ""
    return "" if self.name == "background" or dataset.card["boxes"] else "no lesions"

  def train(self, config, dataset, folder, mesh):
    self.calls.append(self.name)
    folder.mkdir(parents=True, exist_ok=True)
    return {"results": self.name}


def test_all_routes_in_order_and_none_for_lesions_where_there_are_none(
  place, tmp_path, monkeypatch, capsys
):
  calls: list[str] = []
  monkeypatch.setattr(run, "_module", lambda name: Route(name, calls))
  larger = ["data.phantom.size=128", "data.phantom.num=6"]  # at 32 px a stone is no pixel
  config = load_config(f"{tiny.__file__}:all", larger)
  results = run.train(config, data=None, workdir=tmp_path / "phantoms")
  assert list(results) == list(ROUTES)
  assert calls == list(ROUTES)
  noted = json.loads((tmp_path / "phantoms" / "data.json").read_text())
  assert Path(noted["root"]) == tmp_path / "phantoms" / "data"
  assert noted["synthesize"] == config.synthesize.to_dict()
  assert survey.load(tmp_path / "phantoms", noted["fingerprint"]).patches  # without the dataset
  config = load_config(f"{tiny.__file__}:all", ["data.phantom.kind="])
  found = run.train(config, data=place / "data", workdir=tmp_path / "no_lesions")
  assert "lesion" not in found
  assert "danger" not in found
  with (
    locked(tmp_path / "no_lesions" / "background"),
    pytest.raises(UserError, match=r"another process writes .*no_lesions/background now"),
  ):
    run.train(config, data=place / "data", workdir=tmp_path / "no_lesions")
  with (
    locked(tmp_path / "no_lesions", shared=True),
    pytest.raises(UserError, match=r"another process writes .*no_lesions now"),
  ):
    run.train(config, data=place / "data", workdir=tmp_path / "no_lesions", overwrite=True)
  assert not list((tmp_path / "no_lesions").glob("survey-*"))
  assert "the route lesion is left out: " in capsys.readouterr().out
