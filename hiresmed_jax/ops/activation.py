"""ReLU; SiLU and its gradient, each with a division as its last operation.

XLA's CPU backend repeats what is cheap in every reader and stores once what is dear, a division
among it. Of sigmoid(y), then times y, it stores the sigmoid and repeats the rest, with all that led
to y, in every convolution and sum that follows. With the division last it stores the result.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from hiresmed_jax.types import Array

# Below, the slope is under 2e-16, and the square of exp(-y) would in the end overflow.
_LEAST = -40.0


Act = Literal["none", "silu", "leaky_relu"]
_SLOPE = 0.2


def apply(act: Act, y: Array) -> Array:
  """An activation by its name."""
  if act == "silu":
    return silu(y)
  return _leaky(y) if act == "leaky_relu" else y


def gradient(act: Act, y: Array, grad: Array) -> Array:
  """f32 each, the gradient with respect to the activation of y -> with respect to y."""
  if act == "silu":
    return silu_gradient(y, grad)
  return _sloped(y, grad) if act == "leaky_relu" else grad


@jax.custom_vjp
def silu(y: Array) -> Array:
  """y * sigmoid(y) of any float dtype, computed in float32 (the paper's Eq. 4).

  Reverse-mode derivatives only.
  """
  wide = y.astype(jnp.float32)
  return (wide / (1.0 + jnp.exp(-wide))).astype(y.dtype)


def silu_gradient(y: Array, grad: Array) -> Array:
  """f32 each, the gradient with respect to silu(y) -> with respect to y."""
  y = jnp.maximum(y, _LEAST)
  decay = jnp.exp(-y)
  return grad * (1.0 + decay + y * decay) / jnp.square(1.0 + decay)


def _backward(y: Array, grad: Array) -> tuple[Array]:
  wide = silu_gradient(y.astype(jnp.float32), grad.astype(jnp.float32))
  return (wide.astype(y.dtype),)


silu.defvjp(lambda y: (silu(y), y), _backward)


@jax.custom_vjp
def relu(y: Array) -> Array:
  """max(y, 0), whose gradient reads the result: nothing else of it has to be stored."""
  return jnp.maximum(y, 0)


def _leaky(y: Array) -> Array:
  return jnp.where(y > 0, y, _SLOPE * y)


def _sloped(y: Array, grad: Array) -> Array:
  return jnp.where(y > 0, grad, _SLOPE * grad)


@jax.custom_vjp
def leaky_relu(y: Array) -> Array:
  """y above 0, 0.2 y below. Its gradient reads the result, whose sign is that of y."""
  return _leaky(y)


def _leaky_forward(y: Array) -> tuple[Array, Array]:
  out = _leaky(y)
  return out, out


def _leaky_backward(out: Array, grad: Array) -> tuple[Array]:
  return (_sloped(jax.lax.optimization_barrier(out), grad),)


leaky_relu.defvjp(_leaky_forward, _leaky_backward)


def _relu_forward(y: Array) -> tuple[Array, Array]:
  out = relu(y)
  return out, out


def _relu_backward(out: Array, grad: Array) -> tuple[Array]:
  # Without the barrier XLA compares y, which it then stores.
  return (jnp.where(jax.lax.optimization_barrier(out) > 0, grad, 0),)


relu.defvjp(_relu_forward, _relu_backward)


@jax.custom_vjp
def gelu(y: Array) -> Array:
  """y times the normal distribution function at y, of any float dtype, computed in float32.

  Source: Hendrycks and Gimpel, arXiv 1606.08415. Reverse-mode derivatives only.
  """
  wide = y.astype(jnp.float32)
  return (wide * _normal(wide)).astype(y.dtype)


def _normal(y: Array) -> Array:
  return 0.5 * (1.0 + jax.lax.erf(y * math.sqrt(0.5)))


def _gelu_backward(y: Array, grad: Array) -> tuple[Array]:
  wide = y.astype(jnp.float32)
  density = jnp.exp(-0.5 * jnp.square(wide)) * (1.0 / math.sqrt(2.0 * math.pi))
  slope = _normal(wide) + wide * density
  return ((grad.astype(jnp.float32) * slope).astype(y.dtype),)


gelu.defvjp(lambda y: (gelu(y), y), _gelu_backward)
