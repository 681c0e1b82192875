#!/usr/bin/env bash
# Installs Tidegate as a service from this tree, or brings an installed one up to date. Run it again whenever you like.
#
# usage: sudo raspberry-pi/install.sh [--wheels DIR] [--mosquitto] [--no-start]
#        sudo raspberry-pi/install.sh --uninstall | --purge
#
#   --wheels DIR   take the libraries from a folder that raspberry-pi/wheels.sh has filled; no network is used
#   --mosquitto    install the broker mosquitto, too, and set it up for a gateway on the same machine
#   --no-start     install, and start nothing; what runs goes on as it is until its next start
#   --uninstall    remove the program and the service; configuration and recorded data stay
#   --purge        remove these, too, and the user tidegate
#
# Every version gets a folder of its own in /opt/tidegate/releases, and `current` leads to the one in use. A new version is
# tried on your configuration before anything is exchanged; if it does not start, the one before comes back.
set -euo pipefail

TREE=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
HOME_DIR=/opt/tidegate
DATA=/var/lib/tidegate
ETC=/etc/tidegate
CONFIG=$ETC/tidegate.yaml
UNIT=/usr/local/lib/systemd/system/tidegate.service
DROP_INS=/etc/systemd/system/tidegate.service.d
CLOCK=$DROP_INS/10-clock.conf
SYSUSERS=/usr/local/lib/sysusers.d/tidegate.conf
TMPFILES=/usr/local/lib/tmpfiles.d/tidegate.conf
RULES=/etc/udev/rules.d/70-tidegate-serial.rules
LINK=/usr/local/bin/tidegate
COMPLETION=/usr/local/share/bash-completion/completions/tidegate
BROKER=/etc/mosquitto/conf.d/tidegate.conf

wheels='' mosquitto='' start=yes changed='' work=''

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
booted() { [ -d /run/systemd/system ]; } # not so in a chroot, where images are made

main() {
  local task=install
  while [ $# -gt 0 ]; do
    case $1 in
      --wheels)
        [ -d "${2:-}" ] || fail "--wheels wants a folder; ${2:-nothing} is none. raspberry-pi/wheels.sh DIR fills one"
        wheels=$(cd "$2" && pwd); shift ;;
      --mosquitto) mosquitto=yes ;;
      --no-start) start='' ;;
      --uninstall | --purge) task=${1#--} ;;
      -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
      *) fail "there is no $1; try --help" ;;
    esac
    shift
  done
  [ "$(id -u)" = 0 ] || fail "it needs root; try: sudo $0"
  exec 9> /run/tidegate-install.lock
  flock -n 9 || fail "another one is at work"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  "do_$task"
}

# -- install and upgrade -----------------------------------------------------------------------------------------------

do_install() {
  local before name
  machine
  packages
  name="$(version)-$(fingerprint)"
  before=$(basename "$(readlink $HOME_DIR/current || true)")
  build "$HOME_DIR/releases/$name"
  users_and_folders
  if [ -n "$before" ] && ! takes_configuration "$name"; then
    fail "the new version refuses $CONFIG (above); nothing was changed, $before goes on"
  fi
  files "$name"
  if [ "$before" != "$name" ]; then
    switch "$name"
    changed=yes
  fi
  [ -z "$mosquitto" ] || broker
  members
  activate "$name" "$before"
  prune "$name" "$before"
}

machine() {
  case $(uname -m) in armv6l) fail "this processor (ARMv6) is too old: there are no libraries for it. A Pi Zero 2, or any 3, 4 or 5, will do" ;; esac
  command -v apt-get > /dev/null || fail "this is neither Debian nor Raspberry Pi OS; docs/raspberry-pi.md tells what it would have done"
  command -v systemctl > /dev/null || fail "there is no systemd here; docs/raspberry-pi.md tells what it would have done"
}

