"""How answers look: cells, tables and lines that go to a terminal with colours, and anywhere else as aligned text.

Whatever came from outside is made safe here, once: control characters, terminal escapes and the markup of the terminal
library all show as plain characters. Columns line up by what a terminal shows, wide characters included.
"""

import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from gateway.quantity import in_units

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

TONES = {"ok": "green", "attention": "yellow", "trouble": "bold red", "quiet": "dim", "strong": "bold"}
SIGNS = {"ok": "●", "attention": "▲", "trouble": "✖"}  # said by shape too, for whom colours are alike
STEPS = " ▁▂▃▄▅▆▇█"
LAST, LEAST = 32, 8  # what the last column of a table gets before others are dropped, and before others are cut
STATES = {"up": "ok", "starting": "attention", "waiting": "attention", "failed": "trouble"}


class Cell(str):
    """Text with a tone (of TONES), perhaps to be aligned right."""

    __slots__ = ("right", "tone")

    tone: str
    right: bool

    def __new__(cls, text: object, tone: str = "", *, right: bool = False) -> "Cell":
        cell = super().__new__(cls, "-" if text is None else str(text))
        cell.tone, cell.right = tone, right
        return cell


class Line(NamedTuple):
    """A paragraph."""

    text: str
    tone: str = ""


class Table(NamedTuple):
    """Columns under their heads. A head that ends with `?` is left out where no row has anything under it.

    `spare` are heads a narrow terminal can do without, the least important first.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    spare: Sequence[str] = ()


Block = Line | Table


def show(blocks: Iterable[Block]) -> None:
    """Print to the terminal with colours and in its width, or as plain text where stdout is none."""
    if sys.stdout.isatty():
        console().print(rendered(blocks))
    else:
        click.echo(plain(blocks))


def plain(blocks: Iterable[Block]) -> str:
    """Blocks as text, an empty line between them; lines that follow one another stay together."""
    out: list[str] = []
    before: Block | None = None
    for block in blocks:
        if before is not None and not (isinstance(before, Line) and isinstance(block, Line)):
            out.append("")
        out.append(safe(block.text) if isinstance(block, Line) else table(block))
        before = block
    return "\n".join(out)


def rendered(blocks: Iterable[Block]) -> "RenderableType":
    """The same for rich."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    before: Block | None = None
    for block in blocks:
        if before is not None and not (isinstance(before, Line) and isinstance(block, Line)):
            parts.append(Text(""))
        parts.append(line(block) if isinstance(block, Line) else Grid(block))
        before = block
    return Group(*parts)


def line(block: Line) -> "Text":
    from rich.text import Text

    return Text(safe(block.text), TONES.get(block.tone, ""))


def console() -> "Console":
    """Of stdout; nothing in what is printed is taken for markup, an address or a number to be coloured."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False)


class Grid:
    """A table for rich, as wide as it may be: it drops what can be spared, then wraps (or cuts) the last column."""

    def __init__(self, table: Table, *, one_line: bool = False) -> None:
        self._table, self._one_line = table, one_line

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator["RenderableType"]:
        import rich.table
        from rich.text import Text

        head, cells = _cells(self._table)
        spare = [name for name in self._table.spare if name in head]
        while spare and _total(_widths(head, cells)) > options.max_width:
            gone = head.index(spare.pop(0))
            head, cells = [*head[:gone], *head[gone + 1 :]], [[*row[:gone], *row[gone + 1 :]] for row in cells]
        made = rich.table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style=TONES["quiet"])
        widths = _widths(head, cells, options.max_width)
        for i, (name, room) in enumerate(zip(head, widths, strict=True)):
            right = bool(cells) and all(row[i].right for row in cells)
            fold = i == len(head) - 1 and not right and not self._one_line
            made.add_column(
                Text(name),
                justify="right" if right else "left",
                no_wrap=not fold,
                overflow="fold" if fold else "ellipsis",
                width=room,
            )
        for row in cells:
            made.add_row(*[Text(cell, TONES.get(cell.tone, "")) for cell in row])
        yield made


def _widths(head: Sequence[str], cells: Sequence[Sequence[Cell]], room: int | None = None) -> list[int]:
    """What each column takes: without `room` what is asked for, of the last column only what makes it readable; else
    what it gets of so much room. The last one gives way first, then the widest.
    """
    widths = [max([width_of(name), *[width_of(row[i]) for row in cells]]) for i, name in enumerate(head)]
    if room is None:
        return [*widths[:-1], min(widths[-1], LAST)]
    widths[-1] = max(min(widths[-1], room - _total([*widths[:-1], 0])), min(widths[-1], LEAST))
    while (over := _total(widths) - room) > 0 and max(widths) > 1:
        widest = widths.index(max(widths))
        widths[widest] -= min(over, max(widths[widest] // 4, 1))
    return widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def table(block: Table) -> str:
    """Aligned columns as text, numbers to the right."""
    head, cells = _cells(block)
    widths = [max([width_of(name), *[width_of(row[i]) for row in cells]]) for i, name in enumerate(head)]
    right = [bool(cells) and all(row[i].right for row in cells) for i in range(len(head))]
    lines: list[str] = []
    for row in ([Cell(name) for name in head], *cells):
        padded = [
            " " * (room - width_of(cell)) + cell if to_right else cell + " " * (room - width_of(cell))
            for cell, room, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cells(block: Table) -> tuple[list[str], list[list[Cell]]]:
    """Every cell safe and with a side; without the optional columns that say nothing."""
    head = block.head
    cells = [[_cell(value) for value in row] for row in block.rows]
    kept = [
        i
        for i, name in enumerate(head)
        if not name.endswith("?") or any(row[i] not in ("", "-", "0", "0/s") for row in cells)
    ]
    return [head[i].removesuffix("?") for i in kept], [[row[i] for i in kept] for row in cells]


def _cell(value: object) -> Cell:
    if isinstance(value, int | float):
        return Cell(f"{value:,}", right=True)
    if isinstance(value, Cell):
        return Cell(safe(value), value.tone, right=value.right)
    return Cell(None, right=True) if value is None else Cell(safe(str(value)))


# -- curves ------------------------------------------------------------------------------------------------------------


def known_part(values: Sequence[float | None]) -> Sequence[float | None]:
    """From the first that is known on."""
    return values[next((i for i, value in enumerate(values) if value is not None), len(values)) :]


def sparkline(values: Sequence[float | None], width: int) -> str:
    """A curve in so many columns, from the first sample that is known on.

    Nothing known is a blank, zero the lowest step; several samples in one column show their largest.
    """
    values = known_part(values)
    count = min(len(values), width)
    edges = [i * len(values) // count for i in range(count + 1)] if count else [0]
    columns = [max([v for v in values[a:b] if v is not None], default=None) for a, b in pairwise(edges)]
    top = max([v for v in columns if v is not None], default=0.0)
    return "".join(_step(value, top) for value in columns).rjust(width)


def _step(value: float | None, top: float) -> str:
    if value is None:
        return STEPS[0]
    return STEPS[1] if value <= 0 else STEPS[2 + min(int(value / top * 7), 6)]


# -- words and figures -------------------------------------------------------------------------------------------------


def safe(text: str) -> str:
    """Text from outside for a terminal: what does not print is escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes: two for wide characters, none for those that join the one before."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrapped(text: str, room: int, lines: int) -> list[str]:
    """The text broken at blanks into at most so many lines of so many columns, with … where it was cut."""
    rows = [""]
    for word in text.split(" "):
        longer = f"{rows[-1]} {word}" if rows[-1] else word
        if width_of(longer) <= room or len(rows) == lines or not rows[-1]:
            rows[-1] = longer
        else:
            rows.append(word)
    return [fit(row, room) for row in rows]


