#!/usr/bin/env bash
# Runs a training command until it is done, through crashes and preemptions.
#
#   bash launch/supervise.sh [--restarts=N] [--longest=SECONDS] COMMAND...
#
# such as
#
#   bash launch/supervise.sh python launch/train.py \
#     --config=configs/beauty.py --config.data.path=PATH --workdir=DIR
#
# COMMAND is started again
#   at once         after status 75: it was asked to stop, and has saved;
#   after a pause   after a crash: 1, 2, 4, .. at most --longest (300) seconds,
#                   from 1 again once a newer checkpoint is there.
# Ends with COMMAND's status
#   when it is done (0);
#   at status 2, an error that a person has to mend;
#   when it was started again --restarts (5) times without a newer checkpoint in
#     its --workdir: the same step fails again and again;
#   when this script is sent SIGTERM or SIGINT: COMMAND gets SIGTERM, and is
#     waited for, since it saves first.
# Of a run in several processes each has a supervisor of its own.
set -uo pipefail

readonly done=0 refused=2 preempted=75 terminated=143
restarts=5 longest=300

say() {
  echo "supervise: $*" >&2
}

show_help() {
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

while (($#)); do
  case $1 in
    --help | -h) show_help && exit ;;
    --restarts=*) restarts=${1#*=} ;;
    --longest=*) longest=${1#*=} ;;
    --*) say "unknown option $1; see --help" && exit $refused ;;
    *) break ;;
  esac
  shift
done
if [[ ! $restarts$longest =~ ^[0-9]+$ ]]; then
  say "--restarts and --longest take whole numbers; see --help"
  exit $refused
fi
if ((!$#)); then
  say "no command; see --help"
  exit $refused
fi

workdir=
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --workdir=* | -workdir=*) workdir=${!i#*=} ;;
    --workdir | -workdir) j=$((i + 1)) && workdir=${!j:-} ;;
  esac
done
if [[ -z $workdir ]]; then
  say "the command has no --workdir=DIR, whose checkpoints show its progress"
  exit $refused
fi

# The newest checkpoint of every system: grows, or changes, with progress.
newest() {
  local folder
  for folder in "$workdir"{,/systems/*,/aligned}/checkpoints; do
    [[ -d $folder ]] || continue
    echo "$folder $(ls "$folder" | grep -E '^[0-9]+$' | sort -n | tail -n 1)"
  done
}

child= stopped=
stop() {
  stopped=yes
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT

# Waits for the child. A signal ends bash's own `wait`, not the child, whose
# status bash remembers when it has ended.
await() {
  while kill -0 "$child" 2>/dev/null; do
    wait "$child"
  done
  wait "$child"
  status=$?
}

tries=0 pause=1
while :; do
  before=$(newest)
  "$@" &
  child=$!
  [[ -z $stopped ]] || stop
  await
  child=
  case $status in
    "$done") exit 0 ;;
    "$refused") say "status $status: not started again" && exit $status ;;
  esac
  # A child that had not yet learnt to save before SIGTERM ended it has lost
  # nothing either.
  [[ -z $stopped ]] || exit $((status == terminated ? preempted : status))
  now=$(newest)
  if [[ $now != "$before" ]]; then
    tries=0 pause=1
  elif ((++tries > restarts)); then
    say "GIVING UP: status $status, and no newer checkpoint after $restarts" \
      "restarts: ${now:-there is none in $workdir}"
    exit $status
  fi
  if ((status == preempted)); then
    say "status $status, preempted: starting again"
    continue
  fi
  pause=$((pause < longest ? pause : longest))
  say "status $status: starting again in $pause s"
  sleep $pause &
  child=$!
  [[ -z $stopped ]] || stop
  await
  child=
  [[ -z $stopped ]] || exit $preempted
  pause=$((pause * 2))
done
