# Sourced by the scripts beside it: `environment [EXTRA]` makes the project's Python environment, or
# takes the one that is there and up to date, and activates it. $repo is the checkout's folder. More
# arguments are those of references.sh, which the extra `test` runs.
#
#   HIRESMED_VENV     where the environment lies (default: .venv in the checkout)
#   HIRESMED_PYTHON   the Python to make it with (default: python3 if it is 3.11 to 3.13, else the
#                     first of 3.12, 3.11, 3.13, python3; for tests 3.11 first, the version that
#                     every reference package is built for)

# `newest_python` prints "3.N PATH" of the newest released Python that is there.

# Large arrays on large pages (glibc 2.35 and newer; others do not know the word): a step on the CPU
# asks the system for its memory anew, page by page. A step of YOLO11n became 1.2 times as fast
# (benchmarks/results/detector_cpu.json and detector_large_pages_cpu.json).
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  echo "error: $*" >&2
  exit 2
}

environment() {
  local extra=${1:-} venv=${HIRESMED_VENV:-$repo/.venv}
  # Asked for pip: one whose making was stopped has Python alone.
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    local python
    python=$(find_python "$extra")
    echo "making $venv with $("$python" --version)"
    "$python" -m venv "$venv" ||
      fail "$python has no venv module (on Debian and Ubuntu: apt install python3-venv)"
  fi
  if [[ ${HIRESMED_PYTHON:-} ]]; then
    local has asked which='import sys; print("%d.%d" % sys.version_info[:2])'
    has=$("$venv/bin/python" -c "$which") asked=$("$HIRESMED_PYTHON" -c "$which" || true)
    [[ $has == "$asked" ]] ||
      fail "$venv has Python $has, and HIRESMED_PYTHON is $asked: remove it, or set HIRESMED_VENV"
  fi
  # shellcheck disable=SC1091
  source "$venv/bin/activate"

  # The folder is part of it: the install is editable, and one environment may serve two checkouts.
  local wanted stamp=$venv/.hiresmed${extra:+-$extra}
  wanted="$repo $(cat "$repo/pyproject.toml" "$repo"/launch/references.* | cksum)"
  [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return
  echo "installing the project and what it needs (some minutes the first time)"
  python -m pip install --quiet --editable "$repo${extra:+[$extra]}"
  [[ $extra != test ]] || bash "$repo/launch/references.sh" "${@:2}"
  echo "$wanted" >"$stamp"
}

newest_python() {
  local python version_managers=(
    "${PYENV_ROOT:-$HOME/.pyenv}/versions"
    "${ASDF_DATA_DIR:-$HOME/.asdf}/installs/python"
    "${MISE_DATA_DIR:-$HOME/.local/share/mise}/installs/python"
    "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"
  )
  {
    compgen -c python3. | grep -xE 'python3\.[0-9]+' || true
    find "${version_managers[@]}" -maxdepth 3 -path '*/bin/python3' 2>/dev/null || true
  } | while read -r python; do
    # Asked, for not each that is found runs; alphas and betas are nobody's.
    "$python" - 2>/dev/null <<'END' || true
import sys
if sys.version_info.releaselevel == "final":
  print("%d.%d" % sys.version_info[:2], sys.executable)
END
  done | sort -V | tail -n 1
}

find_python() {
  local python known="python3.12 python3.11 python3.13 python3"
  # The user's own, if it is none of those that not every package is built for yet.
  if [[ -z ${1:-}${HIRESMED_PYTHON:-} ]] &&
    python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
  then
    command -v python3
    return
  fi
  [[ ${1:-} != test ]] || known="python3.11 python3.12 python3.13 python3"
  for python in ${HIRESMED_PYTHON:-$known}; do
    # Asked and not only looked up: a version manager leaves names on the path that do not run.
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$python"
      return
    fi
  done
  fail "no Python 3.11 or newer found: install one, or name it in HIRESMED_PYTHON"
}
