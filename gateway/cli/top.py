"""`tidegate top`: the gateway live, in the whole terminal."""

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._client import Away, Client, Refused, asks_gateway
from gateway.cli._layout import (
    TONES,
    Block,
    Grid,
    Line,
    Table,
    console,
    duration,
    fit,
    known_part,
    line,
    number,
    offset,
    plain,
    rate,
    safe,
    short_time,
    sparkline,
    width_of,
    wrapped,
)
from gateway.cli.dead import reason
from gateway.cli.status import (
    drivers_table,
    head,
    log_line,
    pipelines_table,
    sinks_table,
    streams_table,
)
from gateway.record import DEAD_LETTERS

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

AGAIN_S = 1.0  # between two tries to reach a gateway that is away
LOOK_S = 2.0  # between two looks where the gateway cannot tell by itself
LETTERS = 5  # dead letters that are fetched
CURVES = ("in", "out", "waiting")  # series of the history
WIDE = 130  # columns in which everything about the log has room
SNAPSHOT_WIDTH = 90  # columns of the curves where there is no terminal


@click.command()
@asks_gateway
def command(client: Client) -> None:
    """Watch the gateway live: how it is, the last hour, every part with its rate and lag. q or ctrl-c leaves.

    It goes on by itself when the gateway is restarted. Where stdout is no terminal, it prints one picture as text.
    """
    picture = Picture(client.get("status"))
    picture.fetch(client)
    if sys.stdout.isatty():
        _live(client, picture)
    else:
        click.echo(plain(snapshot(picture)))


class Picture:
    """The newest that is known of a gateway. Fed by one thread, drawn by another; each part is replaced as a whole."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.status = status
        self.series: dict[str, list[float | None]] = {}
        self.step_s = 10.0
        self.dead: dict[str, Any] = {"total": 0, "records": []}
        self.trouble = ""  # why nothing newer comes
        self.as_of = time.time_ns()

    def fetch(self, client: Client) -> None:
        """What is not in the events: the last hour, and the newest dead letters."""
        told = client.get("history")
        self.series, self.step_s = told["series"], told["step_s"]
        self.dead = client.get("dead", limit=LETTERS)

    def take(self, client: Client, event: str, data: dict[str, Any]) -> None:
        """An event of the gateway."""
        if event == "status":
            letters = _letters(self.status)
            self.status, self.as_of, self.trouble = data, time.time_ns(), ""
            if _letters(data) != letters:
                self.dead = client.get("dead", limit=LETTERS)
        elif event == "history":
            self.series = {name: [*values[1:], data["values"].get(name)] for name, values in self.series.items()} | {
                name: [value] for name, value in data["values"].items() if name not in self.series
            }


def _letters(status: dict[str, Any]) -> int:
    return sum(row["next"] for row in status["streams"] if row["name"] == DEAD_LETTERS)


def feed(client: Client, picture: Picture, changed: "threading.Event | _Bell") -> None:
    """Keep a picture up to date for ever, whatever happens to the gateway."""
    while True:
        try:
            for event, data in client.events():
                picture.take(client, event, data)
                changed.set()
            picture.trouble = "the gateway closed the connection"
        except Refused as error:
            # Too many viewers, or a gateway too old to tell by itself: asking is good enough.
            picture.trouble = f"{error.message.splitlines()[0]}; asking every {LOOK_S:.0f} s"
            with contextlib.suppress(Away, Refused):
                picture.take(client, "status", client.get("status"))
                picture.fetch(client)
            changed.set()
            time.sleep(LOOK_S)
            continue
        except Away as error:
            picture.trouble = error.message.splitlines()[0]
        changed.set()
        time.sleep(AGAIN_S)
        with contextlib.suppress(Away, Refused):
            picture.fetch(client)


# -- the terminal ------------------------------------------------------------------------------------------------------


class _Bell:
    """Wakes a select()."""

    def __init__(self) -> None:
        self.ear, self._rope = os.pipe()
        os.set_blocking(self.ear, False)
        os.set_blocking(self._rope, False)

    def set(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._rope, b"!")

    def hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.ear, 4096)


def _live(client: Client, picture: Picture) -> None:
    from rich.live import Live

    bell = _Bell()
    threading.Thread(target=feed, args=(client, picture, bell), name="feed", daemon=True).start()
    signal.signal(signal.SIGWINCH, lambda *_: bell.set())
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))  # by way of what restores the terminal
    with (
        contextlib.suppress(KeyboardInterrupt),
        _keys() as keyboard,
        Live(console=console(), screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while True:
            live.update(Screen(picture), refresh=True)
            ready, _, _ = select.select([bell.ear, *keyboard], [], [], 1.0)
            bell.hear()
            if any(b"q" in os.read(key, 1024).lower() for key in keyboard if key in ready):
                return


@contextlib.contextmanager
def _keys() -> Iterator[list[int]]:
    """The keyboard, key by key, as a list of its one file; empty where stdin is no terminal."""
    if not sys.stdin.isatty():
        yield []
        return
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    try:
        tty.setcbreak(file)
        yield [file]
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)


# -- the picture -------------------------------------------------------------------------------------------------------


class Screen:
    """A picture drawn into exactly the lines and columns there are."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator["RenderableType"]:
        from rich.console import Group
        from rich.text import Text

        picture, width = self._picture, options.max_width
        lines = options.height or console.size.height
        title, sentence = head(picture.status)
        live, tone = ("live", "ok") if not picture.trouble else (f"as of {short_time(picture.as_of)}", "attention")
        room = width - width_of(live) - 2
        top: list[RenderableType] = [
            Text.assemble((fit(safe(title.text), room).ljust(room + 2), TONES["strong"]), (live, TONES[tone])),
            *[line(sentence._replace(text=row)) for row in wrapped(sentence.text, width, 2)],
        ]
        if picture.trouble:
            told = fit(safe(f"reconnecting: {picture.trouble}"), width)
            top.append(Text(told, TONES["attention"]))
        spaced = lines >= 30
        if spaced:
            top.append(Text(""))
        top += [Text(fit(text, width), TONES.get(tone, "")) for text, tone in curves(picture, width)]
        bottom = Text(fit(safe(log_line(picture.status, brief=width < WIDE)), width), TONES["quiet"])
        parts: list[RenderableType] = []
        for table in fitted(tables(picture), lines - len(top) - 1 - spaced, spaced):
            parts += [Text(""), Grid(table, one_line=True)] if spaced else [Grid(table, one_line=True)]
        if spaced:
            parts.append(Text(""))
        yield Group(*top, *parts, bottom)


