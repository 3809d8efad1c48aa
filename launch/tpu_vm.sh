#!/usr/bin/env bash
# Not run by us: there was no TPU to try it on. One run over all workers of a Cloud TPU slice.
#
#   ZONE=us-central2-b bash launch/tpu_vm.sh TPU COMMAND [ARGUMENT ...]
#   ZONE=us-central2-b bash launch/tpu_vm.sh my-v4-32 \
#     python -m hiresmed_jax.train --config kub.py:background,best --data DATA --workdir RUNS \
#     --config.background.batch_size=32
#
# Each worker has the checkout in ~/hiresmed_jax with the extra "tpu" installed in its .venv; DATA
# and RUNS lie on a disk that all workers share. The workers find each other by themselves. When one
# fails, the others end within half a minute; the same command goes on from the last checkpoint.
set -euo pipefail

if (($# < 2)) || [[ -z ${ZONE:-} ]]; then
  echo "error: ZONE=zone bash launch/tpu_vm.sh TPU COMMAND [ARGUMENT ...]" >&2
  exit 2
fi
tpu=$1
shift

exec gcloud compute tpus tpu-vm ssh "$tpu" --zone="$ZONE" --worker=all \
  --command="cd hiresmed_jax && source .venv/bin/activate && HIRESMED_DISTRIBUTED=1 $(printf '%q ' "$@")"
