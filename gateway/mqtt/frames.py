"""Bytes in, packets out: the receive buffer of one connection, and what is done with bytes that are no packets.

- One buffer, preallocated, decoded as a whole after every read; it grows to the largest packet that is allowed.
- A PUBLISH that is broken inside, or too large, is skipped by its length: the packets behind it are not lost, and the
  broker can be told not to send it again. It appears among the packets as `Spoilt`.
- Everything else that is broken ends the framing: the last packet is a `Spoilt` with `fatal` set, and later bytes are
  ignored.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from mqtt5 import Packet

from gateway.mqtt.codec import FIVE, NO_UTF8

START = (
    80 * 1024
)  # bytes; more than the largest topic, so that the head of any PUBLISH fits; a read that stays in cache
SAMPLE = 64  # bytes of a broken packet that are kept
PUBLISH = 3


class Spoilt(NamedTuple):
    """A packet that could not be used: why, its first bytes, and its id and QoS as far as they can be read."""

    reason: str
    sample: bytes
    packet_id: int = 0
    qos: int = 0
    fatal: bool = False


Taken: TypeAlias = "list[Packet | Spoilt]"


class Frames:
    """The receiving half of a connection.

    `limit`: bytes of the largest packet that is taken, START at least. `read`: that of a Codec.
    """

    def __init__(self, limit: int, read: Callable[[memoryview], tuple[Packet, int]] = FIVE.read) -> None:
        self._read = read
        self._limit = max(limit, START)  # what fits the buffer is taken: the outcome must not depend on how reads fall
        self._buffer = bytearray(START)
        self._view = memoryview(self._buffer)
        self._have = 0
        self._skip = 0  # bytes of a spoilt packet that are still to come
        self._lost = False

    def space(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return self._view[self._have :]

    def take(self, count: int) -> Taken:
        """`count` bytes were put into `space()`: every packet that is complete now. Never raises."""
        packets: Taken = []
        if self._lost:
            return packets
        end = self._have + count
        at = min(self._skip, end)
        self._skip -= at
        view, read, append = self._view, self._read, packets.append
        while at < end:
            try:
                while at < end:
                    packet, size = read(view[at:end])
                    append(packet)
                    at += size
                break
            except IndexError:
                total = self._total(at, end)
                if total <= self._limit:
                    self._make_room(max(total, 1))
                    break
                reason = f"packet of {total} bytes is larger than max_packet ({self._limit})"
            except ValueError as error:
                reason = str(error)
            except BaseException as error:
                # mqtt5 0.8 panics at text that is no UTF-8, and a Rust panic is no Exception. The codec keeps no state
                # between packets, so going on is safe; anything else (KeyboardInterrupt) is not ours to hold.
                if type(error).__name__ != "PanicException":
                    raise
                reason = NO_UTF8
            step = self._spoil(at, end, reason, packets)
            if step == 0:
                break
            at += step
        if at > end:
            self._skip, at = at - end, end
        if self._lost:
            at = end
        left = end - at
        if at and left:
            self._buffer[:left] = self._buffer[at:end]
        self._have = left
        return packets

    def _spoil(self, at: int, end: int, reason: str, packets: Taken) -> int:
        """Note the broken packet at `at`. Returns how far it goes, 0 while its head is not complete."""
        view = self._view
        head, length = self._head(at, end)
        kind, qos = view[at] >> 4, view[at] >> 1 & 3
        sample = bytes(view[at : min(end, at + SAMPLE)])
        if kind != PUBLISH or qos == 3 or head == 0:
            self._lost = True
            packets.append(Spoilt(reason, sample, fatal=True))
            return end - at
        total, packet_id = head + length, 0
        if qos:
            need = head + 2
            if end - at >= need:
                need += (view[at + head] << 8 | view[at + head + 1]) + 2
            if need <= total:
                if end - at < need:
                    return 0
                packet_id = view[at + need - 2] << 8 | view[at + need - 1]
        packets.append(Spoilt(reason, sample, packet_id, qos))
        return total

    def _total(self, at: int, end: int) -> int:
        """Bytes of the packet that begins at `at`; 0 while its length is not complete."""
        head, length = self._head(at, end)
        return head + length if head else 0

    def _head(self, at: int, end: int) -> tuple[int, int]:
        """(bytes of the fixed header, bytes that follow it); (0, 0) while the length is incomplete or not valid."""
        length = 0
        for n in range(4):
            place = at + 1 + n
            if place >= end:
                break
            byte = self._view[place]
            length |= (byte & 127) << 7 * n
            if byte < 128:
                return n + 2, length
        return 0, 0

    def _make_room(self, total: int) -> None:
        """A packet of `total` bytes must fit."""
        if total > len(self._buffer):
            grown = bytearray(total)
            grown[: len(self._buffer)] = self._buffer
            self._buffer, self._view = grown, memoryview(grown)
