"""`tidegate reload`: have the running gateway take its changed configuration."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from gateway.cli import EXIT_CONFIG
from gateway.cli._client import Away, Client, Refused
from gateway.cli._config import config_option
from gateway.cli._layout import safe, show_json

UNPROCESSABLE = 422


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def command(as_json: bool, path: str) -> None:
    """Have the gateway check its configuration as it is now, and swap what changed; nothing else is interrupted.

    A configuration with mistakes changes nothing: they are printed, and the exit code is 78. It is the gateway that
    checks, with its own environment and secrets; where it does not run, this command does. A sink that changes may need
    seconds to have its receipts; what takes longer than two minutes may still be done, and `tidegate status` tells.
    """
    client = Client.of(path)
    try:
        _same_file(client, path)
        told = client.post("reload")
    except Refused as error:
        if error.status != UNPROCESSABLE:
            raise
        _mistakes(json.loads(error.body)["problems"], "the gateway goes on as before", as_json)
    except Away:
        _check_here(path, as_json)
        raise
    if as_json:
        show_json(told)
    elif told["changes"]:
        click.echo("\n".join(safe(str(change)) for change in told["changes"]))
    else:
        click.echo("nothing has changed")


def _check_here(path: str, as_json: bool) -> None:
    """Nobody can take it; whether it could be taken is worth knowing all the same."""
    from gateway.config import load
    from gateway.errors import ConfigError

    try:
        load(path)
    except ConfigError as error:
        _mistakes([problem._asdict() for problem in error.problems], "no gateway was reached", as_json)


def _mistakes(problems: Sequence[Mapping[str, Any]], outcome: str, as_json: bool) -> None:
    """Every one at its place, and what became of the reload; ends the command."""
    if as_json:
        show_json({"ok": False, "problems": problems})
    else:
        for p in problems:
            click.echo(safe(f"{p['file']}:{p['line']}:{p['column']}: {p['path']}: {p['message']}"), err=True)
        click.echo(f"nothing was reloaded: {outcome}", err=True)
    sys.exit(EXIT_CONFIG)


def _same_file(client: Client, path: str) -> None:
    """A gateway takes the file that it was started with; whoever changed another one should know."""
    (first, *_) = client.get("status").get("config", {}).get("files") or [path]
    if os.path.isabs(first) and os.path.realpath(first) != os.path.realpath(path):
        raise click.UsageError(f"the gateway runs with {safe(first)}, not with {path}; name that one with --config")
