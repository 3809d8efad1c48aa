#!/usr/bin/env bash
# Installs the packages that parity tests compare with into the active environment.
#
#   bash launch/references.sh [--cpu]
#
# --cpu: of torch only a build for the CPU, and nothing of what needs torch where pip finds no such
# build for this Python; the build that pip takes otherwise may be one for CUDA, of several GB.
#
# They are no extra of the project because an extra cannot say --no-deps: without it the packages
# around torch ask for another build of it, several GB of it, in place of the one that is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

install() {
  python -m pip install --quiet --constraint references.txt "$@"
}

install pycocotools
if [[ ${1:-} == --cpu ]]; then
  python -m pip install --quiet "$(grep ^torch== references.txt)+cpu" 2>/dev/null || {
    echo "no build of torch for the CPU and $(python --version): nothing is compared with it"
    exit 0
  }
else
  install torch
fi
install --no-deps torchvision torchmetrics lightning-utilities lpips pytorch-fid ultralytics
