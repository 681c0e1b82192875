"""How it goes: what every counter did in the last hour, what waits for whom, how long the room will do, and all of it
in one sentence.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from gateway.clock import Clock
from gateway.config import Config
from gateway.errors import Problem
from gateway.forwarder import Forwarder
from gateway.health import Board, Component
from gateway.history import STEP_S, History, Meter
from gateway.intake import Intake
from gateway.log import Log
from gateway.metrics import Metrics
from gateway.summary import Destination, Figures, Part, Verdict, summary


class Running(Protocol):
    """What this needs of a daemon."""

    config: Config
    log: Log
    metrics: Metrics
    board: Board
    clock: Clock
    ready: bool
    problems: Sequence[Problem]  # for which the last reload was refused

    @property
    def stopping(self) -> bool: ...

    @property
    def intake(self) -> Intake: ...


class Lag(NamedTuple):
    """What waits for one sink. Ages are of the oldest record that waits, None where that is not known."""

    records: int
    oldest_s: float | None
    streams: Mapping[str, float | None]  # those in which something waits, and its age


class Outlook:
    """Over a running daemon, on its event loop. Somebody calls `sample` once per STEP_S while that is ready."""

    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon
        self.history = History()
        self._meters: dict[str, Meter] = {}
        self._sampled: float | None = None

    # -- samples -------------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Remember the numbers of this moment."""
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
        lags = self.lags(self.readers())
        figures: dict[str, Any] = daemon.log.stats()
        columns = {"in": rates["in"], "out": rates["out"]}
        columns["waiting"] = sum(lag.records for lag in lags.values())
        columns["log_bytes"] = figures["log_bytes"]
        for name, lag in lags.items():
            columns |= {f"sink:{name}": rates.get(f"sink:{name}"), f"lag:{name}": lag.records}
        columns |= {name: rates[name] for name in totals if name.startswith("driver:")}
        missed = max(round((now - self._sampled) / STEP_S) - 1, 0)
        self.history.add(daemon.clock.now(), columns, missed)
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

    def rate(self, name: str, total: float) -> float:
        """Per second, of a counter that stands at `total` now: `driver:boiler`, `stream:temps`, …"""
        meter = self._meters.get(name)
        return round(meter.rate(total, self._daemon.clock.monotonic()), 3) if meter is not None else 0.0

    # -- the sentence --------------------------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """How it all is: one sentence and its level."""
        return self.judge(self.lags(self.readers()))

    def judge(self, lags: Mapping[str, Lag]) -> Verdict:
        """The verdict, where it is known already what waits."""
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
                    Destination(
                        **msgspec.structs.asdict(parts[f"sink:{name}"]),
                        lag=lags[name].records,
                        oldest_s=lags[name].oldest_s,
                        batch_s=entry.batch.age,
                        still_s=meters[at].still(totals[at], now) if (at := f"sink:{name}") in meters else 0.0,
                        room_s=rooms[name],
                    )
                    for name, entry in daemon.config.sinks.items()
                ],
                dead=int(totals["dead"]),
                dead_ago_s=ago["dead"],
                lost=daemon.intake.lost,
                lost_ago_s=ago["lost"],
                raised=sum(entry.program.stats().get("raised", 0) for entry in daemon.config.pipelines.values()),
                clock_trusted=daemon.log.clock_trusted,
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

    def room_s(self) -> float | None:
        """Seconds until the log must forget, at the rate of the last hour; None: never, or not known."""
        figures: dict[str, Any] = self._daemon.log.stats()
        growth = sum(self._growth(figures).values())
        return _until_full(int(self._daemon.config.log.size), figures["used_bytes"], growth)

    def _rooms(self, lags: Mapping[str, Lag]) -> dict[str, float | None]:
        """For each sink, seconds until the oldest record that waits for it is forgotten; None: not known."""
        daemon = self._daemon
        figures: dict[str, Any] = daemon.log.stats()
        growth, wall = self._growth(figures), daemon.clock.now()
        whole = _until_full(int(daemon.config.log.size), figures["used_bytes"], sum(growth.values()))
        rooms: dict[str, float | None] = {}
        for name, lag in lags.items():
            known: list[float] = []
            for stream, waits_s in lag.streams.items():
                oldest, keep = daemon.log.oldest_time(stream), daemon.config.streams[stream].keep
                # What is older than the oldest that waits goes before it.
                older_s = 0.0 if oldest is None or waits_s is None else max((wall - oldest) / 1e9 - waits_s, 0.0)
                own = _until_full(keep.size, figures["block_bytes"].get(stream, 0), growth.get(stream, 0.0))
                known += [room + older_s for room in (whole, own) if room is not None]
                if keep.age is not None:
                    known.append(max(keep.age - (waits_s or 0.0), 0.0))
            rooms[name] = min(known, default=None)
        return rooms

    # -- what waits ----------------------------------------------------------------------------------------------------

    def lags(self, readers: Sequence[dict[str, Any]]) -> dict[str, Lag]:
        """What waits for each sink of the configuration."""
        waiting: dict[str, list[dict[str, Any]]] = {f"sink:{name}": [] for name in self._daemon.config.sinks}
        for row in readers:
            if row["lag"] and row["reader"] in waiting:
                waiting[row["reader"]].append(row)
        lags = {}
        for reader, rows in waiting.items():
            ages = {row["stream"]: row["oldest_unsent_s"] for row in rows}
            oldest = max((age for age in ages.values() if age is not None), default=None)
            lags[reader.removeprefix("sink:")] = Lag(sum(row["lag"] for row in rows), oldest, ages)
        return lags

    def readers(self) -> list[dict[str, Any]]:
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


def _until_full(limit: int | None, used: int, growth: float) -> float | None:
    """Seconds until `limit` bytes are used, at `growth` bytes per second; None: never, or not known."""
    return None if limit is None or growth <= 0 else max(limit - used, 0) / growth
