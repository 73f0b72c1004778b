#!/usr/bin/env bash
# On a GKE cluster, through Cluster Toolkit (gcluster 1.103 or newer); TPU or GPU.
#   bash launch/gke.sh [--dry-run] NAME IMAGE TYPE HOSTS WORDS-OF-ddae_jax.main
# TYPE is that of `gcluster job submit --compute-type`: v6e-16, h100-80gb-8, or a machine
# type; HOSTS the machines of one slice. In the environment, where they are needed:
# PROJECT, CLUSTER, LOCATION, TOPOLOGY, MOUNT (a bucket for --workdir, as --mount takes
# it), SLICES, RESTARTS (after failures and preemptions), GRACE (to save in).
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ ${1:-} == --dry-run ]] && DRY=1 && shift
(($# >= 5)) || refuse "bash launch/gke.sh [--dry-run] NAME IMAGE TYPE HOSTS WORDS"
name=$1 image=$2 type=$3 hosts=$4
shift 4
[[ $name =~ ^[a-z][a-z0-9-]{0,27}$ && $name != *- ]] ||
  refuse "$name: a name has up to 28 lower-case letters, digits and -"
[[ $hosts =~ ^[1-9][0-9]*$ ]] || refuse "$hosts: HOSTS is the machines of one slice"
slices=${SLICES:-1}
[[ " $*" == *" --workdir="* ]] ||
  refuse "give --workdir on storage that outlives the pods (MOUNT)"

placed=(--compute-type="$type")
[[ $type =~ ^(v[0-9]|ct[0-9]|tpu) ]] || placed+=(--num-nodes="$hosts")
act gcluster job submit --name="$name" --image="$image" "${placed[@]}" \
  --num-slices="$slices" ${TOPOLOGY:+--topology="$TOPOLOGY"} \
  ${PROJECT:+--project="$PROJECT"} ${CLUSTER:+--cluster="$CLUSTER"} \
  ${LOCATION:+--location="$LOCATION"} ${MOUNT:+--mount="$MOUNT"} \
  --restarts="${RESTARTS:-10}" --grace-period="${GRACE:-5m}" \
  --env=JOBSET_NAME="$name" --env=HOSTS="$hosts" --env=SLICES="$slices" \
  --command="bash launch/in_pod.sh $(quoted "$@")"
echo "# logs: gcluster job logs $name; stop, and stop paying: gcluster job cancel $name"
