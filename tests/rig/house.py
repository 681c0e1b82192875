"""The house as a driver or a sink sees it, made of lists: what came in is looked at, commits are made by the test."""

import asyncio
from collections import Counter

from gateway.clock import SystemClock
from gateway.errors import DriverUnavailable, SinkUnavailable
from gateway.plugin import Remembered
from gateway.record import Batch, Delivery, Extent, fingerprint

SUMMARY = {"state": "online", "version": "0", "sentence": "all is well", "level": "ok", "waiting": 0, "oldest_s": None}


class FakeInlet:
    """gateway.plugin.Inlet. `commit()` makes everything recorded so far durable and hands the receipts back."""

    def __init__(self, name="plant", memory=(), urgent=False, clock=None):
        self.name, self.gateway, self.memory, self.urgent = name, "g1", list(memory), urgent
        self.clock = clock or SystemClock()
        self.driver = None
        self.rows = []  # (stream, key, value, flag)
        self.calls = 0
        self.receipts = []
        self.committed = []  # rows
        self.remembered = []  # what a restart would remember
        self._ids = []
        self.hurries = 0
        self.leaving = False
        self.states = []  # ("up" | "waiting", detail)
        self.bad = []  # (reason, sample)
        self.counts = Counter()
        self.says = dict(SUMMARY)

    def record(self, stream, times, keys, values, *, flags=None, ids=None, receipt=None):
        assert len(times) == len(keys) == len(values)
        assert flags is None or len(flags) == len(values)
        assert ids is None or len(ids) == len(values)
        self.calls += 1
        self.rows += zip([stream] * len(keys), keys, values, flags or bytes(len(keys)), strict=True)
        if ids is not None:
            self._ids += [Remembered(i, fingerprint(k, v)) for i, k, v in zip(ids, keys, values, strict=True) if i]
        if receipt is not None:
            self.receipts.append(receipt)

    def commit(self):
        """Returns how many records became durable."""
        count = len(self.rows) - len(self.committed)
        self.committed = list(self.rows)
        self.remembered += self._ids
        receipts, self.receipts, self._ids = self.receipts, [], []
        if receipts:
            self.driver.acknowledge(receipts)
        return count

    def hurry(self):
        self.hurries += 1

    def up(self, detail=""):
        self.states.append(("up", detail))

    def waiting(self, detail):
        self.states.append(("waiting", detail))

    def bad_frame(self, reason, sample, count=1):
        self.bad.append((reason, sample))

    def count(self, metric, n=1):
        self.counts[metric] += n

    def summary(self):
        return dict(self.says)

    @property
    def values(self):
        return [row[2] for row in self.rows]


class House:
    """Runs one driver as the daemon does: turns, commits, and a new start when it gives up. Times in s.

    `commit=None`: only the test commits.
    """

    def __init__(self, plugin, options, *, turn=0.02, commit=0.05, floor=0.005, memory=(), name="plant"):
        self.inlet = FakeInlet(name, memory)
        self.driver = self.inlet.driver = plugin.build(options, self.inlet)
        self.turn, self.commit, self.floor = turn, commit, floor
        self.commits = 0
        self.failures = []
        self._tasks = []

    async def __aenter__(self):
        works = [self._run, self._turns] + ([self._commits] if self.commit is not None else [])
        self._tasks = [asyncio.create_task(work()) for work in works]
        return self

    async def __aexit__(self, *error):
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                raise result

    async def _run(self):
        while True:
            try:
                await self.driver.run()
            except DriverUnavailable as error:
                self.failures.append(str(error))
                await asyncio.sleep(0.05)

    async def _turns(self):
        while True:
            await asyncio.sleep(self.turn)
            self.driver.turn()

    async def _commits(self):
        loop = asyncio.get_running_loop()
        while True:
            seen, until = self.inlet.hurries, loop.time() + self.commit
            while loop.time() < until and self.inlet.hurries == seen:
                await asyncio.sleep(self.floor)
            if self.inlet.receipts or len(self.inlet.rows) > len(self.inlet.committed):
                self.commits += 1
                self.inlet.commit()


class FakeOutlet:
    """gateway.plugin.Outlet."""

    def __init__(self, name="cloud"):
        self.name, self.gateway, self.clock = name, "g1", SystemClock()
        self.leaving = False
        self.states = []
        self.counts = Counter()
        self.says = dict(SUMMARY)

    def up(self, detail=""):
        self.states.append(("up", detail))

    def waiting(self, detail):
        self.states.append(("waiting", detail))

    def count(self, metric, n=1):
        self.counts[metric] += n

    def summary(self):
        return dict(self.says)


def delivery(first, values, *, keys=None, stream="temps", body=None, content_type="application/x-ndjson", encoding=""):
    """One delivery of consecutive records; `body=None` with no content type is format `raw`."""
    keys = keys or ["k"] * len(values)
    batch = Batch(stream, first, [1] * len(values), keys, values)
    last = first + len(values) - 1
    body = b"\n".join(values) if body is None and content_type else body or b""
    return Delivery(
        f"g1/e1/{stream}/{first}-{last}", Extent(stream, first, last), [batch], [], content_type, encoding, body
    )


async def until(condition, timeout_s=20.0):
    """Wait for a condition that other tasks bring about."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while not condition():
        assert loop.time() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


async def sent(sink, what, timeout_s=20.0):
    """Send as the forwarder does: again and again until the far side is there."""
    end = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            return await sink.send(what)
        except SinkUnavailable:
            if asyncio.get_running_loop().time() > end:
                raise
            await asyncio.sleep(0.02)
