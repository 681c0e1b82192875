"""`tidegate tail`: the newest records of some streams, and then all that come."""

import fnmatch
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from gateway.cli._client import Away, Client, asks_gateway
from gateway.cli._layout import json_line, plural, safe, short_time, width_of
from gateway.cli._names import complete_stream
from gateway.cli._times import moment
from gateway.cli.read import value_text

LOOK_S = 0.5  # between two looks for news
PAGE = 1000
LOOK_BACK = 10_000  # so many of the newest records are searched for a key
COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "red")
AT_ONCE = 5000  # more than this between two looks nobody can read: the rest is told as a number


class Seen(NamedTuple):
    """A record or a gap, and the stream it is of."""

    time: int
    stream: str
    line: bytes  # as it came
    item: dict[str, Any]


@click.command()
@click.argument("streams", nargs=-1, required=True, shell_complete=complete_stream)
@click.option("--key", metavar="GLOB", help="Only records whose key matches, like 'site/*/temp'.")
@click.option(
    "-n", "--lines", "count", type=click.IntRange(0, PAGE), default=10, show_default=True,
    help="How many of the newest records of each stream to begin with.",
)  # fmt: skip
@click.option("--since", metavar="1h|TIME", help="Begin so long ago, or then, instead of with the newest ones.")
@click.option("--no-follow", is_flag=True, help="Only the newest ones; do not stay.")
@click.option("--json", "as_json", is_flag=True, help="Lines of JSON as they go to a sink, with the stream as `s`.")
@asks_gateway
@click.pass_context
def command(
    ctx: click.Context, streams: Sequence[str], key: str | None, count: int, since: str | None, no_follow: bool,
    as_json: bool, client: Client,
) -> None:  # fmt: skip
    """Show the newest records of STREAMS, oldest first, and then what comes, until ctrl-c.

    Several streams are told apart by their names and merged by time. What is gone is told as a gap. If the gateway
    stops, this waits for it to come back and goes on where it was.
    """
    tail = Tail(client, list(dict.fromkeys(streams)), key)
    room = max(map(width_of, tail.streams)) if len(tail.streams) > 1 else 0
    if since is not None and ctx.get_parameter_source("count") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--since and --lines both say where to begin; write one of them")
    begin = None if since is None else moment(since, time.time_ns(), "--since")
    try:
        found = tail.newest(count) if begin is None else tail.since(begin)
        _print(found, room, as_json)
        if not found and not no_follow:
            click.echo(f"-- {_nothing(tail.streams, key, since)}; waiting for news, ctrl-c ends it", err=True)
        while not no_follow:
            time.sleep(LOOK_S)
            _print(tail.news(), room, as_json)
    except KeyboardInterrupt:
        pass  # the way to end it


