"""What is wrong with a port, in words for the person who can do something about it."""

import errno
import grp
import os
import pwd
from pathlib import Path


def refused(path: str, error: OSError) -> str:
    """Why a port could not be opened, and what to try."""
    code = error.errno
    if code in (errno.EBUSY, errno.EWOULDBLOCK):
        return busy(path)
    if code in (errno.EACCES, errno.EPERM):
        return _forbidden(path)
    if code in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EIO):
        return f"{path} is there and its device is not ({_said(error)}); plug it in again"
    if code in (errno.ENOTTY, errno.EINVAL):
        return f"{path} does not take these settings ({_said(error)}); is it a serial port, and does it know this baud?"
    return f"{path} cannot be opened: {_said(error)}"


def busy(path: str) -> str:
    """Another program has the port."""
    holders = _holders(path)
    who = f"{', '.join(holders)} has it" if holders else "another program has it"
    return (
        f"{path} is busy: {who}; only one program can read a port. Where that is a gateway, `tidegate tail` shows what "
        f"it reads; else try: sudo fuser -v {path}"
    )


def _forbidden(path: str) -> str:
    me = _name_of(pwd.getpwuid, os.geteuid(), "pw_name")
    try:
        owner = os.stat(path)
    except OSError:
        return f"{me} may not open {path}"
    group = _name_of(grp.getgrgid, owner.st_gid, "gr_name")
    if not owner.st_mode & 0o020:
        return f"{me} may not open {path}: mode {owner.st_mode & 0o777:04o} lets no group write; correct the udev rule"
    return f"{me} may not open {path}; it belongs to the group {group}: sudo usermod -aG {group} {me}, and start again"


def _name_of(look_up: object, number: int, field: str) -> str:
    try:
        return str(getattr(look_up(number), field))  # type: ignore[operator]
    except KeyError:
        return str(number)


def _holders(path: str) -> list[str]:
    """The programs that have a file open, as far as we may see them: `minicom (process 812)`."""
    found = []
    device = os.path.realpath(path)
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            if any(os.readlink(fd) == device for fd in (process / "fd").iterdir()):
                found.append(f"{(process / 'comm').read_text().strip()} (process {process.name})")
        except OSError:
            continue  # gone, or somebody else's
    return found


def _said(error: OSError) -> str:
    return error.strerror or str(error)
