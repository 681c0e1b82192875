"""Takes every batch after a moment, refuses a record now and then, and notes what it was sent and what it confirmed."""

import asyncio
import random

import msgspec
from marks import mark

from gateway.plugin import Outlet, Plugin
from gateway.record import Delivery, Receipt, Rejected

EXAMPLE = "sink: heard\nstreams: [fast]\n"


class Options(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """seed: another number, other refusals."""

    seed: int = 1


class Heard:
    def __init__(self, options: Options, outlet: Outlet) -> None:
        self._outlet, self._rnd = outlet, random.Random(options.seed)

    async def run(self) -> None:
        self._outlet.up("listening")
        await asyncio.Event().wait()

    async def send(self, delivery: Delivery) -> Receipt:
        extent = (delivery.extent.stream, delivery.extent.first, delivery.extent.last)
        mark(kind="sent", id=delivery.id, extent=extent)
        await asyncio.sleep(self._rnd.choice((0.0, 0.01, 0.05)))
        mark(kind="confirmed", extent=extent)
        refused = self._rnd.random() < 0.1
        return Receipt((Rejected(delivery.extent.first, "too odd"),) if refused else ())


plugin = Plugin(Options, Heard)
