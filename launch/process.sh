#!/usr/bin/env bash
# One process of a run: python -m ddae_jax.main with these words, the preflight first.
# The launchers call it. SIGTERM and SIGUSR1 save; then the status is 143, by which a
# cluster knows that the same command has more to do.
set -uo pipefail

child=
stopped=
forward() {
  stopped=1
  [[ -n $child ]] && kill -TERM "$child" 2>/dev/null
}
trap forward TERM USR1

"${PYTHON:-python3}" -m ddae_jax.main --preflight "$@" &
child=$!
[[ -n $stopped ]] && forward # it came while the child was being started
wait "$child"
while kill -0 "$child" 2>/dev/null; do # a trap ends a wait early
  wait "$child"
done
wait "$child"
status=$?
if [[ -n $stopped && $status -eq 0 ]]; then
  status=143
fi
exit "$status"
