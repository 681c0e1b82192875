"""`tidegate test`: run the tests that pipelines carry."""

import os
import sys
from typing import Any

import click
from click.core import ParameterSource

from gateway.cli._config import config_option
from gateway.cli._layout import safe, show_json
from gateway.cli._names import complete_file_or_pipeline

COLOURS = {"-": "red", "+": "red", "!": "yellow", "=": "green"}


@click.command()
@click.argument("what", nargs=-1, metavar="[FILE] [PIPELINE]...", shell_complete=complete_file_or_pipeline)
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(ctx: click.Context, what: tuple[str, ...], path: str, as_json: bool) -> None:
    """Run the tests under `tests:` of pipelines: all of a configuration, or those of the PIPELINEs named.

    FILE is a configuration, or a file with nothing but `pipelines:`; without it, --config says which. No gateway is
    needed, nothing is connected to or recorded, and time is virtual.

    Exits with 0 if every test passes, with 1 if one fails or there is none, with 78 if the configuration is wrong.
    """
    names = list(what)
    if names and (os.path.sep in names[0] or names[0].endswith((".yaml", ".yml")) or os.path.isfile(names[0])):
        if ctx.get_parameter_source("path") is ParameterSource.COMMANDLINE:
            raise click.UsageError("two configurations are given; write FILE or --config, not both")
        path = names.pop(0)
    from gateway.cli._pipelines import chosen
    from gateway.config import load_pipelines
    from gateway.trial import run_case

    entries = chosen(load_pipelines(path).pipelines, names)
    results: list[dict[str, Any]] = []
    for entry in entries:
        for case, place in zip(entry.program.tests, entry.tests, strict=True):
            outcome = run_case(entry.program, case)
            where = f"{place.file}:{place.line}"
            if not as_json:
                _show(entry.name, where, outcome)
            found = [
                {"stream": one.stream, "summary": one.summary, "lines": [line._asdict() for line in one.lines]}
                for one in outcome.differences
            ]
            results.append(
                {
                    "pipeline": entry.name,
                    "name": case.name,
                    "ok": outcome.passed,
                    "file": place.file,
                    "line": place.line,
                    "differences": found,
                }
            )
    failed = sum(not one["ok"] for one in results)
    untested = [entry.name for entry in entries if not entry.program.tests]
    if as_json:
        answer = {"ok": bool(results) and not failed, "tests": results, "untested": untested}
        show_json(answer)
    else:
        _sum_up(path, len(results), failed, untested)
    sys.exit(0 if results and not failed else 1)


def _show(pipeline: str, where: str, outcome: Any) -> None:
    """One line for a test, and what differs where it failed."""
    told = f"{pipeline}: {safe(outcome.case.name)}"
    if outcome.passed:
        click.echo(f"{click.style('pass', fg='green')}  {told}")
        return
    click.echo(f"{click.style('FAIL', fg='red', bold=True)}  {told}  ({where})")
    for one in outcome.differences:
        click.echo(f"      {safe(one.stream)}: {one.summary}")
        for line in one.lines:
            click.echo("        " + click.style(f"{line.mark:1} {safe(line.text)}", fg=COLOURS.get(line.mark)))


def _sum_up(path: str, count: int, failed: int, untested: list[str]) -> None:
    if not count:
        whose = f"pipeline {untested[0]} has" if len(untested) == 1 else f"the pipelines of {path} have"
        click.echo(f"{whose} no tests; write some under `tests:` of a pipeline (docs/language.md, Testing a pipeline)")
        return
    marks = "  (- expected, + came, ! came but not quite, = as expected)" if failed else ""
    click.echo(f"{count} test{'s' * (count != 1)}, {f'{failed} failed' if failed else 'all passed'}{marks}")
    if untested:
        click.echo(f"without tests: {', '.join(untested)}")
