"""`tidegate sniff`: what one driver's source says right now, recorded nowhere; and a schema that fits it."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gateway.cli import EXIT_CONFIG
from gateway.cli._config import config_option, refusal
from gateway.cli._layout import (
    Block,
    Cell,
    Grid,
    Line,
    Table,
    console,
    duration,
    json_line,
    line,
    plain,
    plural,
    rate,
    safe,
    short_time,
    size,
)
from gateway.cli._names import complete_driver_or_kind

if TYPE_CHECKING:
    import asyncio

    from rich.console import RenderableType

    from gateway.config.model import DriverEntry
    from gateway.plugin import Decoding
    from gateway.sniff import Findings, Kind, Listener, Seen, Tally

REFRESH_S = 0.25
MOST_ROWS = 30  # keys in a summary
MOST_KINDS = 8  # kinds of payloads that get a schema each
LONGEST = 60  # characters of a sample
SAID = {"up": "is up", "waiting": "waits", "failed": "failed", "starting": "is starting"}
STREAM = "sniffed"  # of a driver that no configuration describes


@click.command()
@click.argument("driver", required=False, shell_complete=complete_driver_or_kind)
@click.argument("options", nargs=-1, metavar="[OPTION=VALUE]...")
@config_option
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Listen for so long; else until ctrl-c.")
@click.option("--count", type=click.IntRange(1), help="Listen until so many records came.")
@click.option("--raw", is_flag=True, help="Every record as one line, as it came; on a terminal, too.")
@click.option("--json", "as_json", is_flag=True, help="Every record as a line of JSON; the last line is the summary.")
def command(
    driver: str | None, options: Sequence[str], path: str, seconds: float | None, count: int | None,
    raw: bool, as_json: bool,
) -> None:  # fmt: skip
    """Listen to DRIVER of the configuration, and propose a schema for what it says.

    Nothing is recorded, and nothing is taken from a gateway that runs: an MQTT driver listens in a session of its own.
    Without a configuration, name a kind of driver and its options:

        tidegate sniff mqtt url=mqtt://localhost:1883 subscribe=site/#

    On a terminal it shows each key live, else each record as a line. At the end, by ctrl-c, --seconds or --count, it
    says what it saw. Exits with 1 if that was nothing.
    """
    import asyncio
    import logging

    from gateway.sniff import Findings, local_zone

    logging.getLogger("tidegate.health").setLevel(logging.CRITICAL)  # states are shown here in other words
    entry, gateway, decodings = _described(driver, options) if options else _configured(driver, path)
    findings = Findings(decodings, local_zone())
    ended = asyncio.run(_listen(entry, gateway, findings, seconds, count, raw, as_json))
    if as_json:
        _echo_json({"summary": summary(findings)})
    elif findings.count:
        if sys.stdout.isatty():
            console().print(drawn(told(findings)))
        else:
            click.echo(plain(told(findings)))
        for text in proposals(findings):
            click.echo(f"\n{text}", nl=False)
    if not findings.count:
        state, detail = ended
        why = f"the driver {SAID.get(state, state)}{f': {detail}' if detail else ''}"
        raise click.ClickException(f"nothing came; {safe(why)}{_hint(entry) if state == 'up' else ''}")


def _hint(entry: "DriverEntry") -> str:
    return f"\nIs {entry.name} told to listen to the right place, and does anything speak there?"


# -- which driver ------------------------------------------------------------------------------------------------------


def _configured(name: str | None, path: str) -> "tuple[DriverEntry, str, Mapping[str, Decoding]]":
    import difflib
    import os

    from gateway import plugin
    from gateway.config import load
    from gateway.errors import ConfigError

    kinds = plugin.names("drivers")
    chosen = click.get_current_context().get_parameter_source("path") is ParameterSource.COMMANDLINE
    if name in kinds and not chosen and not os.path.exists(path):
        return _described(name, ())
    try:
        config = load(path)
    except ConfigError as error:
        click.echo(refusal(error), err=True)
        if name is not None and not os.path.exists(path):
            click.echo(f"-c FILE says where {safe(name)} is; what needs none is {', '.join(kinds)}", err=True)
        sys.exit(EXIT_CONFIG)
    if name in kinds and name not in config.drivers and not chosen:
        return _described(name, ())
    if name is None:
        if len(config.drivers) != 1:
            known = ", ".join(config.drivers) or "none"
            raise click.UsageError(f"say which driver; {path} has {known}")
        name = next(iter(config.drivers))
    entry = config.drivers.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, config.drivers, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(config.drivers) or 'none'}"
        raise click.UsageError(f"{path} has no driver {name!r}; {hint}")
    return entry, config.gateway.id, {stream: config.streams[stream].decode for stream in entry.streams}


def _described(kind: str | None, written: Sequence[str]) -> "tuple[DriverEntry, str, Mapping[str, Decoding]]":
    """A driver from words of the command line, checked like any other entry of a configuration."""
    import os
    import re
    import tempfile
    from pathlib import Path

    from gateway.config import load
    from gateway.errors import ConfigError

    assert kind is not None
    entry = {"driver": kind, **_options(kind, written)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sniff.yaml")
        file.write_text(json.dumps({"gateway": {"id": f"sniff-{os.getpid()}"}, "drivers": {kind: entry}}))
        try:
            config = load(file)
        except ConfigError as error:
            for problem in error.problems:
                told = re.sub(r"add `(\w+): …`", r"add \1=…", problem.message)
                click.echo(f"{problem.path.removeprefix('drivers.').removeprefix(f'{kind}.')}: {told}", err=True)
            lacking = [p.path.rpartition(".")[2] for p in error.problems if p.message.startswith("missing; ")]
            if len(lacking) == len(error.problems) or not written:
                click.echo(_try(kind, written, lacking), err=True)
            sys.exit(EXIT_CONFIG)
    made = config.drivers[kind]
    return made, config.gateway.id, {stream: config.streams[stream].decode for stream in made.streams}


def _try(kind: str, written: Sequence[str], lacking: Sequence[str]) -> str:
    """What to type instead: what is lacking as in the driver's example, or what this machine has of it."""
    import shlex

    import yaml

    from gateway import plugin

    try:
        options: Any = plugin.load("drivers", kind).options
    except (plugin.UnknownPlugin, plugin.MissingExtra):
        return "tidegate plugins shows what there is"
    example = yaml.safe_load(getattr(sys.modules[options.__module__], "EXAMPLE", "")) or {}
    looked = hasattr(options, "found") and not written
    found = list(options.found()) if looked else []
    usual = lacking or [name for name in list(example)[1:2] if not written]
    words = found[:1] or [f"{name}={_spelt(example[name])}" for name in usual if name in example]
    if not words:
        return f"tidegate plugins {kind} shows all its options"
    others = "".join(f"\nor: {shlex.quote(one)}" for one in found[1:MOST_KINDS])
    begin = "none is there now; once one is, try:" if looked and not found else "try:"
    return f"{begin} tidegate sniff {kind} {' '.join(shlex.quote(word) for word in [*written, *words])}{others}"


