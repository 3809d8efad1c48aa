#!/usr/bin/env bash
# Makes the environment, then lints, checks types and runs the tests.
#
#   bash launch/test.sh [--fast] [--newest] [arguments of pytest]
#
# --fast leaves out the tests marked slow, and has XLA optimise nothing that it compiles. Without
# arguments all tests run so, but for those marked `optimised`, which follow with programs compiled
# as users have them. --newest runs the tests alone, with the newest Python that is there, in an environment of its own; where there
# is none above that of the usual environment it says so and ends. The tests run in as many processes
# as there are cores, four at most; `-n 0` runs them in one. Tests of one xdist_group share what they
# compile, in one process.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

arguments=()
newest=
whole=$([[ $# -eq 0 ]] && echo yes || true)
for argument in "$@"; do
  case $argument in
    --fast)
      arguments+=(-m "not slow")
      export HIRESMED_QUICK=yes
      ;;
    --newest) newest=yes ;;
    *) arguments+=("$argument") ;;
  esac
done

if [[ $newest ]]; then
  usual=${HIRESMED_VENV:-$repo/.venv}
  [[ -x $usual/bin/python ]] || fail "--newest comes after a run without it, which makes $usual"
  read -r version python < <(newest_python) || version=0
  above=$("$usual/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if [[ $(printf '%s\n' "$above" "$version" | sort -V | tail -n 1) == "$above" ]]; then
    echo "no Python above $above is here: the tests ran with that one alone"
    exit 0
  fi
  export HIRESMED_PYTHON=$python HIRESMED_VENV=$usual-$version
fi
environment test ${newest:+--cpu}
cd "$repo"
if [[ $newest ]]; then
  # Reference packages that this Python has no build of: tests that need them may be skipped.
  HIRESMED_ABSENT=$(python -c 'import importlib.util as u; from tests.conftest import REFERENCES
print(*sorted(name for name in REFERENCES if not u.find_spec(name)))')
  export HIRESMED_ABSENT
else
  ruff check .
  ruff format --check .
  mypy & # on one core, while the tests begin
  types=$!
  trap 'wait "$types" 2>/dev/null || true' EXIT # where tests fail, types are told as well
fi
run() {
  python -m pytest -n logical --maxprocesses 4 --dist loadgroup "$@"
}
if [[ $whole ]]; then
  HIRESMED_QUICK=yes run -m "not optimised"
  # The others need not be collected again. Not quoted: several names without spaces.
  run -m optimised $(grep -rl --include='test_*.py' 'mark\.optimised' tests)
else
  run "${arguments[@]}"
fi
[[ $newest ]] || wait "$types"
