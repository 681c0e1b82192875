"""A serial device on a pseudo-terminal, plugged in under one name that stays, whatever its number is."""

import os
import threading
import tty
from pathlib import Path


class Cable:
    """`path` is a link as those of /dev/serial/by-id; it is there while the device is plugged in."""

    def __init__(self, folder: Path, name: str = "usb-Plant_0001-if00-port0"):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / name
        self.refused = 0  # bytes that the line did not take
        self._master = self._slave = -1
        self.parked = []  # ports of others, which have the numbers that were ours
        self._had = set()

    def plug(self) -> str:
        """Returns the number it is given this time, another one than ever before."""
        self._master, self._slave = os.openpty()
        while os.ttyname(self._slave) in self._had:
            self.parked += [self._master, self._slave]
            self._master, self._slave = os.openpty()
        self._had.add(os.ttyname(self._slave))
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        number = os.ttyname(self._slave)
        self.path.symlink_to(number)
        return number

    def unplug(self) -> None:
        self.path.unlink()
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1

    def say(self, data: bytes) -> None:
        """Send without waiting, as a device does."""
        try:
            sent = os.write(self._master, data)
        except BlockingIOError:
            sent = 0
        self.refused += len(data) - sent

    def hear(self) -> bytes:
        """What was sent to the device."""
        try:
            return os.read(self._master, 65536)
        except BlockingIOError:
            return b""

    def __enter__(self):
        self.plug()
        return self

    def __exit__(self, *error):
        if self._master >= 0:
            self.unplug()
        for fd in self.parked:
            os.close(fd)


class Device(threading.Thread):
    """Answers what it is asked: `answer(question)` gives the bytes, or nothing. Questions end with CR LF, or have a size."""

    def __init__(self, cable: Cable, answer, size: int = 0):
        super().__init__(daemon=True)
        self._size = size
        self.asked, self._cable, self._answer, self._over = [], cable, answer, threading.Event()

    def run(self):
        rest = b""
        while not self._over.wait(0.001):
            *questions, rest = self._cut(rest + self._cable.hear())
            for question in questions:
                self.asked.append(question)
                said = self._answer(question)
                if said:
                    self._cable.say(said)

    def _cut(self, heard: bytes) -> list[bytes]:
        if not self._size:
            return heard.split(b"\r\n")
        return [heard[at : at + self._size] for at in range(0, len(heard) - len(heard) % self._size + 1, self._size)]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self.join()
