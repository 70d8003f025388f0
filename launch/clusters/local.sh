#!/usr/bin/env bash
# One run in several processes on this machine, as a cluster would start it.
#
#   bash launch/clusters/local.sh [--processes=2] [--devices=N] COMMAND...
#
# such as
#
#   bash launch/clusters/local.sh --devices=4 python launch/train.py \
#     --config=configs/pod/tiny.py --workdir=DIR
#
# Each process gets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and its own
# JAX_PROCESS_ID. With --devices each simulates so many devices on the CPU, to
# try a mesh before renting one; without it they have what JAX finds, so let
# each have GPUs of its own (JAX_LOCAL_DEVICE_IDS).
# SIGTERM and Ctrl-C are passed on to all, who save and end with status 75. Ends
# with the worst status of any: 2 (an error to mend) before crashes, these
# before 75. The output of process 0 is shown, that of the others is kept in
# process-N.log of a temporary folder, whose name is shown if they fail.
set -uo pipefail

readonly refused=2
processes=2 devices=

say() {
  echo "local: $*" >&2
}

show_help() {
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

while (($#)); do
  case $1 in
    --help | -h) show_help && exit ;;
    --processes=*) processes=${1#*=} ;;
    --devices=*) devices=${1#*=} ;;
    --*) say "unknown option $1; see --help" && exit $refused ;;
    *) break ;;
  esac
  shift
done
if [[ ! $processes =~ ^[1-9][0-9]*$ || ! $devices =~ ^([1-9][0-9]*)?$ ]]; then
  say "--processes and --devices take whole numbers; see --help"
  exit $refused
fi
if ((!$#)); then
  say "no command; see --help"
  exit $refused
fi

if [[ -n $devices ]]; then
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
fi
# Above the ports that systems hand out by themselves, mostly.
export JAX_COORDINATOR_ADDRESS=localhost:$((61000 + RANDOM % 4000))
export JAX_NUM_PROCESSES=$processes

logs=$(mktemp -d) || exit 1
children=() stopped=
pass_on() {
  stopped=yes
  kill -TERM "${children[@]}" 2>/dev/null
}
trap pass_on TERM INT

for ((i = 0; i < processes; i++)); do
  if ((i)); then
    JAX_PROCESS_ID=$i "$@" >"$logs/process-$i.log" 2>&1 </dev/null &
  else
    JAX_PROCESS_ID=$i "$@" </dev/null &
  fi
  children+=($!)
done
[[ -z $stopped ]] || pass_on

# How much a status asks for.
weight() {
  case $1 in
    0) echo 0 ;;
    75) echo 1 ;;
    "$refused") echo 3 ;;
    *) echo 2 ;;
  esac
}

worst=0
for i in "${!children[@]}"; do
  # A signal ends bash's own `wait`, not the child.
  while kill -0 "${children[i]}" 2>/dev/null; do
    wait "${children[i]}"
  done
  wait "${children[i]}"
  status=$?
  (($(weight "$status") <= 1)) ||
    say "process $i ended with status $status; see $logs"
  (($(weight "$status") > $(weight "$worst"))) && worst=$status
done
(($(weight "$worst") <= 1)) && rm -rf "$logs"
exit "$worst"
