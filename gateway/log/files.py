"""The one door to the disk: every file of the log is opened, written and synced through here.

A test puts a recording or failing disk under the log by giving it another `Files`.
"""

import errno
import fcntl
import os
import pwd
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol
from urllib.parse import quote

from gateway.errors import LogDamaged, LogError, LogFull


class Files(Protocol):
    """What the log asks of a file system. Everything blocks, and raises OSError or sqlite3.Error."""

    def make_folder(self, path: str) -> None:
        """Create the folder, for its owner alone, where it is missing; it is on the device when this returns.

        Who else may look is for the folder to say: what is in it can be read by its group, as far as the umask goes.
        """
        ...

    def head(self, path: str, size: int) -> bytes:
        """The first bytes of a file, or none where there is no file. Opens it for reading only."""
        ...

    def open(self, path: str) -> int:
        """A descriptor to read and write the file; created where it is missing."""
        ...

    def look_at(self, path: str) -> int:
        """A descriptor to read a file that is there."""
        ...

    def lock(self, fd: int) -> None:
        """Take the file for this process alone. Raises BlockingIOError where another one has it."""
        ...

    def size(self, fd: int) -> int: ...

    def pread(self, fd: int, size: int, offset: int) -> bytes: ...

    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data` or raise."""
        ...

    def fdatasync(self, fd: int) -> None: ...

    def close(self, fd: int) -> None: ...

    def sync_folder(self, path: str) -> None:
        """Put the folder's entries on the device."""
        ...

    def connect(self, path: str, *, readonly: bool = False) -> sqlite3.Connection: ...

    def exists(self, path: str) -> bool: ...

    def look(self, path: str, *, immutable: bool) -> sqlite3.Connection:
        """A connection that changes and creates nothing, nor the files beside the database.

        `immutable`: nobody has the database open, and it takes no locks; else its -wal and -shm are there.
        """
        ...

    def boot_id(self) -> str:
        """Names this boot of the machine, in 32 hex digits: monotonic times are comparable within one.

        Empty where nobody tells.
        """
        ...

    def machine(self) -> str:
        """Names this machine among others, by what it is and not by what it is called. Empty where nobody tells."""
        ...

    def foreign(self, path: str) -> str:
        """What stands there, in words, where it is neither a plain file nor nothing. Opens nothing."""
        ...

    def listing(self, path: str) -> list[str]:
        """What is in a folder, sorted; nothing where there is none."""
        ...

    def move(self, old: str, new: str) -> None:
        """Rename a file; durable after sync_folder()."""
        ...

    def remove(self, path: str) -> None:
        """A file that may not be there."""
        ...

    def replace(self, path: str, content: bytes) -> None:
        """A small file, with this content or as it was, whatever happens. On the device when this returns."""
        ...

    def taken(self, path: str) -> int:
        """Bytes that a file takes on the disk, holes left out; 0 where there is none."""
        ...

    def free(self, path: str) -> int:
        """Bytes that we could still write to the file system that holds this path."""
        ...


BOOT_VARIABLE = "TIDEGATE_BOOT_ID"  # the unit's, for in its sandbox /proc holds processes alone


class SystemFiles:
    """The operating system's own."""

    boot_file = "/proc/sys/kernel/random/boot_id"  # random(4); with dashes, systemd's has none
    board_file = "/sys/firmware/devicetree/base/serial-number"  # not below /proc: the unit's sandbox hides that
    machine_file = "/etc/machine-id"  # machine-id(5)

    def make_folder(self, path: str) -> None:
        above = missing = os.path.dirname(os.path.abspath(path))
        fresh = not os.path.isdir(path)
        if fresh:
            while not os.path.isdir(missing):
                missing = os.path.dirname(missing)
            os.makedirs(path, mode=0o700)
        # Also of one that was there: whoever made it may have ended before this, or been told that it failed.
        try:
            self.sync_folder(above)
        except PermissionError:  # a folder of others that one may only pass through
            if fresh:
                raise
        while above != missing:
            above = os.path.dirname(above)
            self.sync_folder(above)

    def head(self, path: str, size: int) -> bytes:
        try:
            with open(path, "rb") as file:
                return file.read(size)
        except FileNotFoundError:
            return b""

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)

    def look_at(self, path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def lock(self, fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:  # a signal or a nearly full disk may cut a write short
            done = os.pwrite(fd, view, offset)
            view, offset = view[done:], offset + done

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def sync_folder(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def connect(self, path: str, *, readonly: bool = False) -> sqlite3.Connection:
        if not readonly:
            os.close(self.open(path))  # SQLite gives the -wal and -shm beside it the same permissions
        uri = f"file:{quote(os.path.abspath(path))}?mode={'ro' if readonly else 'rw'}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def look(self, path: str, *, immutable: bool) -> sqlite3.Connection:
        how = "immutable=1" if immutable else "readonly_shm=1"
        uri = f"file:{quote(os.path.abspath(path))}?mode=ro&{how}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0)

    def boot_id(self) -> str:
        told = self.head(self.boot_file, 36).decode("ascii", "replace")
        return (told or os.environ.get(BOOT_VARIABLE, "")).replace("-", "")[:32]

    def machine(self) -> str:
        for kind, file in (("board", self.board_file), ("machine", self.machine_file)):
            with suppress(OSError):
                told = self.head(file, 64).decode("ascii", "replace").strip("\0 \n")
                if told.strip("0") and told != "uninitialized":
                    return f"{kind} {told}"
        return ""

    def foreign(self, path: str) -> str:
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return ""
        kinds = {stat.S_IFREG: "", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe"}
        return kinds.get(stat.S_IFMT(mode), "a device or a socket")

    def listing(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def move(self, old: str, new: str) -> None:
        os.rename(old, new)

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path)

    def replace(self, path: str, content: bytes) -> None:
        beside = path + ".new"
        self.remove(beside)
        fd = self.open(beside)
        try:
            self.pwrite(fd, content, 0)
            self.fdatasync(fd)
        finally:
            self.close(fd)
        self.move(beside, path)
        self.sync_folder(os.path.dirname(path))

    def taken(self, path: str) -> int:
        try:
            return os.lstat(path).st_blocks * 512
        except FileNotFoundError:
            return 0

    def free(self, path: str) -> int:
        room = os.statvfs(path)
        return room.f_bavail * room.f_frsize


DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
UNREADABLE = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def as_log_errors(what: str) -> Iterator[None]:
    """Foreign errors become ours once, here: LogFull where there is no room, LogError for the rest.

    `what` ends with the path; the text says it once, why it cannot be, and what to try.
    """
    try:
        yield
    except OSError as error:
        kind = LogFull if error.errno in NO_ROOM else LogError
        raise kind(f"{what}: {_words(error)}") from error
    except sqlite3.Error as error:
        raise _kind(error)(f"{what}: {error}") from error


def _kind(error: sqlite3.Error) -> type[LogError]:
    """What an error of SQLite is to us. What a medium does not give back is damaged, too."""
    code = getattr(error, "sqlite_errorcode", None)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE):
        return LogFull
    if code is None:  # of Python's own module
        return LogDamaged if "UTF-8" in str(error) else LogError
    return LogDamaged if code in UNREADABLE or code & 0xFF in DAMAGED else LogError


def _words(error: OSError) -> str:
    """Why the disk refused, and what to try; for a path of the log that exists or was to be created."""
    file = os.fspath(error.filename) if isinstance(error.filename, str) else ""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "there is a file where the folder should be; remove it, or write another log.path"
    if error.errno == errno.EROFS:
        return "the file system is read-only; mount it for writing, or write another log.path"
    if isinstance(error, PermissionError) and file:
        there = os.path.abspath(file)
        while not os.path.exists(there) and there != os.path.dirname(there):
            there = os.path.dirname(there)  # what does not exist is refused by the folder it was to be in
        try:
            found = os.stat(there)
        except OSError:
            return f"user {_user(os.geteuid())} may not; write another log.path"
        me, owner = _user(os.geteuid()), _user(found.st_uid)
        which = "it" if there == os.path.abspath(file) else there
        return (
            f"user {me} may not write there ({which} belongs to {owner}, mode {stat.S_IMODE(found.st_mode):04o}); "
            f"try: make the log's own folder if it is missing and chown -R {me} it, or write another log.path"
        )
    return error.strerror or str(error)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
