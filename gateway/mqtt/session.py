"""What a broker's session gave us, so that what it gives again is recognised and not recorded twice.

After a reconnect to a session that is still there, the broker sends again what we did not acknowledge, or what it did
not hear us acknowledge. Such a message has DUP set, and the packet id and the bytes of one that we received.

Why that is not enough. A broker may hand out the lowest free id. Then id 1 belongs to one message now and to the next a
moment later; if that one was lost on the dead connection and has the same bytes (two equal readings), DUP, id and bytes
all agree, and it would be taken for a repeat and lost. So repeats are only recognised where ids are seen to go round,
as mosquitto's do: then an id comes back after 65,535 messages, and can mean nothing else before. Two observations show
it; a broker that hands out the lowest free id can produce neither:

- an id above our Receive Maximum, in a run of consecutive ids: so many are never in use at once, a lower id was free;
- after a resumed session's repeats, a new message whose id is above one that was free: none of the ids that came on
  this connection so far is it, and everything in use has been sent again before anything new.

Until the second one can be made, the first reads of a resumed session must be held back: `decide()` says when not.
"""

from collections import deque
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from gateway.plugin import Remembered
from gateway.record import fingerprint

LAST_ID = 65535
RUN = 8  # consecutive ids in a row that make a habit
MOST_BYTES = 1 << 20  # of received payloads that are kept as they are; beyond that, as fingerprints


class _Read(NamedTuple):
    """What one read brought, for later comparison: as it came, or as fingerprints."""

    ids: Sequence[int]
    keys: Sequence[str]
    values: Sequence[bytes]
    prints: Sequence[int]
    size: int


class Session:
    """The last `capacity` messages that carried an id, over all connections of one session."""

    def __init__(self, capacity: int, memory: Sequence[Remembered]) -> None:
        self.cycling = False
        self._capacity = capacity
        self._run = 0
        self._last = 0
        self._reads: deque[_Read] = deque()
        self._count = 0
        self._size = 0
        self._known: dict[int, int] = {}  # id -> fingerprint; empty when nothing can come again any more
        self._since = 0  # messages with ids on this connection
        self._undecided = False
        if memory:
            ids = [one.id for one in memory]
            self._reads.append(_Read(ids, (), (), [one.crc for one in memory], 0))
            self._count = len(ids)
            self.observe(ids)

    def resumed(self, present: bool) -> None:
        """A connection was made; `present`: the broker still has our session."""
        self._known, self._since, self._run = {}, 0, 0
        if present:
            everything = chain.from_iterable(map(_prints, self._reads))
            self._known = dict(islice(everything, max(self._count - self._capacity, 0), None))
        else:
            self._reads.clear()
            self._count = self._size = 0
            self.cycling = False
        self._undecided = bool(self._known) and not self.cycling

    @property
    def expecting(self) -> bool:
        """Something that comes now may have come before."""
        return bool(self._known)

    def decide(self, messages: Sequence[Any], *, waited: bool = False) -> bool:
        """Whether the reads held so far may be handled. `messages`: their PUBLISH packets, in order."""
        if not self._undecided:
            return True
        seen = {message.packet_id for message in messages if message.duplicate}
        new = next((m.packet_id for m in messages if m.packet_id and not m.duplicate), None)
        if new is not None:
            lowest = next(n for n in range(1, LAST_ID + 2) if n not in seen)
            self.cycling = new > lowest
        elif any(seen) and not waited and len(messages) <= self._capacity:
            return False
        self._undecided = False
        return True

    def is_repeat(self, packet_id: int, key: str, value: bytes) -> bool:
        """Whether a message with DUP set is one that we have."""
        if not self.cycling:
            return False
        known = self._known.get(packet_id)
        return known is not None and known == fingerprint(key, value)

    def took(self, ids: Sequence[int], keys: Sequence[str], values: Sequence[bytes], size: int) -> None:
        """These were recorded (id 0: QoS 0, never sent again). `size`: bytes of the read they came by."""
        self._reads.append(_Read(ids, keys, values, (), size))
        self._count += len(ids)
        self._size += size
        while self._count - len(self._reads[0].ids) >= self._capacity:
            gone = self._reads.popleft()
            self._count -= len(gone.ids)
            self._size -= gone.size
        if self._size > MOST_BYTES:
            self._fold()

    def observe(self, ids: Sequence[int]) -> None:
        """Ids of messages with QoS 1, in the order they came."""
        self._since += len(ids)
        if self._known and self._since > self._capacity:
            self._known = {}
        if self.cycling:
            return
        for packet_id in ids:
            self._run = self._run + 1 if packet_id == self._last % LAST_ID + 1 else 0
            self._last = packet_id
            if self._run >= RUN and packet_id > self._capacity:
                self.cycling = True

    def _fold(self) -> None:
        """Keep the payloads of the newest reads only; of the others, what tells them apart."""
        for at, read in enumerate(self._reads):
            if self._size <= MOST_BYTES // 2:
                return
            if read.size:
                self._size -= read.size
                self._reads[at] = _Read(read.ids, (), (), [crc for _, crc in _prints(read)], 0)


def _prints(read: _Read) -> list[tuple[int, int]]:
    """(id, fingerprint) of every message of a read; of QoS 0 too, under id 0, which nothing is compared with."""
    return list(zip(read.ids, read.prints or map(fingerprint, read.keys, read.values), strict=True))
