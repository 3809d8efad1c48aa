#!/usr/bin/env bash
# use.sh CHECKOUT FIXTURE OUT: what a checkout makes of the run, in the new folder OUT: plain/ and networks/ by
# `synthesize`, report/ by `evaluate`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(cd "$1" && pwd) fixture=$(cd "$2" && pwd) out=$(realpath -m "$3")
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 JAX_PLATFORMS=cpu
source "$here/config.sh"
cd "$checkout"
mkdir "$out"
on=(--workdir "$fixture/run" --data "$fixture/dataset")
# The atlas alone, no mask of the U-Net: what the run itself has found best.
python -m hiresmed_jax.synthesize "${seen[@]}" "${on[@]}" --num 2 --lesions 2 --out "$out/plain"
# The detector and the U-Net too, and another seed.
python -m hiresmed_jax.synthesize "${seen[@]}" "${on[@]}" --num 2 --lesions 1 --shams 1 --seed 1 \
  "$c.synthesize.prior=atlas x yolo" $c.synthesize.danger=on --out "$out/networks"
python -m hiresmed_jax.evaluate --workdir "ours=$fixture/run" --data "$fixture/dataset" --lpips none \
  --out "$out/report"
