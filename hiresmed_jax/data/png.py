"""Images and masks as PNG bytes: lossless, 8 or 16 bit, any size, readable by anything."""

import cv2
import numpy as np


def encode(image: np.ndarray) -> bytes:
  """PNG of an image uint8|uint16 [H, W], [H, W, 1] or [H, W, 3] (RGB); b"" for one of size 0."""
  if image.size == 0:
    return b""
  if image.ndim == 3 and image.shape[-1] == 3:
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
  done, data = cv2.imencode(".png", np.ascontiguousarray(image))
  if not done:
    raise ValueError(f"no PNG of {image.dtype} {image.shape}")
  return data.tobytes()


def decode_image(data: bytes, *, dtype: type[np.generic], channels: int) -> np.ndarray:
  """Image of `dtype` [H, W, channels] of a PNG: fewer bits or channels are widened.

  Args:
    data: an 8 or 16 bit PNG, grey or RGB.
    dtype: uint8, or uint16, in which 8 bits keep their values.
    channels: 1, or 3, for which grey is repeated.
  """
  image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
  if image.ndim == 3:
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
  elif channels == 3:
    image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
  return image.reshape(*image.shape[:2], channels).astype(dtype, copy=False)


def decode_mask(data: bytes, dtype: type[np.generic]) -> np.ndarray:
  """Mask [H, W] of a PNG, (0, 0) for b""."""
  if not data:
    return np.zeros((0, 0), dtype)
  mask = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
  return mask.astype(dtype, copy=False)