def snapshot(picture: Picture) -> list[Block]:
    """One picture as text."""
    return [
        *head(picture.status),
        *[Line(text) for text, _ in curves(picture, SNAPSHOT_WIDTH)],
        *[table for table in tables(picture) if table.rows],
        Line(log_line(picture.status)),
    ]


def tables(picture: Picture) -> list[Table]:
    """Every part, those in trouble first, and the newest dead letters; the most important table first."""
    status = picture.status
    now = status.get("now") or picture.as_of
    ordered = status | {
        kind: sorted(status.get(kind, ()), key=lambda row: (row.get("state", "up") == "up", -(row.get("lag") or 0)))
        for kind in ("drivers", "pipelines", "sinks")
    }
    ordered["streams"] = sorted(status["streams"], key=lambda row: -(row.get("rate") or 0))
    return [
        sinks_table(ordered, now),
        drivers_table(ordered, now),
        pipelines_table(ordered),
        streams_table(ordered, now),
        _dead_table(picture.dead),
    ]


def _dead_table(found: dict[str, Any]) -> Table:
    return Table(
        ["DEAD LETTER", "TIME", "BY", "KEY", "WHY"],
        [[offset(r["offset"]), short_time(r["time"]), r["by"], r["key"], reason(r)] for r in found["records"]],
        ("TIME", "BY"),
    )


def fitted(tables: Sequence[Table], lines: int, spaced: bool = False) -> list[Table]:
    """The tables cut to so many lines: each its head and a row as far as they go round, then all of them more rows."""
    over = 2 if spaced else 1  # a head, and perhaps an empty line
    shown = [0] * len(tables)
    left = lines
    for i, table in enumerate(tables):
        if table.rows and left > over:
            shown[i] = 1
            left -= over + 1
    while left > 0 and any(0 < n < len(table.rows) for n, table in zip(shown, tables, strict=True)):
        for i, table in enumerate(tables):
            if left > 0 and 0 < shown[i] < len(table.rows):
                shown[i] += 1
                left -= 1
    return [_cut(table, n) for table, n in zip(tables, shown, strict=True) if n]


def _cut(table: Table, rows: int) -> Table:
    """So many rows; the head says how many there are besides."""
    more = len(table.rows) - rows
    first, *rest = table.head
    return table._replace(head=[f"{first} +{more}" if more else first, *rest], rows=table.rows[:rows])


def curves(picture: Picture, width: int) -> list[tuple[str, str]]:
    """A line for each of what comes in, goes out and waits: now, the last hour as a curve, its peak; and a tone."""
    heads, tails, tones = [], [], []
    status = picture.status
    present = {
        "in": sum(driver["rate"] for driver in status["drivers"]),
        "out": sum(sink["rate"] for sink in status["sinks"]),
        "waiting": sum(sink["lag"] for sink in status["sinks"]),
    }
    for name in CURVES:
        values = picture.series.get(name, [])
        known = [value for value in values if value is not None]
        last, figure = present[name], number if name == "waiting" else rate
        span = duration(max(len(known_part(values)), 1) * picture.step_s)
        heads.append(f"{name:<8}{figure(last):>9}  ")
        tails.append(f"  peak {figure(max(known, default=0.0))} in {span}")
        tones.append("attention" if name == "waiting" and last else "")
    room = max(width - len(heads[0]) - max(map(len, tails)), 8)
    drawn = [sparkline(picture.series.get(name, []), room) for name in CURVES]
    return [(h + curve + tail, tone) for h, curve, tail, tone in zip(heads, drawn, tails, tones, strict=True)]
