"""Reloads under a flood: valid ones and invalid ones, and nothing is lost or repeated; at full size, nothing is late."""

import itertools
import json
import random
import threading
import time
from collections import Counter

import pytest
from process import GatewayProcess

from gateway.testing import Mosquitto, Receiver, publish

pytestmark = [pytest.mark.fault, pytest.mark.integration]

RATE = 3000.0


class Edits:
    """One configuration after another: each differs from the last good one, and every third is a mistake."""

    def __init__(self, near: int, far: int, seed: int = 7) -> None:
        self._near, self._far, self._random = near, far, random.Random(seed)
        self.limit, self.records, self.in_flight, self.ahead = 0, 500, 4, 2000
        self.extra = self.typed = True
        self._next = itertools.cycle(range(6))

    def change(self) -> str:
        match next(self._next):
            case 0:
                self.extra = not self.extra
                return "sink extra"
            case 1:
                self.limit -= 1  # every reading passes, whatever it is
                return "pipeline sums"
            case 2:
                self.records = self._random.choice([n for n in (300, 400, 500, 700) if n != self.records])
                return "sink cloud"
            case 3:
                self.typed = not self.typed
                return "pipeline typed"
            case 4:
                self.ahead = 4001 - self.ahead
                return "driver plant"
            case _:
                self.in_flight = 9 - self.in_flight
                return "sink cloud"

    def finish(self) -> None:
        """Everything that was ever there is there again."""
        self.extra = self.typed = True

    def text(self, mistake: str = "") -> str:
        typed = (
            "  typed: {from: readings, schema: {n: int}, steps: [{emit: {n: n}}], to: typed}\n" if self.typed else ""
        )
        extra = self._sink("extra", "readings", 250, 4) if self.extra else ""
        return (
            "gateway: {id: g1, status: '127.0.0.1:{status}'}\nlog: {path: {log}, size: 512MiB}\n"
            f"drivers:\n  plant: {{driver: mqtt, url: 'mqtt://127.0.0.1:{self._near}', subscribe: ['plant/#'],"
            f" stream: readings, receive_maximum: {self.ahead}}}\n"
            "pipelines:\n"
            "  sums: {from: readings, schema: {n: int}, to: sums, steps: [{filter: n > " + str(self.limit - 1) + "},"
            " {window: {tumbling: 1s, agg: {count: count(), sum: sum(n)}}}]}\n"
            f"{typed}sinks:\n{self._sink('cloud', 'readings, sums', self.records, self.in_flight)}{extra}{mistake}"
        )

    def _sink(self, name: str, streams: str, records: int, in_flight: int) -> str:
        return (
            f"  {name}: {{sink: mqtt, url: 'mqtt://127.0.0.1:{self._far}', topic: 'gw/{name}/{{stream}}',"
            f" streams: [{streams}], batch: {{records: {records}, age: 100ms}}, in_flight: {in_flight},"
            " format: msgpack+zstd}\n"
        )


MISTAKES = ("  cloud: {}\n", "  other: {sink: mqtt, url: nowhere, streams: [readings]}\n", "  - what\n", "\tx: 1\n")


