#!/usr/bin/env bash
# Fills a folder with the libraries that install.sh needs, for a machine without a network. Run it where there is one.
#
# usage: raspberry-pi/wheels.sh DIR [PYTHON [MACHINE]]
#
#   PYTHON    of the machine that gets them: 3.11 (Debian 12), 3.13 (Debian 13); else that of this one
#   MACHINE   aarch64 (Raspberry Pi OS, 64 bit) or x86_64; else this one
#
# Carry DIR and this tree to the machine, and there: sudo raspberry-pi/install.sh --wheels DIR
# For 32 bit (armv7l) some libraries come as source alone, so that machine needs a network, or a 64-bit system.
set -euo pipefail
tree=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
case ${1:--h} in -*) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;; esac
folder=$1
python=${2:-$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')}
machine=${3:-$(uname -m)}
case $machine in
  aarch64 | x86_64) ;;
  *) echo "wheels.sh: there are no ready libraries for $machine; aarch64 and x86_64 have them" >&2; exit 1 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
mkdir -p "$folder"
for glibc in $(seq 17 36); do platforms+=(--platform "manylinux_2_${glibc}_$machine"); done
for list in run build; do
  "$work/venv/bin/python" -m pip download --disable-pip-version-check -q --require-hashes --no-deps --only-binary :all: \
    --implementation cp --python-version "$python" "${platforms[@]}" -d "$folder" -r "$tree/requirements/$list.txt"
done
echo "$folder holds $(find "$folder" -name '*.whl' | wc -l) libraries for Python $python on $machine"
