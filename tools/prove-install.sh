#!/usr/bin/env bash
# Proves the installation: a Debian of its own is booted in a container and Tidegate installed, killed, broken, upgraded,
# restarted and removed there, each promise with what it is held against. Minutes, and 1 GB in the cache.
#
# usage: sudo tools/prove-install.sh [bookworm|trixie] [CACHE]     (/var/tmp/tidegate-trees unless told)
#
# Needs debootstrap, systemd-container and socat from Debian. Nothing is changed outside the cache.
# shellcheck disable=SC2016  # what stands in single quotes is for the container's shell
set -euo pipefail
suite=${1:-bookworm}
cache=${2:-/var/tmp/tidegate-trees}
tree=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
case $suite in bookworm) python=3.11 ;; trixie) python=3.13 ;; *) echo "prove-install.sh: bookworm or trixie" >&2; exit 2 ;; esac
[ "$(id -u)" = 0 ] || { echo "prove-install.sh: containers need root" >&2; exit 2; }
root=$cache/run.$suite.$$
wheels=$cache/wheels-$python-$(cat "$tree"/requirements/{run,build}.txt | sha256sum | cut -c1-12)
pid1='' container='' ports='' sensor='' link=$cache/port.$$
trap clean EXIT
INCLUDE=systemd,systemd-sysv,dbus,udev,python3,ca-certificates,iproute2,procps,curl,sudo,kmod,bash-completion

clean() {
  [ -z "$container" ] || { kill -KILL "$pid1" "$container" 2> /dev/null; wait "$container" 2> /dev/null; } || true
  [ -z "$sensor" ] || kill "$sensor" 2> /dev/null || true
  [ -z "$ports" ] || kill "$ports" 2> /dev/null || true
  rm -rf --one-file-system "$root" "$root.out" "$root.console"
}

title() { printf '\n== %s\n' "$*"; }
told() { sed 's/^/   | /'; }
broken() { printf 'BROKEN: %s\n' "$*" >&2; inside 'journalctl -u tidegate -n 30 --no-pager -o cat' 2>&1 | told >&2 || true; exit 1; }
inside() { timeout 300 nsenter -t "$pid1" -m -u -i -p -n -C env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb HOME=/root bash -ec "$1"; }
# holds WORDS COMMAND: every part of the command succeeds in the container.
holds() { if inside "$2" > "$root.out" 2>&1; then told < "$root.out"; printf ' ok  %s\n' "$1"; else told < "$root.out"; broken "$1"; fi; }
# fails WORDS COMMAND TEXT: it does not, and says TEXT.
fails() {
  if inside "$2" > "$root.out" 2>&1; then told < "$root.out"; broken "$1"; fi
  told < "$root.out"
  grep -qF -- "$3" "$root.out" || broken "$1: it does not say '$3'"
  printf ' ok  %s\n' "$1"
}
# soon WORDS COMMAND: it succeeds within 60 s.
soon() {
  local _
  for _ in $(seq 300); do if inside "$2" > "$root.out" 2>&1; then holds "$1" "$2"; return; fi; sleep 0.2; done
  told < "$root.out"
  broken "$1"
}

boot() {
  systemd-nspawn -q -D "$root" --boot --machine="tidegate-$$" --register=no --keep-unit --console=pipe --private-network \
    --system-call-filter='adjtimex clock_adjtime' --bind-ro="$wheels:/media/wheels" \
    --bind="$(readlink -f "$link"):/dev/ttyUSB0" < /dev/null > "$root.console" 2>&1 &
  container=$!
  local _ state=''
  for _ in $(seq 300); do
    read -r pid1 _ < "/proc/$container/task/$container/children" || true
    [ -z "$pid1" ] || state=$(inside 'systemctl is-system-running' 2> /dev/null) || true
    case $state in running | degraded) return ;; esac
    sleep 0.1
  done
  cat "$root.console" >&2
  echo "BROKEN: the container does not boot ($state)" >&2
  exit 1
}

power_off() {
  inside 'systemctl poweroff' || true
  wait "$container" || true
  container='' pid1=''
}

