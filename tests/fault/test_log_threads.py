"""Three threads on one log, as in the daemon: one gathers, one writes and seals, others read."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

from log_disk import open_log

from gateway.log import Keep
from gateway.record import Batch


def value(offset: int) -> bytes:
    return b"%d:%d" % (offset, offset * 2654435761 % 1000003)


def test_readers_in_other_threads_see_every_record_or_its_gap_whatever_is_sealed_or_evicted_meanwhile(tmp_path):
    log = open_log(tmp_path / "log", memory=300_000)
    log.declare("s", Keep(size=20_000))
    log.declare("whole", Keep())
    stop, wrong, seen = threading.Event(), [], []

    def read(stream: str, seed: int) -> None:
        rnd, at, count = random.Random(seed), 0, 0
        try:
            while not stop.is_set() or at < log.durable(stream):
                found = log.read(stream, at, rnd.choice([1, 50, 1000]))
                if found is None:
                    stop.wait(0.001)
                    continue
                assert found.first == at
                if isinstance(found, Batch):
                    assert list(found.values) == [value(offset) for offset in range(at, found.next)]
                    at = found.next
                    count += len(found)
                else:
                    assert (stream, found.cause) == ("s", "evicted")
                    at = found.last + 1
                if rnd.random() < 0.02:
                    at = rnd.randrange(at)
        except BaseException as error:
            wrong.append(error)
        seen.append(count)

    readers = [threading.Thread(target=read, args=(stream, seed)) for seed in range(2) for stream in ("s", "whole")]
    for reader in readers:
        reader.start()
    rnd = random.Random(7)
    with ThreadPoolExecutor(1) as writer:
        for _ in range(400):
            for stream in ("s", "whole"):
                first = log.next(stream)
                values = [value(offset) for offset in range(first, first + rnd.choice([1, 5, 40]))]
                log.append(stream, [0] * len(values), ["k"] * len(values), values)
            commit = log.gather()
            future = writer.submit(log.write, commit)
            log.append("s", [0], ["k"], [value(log.next("s"))])  # gathers on meanwhile
            future.result()
            log.committed(commit)
            if log.maintenance_due:
                log.maintained(writer.submit(log.maintain).result())
    stop.set()
    for reader in readers:
        reader.join(30)
    assert not wrong
    assert len(seen) == 4
    assert min(seen) > 1000
    assert log.stats()["evicted_blocks"] > 10
    log.close()
