"""What `faults.py` disturbs: commands with what they read, and how results are compared."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator

import cv2
import jax
import numpy as np
import orbax.checkpoint as ocp

from hiresmed_jax import files
from hiresmed_jax.convert import features
from hiresmed_jax.data import phantom, records
from hiresmed_jax.data.identity import SPLITS
from hiresmed_jax.runtime import checkpoint

_CONFIG = str(pathlib.Path(__file__).parents[1] / "tests" / "tiny.py")
_IMAGES = 24
_OF_CLOCKS = ("curves.png",)  # draws images a second, too
# Figures of a clock, not of the run.
_TIMINGS = ("time", "images_per_second", "tflops_per_second", "peak_resident_memory_bytes")
# Nothing of a network counts here: they compile as fast as may be.
_SMALL = {
  "background": ("gan.weight=0", "net.block=residual", "codebook.init=random"),
  "lesion": ("limit=1",),
  "location": ("net=p", "lesion_free=0.0"),
}


@dataclasses.dataclass(frozen=True)
class Place:
  """A command, and what it reads and writes.

  Attributes:
    name: of the command.
    command: its arguments; "{}" is the folder of a trial.
    given: name in that folder -> what is copied there, so that it may be damaged.
    result: what the command makes there.
    same: what an undisturbed run has made.
    damage: patterns of the files of `given` that are damaged.
    without: patterns of what is left out of the copies, so that the command has something to do.
    seconds: that an undisturbed run takes.
  """

  name: str
  command: tuple[str, ...]
  given: dict[str, pathlib.Path]
  result: str
  same: pathlib.Path
  damage: tuple[str, ...] = ()
  without: tuple[str, ...] = ()
  seconds: float = 0.0

  def argv(self, folder: pathlib.Path) -> list[str]:
    """The command line."""
    return [part.replace("{}", str(folder)) for part in self.command]

  def make(self, folder: pathlib.Path) -> None:
    """Makes the folder anew, with copies of what the command reads."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, source in self.given.items():
      if source.is_dir():
        shutil.copytree(source, folder / name)
      else:
        shutil.copy(source, folder / name)
    for path in [path for pattern in self.without for path in folder.glob(pattern)]:
      shutil.rmtree(path) if path.is_dir() else path.unlink()

  def writes(self, folder: pathlib.Path) -> bool:
    """Whether something is being written that is not whole yet."""
    patterns = ("*.orbax-checkpoint-tmp*", ".*.partial", "*.replaced")
    return any(next(folder.rglob(pattern), None) for pattern in patterns)

  def damageable(self, folder: pathlib.Path) -> list[pathlib.Path]:
    """Files that are damaged, in a fixed order."""
    found = {path for pattern in self.damage for path in folder.glob(pattern)}
    return sorted(path for path in found if path.is_file() and path.stat().st_size)

  def difference(self, folder: pathlib.Path, arrays: Callable[[pathlib.Path], str]) -> str:
    """How the result differs from that of the undisturbed run; "" where it does not."""
    ours, theirs = (_content(path) for path in (folder / self.result, self.same))
    for name in sorted(ours.keys() | theirs.keys()):
      if ours.get(name) != theirs.get(name):
        state = "differs" if name in ours and name in theirs else "is one side's only"
        return f"lost: {name} {state}"
    routes = [path.parent for path in self.same.rglob("checkpoints")]
    routes += [path.parent for path in self.same.glob("card.json")]
    for route in routes:
      mine = folder / self.result / route.relative_to(self.same)
      if arrays(mine) != arrays(route):
        return f"lost: what {route.name} holds differs"
    return ""


def _content(path: pathlib.Path) -> dict[str, str]:
  """Name -> digest of every file, without clocks, and without checkpoints' own files."""
  if path.is_file():
    return {"": hashlib.sha256(path.read_bytes()).hexdigest()}
  found = {}
  for each in sorted(path.rglob("*")):
    name = each.relative_to(path).as_posix()
    apart = "checkpoints/" in name or each.name in _OF_CLOCKS or ".array_record" in name
    apart |= each.name == files.DIGESTS and (each.parent / "card.json").exists()
    if each.is_file() and not apart:
      content = _without_clocks(each) if each.name == "metrics.jsonl" else each.read_bytes()
      found[name] = hashlib.sha256(content).hexdigest()
  return found


def _without_clocks(path: pathlib.Path) -> bytes:
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  kept = [{k: v for k, v in line.items() if k not in _TIMINGS} for line in lines]
  return json.dumps(kept).encode()