# -- what it takes -----------------------------------------------------------------------------------------------------
mkdir -p "$cache"
if [ ! -d "$cache/$suite" ]; then
  title "a fresh Debian $suite"
  debootstrap --variant=minbase --include=$INCLUDE "$suite" "$cache/$suite.part" > "$cache/$suite.log"
  mv "$cache/$suite.part" "$cache/$suite"
fi
[ -n "$(ls "$wheels" 2> /dev/null)" ] || "$tree/raspberry-pi/wheels.sh" "$wheels" "$python" "$(uname -m)"
cp -a "$cache/$suite" "$root"
echo pi > "$root/etc/hostname"
mkdir "$root/media/tidegate"
tar -C "$tree" --exclude=./.venv --exclude=./.git --exclude=__pycache__ -c . | tar -C "$root/media/tidegate" -x --no-same-owner
printf '127.0.0.1 localhost\n127.0.1.1 pi\n' > "$root/etc/hosts"

title "an image is made: no systemd runs, what is missing comes from Debian and PyPI"
systemd-nspawn -q -D "$root" --pipe --register=no --keep-unit \
  --bind-ro=/etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt --setenv=PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
  /media/tidegate/raspberry-pi/install.sh --mosquitto > "$root.out" 2>&1 < /dev/null || { told < "$root.out"; exit 1; }
grep -v '^\(Get\|Hit\|Selecting\|Preparing\|Unpacking\|Setting up\|Processing\|(Reading\|Fetched\|debconf\|invoke\)' "$root.out" | tail -12 | told
find "$root/opt/tidegate/releases" "$root/etc/systemd/system/multi-user.target.wants/" -maxdepth 1 -printf '%P\n' | told
[ -L "$root/etc/systemd/system/multi-user.target.wants/tidegate.service" ] || { echo "BROKEN: not enabled"; exit 1; }
systemd-nspawn -q -D "$root" --pipe --register=no --keep-unit apt-get install -y -q --download-only chrony > "$root.out" 2>&1 < /dev/null || { told < "$root.out"; exit 1; }
rm -rf "$root/opt/tidegate" "$root/etc/systemd/system/multi-user.target.wants/tidegate.service" # from here on without a network: the libraries come from the folder of wheels

# -- a serial port -----------------------------------------------------------------------------------------------------
socat -d "PTY,raw,echo=0,link=$link,perm=0660" "PTY,raw,echo=0,link=$link.sensor" > /dev/null 2>&1 &
ports=$!
for _ in $(seq 50); do [ ! -L "$link.sensor" ] || break; sleep 0.1; done

title "boot, and install"
boot
inside 'useradd -m ada; useradd -m bob; useradd -m -G sudo cleo; chgrp dialout /dev/ttyUSB0; chmod 660 /dev/ttyUSB0'
holds "the first run installs and starts it, and lets in who called it" 'SUDO_USER=ada /media/tidegate/raspberry-pi/install.sh --wheels /media/wheels --mosquitto'
holds "it is ready" 'systemctl is-active tidegate; curl -sf http://127.0.0.1:8765/readyz'
holds "the page answers" 'curl -sf http://127.0.0.1:8765/ | head -c 15'
holds "systemctl status has the sentence" 'systemctl status tidegate --no-pager | sed -n "1,12p"'
holds "its exposure" 'systemd-analyze security tidegate --no-pager --threshold=16 > /tmp/exposure; tail -1 /tmp/exposure'
holds "the second run has nothing to do" '/media/tidegate/raspberry-pi/install.sh --wheels /media/wheels > /tmp/second; cat /tmp/second; grep -q "nothing to do" /tmp/second; [ "$(wc -l < /tmp/second)" = 1 ]'

