"""What only XLA's CPU compiler needs: other ways to compute the ops of the same names.

Each gives the numbers of the plain way but for rounding. `benchmarks/cpu_gains.py` measures them.

Row by row: XLA's CPU backend turns a kernel's gradient into a convolution over transposed inputs,
and fuses what made an input (a normalisation, a whole depthwise convolution) into the
transposition, where it is computed again, value by value across the memory. In a loop, which reads
its operands from memory, nothing is computed twice, and a row stays in the cache.

In plain form: the gradients of an unpadded convolution that JAX derives, of permuted dimensions,
leave the fast path of XLA's convolution and are 7 to 10 times slower (measured).

As sums of shifted products: XLA's own grouped convolution is slow on the CPU; these run at the
speed of the cache.

Sums over positions, several at once: the backend turns a long sum into a tree of windows whose
input it writes out first; a sum of a square takes three passes so, none of them quick. What reduces
several arrays at once is left as it is and computed where its inputs are. In short steps the
compiler unrolls it and takes channels by vectors, also where much arithmetic leads to it: 1.0 ms
instead of 11.9 for sum and sum of squares of 16 x 160 x 160 x 16, two cores.

N images, H rows, W columns, I input and O output channels (C where they are equal), kh x kw kernel.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array

# Values of an array from which a loop pays. Below, it costs more, in the compiler above all.
LARGE = 1 << 18
# A tile of the depthwise kernel's gradient, as measured: 8 rows hide the writing of the running
# sums; up to 80,000 products per sum stay in a core's cache, and below the size at which XLA splits
# a sum into parts, which inside a loop run one after the other and slower.
_TILE_ROWS = 8
_PRODUCTS = 80_000


def conv_gradients(
  stride: tuple[int, int],
  padding: Sequence[tuple[int, int]],
  kernel: Array,
  bias: Array,
  x: Array,
  grad: Array,
) -> tuple[Array, Array]:
  """x [N, H, W, I] and the output's gradient [N, h, w, O] -> those of kernel and bias, f32.

  The kernel's is a convolution of x [I, H, W, N] with the output's gradient [h, w, N, O]. Patches
  are made of what comes first: where the output has fewer channels, the two change places.
  """
  if stride == (1, 1) and x.shape[-1] > grad.shape[-1]:
    sizes = zip(kernel.shape[:2], padding, strict=True)
    around = [(size - 1 - before, size - 1 - after) for size, (before, after) in sizes]
    turned_round, _ = conv_gradients(stride, around, kernel, bias, grad, x)
    return turned_round[::-1, ::-1].swapaxes(2, 3), _of_bias(bias, _image_sums(grad))
  (n, height, width, inputs), (rows, columns, outputs) = x.shape, grad.shape[1:]

  def turn_x(row: Array, turned: Array) -> Array:
    line = jax.lax.dynamic_slice(x, (0, row, 0, 0), (n, 1, width, inputs))
    return jax.lax.dynamic_update_slice(turned, line.transpose(3, 1, 2, 0), (0, row, 0, 0))

  def turn_grad(bias_grad: Array, row: Array) -> tuple[Array, Array]:
    line = jax.lax.dynamic_slice(grad, (0, row, 0, 0), (n, 1, columns, outputs))[:, 0]
    # Images are added up after the loop: a batch over devices would be at every row.
    row_sum = jnp.sum(line, 1, dtype=jnp.float32)
    return bias_grad + row_sum, line.transpose(1, 0, 2)

  x_turned = jax.lax.empty((inputs, height, width, n), x.dtype)
  x_turned = jax.lax.fori_loop(0, height, turn_x, x_turned)
  bias_grad, grad_turned = jax.lax.scan(turn_grad, jnp.zeros((n, outputs)), jnp.arange(rows))
  # Zeros after the end, or fewer rows than there are, so that the result has the kernel's size.
  ends = [
    (before, size - 1 + (steps - 1) * step + 1 - length - before)
    for (before, _), size, steps, step, length in zip(
      padding, kernel.shape[:2], (rows, columns), stride, (height, width), strict=True
    )
  ]
  kernel_grad = jax.lax.conv_general_dilated(
    x_turned,
    grad_turned,
    (1, 1),
    ends,
    rhs_dilation=stride,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return kernel_grad.transpose(1, 2, 0, 3), _of_bias(bias, bias_grad)


def _image_sums(grad: Array) -> Array:
  """[N, h, w, O] -> f32[N, O], row by row."""

  def add(row: Array, sums: Array) -> Array:
    line = jax.lax.dynamic_index_in_dim(grad, row, 1, keepdims=False)
    return sums + jnp.sum(line, 1, dtype=jnp.float32)

  return jax.lax.fori_loop(0, grad.shape[1], add, jnp.zeros((len(grad), grad.shape[-1])))


def _of_bias(bias: Array, image_sums: Array) -> Array:
  """The gradient of a bias [O], or [N, O] where each image has its own."""
  return image_sums if bias.ndim == 2 else jnp.sum(image_sums, 0)


def sum_of_rows(flat: Array) -> Array:
  """[P, C] -> f32[C], by a product with ones: a sum would compute again what made `flat`."""
  ones = jnp.ones(flat.shape[0], flat.dtype)
  return jax.lax.dot(ones, flat, preferred_element_type=jnp.float32)


@jax.custom_vjp
def valid_conv(x: Array, kernel: Array) -> Array:
  """x [N, H, W, I], kernel [kh, kw, I, O] -> [N, H - kh + 1, W - kw + 1, O]."""
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = saved
  return _input_gradient(grad, kernel), _kernel_gradient(x, grad)


valid_conv.defvjp(lambda x, kernel: (valid_conv(x, kernel), (x, kernel)), _backward)


def _input_gradient(grad: Array, kernel: Array) -> Array:
  """The convolution of the padded gradient with the kernel turned round."""
  (kh, kw), turned = kernel.shape[:2], kernel[::-1, ::-1].swapaxes(2, 3)
  padded = jnp.pad(grad, ((0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1), (0, 0)))
  return valid_conv(padded, turned)


@jax.custom_vjp
def _kernel_gradient(x: Array, grad: Array) -> Array:
  """x [N, H, W, I] and grad [N, h, w, O] -> [kh, kw, I, O]."""
  turned = valid_conv(x.transpose(3, 1, 2, 0), grad.transpose(1, 2, 0, 3))
  return turned.transpose(1, 2, 0, 3)


def _kernel_gradient_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, conv_grad = saved
  return _input_gradient(conv_grad, grad), valid_conv(x, grad)


_kernel_gradient.defvjp(
  lambda x, grad: (_kernel_gradient(x, grad), (x, grad)), _kernel_gradient_backward
)


def halve_rows(grad: Array) -> Array:
  """[N, 2H, W, C] -> [N, H, W, C], in a loop, which reads its operand from memory.

  Fused, what made `grad` would be computed for every reader.
  """
  last = grad.shape[1] - 1

  def halve(_: None, row: Array) -> tuple[None, Array]:
    before, even, odd, after = (
      jax.lax.dynamic_index_in_dim(grad, jnp.clip(2 * row + i, 0, last), 1, keepdims=False)
      for i in (-1, 0, 1, 2)
    )
    return None, 0.75 * (even + odd) + 0.25 * (before + after)

  _, rows = jax.lax.scan(halve, None, jnp.arange(grad.shape[1] // 2))
  return jnp.moveaxis(rows, 0, 1)


def shifted_products(x: Array, kernel: Array) -> Array:
  """Depthwise: x [N, H, W, C], kernel [kh, kw, 1, C] -> [N, H, W, C], in one fused pass."""
  (kh, kw), (height, width) = kernel.shape[:2], x.shape[1:3]
  padded = _pad(x.astype(jnp.float32), (kh, kw), (height, width))
  weights = kernel.astype(jnp.float32)
  products = [
    padded[:, i : i + height, j : j + width] * weights[i, j, 0]
    for i in range(kh)
    for j in range(kw)
  ]
  return functools.reduce(operator.add, products).astype(x.dtype)


def depthwise_kernel_gradient(size: tuple[int, int], x: Array, grad: Array) -> Array:
  """x and the output's gradient, both [N, H, W, C] -> f32[kh, kw, 1, C].

  Tile by tile inside a scan, so that a tile stays in the cache.

  For each kernel column, sums f32[N, kh, columns, C] run over tiles, within a tile over its rows.
  Examples, and the columns of a tile, are added up only at the end: no sum inside the loop crosses
  examples, so a batch that is split over devices is not gathered, and the long inner axes keep the
  processor's vectors full.
  """
  (kh, kw), (count, height, width, channels) = size, x.shape
  rows = min(_TILE_ROWS, height)
  wanted = max(1, _PRODUCTS // (count * kh * rows * channels))
  columns = min(1 << (wanted.bit_length() - 1), width)  # powers of two divide most widths
  tiles_down, tiles_across = -(-height // rows), -(-width // columns)
  full = (tiles_down * rows, tiles_across * columns)
  padded = _pad(x, size, full)
  padded_grad = jnp.pad(grad, ((0, 0), (0, full[0] - height), (0, full[1] - width), (0, 0)))

  def load(tile: Array | int) -> tuple[Array, Array]:
    start = (0, tile // tiles_across * rows, tile % tiles_across * columns, 0)
    around = (count, rows + kh - 1, columns + kw - 1, channels)
    inside = (count, rows, columns, channels)
    return (
      jax.lax.dynamic_slice(padded, start, around).astype(jnp.float32),
      jax.lax.dynamic_slice(padded_grad, start, inside).astype(jnp.float32),
    )

  def column_sum(j: int, x_tile: Array, grad_tile: Array) -> Array:
    products = [
      x_tile[:, u : u + kh, j : j + columns] * grad_tile[:, u : u + 1] for u in range(rows)
    ]
    return functools.reduce(operator.add, products)

  def step(carry: tuple, next_tile: Array) -> tuple[tuple, None]:
    # The tile travels in the carry: sliced in the step that uses it, the slicing is fused into the
    # sums, which then are no longer vectorised (three times slower).
    sums, tile = carry
    sums = [total + column_sum(j, *tile) for j, total in enumerate(sums)]
    return (sums, load(next_tile)), None

  zeros = [jnp.zeros((count, kh, columns, channels), jnp.float32) for _ in range(kw)]
  following = jnp.arange(1, tiles_down * tiles_across + 1)
  (sums, _), _ = jax.lax.scan(step, (zeros, load(0)), following)
  return jnp.stack([jnp.sum(total, axis=(0, 2)) for total in sums], axis=1)[:, :, None]


def _pad(x: Array, size: tuple[int, int], full: tuple[int, int]) -> Array:
  """Half a kernel of zeros around, and more below and on the right up to `full` positions."""
  (top, left), (height, width) = (size[0] // 2, size[1] // 2), x.shape[1:3]
  down, right = top + full[0] - height, left + full[1] - width
  return jnp.pad(x, ((0, 0), (top, down), (left, right), (0, 0)))


_STEP = 8


def sums(*values: Array) -> tuple[Array, ...]:
  """f32[N, P, C] each, at least two of one shape -> sums over positions f32[N, C] each."""
  n, length, channels = values[0].shape
  while (step := _step(length)) > 1:
    length //= step
    values = together(tuple(v.reshape(n, length, step, channels) for v in values), 2)
  return tuple(jnp.sum(value, 1) for value in values)


def _step(length: int) -> int:
  """The largest divisor that is not above 8."""
  return max(n for n in range(1, _STEP + 1) if length % n == 0)


def together(values: tuple[Array, ...], axis: int) -> tuple[Array, ...]:
  """Sums of arrays of one shape over an axis, by one reduction."""

  def add(some: tuple[Array, ...], more: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(a + b for a, b in zip(some, more, strict=True))

  zeros = tuple(jnp.zeros((), value.dtype) for value in values)
  return tuple(jax.lax.reduce(values, zeros, add, (axis,)))
