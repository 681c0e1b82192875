"""The block device under a folder, and what it took: from everybody, as the kernel counts it.

What a process asks for is not what a device gets: several writes of a page before a sync are one, and the file system
adds its own. The kernel counts what goes to each device in `stat`, in sectors of 512 bytes since the machine was
started, field 7 (Documentation/block/stat.rst).
"""

import os
from typing import NamedTuple

BLOCK = "/sys/dev/block"
SECTOR = 512
WRITTEN = 6  # the field, from 0


class Device(NamedTuple):
    """A whole device, as what wears is: not the partition."""

    name: str  # mmcblk0, sda, nvme0n1, loop3
    folder: str  # in /sys

    def written(self) -> int | None:
        """Bytes since the machine was started; None where it does not tell."""
        try:
            with open(os.path.join(self.folder, "stat"), "rb") as file:
                return int(file.read(4096).split()[WRITTEN]) * SECTOR
        except (OSError, ValueError, IndexError):
            return None


def device_under(path: str, block: str = BLOCK) -> Device | None:
    """What a folder lies on. None for what has no device of its own, or several: tmpfs, overlayfs, btrfs, ZFS, nets.

    An encrypted or a logical volume is taken for the device below it, where that is one.
    """
    try:
        number = os.stat(path).st_dev
    except OSError:
        return None
    start = os.path.join(block, f"{os.major(number)}:{os.minor(number)}")
    if not os.path.exists(start):
        return None
    folder = os.path.realpath(start)
    while len(below := _names(os.path.join(folder, "slaves"))) == 1:
        folder = os.path.realpath(os.path.join(folder, "slaves", below[0]))
    if os.path.exists(os.path.join(folder, "partition")):
        folder = os.path.dirname(folder)
    return Device(os.path.basename(folder), folder)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
