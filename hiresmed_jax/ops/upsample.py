"""Upsampling by two without a grid: no zeros are multiplied, and borders repeat the border pixel.

On the CPU by stride-1 work, which alone is fast there. On a GPU in as few passes over memory as
possible: it reads any positions at no cost, and a joint ends a fusion.
"""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import convolution, cpu
from hiresmed_jax.ops.convolution import UNPADDED, conv
from hiresmed_jax.types import Array


@jax.custom_vjp
def edge_pad(x: Array) -> Array:
  """Repeat the border pixels once on each side. [N,H,W,C] -> [N,H+2,W+2,C].

  Reverse-mode derivatives only: derived from the padding, they are a chain of pads and sums.
  """
  return jax.lax.platform_dependent(x, cuda=clamped, default=_padded)


def _padded(x: Array) -> Array:
  return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")


def clamped(x: Array) -> Array:
  """The same by reading: one pass over memory, with what made x."""
  for axis in (1, 2):
    x = _read(x, axis, jnp.arange(-1, x.shape[axis] + 1))
  return x


def _read(x: Array, axis: int, positions: Array) -> Array:
  """x at positions of an axis, beyond the border at the border."""
  return jnp.take(x, jnp.clip(positions, 0, x.shape[axis] - 1), axis, mode="clip")


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


def transposed_conv(x: Array, kernel: Array, bias: Array | None = None) -> Array:
  """Transposed convolution, kernel 4, stride 2, of the edge-padded input.

  x [N,H,W,I], kernel [4,4,I,O] of the same dtype, bias f32[O] or none -> [N,2H,2W,O]. Before the
  bias, output row 2i + r (r in {0, 1}) is x[i] * kernel[1 + r] + x[i - 1 + 2r] * kernel[3 - 3r]:
  inside, a transposed convolution with padding 1. Rows and columns beyond the border repeat it, so
  that a constant image stays constant to the last pixel whenever the kernel's phases have
  equal sums. Reverse-mode derivatives only.
  """
  bias = jnp.zeros(kernel.shape[-1]) if bias is None else bias
  return _doubled(edge_pad(x), kernel, bias)


Operands = tuple[Array, Array, Array]  # padded [N,H+2,W+2,I], kernel [4,4,I,O], bias f32[O]


@jax.custom_vjp
def _doubled(*operands: Array) -> Array:
  return jax.lax.platform_dependent(*operands, cpu=by_phases, default=by_stride)


def _doubled_backward(operands: Operands, grad: Array) -> Operands:
  return jax.lax.platform_dependent(*operands, grad, cpu=phase_gradients, default=stride_gradients)


_doubled.defvjp(lambda *operands: (_doubled(*operands), operands), _doubled_backward)


def by_phases(padded: Array, kernel: Array, bias: Array) -> Array:
  """As one 2x2 convolution to 4 O channels, the four phases, and depth to space.

  A quarter of the multiplications of a convolution over an input with zeros between its pixels.
  """
  return _interleaved(conv(padded, _phases(kernel), jnp.tile(bias, 4)))


def phase_gradients(padded: Array, kernel: Array, bias: Array, grad: Array) -> Operands:
  """The way back of `by_phases`."""
  n, height, width, _ = padded.shape
  out = jax.ShapeDtypeStruct((n, height - 1, width - 1, 4 * kernel.shape[-1]), grad.dtype)
  (grad,) = jax.linear_transpose(_interleaved, out)(grad)
  given = (padded, _phases(kernel), jnp.tile(bias, 4))
  padded_grad, phase_grad, bias_grad = convolution.gradients((1, 1), UNPADDED, given, grad)
  (kernel_grad,) = jax.linear_transpose(_phases, kernel)(phase_grad)
  return padded_grad, kernel_grad, jnp.sum(bias_grad.reshape(4, -1), 0)


def _phases(kernel: Array) -> Array:
  """[4,4,I,O] -> [2,2,I,4*O]."""
  # Window j covers padded rows j, j + 1 = input rows j - 1, j. Phase 0 of output i reads window i
  # with taps (3, 1); phase 1 reads window i + 1 with taps (2, 0). Reversed, the taps 3 2 1 0 are
  # laid out as [window row, phase].
  taps = kernel[::-1, ::-1].reshape(2, 2, 2, 2, *kernel.shape[2:])
  phases = taps.transpose(0, 2, 4, 1, 3, 5)  # [row, column, I, row phase, column phase, O]
  return phases.reshape(2, 2, kernel.shape[2], -1)


def _interleaved(out: Array) -> Array:
  """[N,H+1,W+1,4*O] -> [N,2H,2W,O]."""
  height, width = out.shape[1] - 1, out.shape[2] - 1
  # Split first: the way back then writes each phase once.
  four = zip(((0, 0), (0, 1), (1, 0), (1, 1)), jnp.split(out, 4, -1), strict=True)
  aligned = [phase[:, r : r + height, c : c + width] for (r, c), phase in four]
  return depth_to_space(jnp.concatenate(aligned, -1))


