"""What may be wrong with a machine, its disk and its gateway, and what to try: `tidegate doctor`.

Nothing is changed, and nothing is asked of the log but the names, sizes and owners of its files. What cannot be seen by
this user is told as such, and is never taken for well.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.config import Config, LogSettings
from gateway.doctor import disk, host, house
from gateway.doctor.finding import Finding
from gateway.doctor.machine import Machine

__all__ = ["Finding", "Machine", "examine"]


def examine(
    machine: Machine, log: LogSettings, config: Config | None, status: Mapping[str, Any] | None
) -> Iterator[Finding]:
    """All there is to say. `config`: None where it cannot be read whole; `status`: None where nothing answers."""
    yield house.sqlite()
    yield from disk.examine(machine, log)
    yield from house.files(machine, log)
    yield from house.identity(machine, log)
    if config is not None:
        yield from house.secrets(machine, config)
        yield from house.ports(machine, log, config)
        yield from house.brokers(machine, config)
    yield from host.examine(machine)
    if status is not None:
        yield from house.running(status)
