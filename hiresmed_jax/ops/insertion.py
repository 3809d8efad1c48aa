"""Putting a lesion into an image: five ways, at native resolution.

A lesion is three arrays (see `lesions/patch.py`): `values`, the lesion with its context;
`surround`, the same without the lesion; `alpha`, how much of each pixel it fills. Its mask is
alpha >= 0.5. All are in value units: HU, or the grey of a radiograph, bright = dense.

S rows and columns, C channels.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from hiresmed_jax.ops import insertion_parts
from hiresmed_jax.ops.insertion_parts import (
  REACH_PX,
  TAIL_PX,
  dilate,
  louder,
  ring,
  sobel,
  tail_taper,
  taper,
)
from hiresmed_jax.types import Array

_OFFSET = 0.25  # of a lesion's contrast: the most that its level is moved by
_CENSORED = 0.02  # of the way from the surroundings to the ceiling: what is nearer is clipped
_PLATEAU = 3  # clipped pixels of a clipped lesion, at least
_RIM = 3.0  # standard deviations of noise: the darkest that a bright lesion's rim may be

MODES = ("paper", "feather", "poisson", "ct", "projection")
DEFAULT_MODE: Mapping[str, str] = {"ct": "ct", "projection": "projection", "none": "feather"}


def insert(
  background: Array,
  values: Array,
  surround: Array,
  alpha: Array,
  *,
  mode: str,
  gain: Array | float = 1.0,
  white: Array | float | None = None,
  ceiling: Array | float = jnp.inf,
) -> Array:
  """A window of an image with a lesion in its middle.

  Modes:
    paper: the mask is set to 0, the lesion's values are added (Eq. 17 of the paper), and where a
      Sobel filter sees the mask's edge the result is blurred by a 3x3 Gaussian of sigma 1.0.
    feather: as `ct`, after the donor's level is brought nearer to that of the neighbourhood: by an
      offset of at most a quarter of the lesion's contrast, which keeps that contrast. Of a lesion
      whose plateau is clipped the levels are stretched from there to the ceiling.
    poisson: inside, the gradients of `values`; at the border, the background (Perez et al. 2003).
    ct: partial volume. A pixel holds a of lesion and 1 - a of tissue: v' = (1 - a) v + a v_lesion.
      The donor's pixels are such mixtures too, so a v_lesion = values - (1 - a) surround. Beyond
      the mask goes what is left of its blur, where it is louder than noise. What is clipped stays
      so.
    projection: superposition. Attenuation adds up along a ray, so what the lesion added to the
      donor's line integrals, it adds here; bowel gas and bone show through.
      Where values are affine in the line integral of attenuation (a radiograph for presentation, a
      digitally reconstructed one): v' = v + gain (values - surround), which is exact. Where values
      fall linearly with the intensity that reaches the detector, `white` being the value of none:
      white - v' = (white - v) ((white - values) / (white - surround))^gain.

  In all but `paper` the noise is matched: where the lesion brings less noise than the neighbourhood
  has, the background's own is kept; where it brings more, it is toned down.

  Args:
    background: f32[S, S, C], the window.
    values, surround: f32[S, S, C].
    alpha: f32[S, S] in [0, 1].
    mode: see above; `DEFAULT_MODE` has the one for each `physics`.
    gain: `projection` only. Value units that the same attenuation makes here, per value unit in the
      donor: 1 on one scale; where scatter is known, the ratio of the shares of direct radiation.
      That an enlarged lesion is also thicker is not known here: `resample` keeps contrast.
    white: `projection` only, see above; None: values are affine in the line integral.
    ceiling: `feather`, `ct`: the end of the donor's range, at which values are clipped; inf: none.

  Returns:
    f32[S, S, C]; farther than `TAIL_PX` (`ct`, `feather`), else `REACH_PX`, from the mask bit-equal
    to `background`. Not clipped.

  Raises:
    ValueError: an unknown mode, or shapes that do not fit.
  """
  if mode not in MODES:
    raise ValueError(f"unknown mode {mode!r}: choose from {list(MODES)}")
  if not background.shape == values.shape == surround.shape == (*alpha.shape, values.shape[-1]):
    raise ValueError(
      f"[S, S, C] three times and [S, S] wanted, not {background.shape}, {values.shape}, "
      f"{surround.shape}, {alpha.shape}"
    )
  mask = alpha >= 0.5
  match mode:
    case "paper":
      inserted = _paper(background, values, mask)
    case "feather":
      levelled = _level_with(background, values, surround, mask, ceiling)
      inserted = _clipped_as(values, surround, mask, ceiling, _ct(background, *levelled, alpha))
    case "poisson":
      inserted = _poisson(background, values, surround, mask)
    case "ct":
      inserted = _ct(background, values, surround, alpha)
      inserted = _clipped_as(values, surround, mask, ceiling, inserted)
    case _:
      inserted = _projection(background, values, surround, mask, gain=gain, white=white)
  reach = TAIL_PX if mode in ("ct", "feather") else REACH_PX
  return jnp.where(dilate(mask, reach)[..., None], inserted, background)


def _paper(background: Array, values: Array, mask: Array) -> Array:
  inside = mask[..., None]
  pasted = jnp.where(inside, 0.0, background) + jnp.where(inside, values, 0.0)
  return jnp.where(sobel(mask)[..., None] > 0, insertion_parts.gaussian3(pasted), pasted)


def _level_with(
  background: Array, values: Array, surround: Array, mask: Array, ceiling: Array | float
) -> tuple[Array, Array]:
  """The donor's values and surround, with their neighbourhood's level nearer to that of another."""
  around = ring(mask)
  here, there = _middle(background, around), _middle(surround, around)
  inside = mask[..., None]
  contrast = jnp.sum(values - surround, (0, 1), where=inside) / jnp.maximum(jnp.sum(mask), 1)
  most = _OFFSET * jnp.abs(contrast)
  offset = jnp.clip(here - there, -most, most)
  full = jnp.where(jnp.isinf(ceiling), 0.0, ceiling)
  clipped = jnp.sum(_at_the_end(values, there, mask, ceiling), (0, 1)) >= _PLATEAU
  room = jnp.maximum(full - there, 1e-6)
  gain = jnp.where(clipped, jnp.clip((full - there - offset) / room, 0.5, 2.0), 1.0)
  level = there + offset
  return level + gain * (values - there), level + gain * (surround - there)


def _at_the_end(values: Array, level: Array, mask: Array, ceiling: Array | float) -> Array:
  """bool[S, S, C]: where a lesion is clipped; its true values are at least those."""
  full = jnp.where(jnp.isinf(ceiling), 0.0, ceiling)
  clipped = values >= full - _CENSORED * (full - level)
  return clipped & mask[..., None] & jnp.isfinite(ceiling)


def _clipped_as(
  values: Array, surround: Array, mask: Array, ceiling: Array | float, inserted: Array
) -> Array:
  """`inserted`, at least as bright where the donor's values are clipped."""
  at_the_end = _at_the_end(values, _middle(surround, ring(mask)), mask, ceiling)
  return jnp.where(at_the_end, jnp.maximum(inserted, values), inserted)


