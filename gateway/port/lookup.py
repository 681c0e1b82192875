"""Which port is meant: a path, or a USB device by what it says of itself, which survives another number."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BY_ID = Path("/dev/serial/by-id")
CLASS = Path("/sys/class/tty")
DEV = Path("/dev")
MOST_TOLD = 6
_USB = re.compile(r"([0-9A-Fa-f]{4}):([0-9A-Fa-f]{4})(?::(\S+))?")


class NotThere(LookupError):
    """The port is not there now; the text says what is."""


class Usb(NamedTuple):
    """A USB device: what it is, and which one of its kind."""

    vendor: str  # four hexadecimal digits
    product: str
    serial: str | None

    @classmethod
    def parse(cls, text: str) -> "Usb":
        """Read `0403:6001` or `0403:6001:A50285BI`. Raises ValueError with what to write instead."""
        match = _USB.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no USB device; write VENDOR:PRODUCT as lsusb shows them, 0403:6001")
        return cls(match[1].lower(), match[2].lower(), match[3])

    def __str__(self) -> str:
        return ":".join(filter(None, self))


class Tty(NamedTuple):
    """A port that a USB device offers."""

    name: str  # ttyUSB0
    usb: Usb


def find(port: str | None, usb: Usb | None, *, tree: Path = CLASS, dev: Path = DEV) -> str:
    """The path of a port that is there now. Raises NotThere."""
    if usb is None:
        assert port is not None
        if not os.path.exists(port):
            raise NotThere(f"there is no {port}; is it plugged in? {_told(tree)}")
        return port
    fitting = [
        tty.name
        for tty in _ttys(tree)
        if tty.usb[:2] == usb[:2] and (usb.serial is None or tty.usb.serial == usb.serial)
    ]
    if not fitting:
        raise NotThere(f"no USB device {usb} is there; is it plugged in? {_told(tree)}")
    if len(fitting) > 1:
        hint = "write port: with one of /dev/serial/by-path" if usb.serial else "write usb: with its serial number too"
        raise NotThere(f"USB device {usb} has {len(fitting)} ports: {', '.join(fitting)}; {hint}")
    return str(dev / fitting[0])


def ports(by_id: Path = BY_ID, dev: Path = DEV) -> list[str]:
    """The paths of the ports that are there now, those that stay the same first."""
    try:
        named = sorted(by_id.iterdir())
    except OSError:
        named = []
    usual = [path for pattern in ("serial[0-9]", "ttyUSB*", "ttyACM*") for path in sorted(dev.glob(pattern))]
    told = {path.resolve() for path in named}
    return [str(path) for path in [*named, *(path for path in usual if path.resolve() not in told)]]


def _ttys(tree: Path) -> Iterator[Tty]:
    """Every port of a USB device, sorted."""
    try:
        names = sorted(name for name in os.listdir(tree) if name.startswith(("ttyUSB", "ttyACM")))
    except OSError:
        return
    for name in names:
        folder = (tree / name / "device").resolve()
        while folder != folder.parent and not (folder / "idVendor").exists():
            folder = folder.parent
        vendor, product = _line(folder / "idVendor"), _line(folder / "idProduct")
        if vendor and product:
            yield Tty(name, Usb(vendor.lower(), product.lower(), _line(folder / "serial")))


def _line(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def _told(tree: Path) -> str:
    """What ports there are, for somebody who looks for the right one."""
    try:
        names = [str(path) for path in sorted(BY_ID.iterdir())]
    except OSError:
        names = []
    names = names or [f"{tty.name} (usb: {tty.usb})" for tty in _ttys(tree)]
    if not names:
        return "There is no USB serial port at all now"
    more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
    return f"There are {', '.join(names[:MOST_TOLD])}{more}"
