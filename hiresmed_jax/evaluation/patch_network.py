"""A small network that classifies two kinds of patches, trained on some folds, asked on the rest.

N patches of S x S pixels in [-1, 1].
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from hiresmed_jax.runtime import compilation
from hiresmed_jax.types import Array, Params

_BATCH = 64
_STEPS = 180
_RATE = 3e-3
_DECAY = 1e-2


def train_and_score(
  patches: np.ndarray, labels: np.ndarray, others: np.ndarray, *, seed: int, jitter: float
) -> np.ndarray:
  """Logits of label 1 for patches that the network was not trained on.

  Args:
    patches: f32[N, S, S] in [-1, 1].
    labels: int[N], 0 or 1.
    others: f32[M, S, S].
    seed: of initialisation and of the order of the patches.
    jitter: standard deviation of a random brightness added to each training patch.

  Returns:
    f32[M].
  """
  rng = np.random.default_rng(seed)
  params = Network().init(jax.random.key(seed), patches[:1, ..., None])
  optimizer_state = _optimizer(_STEPS).init(params)
  classes = [np.flatnonzero(labels == c) for c in (0, 1)]
  step, _ = _programs(_STEPS)
  for _ in range(_STEPS):
    chosen = np.concatenate([rng.choice(c, _BATCH // 2) for c in classes])
    batch = np.stack([_turned(patches[i], rng, jitter) for i in chosen])
    params, optimizer_state = step(params, optimizer_state, batch, labels[chosen])
  # The mean over the four mirror images.
  mirrored = [others[:, ::v, ::h] for v in (1, -1) for h in (1, -1)]
  return np.asarray(sum(_padded_apply(params, m) for m in mirrored)) / 4


def _padded_apply(params: Params, patches: np.ndarray) -> np.ndarray:
  """Logits f32[N], in batches of one size, which need one program."""
  _, apply = _programs(_STEPS)
  out = []
  for start in range(0, len(patches), _BATCH):
    part = patches[start : start + _BATCH]
    full = np.concatenate([part, np.zeros((_BATCH - len(part), *part.shape[1:]), np.float32)])
    out.append(np.asarray(apply(params, full))[: len(part)])
  return np.concatenate(out)


def _turned(patch: np.ndarray, rng: np.random.Generator, jitter: float) -> np.ndarray:
  """A patch mirrored, shifted by up to a pixel, and made brighter or darker."""
  vertical, horizontal = rng.choice([1, -1], 2)
  shift = rng.integers(-1, 2, 2)
  moved = np.roll(patch[::vertical, ::horizontal], shift, (0, 1))
  return moved + np.float32(jitter * rng.standard_normal())


class Network(nn.Module):
  """Four convolutions, GroupNorm between; [N, S, S, 1] -> [N] logits."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Patches in [-1, 1] to logits."""
    # A channel of fine detail, since seams and noise are faint beside anatomy.
    blurred = nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
    x = jnp.concatenate([x, 4 * (x - blurred)], -1)
    for features, stride in ((16, 2), (32, 2), (32, 1), (64, 2)):
      x = nn.Conv(features, (3, 3), (stride, stride), use_bias=False)(x)
      x = nn.relu(nn.GroupNorm(8)(x))
    x = jnp.concatenate([jnp.mean(x, (1, 2)), jnp.max(x, (1, 2))], -1)
    return nn.Dense(1)(x)[:, 0]


def _optimizer(steps: int) -> optax.GradientTransformation:
  return optax.adamw(optax.cosine_decay_schedule(_RATE, steps), weight_decay=_DECAY)


@functools.cache
def _programs(steps: int) -> tuple[Callable, Callable]:
  """The training step of so many and the forward pass, compiled for this backend."""
  compiled = functools.partial(jax.jit, compiler_options=compilation.options())
  step = functools.partial(_step, optimizer=_optimizer(steps))
  return compiled(step, donate_argnums=(0, 1)), compiled(_apply)


def _step(
  params: Params,
  optimizer_state: optax.OptState,
  patches: Array,
  labels: Array,
  *,
  optimizer: optax.GradientTransformation,
) -> tuple[Params, optax.OptState]:
  def loss(params: Params) -> Array:
    logits = _apply(params, patches)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))

  grads = jax.grad(loss)(params)
  updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
  return optax.apply_updates(params, updates), optimizer_state


def _apply(params: Params, patches: Array) -> Array:
  return Network().apply(params, patches[..., None])
