#!/usr/bin/env bash
# make.sh CHECKOUT OUT: makes dataset/, run/, expected/ and expected.json in the new folder OUT with the
# commands of a checkout of commit c96ee6b, in the environment that is active.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(cd "$1" && pwd) out=$(realpath -m "$2")
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 JAX_PLATFORMS=cpu
mkdir "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Commands run where the package of the checkout is the first one found. The file of the detector's
# weights lies there too, so that the config names no path of a machine.
ln -s "$checkout/hiresmed_jax" "$checkout/configs" "$work"
cd "$work"
PYTHONPATH=$work python "$here/constant_yolo.py" yolo.npz

python -m hiresmed_jax.prepare --kind phantom --phantom kub --num 12 --size 64 --seed 0 \
  --out "$out/dataset"

source "$here/config.sh"
python -m hiresmed_jax.train "${seen[@]}" "${trained[@]}" --data "$out/dataset" --workdir "$out/run"
bash "$here/use.sh" "$checkout" "$out" "$work/used"
python "$here/keep.py" "$out" "$work/used"
