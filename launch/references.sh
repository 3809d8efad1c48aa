#!/usr/bin/env bash
# Installs the packages that parity tests compare with into the active environment.
# They are no extra of the project because an extra cannot say --no-deps: without it the packages
# around torch ask for another build of it, several GB of it, in place of the one that is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python -m pip install --quiet --constraint references.txt torch
python -m pip install --quiet --constraint references.txt --no-deps \
  torchvision torchmetrics lightning-utilities lpips pytorch-fid ultralytics pycocotools
