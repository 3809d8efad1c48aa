"""Random weights of a frozen network that keep activations alive, under our names and torch's."""

import numpy as np

TORCH_LEAF = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def random_arrays(layout, seed=0):
  """Flat name -> f32 array: kernels with the variance that ReLU keeps, norms that do something."""
  rng = np.random.default_rng(seed)
  out = {}
  for name, shape in layout.items():
    leaf = name.rsplit("/", 1)[-1]
    if leaf == "kernel":
      value = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[:-1]))
    elif leaf in ("scale", "var"):
      value = rng.uniform(0.7, 1.3, shape)
    else:
      value = 0.1 * rng.standard_normal(shape)
    out[name] = value.astype(np.float32)
  return out


def torch_names(arrays):
  """The same under the names of torchvision's modules and in torch's order."""
  out = {}
  for name, value in arrays.items():
    *path, leaf = name.split("/")
    if path[0].startswith("layer"):  # a residual block: "layer1_0" is "layer1.0"
      path = [*path[0].split("_"), *path[1:]]
      path[-1] = {"convdownsample": "downsample.0", "bndownsample": "downsample.1"}.get(
        path[-1], path[-1]
      )
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim)
    value = np.ascontiguousarray(value.transpose(order) if order else value)
    out[".".join([*path, TORCH_LEAF[leaf]])] = value
  return out
