"""`tidegate status`: the whole gateway at a glance."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from gateway.cli._client import Away, Client, asks_gateway
from gateway.cli._layout import (
    SIGNS,
    Block,
    Cell,
    Line,
    Table,
    console,
    duration,
    number,
    offset,
    plain,
    plural,
    rate,
    rendered,
    short_time,
    show,
    show_json,
    size,
    state,
)
from gateway.record import DEAD_LETTERS

LOOK_S = 2.0  # between two looks of --watch
# what a pipeline says of itself beside its counters, and `raised`, which its detail has in words
NO_COUNTERS = ("name", "inputs", "outputs", "lag", "rate", "state", "detail", "since", "restarts", "raised")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As the gateway says it, for programs.")
@click.option("--watch", "-w", is_flag=True, help=f"Look again every {LOOK_S:.0f} seconds, until ctrl-c.")
@asks_gateway
def command(as_json: bool, watch: bool, client: Client) -> None:
    """Show how the running gateway is: its sources, streams, pipelines and destinations.

    Exits with 0 if it is ready and every part is up, else with 1: a source or destination that is waited for is enough.
    """
    if watch and as_json:
        raise click.UsageError("--watch is for people; a program asks again by itself")
    if watch:
        _watch(client)
        return
    status = client.get("status")
    if as_json:
        show_json(status)
    else:
        show(describe(status))
    up = all(component["state"] == "up" for component in status["components"])
    sys.exit(0 if status["ready"] and up else 1)


def _watch(client: Client) -> None:
    try:
        if not sys.stdout.isatty():
            while True:
                click.echo(plain(look(client)) + "\n")
                time.sleep(LOOK_S)
        from rich.live import Live

        with Live(console=console(), screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                live.update(rendered(look(client)), refresh=True)
                time.sleep(LOOK_S)
    except KeyboardInterrupt:
        pass  # the way to end it


def look(client: Client) -> list[Block]:
    """The status, or why there is none just now."""
    try:
        return describe(client.get("status"))
    except Away as error:
        return [Line(error.message, "attention")]


def describe(status: dict[str, Any]) -> list[Block]:
    """The status for people."""
    return [
        *head(status),
        *[part for part in tables(status) if part.rows],
        *([Line(config_line(status))] if "config" in status else []),
        Line(log_line(status)),
        *([Line(status["log"]["moved"], "attention")] if status["log"].get("moved") else []),
        *([Line(f"card: {told}")] if (told := status["log"].get("wear", {}).get("told")) else []),
    ]


def head(status: dict[str, Any]) -> list[Line]:
    """Who it is, and how it is in one sentence."""
    title = f"{status['gateway']}  tidegate {status['version']}, up {duration(status['uptime_s'])}"
    level = status.get("level", "ok" if status["ready"] else "attention")
    return [
        Line(title if status["ready"] else f"{title}, NOT READY", "strong"),
        Line(f"{SIGNS.get(level, '●')} {status['sentence']}", level),
    ]


def tables(status: dict[str, Any]) -> list[Table]:
    """The parts of the journey in its order, then what is amiss."""
    now = status.get("now") or time.time_ns()
    return [
        drivers_table(status, now),
        streams_table(status, now),
        pipelines_table(status),
        sinks_table(status, now),
        _others_table(status, now),
        _bad_frames_table(status, now),
        _refused_table(status),
    ]


def drivers_table(status: dict[str, Any], now: int) -> Table:
    return Table(
        ["DRIVER", "KIND", "STREAMS", "RATE", "RECORDS", "BAD FRAMES?", "RESTARTS?", "STATE", "SINCE", "DETAIL?"],
        [
            [
                Cell(d["name"], "strong"),
                d["kind"],
                names(d["streams"]),
                rate(d["rate"]),
                d["records"],
                Cell(number(d["bad_frames"]), "attention" if d["bad_frames"] else "", right=True),
                d["restarts"],
                state(d["state"]),
                short_time(d["since"], now),
                d["detail"],
            ]
            for d in status.get("drivers", ())
        ],
        ("KIND", "SINCE", "RECORDS", "STREAMS"),
    )


def streams_table(status: dict[str, Any], now: int) -> Table:
    return Table(
        ["STREAM", "RECORDS", "RATE?", "OLDEST", "NEXT", "LOST?", "SEALED", "NEWEST?", "PRIORITY?"],
        [
            [
                Cell(s["name"], "strong"),
                s["next"] - s["first"],
                rate(s.get("rate")),
                offset(s["first"]),
                offset(s["next"]),
                Cell(number(s.get("lost", 0)), "trouble" if s.get("lost") else "", right=True),
                size(s["bytes"]),
                "" if s.get("newest") is None else short_time(s["newest"], now),
                "" if s["priority"] == "normal" else s["priority"],
            ]
            for s in status["streams"]
        ],
        ("OLDEST", "SEALED", "NEXT"),
    )


def pipelines_table(status: dict[str, Any]) -> Table:
    rows = status.get("pipelines", ())
    counters = sorted({name for row in rows for name, count in row.items() if name not in NO_COUNTERS and count})
    return Table(
        ["PIPELINE", "FROM", "TO", "RATE", "LAG", *[f"{name.upper().replace('_', ' ')}?" for name in counters],
         "STATE?", "DETAIL?"],
        [
            [
                Cell(p["name"], "strong"),
                names(p.get("inputs", ())),
                names([stream for stream in p.get("outputs", ()) if stream != DEAD_LETTERS]),
                rate(p.get("rate")),
                p.get("lag"),
                *[p.get(name, 0) for name in counters],
                state(p.get("state", "")),
                p.get("detail", ""),
            ]
            for p in rows
        ],
        ("TO", "FROM", *[name.upper() for name in counters if name != "dead"]),
    )  # fmt: skip


def sinks_table(status: dict[str, Any], now: int) -> Table:
    return Table(
        ["SINK", "KIND", "STREAMS", "RATE", "DELIVERED", "LAG", "OLDEST WAITS?", "SENT?", "RESTARTS?", "STATE",
         "SINCE", "DETAIL?"],
        [
            [
                Cell(s["name"], "strong"),
                s["kind"],
                names(s["streams"]),
                rate(s["rate"]),
                s["delivered"],
                s["lag"],
                duration(s["oldest_unsent_s"]),
                Cell("", right=True) if not s["wire_bytes"] else size(s["wire_bytes"]),
                s["restarts"],
                state(s["state"]),
                short_time(s["since"], now),
                s["detail"],
            ]
            for s in status.get("sinks", ())
        ],
        ("KIND", "SENT", "DELIVERED", "SINCE", "STREAMS", "RATE"),
    )  # fmt: skip


def _others_table(status: dict[str, Any], now: int) -> Table:
    """Parts that the tables above do not show, where they are not up."""
    shown = {f"{kind}:{row['name']}" for kind in ("driver", "sink", "pipeline") for row in status.get(f"{kind}s", ())}
    rows = [c for c in status["components"] if c["name"] not in shown and c["state"] != "up"]
    return Table(
        ["PART", "STATE", "SINCE", "RESTARTS?", "DETAIL?"],
        [[c["name"], state(c["state"]), short_time(c["since"], now), c["restarts"], c["detail"]] for c in rows],
    )


def _bad_frames_table(status: dict[str, Any], now: int) -> Table:
    frames = [(c["name"], frame) for c in status["components"] for frame in c["bad_frames"][-1:]]
    return Table(
        ["LAST BAD FRAME", "TIME", "REASON", "BYTES"],
        [[name, short_time(f["time"], now), f["reason"], f["sample"][:60]] for name, f in frames],
    )


def _refused_table(status: dict[str, Any]) -> Table:
    problems = status.get("config", {}).get("problems", ())
    return Table(
        ["THE LAST RELOAD WAS REFUSED", ""],
        [[f"{p['file']}:{p['line']}:{p['column']}", f"{p['path']}: {p['message']}"] for p in problems],
    )


def log_line(status: dict[str, Any], *, brief: bool = False) -> str:
    """The log in a sentence: how full, how far back it reaches, for how long there is room, what a power cut takes."""
    log = status["log"]
    parts = [f"log {'' if brief else log['path'] + ': '}{size(log['bytes'])} of {size(log['limit_bytes'])}"]
    if log.get("horizon_s") is not None and not brief:
        parts.append(f"reaches back {duration(log['horizon_s'])}")
    if log.get("room_s") is not None:
        parts.append(f"room for {duration(log['room_s'])}")
    if not brief:
        parts += [plural(log["commits"], "commit"), f"{size(log['device_bytes'])} written"]
    return f"{', '.join(parts)}; a power cut now would take {plural(status['loss_window_records'], 'record')}"


def config_line(status: dict[str, Any]) -> str:
    """Which configuration is in use: of when, and after how many reloads."""
    config = status["config"]
    since = short_time(config["loaded"], status.get("now"))
    return f"configuration of {since}, {plural(config['reloads'], 'reload')} since the start"


def names(streams: Sequence[str]) -> str:
    """A few names, the rest as a count."""
    return ", ".join(streams) if len(streams) <= 3 else f"{', '.join(streams[:2])} and {len(streams) - 2} more"
