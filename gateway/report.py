"""What the daemon says of itself: the status, the streams, the metrics, and the records it lets be read."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gateway import __version__
from gateway.clock import Clock
from gateway.config import Config
from gateway.forwarder import Forwarder
from gateway.health import Board
from gateway.intake import Intake
from gateway.log import Log
from gateway.metrics import Metrics
from gateway.record import DEAD_LETTERS, Batch, Gap, Record
from gateway.status.server import NoStream


class Running(Protocol):
    """What the report needs of a daemon."""

    config: Config
    log: Log
    metrics: Metrics
    board: Board
    clock: Clock
    ready: bool

    @property
    def stopping(self) -> bool: ...

    @property
    def intake(self) -> Intake: ...

    async def read(self, stream: str, first: int, limit: int) -> Batch | Gap | None: ...

    async def in_reading_thread(self, work: Callable[[], int]) -> int: ...


class Report:
    """gateway.status.Source over a running daemon. Before the log is recovered it says so and nothing else."""

    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon
        self._started = time.monotonic()

    def ready(self) -> tuple[bool, Sequence[str]]:
        board = self._daemon.board
        needed = [c for c in board.not_up() if c.name.startswith("driver:") or c.name == "log"]
        reasons = [f"{c.name}: {c.detail or c.state}" for c in needed]
        if not self._daemon.ready:
            reasons.insert(0, "the log is being recovered, or the daemon is stopping")
        return not reasons, reasons

    def status(self) -> dict[str, Any]:
        daemon = self._daemon
        figures: dict[str, Any] = daemon.log.stats()
        return {
            "gateway": daemon.config.gateway.id,
            "version": __version__,
            "epoch": daemon.log.epoch,
            "uptime_s": round(time.monotonic() - self._started, 1),
            "ready": self.ready()[0],
            "sentence": self._sentence(),
            "components": daemon.board.rows(),
            **self.streams(),
            "readers": self._readers(),
            "pipelines": [{"name": entry.name, **entry.program.stats()} for entry in daemon.config.pipelines.values()],
            "log": {
                "path": daemon.config.log.path,
                "bytes": figures["log_bytes"],
                "limit_bytes": int(daemon.config.log.size),
                "device_bytes": figures["device_bytes"],
                "commits": figures["commits"],
                "seals": figures["seals"],
            },
            "loss_window_records": daemon.intake.loss_window if daemon.ready else 0,
        }

    def summary(self) -> dict[str, object]:
        """What plugins may tell others of this gateway (gateway.plugin.Inlet)."""
        daemon = self._daemon
        forwarders = daemon.intake.forwarders
        oldest = [f.oldest(lane.stream) for f in forwarders for lane in f.lanes]
        times = [time for time in oldest if time is not None]
        return {
            "state": "stopping" if daemon.stopping else "online",
            "version": __version__,
            "sentence": self._sentence(),
            "level": self._level(),
            "waiting": sum(forwarder.lag for forwarder in forwarders),
            "oldest_s": round((daemon.clock.now() - min(times)) / 1e9, 1) if times else None,
        }

    def _level(self) -> str:
        """`ok`, `attention` while something waits for others, `trouble` where something of ours does not work."""
        states = {component.state for component in self._daemon.board.not_up()}
        if "failed" in states or self._daemon.board.state("log") != "up":
            return "trouble"
        return "attention" if states else "ok"

    def _sentence(self) -> str:
        """Who is up, and what was lost or could not be processed since the start."""
        daemon = self._daemon
        parts = [daemon.board.sentence()]
        if daemon.ready:
            parts += [f"{n} records of {s} are gone before everyone had them" for s, n in daemon.intake.lost.items()]
        dead = sum(n for name, _, n in daemon.metrics.snapshot() if name == "dead_total")
        if dead:
            letters = "dead letter" if dead == 1 else "dead letters"
            parts.append(f"{dead:.0f} {letters} since the start (tidegate read {DEAD_LETTERS})")
        return "; ".join(parts)

    def streams(self) -> dict[str, Any]:
        log, config = self._daemon.log, self._daemon.config
        figures: dict[str, Any] = log.stats()
        return {
            "streams": [
                {
                    "name": name,
                    "first": log.oldest(name),
                    "next": log.durable(name),
                    "bytes": figures["block_bytes"].get(name, 0),
                    "gone": sum(map(len, log.gaps(name, 0, log.durable(name) - 1))),
                    "lost": self._daemon.intake.lost.get(name, 0) if self._daemon.ready else 0,
                    "blocks": figures["blocks"].get(name, 0),
                    "priority": config.streams[name].priority if name in config.streams else "normal",
                }
                for name in log.streams()
            ]
        }

    def _readers(self) -> list[dict[str, Any]]:
        """The readers of this configuration; positions of others are parked, outside lag."""
        daemon = self._daemon
        if not daemon.ready:
            return []
        rows = []
        senders: dict[str, Forwarder] = {forwarder.reader: forwarder for forwarder in daemon.intake.forwarders}
        wanted = {name: [lane.stream for lane in sender.lanes] for name, sender in senders.items()}
        for entry in daemon.config.pipelines.values():
            wanted[f"pipeline:{entry.name}"] = list(entry.program.inputs)
        for reader, streams in wanted.items():
            for stream in streams:
                position = daemon.log.positions.where(reader, stream)
                if position is None:
                    continue
                oldest = senders[reader].oldest(stream) if reader in senders else None
                rows.append(
                    {
                        "reader": reader,
                        "stream": stream,
                        "position": min(position, daemon.log.durable(stream)),  # a coming commit is not told of
                        "lag": max(daemon.log.durable(stream) - position, 0),
                        "oldest_unsent_s": None if oldest is None else round((daemon.clock.now() - oldest) / 1e9, 1),
                    }
                )
        return rows

    async def records(self, stream: str, first: int, limit: int) -> tuple[list[Record | Gap], int]:
        self._known(stream)
        items: list[Record | Gap] = []
        at = max(first, 0)
        while len(items) < limit:
            found = await self._daemon.read(stream, at, limit - len(items))
            if found is None:
                break
            if isinstance(found, Gap):
                items.append(found)
                at = found.last + 1
            else:
                items += found.records()
                at = found.next
        return items, at

    async def seek(self, stream: str, time: int) -> int:
        self._known(stream)
        return await self._daemon.in_reading_thread(lambda: self._daemon.log.seek(stream, time))

    def metrics(self) -> bytes:
        daemon = self._daemon
        figures: dict[str, Any] = daemon.log.stats()
        daemon.metrics.set("log_bytes", figures["log_bytes"])
        daemon.metrics.set("log_device_bytes_total", figures["device_bytes"])
        daemon.metrics.set("uptime_seconds", time.monotonic() - self._started)
        if daemon.ready:
            daemon.metrics.set("loss_window_records", daemon.intake.loss_window)
            for entry in daemon.config.pipelines.values():
                for what, count in entry.program.stats().items():
                    daemon.metrics.set(f"pipeline_{what}", count, pipeline=entry.name)
            for row in self._readers():
                labels = {"reader": row["reader"], "stream": row["stream"]}
                daemon.metrics.set("lag_records", row["lag"], **labels)
                daemon.metrics.set("oldest_unsent_seconds", row["oldest_unsent_s"] or 0, **labels)
        return daemon.metrics.exposition()

    def _known(self, stream: str) -> None:
        if stream not in self._daemon.log.streams():
            raise NoStream(stream)
