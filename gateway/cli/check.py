"""`tidegate check`: say whether a configuration is right, and if not, every problem at its place."""

import sys

import click
from click.core import ParameterSource

from gateway.cli import EXIT_CONFIG
from gateway.cli._config import config_option, refusal
from gateway.cli._layout import show_json


@click.command()
@click.argument("file", required=False, type=click.Path())
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(ctx: click.Context, file: str | None, path: str, as_json: bool) -> None:
    """Check a configuration: FILE, or what --config says. Nothing else is touched.

    Exits with 0 if it is right, else with 78 and one line per problem: file:line:column: path: what, and what to try.
    What is right and yet may not be what you meant is told before that, as `warning: file:line:column: …`.
    """
    if file is not None:
        if ctx.get_parameter_source("path") is ParameterSource.COMMANDLINE:
            raise click.UsageError("two configurations are given; write FILE or --config, not both")
        path = file
    from gateway.config import load
    from gateway.errors import ConfigError

    try:
        config = load(path)
    except ConfigError as error:
        if as_json:
            problems = [problem._asdict() for problem in error.problems]
            show_json({"ok": False, "problems": problems})
        else:
            click.echo(refusal(error))
        sys.exit(EXIT_CONFIG)
    counts = {kind: len(getattr(config, kind)) for kind in ("drivers", "streams", "pipelines", "sinks")}
    if as_json:
        warnings = [warning._asdict() for warning in config.warnings]
        told = {"ok": True, **counts, "files": config.files, "warnings": warnings}
        show_json(told)
    else:
        for warning in config.warnings:
            click.echo(f"warning: {warning}")
        parts = [f"{n} {kind.removesuffix('s') if n == 1 else kind}" for kind, n in counts.items()]
        click.echo(f"ok: {', '.join(parts)}")
