# Sourced by the other tools: install packages from Debian, with sudo where we are not root.
from_debian() {
  echo "installing from Debian: $*"
  local as=()
  [ "$(id -u)" = 0 ] || as=(sudo)
  "${as[@]}" timeout 300 apt-get -o DPkg::Lock::Timeout=300 update -q
  "${as[@]}" env DEBIAN_FRONTEND=noninteractive timeout 900 apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "$@"
}
