"""A machine as its files tell of it. Everything is looked up below `root`, so that a test can prepare one."""

import glob
import os
from collections.abc import Callable
from typing import NamedTuple

from gateway.clock import synchronized

MOST = 1 << 20  # bytes of one file that are read


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo (proc(5))."""

    device: str  # major:minor
    point: str
    kind: str  # ext4, overlay, …
    source: str
    options: frozenset[str]  # of the mount and of the file system


class Machine:
    """Looks, and changes nothing. What is not there, and what may not be read, is None or empty."""

    def __init__(self, root: str = "/", clock_is_kept: Callable[[], bool] = synchronized) -> None:
        self._root, self.clock_is_kept = root, clock_is_kept

    def real(self, path: str) -> str:
        """Where a path of the machine is for us."""
        return os.path.join(self._root, path.lstrip("/"))

    def text(self, path: str) -> str | None:
        """What a small file says, without the space around it."""
        try:
            with open(self.real(path), "rb") as file:
                return file.read(MOST).decode(errors="replace").strip("\0 \n\t")
        except OSError:
            return None

    def find(self, pattern: str) -> list[str]:
        """The paths that match a shell pattern, sorted."""
        root = self._root.rstrip("/")
        return sorted(path[len(root) :] for path in glob.glob(glob.escape(root) + pattern))

    def about(self, path: str) -> os.stat_result | None:
        try:
            return os.stat(self.real(path))
        except OSError:
            return None

    def existing(self, path: str) -> str:
        """The path, or the nearest folder above it that is there."""
        path = os.path.abspath(path)
        while not os.path.exists(self.real(path)) and path != "/":
            path = os.path.dirname(path)
        return path

    def mount(self, path: str) -> Mount | None:
        """What is mounted where a path is; the last of those that are mounted over each other."""
        rows = (self.text("/proc/self/mountinfo") or "").splitlines()
        there = os.path.realpath(path) if self._root == "/" else path
        best: Mount | None = None
        for row in rows:
            fields = row.split()
            if "-" not in fields[6:]:
                continue
            at = fields.index("-", 6)
            if len(fields) < at + 4:
                continue
            # a blank in a path stands there as \040
            point = fields[4].encode().decode("unicode_escape").encode("latin-1").decode(errors="replace")
            if there == point or there.startswith(point.rstrip("/") + "/"):
                options = frozenset([*fields[5].split(","), *fields[at + 3].split(",")])
                mount = Mount(fields[2], point, fields[at + 1], fields[at + 2], options)
                if best is None or len(point) >= len(best.point):
                    best = mount
        return best

    def disk(self, mount: Mount) -> str | None:
        """The folder in /sys of the whole disk that a mount lies on; None for what lies on none, as overlayfs."""
        start = f"/sys/dev/block/{mount.device}"
        if mount.device.startswith("0:") or self.about(start) is None:
            return None
        folder = os.path.realpath(self.real(start))
        if os.path.exists(os.path.join(folder, "partition")):
            folder = os.path.dirname(folder)
        return folder[len(os.path.realpath(self._root).rstrip("/")) :]
