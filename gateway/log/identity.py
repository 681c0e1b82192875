"""Which machine a log belongs to: its epoch is bound to one, so that a copy of it elsewhere begins a new epoch.

The file `machine`, one line: `bound SALT HASH CRC`, where HASH is SHA-256 over SALT and what names the machine, of
which nothing else is kept; or, in a backup, `copy live CRC` or `copy closed CRC`: its owner was at work when it was
made, or not. CRC is over what stands before it. A line that does not read back says nothing, like none: the log is
bound anew.

What names a machine is the serial number of its board, and where there is none /etc/machine-id. The first survives a
new card, a new system and a read-only one; the second is all that a container or a PC shows. Where neither is told,
nothing is bound and nothing compared.
"""

import hashlib
import os
import secrets
import zlib
from contextlib import suppress
from enum import Enum

from gateway.errors import LogError
from gateway.log.files import Files, as_log_errors
from gateway.log.store import Store

FILE = "machine"


class Standing(Enum):
    """Where a log is, seen from the machine it was bound to."""

    UNBOUND = "bound to no machine yet"
    HERE = "bound to this machine"
    ELSEWHERE = "bound to another machine"
    LIVE_COPY = "a backup, whose gateway went on"
    COPY = "a backup, made while no gateway ran"


def standing(folder: str, files: Files) -> Standing:
    """What the file says, here. What cannot be read says nothing."""
    try:
        line = files.head(os.path.join(folder, FILE), 256).decode("ascii", "replace")
    except OSError:
        return Standing.UNBOUND
    words, _, crc = line.strip().rpartition(" ")
    match words.split() if crc == _crc(words) else []:
        case ["copy", "live"]:
            return Standing.LIVE_COPY
        case ["copy", "closed"]:
            return Standing.COPY
        case ["bound", salt, digest]:
            name = files.machine()
            return Standing.HERE if not name or _digest(salt, name) == digest else Standing.ELSEWHERE
    return Standing.UNBOUND


def new_epoch_because(folder: str, files: Files) -> str:
    """Why this log has to begin a new epoch, in words; empty where it has not."""
    match standing(folder, files):
        case Standing.ELSEWHERE:
            why = "this log was recorded on another machine"
        case Standing.COPY | Standing.LIVE_COPY:
            why = "this log was restored from a backup"
        case _:
            return ""
    return f"{why}: a new epoch begins. Everything goes on from where it stood; what was under way is sent again"


def bind(folder: str, files: Files) -> None:
    """The log belongs to this machine from now on. Raises OSError."""
    path, name = os.path.join(folder, FILE), files.machine()
    if name:
        salt = secrets.token_hex(16)
        _write(path, f"bound {salt} {_digest(salt, name)}", files)
    elif files.exists(path):
        files.remove(path)
        files.sync_folder(folder)


def bind_if_due(folder: str, files: Files) -> None:
    """As bind(), where the log is not bound here already."""
    with suppress(OSError):  # the next start does it; until then a new epoch too many is the worst that comes of it
        if standing(folder, files) is not Standing.HERE:
            bind(folder, files)


def mark_copy(folder: str, files: Files, *, live: bool) -> None:
    """The log in this folder is a backup. Raises OSError."""
    _write(os.path.join(folder, FILE), f"copy {'live' if live else 'closed'}", files)


def adopt(folder: str, files: Files) -> None:
    """Bind the log to this machine without a new epoch. Raises LogTooNew, and LogError where a gateway has it open."""
    journal = os.path.join(folder, "journal")
    Store(os.path.join(folder, "log.db"), files).refuse_newer()
    with as_log_errors(f"cannot open {journal}"):
        if not files.exists(journal):
            raise LogError(f"there is no log in {folder}")
        fd = files.open(journal)
        try:
            files.lock(fd)
            bind(folder, files)
        except BlockingIOError as error:
            raise LogError(f"{journal} is in use: stop the gateway first") from error
        finally:
            files.close(fd)


def _write(path: str, words: str, files: Files) -> None:
    files.replace(path, f"{words} {_crc(words)}\n".encode("ascii"))


def _crc(words: str) -> str:
    return f"{zlib.crc32(words.encode('ascii', 'replace')):08x}"


def _digest(salt: str, name: str) -> str:
    return hashlib.sha256(f"{salt}{name}".encode()).hexdigest()