def by_stride(padded: Array, kernel: Array, bias: Array) -> Array:
  """As the transpose of a convolution with stride 2, which cuDNN has: no phases to put together."""
  n, height, width, _ = padded.shape
  doubled = jax.ShapeDtypeStruct((n, 2 * height - 4, 2 * width - 4, kernel.shape[-1]), padded.dtype)
  (out,) = jax.linear_transpose(lambda grown: _halving(grown, kernel), doubled)(padded)
  return out + bias.astype(out.dtype)


def stride_gradients(padded: Array, kernel: Array, bias: Array, grad: Array) -> Operands:
  """The way back of `by_stride`."""
  of_kernel = jax.linear_transpose(lambda kernel: _halving(grad, kernel), kernel)
  # Without the barrier, what made the gradient would be stored in float32 for the sum.
  of_bias = convolution.sum_over_pixels(jax.lax.optimization_barrier(grad))
  return _halving(grad, kernel), of_kernel(padded)[0], of_bias.astype(bias.dtype)


def _halving(grown: Array, kernel: Array) -> Array:
  """[N,2H,2W,O] -> [N,H+2,W+2,I]."""
  padding = ((3, 3), (3, 3))
  return convolution.without_bias((2, 2), padding, grown, kernel.swapaxes(2, 3))


def nearest_conv(x: Array, kernel: Array, bias: Array) -> Array:
  """Nearest upsampling by two, then a 3x3 convolution with zeros beyond the border.

  x [N,H,W,I], kernel f32[3,3,I,O], bias f32[O] -> [N,2H,2W,O] in the type of x. Equal pixels are
  multiplied once: four products for each pixel instead of nine. Reverse-mode derivatives only.
  """
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return _doubled(padded, nearest_kernel(kernel).astype(x.dtype), bias)


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


def depth_to_space(x: Array, factor: int = 2) -> Array:
  """Channels (row phase, column phase, O) to pixels. [N,H,W,f*f*O] -> [N,f*H,f*W,O]."""
  n, height, width, channels = x.shape
  out = channels // factor**2
  blocks = x.reshape(n, height, width, factor, factor, out).transpose(0, 1, 3, 2, 4, 5)
  return blocks.reshape(n, factor * height, factor * width, out)


def space_to_depth(x: Array, factor: int) -> Array:
  """Undoes `depth_to_space`: [N,f*H,f*W,O] -> [N,H,W,f*f*O]."""
  n, height, width, channels = x.shape
  blocks = x.reshape(n, height // factor, factor, width // factor, factor, channels)
  blocks = blocks.transpose(0, 1, 3, 2, 4, 5)
  return blocks.reshape(n, height // factor, width // factor, factor**2 * channels)


@jax.custom_vjp
def bilinear(x: Array) -> Array:
  """Bilinear upsampling by two, half-pixel centres, border repeated. [N,H,W,C] -> [N,2H,2W,C].

  The reverse-mode derivative is its own: derived from the slices, it is slower on the CPU.
  """
  return jax.lax.platform_dependent(x, cuda=mixed, default=_stacked)


def _stacked(x: Array) -> Array:
  for axis in (1, 2):
    size = x.shape[axis]
    before = _joined(_part(x, axis, 0, 1), _part(x, axis, 0, size - 1), axis)
    after = _joined(_part(x, axis, 1, size), _part(x, axis, size - 1, size), axis)
    pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
    x = pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
  return x


def mixed(x: Array) -> Array:
  """The same in one pass, each value from the four that it is mixed of."""

  def taps(size: int) -> Taps:
    at = jnp.arange(2 * size)
    return [(0.75, at // 2), (0.25, at // 2 - 1 + 2 * (at % 2))]

  return _weighted(x, taps(x.shape[1]), taps(x.shape[2]))


Taps = list[tuple[float, Array]]  # weight, positions on an axis


def _weighted(x: Array, rows: Taps, columns: Taps) -> Array:
  parts = [
    weight * other * _read(_read(x, 1, row), 2, column)
    for weight, row in rows
    for other, column in columns
  ]
  return functools.reduce(operator.add, parts)


def _bilinear_backward(_: None, grad: Array) -> tuple[Array]:
  def columns_after(rows: Callable[[Array], Array], grad: Array) -> Array:
    return halve(rows(grad), 2)

  plain = functools.partial(columns_after, functools.partial(halve, axis=1))
  if grad.size < cpu.LARGE:
    return (jax.lax.platform_dependent(grad, cuda=unmixed, default=plain),)
  on_cpu = functools.partial(columns_after, cpu.halve_rows)
  return (jax.lax.platform_dependent(grad, cpu=on_cpu, cuda=unmixed, default=plain),)


def unmixed(grad: Array) -> Array:
  """The way back of `mixed`, each value from sixteen."""

  def taps(size: int) -> Taps:
    at = 2 * jnp.arange(size // 2)
    return [(0.25, at - 1), (0.75, at), (0.75, at + 1), (0.25, at + 2)]

  return _weighted(grad, taps(grad.shape[1]), taps(grad.shape[2]))


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
