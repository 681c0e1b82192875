"""The machine around the gateway: clock, power, memory, watchdog, time zones."""

import os
from collections.abc import Iterator

from gateway.doctor.finding import Finding
from gateway.doctor.machine import Machine
from gateway.quantity import in_units

KEEPERS = {  # a process's name, of which the kernel keeps 15 characters
    "systemd-timesyn": "systemd-timesyncd",
    "chronyd": "chrony",
    "ntpd": "ntpd",
    "ntpsec": "ntpsec",
    "openntpd": "openntpd",
}
GROUP = "/sys/fs/cgroup"
SERVICE = f"{GROUP}/system.slice/tidegate.service"
LEAST = 64 << 20  # bytes of memory that should be left
NOW, BEFORE = (
    {0: "the voltage is too low", 2: "it is throttled"},
    {16: "the voltage was too low", 18: "it was throttled"},
)


def examine(machine: Machine) -> Iterator[Finding]:
    """Of everything but the disk."""
    yield _clock(machine)
    yield from _power(machine)
    yield _memory(machine)
    yield from _accounts(machine)
    yield _watchdog(machine)
    yield _zones(machine)


def _clock(machine: Machine) -> Finding:
    running = {machine.text(path) for path in machine.find("/proc/[0-9]*/comm")}
    keeper = next((name for comm, name in KEEPERS.items() if comm in running), "")
    own = machine.find("/sys/class/rtc/rtc*")
    after = "" if own else "; there is no clock that runs on while the power is off"
    if machine.clock_is_kept():
        return Finding("ok", "clock", f"kept right{f' by {keeper}' if keeper else ''}{after}")
    hint = f"timedatectl; is a time server reachable for {keeper}?" if keeper else "sudo apt install systemd-timesyncd"
    seen = "nothing keeps it right now" + (f", though {keeper} runs" if keeper else "") + after
    return Finding("attention", "clock", f"{seen}. Times of readings may be wrong, and nothing expires by age", hint)


def _power(machine: Machine) -> Iterator[Finding]:
    """A Pi's own measurement: its hwmon driver, and the firmware's bits, of which 16 and up tell of since the start."""
    hint = "use the power supply and the cable that came with the board; a torn write is what it costs"
    for path in machine.find("/sys/class/hwmon/hwmon*/name"):
        if machine.text(path) == "rpi_volt":
            low = machine.text(f"{os.path.dirname(path)}/in0_lcrit_alarm")
            if low == "1":
                yield Finding("trouble", "power", "the voltage is too low, or was since anybody looked", hint)
                return
            yield Finding("ok", "power", "the voltage is right")
    for path in machine.find("/sys/devices/platform/soc*/soc*:firmware/get_throttled"):
        try:
            bits = int(machine.text(path) or "0", 16)
        except ValueError:
            continue
        now = [words for bit, words in NOW.items() if bits >> bit & 1]
        before = [f"{words} since the start" for bit, words in BEFORE.items() if bits >> bit & 1]
        if now or before:
            yield Finding("trouble" if now else "attention", "power", "; ".join(now + before), hint)


def _memory(machine: Machine) -> Finding:
    rows = dict(row.split(":", 1) for row in (machine.text("/proc/meminfo") or "").splitlines() if ":" in row)
    try:
        total, left = (int(rows[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    except (KeyError, ValueError, IndexError):
        return Finding("attention", "memory", "the kernel does not tell how much is left")
    seen = f"{in_units(left)} of {in_units(total)} can still be used"
    if left < LEAST:
        return Finding("attention", "memory", seen, "see who takes it: ps aux --sort=-rss | head")
    return Finding("ok", "memory", seen)


def _accounts(machine: Machine) -> Iterator[Finding]:
    """Of the service, where there is one (Documentation/admin-guide/cgroup-v2.rst)."""
    if machine.about(SERVICE) is None:
        return
    used, most = (machine.text(f"{SERVICE}/memory.{name}") for name in ("current", "max"))
    if used is None:
        return  # the kernel keeps no such account, as on a Pi unless it is asked to
    killed = [
        row for row in (machine.text(f"{SERVICE}/memory.events") or "").splitlines() if row.startswith("oom_kill ")
    ]
    seen = f"the service takes {in_units(int(used))}" + (
        f" of {in_units(int(most))}" if most and most.isdigit() else ""
    )
    if killed and killed[0] != "oom_kill 0":
        hint = "fewer keys in pipelines (max_keys), or more by: sudo systemctl edit tidegate, MemoryMax="
        yield Finding("trouble", "memory of the service", f"{seen}, and was killed for it", hint)
    else:
        yield Finding("ok", "memory of the service", seen)


def _watchdog(machine: Machine) -> Finding:
    about, hint = (
        "hardware watchdog",
        "RuntimeWatchdogSec=15s under [Manager] in /etc/systemd/system.conf, then restart",
    )
    for path in machine.find("/sys/class/watchdog/watchdog[0-9]*"):
        name = machine.text(f"{path}/identity") or os.path.basename(path)
        state = machine.text(f"{path}/state")
        if state == "active":
            return Finding("ok", about, f"{name} starts the machine again when it hangs")
        if state is not None:
            return Finding("attention", about, f"{name} is there and nobody uses it: a machine that hangs, hangs", hint)
    if machine.text("/sys/firmware/devicetree/base/model"):
        return Finding(
            "attention", about, "there is none", f"dtparam=watchdog=on in /boot/firmware/config.txt, and {hint}"
        )
    return Finding("ok", about, "this machine shows none")


def _zones(machine: Machine) -> Finding:
    if machine.find("/usr/share/zoneinfo/Europe/Berlin"):
        return Finding("ok", "time zones", "known")
    hint = "sudo apt install tzdata"
    return Finding("attention", "time zones", "unknown here: `zone:` in a schema knows UTC alone", hint)
