"""What differs between two configurations: what a running gateway stops and starts to get from one to the other."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from gateway.config.model import Config, DriverEntry, GatewayOptions, LogSettings, PipelineEntry, SinkEntry

# settings of the house that a running gateway takes; the others wait for a start
LIVE = ("log.turn", "log.commit", "log.wear", "log.commit_max", "log.endurance")

E = TypeVar("E")


class Family(msgspec.Struct, frozen=True):
    """Entries of one section, by name. What is in none of the three goes on untouched."""

    added: frozenset[str]
    changed: frozenset[str]
    removed: frozenset[str]

    @property
    def stop(self) -> frozenset[str]:
        return self.changed | self.removed

    @property
    def start(self) -> frozenset[str]:
        return self.changed | self.added

    def words(self, kind: str) -> list[str]:
        """`sink cloud changed`, one per entry."""
        told = {"added": self.added, "changed": self.changed, "removed": self.removed}
        return [f"{kind} {name} {what}" for what, names in told.items() for name in sorted(names)]


class Changes(msgspec.Struct, frozen=True):
    """What reload has to do. `settings` are the options of the house that differ, as `log.size`."""

    drivers: Family
    pipelines: Family
    sinks: Family
    streams: tuple[str, ...]  # kept or delivered otherwise than before
    settings: tuple[str, ...]


def urgent_streams(config: Config) -> frozenset[str]:
    """The streams that are committed at once and delivered first."""
    return frozenset(stream.name for stream in config.streams.values() if stream.priority == "urgent")


def changes(old: Config, new: Config) -> Changes:
    """From `old` to `new`. A pipeline is the same as long as its program's signature is."""
    rushed = urgent_streams(old) ^ urgent_streams(new)

    def same_driver(a: DriverEntry, b: DriverEntry) -> bool:
        return (a.driver, a.options) == (b.driver, b.options) and rushed.isdisjoint(b.streams)

    def same_pipeline(a: PipelineEntry, b: PipelineEntry) -> bool:
        return a.program.signature == b.program.signature

    def same_sink(a: SinkEntry, b: SinkEntry) -> bool:
        return a == b and rushed.isdisjoint(b.streams)

    common = old.streams.keys() & new.streams.keys()
    return Changes(
        _family(old.drivers, new.drivers, same_driver),
        _family(old.pipelines, new.pipelines, same_pipeline),
        _family(old.sinks, new.sinks, same_sink),
        tuple(sorted(name for name in common if old.streams[name] != new.streams[name])),
        (*_settings("gateway", old.gateway, new.gateway), *_settings("log", old.log, new.log)),
    )


def _family(old: Mapping[str, E], new: Mapping[str, E], same: Callable[[E, E], bool]) -> Family:
    changed = {name for name in old.keys() & new.keys() if not same(old[name], new[name])}
    return Family(frozenset(new.keys() - old.keys()), frozenset(changed), frozenset(old.keys() - new.keys()))


def _settings(section: str, old: GatewayOptions | LogSettings, new: GatewayOptions | LogSettings) -> list[str]:
    names = old.__struct_fields__
    return [f"{section}.{name}" for name in names if getattr(old, name) != getattr(new, name)]
