"""The log against a plain list, under random histories: appended, committed, failed, sealed, evicted, killed, reopened."""

import errno
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from log_disk import FailingDisk, TurnedClock, killed, maintain, open_log, parts

from gateway.errors import LogError
from gateway.log import Keep
from gateway.record import Batch, Extent, Gap

# Some 10 s, but a failure is made smaller for up to 300 s before it is told. A timeout in the middle of that would be
# taken for one more failure, which does not happen again: it would be told as flaky, and the real one not at all.
pytestmark = pytest.mark.timeout(900)

STREAMS = ["a", "b", "c~10s"]
OPTIONS = {"journal": 24 << 10, "memory": 60_000, "seal": 40, "size": 90 << 10}


class LogAgainstAList(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed):
        self.rnd = random.Random(seed)
        self.home = Path(tempfile.mkdtemp())
        self.folder = self.home / "log-0"
        self.lives = 0
        self.clock = TurnedClock()
        self.disk = FailingDisk()
        self.log = open_log(self.folder, self.disk, self.clock, **OPTIONS)
        self.made = {stream: [] for stream in STREAMS}  # every record: (time, key, value, flag)
        self.durable = dict.fromkeys(STREAMS, 0)
        self.gone = {stream: set() for stream in STREAMS}
        self.position = self.durable_position = 0
        self.cuts, self.durable_cuts = [], []
        self.declare()

    def declare(self):
        self.log.declare("a", Keep())
        self.log.declare("b", Keep(size=1500))
        self.log.declare("c~10s", Keep(age_s=600, urgent=True))

    @rule(
        stream=st.sampled_from(STREAMS),
        count=st.sampled_from([1, 1, 3, 17, 60]),
        size=st.sampled_from([0, 5, 40, 300]),
        flagged=st.booleans(),
    )
    def append(self, stream, count, size, flagged):
        first = len(self.made[stream])
        values = [self.rnd.randbytes(size) for _ in range(count)]
        keys = [self.rnd.choice("xyz") for _ in range(count)]
        times = [self.clock.now() + self.rnd.randrange(-(10**9), 10**9) for _ in range(count)]
        flags = bytes(self.rnd.randrange(2) for _ in range(count)) if flagged else None
        batch = self.log.append(stream, times, keys, values, flags=flags)
        assert batch.first == first
        self.made[stream] += zip(times, keys, values, flags or bytes(count))
        assert self.log.peek(stream, first, 1000) is batch

    @rule()
    def cut(self):
        first = self.log.positions.cut_next("cloud", "a")
        last = len(self.made["a"]) - 1
        if first <= last:
            self.log.positions.cut("cloud", Extent("a", first, last))
            self.cuts.append(Extent("a", first, last))

    @precondition(lambda self: self.cuts)
    @rule()
    def settle(self):
        extent = self.cuts.pop(self.rnd.randrange(len(self.cuts)))
        self.log.positions.settle("cloud", extent)

    @rule(fails=st.sampled_from([None, None, None, "pwrite", "fdatasync", "COMMIT"]), turned=st.booleans())
    def commit(self, fails, turned):
        made = self.log.gather({} if turned else None)
        if fails:
            self.disk.failing, self.disk.code = {fails}, errno.EIO
            try:
                self.log.write(made)
            except LogError:
                assert self.log.durable("a") == self.durable["a"]
            self.disk.failing = set()
        self.log.write(made)
        self.log.committed(made)
        self.durable = {stream: len(records) for stream, records in self.made.items()}
        self.durable_cuts = list(self.cuts)

    @rule(fails=st.sampled_from([None, None, "BEGIN", "INSERT", "DELETE", "COMMIT"]))
    def maintain(self, fails):
        if fails:
            self.disk.failing = {fails}
            try:
                gone = maintain(self.log)
            except LogError:
                gone = []
            self.disk.failing = set()
        else:
            gone = maintain(self.log)
        for gap in gone:
            assert gap.cause in ("evicted", "expired")
            offsets = set(range(gap.first, gap.last + 1))
            assert not offsets & self.gone[gap.stream]
            for extent in self.durable_cuts:
                assert extent.stream != gap.stream or not offsets & set(range(extent.first, extent.last + 1))
            self.gone[gap.stream] |= offsets

    @rule(seconds=st.sampled_from([1, 61, 700]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule(kill=st.booleans())
    def reopen(self, kill):
        self.lives += 1
        target = self.home / f"log-{self.lives}"
        if kill:
            killed(self.log, self.folder, target)
            shutil.rmtree(self.folder)
        else:
            self.log.close()
            self.folder.rename(target)
        self.folder = target
        self.disk = FailingDisk()
        self.log = open_log(self.folder, self.disk, self.clock, **OPTIONS)
        self.declare()
        found = self.log.recovery
        assert (found.damaged, found.torn, found.gaps) == (0, False, [])
        for stream in STREAMS:  # what was not committed is gone as if it had never been; its offsets are given again
            del self.made[stream][self.durable[stream] :]
        self.cuts = list(self.durable_cuts)
        # an eviction may have happened that maintained() did not get to tell
        for stream in STREAMS:
            told = self.gone[stream]
            self.gone[stream] = {o for g in self.log.gaps(stream, 0, 1 << 40) for o in range(g.first, g.last + 1)}
            assert told <= self.gone[stream]

    @rule(stream=st.sampled_from(STREAMS), at=st.floats(0, 1), limit=st.sampled_from([1, 7, 1000]))
    def read_somewhere(self, stream, at, limit):
        offset = int(at * self.durable[stream])
        found = self.log.read(stream, offset, limit)
        if offset >= self.durable[stream]:
            assert found is None
        elif isinstance(found, Gap):
            assert found.first == offset
            assert set(range(found.first, found.last + 1)) <= self.gone[stream] or self.log._upkeep.done
        else:
            assert 1 <= len(found) <= limit
            self.same(found, stream)

    def same(self, batch, stream):
        flags = batch.flags or bytes(len(batch))
        assert list(zip(batch.times, batch.keys, batch.values, flags)) == self.made[stream][batch.first : batch.next]
        assert sum(n for _, n in batch.commits) == len(batch)

    @invariant()
    def everything_durable_is_there_or_a_gap(self):
        if not hasattr(self, "log"):
            return
        for stream in STREAMS:
            assert self.log.next(stream) == len(self.made[stream])
            assert self.log.durable(stream) == self.durable[stream]
            gone = set()
            for part in parts(self.log, stream, limit=50):
                if isinstance(part, Batch):
                    self.same(part, stream)
                else:
                    gone |= set(range(part.first, part.last + 1))
            assert self.gone[stream] <= gone
            if self.log._upkeep.done is None:  # else write() had to seal, and maintained() will tell
                assert gone == self.gone[stream]
                assert self.log.oldest(stream) not in gone
            assert set(range(self.log.oldest(stream))) <= gone
        assert self.log.positions.outstanding("cloud") == sorted(self.cuts)
        memory = sum(home.bytes for home in self.log._streams.homes.values())
        assert self.log.stats()["memory_bytes"] == memory

    def teardown(self):
        if hasattr(self, "log"):
            self.log.close()
            shutil.rmtree(self.home)


LogAgainstAList.TestCase.settings = settings(
    max_examples=120, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
test_the_log_is_a_list = LogAgainstAList.TestCase
