#!/usr/bin/env bash
# Everything that demo, test and bench need: a venv from the lock file, and mosquitto from Debian.
# usage: setup.sh VENV; PYTHON chooses the interpreter (3.11 or newer)
set -euo pipefail
venv=$1
python=${PYTHON:-python3}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
need=()
[ -x /usr/sbin/mosquitto ] || command -v mosquitto >/dev/null || need+=(mosquitto)
"$python" -c 'import ensurepip, venv' 2>/dev/null || need+=(python3-venv)
"$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $("$python" --version) found" >&2; exit 1; }
if [ ${#need[@]} -gt 0 ]; then
  echo "installing from Debian: ${need[*]}"
  as_root timeout 300 apt-get -o DPkg::Lock::Timeout=300 update -q
  DEBIAN_FRONTEND=noninteractive as_root timeout 600 apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "${need[@]}"
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
timeout 900 "$venv/bin/python" -m pip install --disable-pip-version-check -q --require-hashes -r requirements/dev.txt
timeout 300 "$venv/bin/python" -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