@pytest.mark.timeout(300)
def test_reloads_under_a_flood_lose_and_repeat_nothing(tmp_path, full):
    reloads = 50 if full else 15
    count = int(RATE * (reloads * 1.1 + 3))
    with (
        Mosquitto(tmp_path / "near") as near,
        Mosquitto(tmp_path / "far") as far,
        Receiver(far.port, "gw/cloud/#", "cloud") as cloud,
        Receiver(far.port, "gw/extra/#", "extra") as extra,
    ):
        receivers = {"cloud": cloud, "extra": extra}
        edits = Edits(near.port, far.port)
        gateway = GatewayProcess(tmp_path, "")

        def write(mistake: str = "") -> None:
            text = edits.text(mistake)
            text = text.replace("{status}", str(gateway.status)).replace("{log}", str(gateway.log_folder))
            gateway.config.write_text(text)

        write()
        over = threading.Event()
        collecting = [threading.Thread(target=_collect, args=(r, over), daemon=True) for r in receivers.values()]
        with gateway:
            time.sleep(0.5)
            sent: list[float] = []
            sender = threading.Thread(target=publish, args=(near.port, _flood(count, sent), RATE), daemon=True)
            for thread in (sender, *collecting):
                thread.start()
            done: Counter[str] = Counter()
            started = time.monotonic()
            for n in range(reloads):
                if n % 3 == 2:
                    write(MISTAKES[n // 3 % len(MISTAKES)])
                    assert gateway.reload() is None
                    done["refused"] += 1
                else:
                    changed = edits.change()
                    write()
                    assert gateway.reload()[0].startswith(changed)
                    done[changed] += 1
                time.sleep(max(0, started + 1.1 * (n + 1) - time.monotonic()))
            edits.finish()
            write()
            assert gateway.reload() is not None
            sender.join()
            _until(lambda: _quiet(receivers.values()), 60)  # counting takes the time that arrivals are stamped in
            _until(lambda: all(_arrived(r, "readings") >= count for r in receivers.values()), 60)
            _until(lambda: _counted(receivers["cloud"]) >= count, 60)
            restarts = gateway.metric("tidegate_restarts_total")
            redelivered = gateway.metric("tidegate_redelivered_total")
            over.set()
            for thread in collecting:
                thread.join()
        told = {(one.reader, one.stream): one for one in gateway.accounts().readers}
        assert told["sink:cloud", "readings"].delivered == told["sink:extra", "readings"].delivered == count
        for name, receiver in receivers.items():
            records = list(receiver.records("readings"))
            assert not receiver.conflicts, name
            assert Counter(int(r.value[5:-1]) for r in records) == Counter(range(count)), name
        sums = [json.loads(r.value) for r in receivers["cloud"].records("sums")]
        assert sum(row["count"] for row in sums) == count, (
            "a window's state survives every edit of the filter before it"
        )
        assert sum(row["sum"] for row in sums) == count * (count - 1) // 2
        assert restarts == 0
        # The last second's readings wait out the commit interval, whatever is reloaded: nothing follows that hurries it.
        latest = sorted(_delays(receivers["cloud"], sent[: -int(RATE)]))
        if full:  # on a machine that does nothing else
            assert latest[-1] <= 1.0
        print(
            f"{count} readings, {sum(done.values())} reloads {dict(done)}, {redelivered:.0f} redeliveries recognised,"
            f" {sum(r.repeats for r in receivers.values())} batches repeated; delay median"
            f" {latest[len(latest) // 2] * 1e3:.0f} ms, longest {latest[-1] * 1e3:.0f} ms"
        )


def _flood(count: int, sent: list[float]):
    for n in range(count):
        sent.append(time.monotonic())
        yield f"plant/{n % 50}", b'{"n":%d}' % n


def _collect(receiver: Receiver, over: threading.Event) -> None:
    while not over.is_set():
        receiver.collect(0.2)


def _quiet(receivers) -> bool:
    """Nothing has come for a second."""
    return all(time.monotonic() - max((b.at for b in list(r.batches.values())), default=0.0) > 1.0 for r in receivers)


def _arrived(receiver: Receiver, stream: str) -> int:
    return sum(Receiver._count(batch) for batch in list(receiver.batches.values()) if f"/{stream}/" in batch.id)


def _counted(receiver: Receiver) -> int:
    return sum(json.loads(r.value)["count"] for r in receiver.records("sums"))


def _delays(receiver: Receiver, sent: list[float]):
    """Seconds from the publishing of each of these readings to its arrival at the far side."""
    for batch in receiver.batches.values():
        if "/readings/" in batch.id:
            for record in batch.items():
                if (n := int(record.value[5:-1])) < len(sent):
                    yield batch.at - sent[n]


def _until(holds, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.2)
