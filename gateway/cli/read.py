"""`tidegate read`: records of a stream, from any place on, or as they come."""

import fnmatch
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import click

from gateway.cli._client import Client, asks_gateway
from gateway.cli._layout import json_line, local_time, safe
from gateway.cli._names import complete_stream
from gateway.cli._times import moment, time_of

PAGE = 1000
USUAL = 100
LOOK_S = 0.5  # between two looks for news


@click.command()
@click.argument("stream", shell_complete=complete_stream)
@click.option("--from", "start", metavar="OFFSET|TIME|-1h", help="Where to begin; the oldest record unless told.")
@click.option("--since", metavar="1h|TIME", help="Where to begin: how long ago, or when.")
@click.option("--until", "end", metavar="OFFSET|TIME|-1h", help="Where to end: before the first record there.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    help=f"How many records; {USUAL} unless told, without end when following or with --until.",
)
@click.option("--key", metavar="GLOB", help="Only records whose key matches, like 'site/*/temp'.")
@click.option("--follow", "-f", is_flag=True, help="Stay, and show records as they come; from now on unless told.")
@click.option("--json", "as_json", is_flag=True, help="Records as lines of JSON, as they go to a sink.")
@asks_gateway
def command(
    stream: str, start: str | None, since: str | None, end: str | None, limit: int | None, key: str | None,
    follow: bool, as_json: bool, client: Client,
) -> None:  # fmt: skip
    """Show records of a stream: offset, time, key, value. Finding none is no error, and said on stderr."""
    now = time.time_ns()
    until = place(end, now, "--until") if end is not None else {}
    if since is not None and start is not None:
        raise click.UsageError("--since and --from both say where to begin; write one of them")
    if since is not None:
        begin = {"time": moment(since, now, "--since")}
    else:
        begin = _newest(client, stream) if start is None and follow else place("0" if start is None else start, now)
    left = limit if limit is not None else (None if follow or end is not None else USUAL)
    shown = 0
    try:
        for row in pages(client, stream, begin, PAGE if key or left is None else min(left + 1, PAGE), follow):
            item = json.loads(row)
            if _beyond(item, until):
                break
            if left == 0:  # only where nobody asked for a limit
                at = item["gap"][0] if "gap" in item else item["o"]
                click.echo(f"there is more: go on with --from {at}, or say how many with --limit", err=True)
                break
            if "gap" not in item:
                if key is not None and not fnmatch.fnmatchcase(item["k"], key):
                    continue
                left = left - 1 if left is not None else None
            click.echo(json_line(row) if as_json else describe(item))
            shown += 1
            if left == 0 and limit is not None:
                break
        if not shown:
            sought = "".join(
                f" {word} {text}"
                for word, text in (("from", start), ("since", since), ("until", end))
                if text is not None
            ) + (f" with a key like {key!r}" if key else "")
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


def _beyond(item: dict[str, Any], until: dict[str, int]) -> bool:
    """Is it at or after where reading ends? A gap has no time of its own."""
    if "from" in until:
        return bool((item["gap"][0] if "gap" in item else item["o"]) >= until["from"])
    return "time" in until and "gap" not in item and bool(item["t"] >= until["time"])


def place(text: str, now: int, option: str = "--from") -> dict[str, int]:
    """`1234`, `-1h`, or a time as people write it, as a query of the API."""
    if re.fullmatch(r"\d{1,18}", text):
        return {"from": int(text)}
    try:
        return {"time": time_of(text, now)}
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no place; write an offset (1234), a time (2026-11-23T19:30), or how long ago (-1h)",
            param_hint=option,
        ) from None


def describe(item: dict[str, Any]) -> str:
    """A record or a gap as one line of text."""
    if "gap" in item:
        first, last = item["gap"]
        return f"{first:>10}  … to {last}: gone for ever ({safe(item['cause'])})"
    mark = "  (retained)" if item.get("r") else ""
    return f"{item['o']:>10}  {local_time(item['t'])}  {safe(item['k'])}  {safe(value_text(item['v']))}{mark}"


def value_text(value: object) -> str:
    """A payload from the wire as people read it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
