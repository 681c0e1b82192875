"""`tidegate read`: records of a stream, from any place on, or as they come."""

import fnmatch
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from gateway.cli._client import Client, local_time, place_options, safe
from gateway.quantity import Duration

PAGE = 1000
USUAL = 100
LOOK_S = 0.5  # between two looks for news


@click.command()
@click.argument("stream")
@click.option("--from", "start", metavar="OFFSET|TIME|-1h", help="Where to begin; the oldest record unless told.")
@click.option(
    "--limit", type=click.IntRange(1), help=f"How many records; {USUAL} unless told, without end when following."
)
@click.option("--key", metavar="GLOB", help="Only records whose key matches, like 'site/*/temp'.")
@click.option("--follow", "-f", is_flag=True, help="Stay, and show records as they come; from now on unless --from.")
@click.option("--json", "as_json", is_flag=True, help="Records as lines of JSON, as they go to a sink.")
@place_options
def command(
    stream: str, start: str | None, limit: int | None, key: str | None, follow: bool, as_json: bool,
    path: str, url: str | None,
) -> None:  # fmt: skip
    """Show records of a stream: offset, time, key, value. Finding none is no error, and said on stderr."""
    client = Client.of(path, url)
    if start is None and follow:
        query = _newest(client, stream)
    else:
        query = place("0" if start is None else start, time.time_ns())
    left = limit if limit is not None else (None if follow else USUAL)
    shown = 0
    try:
        for line in pages(client, stream, query, PAGE if key or left is None else min(left, PAGE), follow):
            item = json.loads(line)
            if "gap" not in item:
                if key is not None and not fnmatch.fnmatchcase(item["k"], key):
                    continue
                left = left - 1 if left is not None else None
            click.echo(line if as_json else describe(item))
            shown += 1
            if left == 0:
                break
        if not shown:
            sought = (f" from {start} on" if start is not None else "") + (f" with a key like {key!r}" if key else "")
            click.echo(f"nothing found: {stream} has no record{sought}", err=True)
    except KeyboardInterrupt:
        pass  # the way to end --follow


def pages(client: Client, stream: str, query: dict[str, int], page: int, follow: bool) -> Iterator[bytes]:
    """Lines of JSON from a place on, so many per request; ends at the newest record unless following."""
    while True:
        lines, after = client.records(stream, limit=page, **query)
        yield from lines
        query = {"from": after}
        if not lines:
            if not follow:
                return
            time.sleep(LOOK_S)


def _newest(client: Client, stream: str) -> dict[str, int]:
    found = [row["next"] for row in client.get("streams")["streams"] if row["name"] == stream]
    return {"from": found[0] if found else 0}  # an unknown name is refused when it is read, with those there are


def place(text: str, now: int) -> dict[str, int]:
    """`1234`, `-1h`, or a time as people write it (of this machine's zone unless it says) as a query of the API."""
    if re.fullmatch(r"\d{1,18}", text):
        return {"from": int(text)}
    try:
        if text.startswith("-"):
            return {"time": now - Duration.parse(text[1:]).ns}
        return {"time": round(datetime.fromisoformat(text).astimezone().timestamp() * 1_000_000) * 1000}
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is no place; write an offset (1234), a time (2026-11-23T19:30), or how long ago (-1h)",
            param_hint="--from",
        ) from None


def describe(item: dict[str, Any]) -> str:
    """A record or a gap as one line of text."""
    if "gap" in item:
        first, last = item["gap"]
        return f"{first:>10}  … to {last}: gone for ever ({safe(item['cause'])})"
    value = item["v"]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    mark = "  (retained)" if item.get("r") else ""
    return f"{item['o']:>10}  {local_time(item['t'])}  {safe(item['k'])}  {safe(text)}{mark}"
