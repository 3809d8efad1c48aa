"""Predictions near real boxes of all sizes, and the levels' positions, for tests of the loss."""

import numpy as np

STRIDES = (8, 16, 32)


def positions(size):
  """(centres f32[A, 2], strides f32[A]) of square images."""
  centres, strides = [], []
  for stride in STRIDES:
    y, x = np.mgrid[: size // stride, : size // stride]
    centres.append((np.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
    strides.append(np.full(x.size, stride))
  return np.concatenate(centres).astype(np.float32), np.concatenate(strides).astype(np.float32)


def truth(rng, size, count):
  """f32[count, 4]: from stones of 6 px to half the image, some of them overlapping."""
  centre = rng.uniform(0.15, 0.85, (count, 2)) * size
  side = np.exp(rng.uniform(np.log(6), np.log(size / 2), (count, 2)))
  corners = np.concatenate([centre - side / 2, centre + side / 2], -1)
  return np.clip(corners, 0, size).astype(np.float32)


def predictions(rng, size, real, labels, classes):
  """(bins f32[N, A, 4, 16], logits f32[N, A, K]); real: a list of boxes for each image."""
  centres, strides = positions(size)
  bins = rng.normal(0, 0.5, (len(real), len(centres), 4, 16))
  logits = rng.normal(-2, 1, (len(real), len(centres), classes))
  for image, (boxes, own) in enumerate(zip(real, labels)):
    for box, label in zip(boxes, own):
      distance = np.concatenate([centres - box[:2], box[2:] - centres], -1) / strides[:, None]
      near = (distance > -1).all(-1) & (distance < 15).all(-1)
      peak = np.exp(-((np.arange(16) - distance[near][..., None]) ** 2))
      bins[image][near] += 6 * peak * rng.uniform(0.3, 1, (near.sum(), 1, 1))
      logits[image][near, label] += 2
  return bins.astype(np.float32), logits.astype(np.float32)
