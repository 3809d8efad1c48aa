"""Is YOLO11 here as fast as the `ultralytics` package, in training and in use?

  python -m benchmarks.detector [--out benchmarks/results/detector_cpu.json]

Same network, image size, batch and boxes, in one process, two calls of each in turn, of which the
second counts; medians. A training step is forward, assignment, loss, backward and the update by SGD
with momentum; "in use" is forward, decoding and suppression. The package has PyTorch's plain SGD,
without clipping and average of the weights. Its suppression needs an operator of torchvision; where
that cannot run, suppression is left out and the result says so, which favours the package. Images
are on the device. On a GPU both are also measured in bfloat16. On Linux both are faster with
GLIBC_TUNABLES=glibc.malloc.hugetlb=1, which the result notes.
"""

import contextlib
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import harness
from hiresmed_jax.errors import UserError
from hiresmed_jax.routes import settings, supervised
from hiresmed_jax.routes.location import task as location
from hiresmed_jax.routes.programs import compile_programs
from hiresmed_jax.runtime import cli, compilation
from hiresmed_jax.runtime import mesh as meshes

ROOM = 16
Call = Callable[[], Any]


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--net", default="n", choices=("n", "s", "m"))
  parser.add_argument("--size", type=int, default=320)
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=9)
  options = parser.parse_args(argv)
  if importlib.util.find_spec("ultralytics") is None:
    raise UserError("the other side is missing: bash launch/references.sh installs it")
  about = harness.environment()
  gpu = jax.default_backend() == "gpu"
  rows = []
  for precision in ("float32", "bfloat16") if gpu else ("float32",):
    rows.append(measure(options, precision, gpu))
    print(json.dumps(rows[-1]), flush=True)
  result = {
    "benchmark": "detector",
    **about,
    "glibc_tunables": os.environ.get("GLIBC_TUNABLES"),
    "net": f"yolo11{options.net}",
    "size": options.size,
    "batch": options.batch,
    "rounds": options.rounds,
    "goals": {"training": 1.5 if gpu else 1.0},
    "rows": rows,
  }
  harness.publish(result, options.out)


def measure(options: Any, precision: str, gpu: bool) -> dict[str, Any]:
  """Images per second of both sides, in training and in use."""
  images, boxes, valid = scenes(options.batch, options.size)
  ours = _ours(options, precision, images, boxes, valid)
  theirs = _theirs(options, precision, images, boxes, valid, gpu)
  row: dict[str, Any] = {"precision": precision}
  for part in ("training", "in use"):
    times = harness.interleaved({"ours": ours[part], "package": theirs[part]}, options.rounds)
    seconds = {side: statistics.median(values) for side, values in times.items()}
    row[part] = {
      "images_per_second": {side: round(options.batch / s, 2) for side, s in seconds.items()},
      "times": round(seconds["package"] / seconds["ours"], 3),
    }
  row["package_suppresses"] = theirs["suppresses"]
  row["compile_seconds"] = ours["compile_seconds"]
  return row


def scenes(batch: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Noise with bright squares: images_m11 f32[N, S, S, 3], boxes f32[N, M, 4], valid bool[N, M]."""
  rng = np.random.default_rng(0)
  images = rng.normal(-0.5, 0.2, (batch, size, size, 3)).astype(np.float32)
  boxes, valid = np.zeros((batch, ROOM, 4), np.float32), np.zeros((batch, ROOM), bool)
  for image, own, there in zip(images, boxes, valid):
    for j in range(rng.integers(1, 5)):
      x, y, side = *rng.integers(0, size - 40, 2), rng.integers(8, 32)
      image[y : y + side, x : x + side] += 1.0
      own[j], there[j] = (x, y, x + side, y + side), True
  return np.clip(images, -1, 1), boxes, valid


def _ours(
  options: Any, precision: str, images: np.ndarray, boxes: np.ndarray, valid: np.ndarray
) -> dict[str, Any]:
  values = settings.values("location", "paper")
  values.update({"net": options.net, "size": options.size, "batch_size": options.batch})
  task = location.build(
    values,
    channels=3,
    size=options.size,
    steps=1000,
    steps_per_epoch=100,
    dtype=jax.numpy.dtype(precision),
  )
  batch = {"images_m11": images, "boxes_xyxy": boxes, "boxes_valid": valid}
  weight = np.ones(options.batch, np.float32)
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  start = time.perf_counter()
  programs = compile_programs(task, 0, mesh, batch, batch | {"weight": weight})
  seconds = time.perf_counter() - start
  net = location.network(values, dtype=jax.numpy.dtype(precision))
  given = meshes.put_batch(batch, programs.batch_sharding)
  where = jax.tree.map(lambda leaf: leaf.sharding, programs.abstract_state)
  holder = [jax.jit(task.init, out_shardings=where)(jax.random.key(0))]
  variables = jax.tree.map(jax.numpy.copy, supervised.averaged(holder[0]))
  find = jax.jit(
    lambda v, x: location.detections(v, x, net=net), compiler_options=compilation.options()
  )

  def train() -> None:
    holder[0], scalars = programs.step(holder[0], given, programs.frozen)
    jax.block_until_ready(scalars)

  return {
    "training": train,
    "in use": lambda: jax.block_until_ready(find(variables, given["images_m11"])),
    "compile_seconds": round(seconds, 1),
  }


def _theirs(
  options: Any,
  precision: str,
  images: np.ndarray,
  boxes: np.ndarray,
  valid: np.ndarray,
  gpu: bool,
) -> dict[str, Any]:
  from tests.reference import ultralytics_cpu as reference

  torch = reference.torch
  device = "cuda" if gpu else "cpu"
  net = reference.network(options.net, classes=1).to(device)
  space = reference.package("ultralytics.utils").IterableSimpleNamespace
  net.args = space(box=7.5, cls=0.5, dfl=1.5)
  given = torch.from_numpy((images + 1) / 2).permute(0, 3, 1, 2).contiguous().to(device)
  real = [own[there] / options.size for own, there in zip(boxes, valid)]
  corners = np.concatenate(real)
  centres = np.concatenate(
    [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=-1
  )
  batch = {
    "img": given,
    "cls": torch.zeros(len(corners), 1, device=device),
    "bboxes": torch.from_numpy(centres).to(device),
    "batch_idx": torch.tensor(
      np.repeat(np.arange(len(real)), [len(own) for own in real]), device=device
    ).float(),
  }
  tx = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.937, nesterov=True)

  def precise() -> Any:
    if precision == "float32":
      return contextlib.nullcontext()
    return torch.autocast(device, torch.bfloat16)

  def wait() -> None:
    if gpu:
      torch.cuda.synchronize()

  def train() -> None:
    net.train()
    tx.zero_grad(set_to_none=True)
    with precise():
      total, _ = net.loss(batch)
    total.sum().backward()
    tx.step()
    wait()

  suppresses = _suppresses(reference)
  nms = reference.package("ultralytics.utils.nms").non_max_suppression

  def use() -> None:
    net.eval()
    with torch.inference_mode(), precise():
      found = net(given)
      if suppresses:
        nms(found[0].float(), conf_thres=0.001, iou_thres=0.7, max_det=300)
    wait()

  return {"training": train, "in use": use, "suppresses": suppresses}


def _suppresses(reference: Any) -> bool:
  """Whether the operator of the package's suppression has an implementation here."""
  torch = reference.torch
  boxes, scores = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([0.5])
  try:
    torch.ops.torchvision.nms(boxes, scores, 0.5)
  except NotImplementedError:  # this torchvision was not built for this torch
    return False
  return True


if __name__ == "__main__":
  cli.run(main)