packages() {
  local need=()
  python3 -c 'import ensurepip, venv' 2> /dev/null || need+=(python3-venv)
  if [ "$(dpkg --print-architecture)" = armhf ]; then # some libraries come as source alone
    command -v gcc > /dev/null && python3-config --includes > /dev/null 2>&1 || need+=(gcc libc6-dev python3-dev)
  fi
  [ -z "$mosquitto" ] || [ -x /usr/sbin/mosquitto ] || need+=(mosquitto)
  # shellcheck source=tools/debian.sh
  source "$TREE/tools/debian.sh"
  [ ${#need[@]} = 0 ] || from_debian "${need[@]}" || fail "Debian's packages ${need[*]} could not be installed; they are needed"
  python3 -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, $(python3 --version) found; that is Debian 12, or Raspberry Pi OS of 2023, or newer"
}

version() { sed -n 's/^__version__ = "\(.*\)"/\1/p' "$TREE/gateway/__init__.py"; }

# Twelve characters that change with every file that is installed, and with Python.
fingerprint() {
  (
    cd "$TREE"
    find gateway drivers pipelines sinks docs requirements pyproject.toml -type f ! -name '*.pyc' -print0 |
      LC_ALL=C sort -z | xargs -0 sha256sum
    python3 --version
  ) | sha256sum | cut -c1-12
}

# A virtual environment with exactly the libraries of the lock file, and this tree's gateway.
build() {
  local release=$1 pip
  local from=(--disable-pip-version-check --no-cache-dir -q)
  [ ! -e "$release/.complete" ] || return 0
  say "building $release"
  [ -z "$wheels" ] || from+=(--no-index --find-links "$wheels")
  rm -rf "$release"
  mkdir -p "$HOME_DIR/releases"
  python3 -m venv "$release"
  pip=("$release/bin/python" -m pip)
  "${pip[@]}" install "${from[@]}" --require-hashes -r "$TREE/requirements/run.txt" || lacking "$release"
  "${pip[@]}" install "${from[@]}" --require-hashes --target "$work/tools" -r "$TREE/requirements/build.txt" || lacking "$release"
  PYTHONPATH=$work/tools "${pip[@]}" wheel "${from[@]}" --no-deps --no-build-isolation -w "$work" "$TREE"
  "${pip[@]}" install --disable-pip-version-check -q --no-index --no-deps "$work"/tidegate-*.whl
  mkdir -p "$release/share/doc/tidegate"
  cp -r "$TREE"/docs/*.md "$release/share/doc/tidegate/"
  chmod -R u=rwX,go=rX "$release"
  touch "$release/.complete"
}

lacking() {
  rm -rf "$1"
  fail "a library could not be installed (above). Without a network: fill a folder with raspberry-pi/wheels.sh where there is one, and name it with --wheels"
}

# Put a file in its place unless it is there already, and note that something changed.
place() {
  local source=$1 target=$2
  cmp -s "$source" "$target" && return
  if [ -e "$target" ]; then cp "$target" "$work/$(basename "$target").before"; fi
  install -D -m 0644 "$source" "$target"
  say "wrote $target"
  changed=yes
}

users_and_folders() {
  place "$TREE/systemd/tidegate.sysusers.conf" $SYSUSERS
  place "$TREE/systemd/tidegate.tmpfiles.conf" $TMPFILES
  systemd-sysusers $SYSUSERS
  systemd-tmpfiles --create $TMPFILES
  if [ ! -e $CONFIG ]; then
    install -m 0644 "$TREE/raspberry-pi/tidegate.yaml" $CONFIG
    say "wrote $CONFIG: simulated sensors, and examples to begin with"
  fi
}

# Whether a version takes the configuration, asked as the service would: with its user, environment and credentials.
# What is wrong is shown.
takes_configuration() {
  check "$1" > "$work/check" 2>&1 && return
  cat "$work/check" >&2
  return 1
}

check() {
  local line as=() command=("$HOME_DIR/releases/$1/bin/tidegate" check --config "$CONFIG")
  if booted; then
    while read -r line; do as+=(-p "$line"); done < <(
      systemctl cat tidegate 2> /dev/null | grep -E '^(Environment(File)?|(Load|Set)Credential(Encrypted)?)=.'
    )
    systemd-run --quiet --wait --pipe --collect -p User=tidegate -p Group=tidegate "${as[@]}" "${command[@]}" < /dev/null
  else
    runuser -u tidegate -- "${command[@]}"
  fi
}

files() {
  local rules=old
  cmp -s "$TREE/systemd/70-tidegate-serial.rules" $RULES || rules=new
  place "$TREE/systemd/tidegate.service" $UNIT
  clock
  place "$TREE/systemd/70-tidegate-serial.rules" $RULES
  "$HOME_DIR/releases/$1/bin/tidegate" completion bash > "$work/completion"
  place "$work/completion" $COMPLETION
  ln -sfn $HOME_DIR/current/bin/tidegate $LINK
  if booted; then
    systemctl daemon-reload
    if [ $rules = new ] && systemctl is-active -q systemd-udevd; then
      udevadm control --reload || true
      udevadm trigger --action=change --subsystem-match=tty || true
    fi
  fi
}

# Whether the clock is right: what timesyncd leaves behind tells the gateway; with another service it must ask the kernel.
clock() {
  local service
  for service in chrony chronyd ntpsec ntp ntpd ntpd-rs openntpd; do
    if systemctl is-enabled -q $service 2> /dev/null; then
      place "$TREE/systemd/tidegate-clock.conf" $CLOCK
      return
    fi
  done
  [ -e $CLOCK ] || return 0
  away_with_clock
  say "removed $CLOCK: no service that needs it keeps the time"
  changed=yes
}

away_with_clock() {
  rm -f $CLOCK
  rmdir $DROP_INS 2> /dev/null || true # not where a site has more of them
}

# `current` leads to one version or to the other, never to none.
switch() {
  ln -sfn "releases/$1" $HOME_DIR/current.new
  mv -T $HOME_DIR/current.new $HOME_DIR/current
}

broker() {
  if [ -e $BROKER ]; then
    say "$BROKER is there, and stays as it is"
  else
    install -D -m 0644 "$TREE/raspberry-pi/mosquitto-tidegate.conf" $BROKER
    say "wrote $BROKER"
    if booted; then systemctl enable -q mosquitto && systemctl restart mosquitto; fi
  fi
}

members() {
  local person=${SUDO_USER:-root}
  [ "$person" != root ] && id "$person" > /dev/null 2>&1 || return 0
  case " $(id -nG "$person") " in
    *" tidegate "*) ;;
    *) usermod -aG tidegate "$person" && say "$person is in the group tidegate from the next login on, and may ask the gateway without sudo" ;;
  esac
}

activate() {
  local name=$1 before=$2
  if [ -z "$before" ] && [ -n "$start" ] && ! takes_configuration "$name"; then
    fail "installed, and not started: $CONFIG has mistakes (above). Then: sudo systemctl enable --now tidegate"
  fi
  [ -n "$before" ] || systemctl enable -q tidegate
  if ! booted; then
    say "installed $name; it starts with the machine"
  elif [ -z "$start" ]; then
    say "installed $name; to start it: sudo systemctl restart tidegate"
  elif [ -n "$before" ] && ! systemctl is-enabled -q tidegate; then
    say "installed $name; the service is disabled, and stays so"
  elif [ -z "$changed" ] && systemctl is-active -q tidegate; then
    say "nothing to do: $name runs"
  elif systemctl restart tidegate; then
    say "$name runs: $(systemctl show -P StatusText tidegate)"
    [ -n "$before" ] || say "try: tidegate status; journalctl -u tidegate; the configuration is $CONFIG"
  elif [ -n "$before" ] && [ "$before" != "$name" ]; then
    go_back "$name" "$before"
  else
    journalctl -u tidegate -n 15 --no-pager -o cat >&2 || true
    fail "the service does not start (above)"
  fi
}

go_back() {
  local name=$1 before=$2
  journalctl -u tidegate -n 15 --no-pager -o cat >&2 || true
  switch "$before"
  if [ -e "$work/tidegate.service.before" ]; then install -m 0644 "$work/tidegate.service.before" $UNIT; fi
  systemctl daemon-reload
  systemctl reset-failed tidegate || true
  systemctl restart tidegate || fail "$name does not start (above), and neither does $before"
  fail "$name does not start (above); $before runs again, nothing is lost"
}

# The version before stays, for it is the way back; so does the one that still runs, which may want more of its files.
prune() {
  local release running=''
  ! booted || running=$(ps -o args= -p "$(systemctl show -P MainPID tidegate)" || true)
  for release in "$HOME_DIR"/releases/*; do
    case $(basename "$release") in "$1" | "$2") continue ;; esac
    case $running in *"$release/"*) continue ;; esac
    rm -rf "$release"
  done
}

# -- away with it ------------------------------------------------------------------------------------------------------

do_uninstall() {
  if booted; then systemctl disable -q --now tidegate 2> /dev/null || true; fi
  rm -f /etc/systemd/system/multi-user.target.wants/tidegate.service
  rm -f $UNIT $SYSUSERS $TMPFILES $RULES $COMPLETION
  away_with_clock
  [ ! -L $LINK ] || rm -f $LINK
  rm -rf $HOME_DIR
  if booted; then
    systemctl daemon-reload
    systemctl reset-failed tidegate 2> /dev/null || true
    ! systemctl is-active -q systemd-udevd || udevadm control --reload || true
  fi
  say "removed the program and the service"
  [ "$task" != uninstall ] || say "kept: $DATA (what was recorded), $ETC, the user tidegate; --purge removes them, too"
  [ ! -e $BROKER ] || say "kept: $BROKER"
}

do_purge() {
  do_uninstall
  rm -rf $DROP_INS /etc/default/tidegate $ETC
  find $DATA -xdev -mindepth 1 -delete 2> /dev/null || true
  rmdir $DATA 2> /dev/null || [ ! -e $DATA ] || say "$DATA itself stays; something is mounted there"
  ! getent passwd tidegate > /dev/null || userdel tidegate 2> /dev/null
  ! getent group tidegate > /dev/null || groupdel tidegate
  say "removed $DATA, $ETC and the user tidegate. A log elsewhere (log.path) is yours to delete; on flash, deleted is not erased"
}

main "$@"