def _poisson(background: Array, values: Array, surround: Array, mask: Array) -> Array:
  # The lesion, plus what is harmonic inside and takes it to the background at the border.
  layer = values + harmonic(background - values, dilate(mask, REACH_PX))
  layer_level = insertion_parts.noise_level(surround, ring(mask))
  grain, flat = insertion_parts.noise_in(layer, layer_level)
  kept = jnp.zeros_like(layer)
  return _matched(background, layer, grain, layer_level, flat, ring(mask), kept=kept)


def _ct(background: Array, values: Array, surround: Array, alpha: Array) -> Array:
  mask = alpha >= 0.5
  filled = alpha[..., None] * taper(mask)[..., None]
  layer_level = insertion_parts.noise_level(surround, ring(mask))
  added = values - surround  # of it comes the noise: the estimated surround has none
  grain, _ = insertion_parts.noise_in(added, layer_level)
  _, flat = insertion_parts.noise_in(values, layer_level)
  # Beyond the mask: what is left of the blur, and no rim darker than noise.
  beyond = louder(added, layer_level) * (added - grain)
  sign = jnp.sign(jnp.sum(added, (0, 1), where=mask[..., None]))
  beyond = sign * jnp.maximum(sign * beyond, -_RIM * layer_level)
  ends = tail_taper(mask)[..., None]
  added = jnp.where(mask[..., None], added, beyond + grain) * ends
  layer, grain = added + filled * surround, grain * ends
  return _matched(background, layer, grain, layer_level, flat, ring(mask), kept=1 - filled)


def _added(values: Array, surround: Array, mask: Array) -> Array:
  """What the lesion adds to its surround without its noise, in its reach.

  Only what has the lesion's sign, since attenuation adds up: a stone darkens no ray. The dark rim
  that a sharp kernel draws around it, another organ that begins there, or a notch that a SinGAN
  has drawn is none of the lesion.
  """
  added = values - surround
  sign = jnp.sign(jnp.sum(added, (0, 1), where=mask[..., None]))
  # The background's noise stays whole, so the lesion must bring none.
  grain, _ = insertion_parts.noise_in(added, insertion_parts.noise_level(surround, ring(mask)))
  return sign * jnp.maximum(sign * (added - grain), 0.0) * taper(mask)[..., None]


