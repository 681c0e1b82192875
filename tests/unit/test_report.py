"""What the API may read of a log: page by page, bounded in records and bytes."""

import asyncio
from types import SimpleNamespace

import pytest

from gateway.record import Batch, Gap, Record
from gateway.report import Report
from gateway.status.server import NoStream

SIZE = 100_000  # bytes of each payload
BLOCK = 8  # records that one read gives at most


class Recorded:
    """A log of 100 large records behind a gap, which counts what is read of it."""

    def __init__(self):
        self.read_bytes = 0
        self.log = SimpleNamespace(streams=lambda: ["large"])

    async def read(self, stream, first, limit):
        if first < 50:
            return Gap(stream, 0, 49, "evicted")
        count = max(min(BLOCK, limit, 150 - first), 0)
        self.read_bytes += count * SIZE
        return Batch(stream, first, [1] * count, ["k"] * count, [bytes(SIZE)] * count) if count else None


@pytest.fixture
def daemon():
    return Recorded()


def read(daemon, *args):
    return asyncio.run(Report(daemon).records("large", *args))


def test_reading_stops_when_there_is_enough_for_one_answer(daemon):
    items, after = read(daemon, 0, 1000, 1 << 20)
    assert (len(items), after) == (1 + 11, 50 + 11)
    assert daemon.read_bytes <= (1 << 20) + BLOCK * SIZE


@pytest.mark.parametrize("room", [1, SIZE, SIZE + 1, 3 * SIZE, 1 << 20, 10**9, None])
def test_pages_follow_one_another_without_a_hole_and_each_has_a_record(daemon, room):
    at, found = 0, []
    while True:
        items, after = read(daemon, at, 30, room)
        if not items:
            break
        records = [item for item in items if isinstance(item, Record)]
        assert records
        assert room is None or sum(len(record.value) for record in records[:-1]) < room
        found += [record.offset for record in records]
        at = after
    assert found == list(range(50, 150))


def test_an_unknown_stream_is_refused(daemon):
    with pytest.raises(NoStream):
        asyncio.run(Report(daemon).records("other", 0, 1))
