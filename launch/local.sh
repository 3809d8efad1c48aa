#!/usr/bin/env bash
# One run of N processes on this machine: the same command N times, told of each other.
#
#   bash launch/local.sh N COMMAND [ARGUMENT ...]
#   bash launch/local.sh 2 python -m hiresmed_jax.train --config demo.py
#
# Process 0 speaks here; what the others say is kept, and shown of the one that failed first. When
# one ends badly the rest end within seconds, and so does this script, with that one's status: give
# the same command again, and the run goes on from its last checkpoint. A signal goes to all.
# With as many GPUs as processes or more, each process gets its share of them (not run by us).
set -uo pipefail
exec 3>&2 2>/dev/null # bash itself has a word to say of each process that is killed

readonly GRACE=5 # seconds until those that are left are killed

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ || $# -lt 2 ]]; then
  echo "error: bash launch/local.sh N COMMAND [ARGUMENT ...], such as: bash launch/local.sh 2 python -m hiresmed_jax.train --config demo.py" >&3
  exit 2
fi
count=$1
shift

port=0
while ((port == 0)) || (: >"/dev/tcp/127.0.0.1/$port"); do
  port=$((10000 + RANDOM % 22000)) # below those that systems give away by themselves
done
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count
gpus=$(nvidia-smi --list-gpus | grep -c '^GPU') || true
said=$(mktemp -d)
pids=()
asked=

end_all() {
  local pid
  # The whole group of each: those that read its images too.
  for pid in ${pids[@]+"${pids[@]}"}; do kill -KILL -- "-$pid"; done
  rm -rf "$said"
}
forward() {
  local pid
  asked=$1
  for pid in "${pids[@]}"; do kill "-$1" "$pid"; done
}
trap end_all EXIT
trap 'forward INT' INT
trap 'forward TERM' TERM
trap 'forward TERM' HUP

set -m # a process group each: Ctrl-C comes here alone, and is passed on once
for ((index = 0; index < count; index++)); do
  place=(JAX_PROCESS_ID="$index")
  if ((gpus >= count)); then
    first=$((index * gpus / count)) last=$(((index + 1) * gpus / count - 1))
    place+=(JAX_LOCAL_DEVICE_IDS="$(seq -s, "$first" "$last")")
  fi
  if ((index == 0)); then
    env "${place[@]}" "$@" 2>&3 3>&- &
  else
    env "${place[@]}" "$@" >"$said/$index" 2>&1 3>&- &
  fi
  pids+=($!)
done
set +m

# One that ends because another is gone (75, or JAX's own abort, 134) is not the one to name.
second_hand() { (($1 == 75 || $1 == 134)); }
tell() {
  [[ -s $said/$failed ]] && tail -n 30 "$said/$failed" >&3
  local told="process $failed of $count ended with status $status"
  ((status > 128)) && told+=" (signal $((status - 128)): $(kill -l $((status - 128))))"
  ((status == 2)) || told+="; the same command goes on from the last checkpoint"
  echo "local.sh: $told" >&3
}

left=("${!pids[@]}")
status=0 failed= deadline=
while ((${#left[@]})); do
  running=()
  for index in "${left[@]}"; do
    if kill -0 "${pids[index]}"; then
      running+=("$index")
      continue
    fi
    wait "${pids[index]}"
    code=$?
    ((code)) || continue
    if [[ -z $failed ]] || { second_hand "$status" && ! second_hand "$code"; }; then
      failed=$index status=$code
    fi
    [[ -n $asked ]] || : "${deadline:=$((SECONDS + GRACE))}"
  done
  left=(${running[@]+"${running[@]}"})
  [[ -n $deadline ]] && ((SECONDS >= deadline)) && break
  sleep 0.2
done
[[ -z $failed || -n $asked ]] || tell
exit "$status"
