"""Names for the shell's completion: from the running gateway, else from the configuration; quick, silent, or nothing.

A key that was pressed waits for the answer, so nothing heavy is imported, a gateway gets a short moment, and whatever
fails means that nothing is offered.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

MOMENT_S = 0.5  # what a gateway gets to answer
RECIPE = "recipe:"  # before the name of one
SECTIONS = ("drivers", "pipelines", "sinks")


def complete_stream(ctx: "click.Context", param: "click.Parameter", begun: str) -> list[str]:
    """Streams that are recorded or declared, fed or emitted to."""
    return _matching(begun, _streams, ctx, param)


def complete_driver_or_kind(ctx: "click.Context", param: "click.Parameter", begun: str) -> list[str]:
    """Drivers of the configuration, and the kinds there are of them."""
    from gateway import plugin

    kinds = [name for name in plugin.names("drivers") if name.startswith(begun)]
    return list(dict.fromkeys([*_matching(begun, lambda path: list(_section(path, "drivers")), ctx, param), *kinds]))


def complete_plugin(ctx: "click.Context", param: "click.Parameter", begun: str) -> list[str]:
    """Plugins of all families, and recipes."""
    from gateway import plugin

    named = [name for family in plugin.FAMILIES for name in plugin.names(family)]
    whole = [f"{family}/{name}" for family in plugin.FAMILIES for name in plugin.names(family) if "/" in begun]
    found = [*named, *whole, *[f"{RECIPE}{name}" for name in plugin.recipes()]]
    return [name for name in dict.fromkeys(found) if name.startswith(begun)]


def complete_pipeline(ctx: "click.Context", param: "click.Parameter", begun: str) -> list[str]:
    return _matching(begun, lambda path: list(_section(path, "pipelines")), ctx, param)


def complete_file_or_pipeline(ctx: "click.Context", param: "click.Parameter", begun: str) -> "list[CompletionItem]":
    """Pipelines, and what the shell knows of files where a file can stand: as the first word."""
    from click.shell_completion import CompletionItem

    given: tuple[str, ...] = ctx.params.get(param.name or "") or ()
    if given and os.path.isfile(given[0]):
        ctx.params["path"] = given[0]
    files = [] if given else [CompletionItem(begun, type="file")]  # first, or bash forgets the names
    return [*files, *[CompletionItem(name) for name in complete_pipeline(ctx, param, begun)]]


def _matching(
    begun: str, names: Callable[[str], list[str]], ctx: "click.Context", param: "click.Parameter"
) -> list[str]:
    from click import ClickException

    from gateway.cli._config import USUAL_CONFIG

    given = ctx.params.get(param.name or "") or ()
    taken = {given} if isinstance(given, str) else set(given)  # of an argument that takes several
    path = ctx.params.get("path") or os.environ.get("TIDEGATE_CONFIG") or USUAL_CONFIG
    try:
        found = names(path)
    except (ClickException, OSError, ValueError, LookupError, TypeError):
        return []  # no gateway, no configuration, or one that is being written
    return [
        name for name in dict.fromkeys(found) if name.startswith(begun) and name not in taken and name.isprintable()
    ]


def _streams(path: str) -> list[str]:
    from gateway.cli._client import Away, Client, Refused

    try:
        return [row["name"] for row in Client.of(path, timeout_s=MOMENT_S).get("streams")["streams"]]
    except (Away, Refused):
        pass  # it does not run: what is written will do
    found = list(_section(path, "streams"))
    for section in SECTIONS:
        for entry in _section(path, section).values():
            found += _named_in(entry)
    return found


def _named_in(entry: object) -> list[str]:
    """The streams an entry feeds, reads or writes: what stands after one of four words, at any depth."""
    found: list[str] = []
    if isinstance(entry, list):
        for one in entry:
            found += _named_in(one)
    elif isinstance(entry, dict):
        for word, told in entry.items():
            if word in ("stream", "streams", "from", "to"):
                found += [one for one in (told if isinstance(told, list) else [told]) if isinstance(one, str)]
            found += _named_in(told)
    return found


def _section(path: str, name: str) -> dict[str, Any]:
    """A section of a configuration and of what it includes, as it is written."""
    import glob

    from gateway import plugin

    found: dict[str, Any] = {}
    whole = _plain(path)
    parts = [whole]
    for pattern in whole.get("include") or ():
        if isinstance(pattern, str) and pattern.startswith(RECIPE):
            parts += [_plain(str(file)) for name, file in plugin.recipes().items() if pattern == f"{RECIPE}{name}"]
        elif isinstance(pattern, str):
            parts += [_plain(file) for file in sorted(glob.glob(os.path.join(os.path.dirname(path), pattern)))]
    for part in parts:
        entries = part.get(name)
        if isinstance(entries, dict):
            found |= entries
    return found


def _plain(path: str) -> dict[str, Any]:
    from gateway.config.marks import parse

    with open(path, "rb") as file:
        tree, _ = parse(path, file.read(1 << 20), os.environ)
    whole = tree.plain() if tree is not None else None
    return whole if isinstance(whole, dict) else {}
