"""A Linen module and its PyTorch twin on the same weights: values and gradients compared."""

import functools
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np
import pytest

if TYPE_CHECKING:
  import torch

# A program that runs once is better compiled fast than well: a third of the time.
_OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 0}
if jax.__version_info__[:2] == (0, 10):  # other versions may not know it
  _OPTIONS["xla_cpu_use_fusion_emitters"] = False
quick_jit = functools.partial(jax.jit, compiler_options=_OPTIONS)


def images(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_params(shapes: Any, seed: int = 0) -> Any:
  """Values for abstract parameters: no bias is zero, no scale one, kernels keep the variance."""
  rng = np.random.default_rng(seed)

  def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    noise = rng.standard_normal(leaf.shape)
    name = path[-1].key
    if name == "kernel":
      noise = noise / np.sqrt(np.prod(leaf.shape[:-1]))
    elif name == "scale":
      noise = 1.0 + 0.3 * noise
    else:
      noise = 0.3 * noise
    return noise.astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def assert_same(
  net: nn.Module, twin: "torch.nn.Module", x: np.ndarray, *args: Any, rtol: float = 1e-4
) -> None:
  """Outputs, gradients of the input and of every parameter, under one random cotangent.

  The twin computes in float64. Errors are measured against the largest value of each array; for
  gradients not below a hundredth of the largest of all, for a bias before a normalisation has
  a gradient of exactly zero, of which float32 leaves rounding.
  """
  # Here, for most tests want only what lies around this function.
  torch = pytest.importorskip("torch")
  from benchmarks.torch_baseline.convert import state_dict

  shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, *args), x)
  params = random_params(shapes)["params"]
  twin.load_state_dict(state_dict(params, twin))
  twin.double()

  def loss(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
    outputs = jax.tree.leaves(net.apply({"params": params}, x, *args))
    return sum((o * images(o.shape, 7)).sum() for o in outputs), outputs

  value = quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  (_, outputs), (params_grad, x_grad) = value(params, x)

  x_torch = torch.tensor(x.transpose(0, 3, 1, 2)).double().requires_grad_()
  expected = twin(x_torch)
  expected = [expected] if isinstance(expected, torch.Tensor) else expected
  assert len(outputs) == len(expected)
  expected = [o.permute(0, 2, 3, 1) for o in expected]
  for ours, theirs in zip(outputs, expected, strict=True):
    close(ours, theirs.detach().numpy(), rtol, "output")
  sum((o * torch.tensor(images(tuple(o.shape), 7))).sum() for o in expected).backward()
  close(x_grad, x_torch.grad.permute(0, 2, 3, 1).numpy(), rtol, "gradient of the input")
  ours_named = state_dict(params_grad, twin)
  theirs_named = {name: p.grad.numpy() for name, p in twin.named_parameters()}
  assert ours_named.keys() == theirs_named.keys()
  floor = 1e-2 * max(np.abs(g).max() for g in theirs_named.values())
  for name, grad in theirs_named.items():
    close(ours_named[name], grad, rtol, f"gradient of {name}", floor=floor)


def close(ours: Any, theirs: np.ndarray, rtol: float, what: str, floor: float = 0.0) -> None:
  ours = np.asarray(ours)
  assert ours.shape == theirs.shape, what
  scale = max(np.abs(theirs).max(), floor)
  assert scale > 0, f"{what} is zero: the comparison would prove nothing"
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * scale, err_msg=what)
