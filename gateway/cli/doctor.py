"""`tidegate doctor`: what may be wrong with this machine and its gateway, and what to try."""

import sys
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._config import config_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.cli._layout import Block
    from gateway.config import Config, LogSettings
    from gateway.doctor import Finding


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--all", "-a", "everything", is_flag=True, help="Also what is well.")
@config_option
def command(as_json: bool, everything: bool, path: str) -> None:
    """Examine the disk under the log, clock, power, memory, permissions, ports and configuration, and what the running
    gateway says of itself.

    Nothing is changed, and the gateway need not run. Exits with 1 where something is in trouble, else with 0.
    """
    import msgspec

    from gateway.cli._layout import show, show_json
    from gateway.doctor import Machine, examine

    log, config, told = _configuration(path)
    status, answer = _status(path)
    found = [*told, *answer, *examine(Machine(), log, config, status)]
    trouble = any(one.level == "trouble" for one in found)
    if as_json:
        show_json({"ok": not trouble, "findings": msgspec.to_builtins(found)})
    else:
        show(list(blocks(found, everything=everything)))
    sys.exit(1 if trouble else 0)


def blocks(found: "Sequence[Finding]", *, everything: bool) -> "Iterator[Block]":
    """What was found, the worst first, and a verdict."""
    from gateway.cli._layout import SIGNS, Cell, Line, Table, plural

    order = ("trouble", "attention", "ok")
    shown = [one for level in order for one in found if one.level == level and (everything or level != "ok")]
    rows = []
    for one in shown:
        rows.append([Cell(SIGNS[one.level], one.level), Cell(one.about, "strong"), one.seen])
        if one.advice:
            rows.append(["", "", Cell(f"try: {one.advice}", "quiet")])
    if rows:
        yield Table(["", "WHAT", "SEEN"], rows)
    counts = {level: sum(one.level == level for one in found) for level in order}
    verdict = [f"{plural(counts['ok'], 'examination')} well"]
    verdict += [f"{counts[level]} {words}" for level, words in _WORDS.items() if counts[level]]
    yield Line(", ".join(verdict) + ("" if everything else "; --all shows what is well"), _worst(counts))


_WORDS = {"attention": "to look at", "trouble": "in trouble"}


def _worst(counts: dict[str, int]) -> str:
    return next(level for level in ("trouble", "attention", "ok") if counts[level] or level == "ok")


def _configuration(path: str) -> "tuple[LogSettings, Config | None, list[Finding]]":
    """The settings of the log, the whole configuration where it can be read, and what is to be said of it."""
    from gateway.config import LogSettings, load, load_pipelines
    from gateway.doctor import Finding
    from gateway.errors import ConfigError

    try:
        config = load(path)
    except ConfigError as error:
        first, more = str(error.problems[0]), len(error.problems) - 1
        words = f"{first}{f', and {more} more' if more else ''}"
        try:
            log = load_pipelines(path).log
        except ConfigError:
            return LogSettings(), None, [Finding("trouble", "configuration", words, f"tidegate check {path}")]
        if all(
            " may not read " in problem.message or " may not enter" in problem.message for problem in error.problems
        ):
            hint = "sudo tidegate doctor; what depends on it was not examined"
            return log, None, [Finding("attention", "configuration", words, hint)]
        return log, None, [Finding("trouble", "configuration", words, f"tidegate check {path}")]
    doubts = [Finding("attention", "configuration", str(doubt)) for doubt in config.warnings]
    return config.log, config, doubts or [Finding("ok", "configuration", f"{path} is right")]


def _status(path: str) -> "tuple[dict[str, Any] | None, list[Finding]]":
    """What the gateway says of itself, or why it does not."""
    from gateway.cli._client import Client
    from gateway.doctor import Finding

    try:
        return Client.of(path).get("status"), []
    except click.ClickException as error:
        seen, _, hint = error.format_message().partition("\n")
        return None, [Finding("attention", "gateway", f"it was not asked: {seen}", hint)]
