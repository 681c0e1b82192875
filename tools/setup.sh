#!/usr/bin/env bash
# Everything that demo, test and bench need: a venv from the lock file; mosquitto, openssl and systemd-analyze from Debian.
# usage: setup.sh VENV; PYTHON chooses the interpreter (3.11 or newer)
set -euo pipefail
venv=$1
python=${PYTHON:-python3}
source "$(dirname "$0")/debian.sh"
need=()
[ -x /usr/sbin/mosquitto ] || command -v mosquitto >/dev/null || need+=(mosquitto)
command -v cc >/dev/null && echo '#include <stdio.h>' | cc -E - >/dev/null 2>&1 || need+=(gcc libc6-dev)  # the disk under the tests
command -v openssl >/dev/null || need+=(openssl)
command -v systemd-analyze >/dev/null || need+=(systemd)
"$python" -c 'import ensurepip, venv' 2>/dev/null || need+=(python3-venv)
"$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $("$python" --version) found" >&2; exit 1; }
[ ${#need[@]} = 0 ] || from_debian "${need[@]}"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
timeout 900 "$venv/bin/python" -m pip install --disable-pip-version-check -q --require-hashes -r requirements/dev.txt
timeout 300 "$venv/bin/python" -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
