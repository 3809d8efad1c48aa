"""A sample equals the one that PyTorch makes of the same weights and the same noise."""

import jax
import numpy as np
import pytest
import torch

from hiresmed_jax.lesions import sampling
from hiresmed_jax.nets.singan import Generator
from hiresmed_jax.ops import pyramid as pyramids
from tests.reference import singan

SIDE, CHANNELS, LESIONS = 18, 2, 3
PYRAMID = pyramids.Pyramid(((13, 13), (SIDE, SIDE)), 13 / SIDE, 1.0)
WIDTHS = (4, 8)


@pytest.fixture(scope="module")
def generators():
  rng = np.random.default_rng(0)
  levels = []
  for size, width in zip(PYRAMID.sizes, WIDTHS, strict=True):
    empty = np.zeros((1, *size, CHANNELS), np.float32)
    shapes = jax.eval_shape(
      lambda x, width=width: Generator(CHANNELS, width).init(jax.random.key(0), x, x, True), empty
    )
    levels.append(
      jax.tree.map(
        lambda s: (
          rng.uniform(0.1, 0.4, (LESIONS, *s.shape)).astype(np.float32)
          * rng.choice([-1, 1] if len(s.shape) == 4 else [1], (LESIONS, *s.shape))
        ),
        shapes,
      )
    )
  amplitudes = rng.uniform(0.1, 1, (LESIONS, len(WIDTHS))).astype(np.float32)
  fixed = rng.normal(size=(LESIONS, *PYRAMID.sizes[0], 1)).astype(np.float32)
  return sampling.Generators(tuple(levels), amplitudes, fixed)


def in_torch(level: dict, lesion: int, width: int) -> singan.Generator:
  net = singan.Generator(CHANNELS, width).eval()
  params, stats = level["params"]["body"], level["batch_stats"]["body"]
  with torch.no_grad():
    for index in range(5):
      conv = net.net[3 * index]
      kernel = params[f"kernel{index}"][lesion].transpose(3, 2, 0, 1)
      conv.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
      conv.bias.copy_(torch.from_numpy(params[f"bias{index}"][lesion]))
      if index < 4:
        norm = net.net[3 * index + 1]
        norm.weight.copy_(torch.from_numpy(params[f"norm{index}"]["scale"][lesion]))
        norm.bias.copy_(torch.from_numpy(params[f"norm{index}"]["shift"][lesion]))
        norm.running_mean.copy_(torch.from_numpy(stats[f"norm{index}"]["mean"][lesion]))
        norm.running_var.copy_(torch.from_numpy(stats[f"norm{index}"]["var"][lesion]))
  return net


@pytest.mark.slow
@pytest.mark.parametrize(("lesion", "start"), [(0, 1), (2, 1)])
def test_sample_equals_torch(generators, lesion, start):
  key = jax.random.key(7)
  ours = sampling.sample(
    generators, np.int32(lesion), key, pyramid=PYRAMID, widths=WIDTHS, start=start
  )
  image = torch.zeros(1, CHANNELS, *PYRAMID.sizes[0])
  for number, level in enumerate(generators.levels):
    if number:
      ours_below = np.asarray(image).transpose(0, 2, 3, 1)
      enlarged = np.array(pyramids.to_level(ours_below, number, PYRAMID))
      image = torch.from_numpy(np.ascontiguousarray(enlarged.transpose(0, 3, 1, 2)))
    shape = (1, *PYRAMID.sizes[number], CHANNELS if number else 1)
    noise = np.array(jax.random.normal(jax.random.fold_in(key, number), shape))
    if number < start:
      noise = generators.fixed[lesion][None] if number == 0 else 0 * noise
    z = torch.from_numpy(np.ascontiguousarray(noise.transpose(0, 3, 1, 2)))
    z = z.expand(1, CHANNELS, *PYRAMID.sizes[number])
    net = in_torch(level, lesion, WIDTHS[number])
    with torch.no_grad():
      image = net(z, image, float(generators.amplitudes[lesion, number]))
  expected = image.numpy()[0].transpose(1, 2, 0)
  assert ours.shape == (SIDE, SIDE, CHANNELS)
  np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)


def test_widths_are_read_from_the_weights(generators):
  assert sampling.widths_of(generators.levels) == WIDTHS
