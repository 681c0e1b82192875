"""`tidegate lag`: how far each reader is behind the newest record."""

import re
import sys
from typing import Any

import click

from gateway.cli._client import Client, asks_gateway
from gateway.cli._layout import Cell, Line, Table, duration, offset, show, show_json
from gateway.quantity import Duration


@click.command()
@click.option("--over", metavar="RECORDS|TIME", help="Exit with 1 if a reader is further behind, like 1000 or 10m.")
@click.option("--json", "as_json", is_flag=True, help="As the gateway says it, for programs.")
@asks_gateway
def command(over: str | None, as_json: bool, client: Client) -> None:
    """Show what each reader has not finished yet: records, and how long the oldest one waits. The worst comes first."""
    bound = None if over is None else _bound(over)
    readers = sorted(client.get("status")["readers"], key=lambda reader: -reader["lag"])
    if as_json:
        show_json(readers)
    elif readers:
        show([lag_table(readers, bound)])
    else:
        show([Line("no reader yet")])
    sys.exit(1 if any(_behind(reader, bound) for reader in readers) else 0)


def lag_table(readers: list[dict[str, Any]], bound: int | Duration | None = None) -> Table:
    """Who is how far behind."""
    return Table(
        ["READER", "STREAM", "POSITION", "LAG", "OLDEST WAITS"],
        [
            [
                r["reader"],
                r["stream"],
                offset(r["position"]),
                Cell(f"{r['lag']:,}", "trouble" if _behind(r, bound) else "", right=True),
                duration(r["oldest_unsent_s"]),
            ]
            for r in readers
        ],
    )


def _behind(reader: dict[str, Any], bound: int | Duration | None) -> bool:
    if isinstance(bound, Duration):
        return (reader["oldest_unsent_s"] or 0.0) > bound
    return bound is not None and bool(reader["lag"] > bound)


def _bound(text: str) -> int | Duration:
    """So many records, or so long."""
    if re.fullmatch(r"\d{1,18}", text):
        return int(text)
    try:
        return Duration.parse(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no bound; write records (1000) or how long the oldest may wait (10m)", param_hint="--over"
        ) from None
