"""`tidegate try`: run a pipeline, as it is written now, over what the log holds; nothing is recorded."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._config import config_option
from gateway.cli._names import complete_pipeline
from gateway.cli._times import moment
from gateway.quantity import Duration

if TYPE_CHECKING:
    from gateway.cli._layout import Block
    from gateway.trial.rerun import Output, Result


@click.command()
@click.argument("pipeline", shell_complete=complete_pipeline)
@click.option(
    "--since", default="1h", show_default=True, metavar="1h|TIME", help="Where to begin: how long ago, or when."
)
@click.option("--until", metavar="10m|TIME", help="Where to end; the newest record unless told.")
@click.option("--warm", metavar="1h", help="Run so much before --since first, and show nothing of it.")
@click.option(
    "--show", type=click.IntRange(0, 1000), default=5, show_default=True, help="Differing records per stream."
)
@click.option(
    "--log", "folder", type=click.Path(), metavar="FOLDER", help="The log; what the configuration says unless told."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def command(
    pipeline: str, since: str, until: str | None, warm: str | None, show: int, folder: str | None, as_json: bool,
    path: str,
) -> None:  # fmt: skip
    """Run PIPELINE, as the configuration says it now, over what the log holds, and show what would come of it.

    Beside it stands what the running version recorded in the same span, and the first records that differ. Nothing is
    written: the log is only looked at, also while a gateway uses it. An edited copy is tried with -c EDITED.yaml.

    State from before --since is not known: windows, alarms and deadbands begin empty there, so the first results may
    differ from what was recorded. --warm 1h lets the hour before run first. Exits with 0 if nothing differs, with 1 if
    something does. What only was recorded is no difference where others feed the stream, too.
    """
    from gateway.cli._layout import json_line
    from gateway.cli._layout import show as print_blocks
    from gateway.cli._pipelines import chosen
    from gateway.config import load_pipelines
    from gateway.errors import LogError
    from gateway.log.archive import Archive, NoLog
    from gateway.trial.rerun import NothingRecorded, rerun

    now = time.time_ns()
    begin, end = moment(since, now, "--since"), None if until is None else moment(until, now, "--until")
    if end is not None and end <= begin:
        raise click.BadParameter("it lies before --since", param_hint="--until")
    warm_s = 0.0 if warm is None else span(warm)
    workshop = load_pipelines(path)
    (entry,) = chosen(workshop.pipelines, [pipeline])
    archive = Archive(folder or workshop.log.path)
    began = time.monotonic()
    try:
        archive.open()
        result = rerun(entry, archive, since=begin, until=end, warm_s=warm_s, shown=show, feeders=workshop.feeders)
    except NoLog as error:
        raise click.ClickException(f"{error}\nIs the log elsewhere? Say where with --log FOLDER.") from error
    except (LogError, NothingRecorded) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json_line(as_text(result)))
    else:
        print_blocks([*blocks(result), *closing(result, time.monotonic() - began)])
    sys.exit(1 if differs(result) else 0)


def span(text: str) -> float:
    """A duration in seconds."""
    try:
        return Duration.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--warm") from None


def differs(result: "Result") -> bool:
    """Whether anything comes otherwise than it was recorded."""
    return any(one.differing for one in result.outputs) or any(one.count != one.recorded for one in result.dead)


def as_text(result: "Result") -> str:
    """The result as JSON; payloads as they go to outside programs."""
    import msgspec

    from gateway.record import wire_value

    told: dict[str, Any] = msgspec.to_builtins(result, builtin_types=(bytes, msgspec.Raw))
    for shown, output in zip(told["outputs"], result.outputs, strict=True):
        shown["examples"] = [
            {
                "key": one.key,
                "time": one.time,
                "now": None if one.ours is None else wire_value(one.ours),
                "recorded": None if one.theirs is None else wire_value(one.theirs),
            }
            for one in output.examples
        ]
    return msgspec.json.encode(told).decode()


# -- words -------------------------------------------------------------------------------------------------------------


def blocks(result: "Result") -> "Iterator[Block]":
    """The result as lines and tables."""
    from gateway.cli._layout import Line, Table, duration, local_time, number, size

    since = max(result.since, min([one.first for one in result.inputs if one.first is not None], default=0))
    hours = max((result.until - since) / 3.6e12, 1e-9)
    begin, end = (local_time(ns)[:19] for ns in (since, result.until))
    yield Line(f"{result.pipeline} over {begin} … {end} ({duration(hours * 3600)})", "strong")
    rows = [
        [one.stream, number(one.records), size(one.bytes), _clock(one.first), _clock(one.last), number(one.gone)]
        for one in result.inputs
    ]
    yield Table(["INPUT", "RECORDS", "BYTES", "FIRST", "LAST", "GONE?"], rows)
    volume = sum(one.bytes for one in result.inputs)
    rows = [
        [
            *(one.stream, number(one.records), size(one.bytes), number(one.records / hours)),
            "-" if not volume else f"{one.bytes / volume:.2%}",
            *(number(one.recorded), size(one.recorded_bytes)),
            *(number(one.same), number(one.changed), number(one.added), number(one.missing)),
        ]
        for one in result.outputs
    ]
    head = [
        "OUTPUT",
        "RECORDS",
        "BYTES",
        "PER HOUR",
        "OF INPUT",
        "RECORDED",
        "BYTES",
        "SAME",
        "CHANGED",
        "NEW",
        "MISSING",
    ]
    yield Table(head, rows)
    if result.alarms:
        rows = [
            [one.name, one.stream, *map(number, (one.raised, one.cleared, one.recorded_raised, one.recorded_cleared))]
            for one in result.alarms
        ]
        yield Table(["ALARM", "STREAM", "RAISED", "CLEARED", "RECORDED RAISED", "RECORDED CLEARED"], rows)
    if result.dead:
        rows = [
            [number(one.count), number(one.recorded), one.step, one.sample, one.key, _payload(bytes(one.payload))]
            for one in result.dead
        ]
        yield Table(["DEAD LETTERS", "RECORDED", "STEP", "REASON", "KEY", "PAYLOAD"], rows)
    counted = [f"{name.replace('_', ' ')} {n:,}" for name, n in result.counters.items() if n]
    if counted:
        yield Line(f"counted: {', '.join(counted)}")
    for one in result.outputs:
        yield from _examples(one)


def _examples(output: "Output") -> "Iterator[Block]":
    """The first records of a stream that differ."""
    from gateway.cli._layout import Line, local_time

    if not output.examples:
        return
    yield Line(f"{output.stream}: the first of {output.differing:,} records that differ (+ now, - recorded)", "strong")
    for one in output.examples:
        yield Line(f"  {local_time(one.time)}  {one.key}")
        if one.theirs is not None:
            yield Line(f"    - {_payload(one.theirs)}", "trouble")
        if one.ours is not None:
            yield Line(f"    + {_payload(one.ours)}", "ok")


def closing(result: "Result", took_s: float) -> "Iterator[Block]":
    """What to know about the figures."""
    from gateway.cli._layout import Line, duration

    records = sum(one.records for one in result.inputs)
    if not records:
        yield Line("Nothing was recorded in this span: try an earlier --since.", "attention")
        return
    if result.warm_s:
        yield Line(f"{result.warmed:,} records of the {duration(result.warm_s)} before ran first, uncounted.")
    elif result.earlier:
        yield Line(
            "State from before the span is not known: results that depend on it may differ. Try --warm 1h.", "quiet"
        )
    if not any(one.recorded for one in result.outputs):
        yield Line(
            "The running version recorded nothing of this in this span; perhaps it is new, or was behind.", "quiet"
        )
    for one in result.outputs:
        if one.also_fed_by:
            others = f"{one.stream} is also fed by {', '.join(one.also_fed_by)}"
            yield Line(f"{others}: what is missing may be theirs, and is no difference.", "attention")
    verdict = "What would come differs from what was recorded." if differs(result) else "Nothing differs."
    yield Line(f"{verdict}  ({records:,} records in {duration(took_s)}; nothing was written)", "strong")


def _clock(ns: int | None) -> str:
    from gateway.cli._layout import local_time

    return "-" if ns is None else local_time(ns)[11:19]


def _payload(value: bytes) -> str:
    text = value.decode("utf-8", "backslashreplace")
    return text if len(text) <= 160 else f"{text[:160]}…"
