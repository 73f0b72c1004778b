#!/usr/bin/env bash
# In a pod of a JobSet: its coordinates come from its Job's index, so that neither
# jax[k8s] nor the right to read pods is needed.
#   HOSTS=4 SLICES=1 JOBSET_NAME=NAME bash launch/in_pod.sh [--dry-run] WORDS
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/common.sh
source "$here/common.sh"

[[ ${1:-} == --dry-run ]] && DRY=1 && shift
name=${JOBSET_NAME:?the JobSet}
hosts=${HOSTS:?pods of one slice}
slices=${SLICES:-1}
pod=${JOB_COMPLETION_INDEX:?the Job must have completionMode: Indexed}
# A pod is called JOBSET-REPLICATEDJOB-JOB-POD.
if [[ -n ${REPLICATED_JOB:-} ]]; then
  job=${JOB_INDEX:?of the replicated Job}
  group=$name-$REPLICATED_JOB
else
  host=${HOSTNAME:-$(hostname)}
  [[ $host =~ ^($name-.+)-([0-9]+)-$pod$ ]] ||
    refuse "the pod's name $host has no Job's index: set REPLICATED_JOB and JOB_INDEX"
  group=${BASH_REMATCH[1]}
  job=${BASH_REMATCH[2]}
fi
count=$((hosts * slices))
command=(
  bash "$here/process.sh" "--coordinator=$group-0-0.$name:${PORT:-8476}"
  "--process_count=$count" "--process_index=$((job * hosts + pod))"
  "--config.preflight.processes=$count" "--config.preflight.hosts=$count" "$@"
)
if [[ -n $DRY ]]; then
  quoted "${command[@]}"
else
  exec "${command[@]}"
fi