title "who may what"
soon "there are readings" 'runuser -u ada -- tidegate read temps --limit 2 | grep unit'
holds "a member of the group asks the gateway" 'runuser -l ada -c "tidegate status" | head -4; runuser -l ada -c "tidegate dead"; runuser -l ada -c "tidegate lag"'
holds "a member of the group reads the log itself, beside the gateway" 'runuser -l ada -c "tidegate try means --since 1h" | head -5; test "$(stat -c %a /var/lib/tidegate)" = 750; stat -c "%A %U:%G %n" /var/lib/tidegate/*'
holds "a member of the group may reload" 'runuser -l ada -c "tidegate reload"'
fails "whoever is not in the group may not reload, and is told which group to join" 'runuser -l bob -c "tidegate reload"' 'sudo usermod -aG tidegate'
fails "whoever is not in the group cannot read the log, and is told which group to join" 'runuser -l bob -c "tidegate try means --since 1h"' 'usermod -aG tidegate bob'
holds "nobody but the group sees the files" '! runuser -u bob -- ls /var/lib/tidegate'
holds "the configuration is root's, and everybody may read it" 'stat -c "%A %U:%G %n" /etc/tidegate /etc/tidegate/*; [ "$(stat -c %U:%a /etc/tidegate)" = root:755 ]; runuser -u bob -- tidegate check'
holds "a person's shell completes its commands" 'runuser -l ada -c "bash -ic \"source /usr/share/bash-completion/bash_completion; _completion_loader tidegate; complete -p tidegate\""'

title "the sandbox lets through what it needs"
cat > "$root/usr/local/bin/asks.py" << 'END'
from pathlib import Path
from gateway.clock import _adjtimex, synchronized
from gateway.log import SystemFiles
print("the kernel answers", _adjtimex(), "the clock is right:", synchronized())
print("boot", SystemFiles().boot_id(), "hidden:", not Path("/proc/sys").exists() and not Path("/proc/meminfo").exists())
END
# A program in exactly the sandbox of the service: its unit with all drop-ins, and another ExecStart.
cat > "$root/usr/local/bin/sandboxed" << 'END'
systemctl cat tidegate | sed -E '/^(Restart|Watchdog|ExecReload|NotifyAccess)/d; s/^Type=.*/Type=oneshot/
  s|^ExecStart=.*|ExecStart=/opt/tidegate/current/bin/python /usr/local/bin/asks.py\nStandardOutput=truncate:/tmp/answers\nStandardError=inherit|' > /run/systemd/system/sandboxed.service
systemctl daemon-reload && systemctl start sandboxed
cat /tmp/answers
END
chmod 755 "$root/usr/local/bin/sandboxed"
holds "systemd tells it which boot this is" 'bash sandboxed; grep -q "^boot $(tr -d - < /proc/sys/kernel/random/boot_id) hidden: True" /tmp/answers'
holds "the kernel is not to be asked about the clock, and nothing else says that it is right" 'bash sandboxed; grep -q "answers -1 the clock is right: False" /tmp/answers; [ "$(systemctl cat tidegate | grep -c "^SystemCallFilter=adjtimex")" = 0 ]; { tidegate status || true; } | grep "othing expires by age"'
holds "timesyncd sets the clock, or so it looks" 'mkdir -p /run/systemd/timesync; touch /run/systemd/timesync/synchronized; bash sandboxed; grep -q "answers -1 the clock is right: True" /tmp/answers'
soon "and the gateway believes it" 'tidegate status > /tmp/status; sed -n 2p /tmp/status; ! grep -q "othing expires by age" /tmp/status'
holds "it has no capability and sees no home" 'pid=$(systemctl show -P MainPID tidegate); grep -E "Cap(Eff|Prm|Bnd)|NoNewPrivs|Seccomp:" /proc/$pid/status; grep -q "CapBnd:.0000000000000000" /proc/$pid/status; [ -z "$(ls -A /proc/$pid/root/home)" ]'
holds "what it measures does not need the rest of /proc" 'curl -sf http://127.0.0.1:8765/metrics | grep -E "^tidegate_(commits_total|uptime_seconds)"'

