"""Server-sent events: the status, the last hour and the newest records, followed as they change.

GET /api/v1/events[?stream=NAME]
    event: status   the object of /api/v1/status: at once, then every 2 s if something in it changed
    event: history  {"until": ns, "values": {series: number or null}}: the next column of /api/v1/history, every 10 s
    event: records  {"stream", "records": [as on the wire, newest last, at most 50], "skipped": n}: at most once a
                    second, where a stream was asked for; `skipped` are records since the last event that it leaves out
    and a comment at least every 15 s, so that both ends know of each other.

A viewer is one coroutine that sends what is newest whenever it is ready for more: one that reads slowly sees less, and
nothing is kept for it. What all of them see is made once. Without viewers there is nothing that wakes up.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.formats import wire_line
from gateway.record import Gap
from gateway.status.server import Source

MOST_VIEWERS = 8
STATUS_S = 2.0
RECORDS_S = 1.0
HEARTBEAT_S = 15.0
SHARE = 50  # a status is made at most this part of the time: with a thousand streams it comes more rarely
MOST_RECORDS = 50
MOST_BYTES = 256 << 10  # of records in one event, though always the newest one

_ALWAYS_NEW = ("now", "uptime_s")  # what changes in a status although nothing happened


class Viewers:
    """Everybody who follows, and what they all see. Used on the event loop."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.count = 0
        self._due = 0.0  # monotonic s when the status may be made again
        self._essence = b""
        self._event = b""

    def status(self) -> dict[str, Any]:
        """The status, with the number of viewers in it."""
        return {**self._source.status(), "viewers": self.count}

    def status_event(self) -> bytes:
        """The newest status as an event; the same object as before where nothing changed."""
        begun = time.monotonic()
        if begun >= self._due:
            status = self.status()
            essence = msgspec.json.encode({name: part for name, part in status.items() if name not in _ALWAYS_NEW})
            if essence != self._essence:
                self._essence, self._event = essence, event("status", msgspec.json.encode(status))
            now = time.monotonic()
            self._due = now + max(STATUS_S / 2, SHARE * (now - begun))  # viewers that came at different times share it
        return self._event

    async def records_event(self, stream: str, at: int) -> tuple[bytes, int]:
        """What came since `at`, as far as it is new enough to be shown; and where that ends. b"" where nothing came."""
        end = self._source.end(stream)
        if end <= at:
            return b"", at
        first = max(at, end - MOST_RECORDS)
        items, _ = await self._source.records(stream, first, MOST_RECORDS)
        lines: list[bytes] = []
        room = MOST_BYTES
        while items and (not lines or room > 0):
            item = items.pop()
            line = wire_line(item)
            room -= len(line)
            if room > 0 or not lines:
                lines.append(line)
                first = item.first if isinstance(item, Gap) else item.offset
        head = msgspec.json.encode({"stream": stream, "skipped": max(first - at, 0)})[:-1]
        return event("records", head + b',"records":[' + b",".join(lines[::-1]) + b"]}"), end


def event(name: str, data: bytes) -> bytes:
    """One event; `data` has no line breaks."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


class Follow(Response):
    """The endless answer to one viewer."""

    def __init__(self, viewers: Viewers, source: Source, stream: str | None) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._viewers, self._source, self._stream = viewers, source, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin: Message = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await send(begin)
            await send({"type": "http.response.body", "body": b""})
            return
        self._viewers.count += 1
        try:
            scope["state"]["lasting"]()
            await send(begin)
            async for chunk in self._chunks(receive):
                if not scope["state"]["admitted"]():  # the session has ended, or the token is another one
                    break
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._viewers.count -= 1

    async def _chunks(self, receive: Receive) -> AsyncIterator[bytes]:
        """What is new, whenever the viewer is ready for it; ends when it is gone."""
        until = self._source.newest()["until"]
        at = max(self._source.end(self._stream) - MOST_RECORDS, 0) if self._stream else 0
        status, told, spoke = b"", -STATUS_S, time.monotonic()
        while True:
            parts: list[bytes] = []
            now = time.monotonic()
            if now - told >= STATUS_S - RECORDS_S / 2:
                told = now
                if (newest := self._viewers.status_event()) is not status:
                    status = newest
                    parts.append(status)
            column = self._source.newest()
            if column["until"] != until:
                until = column["until"]
                parts.append(event("history", msgspec.json.encode(column)))
            if self._stream:
                records, at = await self._viewers.records_event(self._stream, at)
                parts.append(records)
            body = b"".join(parts) or (b":\n\n" if now - spoke >= HEARTBEAT_S - STATUS_S else b"")
            if body:
                spoke = now
                yield body
            if await _gone(receive, RECORDS_S if self._stream else STATUS_S):
                return


async def _gone(receive: Receive, seconds: float) -> bool:
    """Wait that long, or until the viewer has left."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True
