#!/usr/bin/env bash
# Installs the compilers of GPUs and TPUs, which run without a device, into the active environment.
#
#   bash launch/targets.sh
#
# 1.1 GB. They are those of the jax that is there. No NVIDIA library comes along: jax finds no GPU
# by them and runs on the CPU as before. See benchmarks/targets.py.
set -euo pipefail

version=$(python -c 'import jaxlib; print(jaxlib.__version__)')
python -m pip install --quiet --no-deps "jax-cuda12-pjrt==$version" "jax-cuda12-plugin==$version"
python -m pip install --quiet "$(python - <<'PY'
from importlib import metadata

wanted = (r for r in metadata.requires("jax") if r.startswith("libtpu") and "tpu" in r)
print(next(wanted).partition(";")[0].strip())
PY
)"
