#!/usr/bin/env bash
# Makes the environment, then lints, checks types and runs the tests.
#
#   bash launch/test.sh [--fast] [arguments of pytest]
#
# --fast leaves out the tests marked slow. The tests run in as many processes as there are cores, four
# at most; `-n 0` runs them in one. Tests of one xdist_group share what they compile, in one process.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

arguments=()
for argument in "$@"; do
  if [[ $argument == --fast ]]; then arguments+=(-m "not slow"); else arguments+=("$argument"); fi
done

environment test
cd "$repo"
ruff check .
ruff format --check .
mypy
python -m pytest -n logical --maxprocesses 4 --dist loadgroup "${arguments[@]}"
