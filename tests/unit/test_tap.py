"""The tap, at real pipes, terminals and sockets: read at the turn, early where a buffer would overflow, else asleep."""

import asyncio
import fcntl
import os
import socket
import struct
import termios
import tty

import pytest
from house import until

from gateway.tap import Tap


def waiting(fd):
    """Bytes that can be read now."""
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]


class Cup:
    """What came out of a tap."""

    def __init__(self):
        self.data, self.looks, self.ends, self.silences = b"", 0, [], 0

    def taken(self, data):
        self.data += data
        self.looks += 1

    def silent(self):
        self.silences += 1

    def tap(self, fd, **options):
        os.set_blocking(fd, False)
        return Tap(fd, self.taken, self.ends.append, idle=self.silent, **{"holds": 65536, **options})


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture
def line():
    """Master and slave of a pseudo-terminal that is raw."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, slave
    for fd in (master, slave):
        try:
            os.close(fd)
        except OSError:
            pass


def test_what_comes_between_turns_is_read_at_the_turn_in_one_go(pipe):
    async def main():
        cup = Cup()
        tap = cup.tap(pipe[0], holds=4096, per_s=1)  # half full after half an hour: it waits for the turn
        tap.open()
        for _ in range(50):
            os.write(pipe[1], b"12345\n")
            await asyncio.sleep(0)
        assert cup.looks == 0
        tap.turn()
        assert (cup.data, cup.looks) == (b"12345\n" * 50, 1)
        tap.close()

    asyncio.run(main())


def test_a_silent_source_is_not_even_asked(pipe, monkeypatch):
    async def main():
        cup, reads = Cup(), []
        tap = cup.tap(pipe[0])
        tap.open()
        really = os.read
        monkeypatch.setattr(os, "read", lambda *a: reads.append(a) or really(*a))
        for _ in range(100):
            await asyncio.sleep(0)
            tap.turn()
        assert not reads
        os.write(pipe[1], b"x")
        await until(lambda: cup.data == b"x")
        tap.close()

    asyncio.run(main())


def test_a_line_is_read_before_the_kernel_has_no_room_though_no_turn_comes(line):
    async def main():
        os.set_blocking(line[0], False)
        cup, sent, refused = Cup(), 0, 0
        tap = cup.tap(line[1], holds=4096, per_s=92_160)
        tap.open()
        loop = asyncio.get_running_loop()
        began = loop.time()
        while sent < 92_160:
            due = min(int((loop.time() - began) * 92_160), sent + 1000) - sent
            if due > 0:
                try:
                    sent += os.write(line[0], b"x" * due)
                except BlockingIOError:
                    refused += 1
            await asyncio.sleep(0.001)
        await until(lambda: len(cup.data) == sent)
        assert refused == 0
        assert tap.brimful == 0
        assert cup.looks < 100  # of 92,160 bytes in a second: about 2 KiB each
        tap.close()

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_writer_without_a_known_rate_is_not_held_up_for_long(kind, pipe):
    async def main():
        near, far = socket.socketpair()
        fd, write = (pipe[0], lambda data: os.write(pipe[1], data)) if kind == "pipe" else (near.fileno(), far.send)
        cup = Cup()
        tap = cup.tap(fd)
        tap.open()
        total = 8 << 20

        def pour():
            left = total
            while left:
                left -= write(b"y" * min(left, 65536))

        pouring = asyncio.get_running_loop().run_in_executor(None, pour)
        await until(lambda: len(cup.data) == total)
        await pouring
        assert cup.looks < 2000
        tap.close()
        near.close()
        far.close()

    asyncio.run(main())


def test_a_flood_is_taken_in_pieces_between_which_others_have_their_turn(tmp_path):
    async def main():
        (tmp_path / "flood").write_bytes(b"y\n" * (1 << 20))
        with (tmp_path / "flood").open("rb") as file:
            cup, pieces = Cup(), []
            tap = Tap(file.fileno(), lambda data: pieces.append(len(data)), cup.ends.append, holds=65536, urgent=True)
            tap.open()
            await until(lambda: cup.ends)
            assert sum(pieces) == 2 << 20
            assert max(pieces) < 2 * 65536

    asyncio.run(main())


def test_a_paused_tap_reads_nothing_and_a_resumed_one_everything(pipe):
    async def main():
        cup = Cup()
        tap = cup.tap(pipe[0], urgent=True)
        tap.open()
        tap.pause()
        os.write(pipe[1], b"a" * 1000)
        for _ in range(20):
            tap.turn()
            await asyncio.sleep(0)
        assert cup.data == b""
        tap.resume()
        assert cup.data == b"a" * 1000
        os.write(pipe[1], b"b")
        await until(lambda: cup.data.endswith(b"b"))
        tap.close()

    asyncio.run(main())


def test_a_full_buffer_is_noticed(line):
    async def main():
        os.set_blocking(line[0], False)
        cup = Cup()
        tap = cup.tap(line[1], holds=4096, per_s=960)
        tap.open()
        tap.pause()
        with pytest.raises(BlockingIOError):
            while True:
                os.write(line[0], b"z" * 512)
        await until(lambda: waiting(line[1]) >= 4095)  # the kernel carries bytes over in its own time
        tap.resume()
        assert tap.brimful == 1
        tap.close()

    asyncio.run(main())


@pytest.mark.parametrize("which", ["pipe", "line"])
def test_the_end_is_told_once_after_all_that_came_before_it(which, pipe, line):
    async def main():
        write, read = (pipe[1], pipe[0]) if which == "pipe" else line
        cup = Cup()
        tap = cup.tap(read)
        tap.open()
        if which == "pipe":
            os.write(write, b"last words")
        os.close(write)
        await until(lambda: cup.ends)
        tap.turn()
        tap.resume()
        assert len(cup.ends) == 1
        assert cup.data == (b"last words" if which == "pipe" else b"")

    asyncio.run(main())


def test_silence_is_told_after_something_came_and_not_again(line):
    async def main():
        cup = Cup()
        tap = cup.tap(line[1], holds=4096, per_s=960, idle_s=0.03)
        tap.open()
        await asyncio.sleep(0.1)
        assert cup.silences == 0
        for said in (1, 2):
            os.write(line[0], b"frame")
            await until(lambda: cup.silences == said)
        assert cup.data == b"frameframe"
        await asyncio.sleep(0.1)
        assert cup.silences == 2
        tap.close()

    asyncio.run(main())
