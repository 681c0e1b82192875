"""How the demo is shown: live in a terminal, or line by line where there is none."""

import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import click

from gateway.cli._layout import SIGNS, TONES, console, fit, number, safe, sparkline

if TYPE_CHECKING:
    from rich.console import RenderableType

LINE_S = 3.0  # between two lines where there is no terminal
SAMPLES, SAMPLE_S = 400, 0.2  # of the curve of what waits
WIDEST = 100  # columns


class Scene(NamedTuple):
    """How things stand: figures from the sensors' side, from the gateway and from the cloud's side."""

    made: int
    rate: float  # readings per second that the sensors send; 0: they have stopped
    level: str
    sentence: str
    waiting: int | None  # None: the gateway does not answer
    linked: bool  # is the link to the cloud whole
    received: int
    batches: int
    bytes_each: float  # on the wire, per reading

    def delivered(self) -> str:
        if not self.received:
            return "nothing yet"
        return f"{self.received:,} in {self.batches} batches, {self.bytes_each:.1f} bytes each"


class Stage(Protocol):
    """Where the story is told. A context."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def tell(self, text: str, tone: str = "") -> None:
        """Something happened."""

    def show(self, scene: Scene) -> None:
        """How things stand now; may be called as often as one likes."""


class Lines:
    """Plain lines, for a file, a pipe or a build server."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown = 0.0

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def tell(self, text: str, tone: str = "") -> None:
        click.echo(f"{time.monotonic() - self._began:5.1f} s  {safe(text)}")

    def show(self, scene: Scene) -> None:
        now = time.monotonic()
        if now - self._shown >= LINE_S:
            self._shown = now
            # where something is amiss, the sentence says how many wait
            waiting = f"{scene.waiting:,} on the way; " if scene.waiting and scene.level == "ok" else ""
            self.tell(f"    {scene.sentence} ({waiting}delivered: {scene.delivered()})")


class Picture:
    """A terminal: what happened scrolls by, and below it stands the gateway between its sensors and the cloud."""

    def __init__(self) -> None:
        from rich.live import Live

        self._began = time.monotonic()
        self._waiting: deque[float | None] = deque(maxlen=SAMPLES)
        self._sampled = 0.0
        self._live = Live(console=console(), auto_refresh=False, transient=True)

    def __enter__(self) -> "Picture":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def tell(self, text: str, tone: str = "") -> None:
        from rich.text import Text

        at = (f"{time.monotonic() - self._began:5.1f} s  ", TONES["quiet"])
        self._live.console.print(Text.assemble(at, (safe(text), TONES.get(tone, ""))))

    def show(self, scene: Scene) -> None:
        now = time.monotonic()
        if now - self._sampled >= SAMPLE_S:
            self._sampled = now
            self._waiting.append(scene.waiting)
        self._live.update(self._drawn(scene), refresh=True)

    def _drawn(self, scene: Scene) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        width = min(self._live.console.width, WIDEST) - 2
        arm = max((width - 40) // 2, 4)
        near = f"{f' {scene.rate:.0f}/s ' if scene.rate else ' quiet ':─^{arm}}▶"
        far = f"{'─' * arm}▶" if scene.linked else f"{' cut ':╌^{arm}} "
        flow = Text.assemble(
            "  sensors ", (near, TONES["ok"] if scene.rate else TONES["quiet"]), (" [ gateway ] ", TONES["strong"]),
            (far, TONES["ok"] if scene.linked else TONES["trouble"]), " cloud",
        )  # fmt: skip
        waiting = "?" if scene.waiting is None else number(scene.waiting)
        curve = sparkline(list(self._waiting), width - 20)
        tone = TONES["attention"] if scene.waiting else ""
        sentence = fit(safe(f"{SIGNS.get(scene.level, '●')} {scene.sentence}"), width)
        return Group(
            Text(""),
            flow,
            Text(f"  waiting  {waiting:>8}  {curve}", tone),
            Text(f"  {sentence}", TONES.get(scene.level, "")),
            Text(fit(f"  made {scene.made:,}   delivered {scene.delivered()}", width + 2)),
        )