class Tail:
    """Reads several streams from their ends on. One question tells whether any of them has news."""

    def __init__(self, client: Client, streams: Sequence[str], key: str | None) -> None:
        self.streams = streams
        self._client, self._key = client, key
        self._at: dict[str, int] = {}  # the next offset to read of each stream
        self._away = False

    def newest(self, count: int) -> list[Seen]:
        """The last `count` records of each stream. Raises click's errors: an unknown stream, no gateway."""
        rows = {row["name"]: row for row in self._client.get("streams")["streams"]}
        found: list[Seen] = []
        for stream in self.streams:
            if stream not in rows:
                self._client.records(stream, limit=1)  # refused, with those there are
                rows[stream] = {"first": 0, "next": 0}
            first, self._at[stream] = rows[stream]["first"], rows[stream]["next"]
            of_stream: list[Seen] = []
            stop = self._at[stream]
            while count and stop > first and len(of_stream) < count and self._at[stream] - stop < LOOK_BACK:
                start = max(stop - (PAGE if self._key else count - len(of_stream)), first)
                of_stream = [*self._read(stream, start, stop), *of_stream]
                stop = start
            found += of_stream[-count:] if count else []
        return sorted(found, key=lambda seen: seen.time)

    def since(self, time_ns: int) -> list[Seen]:
        """All from the first record of each stream at or after a time on. Raises click's errors, as above."""
        rows = {row["name"]: row for row in self._client.get("streams")["streams"]}
        found: list[Seen] = []
        for stream in self.streams:
            lines, after = self._client.records(stream, limit=1, time=time_ns)
            item: dict[str, Any] = json.loads(lines[0]) if lines else {"o": after}
            self._at[stream] = item["gap"][0] if "gap" in item else item["o"]
            found += self._news_of(stream, max(self._at[stream], rows[stream]["next"]))
        return sorted(found, key=lambda seen: seen.time)

    def news(self) -> list[Seen]:
        """What came since the last look. While the gateway is away there is nothing; said once, on stderr."""
        try:
            rows = {row["name"]: row for row in self._client.get("streams")["streams"]}
            if self._away:
                self._away = False
                click.echo("-- it answers again", err=True)
            found: list[Seen] = []
            for stream in self.streams:
                row = rows.get(stream)
                if row is not None:
                    found += self._news_of(stream, row["next"])
        except Away as error:
            if not self._away:
                self._away = True
                first, *_ = error.message.split("\n")
                click.echo(f"-- {first}; waiting for it to come back", err=True)
            return []
        return sorted(found, key=lambda seen: seen.time)

    def _news_of(self, stream: str, stop: int) -> Iterator[Seen]:
        at = self._at[stream]
        if stop < at:
            click.echo(f"-- {safe(stream)} begins anew: the log was replaced", err=True)
            at = 0
        if stop - at > AT_ONCE:
            click.echo(
                f"-- {plural(stop - at - AT_ONCE, 'record')} of {safe(stream)} came too fast to show; "
                f"they are there: tidegate read {safe(stream)} --from {at} --until {stop - AT_ONCE}",
                err=True,
            )
            at = stop - AT_ONCE
        self._at[stream] = stop
        return self._read(stream, at, stop)

    def _read(self, stream: str, first: int, stop: int) -> Iterator[Seen]:
        """What matches of first <= offset < stop; gaps always."""
        newest = 0
        while first < stop:
            lines, first = self._client.records(stream, limit=min(stop - first, PAGE), **{"from": first})
            if not lines:
                return
            for line in lines:
                item = json.loads(line)
                if "gap" not in item:
                    if item["o"] >= stop or (self._key is not None and not fnmatch.fnmatchcase(item["k"], self._key)):
                        continue
                    newest = item["t"]
                yield Seen(newest, stream, line, item)


def _nothing(streams: Sequence[str], key: str | None, since: str | None) -> str:
    like = f" with a key like {key!r}" if key is not None else ""
    return f"nothing of {safe(', '.join(streams))}{like} {f'since {since}' if since is not None else 'yet'}"


def _print(found: Sequence[Seen], room: int, as_json: bool) -> None:
    now = time.time_ns()
    for seen in found:
        if as_json:
            line = b'{"s":%s,%s' % (json.dumps(seen.stream).encode(), seen.line[1:]) if room else seen.line
            click.echo(json_line(line))
        else:
            click.echo(describe(seen, room, now))


def describe(seen: Seen, room: int, now: int) -> str:
    """One line: stream (where there are several), time, key, value; with colours, which only a terminal is shown."""
    name = safe(seen.stream)
    colour = COLOURS[zlib.crc32(name.encode()) % len(COLOURS)]
    stream = f"{click.style(name, fg=colour)}{' ' * (room - width_of(name))}  " if room else ""
    item = seen.item
    if "gap" in item:
        first, last = item["gap"]
        told = f"-- {plural(last - first + 1, 'record')} gone for ever ({safe(item['cause'])})"
        return stream + click.style(told, fg="yellow")
    at = click.style(short_time(item["t"], now, fine=True), dim=True)
    mark = "  (retained)" if item.get("r") else ""
    return f"{stream}{at}  {click.style(safe(item['k']), bold=True)}  {safe(value_text(item['v']))}{mark}"
