"""Makes readings as a broker at QoS 1 delivers them, as fast as they are acknowledged, and notes what was acknowledged."""

import asyncio
import random
from typing import Annotated

import msgspec
from marks import mark

from gateway.plugin import Inlet, Plugin

EXAMPLE = "driver: told\nseed: 1\n"


class Options(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """seed: another number, other readings. window: readings under way."""

    seed: int = 1
    window: Annotated[int, msgspec.Meta(ge=1)] = 400

    def streams(self) -> list[str]:
        return ["fast", "slow"]


class Told:
    def __init__(self, options: Options, inlet: Inlet) -> None:
        self._inlet, self._rnd, self._window = inlet, random.Random(options.seed), options.window
        self._made = self._open = 0
        self._paused = True

    async def run(self) -> None:
        self._inlet.up("made up")
        self._paused = False
        await asyncio.Event().wait()

    def turn(self) -> None:
        if self._paused:
            return
        log = self._inlet._intake.log
        count = min(self._rnd.choice((1, 3, 20, 60, 150)), self._window - self._open)
        if count > 0:
            self._record("fast", count, receipt=("fast", log.next("fast") + count), ids=True)
            self._open += count
        if self._rnd.random() < 0.3:
            self._record("slow", 1, receipt=("slow", log.next("slow") + 1))
        if self._rnd.random() < 0.04:  # more than the journal may have room for
            now, value = self._inlet.clock.now(), self._rnd.randbytes(24_000)
            self._inlet.record("slow", [now], ["image"], [value], receipt=("slow", log.next("slow") + 1))

    def _record(self, stream: str, count: int, receipt: object, ids: bool = False) -> None:
        rnd, at = self._rnd, self._made
        self._made += count
        times = [1_790_000_000_000_000_000 + (at + n) * 50_000_000 for n in range(count)]
        values = [b'{"ts":%.2f,"v":%.2f}' % (time / 1e9, rnd.uniform(-9, 99)) for time in times]
        numbers = [(at + n) % 65535 + 1 for n in range(count)] if ids else None
        self._inlet.record(stream, times, [f"k/{n % 5}" for n in range(count)], values, ids=numbers, receipt=receipt)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def acknowledge(self, receipts) -> None:
        newest: dict[str, int] = {}
        for stream, next_ in receipts:
            newest[stream] = max(next_, newest.get(stream, 0))
        if "fast" in newest:
            self._open = self._inlet._intake.log.next("fast") - newest["fast"]
        mark(kind="acknowledged", next=newest)


plugin = Plugin(Options, Told)
