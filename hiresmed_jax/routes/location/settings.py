"""The settings of the route `location` as plain values; the two presets differ in values only."""

from ml_collections import ConfigDict


def location(preset: str) -> ConfigDict:
  """YOLO11. `steps` wins over `epochs` when it is above 0.

  `paper` names no numbers but the network: its values are the published ones of YOLO11, left and
  right not exchanged. `best` averages sooner, as runs on few images are short, and its boxes begin
  small, as lesions are.
  """
  paper = preset == "paper"
  return ConfigDict(
    {
      "net": "n",  # "n", "s", "m"
      "p2": False,  # one more level, of stride 4
      "near": 0.0 if paper else 1.0,  # how small boxes begin: see `nets.yolo.Yolo11`
      "size": 640,  # side of the square that the network sees, pixels
      "weights": "",  # a file to begin with: .safetensors, .npz or .pth of tensors; "" = random
      # Share of the training images whose lesions are taken out, their boxes kept, with as many
      # holes filled elsewhere: a prior must know where lesions occur, not what they look like.
      "bare": 0.5,
      "decoys": 1.0,  # holes elsewhere, for each lesion that is taken out
      "augment": ConfigDict({"scale": 0.5, "shift": 0.1, "gain": 0.4, "flip": False}),
      "mosaic": 1.0,  # share of the images that are made of four
      "close_mosaic": 10,  # epochs at the end without
      "assign": ConfigDict({"top": 10, "alpha": 0.5, "beta": 6.0, "least_side": 16.0}),
      "gains": ConfigDict({"box": 7.5, "classes": 0.5, "bins": 1.5}),
      "optimizer": ConfigDict(
        {
          "name": "sgd" if paper else "adamw",
          "learning_rate": 0.01 if paper else 0.002,
          "b1": 0.937 if paper else 0.9,
          "weight_decay": 5e-4,  # of a batch of 64
          "schedule": "linear",  # to a hundredth
          "warmup_epochs": 3.0,
          "accumulate": 1,
          "clip": 10.0,  # global norm; 0 = off
        }
      ),
      "ema": ConfigDict({"decay": 0.9999 if paper else 0.995, "tau": 2000.0 if paper else 100.0}),
      "nms_iou": 0.7,
      "dtype": "auto",
      "batch_size": 16,
      "epochs": 100,
      "steps": 0,
      "log_every": 50,
      "eval_every": 500,  # evaluation, checkpoint and figures
      "keep_checkpoints": 1,
      "max_skipped": 20,
    }
  )
