"""The reserve: a file that does nothing but take room, so that there is some when a disk is full to the last byte.

SQLite needs room in its WAL even to delete. When a seal finds none, the reserve goes; it is made again when there is
room for it and as much again, and until then the log says that the disk is full.
"""

import os
from contextlib import suppress

from gateway.log.files import Files

FILL = bytes(1 << 20)
RETRY_S = 5.0  # between two looks for room


class Reserve:
    """`held`: it is there. `full`: the disk was full, and it could not be made again since."""

    def __init__(self, folder: str, size: int, files: Files) -> None:
        self._folder, self._path, self.size, self._files = folder, os.path.join(folder, "reserve"), size, files
        self.held = self.full = False
        self._not_before = 0.0

    def open(self) -> None:
        """Look whether it is there. Where the disk is so full that the log could not even be opened, it goes now."""
        self.held = self._files.taken(self._path) >= self.size
        if self.held and self._files.free(self._folder) < self.size // 4:
            self.spend()

    def due(self, now: float) -> bool:
        """make() should be tried (`now` in monotonic s)."""
        return not self.held and now >= self._not_before

    def make(self, now: float) -> None:
        """Take the room, if there is enough of it."""
        self._not_before = now + RETRY_S
        with suppress(OSError):  # it may have gone while we took it; then there is another time
            if self._files.free(self._folder) < 2 * self.size:
                return
            fd = self._files.open(self._path)
            try:
                for at in range(0, self.size, len(FILL)):
                    self._files.pwrite(fd, FILL[: self.size - at], at)
                self._files.fdatasync(fd)
            finally:
                self._files.close(fd)
            self.held, self.full = True, False

    def spend(self) -> None:
        """Give the room back."""
        self.held, self.full = False, True
        with suppress(OSError):
            self._files.remove(self._path)
