"""The disk that holds the log: its file system, its cache, its wear, and its room."""

import os
from collections.abc import Iterator

from gateway.config import LogSettings
from gateway.doctor.finding import Finding
from gateway.doctor.machine import Machine, Mount
from gateway.quantity import in_units

NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "ceph",
    "glusterfs",
    "afs",
    "ncpfs",
    "fuse.sshfs",
    "fuse.rclone",
)
MEMORY = ("tmpfs", "ramfs", "rootfs", "zram")
SIMPLE = ("vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk")
UNSYNCED = ("nobarrier", "barrier=0", "fsync_mode=nobarrier")
WAL = 4 << 20  # that the database takes beside its file
LEAST = 32 << 20  # free bytes with which anything works
WORN = {0x01: "normal", 0x02: "warning: 80 % of its spare blocks are used", 0x03: "urgent: 90 % of them are used"}


def examine(machine: Machine, log: LogSettings) -> Iterator[Finding]:
    """Of the disk under the log."""
    mount = machine.mount(machine.existing(log.path))
    if mount is None:
        yield Finding("attention", "file system", f"nothing tells what {log.path} lies on")
    else:
        yield _file_system(mount, log.path)
        disk = machine.disk(mount)
        if disk is not None:
            yield _cache(machine, disk)
            yield from _card(machine, disk)
    yield _room(machine, log)


def _file_system(mount: Mount, path: str) -> Finding:
    seen = f"{path} is on {mount.source}, {mount.kind} at {mount.point}"
    about = "file system"
    if mount.kind in NETWORK:
        return Finding(
            "trouble", about, f"{seen}: a network, over which neither locks nor syncs can be trusted",
            "write a log.path on a disk of this machine",
        )  # fmt: skip
    if mount.kind in MEMORY:
        hint = "write a log.path on a card or disk"
        return Finding("trouble", about, f"{seen}: it is memory, and gone at the next start of the machine", hint)
    if mount.kind == "overlay":
        return Finding(
            "trouble", about, f"{seen}: what is written there is gone with the container, or at the next start",
            "give the log a volume or a partition of its own, and write its path as log.path",
        )  # fmt: skip
    if "ro" in mount.options:
        hint = f"findmnt {mount.point}; dmesg tells whether the kernel did it after an error: then the disk is failing"
        return Finding("trouble", about, f"{seen}, read-only", hint)
    if lying := [option for option in UNSYNCED if option in mount.options]:
        return Finding(
            "trouble", about, f"{seen}, mounted with {lying[0]}: a sync does not reach the device",
            f"take {lying[0]} out of /etc/fstab",
        )  # fmt: skip
    if mount.kind in SIMPLE:
        return Finding(
            "attention", about, f"{seen}: it has no journal and no owners of files; a power cut may cost all of it",
            "use ext4 for the log",
        )  # fmt: skip
    if mount.options & {"sync", "dirsync"}:
        hint = "take it out of /etc/fstab"
        return Finding(
            "attention", about, f"{seen}, mounted with sync: every write waits, though the log syncs itself", hint
        )
    waits = next((option for option in mount.options if option.startswith("commit=")), "")
    return Finding("ok", about, seen + (f"; {waits} does not matter, the log syncs by itself" if waits else ""))


def _cache(machine: Machine, disk: str) -> Finding:
    """What the kernel believes of the device's own cache (Documentation/ABI/stable/sysfs-block, queue/write_cache)."""
    name, about = os.path.basename(disk), "write cache"
    told = machine.text(f"{disk}/queue/write_cache")
    if told is None:
        return Finding("ok", about, f"the kernel does not tell whether {name} has one")
    if told == "write back":
        return Finding("ok", about, f"{name} has one, and every commit has it flushed")
    if "/usb" in disk:
        return Finding(
            "attention", about, f"{name} hangs on USB and did not say whether it has one, so it is never flushed",
            "for f in /sys/class/scsi_disk/*/cache_type; do echo 'temporary write back' | sudo tee $f; done",
        )  # fmt: skip
    return Finding("ok", about, f"{name} says that it has none; whether that is so, only a power cut can tell")


def _card(machine: Machine, disk: str) -> Iterator[Finding]:
    """What an SD card or eMMC says of itself (Documentation/driver-api/mmc/mmc-dev-attrs.rst)."""
    if not os.path.basename(disk).startswith("mmcblk"):
        return
    about = {
        name: machine.text(f"{disk}/device/{name}") or ""
        for name in ("type", "name", "date", "life_time", "pre_eol_info")
    }
    seen = f"{about['type'] or 'card'} {about['name'] or 'without a name'}"
    seen += f", made {about['date']}" if about["date"] else ""
    hint = "have another card ready: tidegate backup, docs/care.md"
    numbers = [_number(part) for part in about["life_time"].split()]
    used, state = max(numbers, default=0), _number(about["pre_eol_info"])
    if not used and not state:
        yield Finding("ok", "card", f"{seen}; it does not tell how worn it is (SD cards do not)")
        return
    worn = (
        [f"up to {min(used, 10) * 10} % of its life is used" if used <= 10 else "its life is used up"] if used else []
    )
    worn += [f"spare blocks: {WORN[state]}"] if state in WORN else []
    seen = "; ".join([seen, *worn])
    if used > 10 or state == 3:
        yield Finding("trouble", "card", seen, hint)
    elif used >= 9 or state == 2:
        yield Finding("attention", "card", seen, hint)
    else:
        yield Finding("ok", "card", seen)


def _number(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0


def _room(machine: Machine, log: LogSettings) -> Finding:
    there, about = machine.existing(log.path), "room"
    try:
        room = os.statvfs(machine.real(there))
    except OSError as error:
        return Finding("attention", about, f"{there} does not tell how much is free: {error.strerror}")
    free = room.f_bavail * room.f_frsize
    have, journal = (machine.about(os.path.join(log.path, name)) for name in ("log.db", "journal"))
    wanted = max(log.size - (have.st_size if have else 0), 0) + (0 if journal else log.journal) + WAL
    seen = f"{in_units(free)} free; the log may still grow by {in_units(wanted)} (log: size {in_units(log.size)})"
    hint = f"free some (df -h {there}), or lower log: size"
    if free < LEAST and wanted > free:
        return Finding("trouble", about, seen, hint)
    if free < wanted:
        return Finding("attention", about, f"{seen}: it ends earlier, and the oldest records go then", hint)
    return Finding("ok", about, seen)
