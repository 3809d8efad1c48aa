"""The settings of the route `danger` as plain values; the two presets differ in values only."""

from ml_collections import ConfigDict


def danger(preset: str) -> ConfigDict:
  """U-Net. `steps` wins over `epochs` when it is above 0.

  `paper` names no numbers but the network: its values are those of the published U-Net and of
  nnU-Net (momentum .99, decay 3e-5, a falling rate from .01), its augmentation that of `best`.
  """
  paper = preset == "paper"
  return ConfigDict(
    {
      "width": 64 if paper else 32,  # channels at full resolution
      "size": (512, 512),  # rows, columns of the view; multiples of 16
      "crop": 0,  # > 0: train on random crops of this side
      "rule": "",  # for images without a mask: one of `placement.forbidden.RULES`; "" = none
      "augment": ConfigDict(
        {
          "degrees": 10.0,
          "scale": 0.15,
          "shift": 0.05,
          "gain": 0.2,
          "offset": 0.1,
          "gamma": 0.2,
          "flip": False,
        }
      ),
      # A real lesion proves that its place is allowed: its pixels count `lesions` times as much in
      # the cross-entropy, or the few bright ones would pass for bone.
      "loss": ConfigDict({"cross_entropy": 1.0, "dice": 1.0, "lesions": 1.0 if paper else 20.0}),
      "optimizer": ConfigDict(
        {
          "name": "sgd" if paper else "adamw",
          "learning_rate": 0.01 if paper else 0.002,
          "b1": 0.99 if paper else 0.9,
          "weight_decay": 3e-5 if paper else 1e-4,
          "schedule": "linear",  # to a hundredth
          "warmup": 0.05,  # share of the run
          "accumulate": 1,
          "clip": 1.0,  # global norm; 0 = off
        }
      ),
      "ema": 0.0 if paper else 0.99,
      "dtype": "auto",
      "batch_size": 8,
      "epochs": 100,
      "steps": 0,
      "log_every": 50,
      "eval_every": 500,  # evaluation, checkpoint and figures
      "keep_checkpoints": 1,
      "max_skipped": 20,
    }
  )
