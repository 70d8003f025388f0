#!/usr/bin/env bash
# Installs the package with its test tools and runs the tests.
#
#   bash launch/test.sh [pytest's arguments]
#
# Installs into the active environment, or into .venv here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

use_environment test
# A file's tests share what they compile: they stay in one process. In the order
# of tests/conftest.py, and not by their number.
exec "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