title "another time service"
holds "chrony is installed, and install.sh sees it" 'rm /run/systemd/timesync/synchronized; DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-download chrony > /tmp/apt 2>&1 || { cat /tmp/apt; exit 1; }; systemctl is-enabled chrony; /media/tidegate/raspberry-pi/install.sh --wheels /media/wheels; test -e /etc/systemd/system/tidegate.service.d/10-clock.conf'
holds "the kernel is asked now" 'bash sandboxed; grep -Eq "answers [0-5] " /tmp/answers; systemd-analyze security tidegate --no-pager | tail -1'
holds "the second run has nothing to do" '/media/tidegate/raspberry-pi/install.sh --wheels /media/wheels | tee /tmp/second; grep -q "nothing to do" /tmp/second'
holds "chrony goes, and so does what it needed" 'apt-get purge -y -q chrony > /dev/null 2>&1; /media/tidegate/raspberry-pi/install.sh --wheels /media/wheels; [ ! -e /etc/systemd/system/tidegate.service.d ]; bash sandboxed; grep -q "answers -1" /tmp/answers; curl -sf http://127.0.0.1:8765/readyz'

title "killed"
holds "kill -9" 'systemctl kill -s KILL tidegate'
soon "it is back by itself" '[ "$(systemctl show -P NRestarts tidegate)" -ge 1 ] && curl -sf http://127.0.0.1:8765/readyz'

title "a wrong configuration"
inside 'cp /etc/tidegate/tidegate.yaml /root/good.yaml; echo "drivres: {}" >> /etc/tidegate/tidegate.yaml'
fails "systemctl reload refuses it" 'systemctl reload tidegate' 'Job for tidegate.service failed'
holds "the journal says why, and the gateway goes on" 'journalctl -u tidegate -n 8 --no-pager -o cat; journalctl -u tidegate -n 8 -o cat | grep -q "did you mean" && systemctl is-active tidegate && curl -sf http://127.0.0.1:8765/readyz'
fails "an upgrade is refused as long as it stands" 'cp -r /media/tidegate /root/new; echo "# newer" >> /root/new/gateway/record.py; /root/new/raspberry-pi/install.sh --wheels /media/wheels' 'nothing was changed'
holds "the right one is taken" 'cp /root/good.yaml /etc/tidegate/tidegate.yaml; echo "# mine" >> /etc/tidegate/tidegate.yaml; systemctl reload tidegate; systemctl is-active tidegate'

title "a secret as a credential"
inside 'mkdir -p /etc/systemd/system/tidegate.service.d; printf "[Service]\nLoadCredential=broker:/root/broker.password\nWatchdogSec=4\n" > /etc/systemd/system/tidegate.service.d/site.conf; (umask 077; echo secret > /root/broker.password)
sed -i "s|^sinks:|&\n  away: {sink: mqtt, url: \"mqtt://localhost:1884\", username: pi, password_credential: broker, topic: t, streams: [means]}|" /etc/tidegate/tidegate.yaml; systemctl daemon-reload'
holds "the gateway reads it, and may be reloaded" 'systemctl restart tidegate && systemctl reload tidegate && tidegate status | grep away'
fails "no other user does" 'runuser -u ada -- cat /run/credentials/tidegate.service/broker' 'ermission denied'

title "hanging"
holds "it is stopped in its tracks" 'systemctl show -P NRestarts tidegate > /root/restarts; systemctl kill -s STOP tidegate'
soon "systemd notices that it makes no progress, and starts it again" '[ "$(systemctl show -P NRestarts tidegate)" -gt "$(cat /root/restarts)" ] && curl -sf http://127.0.0.1:8765/readyz && journalctl -u tidegate -o cat | grep -m1 "Watchdog timeout"'

title "upgrades"
holds "an upgrade keeps configuration and data, and restarts once" 'old=$(readlink /opt/tidegate/current); /root/new/raspberry-pi/install.sh --wheels /media/wheels; [ "$(readlink /opt/tidegate/current)" != "$old" ]; tail -1 /etc/tidegate/tidegate.yaml | grep -q mine; curl -sf http://127.0.0.1:8765/readyz'
fails "a version that does not start gives way to the one before" 'cp -r /root/new /root/bad; echo "raise SystemExit(1)" >> /root/bad/gateway/daemon.py; /root/bad/raspberry-pi/install.sh --wheels /media/wheels' 'runs again, nothing is lost'
holds "which runs" 'systemctl is-active tidegate; curl -sf http://127.0.0.1:8765/readyz; du -sh /opt/tidegate/releases/*; readlink /opt/tidegate/current'

