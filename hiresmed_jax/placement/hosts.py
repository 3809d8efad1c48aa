"""Which places look like those where lesions live: a logistic regression on their surroundings.

It tells real places of lesions from places drawn at random in the same images. Both had a hole of
the same outlines filled, so that it learns anatomy and not how holes are filled. Its log-odds are
the logarithm of how much more often lesions are there than by chance, for lesions of each size.
D features of `surroundings`; H, W rows and columns of an image; N places.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import threadpoolctl
from scipy import linalg
from scipy.special import expit

from hiresmed_jax.placement import surroundings

# Penalties on squared weights of standardised features; the one that foretells best the places of
# groups that it was not fitted to is taken.
_PENALTIES = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
_BY_SIZE = 10.0  # times the penalty: few large lesions decide these weights
_FOLDS = 4
_UNIFORM = 0.05  # share of places, when penalties are compared
_ROUNDS, _ENOUGH = 30, 0.02  # of Newton: at most, and the gain at which it ends
_FARTHEST = 4.0  # standard deviations; beyond it a feature counts as there
_SIZES = 2.5  # the same of the logarithm of the size
_UNLIKELY = 0.03  # share of real places whose log-odds are below `least`


class Hosts(NamedTuple):
  """The fitted regression."""

  levels: np.ndarray  # f32[L] of `surroundings.features`
  mean: np.ndarray  # f64[D] of the features
  spread: np.ndarray  # f64[D]
  weights: np.ndarray  # f64[2 D + 1] of features, of their squares, constant
  by_size: np.ndarray  # f64[D + 1] of features times size, size
  sizes: np.ndarray  # f64[2] mean and spread of log(diameter / side of the body box)
  least: np.ndarray  # f64[] log-odds from which on a place counts as likely


class Odds(NamedTuple):
  """Log-odds over an image: `of_mean` + size * `by_size`, see `size_of`."""

  of_mean: np.ndarray  # f32[H, W] for a lesion of mean size
  by_size: np.ndarray  # f32[H, W]


def fit(
  found: np.ndarray,
  is_real: np.ndarray,
  log_sizes: np.ndarray,
  groups: Sequence[str],
  levels: np.ndarray,
) -> Hosts:
  """Fits the regression.

  Args:
    found: f32[N, D], the surroundings of each place.
    is_real: bool[N], a real lesion's place, or one by chance; both kinds count the same in all.
    log_sizes: f64[N], log(diameter / side of the body box) of the outline of the filled hole.
    groups: N of them.
    levels: of the features.

  Raises:
    ValueError: one of the two kinds is missing.
  """
  real = int(is_real.sum())
  if not 0 < real < len(is_real):
    raise ValueError(f"{real} of {len(is_real)} places are real")
  mean, spread = found.mean(0, dtype=np.float64), found.std(0, dtype=np.float64) + 1e-6
  sizes = np.array([log_sizes.mean(), log_sizes.std() + 1e-6])
  hosts = Hosts(levels, mean, spread, np.zeros(0), np.zeros(0), sizes, np.zeros(()))
  plain, size = _standardised(hosts, found), _bounded(hosts, log_sizes)
  columns = np.concatenate(
    [plain, plain**2 - 1, np.ones((len(plain), 1)), plain * size[:, None], size[:, None]], axis=1
  )
  width = plain.shape[1]
  relative = np.repeat([1.0, 0.0, _BY_SIZE], [2 * width, 1, width + 1])
  share = np.where(is_real, 1.0, real / (len(is_real) - real))
  group = np.unique(groups, return_inverse=True)[1]
  path = functools.partial(_path, shrink=relative)
  with threadpoolctl.threadpool_limits(1):  # such small matrices gain nothing by threads
    weights = _best(columns, is_real, share, group, path)
  return hosts._replace(
    weights=weights[: 2 * width + 1],
    by_size=weights[2 * width + 1 :],
    least=np.asarray(np.quantile(columns[is_real] @ weights, _UNLIKELY)),
  )


def _best(
  columns: np.ndarray,
  is_real: np.ndarray,
  share: np.ndarray,
  group: np.ndarray,
  path: Callable[..., list[np.ndarray]],
) -> np.ndarray:
  """The weights with the penalty that is best for groups that were left out."""
  gains = np.zeros(len(_PENALTIES))
  for number in range(_FOLDS):
    rest, own = group % _FOLDS != number, group % _FOLDS == number
    if is_real[rest].any() and own.any():
      fitted = path(columns[rest], is_real[rest], share[rest])
      gains += [_gain(columns[own] @ weights, is_real[own], group[own]) for weights in fitted]
  return path(columns, is_real, share)[int(np.argmax(gains))]


def _path(
  columns: np.ndarray, is_real: np.ndarray, share: np.ndarray, *, shrink: np.ndarray
) -> list[np.ndarray]:
  """Weights f64[K] of logistic regressions on f64[N, K], by Newton's way: one for each penalty.

  `share` f64[N] is how much each row counts, `shrink` f64[K] the relative penalty on each weight.
  """
  weights, fitted = np.zeros(columns.shape[1]), []
  for penalty in _PENALTIES:  # from strong to weak, each from where the one before has ended
    strength = penalty * shrink

    def cost(at: np.ndarray, strength: np.ndarray = strength) -> float:
      return float(share @ _surprise(columns @ at, is_real) + strength @ at**2 / 2)

    for _ in range(_ROUNDS):
      chance = expit(columns @ weights)
      slope = columns.T @ (share * (chance - is_real)) + strength * weights
      curvature = (columns.T * (share * chance * (1 - chance))) @ columns + np.diag(strength)
      step = linalg.solve(curvature, slope, assume_a="pos")
      before, length = cost(weights), 1.0
      while cost(weights - length * step) > before and length > 1e-4:
        length /= 2
      weights = weights - length * step
      if slope @ step < _ENOUGH:
        break
    fitted.append(weights)
  return fitted


def _gain(odds: np.ndarray, is_real: np.ndarray, group: np.ndarray) -> float:
  """Log-chance of real places among those of their group, over the uniform one, summed."""
  total = 0.0
  for number in np.unique(group):
    real, other = (np.exp(odds[(group == number) & kind]) for kind in (is_real, ~is_real))
    for one in real:
      total += np.log((1 - _UNIFORM) * one / np.append(other, one).mean() + _UNIFORM)
  return total


def _surprise(odds: np.ndarray, is_real: np.ndarray) -> np.ndarray:
  """Negative log-likelihood of each place."""
  return np.logaddexp(0.0, odds) - is_real * odds


def odds(hosts: Hosts, grey: np.ndarray, content: np.ndarray) -> Odds:
  """The log-odds over an image; arguments as of `surroundings.features`."""
  found = surroundings.features(grey, content, hosts.levels)
  plain = _standardised(hosts, found.reshape(-1, found.shape[-1]))
  width = plain.shape[1]
  of_mean = plain @ hosts.weights[:width] + (plain**2 - 1) @ hosts.weights[width:-1]
  maps = (of_mean + hosts.weights[-1], plain @ hosts.by_size[:-1] + hosts.by_size[-1])
  return Odds(
    *(
      cv2.resize(
        one.reshape(found.shape[:2]).astype(np.float32),
        grey.shape[::-1],
        interpolation=cv2.INTER_LINEAR,
      )
      for one in maps
    )
  )


def size_of(hosts: Hosts, diameter_px: float, content: np.ndarray) -> float:
  """The size of a lesion in an image of this body, in spreads of the real ones' logarithms."""
  return float(_bounded(hosts, np.log(diameter_px / surroundings.body_side(content))))


def packed(hosts: Hosts) -> dict[str, np.ndarray]:
  """As arrays of a file."""
  return {name: np.asarray(value) for name, value in hosts._asdict().items()}


def unpacked(arrays: Mapping[str, Any]) -> Hosts:
  """The inverse of `packed`."""
  return Hosts(**{name: np.asarray(arrays[name]) for name in Hosts._fields})


def _standardised(hosts: Hosts, found: np.ndarray) -> np.ndarray:
  """f64[N, D] in standard deviations, cut where places of training images are not."""
  return np.clip((found - hosts.mean) / hosts.spread, -_FARTHEST, _FARTHEST)


def _bounded(hosts: Hosts, log_sizes: np.ndarray) -> np.ndarray:
  return np.clip((log_sizes - hosts.sizes[0]) / hosts.sizes[1], -_SIZES, _SIZES)
