"""What is the gateway's own: SQLite, its files and who may read them, ports and brokers, what it says of itself."""

import grp
import os
import pwd
import re
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gateway.config import Config, LogSettings
from gateway.doctor.finding import Finding
from gateway.doctor.machine import Machine
from gateway.log import SystemFiles
from gateway.log.identity import Standing, standing
from gateway.quantity import Secret

FILES = ("journal", "log.db", "log.db-wal", "log.db-shm", "epoch")
RACE = ((3, 7, 0), (3, 51, 3))  # SQLite's WAL-reset bug: sqlite.org/wal.html#walresetbug …
MENDED = ((3, 44, 6), (3, 50, 7))  # … and the older versions that have its fix
MOSQUITTO = ("/etc/mosquitto/mosquitto.conf", "/etc/mosquitto/conf.d/*.conf")


def sqlite(version: str = sqlite3.sqlite_version) -> Finding:
    """Of the library that the log is kept with."""
    number = tuple(int(part) for part in version.split("."))
    mended = any(number[:2] == low[:2] and number >= low for low in MENDED)
    if RACE[0] <= number < RACE[1] and not mended:
        return Finding(
            "ok", "SQLite",
            f"{version}; it may corrupt a database that two programs write at a time (the WAL-reset bug). "
            "The gateway is the only one that writes its log; never open log.db for writing while it runs",
        )  # fmt: skip
    return Finding("ok", "SQLite", version)


def files(machine: Machine, log: LogSettings) -> Iterator[Finding]:
    """Of the log's folder: whose it is, and who may read it."""
    about, folder = "log folder", machine.about(log.path)
    if folder is None:
        above = machine.existing(log.path)
        if above != "/" and not os.access(machine.real(above), os.X_OK):
            yield Finding("attention", about, f"{log.path} is not for you to see", "sudo tidegate doctor")
        else:
            yield Finding("ok", about, f"{log.path} is not there yet; the gateway makes it when it starts")
        return
    owner = _user(folder.st_uid)
    if not os.access(machine.real(log.path), os.X_OK):
        yield Finding("attention", about, f"{log.path} is {owner}'s, and not for you to see", "sudo tidegate doctor")
        return
    foreign = []
    for name in FILES:
        found = machine.about(os.path.join(log.path, name))
        if found is not None and found.st_uid != folder.st_uid:
            foreign.append(f"{name} ({_user(found.st_uid)})")
    if foreign:
        hint = f"sudo chown -R {owner}: {log.path}"
        seen = f"{log.path} is {owner}'s, but not {', '.join(foreign)}: was it run as another user?"
        yield Finding("trouble", about, seen, hint)
    elif folder.st_mode & stat.S_IRWXO:
        mode = f"{stat.S_IMODE(folder.st_mode):04o}"
        seen = f"everybody may look into {log.path} (mode {mode}), which holds all readings"
        yield Finding("attention", about, seen, f"sudo chmod o-rwx {log.path}")
    else:
        yield Finding("ok", about, f"{log.path} is {owner}'s, and not for everybody")


def identity(machine: Machine, log: LogSettings) -> Iterator[Finding]:
    """Of the machine that the log is bound to."""
    about, files = "identity", SystemFiles()
    files.board_file, files.machine_file = machine.real(files.board_file), machine.real(files.machine_file)
    folder = machine.real(log.path)
    if not os.access(os.path.join(folder, "journal"), os.R_OK):
        return  # there is no log yet, or it is not for us
    found = standing(folder, files)
    if not files.machine():
        seen = "nothing names this machine (/etc/machine-id), so a copy of its log elsewhere is not noticed"
        yield Finding("attention", about, seen, "sudo systemd-machine-id-setup; in a container mount the host's")
    elif found in (Standing.HERE, Standing.UNBOUND):
        yield Finding("ok", about, f"the log is {found.value}")
    else:
        hint = "if the other one is off for good: sudo tidegate replace, before the gateway is started (docs/care.md)"
        seen = f"the log is {found.value}: the next start begins a new epoch"
        yield Finding("attention", about, seen, hint)


def secrets(machine: Machine, config: Config) -> Iterator[Finding]:
    """Of the files that only the gateway should read, and of the configuration, which only its owner should write."""
    open_ones = []
    found = sorted({secret.path for secret in _secrets([config.gateway, *_options(config)])})
    for path in found:
        there = machine.about(path)
        if there is not None and there.st_mode & stat.S_IRWXO:
            open_ones.append(path)
    if open_ones:
        told = ", ".join(open_ones)
        yield Finding("trouble", "secrets", f"everybody on this machine may read {told}", f"sudo chmod o-rwx {told}")
    elif found:
        yield Finding("ok", "secrets", f"{len(found)} {'file' if len(found) == 1 else 'files'}, not for everybody")
    for path in config.files:
        there = machine.about(path)
        if there is not None and there.st_mode & stat.S_IWOTH:
            seen = f"everybody may write {path}, and with it run programs as the gateway"
            yield Finding("trouble", "configuration", seen, f"sudo chmod o-w {path}")


