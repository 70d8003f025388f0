# Sourced by the other scripts, from the root of the repository.
#
# use_environment [EXTRA] sets $python to an interpreter that has holorec_jax
# (with the extra) installed: that of the active environment, or of .venv here.

# The first Python of at least 3.11; the one the constraints pin goes first.
find_python() {
  local name
  for name in python3.11 python3.12 python3.13 python3.14 python3 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "holorec_jax needs Python 3.11 or newer, and there is none here:" \
    "install one, or activate an environment that has it" >&2
  return 1
}

make_venv() {
  local base
  base=$(find_python) || return 1
  echo "making .venv with $("$base" --version)"
  # Debian ships Python without the module that puts pip into an environment;
  # a pip of the system can do that, too.
  if ! "$base" -m venv --clear .venv >/dev/null 2>&1 &&
    ! { "$base" -m venv --clear --without-pip .venv &&
      "$base" -m pip --python .venv/bin/python install -q pip; }; then
    rm -rf .venv
    echo "$base cannot make a virtual environment: install its venv module" \
      "(on Debian: apt install python3-venv), or activate one" >&2
    return 1
  fi
}

# Reads pip's many words and shows one line that grows.
show_progress() {
  local count=0 line
  while IFS= read -r line; do
    [[ -t 1 ]] || continue
    case $line in
      Collecting* | Processing*) printf '\r  found %d packages' $((++count)) ;;
      Installing\ collected*) printf '\r  installing %d packages\n' "$count" ;;
    esac
  done
}

install() {
  local log=$1 pip=("$python" -m pip --no-input --disable-pip-version-check)
  shift
  if ! (
    set -o pipefail
    # Python compiles what it imports; compiling all doubles the time.
    "${pip[@]}" install --no-compile "$@" </dev/null 2>&1 |
      tee "$log" | show_progress
  ); then
    echo "pip could not install the package; its last words, of $log:" >&2
    tail -n 20 "$log" >&2
    return 1
  fi
}

use_environment() {
  local extra=${1:-} prefix version pins=() stamp made
  if [[ -n ${VIRTUAL_ENV:-${CONDA_PREFIX:-}} ]]; then
    python=${VIRTUAL_ENV:-$CONDA_PREFIX}/bin/python
  else
    python=$PWD/.venv/bin/python
    "$python" -m pip --version >/dev/null 2>&1 || make_venv || return 1
  fi
  prefix=$("$python" -c 'import sys; print(sys.prefix)') || return 1
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  # An installation stands until what it was made from changes.
  stamp=$({ echo "$PWD $version"; cat setup.py launch/constraints.txt; } | cksum)
  made=$prefix/holorec_jax${extra:+-$extra}.stamp
  if [[ $(cat "$made" 2>/dev/null) == "$stamp" ]]; then
    return
  fi
  if [[ $version == 3.11 ]]; then
    pins=(-c launch/constraints.txt)
  else
    echo "Python $version: launch/constraints.txt pins for 3.11, so setup.py's" \
      "lower bounds hold and the newest versions are taken"
  fi
  echo "installing holorec_jax${extra:+[$extra]} in $prefix (a minute or two)"
  install "$prefix/holorec_jax-install.log" "${pins[@]}" \
    -e ".${extra:+[$extra]}" || return 1
  echo "$stamp" >"$made"
}
