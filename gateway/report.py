"""What the daemon says of itself: the status and its sentence, the last hour, the metrics, and the records it lets be
read.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from gateway import __version__
from gateway.clock import Clock
from gateway.config import Config
from gateway.errors import Problem
from gateway.forwarder import Forwarder
from gateway.health import Board, Component
from gateway.history import STEP_S, History, Meter
from gateway.intake import Intake
from gateway.log import Log
from gateway.metrics import Metrics
from gateway.record import DEAD_LETTERS, Batch, Gap, Record
from gateway.status.dead import dead_letters
from gateway.status.server import NoStream
from gateway.summary import Destination, Figures, Part, Verdict, summary

DEAD_LOOK = 500  # dead letters that are looked at for one answer …
DEAD_BYTES = 2 << 20  # … and about how many bytes of them
DEAD_CHUNK = 50


class Running(Protocol):
    """What the report needs of a daemon."""

    config: Config
    log: Log
    metrics: Metrics
    board: Board
    clock: Clock
    ready: bool
    loaded: int  # ns: when the configuration was taken
    reloads: int  # since the start
    problems: tuple[Problem, ...]  # of the last reload, if it was refused

    @property
    def stopping(self) -> bool: ...
    @property
    def intake(self) -> Intake: ...

    async def read(self, stream: str, first: int, limit: int) -> Batch | Gap | None: ...

    async def in_reading_thread(self, work: Callable[[], int]) -> int: ...

    async def reload(self) -> dict[str, Any]: ...


class Lag(NamedTuple):
    """What waits for one sink."""

    records: int
    oldest_s: float | None  # age of the oldest one, as far as it is known


class Report:
    """gateway.status.Source over a running daemon. Before the log is recovered it says so and nothing else."""

    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon
        self._started = time.monotonic()
        self._history = History()
        self._meters: dict[str, Meter] = {}
        self._sampled: float | None = None

    # -- samples -------------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Once per STEP_S while the daemon is ready: remember the numbers of this moment."""
        daemon, now = self._daemon, self._daemon.clock.monotonic()
        totals = self._totals()
        if self._sampled is None:  # counters are as old as the daemon, streams are not
            self._meters = {name: Meter(n if name.startswith("stream:") else 0.0, now) for name, n in totals.items()}
            self._sampled = now
            return
        before, self._meters = self._meters, {}
        rates: dict[str, float | None] = {}
        for name, total in totals.items():
            meter = self._meters[name] = before.get(name) or Meter(total, now)
            rates[name] = meter.read(total, now)
        lags = self._lags(self._readers())
        figures: dict[str, Any] = daemon.log.stats()
        columns = {"in": rates["in"], "out": rates["out"]}
        columns["waiting"] = sum(lag.records for lag in lags.values())
        columns["log_bytes"] = figures["log_bytes"]
        for name, lag in lags.items():
            columns |= {f"sink:{name}": rates.get(f"sink:{name}"), f"lag:{name}": lag.records}
        columns |= {name: rates[name] for name in totals if name.startswith("driver:")}
        missed = max(round((now - self._sampled) / STEP_S) - 1, 0)
        self._history.add(daemon.clock.now(), columns, missed)
        self._sampled = now

    def _totals(self) -> dict[str, float]:
        """Every counter that has a rate, as `kind:name`."""
        daemon = self._daemon
        count, config = daemon.metrics, daemon.config
        totals = {
            "in": count.value("records_in_total"),
            "out": count.value("delivered_total"),
            "dead": count.value("dead_total"),
            "lost": float(sum(daemon.intake.lost.values())) if daemon.ready else 0.0,
        }
        for kind, metric, names in (
            ("driver", "records_in_total", config.drivers),
            ("sink", "delivered_total", config.sinks),
            ("pipeline", "derived_total", config.pipelines),
        ):
            sums = count.by(metric, kind)
            totals |= {f"{kind}:{name}": sums.get(name, 0.0) for name in names}
        totals |= {f"stream:{name}": float(daemon.log.next(name)) for name in daemon.log.streams()}
        return totals

    def history(self) -> dict[str, Any]:
        return self._history.whole()

    def newest(self) -> dict[str, Any]:
        return self._history.newest()

    # -- the sentence --------------------------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """How it all is: one sentence and its level."""
        return self._verdict(self._lags(self._readers()))

    def summary(self) -> dict[str, object]:
        """What plugins may tell others of this gateway (gateway.plugin.Inlet)."""
        lags = self._lags(self._readers())
        said = self._verdict(lags)
        return {
            "state": "stopping" if self._daemon.stopping else "online",
            "version": __version__,
            "sentence": said.sentence,
            "level": said.level,
            "waiting": sum(lag.records for lag in lags.values()),
            "oldest_s": max((lag.oldest_s for lag in lags.values() if lag.oldest_s is not None), default=None),
        }

    def _verdict(self, lags: Mapping[str, Lag]) -> Verdict:
        daemon = self._daemon
        if not daemon.ready:
            return summary(Figures(phase="stopping" if daemon.stopping else "starting"))
        now, parts = daemon.clock.monotonic(), self._parts()
        totals, meters = self._totals(), self._meters
        ago = {name: meters[name].ago(totals[name], now) if name in meters else None for name in ("dead", "lost")}
        rooms = self._rooms(lags)
        return summary(
            Figures(
                log=parts["log"],
                drivers=[parts[f"driver:{name}"] for name in daemon.config.drivers],
                pipelines=[parts[f"pipeline:{name}"] for name in daemon.config.pipelines],
                sinks=[
                    self._destination(parts[f"sink:{name}"], lags[name], entry.batch.age, rooms[name])
                    for name, entry in daemon.config.sinks.items()
                ],
                dead=int(totals["dead"]),
                dead_ago_s=ago["dead"],
                lost=daemon.intake.lost,
                lost_ago_s=ago["lost"],
                refused=len(daemon.problems),
            )
        )

    def _parts(self) -> dict[str, Part]:
        """Every part of the configuration by component; what is not heard of yet is starting."""
        daemon = self._daemon
        config, board = daemon.config, {part.name: part for part in daemon.board.components()}
        wall, now = daemon.clock.now(), daemon.clock.monotonic()
        names = ["log", *(f"driver:{name}" for name in config.drivers), *(f"sink:{name}" for name in config.sinks)]
        parts = {}
        for name in [*names, *(f"pipeline:{name}" for name in config.pipelines)]:
            known = board.get(name) or Component(name, wall)
            meter = self._meters.get(name) if name.startswith("driver:") else None
            parts[name] = Part(
                name=name.rpartition(":")[2],
                state=known.state,
                detail=known.detail,
                since_s=max(wall - known.since, 0) / 1e9,
                silent_s=meter.silent(now) if meter is not None else None,
            )
        return parts

    def _destination(self, part: Part, lag: Lag, batch_s: float, room_s: float | None) -> Destination:
        return Destination(
            name=part.name,
            state=part.state,
            detail=part.detail,
            since_s=part.since_s,
            lag=lag.records,
            oldest_s=lag.oldest_s,
            batch_s=batch_s,
            room_s=room_s,
        )

    # -- room ----------------------------------------------------------------------------------------------------------

    def _growth(self, figures: Mapping[str, Any]) -> dict[str, float]:
        """Bytes per second that each stream takes, at the rate of the last hour and the size of its sealed records."""
        sealed, records = figures["block_bytes"], figures["block_records"]
        usual = sum(sealed.values()) / max(sum(records.values()), 1)
        growth = {}
        for name in self._daemon.log.streams():
            meter = self._meters.get(f"stream:{name}")
            each = sealed[name] / records[name] if records.get(name) else usual
            if meter is not None and (rate := meter.mean) is not None:
                growth[name] = rate * each
        return growth

    def _rooms(self, lags: Mapping[str, Lag]) -> dict[str, float | None]:
        """For each sink, seconds until the oldest record that waits for it is forgotten; None: not known."""
        daemon = self._daemon
        figures: dict[str, Any] = daemon.log.stats()
        growth, wall = self._growth(figures), daemon.clock.now()
        whole = _until_full(int(daemon.config.log.size), figures["used_bytes"], sum(growth.values()))
        rooms: dict[str, float | None] = {}
        for name, entry in daemon.config.sinks.items():
            known: list[float] = []
            for stream in entry.streams if lags[name].records else ():
                oldest = daemon.log.oldest_time(stream)
                if oldest is None:
                    continue
                kept_s = (wall - oldest) / 1e9
                waits_s = lags[name].oldest_s
                older_s = max(kept_s - (kept_s if waits_s is None else waits_s), 0.0)  # goes first
                keep = daemon.config.streams[stream].keep
                own = _until_full(keep.size, figures["block_bytes"].get(stream, 0), growth.get(stream, 0.0))
                known += [room + older_s for room in (whole, own) if room is not None]
                if keep.age is not None:
                    known.append(max(keep.age - (waits_s or 0.0), 0.0))
            rooms[name] = min(known, default=None)
        return rooms

    # -- the answers ---------------------------------------------------------------------------------------------------

    def ready(self) -> tuple[bool, Sequence[str]]:
        board = self._daemon.board
        needed = [c for c in board.not_up() if c.name.startswith("driver:") or c.name == "log"]
        reasons = [f"{c.name}: {c.detail or c.state}" for c in needed]
        if not self._daemon.ready:
            reasons.insert(0, "the log is being recovered, or the daemon is stopping")
        return not reasons, reasons

    def status(self) -> dict[str, Any]:
        daemon, readers = self._daemon, self._readers()
        lags = self._lags(readers)
        said = self._verdict(lags)
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
                    "rate": self._rate(f"stream:{name}", log.next(name)),
                    "bytes": figures["block_bytes"].get(name, 0),
                    "gone": sum(map(len, log.gaps(name, 0, log.durable(name) - 1))),
                    "lost": self._daemon.intake.lost.get(name, 0) if self._daemon.ready else 0,
                    "blocks": figures["blocks"].get(name, 0),
                    "priority": config.streams[name].priority if name in config.streams else "normal",
                }
                for name in log.streams()
            ]
        }

    def _rate(self, name: str, total: float) -> float:
        meter = self._meters.get(name)
        return round(meter.rate(total, self._daemon.clock.monotonic()), 3) if meter is not None else 0.0

    def _drivers(self) -> list[dict[str, Any]]:
        metrics = self._daemon.metrics
        records, bad = metrics.by("records_in_total", "driver"), metrics.by("frames_bad_total", "driver")
        return [
            {
                "name": name,
                "kind": entry.driver,
                "streams": list(entry.streams),
                "rate": self._rate(f"driver:{name}", records.get(name, 0)),
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
                "rate": self._rate(f"sink:{name}", delivered.get(name, 0)),
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
        return [
            {
                "name": name,
                "inputs": list(entry.program.inputs),
                "outputs": list(entry.program.outputs),
                "rate": self._rate(f"pipeline:{name}", derived.get(name, 0)),
                "lag": lags.get(f"pipeline:{name}", 0),
                **self._state(f"pipeline:{name}"),
                **entry.program.stats(),
            }
            for name, entry in self._daemon.config.pipelines.items()
        ]

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
        growth = sum(self._growth(figures).values())
        room = _until_full(int(daemon.config.log.size), figures["used_bytes"], growth)
        return {
            "path": daemon.config.log.path,
            "bytes": figures["log_bytes"],
            "limit_bytes": int(daemon.config.log.size),
            "device_bytes": figures["device_bytes"],
            "commits": figures["commits"],
            "seals": figures["seals"],
            "horizon_s": round(max(daemon.clock.now() - min(oldest), 0) / 1e9, 1) if oldest else None,
            "room_s": None if room is None else round(room),
        }

    def _lags(self, readers: Sequence[dict[str, Any]]) -> dict[str, Lag]:
        """What waits for each sink of the configuration."""
        lags = {name: Lag(0, None) for name in self._daemon.config.sinks}
        for row in readers:
            kind, _, name = row["reader"].partition(":")
            if kind == "sink" and name in lags:
                ages = [age for age in (lags[name].oldest_s, row["oldest_unsent_s"]) if age is not None]
                lags[name] = Lag(lags[name].records + row["lag"], max(ages, default=None))
        return lags

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

    # -- records -------------------------------------------------------------------------------------------------------

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
        oldest = max(daemon.log.oldest(DEAD_LETTERS), stop - DEAD_LOOK) if stop else 0
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
            **dead_letters(newest, limit),
        }

    async def reload(self) -> dict[str, Any]:
        return await self._daemon.reload()

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

    def _known(self, stream: str) -> None:
        if stream not in self._daemon.log.streams():
            raise NoStream(stream)


def _until_full(limit: int | None, used: int, growth: float) -> float | None:
    """Seconds until `limit` bytes are used, at `growth` bytes per second; None: never, or not known."""
    return None if limit is None or growth <= 0 else max(limit - used, 0) / growth