title "a serial port in the sandbox"
(n=0; while sleep 0.2; do n=$((n + 1)); printf '{"v": %s}\r\n' $n > "$link.sensor"; done) &
sensor=$!
inside 'sed -i "s|^drivers:|&\n  boiler: {driver: serial, port: /dev/ttyUSB0, stream: boiler}|" /etc/tidegate/tidegate.yaml; ls -l /dev/ttyUSB0'
holds "a port of the group dialout is added" 'tidegate reload'
soon "and read" 'tidegate read boiler --limit 3 > /tmp/boiler; grep v /tmp/boiler'

title "a command in the sandbox"
printf '#!/bin/sh\nid -un\nls -A /home\nsudo -n id 2>&1\ncat /proc/loadavg 2>&1\nexit 0\n' > "$root/usr/local/bin/look"
chmod 755 "$root/usr/local/bin/look"
inside 'sed -i "s|^drivers:|&\n  load: {driver: exec, command: [look], every: 1s, decode: text, stream: load}|" /etc/tidegate/tidegate.yaml'
holds "it is added" 'tidegate reload'
soon "and read: it is the gateway's user, sees no home, cannot become root, and learns nothing of the machine from /proc" 'tidegate read load --limit 4 > /tmp/load; grep -q " tidegate$" /tmp/load && grep -q "no new privileges" /tmp/load && grep -q "loadavg: No such file" /tmp/load && cat /tmp/load'

title "the broker"
holds "mosquitto takes the drop-in" 'systemctl is-active mosquitto'
holds "a driver reads from it" 'sed -i "s|^drivers:|&\n  sensors: {driver: mqtt, url: \"mqtt://localhost:1883\", subscribe: [\"site/+/temp\"], stream: readings}|" /etc/tidegate/tidegate.yaml; tidegate reload'

title "reboot"
holds "what is recorded" 'tidegate read temps --json --limit 100000 | tail -1 | tee /root/last'
power_off
boot
soon "it is back with the machine" 'systemctl is-active tidegate; curl -sf http://127.0.0.1:8765/readyz'
soon "and its offsets go on" 'last=$(sed "s/.*\"o\": *\([0-9]*\).*/\1/" /root/last); tidegate read temps --from $((last + 1)) --limit 1 --json | grep "{.o.:$((last + 1)),"'

title "away with it"
holds "--uninstall keeps configuration and data" '/media/tidegate/raspberry-pi/install.sh --uninstall; test -s /var/lib/tidegate/journal; test -s /etc/tidegate/tidegate.yaml; [ ! -e /opt/tidegate ]; ! systemctl cat tidegate > /dev/null 2>&1 && ! command -v tidegate'
holds "installed again it goes on where it was" '/media/tidegate/raspberry-pi/install.sh --wheels /media/wheels; tail -1 /etc/tidegate/tidegate.yaml | grep -q mine; last=$(sed "s/.*\"o\": *\([0-9]*\).*/\1/" /root/last); tidegate read temps --from $last --limit 1 --json | cmp - /root/last && cat /root/last'
holds "--purge leaves nothing" '/media/tidegate/raspberry-pi/install.sh --purge; [ ! -e /var/lib/tidegate ]; [ ! -e /etc/tidegate ]; ! getent passwd tidegate && ! getent group tidegate && find / -xdev -name "*tidegate*" -not -path "/media/*" -not -path "/root/*" -not -path "/var/log/*" -not -path "/proc/*" -not -path "/tmp/*" | tee /tmp/left; [ "$(grep -vc /etc/mosquitto/ /tmp/left)" = 0 ]'
power_off
printf '\nall of it holds on %s\n' "$suite"
