"""What the daemon says of itself: the status and its sentence, the last hour, the metrics, and the records it lets be
read.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from gateway import __version__
from gateway.errors import ConfigError
from gateway.health import Component
from gateway.outlook import Lag, Outlook
from gateway.outlook import Running as Judged
from gateway.record import DEAD_LETTERS, Batch, Gap, Record, sizes
from gateway.status.dead import dead_letters
from gateway.status.server import NoStream
from gateway.summary import alarms
from gateway.wear import Wear

DEAD_LOOK = 500  # dead letters that are looked at for one answer …
DEAD_BYTES = 2 << 20  # … and about how many bytes of them
DEAD_CHUNK = 50

T = TypeVar("T")


class Running(Judged, Protocol):
    """What the report needs of a daemon."""

    loaded: int  # ns: when the configuration was taken
    reloads: int  # since the start
    moved: str  # why this start began a new epoch of the log, in words
    wear: Wear

    async def read(self, stream: str, first: int, limit: int) -> Batch | Gap | None: ...

    async def in_reading_thread(self, work: Callable[[], T]) -> T: ...

    async def reload(self) -> list[str]: ...


class Report:
    """gateway.status.Source over a running daemon. Before the log is recovered it says so and nothing else."""

    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon
        self.outlook = Outlook(daemon)
        self._started = time.monotonic()

    def ready(self) -> tuple[bool, Sequence[str]]:
        board = self._daemon.board
        needed = [c for c in board.not_up() if c.name.startswith("driver:") or c.name == "log"]
        reasons = [f"{c.name}: {c.detail or c.state}" for c in needed]
        if not self._daemon.ready:
            reasons.insert(0, "the log is being recovered, or the daemon is stopping")
        return not reasons, reasons

    def status(self) -> dict[str, Any]:
        daemon, readers = self._daemon, self.outlook.readers()
        lags = self.outlook.lags(readers)
        said = self.outlook.judge(lags)
        return {
            "gateway": daemon.config.gateway.id,
            "version": __version__,
            "epoch": daemon.log.epoch,
            "now": daemon.clock.now(),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "ready": self.ready()[0],
            "sentence": said.sentence,
            "level": said.level,
            "components": daemon.board.rows(),
            "drivers": self._drivers(),
            **self.streams(),
            "pipelines": self._pipelines(readers),
            "sinks": self._sinks(lags),
            "readers": readers,
            "log": self._log(),
            "loss_window_records": daemon.intake.loss_window if daemon.ready else 0,
            "config": {
                "files": list(daemon.config.files),
                "loaded": daemon.loaded,
                "reloads": daemon.reloads,
                "problems": [problem._asdict() for problem in daemon.problems],
            },
        }

    def summary(self) -> dict[str, object]:
        """What plugins may tell others of this gateway (gateway.plugin.Inlet)."""
        lags = self.outlook.lags(self.outlook.readers())
        said = self.outlook.judge(lags)
        forwarders = self._daemon.intake.forwarders  # asked directly: the outlook ends where the stop begins
        return {
            "state": "stopping" if self._daemon.stopping else "online",
            "version": __version__,
            "sentence": said.sentence,
            "level": said.level,
            "waiting": sum(forwarder.lag for forwarder in forwarders),
            "oldest_s": max((lag.oldest_s for lag in lags.values() if lag.oldest_s is not None), default=None),
        }

    def history(self) -> dict[str, Any]:
        return self.outlook.history.whole()

    def newest(self) -> dict[str, Any]:
        return self.outlook.history.newest()

    def streams(self) -> dict[str, Any]:
        log, config = self._daemon.log, self._daemon.config
        figures: dict[str, Any] = log.stats()
        return {
            "streams": [
                {
                    "name": name,
                    "first": log.oldest(name),
                    "next": log.durable(name),
                    "newest": log.newest_time(name),
                    "rate": self.outlook.rate(f"stream:{name}", log.next(name)),
                    "bytes": figures["block_bytes"].get(name, 0),
                    "gone": sum(map(len, log.gaps(name, 0, log.durable(name) - 1))),
                    "lost": self._daemon.intake.lost.get(name, 0) if self._daemon.ready else 0,
                    "blocks": figures["blocks"].get(name, 0),
                    "priority": config.streams[name].priority if name in config.streams else "normal",
                }
                for name in log.streams()
            ]
        }

    def _drivers(self) -> list[dict[str, Any]]:
        metrics = self._daemon.metrics
        records, bad = metrics.by("records_in_total", "driver"), metrics.by("frames_bad_total", "driver")
        return [
            {
                "name": name,
                "kind": entry.driver,
                "streams": list(entry.streams),
                "rate": self.outlook.rate(f"driver:{name}", records.get(name, 0)),
                "records": int(records.get(name, 0)),
                "bad_frames": int(bad.get(name, 0)),
                **self._state(f"driver:{name}"),
            }
            for name, entry in self._daemon.config.drivers.items()
        ]

    def _sinks(self, lags: Mapping[str, Lag]) -> list[dict[str, Any]]:
        metrics = self._daemon.metrics
        delivered, wire = metrics.by("delivered_total", "sink"), metrics.by("wire_bytes_total", "sink")
        return [
            {
                "name": name,
                "kind": entry.sink,
                "streams": list(entry.streams),
                "rate": self.outlook.rate(f"sink:{name}", delivered.get(name, 0)),
                "delivered": int(delivered.get(name, 0)),
                "lag": lags[name].records,
                "oldest_unsent_s": lags[name].oldest_s,
                "wire_bytes": int(wire.get(name, 0)),
                **self._state(f"sink:{name}"),
            }
            for name, entry in self._daemon.config.sinks.items()
        ]

    def _pipelines(self, readers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        derived = self._daemon.metrics.by("derived_total", "pipeline")
        lags: dict[str, int] = {}
        for row in readers:
            lags[row["reader"]] = lags.get(row["reader"], 0) + row["lag"]
        rows = []
        for name, entry in self._daemon.config.pipelines.items():
            state, stats = self._state(f"pipeline:{name}"), entry.program.stats()
            if stats.get("raised"):
                state["detail"] = "; ".join(filter(None, [alarms(stats["raised"]), state["detail"]]))
            rows.append(
                {
                    "name": name,
                    "inputs": list(entry.program.inputs),
                    "outputs": list(entry.program.outputs),
                    "rate": self.outlook.rate(f"pipeline:{name}", derived.get(name, 0)),
                    "lag": lags.get(f"pipeline:{name}", 0),
                    **state,
                    **stats,
                }
            )
        return rows

    def pipelines(self) -> dict[str, Any]:
        return {
            "pipelines": [
                {
                    "name": name,
                    "inputs": list(entry.program.inputs),
                    "outputs": list(entry.program.outputs),
                    "definition": entry.definition,
                    "stats": entry.program.stats(),
                }
                for name, entry in self._daemon.config.pipelines.items()
            ]
        }

    def _state(self, component: str) -> dict[str, Any]:
        part = self._daemon.board.find(component) or Component(component, self._daemon.clock.now())
        return {"state": part.state, "detail": part.detail, "since": part.since, "restarts": part.restarts}

    def _log(self) -> dict[str, Any]:
        daemon = self._daemon
        figures: dict[str, Any] = daemon.log.stats()
        oldest = [time for name in daemon.log.streams() if (time := daemon.log.oldest_time(name)) is not None]
        room = self.outlook.room_s()
        return {
            "path": str(daemon.config.log.path),
            "bytes": figures["log_bytes"],
            "limit_bytes": int(daemon.config.log.size),
            "device_bytes": figures["device_bytes"],
            "commits": figures["commits"],
            "seals": figures["seals"],
            "wear": daemon.wear.status(),
            "quarantine_files": figures["quarantine"][0],
            "quarantine_bytes": figures["quarantine"][1],
            "horizon_s": round(max(daemon.clock.now() - min(oldest), 0) / 1e9, 1) if oldest else None,
            "room_s": None if room is None else round(room),
            "moved": daemon.moved or None,
        }

    # -- records -------------------------------------------------------------------------------------------------------

    async def records(
        self, stream: str, first: int, limit: int, room: int | None = None
    ) -> tuple[list[Record | Gap], int]:
        self._known(stream)
        items: list[Record | Gap] = []
        at = max(first, 0)
        while len(items) < limit and (room is None or room > 0):
            found = await self._daemon.read(stream, at, limit - len(items))
            if found is None:
                break
            if isinstance(found, Gap):
                items.append(found)
                at = found.last + 1
            else:
                if room is not None:
                    filled = sizes(found.values)
                    fit = bisect_left(filled, room) + 1
                    found = found.slice(found.first, found.first + fit)
                    room -= filled[len(found) - 1]
                items += found.records()
                at = found.next
        return items, at

    def end(self, stream: str) -> int:
        self._known(stream)
        return self._daemon.log.durable(stream)

    async def seek(self, stream: str, time: int) -> int:
        self._known(stream)
        return await self._daemon.in_reading_thread(lambda: self._daemon.log.seek(stream, time))

    async def dead(self, limit: int) -> dict[str, Any]:
        daemon = self._daemon
        newest: list[Record] = []
        size = 0
        stop = daemon.log.durable(DEAD_LETTERS) if DEAD_LETTERS in daemon.log.streams() else 0
        kept = stop - daemon.log.oldest(DEAD_LETTERS) if stop else 0
        oldest = stop - min(kept, DEAD_LOOK)
        while stop > oldest and size < DEAD_BYTES:
            first = max(stop - DEAD_CHUNK, oldest)
            items, _ = await self.records(DEAD_LETTERS, first, stop - first)
            found = [item for item in items if isinstance(item, Record) and item.offset < stop]
            newest += reversed(found)
            size += sum(len(record.value) for record in found)
            stop = first
        return {
            "total": int(daemon.metrics.value("dead_total")),
            "suppressed": int(daemon.metrics.value("dead_suppressed_total")),
            "kept": kept,
            **dead_letters(newest, limit),
        }

    async def reload(self) -> dict[str, Any]:
        try:
            return {"ok": True, "changes": await self._daemon.reload()}
        except ConfigError as error:
            return {"ok": False, "problems": [problem._asdict() for problem in error.problems]}

    def metrics(self) -> bytes:
        """What Prometheus scrapes."""
        self.measure()
        return self._daemon.metrics.exposition()

    def measure(self) -> None:
        """Bring up to date the numbers that are kept elsewhere than in the metrics."""
        daemon = self._daemon
        figures: dict[str, Any] = daemon.log.stats()
        daemon.metrics.set("log_bytes", figures["log_bytes"])
        daemon.metrics.set("log_device_bytes_total", figures["device_bytes"])
        if (taken := daemon.wear.device_bytes) is not None:
            daemon.metrics.set("device_bytes_total", taken)
        daemon.metrics.set("commit_interval_seconds", daemon.wear.budget.commit_s)
        daemon.metrics.set("uptime_seconds", time.monotonic() - self._started)
        if daemon.ready:
            daemon.metrics.set("loss_window_records", daemon.intake.loss_window)
            for entry in daemon.config.pipelines.values():
                for what, count in entry.program.stats().items():
                    daemon.metrics.set(f"pipeline_{what}", count, pipeline=entry.name)
            for row in self.outlook.readers():
                labels = {"reader": row["reader"], "stream": row["stream"]}
                daemon.metrics.set("lag_records", row["lag"], **labels)
                daemon.metrics.set("oldest_unsent_seconds", row["oldest_unsent_s"] or 0, **labels)

    def _known(self, stream: str) -> None:
        if stream not in self._daemon.log.streams():
            raise NoStream(stream)