def _spelt(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _options(kind: str, written: Sequence[str]) -> dict[str, Any]:
    """OPTION=VALUE as plain data: JSON or YAML where it is that, else text; a list may be given item by item."""
    from msgspec import inspect

    from gateway import plugin

    lists: set[str] = set()
    known: set[str] = set()
    try:
        info: Any = inspect.type_info(plugin.load("drivers", kind).options)
    except (plugin.UnknownPlugin, plugin.MissingExtra):
        pass  # said when it is checked
    else:
        known = {field.encode_name for field in info.fields}
        lists = {field.encode_name for field in info.fields if isinstance(field.type, inspect.ListType)}
    found: dict[str, Any] = {}
    for one in written:
        name, sign, text = one.partition("=")
        if not sign or not name:
            raise click.UsageError(f"{one!r} is no OPTION=VALUE; see: tidegate plugins {kind}")
        value = _value(text)
        if name in lists:
            value = [*found.get(name, []), *(value if isinstance(value, list) else [value])]
        found[name] = value
    if "stream" in known:
        found.setdefault("stream", STREAM)
    return found


def _value(text: str) -> Any:
    """JSON where it is that, a list or map as YAML writes them on one line, else text."""
    import yaml

    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text) if text[:1] in ("[", "{") else text
    except yaml.YAMLError:
        return text


