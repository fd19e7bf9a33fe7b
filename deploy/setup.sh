#!/bin/sh
# Sets up twinbeam's own virtual environment: deploy/setup.sh PYTHON VENV daemon|everything
# or an environment for TensorFlow, and what else we are tested against: deploy/setup.sh PYTHON VENV interop
# Installs system packages through apt where root or sudo allows, else says in one line what is missing.
set -eu

python=$1 venv=$2 scope=$3
log() { printf 'setup: %s\n' "$*" >&2; }
fail() { log "$*"; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo -n "$@"
    else return 1
    fi
}

# apt PURPOSE PACKAGE...: install what is missing; what cannot be installed is told and left.
apt() {
    purpose=$1; shift
    missing=""
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -z "$missing" ] && return 0
    log "installing$missing ($purpose)"
    if command -v apt-get >/dev/null 2>&1 &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null 2>&1 &&
        # shellcheck disable=SC2086
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1
    then return 0
    fi
    log "could not install$missing, needed for $purpose: apt-get install$missing"
    return 1
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "needs Python 3.11 or newer as '$python': apt-get install python3, or make PYTHON=python3.11 ..."
"$python" -c 'import venv, ensurepip' 2>/dev/null || apt "virtual environments" python3-venv ||
    fail "'$python' cannot make virtual environments"

if [ ! -x "$venv/bin/pip" ]; then
    log "making $venv"
    "$python" -m venv "$venv"
fi

case $scope in
daemon)
    log "installing the daemon"
    "$venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt -e . >&2
    ;;
everything)
    apt "ray tracing" libllvm19 || true
    apt "tests of the live page and of the metrics" chromium prometheus || true
    log "installing everything"
    "$venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt \
        -e '.[twin,geometry,train,reference,csi,cluster,dev]' >&2
    touch "$venv/.daemon"
    ;;
interop)
    apt "tests against GNU Radio and UHD" gnuradio python3-uhd python3-zmq python3-numpy ||
        fail "these packages are what the tests are about"
    log "installing TensorFlow"
    requirement=$("$python" -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["tensorflow"])')
    "$venv/bin/pip" install -q --disable-pip-version-check "$requirement" >&2
    ;;
*) fail "unknown scope '$scope'" ;;
esac
touch "$venv/.$scope"
log "ready"
