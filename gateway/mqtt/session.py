"""What a broker's session gave us, so that what it gives again is recognised and not recorded twice.

After a reconnect to a session that is still there, the broker sends again what we did not acknowledge, or what it did
not hear us acknowledge. Such a message has DUP set, and the packet id and the bytes of one that we received.

Why that is not enough. A broker may hand out the lowest free id. Then id 1 belongs to one message now and to the next a
moment later; if that one was lost on the dead connection and has the same bytes (two equal readings), DUP, id and bytes
all agree, and it would be taken for a repeat and lost. So repeats are only recognised where ids are seen to go round,
as mosquitto's do: then an id comes back after 65,535 messages, and can mean nothing else before. Two observations show
it; a broker that hands out the lowest free id can produce neither:

- an id above our Receive Maximum, in a run of consecutive ids: so many are never in use at once, a lower id was free
  (MQTT 3.1.1 has no such limit; there the id must be above MEMORY, as no broker has so many under way);
- after a resumed session's repeats, a new message whose id is above one that was free: none of the ids that came on
  this connection so far is it, and everything in use has been sent again before anything new.

Until the second one can be made, the first reads of a resumed session must be held back: `decide()` says when not.

How much can come again. A broker should never have more under way than our Receive Maximum, but mosquitto 2.0 has as
much as it likes: while it has a backlog, every acknowledgement lets up to a whole window out (eclipse-mosquitto #2301).
So many more are remembered, but a quarter of the ids only: when an id comes back as a new message, the old one must be
forgotten. And everything is sent again in the order it was sent first, before anything new: behind the
newest message that we have, and behind one without DUP, there are no repeats.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

from gateway.plugin import Remembered
from gateway.record import fingerprint, fingerprints

LAST_ID = 65535
MEMORY = 16384  # messages
RUN = 8  # consecutive ids in a row that make a habit
MOST_BYTES = 2 << 20  # of received messages that are kept as they are; beyond that, as fingerprints


class _Read(NamedTuple):
    """What one read brought, as it came."""

    ids: Sequence[int]
    keys: Sequence[str]
    values: Sequence[bytes]
    size: int


class Session:
    """The last messages that carried an id, over all connections of one session."""

    def __init__(self, memory: Sequence[Remembered]) -> None:
        self._shown = False  # a new message behind the repeats showed that ids go round
        self._most = MEMORY  # messages that the broker may have under way
        self._peak = 0  # the highest id in a run of consecutive ones
        self._run = 0
        self._last = 0
        self._newest = 0  # id of the last message that was no repeat
        self._ids = array("H", [one.id for one in memory[-MEMORY:]])
        self._prints = array("I", [one.crc for one in memory[-MEMORY:]])
        self._reads: deque[_Read] = deque()  # newer than those
        self._count = 0
        self._size = 0
        self._known: dict[int, int] = {}  # id -> fingerprint; empty when nothing can come again any more
        self._end = 0  # the newest of them
        self._since = 0  # messages on this connection that were compared
        self._undecided = False
        self.observe(self._ids)

    @property
    def cycling(self) -> bool:
        """The broker's ids are seen to go round."""
        return self._shown or self._peak > self._most

    def resumed(self, present: bool, receive_maximum: int | None) -> None:
        """A connection was made. `present`: the broker still has our session; `receive_maximum`: what it was told."""
        self._known, self._since, self._run = {}, 0, 0
        self._most = MEMORY if receive_maximum is None else receive_maximum
        if present:
            self._fold(0)
            self._known = dict(zip(self._ids, self._prints, strict=True))
            self._end = self._newest
        else:
            del self._ids[:], self._prints[:]
            self._reads.clear()
            self._count = self._size = 0
            self._shown, self._peak = False, 0
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
            self._shown = new > lowest
        elif any(seen) and not waited and len(messages) <= MEMORY:
            return False
        self._undecided = False
        return True

    def is_repeat(self, packet_id: int, key: str, value: bytes, duplicate: bool) -> bool:
        """Whether a message is one that we have. To be asked in order, of every message with an id, while `expecting`.

        `duplicate`: it has DUP set.
        """
        if not self._known:
            return False
        self._since += 1
        if duplicate and self.cycling and self._known.get(packet_id) == fingerprint(key, value):
            if packet_id == self._end:
                self._known = {}
            return True
        self._newest = packet_id
        if not duplicate or self._since > MEMORY:
            self._known = {}
        return False

    def took(self, ids: Sequence[int], keys: Sequence[str], values: Sequence[bytes], size: int) -> None:
        """These were recorded (id 0: QoS 0, never sent again). `size`: bytes of the read they came by."""
        self._reads.append(_Read(ids, keys, values, size))
        self._count += len(ids)
        self._size += size
        while self._count - len(self._reads[0].ids) >= MEMORY:  # most are forgotten before anyone compares them
            self._shift()
        if self._size > MOST_BYTES:
            self._fold(MOST_BYTES // 2)

    def observe(self, ids: Sequence[int]) -> None:
        """Ids of messages with QoS 1, in the order they came."""
        if ids and not self._known:
            self._newest = ids[-1]
        if self.cycling:
            return
        for packet_id in ids:
            self._run = self._run + 1 if packet_id == self._last % LAST_ID + 1 else 0
            self._last = packet_id
            if self._run >= RUN and packet_id > self._peak:
                self._peak = packet_id

    def _shift(self) -> _Read:
        read = self._reads.popleft()
        self._count -= len(read.ids)
        self._size -= read.size
        return read

    def _fold(self, most_bytes: int) -> None:
        """Keep the newest reads only as they came; of the others, what tells their messages apart."""
        ids: list[int] = []
        keys: list[str] = []
        values: list[bytes] = []
        while self._size > most_bytes:
            read = self._shift()
            ids += read.ids
            keys += read.keys
            values += read.values
        prints = fingerprints(keys, values)  # of many reads at once: most keys are in all of them
        if 0 in ids:  # QoS 0 among them
            prints, ids = compress(prints, ids), list(filter(None, ids))
        self._ids.extend(ids)
        self._prints.extend(prints)
        del self._ids[:-MEMORY], self._prints[:-MEMORY]