def print_arrays(argv: list[str]) -> None:
  """Prints the newest step that a route's folder holds and a digest of its arrays.

  Older ones are not compared: a stop writes one. Of a dataset the digest of its records.
  """
  if (pathlib.Path(argv[0]) / "card.json").is_file():
    dataset, digest = records.open_dataset(argv[0]), hashlib.sha256()
    for item in (item for split in SPLITS for item in records.source(dataset, split)):
      for name, value in sorted(item.items()):
        digest.update(f"{name} {value!r}".encode() + np.asarray(value).tobytes())
    print(digest.hexdigest())
    return
  with checkpoint.open(pathlib.Path(argv[0]) / "checkpoints") as manager:
    step = max(manager.all_steps())
    args = ocp.args.Composite(state=ocp.args.StandardRestore())
    state = manager.restore(step, args=args).state
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
    digest.update(np.asarray(leaf).tobytes())
  print(step, digest.hexdigest())


def places(folder: pathlib.Path) -> Iterator[Place]:
  """All commands, in the order in which their references are made in a folder."""
  data, run, images = folder / "data", folder / "run", folder / "images"
  config = ("--config", _CONFIG)
  yield Place("prepare phantoms", ("prepare", "--kind", "phantom", "--num", "30", "--size", "128",
              "--overwrite", "--out", "{}/data"), {}, "data", data)  # fmt: skip
  yield Place("prepare", ("prepare", "--source", "{}/images", "--physics", "projection",
              "--private", "{}/private", "--overwrite", "--out", "{}/out"),
              {"images": images, "private": folder / "private"}, "out", folder / "out")  # fmt: skip
  own = ("--data", "{}/data", "--config.data.phantom.kind=")
  for route in ("background", "lesion", "location", "danger"):
    changes = [f"--config.{route}.{change}" for change in _SMALL.get(route, ())]
    yield Place(
      f"train {route}",
      ("train", "--config", f"{_CONFIG}:{route}", *own, *changes, "--workdir", "{}/run"),
      {"data": data},
      f"run/{route}",
      run / route,
    )
  seen = {"data": data, "run": run}
  ask: tuple[str, ...] = ("synthesize", *config, *own, "--workdir", "{}/run", "--num", "4")
  ask += ("--out", "{}/made", "--on-empty", "copy")
  ask += tuple(f"--config.{r}.{change}" for r, changes in _SMALL.items() for change in changes)
  yield Place("synthesize", (*ask, "--background", "real"), seen, "made", folder / "made",
              damage=("data/**/*", "run/lesion/bank/*", "run/survey-*"),
              without=("run/survey-*",))  # fmt: skip
  networks = ("--config.synthesize.danger=on", "--config.synthesize.prior=yolo")
  yield Place(
    "synthesize from networks",
    (*ask, "--background", "real", *networks),
    seen,
    "made",
    folder / "made_by_networks",
    damage=tuple(f"run/{route}/checkpoints/*/**/*" for route in ("location", "danger")),
  )
  yield Place("evaluate", ("evaluate", "--real", "{}/data", "--synthetic", "{}/made", "--lpips",
              "none", "--overwrite", "--out", "{}/report"),
              {"data": data, "made": folder / "made"}, "report", folder / "report")  # fmt: skip
  yield Place("weights", ("weights", "convert", "{}/net.npz", "--net", "squeezenet", "--out",
              "{}/made.npz"), {"net.npz": folder / "net.npz"}, "made.npz", folder / "made.npz",
              damage=("net.npz",))  # fmt: skip
  for route in ("background", "danger"):
    changes = [f"--config.{route}.{change}" for change in _SMALL.get(route, ())]
    yield Place(
      f"train {route}, from its checkpoint",
      ("train", "--config", f"{_CONFIG}:{route}", *own, *changes, "--workdir", "{}/run"),
      seen,
      f"run/{route}",
      run / route,
      damage=(f"run/{route}/checkpoints/*/**/*",),
      without=(f"run/{route}/DONE.json", f"run/{route}/results.json"),
    )


def draw(argv: list[str]) -> None:
  """Makes what the commands begin with: images with labels as YOLO has them, weights."""
  folder = pathlib.Path(argv[0])
  images = folder / "images"
  (images / "images").mkdir(parents=True, exist_ok=True)
  (images / "labels").mkdir(exist_ok=True)
  for number, one in enumerate(phantom.phantoms("kub", _IMAGES, 64, seed=1)):
    sample = one.sample
    grey = (sample.image / max(int(sample.image.max()), 1) * 255).astype(np.uint8)
    cv2.imwrite(str(images / "images" / f"scan{number:02}.png"), grey)
    boxes = sample.boxes / 64
    lines = [
      f"0 {(x1 + x2) / 2:.4f} {(y1 + y2) / 2:.4f} {x2 - x1:.4f} {y2 - y1:.4f}"
      for x1, y1, x2, y2 in boxes
    ]
    (images / "labels" / f"scan{number:02}.txt").write_text("\n".join(lines) + "\n")
  rng = np.random.default_rng(0)
  net = {n: rng.normal(size=s).astype(np.float32) for n, s in features.layout("squeezenet").items()}
  files.write_npz(folder / "net.npz", net)