# -- listening ---------------------------------------------------------------------------------------------------------


async def _listen(
    entry: "DriverEntry", gateway: str, findings: "Findings", seconds: float | None, count: int | None,
    raw: bool, as_json: bool,
) -> tuple[str, str]:  # fmt: skip
    """Listen until it is over; returns the driver's last state."""
    import asyncio
    import signal

    from gateway.clock import SystemClock
    from gateway.plugin import load
    from gateway.sniff import Listener

    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for ending in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(ending, over.set)
    if seconds is not None:
        loop.call_later(seconds, over.set)
    live = sys.stdout.isatty() and not raw and not as_json
    watcher: Any = Quiet() if live else JsonLines(over) if as_json else Lines(over, raw, len(entry.streams) > 1)
    listener = Listener(entry, gateway, SystemClock(), findings, watcher, count)
    listening = listener.listen(load("drivers", entry.driver), over)
    if live:
        await _with_view(listening, listener)
    else:
        await listening
    return listener.state


async def _with_view(listening: Any, listener: "Listener") -> None:
    import asyncio

    from rich.live import Live

    with Live(console=console(), screen=True, auto_refresh=False, vertical_overflow="crop") as screen:
        work = asyncio.ensure_future(listening)
        while not work.done():
            await asyncio.wait({work}, timeout=REFRESH_S)
            screen.update(drawn(view(listener, screen.console.size.height)), refresh=True)
        await work


class Quiet:
    """Tells nothing: somebody looks at the findings."""

    def records(self, seen: "Sequence[Seen]") -> None:
        pass

    def state(self, state: str, detail: str) -> None:
        pass

    def bad_frame(self, reason: str, sample: bytes, count: int) -> None:
        pass


class Lines:
    """A line per record on stdout; states and bad frames on stderr. Ends all when nobody reads any more."""

    def __init__(self, over: "asyncio.Event", raw: bool, several: bool) -> None:
        self._over, self._raw, self._several = over, raw, several

    def records(self, seen: "Sequence[Seen]") -> None:
        self._write("".join([f"{self._line(one)}\n" for one in seen]))

    def _line(self, one: "Seen") -> str:
        parts = [short_time(one.time, fine=True), *([one.stream] if self._several else []), safe(one.key)]
        parts.append(escaped(one.value))
        if one.retained:
            parts.append("(retained)")
        if not self._raw:
            if one.problem:
                parts.append(f"!! {safe(one.problem)}")
            elif not one.value.lstrip().startswith(b"{"):
                parts.append(f"-> {safe(json.dumps(one.fields, ensure_ascii=False, default=str))}")
        return "  ".join(parts)

    def state(self, state: str, detail: str) -> None:
        click.echo(f"-- {state}{f': {safe(detail)}' if detail else ''}", err=True)

    def bad_frame(self, reason: str, sample: bytes, count: int) -> None:
        click.echo(f"-- bad frame: {safe(reason)}: {escaped(sample)}", err=True)

    def _write(self, text: str) -> None:
        if self._over.is_set():
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            sys.stdout = open("/dev/null", "w")  # noqa: SIM115 - it ends with the process
            self._over.set()


class JsonLines(Lines):
    """Everything as lines of JSON on stdout."""

    def __init__(self, over: "asyncio.Event") -> None:
        super().__init__(over, False, True)

    def _line(self, one: "Seen") -> str:
        from gateway.record import wire_value

        said = {"stream": one.stream, "t": one.time, "k": one.key, "v": wire_value(one.value)}
        said |= {"retained": True} if one.retained else {}
        said |= {"problem": one.problem} if one.fields is None else {"fields": one.fields}
        return _json(said)

    def state(self, state: str, detail: str) -> None:
        self._write(_json({"state": state, "detail": detail}) + "\n")

    def bad_frame(self, reason: str, sample: bytes, count: int) -> None:
        self._write(_json({"bad_frame": reason, "sample": escaped(sample), "count": count}) + "\n")


