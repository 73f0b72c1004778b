#!/usr/bin/env bash
# N processes on this machine, which share its GPUs evenly.
#   bash launch/local.sh [--dry-run] N WORDS-OF-ddae_jax.main
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

[[ ${1:-} == --dry-run ]] && DRY=1 && shift
[[ ${1:-} =~ ^[1-9][0-9]*$ && $# -ge 2 ]] ||
  refuse "bash launch/local.sh [--dry-run] N WORDS, such as: 4 --config=digits"
count=$1
shift

# Whoever ends first ends the others after this many seconds.
grace=${GRACE:-60}
port=${PORT:-$("$PYTHON" -c \
  'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}
gpus=$("$PYTHON" -c \
  'from ddae_jax.runtime import hardware; print(len(hardware.gpus()))')
((gpus % count == 0)) ||
  refuse "$gpus GPUs cannot be shared evenly by $count processes: CUDA_VISIBLE_DEVICES"
each=$((gpus / count))

pids=()
for ((index = 0; index < count; index++)); do
  own=()
  if ((each)); then
    own=("--local_devices=$(seq -s , $((index * each)) $(((index + 1) * each - 1)))")
  fi
  command=(
    bash "$here/process.sh" "--coordinator=localhost:$port"
    "--process_count=$count" "--process_index=$index" ${own[@]+"${own[@]}"}
    "--config.preflight.processes=$count" --config.preflight.hosts=1 "$@"
  )
  if [[ -n $DRY ]]; then
    quoted "${command[@]}"
    continue
  fi
  # It leads a group, which can be ended as a whole.
  setsid "${command[@]}" > >(sed -u "s/^/[$index] /" >&2) 2>&1 &
  pids+=($!)
done
[[ -z $DRY ]] || exit 0

# shellcheck disable=SC2329 # the trap calls it
stop() { # each saves
  for pid in ${pids[@]+"${pids[@]}"}; do
    kill -TERM "$pid" 2>/dev/null || true
  done
}
trap stop TERM USR1 INT

status=0
deadline=
while ((${#pids[@]})); do
  sleep 0.3 || true
  left=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      left+=("$pid")
      continue
    fi
    one=0
    wait "$pid" || one=$?
    # 143: stopped by a signal, saved. Any other failure counts more, and the first most.
    ((one == 0 || (status != 0 && status != 143))) || status=$one
    ((one == 0 || one == 143)) || deadline=${deadline:-$((SECONDS + grace))}
  done
  pids=(${left[@]+"${left[@]}"})
  if [[ -n $deadline ]] && ((SECONDS >= deadline && ${#pids[@]})); then
    echo "error: a process has failed with status $status: the others are ended" >&2
    for pid in "${pids[@]}"; do
      kill -KILL -- "-$pid" 2>/dev/null || true
    done
    exit "$status"
  fi
done
exit "$status"