def _projection(
  background: Array,
  values: Array,
  surround: Array,
  mask: Array,
  *,
  gain: Array | float,
  white: Array | float | None,
) -> Array:
  background, values, surround = (_integral(v, white) for v in (background, values, surround))
  inserted = background + gain * _added(values, surround, mask)
  return inserted if white is None else white - jnp.exp(-inserted)


def _integral(image: Array, white: Array | float | None) -> Array:
  if white is None:
    return image
  least = 1e-6 * jnp.maximum(jnp.abs(white), 1.0)  # a ray that is absorbed
  return -jnp.log(jnp.maximum(white - image, least))


def _matched(
  background: Array,
  layer: Array,
  grain: Array,
  grain_level: Array,
  flat: Array,
  around: Array,
  *,
  kept: Array,
) -> Array:
  """kept * background + layer, of which `grain` is noise; see `insertion_parts.matched`."""
  level = insertion_parts.noise_level(background, around)
  own = insertion_parts.own_noise(background, level)
  smooth = kept * background + (layer - grain)
  return smooth + insertion_parts.matched(grain, grain_level, own, level, kept=kept, flat=flat)


def _middle(image: Array, where: Array) -> Array:
  return jnp.nan_to_num(jnp.nanmedian(jnp.where(where[..., None], image, jnp.nan), axis=(0, 1)))


def harmonic(image: Array, inside: Array) -> Array:
  """Replaces the pixels of bool[S, S] by the harmonic function that continues the others.

  Each is then the mean of its four neighbours; at the window's border, of those there are.
  f32[S, S, C] -> the same.
  """
  known = ~inside[..., None]
  start = jnp.where(known, image, 0.0)

  def departure(f: Array) -> Array:
    """Inside, how far the pixels are from their neighbours' mean, times their number."""
    total = jnp.zeros_like(f)
    for axis in (0, 1):
      ends = [(1, 1) if a == axis else (0, 0) for a in range(3)]
      total -= jnp.diff(jnp.pad(jnp.diff(f, axis=axis), ends), axis=axis)
    return jnp.where(known, 0.0, total)

  # Known pixels start at 0 and stay there.
  solved, _ = jax.scipy.sparse.linalg.cg(
    lambda f: departure(f) + jnp.where(known, f, 0.0), -departure(start), tol=1e-6, maxiter=1000
  )
  return jnp.where(known, image, solved)


def resample(
  values: Array,
  surround: Array,
  alpha: Array,
  *,
  scale: Array | float | tuple[Array | float, Array | float],
  shift_yx: tuple[Array | float, Array | float],
  side: int,
) -> tuple[Array, Array, Array]:
  """A lesion at another scale and sub-pixel centre, cubic (Keys, a = -0.5), no aliasing.

  Args:
    values, surround: f32[S, S, C].
    alpha: f32[S, S].
    scale: output pixels per input pixel, of both axes or (row, column).
    shift_yx: where the input's centre comes to lie, in output pixels off the output's centre.
    side: side of the output.

  Returns:
    The same three with S = `side`; beyond the input its border is repeated, alpha is 0.
  """
  scales = scale if isinstance(scale, tuple) else (scale, scale)
  matrices = [_resampling(alpha.shape[i], side, scales[i], shift_yx[i]) for i in (0, 1)]
  high = jax.lax.Precision.HIGHEST

  def resampled(image: Array) -> Array:
    return jnp.einsum("yY,YXc,xX->yxc", matrices[0], image, matrices[1], precision=high)

  inside = [_inside(alpha.shape[i], side, scales[i], shift_yx[i]) for i in (0, 1)]
  there = inside[0][:, None] & inside[1][None, :]
  occupancy = jnp.clip(resampled(alpha[..., None])[..., 0], 0.0, 1.0)
  return resampled(values), resampled(surround), jnp.where(there, occupancy, 0.0)


def _position(size: int, side: int, scale: Array | float, shift: Array | float) -> Array:
  """Where the centres of the output's pixels lie in the input, in pixels, corner 0. f32[side]."""
  return (jnp.arange(side) + 0.5 - side / 2 - shift) / scale + size / 2


def _inside(size: int, side: int, scale: Array | float, shift: Array | float) -> Array:
  position = _position(size, side, scale, shift)
  return (position >= 0) & (position <= size)


def _resampling(size: int, side: int, scale: Array | float, shift: Array | float) -> Array:
  """f32[side, size], rows of sum 1."""
  position = jnp.clip(_position(size, side, scale, shift), 0, size) - 0.5
  width = jnp.maximum(1.0, 1.0 / jnp.asarray(scale, jnp.float32))
  t = jnp.abs(position[:, None] - jnp.arange(size)) / width
  near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
  weights = jnp.where(t < 1, near, jnp.where(t < 2, far, 0.0))
  return weights / jnp.sum(weights, axis=1, keepdims=True)