def _json(said: Mapping[str, object]) -> str:
    import msgspec

    return json_line(msgspec.json.encode(said))


def _echo_json(said: Mapping[str, object]) -> None:
    click.echo(_json(said))


# -- what was seen -----------------------------------------------------------------------------------------------------


def escaped(value: bytes) -> str:
    """A payload as a person can read it: its text, or its bytes with escapes."""
    try:
        return safe(value.decode())
    except UnicodeDecodeError:
        return repr(value)[2:-1]


def view(listener: "Listener", lines: int) -> list[Block]:
    """The picture of this moment, in so many lines."""
    findings = listener.findings
    state, detail = listener.state
    blocks: list[Block] = [
        Line(f"{listener.name} {state}{f': {detail}' if detail else ''}", "ok" if state == "up" else "attention"),
        Line(_sentence(findings)),
    ]
    trouble = _trouble(findings)[:3]
    tallies = sorted(findings.tallies.values(), key=lambda tally: -tally.count)
    blocks.append(_table(tallies[: max(lines - len(trouble) - 7, 3)], listener.clock.monotonic(), _wide(findings)))
    return [*blocks, *trouble, Line("ctrl-c ends it and proposes a schema", "quiet")]


def told(findings: "Findings") -> list[Block]:
    """All of it in words."""
    tallies = sorted(findings.tallies.values(), key=lambda tally: -tally.count)
    blocks: list[Block] = [Line(_sentence(findings), "strong"), _table(tallies[:MOST_ROWS], None, _wide(findings))]
    if len(tallies) > MOST_ROWS or findings.crowded:
        more = f"{len(tallies) - MOST_ROWS:,}{' and more' if findings.crowded else ''}"
        blocks.append(Line(f"and {more} other keys", "quiet"))
    return [*blocks, *_trouble(findings)]


def drawn(blocks: Sequence[Block]) -> "RenderableType":
    """Blocks for a terminal, every row on a line."""
    from rich.console import Group

    return Group(*[Grid(block, one_line=True) if isinstance(block, Table) else line(block) for block in blocks])


def _sentence(findings: "Findings") -> str:
    from gateway.sniff import rate_of

    if not findings.count:
        return "nothing yet"
    tallies = findings.tallies.values()
    news, first = sum(tally.news for tally in tallies), min((t.first for t in tallies if t.news), default=0.0)
    span = max((tally.last for tally in tallies if tally.news), default=0.0) - first
    known = rate_of(news, span)
    pace = f" in {duration(span)} ({rate(known)})" if known is not None else ""
    parts = [
        f"{plural(findings.count, 'record')}{pace}",
        plural(len({(tally.stream, tally.key) for tally in tallies}), "key"),
    ]
    parts.append(f"{size(findings.size / findings.count)} each")
    if findings.count > news:
        parts.append(f"{findings.count - news:,} of them retained")
    decoders = " and ".join(dict.fromkeys(str(decoding.name) for decoding in findings.decodings.values()))
    good = findings.count - findings.undecoded - findings.no_records
    share = 100 * good / findings.count
    parts.append(f"{'all' if good == findings.count else f'{share:.3g} %'} read as {decoders}")
    return ", ".join(parts)


def _wide(findings: "Findings") -> bool:
    return len(findings.decodings) > 1


def _table(tallies: "Sequence[Tally]", now: float | None, several: bool) -> Table:
    head = ["KEY", "TYPE?", *(["STREAM"] if several else []), "RECORDS", "PACE", "SIZE", "BAD?", "AGO?", "NEWEST"]
    rows = []
    for tally in tallies:
        ago = duration(round(now - tally.last)) if now is not None and tally.news and now - tally.last >= 1 else ""
        newest = escaped(tally.newest.value)
        newest = newest if len(newest) <= LONGEST else f"{newest[:LONGEST]}…"
        rows.append(
            [
                Cell(tally.key, "strong"),
                Cell(tally.sort, "strong"),
                *([tally.stream] if several else []),
                tally.count,
                pace(tally.per_s),
                size(tally.size / tally.count),
                tally.bad or "",
                ago,
                Cell(newest, "trouble" if tally.newest.fields is None else ""),
            ]
        )
    return Table(head, rows, ("SIZE", "AGO"))


