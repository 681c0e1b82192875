"""`tidegate dead`: records that could not be processed or delivered, and why."""

import json
from typing import Any

import click
import msgspec

from gateway.cli._client import Client, asks_gateway
from gateway.cli._layout import Block, Line, Table, fit, local_time, offset, plural, safe, short_time, show, show_json
from gateway.record import DEAD_LETTERS
from gateway.status.dead import Letter, payload_of

ROOM = 60  # columns of a payload in the list
HEXDUMP_BYTES = 4096


class Whole(Letter):
    """A dead letter with everything that is kept of it."""

    time: int = 0  # of the record that died


class Kept(msgspec.Struct):
    """A record of the stream of dead letters."""

    o: int
    t: int
    v: Whole


class What(click.Choice[str]):
    """`list`, `show`, or the offset that is to be shown."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value if str(value).isdecimal() else super().convert(value, param, ctx)


@click.command()
@click.argument("what", metavar="[list|[show] OFFSET]", type=What(["list", "show"]), default="list")
@click.argument("at", metavar="", type=click.IntRange(0), required=False)
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many of the newest.")
@click.option("--json", "as_json", is_flag=True, help="As the gateway says it, for programs.")
@asks_gateway
def command(what: str, at: int | None, limit: int, as_json: bool, client: Client) -> None:
    """List what could not be processed or delivered: by reason, and the newest; or show all of the one at OFFSET."""
    if what.isdecimal() and at is None:
        what, at = "show", int(what)
    if (what == "show") != (at is not None):
        raise click.UsageError("write `tidegate dead`, or `tidegate dead show OFFSET` with an offset of that list")
    if at is not None:
        _show_one(client, at, as_json)
        return
    found = client.get("dead", limit=limit)
    if as_json:
        show_json(found)
    else:
        show(describe(found))


def describe(found: dict[str, Any]) -> list[Block]:
    """The answer of /api/v1/dead for people."""
    if not found["records"]:
        return [Line("no dead letters", "ok")]
    told = f"{plural(found['kept'], 'dead letter')} kept, {found['total']:,} came since the start"
    if found["suppressed"]:
        told += f"; of {found['suppressed']:,} only the number was kept: there were too many alike"
    return [
        Line(told, "attention" if found["total"] else ""),
        reasons_table(found),
        Table(
            ["OFFSET", "TIME", "BY", "FROM", "KEY", "REASON", "PAYLOAD"],
            [
                [
                    offset(r["offset"]),
                    short_time(r["time"]),
                    r["by"],
                    f"{r['stream']} {r['source_offset']}",
                    r["key"],
                    reason(r),
                    fit(r["raw"], ROOM),
                ]
                for r in found["records"]
            ],
            ("BY", "FROM", "PAYLOAD", "TIME"),
        ),
        Line(f"all of one: tidegate dead show {found['records'][0]['offset']}", "quiet"),
    ]


def reasons_table(found: dict[str, Any]) -> Table:
    return Table(
        ["COUNT", "LAST", "BY", "REASON"],
        [[r["count"], short_time(r["last"]), r["by"], reason(r)] for r in found["reasons"]],
    )


def reason(row: dict[str, Any]) -> str:
    """Why, with the step where there is one."""
    return f"{row['step']}: {row['reason']}" if row["step"] else str(row["reason"])


def _show_one(client: Client, at: int, as_json: bool) -> None:
    """Who, why, what, and its bytes."""
    lines, _ = client.records(DEAD_LETTERS, limit=1, **{"from": at})
    if not lines or json.loads(lines[0]).get("o") != at:
        raise click.ClickException(f"there is no dead letter at {at} (any more); tidegate dead lists those there are")
    if as_json:
        show_json(json.loads(lines[0]))
        return
    record = msgspec.json.decode(lines[0], type=Kept)
    letter = record.v
    facts = [
        ("why", f"{letter.step}: {letter.reason}" if letter.step else letter.reason),
        ("by", letter.by),
        ("when", local_time(record.t)),
        ("from", f"stream {letter.stream}, offset {letter.offset}, of {local_time(letter.time)}"),
        ("key", letter.key),
    ]
    if letter.more:
        facts.append(("more", f"{plural(letter.more, 'record')} like it, of which only the number was kept"))
    data = payload_of(letter.value)
    facts.append(("text", data.decode(errors="backslashreplace")))
    click.echo("\n".join(f"{name:<5} {safe(text)}" for name, text in facts))
    click.echo(f"\n{hexdump(data[:HEXDUMP_BYTES])}")
    if len(data) > HEXDUMP_BYTES:
        click.echo(f"… {len(data) - HEXDUMP_BYTES:,} more bytes (--json has them all)")


def hexdump(data: bytes) -> str:
    """Sixteen bytes a line: where, as hexadecimal, as text."""
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        codes = f"{row[:8].hex(' ')}  {row[8:].hex(' ')}".strip()
        lines.append(f"{at:08x}  {codes:<48}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}")
    return "\n".join(lines)
