#!/usr/bin/env bash
# A Cloud TPU by a queued resource: asked for, set up, run on all workers, asked for again
# where it is preempted, and given back at the end.
#   bash launch/tpu_vm.sh [--dry-run] [--spot] [--keep] NAME ZONE TYPE WORDS
# TYPE is an accelerator type, such as v6e-64. --keep does not give the TPU back: it costs
# money until it is deleted. In the environment: PROJECT, RUNTIME (the VM's image), TRIES.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

spot='' keep=''
while [[ ${1:-} == --dry-run || ${1:-} == --spot || ${1:-} == --keep ]]; do
  case $1 in
    --dry-run) DRY=1 ;;
    --spot) spot=1 ;;
    --keep) keep=1 ;;
  esac
  shift
done
(($# >= 4)) ||
  refuse "bash launch/tpu_vm.sh [--dry-run] [--spot] [--keep] NAME ZONE TYPE WORDS"
name=$1 zone=$2 type=$3
shift 3
[[ " $*" == *" --workdir="* ]] ||
  refuse "give --workdir on storage that all workers see, and that outlives them"

chips=${type##*-}
case $type in
  v5litepod-* | v6e-*) devices=$chips runtime=v2-alpha-tpuv6e ;;
  v5p-*) devices=$((chips / 2)) runtime=v2-alpha-tpuv5 ;;
  v4-*) devices=$((chips / 2)) runtime=tpu-ubuntu2204-base ;;
  v2-* | v3-*) devices=$chips runtime=tpu-ubuntu2204-base ;;
  *) refuse "$type: unknown; known are v2-N, v3-N, v4-N, v5litepod-N, v5p-N, v6e-N" ;;
esac
[[ $type == v5litepod-* ]] && runtime=v2-alpha-tpuv5-lite
where=(--zone="$zone" ${PROJECT:+--project="$PROJECT"})
resources=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm)

state() { # of the queued resource; empty where there is none
  "${resources[@]}" describe "$name" "${where[@]}" --format='value(state.state)' \
    2>/dev/null || true
}

give_back() {
  if [[ -n $keep ]]; then
    echo "# $name is kept, and costs money until it is deleted"
    return
  fi
  act "${resources[@]}" delete "$name" "${where[@]}" --force --quiet
}

ask_for() { # until it is there
  local now=''
  while [[ $now != ACTIVE ]]; do
    [[ -n $DRY ]] || now=$(state)
    case $now in
      ACTIVE) ;;
      '')
        act "${resources[@]}" create "$name" --node-id="$name" "${where[@]}" \
          --accelerator-type="$type" --runtime-version="${RUNTIME:-$runtime}" \
          ${spot:+--spot}
        ;;
      FAILED | SUSPENDED)
        act "${resources[@]}" delete "$name" "${where[@]}" --force --quiet
        ;;
      *) sleep "${POLL:-30}" ;; # queued, provisioning, on its way out
    esac
    [[ -z $DRY ]] || break
  done
}

on_workers() { # COMMAND
  act "${vm[@]}" ssh "$name" "${where[@]}" --worker=all --quiet --command="$1"
}

set_up() { # the same twice does nothing the second time
  # shellcheck disable=SC2016 # the workers expand it
  local install='set -e; mkdir -p ddae_jax; tar -xzf ddae_jax.tar.gz -C ddae_jax
cd ddae_jax; sum=$(cat setup.py requirements.lock | sha256sum)
test "$(cat .venv/.installed 2>/dev/null)" = "$sum" && exit
new() { "$1" -c "import sys; sys.exit(sys.version_info < (3, 11))"; }
new python3 || { sudo apt-get update -q; sudo apt-get install -qy python3.11-venv; }
python=$(command -v python3.11 || command -v python3)
"$python" -m venv .venv; .venv/bin/pip install -q -e ".[tpu]"; echo "$sum" >.venv/.installed'
  act git archive --format=tar.gz --output=/tmp/ddae_jax.tar.gz HEAD &&
    act "${vm[@]}" scp /tmp/ddae_jax.tar.gz "$name:" "${where[@]}" --worker=all --quiet &&
    on_workers "$install"
}

count_workers() {
  if [[ -n $DRY ]]; then
    echo 1
  else
    "${vm[@]}" describe "$name" "${where[@]}" --format='value(networkEndpoints.len())'
  fi
}

collect() { # the log of each of so many workers
  local worker
  act mkdir -p "logs/$name"
  for ((worker = 0; worker < $1; worker++)); do
    act "${vm[@]}" scp "$name:ddae_jax/run.log" "logs/$name/worker-$worker.log" \
      "${where[@]}" --worker="$worker" --quiet || true
  done
}

[[ -n $DRY ]] || command -v gcloud >/dev/null || refuse "gcloud is not installed"
trap give_back EXIT # after Ctrl-C too
for ((try = 1; ; try++)); do
  ask_for
  for ((again = 1; ; again++)); do # a new machine does not answer at once
    set_up && break
    ((again < 5)) || refuse "$name cannot be set up"
    sleep "${POLL:-30}"
  done
  count=$(count_workers)
  line=$(quoted bash launch/process.sh --coordinator=auto \
    "--config.preflight.processes=$count" "--config.preflight.hosts=$count" \
    "--config.preflight.devices=$devices" "$@")
  line="cd ddae_jax && set -o pipefail && PYTHON=.venv/bin/python $line 2>&1 | tee -a run.log"
  status=0
  on_workers "$line" || status=$?
  collect "$count"
  ((status)) || exit 0
  sleep "${POLL:-30}" # until it is known that it was preempted
  now=$(state)
  if [[ $now == ACTIVE ]] || ((try >= ${TRIES:-100})); then
    echo "error: the run has ended with status $status on $name ($now)" >&2
    exit "$status"
  fi
  echo "# $name is ${now:-gone}: preempted; asked for again, and the same command goes on"
done
