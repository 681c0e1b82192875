"""`tidegate status`: the whole gateway at a glance."""

import sys
from typing import Any

import click

from gateway.cli._client import Client, duration, local_time, place_options, safe, show_json, size, table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As the gateway says it, for programs.")
@place_options
def command(as_json: bool, path: str, url: str | None) -> None:
    """Show how the running gateway is: its parts, streams and readers.

    Exits with 0 if it is ready and every part is up, else with 1: a source or destination that is waited for is enough.
    """
    status = Client.of(path, url).get("status")
    if as_json:
        show_json(status)
    else:
        click.echo(describe(status))
    up = all(component["state"] == "up" for component in status["components"])
    sys.exit(0 if status["ready"] and up else 1)


def describe(status: dict[str, Any]) -> str:
    """The status as text."""
    title = f"{status['gateway']}  tidegate {status['version']}, up {duration(status['uptime_s'])}"
    if not status["ready"]:
        title += ", NOT READY"
    parts = [f"{safe(title)}\n{safe(status['sentence'])}"]
    if status["components"]:
        rows = [
            [c["name"], c["state"], local_time(c["since"]), c["restarts"], c["detail"]] for c in status["components"]
        ]
        parts.append(table(["PART", "STATE", "SINCE", "RESTARTS", "DETAIL"], rows))
    frames = [(c["name"], frame) for c in status["components"] for frame in c["bad_frames"][-1:]]
    if frames:
        rows = [[name, local_time(f["time"]), f["reason"], f["sample"][:60]] for name, f in frames]
        parts.append(table(["LAST BAD FRAME", "TIME", "REASON", "BYTES"], rows))
    if status["streams"]:
        rows = [
            [
                s["name"],
                s["next"] - s["first"],
                s["first"],
                s["next"],
                s.get("lost", 0),
                size(s["bytes"]),
                s["priority"],
            ]
            for s in status["streams"]
        ]
        parts.append(table(["STREAM", "RECORDS", "OLDEST", "NEXT", "LOST", "SEALED", "PRIORITY"], rows))
    if status.get("pipelines"):
        names = ("dead", "filtered", "late", "evicted", "keys", "windows")
        rows = [[p["name"], *[p.get(name, 0) for name in names]] for p in status["pipelines"]]
        parts.append(table(["PIPELINE", *[name.upper() for name in names]], rows))
    if status["readers"]:
        parts.append(lag_table(status["readers"]))
    log = status["log"]
    parts.append(
        f"log {safe(log['path'])}: {size(log['bytes'])} of {size(log['limit_bytes'])}, "
        f"{log['commits']} commits, {size(log['device_bytes'])} written; "
        f"a power cut now would take {status['loss_window_records']} records"
    )
    return "\n\n".join(parts)


def lag_table(readers: list[dict[str, Any]]) -> str:
    """Who is how far behind."""
    rows = [[r["reader"], r["stream"], r["position"], r["lag"], duration(r["oldest_unsent_s"])] for r in readers]
    return table(["READER", "STREAM", "POSITION", "LAG", "OLDEST WAITS"], rows)
