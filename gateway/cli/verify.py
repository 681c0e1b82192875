"""`tidegate verify`: everything that was recorded is accounted for."""

import sys
from typing import TYPE_CHECKING

import click

from gateway.cli._config import config_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.cli._layout import Block
    from gateway.log.audit import Audit


@click.command()
@click.option("--local", is_flag=True, help="The log of this gateway, which is what is checked unless told otherwise.")
@click.option(
    "--log", "folder", type=click.Path(), metavar="FOLDER", help="The log; what the configuration says unless told."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def command(local: bool, folder: str | None, as_json: bool, path: str) -> None:
    """Read the whole log and check, in exact counts, that nothing is missing: for every stream, recorded = kept + gaps
    by cause; for every reader, recorded = delivered + dead letters + missed + gaps + pending.

    Nothing is written, and a gateway may be using the log meanwhile. Exits with 0 if everything adds up, else with 1.
    """
    import msgspec

    from gateway.cli._layout import json_line, show
    from gateway.config import load_pipelines
    from gateway.errors import LogError
    from gateway.log.archive import Archive, NoLog
    from gateway.log.audit import audit

    archive = Archive(folder or load_pipelines(path).log.path)
    try:
        archive.open()
        found = audit(archive)
    except NoLog as error:
        raise click.ClickException(f"{error}\nIs the log elsewhere? Say where with --log FOLDER.") from error
    except LogError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json_line(msgspec.json.encode(found).decode()))
    else:
        show(list(blocks(found)))
    sys.exit(1 if found.wrong else 0)


def blocks(found: "Audit") -> "Iterator[Block]":
    """The audit as tables, and a verdict."""
    from gateway.cli._layout import Line, Table, number, plural

    yield Table(
        ["STREAM", "RECORDED", "KEPT", "GAPS"],
        [[one.stream, number(one.recorded), number(one.kept), _causes(one.gaps)] for one in found.streams],
    )
    if found.readers:
        rows = [
            [
                *(one.reader, one.stream, number(one.since), number(one.recorded), number(one.delivered)),
                *(number(one.dead), _causes(one.missed), _causes(one.gaps), number(one.pending), number(one.again)),
            ]
            for one in found.readers
        ]
        head = ["READER", "STREAM", "SINCE", "RECORDED", "DELIVERED", "DEAD", "MISSED", "GAPS", "PENDING", "AGAIN"]
        yield Table(head, rows)
    for wrong in found.wrong:
        yield Line(wrong, "trouble")
    records = sum(one.recorded for one in found.streams)
    if found.wrong:
        yield Line(f"{plural(len(found.wrong), 'account')} does not add up.", "trouble")
    else:
        yield Line(f"Everything adds up: {plural(records, 'record')} of {plural(len(found.streams), 'stream')}.", "ok")


def _causes(gaps: "Mapping[str, int]") -> str:
    return ", ".join(f"{cause} {count:,}" for cause, count in sorted(gaps.items())) or "-"
