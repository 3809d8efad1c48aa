#!/usr/bin/env bash
# Makes the environment and trains the demo on the phantom: minutes on a CPU, ending in a picture.
#
#   bash launch/demo.sh [--config.key=value ...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

environment
workdir=$PWD/runs/demo
python -m hiresmed_jax.train --config demo.py --workdir "$workdir" "$@"

picture=$workdir/background/figures/held_out.png
[[ -f $picture ]] || fail "the demo made no picture: $picture"
echo "the picture: $picture"
