"""Images from noise, by a trained network, step by step."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hiresmed_jax.nets.ddpm import DenoisingUNet
from hiresmed_jax.ops import diffusion
from hiresmed_jax.ops.upsample import depth_to_space
from hiresmed_jax.routes.baselines.samples import normal
from hiresmed_jax.runtime import mesh as meshes
from hiresmed_jax.runtime.progress import Progress
from hiresmed_jax.types import Array, Params


def maker(
  variables: Params,
  *,
  net: DenoisingUNet,
  plan: diffusion.Step,
  shape: Sequence[int],
  patch: int,
  progress: Progress,
  mesh: jax.sharding.Mesh,
) -> Callable[[Array], Array]:
  """What `samples.write` takes: keys [S] -> images f32[S, patch h, patch w, C].

  Args:
    variables: {"params"} of the network, on all devices of the mesh.
    net: estimates the noise.
    plan: the steps.
    shape: (h, w, patch patch C) of what the network sees.
    patch: side of the pixels that are channels of one position in it.
    progress: is told of every step.
    mesh: of all devices.
  """
  split = meshes.batch_sharding(mesh)

  def advance(variables: Params, noisy: Array, keys: Array, number: Any, step: Any) -> Array:
    eps = net.apply(variables, noisy, jnp.full(noisy.shape[:1], step.level))
    return diffusion.less_noise(noisy, eps, normal(keys, number, shape), step)

  begin = jax.jit(lambda keys: normal(keys, len(plan.level), shape), out_shardings=split)
  # One step a call: on a CPU, a convolution in a loop takes eight times as long; and between two
  # calls a signal is heard.
  advance = jax.jit(advance, donate_argnums=1, out_shardings=split)
  unfold = jax.jit(lambda folded: depth_to_space(folded, patch), out_shardings=split)

  def make(keys: Array) -> Array:
    noisy = begin(keys)
    for number in range(len(plan.level)):
      step = diffusion.Step(*(part[number] for part in plan))
      noisy = jax.block_until_ready(advance(variables, noisy, keys, np.int32(number), step))
      progress.advance()
    return unfold(noisy)

  return make
