"""Small images with known lesions, prepared, and settings made of them."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from hiresmed_jax.data import records
from hiresmed_jax.data.identity import split_of
from hiresmed_jax.data.sample import Sample
from hiresmed_jax.inference import survey
from hiresmed_jax.inference.places import Prior
from hiresmed_jax.inference.workdir import Model
from hiresmed_jax.lesions.copying import Copies
from hiresmed_jax.lesions.parametric import Lumps
from hiresmed_jax.routes import settings
from hiresmed_jax.synthesis import background, shams
from hiresmed_jax.synthesis.image import Setting
from hiresmed_jax.synthesis.request import Request

SHAPE = (88, 104)
REQUEST = Request(num=3, lesions=(1, 2), background="real", source="copy")


def groups(split: str, count: int) -> list[str]:
  names = (f"group-{i}" for i in range(1000))
  return [name for name in names if split_of(name) == split][:count]


def sample(seed: int, group: str, *, physics: str = "none", masks: bool = True,
           photometric: str = "MONOCHROME2") -> Sample:  # fmt: skip
  """An oval body with two bright lumps: 8 bits for "none", HU for "ct", 12 bits otherwise."""
  rng = np.random.default_rng(seed)
  (height, width), high = SHAPE, {"none": 255.0, "ct": 400.0, "projection": 4000.0}[physics]
  low = -1000.0 if physics == "ct" else 0.0
  y, x = np.mgrid[:height, :width] + 0.5
  body = ((y - height / 2) / 42) ** 2 + ((x - width / 2) / 50) ** 2 < 1
  shares = np.where(body, 0.35 + 0.1 * x / width, 0.0)
  ids = np.zeros(SHAPE, np.uint16)
  for number, centre in enumerate(((34, 36), (50, 64)), 1):
    cy, cx = np.asarray(centre) + rng.integers(-4, 5, 2)
    radius, squeeze = rng.uniform(3.0, 4.6), rng.uniform(0.9, 1.1)  # a window of 32 px
    ids[((y - cy) / radius * squeeze) ** 2 + ((x - cx) / radius / squeeze) ** 2 < 1] = number
    shares = shares + 0.3 * ndimage.gaussian_filter((ids == number).astype(float), 0.8)
  shares = shares + 0.01 * rng.standard_normal(SHAPE) * body
  values = low + np.clip(shares, 0, 1) * (high - low)
  if photometric == "MONOCHROME1":
    values = low + high - values
  intercept = -32768.0 if physics == "ct" else 0.0
  dtype, boxes = np.uint8 if physics == "none" else np.uint16, []
  for number in (1, 2):
    rows, columns = np.nonzero(ids == number)
    boxes.append([columns.min() - 2, rows.min() - 1, columns.max() + 3, rows.max() + 2])
  return Sample(
    image=np.rint(values - intercept).astype(dtype)[..., None],
    group=group,
    source=f"{group}/{seed}",
    rescale_intercept=intercept,
    value_range=(low, high),
    photometric=photometric,
    physics=physics,
    spacing_mm=(0.8, 0.8) if physics != "none" else (float("nan"),) * 2,
    boxes=np.asarray(boxes, np.float32),
    lesion_mask=ids if masks else np.zeros((0, 0), np.uint16),
    forbidden_mask=np.where(x > 84, 1, 0).astype(np.uint8),
  )  # fmt: skip


def dataset(folder: Path, *, count: int = 6, **options: Any) -> records.Dataset:
  """`count` training images and one held-out one."""
  named = [*groups("train", count), *groups("test", 1)]
  samples = (sample(seed, group, **options) for seed, group in enumerate(named))
  records.write_dataset(samples, folder, kind="phantom", name="drawn")
  return records.open_dataset(folder)


def setting(data: records.Dataset, found: survey.Survey | None = None, *,
            maker: background.Maker | None = None, user_mask: np.ndarray | None = None,
            values: dict[str, Any] | None = None, prior: Prior | None = None,
            danger: Model | None = None, **changes: Any) -> Setting:  # fmt: skip
  """What images of a request are made of; `changes` of `REQUEST`."""
  config = settings.values("synthesize", "best")
  config.update_from_flattened_dict(values or {})
  source = records.source(data, "train")
  found = survey.make(source) if found is None else found
  request = REQUEST._replace(**changes)
  lesions = Copies(found.patches) if request.source == "copy" else Lumps.fit(found.patches)
  maker = maker or background.Maker(None, config.existing == "label", 0.5)
  prior = prior or Prior("atlas")
  faintest = shams.faintest(found.patches)
  return Setting(request, config, source, found, maker, lesions, prior, danger, user_mask, faintest)