def ports(machine: Machine, log: LogSettings, config: Config) -> Iterator[Finding]:
    """Of serial ports: there, and for the user that the log belongs to."""
    folder = machine.about(log.path)
    uid = os.geteuid() if folder is None else folder.st_uid
    for entry in config.drivers.values():
        port = getattr(entry.options, "port", None)
        if not isinstance(port, str) or not port.startswith("/"):
            continue  # at the other end of a network, or found by what the device says of itself
        about = f"port of {entry.name}"
        there = machine.about(port)
        if there is None:
            hint = "is it plugged in? ls -l /dev/serial/by-id"
            yield Finding("trouble", about, f"there is no {port}", hint)
        elif not _may(there, uid):
            group = _group(there.st_gid)
            seen = f"{_user(uid)} may not open {port} (group {group}, mode {stat.S_IMODE(there.st_mode):04o})"
            yield Finding("trouble", about, seen, f"sudo usermod -aG {group} {_user(uid)}, then restart the gateway")
        else:
            yield Finding("ok", about, f"{port} is there, and {_user(uid)} may open it")


def brokers(machine: Machine, config: Config) -> Iterator[Finding]:
    """Of a mosquitto on this machine that the gateway listens to: how much it keeps while the gateway is away."""
    listening = [
        entry.name
        for entry in config.drivers.values()
        if urlsplit(str(getattr(entry.options, "url", ""))).hostname in ("localhost", "127.0.0.1", "::1")
        and entry.driver == "mqtt"
    ]
    paths = [path for pattern in MOSQUITTO for path in machine.find(pattern)]
    if not listening or not paths:
        return
    about, texts = "local broker", [machine.text(path) for path in paths]
    if None in texts:
        unread = paths[texts.index(None)]
        yield Finding("attention", about, f"you may not read {unread}", "sudo tidegate doctor")
        return
    settings = dict(re.findall(r"^\s*(\w+)\s+(.+?)\s*$", "\n".join(map(str, texts)), re.MULTILINE))
    hint = "raspberry-pi/mosquitto-tidegate.conf has what is right; then sudo systemctl restart mosquitto"
    kept = settings.get("max_queued_messages", "1000")
    ahead = settings.get("max_inflight_messages", "20")
    seen = (
        f"mosquitto keeps {kept} messages while the gateway is away, and has {ahead} under way unless MQTT 5 says more"
    )
    if settings.get("persistence", "false") != "true":
        yield Finding("attention", about, f"{seen}; it keeps none through a restart of its own (persistence)", hint)
    elif kept.isdigit() and 0 < int(kept) <= 1000:
        yield Finding("attention", about, f"{seen}; the rest it drops and says nothing", hint)
    else:
        yield Finding("ok", about, seen)


def running(status: Mapping[str, Any]) -> Iterator[Finding]:
    """What the gateway says of itself, and each of its parts that has something to say."""
    level = status.get("level", "ok")
    yield Finding(level if level in ("ok", "attention", "trouble") else "attention", "gateway", str(status["sentence"]))
    for part in status.get("components", ()):
        name = str(part["name"])
        if part["state"] != "up":
            told = f"{part['state']}: {part['detail']}" if part["detail"] else str(part["state"])
            yield Finding("attention", name, told)
        elif part["detail"] and name.startswith(("driver:", "sink:", "log")):
            yield Finding("ok", name, str(part["detail"]))


def _options(config: Config) -> list[object]:
    sources = [entry.options for entry in config.drivers.values()]
    return [*sources, *[entry.options for entry in config.sinks.values()]]


def _secrets(value: object) -> Iterator[Secret]:
    """Every secret's file in options, however deep."""
    if isinstance(value, Secret):
        yield value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, Mapping):
        yield from _secrets(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _secrets(one)


def _may(file: os.stat_result, uid: int) -> bool:
    """Whether a user may read and write a file."""
    if uid == 0:
        return True
    if file.st_uid == uid:
        return file.st_mode & 0o600 == 0o600
    try:
        about = pwd.getpwuid(uid)
        groups = os.getgrouplist(about.pw_name, about.pw_gid)
    except KeyError:
        groups = []
    return file.st_mode & (0o060 if file.st_gid in groups else 0o006) in (0o060, 0o006)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
