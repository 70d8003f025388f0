#!/usr/bin/env bash
# From a fresh clone to a trained recommender on the built-in synthetic data.
#
#   bash launch/quickstart.sh [--workdir=DIR] [--config.FIELD=VALUE ..]
#
# Installs into the active environment, or into .venv here. Running it again
# goes on from, or shows, what is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

use_environment
exec "$python" launch/run.py --config=configs/synthetic.py \
  --workdir=runs/quickstart "$@"
