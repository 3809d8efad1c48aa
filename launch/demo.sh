#!/usr/bin/env bash
# Makes the environment, trains the demo on phantoms and puts new lesions into them: minutes on a
# CPU, ending in a contact sheet. Routes are trained two at a time: while one compiles, which takes
# one core, the other trains.
#
#   bash launch/demo.sh [--config.key=value ...]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

environment
# On a GPU each process would else take most of its memory.
export XLA_PYTHON_CLIENT_PREALLOCATE=${XLA_PYTHON_CLIENT_PREALLOCATE:-false}
workdir=$PWD/runs/demo
# The first one alone: it draws the phantoms.
python -m hiresmed_jax.train --config demo.py:danger --workdir "$workdir" "$@"
printf 'demo.py:%s\n' lesion background location | xargs -P 2 -I CONFIG \
  python -m hiresmed_jax.train --config CONFIG --workdir "$workdir" "$@" ||
  fail "not all routes are trained, see above: the same command goes on"

out=$workdir/out
python -m hiresmed_jax.synthesize --config demo.py --workdir "$workdir" --background real \
  --num 8 --lesions 1-2 --on-empty copy --out "$out" "$@"

picture=$out/contact_sheet.png
[[ -f $picture ]] || fail "the demo made no picture: $picture"
echo "the contact sheet: $picture"