def fit(text: str, room: int) -> str:
    """The text in so many columns, with … where it was cut."""
    if width_of(text) <= room:
        return text
    while text and width_of(text) > room - 1:
        text = text[:-1]
    return f"{text}…"


def number(count: float) -> Cell:
    """`48,210`."""
    return Cell(f"{count:,.0f}", right=True)


def offset(at: int) -> Cell:
    """A place in a stream, as other commands take it: `48210`."""
    return Cell(at, right=True)


def rate(per_second: float | None) -> Cell:
    """`0.2/s`, `14/s`, `3,120/s`."""
    if per_second is None:
        return Cell(None, right=True)
    return Cell(f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.2g}/s", right=True)


def plural(count: int, noun: str) -> str:
    """`1 commit`, `48,210 commits`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def state(text: str) -> Cell:
    """The state of a part, in its colour."""
    return Cell(text, STATES.get(text, ""))


def local_time(ns: int) -> str:
    """ns since 1970 as people read it, in the zone of this machine, to the millisecond."""
    try:
        return datetime.fromtimestamp(ns // 1_000_000 / 1000).astimezone().isoformat(" ", "milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"


def short_time(ns: int, now: int | None = None, *, fine: bool = False) -> str:
    """`14:02:11` today, else with its date; of this machine's zone. `fine`: to the millisecond."""
    try:
        at, today = datetime.fromtimestamp(ns / 1e9), datetime.fromtimestamp((now or time.time_ns()) / 1e9)
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"
    text = at.isoformat(" ", "milliseconds" if fine else "seconds")
    return text[11:] if at.date() == today.date() else text


def duration(seconds: float | None) -> Cell:
    """`12 s`, `3 min`, `5.2 h`, `12 d`."""
    if seconds is None:
        return Cell(None, right=True)
    unit = "s"
    for length, longer in ((60, "min"), (60, "h"), (24, "d")):
        if seconds < length:
            break
        seconds, unit = seconds / length, longer
    return Cell(f"{seconds:.0f} {unit}" if seconds >= 10 else f"{seconds:.2g} {unit}", right=True)


def size(count: float) -> Cell:
    """Bytes as `512 B`, `1.5 MiB`."""
    return Cell(in_units(count), right=True)


def show_json(data: Any) -> None:
    """For programs: one line, or indented on a terminal."""
    text = json.dumps(data, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False)
    click.echo("\n".join(map(json_line, text.split("\n"))))


def json_line(line: str | bytes) -> str:
    """A line of JSON that means the same and has nothing in it but what prints: it may go to a terminal."""
    text = line.decode(errors="replace") if isinstance(line, bytes) else line
    return text if text.isprintable() else "".join(c if c.isprintable() else _json_escape(c) for c in text)


def _json_escape(char: str) -> str:
    """What does not print is part of a string, or (below a blank) lies between two."""
    return json.dumps(char)[1:-1] if char > " " else " "
