#!/usr/bin/env bash
# One run on all workers of a Cloud TPU VM, from your own machine.
#
#   bash launch/clusters/tpu_vm.sh --name=TPU --zone=ZONE --source=GIT_URL \
#     COMMAND...
#
# such as
#
#   bash launch/clusters/tpu_vm.sh --name=pod --zone=us-east5-a \
#     --source=GIT_URL python launch/train.py --config=configs/pod/holorec_1b.py \
#     --config.data.path=/mnt/shared/data --workdir=/mnt/shared/runs/holorec
#
# The TPU has been created (gcloud compute tpus tpu-vm create, or a queued
# resource) and all of its workers have mounted one file system, here
# /mnt/shared, with prepared data and codes (launch/prepare_data.py and
# launch/fit_sids.py, on one worker). Every worker gets a clone of --source,
# installs it with jax[tpu] (Python 3.11 with its venv module has to be there, on
# Ubuntu apt install python3.11-venv), and runs the command under
# launch/supervise.sh with --coordinator=auto, by which JAX finds the others.
# Start it again after the TPU was taken away and created anew: the run goes on
# from its last checkpoint. Output of each worker: ~/holorec.log there. With
# --dry_run the commands are printed and not run.
set -euo pipefail

readonly refused=2
name='' zone='' source='' dry_run=''

say() {
  echo "tpu_vm: $*" >&2
}

show_help() {
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

while (($#)); do
  case $1 in
    --help | -h) show_help && exit ;;
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --source=*) source=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    --*) say "unknown option $1; see --help" && exit $refused ;;
    *) break ;;
  esac
  shift
done
if [[ -z $name || -z $zone || -z $source || $# == 0 ]]; then
  say "--name, --zone, --source and a command are needed; see --help"
  exit $refused
fi

# Both run on every worker. The first leaves what is there up to date.
printf -v source '%q' "$source"
printf -v command '%q ' "$@"
install="set -e
[ -d holorec_jax ] || git clone -q $source holorec_jax
cd holorec_jax
git pull -q
[ -x .venv/bin/pip ] || python3.11 -m venv --clear .venv
.venv/bin/pip install -q -e '.[tpu]'"
train="set -e
cd holorec_jax
. .venv/bin/activate
nohup bash launch/supervise.sh $command--coordinator=auto \\
  >>~/holorec.log 2>&1 </dev/null &"

for step in "$install" "$train"; do
  ssh=(gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" --worker=all
    "--command=$step")
  if [[ -n $dry_run ]]; then
    printf '%q ' "${ssh[@]}"
    echo
  else
    "${ssh[@]}"
  fi
done
