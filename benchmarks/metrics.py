"""How fast are FID, SSIM and LPIPS beside the usual packages?

  python -m benchmarks.metrics [--out benchmarks/results/metrics_cpu.json]

FID from the features, against pytorch-fid (means, covariances, SciPy's matrix square root) and that
square root alone; SSIM against torchmetrics and scikit-image; LPIPS against the lpips package with
the same weights (a random trunk and the published heads, which cost the same). All sides in one
process, two calls of each in turn, of which the second counts; medians. Images are on the device
before the clock starts. The results of both sides are compared, too. On a machine with a GPU, jax
and torch use it; FID and scikit-image stay on the host. A side whose package is missing is left
out.
"""

import importlib.util
import json
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from benchmarks import harness
from hiresmed_jax import files
from hiresmed_jax.convert import features
from hiresmed_jax.metrics import fid, ssim
from hiresmed_jax.runtime import cli, compilation

IMAGES, FEATURES = 1000, 2048
GOAL = 20.0  # times SciPy's matrix square root
SIZES = (256, 1024)
LPIPS_NETS = {"squeezenet": "squeeze", "alexnet": "alex"}
Call = Callable[[], Any]


def main(argv: list[str]) -> None:
  parser = harness.parser(__doc__)
  parser.add_argument("--pixels", type=int, default=1 << 22, help="of a batch for SSIM")
  parser.add_argument("--lpips-pixels", type=int, default=1 << 20, help="of a batch for LPIPS")
  parser.add_argument("--rounds", type=int, default=9, help="calls of each side; a third for FID")
  options = parser.parse_args(argv)
  about = harness.environment()
  device, beside = _torch_device(), importlib.util.find_spec("torch") is not None
  distance = measure_fid(IMAGES, FEATURES, max(1, options.rounds // 3), beside)
  print(f"FID of {IMAGES} x {FEATURES}: {json.dumps(distance)}", flush=True)
  rows: dict[str, list[dict[str, Any]]] = {"ssim": [], "lpips": []}
  for size in SIZES:
    row = measure_ssim(size, max(1, options.pixels // size**2), options.rounds, device)
    print(f"SSIM: {json.dumps(row)}", flush=True)
    rows["ssim"].append(row)
  for net in LPIPS_NETS if beside else ():
    for size in SIZES:
      batch = max(1, options.lpips_pixels // size**2)
      row = measure_lpips(net, size, batch, options.rounds, device)
      print(f"LPIPS: {json.dumps(row)}", flush=True)
      rows["lpips"].append(row)
  result = {
    "benchmark": "metrics",
    **about,
    "load_average_after": round(os.getloadavg()[0], 2),
    "torch_device": device,
    "fid": distance,
    **rows,
  }
  harness.publish(result, options.out)


def measure_fid(images: int, length: int, rounds: int, beside: bool) -> dict[str, Any]:
  """Seconds of each side from two sets of features, and by how much the distances differ."""
  first, second = realistic_features(images, length, 0), realistic_features(images, length, 1)
  covariances = [np.cov(z.astype(np.float64), rowvar=False) for z in (first, second)]
  calls: dict[str, Call] = {
    "ours": lambda: fid.fid(first, second),
    "sqrtm": lambda: scipy.linalg.sqrtm(covariances[0] @ covariances[1]),
  }
  if beside and importlib.util.find_spec("pytorch_fid"):
    calls["pytorch_fid"] = lambda: _pytorch_fid(first, second)
  found, seconds = _medians(calls, rounds)
  row: dict[str, Any] = {"images": images, "features": length, "rounds": rounds, "goal": GOAL}
  row["seconds"] = {side: round(value, 4) for side, value in seconds.items()}
  row["times"] = {s: round(v / seconds["ours"], 1) for s, v in seconds.items() if s != "ours"}
  if "pytorch_fid" in found:
    row["relative_difference"] = float(abs(found["ours"] / found["pytorch_fid"] - 1))
  return row


def realistic_features(images: int, length: int, seed: int) -> np.ndarray:
  """f32[images, length] with the decaying spectrum that pooled activations have, none negative."""
  rng = np.random.default_rng(seed)
  mixing = np.linalg.qr(np.random.default_rng(99).standard_normal((length, length)))[0]
  decay = np.arange(1, length + 1) ** -0.8
  drawn = (rng.standard_normal((images, length)) * decay) @ mixing
  return np.abs(drawn + 0.3 + 0.02 * seed).astype(np.float32)


def measure_ssim(size: int, batch: int, rounds: int, device: str) -> dict[str, Any]:
  """Images per second of each side, grey, float32, and the largest difference to each."""
  a, b = _pairs(size, batch, 1)
  ours = [jnp.asarray(z) for z in (a, b)]
  calls: dict[str, Call] = {"ours": lambda: ssim.ssim(*ours, data_range=1.0).block_until_ready()}
  if importlib.util.find_spec("torch") and importlib.util.find_spec("torchmetrics"):
    calls["torchmetrics"] = _torchmetrics_call(a, b, device)
  if importlib.util.find_spec("skimage"):
    calls["scikit-image"] = lambda: _scikit_images(a, b)
  found, seconds = _medians(calls, rounds)
  # scikit-image leaves the border out.
  inner = {"scikit-image": np.asarray(ssim.ssim(*ours, data_range=1.0, inner=True))}
  return {
    "size": size,
    **_row(found, seconds, batch, rounds, inner),
  }


def measure_lpips(net: str, size: int, batch: int, rounds: int, device: str) -> dict[str, Any]:
  """Images per second of each side, RGB, float32, and the largest difference."""
  from tests.reference.torchvision_cpu import lpips_network, torch

  reference = lpips_network(LPIPS_NETS[net])
  with tempfile.TemporaryDirectory() as folder:
    whole = Path(folder) / "whole.pth"
    torch.save(reference.state_dict(), whole)
    files.write_npz(features.cache_path(net, Path(folder)), features.convert([whole], net))
    distance, weights = features.load_perceptual(net, folder=Path(folder))
  reference = reference.to(device)
  a, b = (2 * z - 1 for z in _pairs(size, batch, 3))
  x, y = jnp.asarray(a), jnp.asarray(b)
  on_device = jax.device_put(weights)
  compiled = jax.jit(distance, compiler_options=compilation.options())
  given = [torch.from_numpy(z).permute(0, 3, 1, 2).contiguous().to(device) for z in (a, b)]

  def theirs() -> np.ndarray:
    with torch.no_grad():
      return reference(*given).cpu().numpy().ravel()

  calls: dict[str, Call] = {
    "ours": lambda: compiled(on_device, x, y).block_until_ready(),
    "lpips": theirs,
  }
  found, seconds = _medians(calls, rounds)
  about = {"net": net, "size": size, "weights": "random trunk, published heads"}
  return {**about, **_row(found, seconds, batch, rounds, {})}


def _row(
  found: dict[str, Any],
  seconds: dict[str, float],
  batch: int,
  rounds: int,
  instead: dict[str, np.ndarray],
) -> dict[str, Any]:
  """Rates and differences; `instead` are our values by the definition of another side."""
  others = [side for side in found if side != "ours"]
  differences = {
    side: float(np.abs(np.asarray(instead.get(side, found["ours"])) - found[side]).max())
    for side in others
  }
  return {
    "batch": batch,
    "rounds": rounds,
    "images_per_second": {side: round(batch / value, 2) for side, value in seconds.items()},
    "differences": differences,
  }


def _medians(calls: dict[str, Call], rounds: int) -> tuple[dict[str, Any], dict[str, float]]:
  """Each side's result, and its median seconds."""
  found = {side: call() for side, call in calls.items()}
  times = harness.interleaved(calls, rounds)
  return found, {side: statistics.median(values) for side, values in times.items()}


def _pairs(size: int, batch: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
  """Smooth images in [0, 1] and the same with noise, f32[batch, size, size, channels]."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:size, :size] / size
  phase = rng.uniform(0, 6, (batch, 1, 1, channels))
  smooth = 0.5 + 0.3 * np.sin(9 * x[None, ..., None] + 5 * y[None, ..., None] + phase)
  noisy = np.clip(smooth + rng.normal(0, 0.05, smooth.shape), 0, 1)
  return smooth.astype(np.float32), noisy.astype(np.float32)


def _pytorch_fid(first: np.ndarray, second: np.ndarray) -> float:
  from tests.reference.torchvision_cpu import import_torchvision

  import_torchvision()
  from pytorch_fid import fid_score

  sides = [z.astype(np.float64) for z in (first, second)]
  moments = [(z.mean(axis=0), np.cov(z, rowvar=False)) for z in sides]
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it uses SciPy's older interface
    return fid_score.calculate_frechet_distance(*moments[0], *moments[1])


def _torchmetrics_call(a: np.ndarray, b: np.ndarray, device: str) -> Call:
  from tests.reference.torchvision_cpu import import_torchvision, torch

  import_torchvision()
  from torchmetrics.functional.image import structural_similarity_index_measure

  given = [torch.from_numpy(z).permute(0, 3, 1, 2).contiguous().to(device) for z in (a, b)]

  def call() -> np.ndarray:
    with torch.no_grad():
      values = structural_similarity_index_measure(*given, data_range=1.0, reduction="none")
    return values.cpu().numpy()

  return call


def _scikit_images(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  from skimage.metrics import structural_similarity

  about = {"data_range": 1.0, "gaussian_weights": True, "use_sample_covariance": False}
  return np.array([structural_similarity(x, y, **about) for x, y in zip(a[..., 0], b[..., 0])])


def _torch_device() -> str:
  if not importlib.util.find_spec("torch"):
    return "none"
  import torch

  return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
  cli.run(main)
