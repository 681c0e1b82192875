"""Health: the state of every part of the house, in words, and whether those that have work make progress.

A component is named for what it is: `driver:boiler`, `sink:cloud`, `pipeline:alarms`, `log`.
"""

import logging
from collections import deque
from typing import Literal, NamedTuple

from gateway.clock import Clock

log = logging.getLogger("tidegate.health")

State = Literal["starting", "up", "waiting", "failed"]

SAMPLES = 5  # bad frames kept per component …
SAMPLE_BYTES = 256  # … and how much of each


_SAID = {"starting": "is starting", "up": "is up", "waiting": "waits", "failed": "has failed"}


class BadFrame(NamedTuple):
    """Bytes that were no record, cut to what helps to see why."""

    time: int
    reason: str
    sample: bytes


class Component:
    """What is known of one part. `since` is the wall clock (ns) when its state last changed."""

    __slots__ = ("bad_frames", "busy_since", "detail", "name", "restarts", "since", "state")

    def __init__(self, name: str, since: int) -> None:
        self.name, self.since = name, since
        self.state: State = "starting"
        self.detail = ""
        self.restarts = 0
        self.busy_since: float | None = None  # monotonic s of the last progress; None: it has no work
        self.bad_frames: deque[BadFrame] = deque(maxlen=SAMPLES)


class Board:
    """The states of all components. Everything here returns at once and is called on the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._components: dict[str, Component] = {}

    def up(self, component: str, detail: str = "") -> None:
        if self._state(component, "up", detail) == "waiting":
            self.beat(component)  # while it waited it could make no progress

    def waiting(self, component: str, detail: str) -> None:
        """Not usable now, and nothing is wrong with us: the broker is away, the port is unplugged."""
        self._state(component, "waiting", detail)

    def failed(self, component: str, detail: str) -> None:
        """It ended in a way it should not have."""
        self._state(component, "failed", detail)

    def restarted(self, component: str) -> None:
        self._of(component).restarts += 1

    def forget(self, component: str) -> None:
        """It was taken out of the configuration."""
        self._components.pop(component, None)

    def sample(self, component: str, reason: str, sample: bytes) -> None:
        """Keep some bytes that were no record, for the person who looks for the cause."""
        self._of(component).bad_frames.append(BadFrame(self._clock.now(), reason[:SAMPLE_BYTES], sample[:SAMPLE_BYTES]))

    def expect(self, component: str, work: bool) -> None:
        """It has work from now on and must make progress; or it has none, and silence is fine."""
        part = self._of(component)
        if not work:
            part.busy_since = None
        elif part.busy_since is None:
            part.busy_since = self._clock.monotonic()

    def beat(self, component: str) -> None:
        """It made progress."""
        part = self._of(component)
        if part.busy_since is not None:
            part.busy_since = self._clock.monotonic()

    def stuck(self, after_s: float) -> list[str]:
        """Who has had work for that long, could have done it (does not wait for others), and made no progress."""
        late = self._clock.monotonic() - after_s
        busy = [c for c in self._components.values() if c.busy_since is not None and c.state != "waiting"]
        return [c.name for c in busy if c.busy_since is not None and c.busy_since <= late]

    def find(self, component: str) -> Component | None:
        """None where nothing is known of it."""
        return self._components.get(component)

    def components(self) -> list[Component]:
        """Every part, sorted by name."""
        return [self._components[name] for name in sorted(self._components)]

    def rows(self) -> list[dict[str, object]]:
        """Every part as plain data, for the status; the bytes of a sample are escaped as text."""
        return [
            {
                "name": part.name,
                "state": part.state,
                "detail": part.detail,
                "since": part.since,
                "restarts": part.restarts,
                "bad_frames": [
                    {"time": frame.time, "reason": frame.reason, "sample": repr(frame.sample)[2:-1]}
                    for frame in part.bad_frames
                ],
            }
            for part in self.components()
        ]

    def state(self, component: str) -> State | None:
        """None where nothing is known of it."""
        known = self._components.get(component)
        return known.state if known else None

    def not_up(self) -> list[Component]:
        """What is not up, the failed first."""
        order = ("failed", "waiting", "starting")
        return sorted((c for c in self.components() if c.state != "up"), key=lambda c: order.index(c.state))

    def _of(self, component: str) -> Component:
        part = self._components.get(component)
        if part is None:
            part = self._components[component] = Component(component, self._clock.now())
        return part

    def _state(self, component: str, state: State, detail: str) -> State:
        """Set it; returns the state before."""
        part = self._of(component)
        before = part.state
        if before != state:
            part.since = self._clock.now()
            level = {"up": logging.INFO, "waiting": logging.WARNING}.get(state, logging.ERROR)
            log.log(level, "%s %s%s", component, _SAID[state], f": {detail}" if detail else "")
        part.state, part.detail = state, detail
        return before