def pace(per_s: float | None) -> Cell:
    """`2.5/s`, or `every 30 s` where that says more."""
    return Cell(f"every {duration(1 / per_s)}", right=True) if per_s and per_s < 0.5 else rate(per_s)


def _trouble(findings: "Findings") -> list[Line]:
    """What does not decode, and what was no record."""
    lines = []
    for reason, n in findings.reasons.most_common(3):
        sample = next((one for one in reversed(findings.samples) if one.problem == reason), None)
        shown = f", as {_short(sample.value)} of {sample.key}" if sample else ""
        lines.append(Line(f"{plural(n, 'payload')} cannot be read: {reason}{shown}", "trouble"))
    if (better := findings.better_decoder) is not None:
        apart = ", in a stream of their own" if findings.undecoded + findings.no_records < findings.count else ""
        lines.append(Line(f"they can be read with `decode: {better}`{apart}", "attention"))
    if findings.no_records:
        lines.append(Line(f"{plural(findings.no_records, 'payload')} are no readings, as comments are", "quiet"))
    if findings.bad_frames:
        reason, frame = findings.frames[-1]
        lines.append(
            Line(f"{plural(findings.bad_frames, 'bad frame')}, the last: {reason}: {_short(frame)}", "trouble")
        )
    return lines


def _short(value: bytes) -> str:
    text = escaped(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def proposals(findings: "Findings") -> list[str]:
    """A pipeline for each kind of payload, to be pasted under a name."""
    kinds = findings.kinds()
    texts = [_proposal(kind, len(kinds) > 1) for kind in kinds[:MOST_KINDS]]
    if len(kinds) > MOST_KINDS:
        texts.append(f"# and {len(kinds) - MOST_KINDS} other kinds of payloads\n")
    streams = [kind.stream for kind in kinds if kind.only is None]
    if len(set(streams)) < len(streams):
        texts.append("# Payloads that differ so much are easier to read from streams of their own, one per filter.\n")
    return texts


def _proposal(kind: "Kind", several: bool) -> str:
    proposal = kind.shape.propose()
    whose = f"of {safe(kind.pattern)}" if several else "that could be read"
    if kind.only is not None:
        whose += f" whose {kind.only[0]} is {safe(kind.only[1])}"
    steps = f"[{{filter: {kind.only[0]} == {kind.only[1]!r}}}]" if kind.only is not None and several else "[]"
    lines = [f"# fits {'all ' if kind.shape.payloads > 1 else 'the '}{plural(kind.shape.payloads, 'payload')} {whose}"]
    lines += [f"# {safe(note)}" for note in proposal.notes]
    rest = f"steps: {steps}\nto: {kind.stream}-checked\n"
    return "\n".join([*lines, f"from: {kind.stream}", proposal.yaml() + rest])


def summary(findings: "Findings") -> dict[str, Any]:
    """The same for programs."""
    return {
        "records": findings.count,
        "bytes": findings.size,
        "undecoded": findings.undecoded,
        "no_records": findings.no_records,
        "bad_frames": findings.bad_frames,
        "reasons": dict(findings.reasons.most_common()),
        "better_decoder": findings.better_decoder,
        "keys": [
            {
                "stream": t.stream,
                "key": t.key,
                **({"type": t.sort} if t.sort else {}),
                "records": t.count,
                "per_s": t.per_s,
                "bytes": t.size,
                "undecoded": t.bad,
            }
            for t in findings.tallies.values()
        ],
        "kinds": [
            {
                "stream": kind.stream,
                "keys": kind.pattern,
                **({"type": kind.only[1]} if kind.only is not None else {}),
                "payloads": kind.shape.payloads,
                **_as_data(kind),
            }
            for kind in findings.kinds()
        ],
    }


def _as_data(kind: "Kind") -> dict[str, Any]:
    proposal = kind.shape.propose()
    return {"schema": proposal.schema, "event": proposal.event, "zone": proposal.zone, "notes": proposal.notes}
