# shellcheck shell=bash
# What the launchers share. DRY=1: `act` prints what it would do.

DRY=${DRY:-}
PYTHON=${PYTHON:-python3}

refuse() {
  echo "error: $*" >&2
  exit 2
}

# The words, as a shell reads them.
quoted() {
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}

act() {
  if [[ -n $DRY ]]; then
    quoted "$@"
  else
    "$@"
  fi
}
