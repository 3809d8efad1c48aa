"""Maxima and pooling beside PyTorch's; what training differentiates takes its maxima from here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.interpreters import partial_eval as pe

from hiresmed_jax.losses import detection, generative, segmentation
from hiresmed_jax.metrics import lpips
from hiresmed_jax.nets import features, singan, unet, vqgan, yolo
from hiresmed_jax.ops import pool, quantize
from tests.reference.parity import images, quick_jit


@functools.partial(quick_jit, static_argnums=2)
def pool_and_slope(x, cotangent, options):
  pooled, pullback = jax.vjp(lambda x: pool.max_pool(x, **dict(options)), x)
  return pooled, pullback(cotangent)[0]


# VGG16 and U-Net; AlexNet; SqueezeNet, on sizes that its last window overhangs or not; YOLO11.
@pytest.mark.parametrize(
  ("window", "stride", "pad", "round_up", "sizes"),
  [
    (2, 2, 0, False, [(2, 3), (8, 5)]),
    (3, 2, 0, False, [(3, 8), (9, 6)]),
    (2, 2, 0, True, [(2, 3), (7, 4)]),
    (3, 2, 0, True, [(2, 8), (9, 6), (7, 5)]),
    (5, 1, 2, False, [(1, 4), (7, 3)]),
  ],
)
def test_pooling_is_pytorchs_with_its_gradient(window, stride, pad, round_up, sizes):
  options = {"window": window, "stride": stride, "pad": pad, "round_up": round_up}
  for size in sizes:
    x = images((2, *size, 3), sum(size))
    given = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    wanted = torch.nn.functional.max_pool2d(given, window, stride, pad, ceil_mode=round_up)
    cotangent = images(tuple(wanted.permute(0, 2, 3, 1).shape))
    wanted.backward(torch.tensor(cotangent.transpose(0, 3, 1, 2)))
    found, slope = pool_and_slope(x, cotangent, tuple(options.items()))
    np.testing.assert_array_equal(found, wanted.detach().permute(0, 2, 3, 1))
    np.testing.assert_allclose(slope, given.grad.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6)


def test_maxima_and_minima_are_jaxs_with_derivatives_and_share_where_values_are_equal():
  a = jnp.array([[1.0, 2.0, -0.0, jnp.inf, 3.0]])
  b = jnp.array([[2.0, 1.0, 0.0, 4.0, 3.0], [1.0, 3.0, 5.0, -jnp.inf, 3.0]])
  for mine, theirs in ((pool.maximum, jnp.maximum), (pool.minimum, jnp.minimum)):
    every = quick_jit(
      lambda f, a, b: (f(a, b), *jax.vjp(f, a, b)[1](jnp.full_like(b, 2.0))), static_argnums=0
    )
    for found, exact in zip(every(mine, a, b), every(theirs, a, b), strict=True):
      np.testing.assert_array_equal(found, exact)
  flat = jnp.ones((1, 6, 6, 1))
  for window in (2, 3):
    _, slope = pool_and_slope(
      flat, jnp.ones((1, 3, 3, 1)), (("window", window), ("round_up", True))
    )
    assert float(slope.sum()) == pytest.approx(9)  # one for each of 3 x 3 maxima
    assert float(slope.max()) <= 1


def vqgan_losses():
  net = vqgan.VQGAN(
    3, 3, 4, (8,), (2,), 1, 0, 1, full_resolution_channels=4, code_dim=4, activation="gelu"
  )
  x, codebook = jnp.zeros((2, 16, 16, 3)), jnp.zeros((4, 4))
  disc = vqgan.MultiScaleDiscriminator(scales=1, features=(4,))
  params = [jax.eval_shape(n.init, jax.random.key(0), x)["params"] for n in (net, disc)]

  def loss(params, codebook, x):
    made = net.apply({"params": params[0]}, x)
    codes = quantize.quantize(net.apply({"params": params[0]}, x, method="encode"), codebook)
    logits = disc.apply({"params": params[1]}, made)
    game = generative.hinge_generator(logits) + generative.hinge_discriminator(logits, logits)
    spread, _ = generative.entropy(codes.unit_latents, codebook, temperature=0.1)
    return jnp.sum(generative.l1(made, x) + game) + spread + jnp.sum(codes.unit_codes)

  return loss, (params, codebook, x)


def lpips_of(trunk):
  x = jnp.zeros((1, 40, 40, 1))
  taps, params = jax.eval_shape(trunk.init_with_output, jax.random.key(0), x)
  heads = [jnp.zeros(tap.shape[-1]) for tap in taps]

  def loss(x, params):
    return jnp.sum(lpips.lpips(lambda images: trunk.apply(params, images), heads, x, x + 1))

  return loss, (x, params)


def yolo_losses():
  net, x = yolo.PyramidPool(), jnp.zeros((1, 4, 4, 8))
  variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, True), x)
  truth = detection.Truth(jnp.zeros((1, 3, 4)), jnp.zeros((1, 3), int), jnp.zeros((1, 3), bool))

  def loss(variables, x, bins):
    pooled, _ = net.apply(variables, x, True, mutable="batch_stats")
    logits = pooled.reshape(1, 16, 8)[..., :1]
    flat = yolo.Flat(bins, logits, jnp.ones((16, 2)), jnp.ones(16))
    boxes = yolo.boxes_of(flat)
    given = detection.assign(logits, boxes, flat.centres, truth)
    return sum(
      detection.detection_loss(
        bins, logits, boxes, flat.centres, flat.strides, truth, given
      ).values()
    )

  return loss, (variables, x, jnp.zeros((1, 16, 4, yolo.BINS)))


def unet_loss():
  net, x = unet.UNet(2, 4, 1), jnp.zeros((1, 16, 16, 1))
  labels = jnp.zeros((1, 16, 16), int)

  def loss(variables, x):
    logits, _ = net.apply(variables, x, train=True, mutable="batch_stats")
    total, weight = segmentation.cross_entropy(logits, labels, labels == 0)
    return total / weight + segmentation.dice(logits, labels, labels == 0)

  return loss, (jax.eval_shape(net.init, jax.random.key(0), x), x)


def singan_losses():
  net, critic, x = singan.Generator(2, 16), singan.Critic(16), jnp.zeros((1, 16, 16, 2))
  params = [
    jax.eval_shape(lambda x: net.init(jax.random.key(0), x, x, True), x),
    jax.eval_shape(critic.init, jax.random.key(0), x),
  ]

  def loss(params, x):
    made, _ = net.apply(params[0], x, x, True, mutable="batch_stats")
    score = functools.partial(critic.apply, params[1])
    lost = generative.critic_loss(score, x, made, x, penalty=0.1)
    return jnp.sum(lost + generative.generator_loss(score(made)))

  return loss, (params, x)


TRAINED = {
  "VQGAN": vqgan_losses,
  "U-Net": unet_loss,
  "YOLO11": yolo_losses,
  "SinGAN": singan_losses,
  "VGG16": functools.partial(lpips_of, features.VGG16Features()),
  "AlexNet": functools.partial(lpips_of, features.AlexNetFeatures()),
  "SqueezeNet": functools.partial(lpips_of, features.SqueezeNetFeatures()),
}


@pytest.mark.parametrize("name", TRAINED)
def test_no_derivative_asks_which_operand_equals_a_maximum(name):
  loss, args = TRAINED[name]()
  assert asked(jax.make_jaxpr(jax.grad(loss, allow_int=True))(*args).jaxpr) == []


@pytest.mark.parametrize("largest", [jnp.max, lambda x: jnp.maximum(x[0], x[1])])
def test_jaxs_own_derivative_does_ask(largest):
  gradient = jax.grad(lambda x: jnp.sum(largest(x)))
  assert asked(jax.make_jaxpr(gradient)(jnp.zeros((2, 3))).jaxpr)


def asked(jaxpr):
  """Equations of a program, without what it does not use, that compare with a maximum for equality.

  Minima too.
  """
  jaxpr, _ = pe.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  found, extremes = [], set()
  for eqn in jaxpr.eqns:
    name, operands = eqn.primitive.name, {v for v in eqn.invars if not hasattr(v, "val")}
    passed_on = name in ("reshape", "broadcast_in_dim", "convert_element_type", "stop_gradient")
    if name in ("max", "min", "reduce_max", "reduce_min") or (passed_on and operands & extremes):
      extremes |= set(eqn.outvars)
    if name in ("eq", "ne") and operands & extremes:
      found.append(eqn)
    for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
      found += asked(getattr(inner, "jaxpr", inner)) if hasattr(inner, "eqns") else []
  return found
