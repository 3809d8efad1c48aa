"""Upsampling by two, written with stride-1 work only: no zeros are multiplied, no grid appears."""

import functools

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import cpu
from hiresmed_jax.ops.convolution import conv
from hiresmed_jax.types import Array


@jax.custom_vjp
def edge_pad(x: Array) -> Array:
  """Repeat the border pixels once on each side. [N,H,W,C] -> [N,H+2,W+2,C].

  Reverse-mode derivatives only: derived from the padding, they are a chain of pads and sums.
  """
  return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")


def _edge_pad_backward(_: None, grad: Array) -> tuple[Array]:
  for axis in (1, 2):
    size = grad.shape[axis]
    if size == 3:
      grad = jnp.sum(grad, axis, keepdims=True)
      continue
    first = _part(grad, axis, 0, 1) + _part(grad, axis, 1, 2)
    last = _part(grad, axis, size - 2, size - 1) + _part(grad, axis, size - 1, size)
    grad = jax.lax.concatenate([first, _part(grad, axis, 2, size - 2), last], axis)
  return (grad,)


edge_pad.defvjp(lambda x: (edge_pad(x), None), _edge_pad_backward)


def transposed_conv(x: Array, kernel: Array, bias: Array) -> Array:
  """Transposed convolution, kernel 4, stride 2, of the edge-padded input.

  x [N,H,W,I], kernel [4,4,I,O] of the same dtype, bias [O] -> [N,2H,2W,O]. Before the bias, output
  row 2i + r (r in {0, 1}) is x[i] * kernel[1 + r] + x[i - 1 + 2r] * kernel[3 - 3r]: inside, a
  transposed convolution with padding 1. Rows and columns beyond the border repeat the border, so
  that a constant image stays constant to the last pixel whenever the kernel's four phases have
  equal sums.

  The four phases are one 2x2 convolution to 4 O channels; a quarter of the multiplications of a
  convolution over an input with zeros between its pixels.
  """
  _, height, width, _ = x.shape
  # Window j covers padded rows j, j + 1 = input rows j - 1, j. Phase 0 of output i reads window i
  # with taps (3, 1); phase 1 reads window i + 1 with taps (2, 0). Reversed, the taps 3 2 1 0 are
  # laid out as [window row, phase].
  taps = kernel[::-1, ::-1].reshape(2, 2, 2, 2, *kernel.shape[2:])
  phases = taps.transpose(0, 2, 4, 1, 3, 5)  # [row, column, I, row phase, column phase, O]
  out = conv(edge_pad(x), phases.reshape(2, 2, kernel.shape[2], -1), jnp.tile(bias, 4))
  # Split first: the way back then writes each phase once.
  four = zip(((0, 0), (0, 1), (1, 0), (1, 1)), jnp.split(out, 4, -1), strict=True)
  aligned = [phase[:, r : r + height, c : c + width] for (r, c), phase in four]
  return depth_to_space(jnp.concatenate(aligned, -1))


def nearest_kernel(kernel: Array) -> Array:
  """The transposed kernel that equals nearest upsampling by two followed by a 3x3 convolution.

  [3,3,I,O] -> [4,4,I,O]: the kernel convolved with 2x2 ones, flipped as a transposed convolution
  reads it.
  """
  flipped = kernel[::-1, ::-1]
  rows = jnp.pad(flipped, ((0, 1), (0, 0), (0, 0), (0, 0)))
  rows = rows + jnp.pad(flipped, ((1, 0), (0, 0), (0, 0), (0, 0)))
  columns = jnp.pad(rows, ((0, 0), (0, 1), (0, 0), (0, 0)))
  return columns + jnp.pad(rows, ((0, 0), (1, 0), (0, 0), (0, 0)))


def depth_to_space(x: Array) -> Array:
  """Channels (row phase, column phase, O) to pixels. [N,H,W,4*O] -> [N,2H,2W,O]."""
  n, height, width, channels = x.shape
  blocks = x.reshape(n, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
  return blocks.reshape(n, 2 * height, 2 * width, channels // 4)


@jax.custom_vjp
def bilinear(x: Array) -> Array:
  """Bilinear upsampling by two, half-pixel centres, border repeated. [N,H,W,C] -> [N,2H,2W,C].

  The reverse-mode derivative is its own: derived from the slices, it is slower on the CPU.
  """
  for axis in (1, 2):
    size = x.shape[axis]
    before = _joined(_part(x, axis, 0, 1), _part(x, axis, 0, size - 1), axis)
    after = _joined(_part(x, axis, 1, size), _part(x, axis, size - 1, size), axis)
    pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
    x = pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
  return x


def _bilinear_backward(_: None, grad: Array) -> tuple[Array]:
  halve_rows = functools.partial(halve, axis=1)
  if grad.size < cpu.LARGE:
    return (halve(halve_rows(grad), 2),)
  return (halve(jax.lax.platform_dependent(grad, cpu=cpu.halve_rows, default=halve_rows), 2),)


def halve(grad: Array, axis: int) -> Array:
  """The way back of doubling one axis: [..., 2S, ...] -> [..., S, ...]."""
  size = grad.shape[axis] // 2
  pairs = grad.reshape(*grad.shape[:axis], size, 2, *grad.shape[axis + 1 :])
  even = jax.lax.index_in_dim(pairs, 0, axis + 1, keepdims=False)
  odd = jax.lax.index_in_dim(pairs, 1, axis + 1, keepdims=False)
  # A border pixel is its own neighbour.
  before = _joined(_part(even, axis, 0, 1), _part(odd, axis, 0, size - 1), axis)
  after = _joined(_part(even, axis, 1, size), _part(odd, axis, size - 1, size), axis)
  return 0.75 * (even + odd) + 0.25 * (before + after)


bilinear.defvjp(lambda x: (bilinear(x), None), _bilinear_backward)


def _part(x: Array, axis: int, start: int, stop: int) -> Array:
  return jax.lax.slice_in_dim(x, start, stop, axis=axis)


def _joined(first: Array, second: Array, axis: int) -> Array:
  return jax.lax.concatenate([first, second], axis)
