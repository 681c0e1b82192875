#!/usr/bin/env bash
# What the tests of the status page need beside the rest: Chromium, and a font to draw with.
set -euo pipefail
source "$(dirname "$0")/debian.sh"
need=()
command -v chromium >/dev/null || need+=(chromium)
[ -d /usr/share/fonts/truetype/dejavu ] || need+=(fonts-dejavu-core)
[ ${#need[@]} = 0 ] || from_debian "${need[@]}"
