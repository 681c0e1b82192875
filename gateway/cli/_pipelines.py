"""What the commands that run pipelines share: which ones are meant."""

import difflib
from collections.abc import Iterable, Mapping

import click

from gateway.config import PipelineEntry


def chosen(pipelines: Mapping[str, PipelineEntry], names: Iterable[str]) -> list[PipelineEntry]:
    """The pipelines of these names, or all of them where none is named. A name that there is not ends the command."""
    for name in names:
        if name not in pipelines:
            close = difflib.get_close_matches(name, pipelines, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(pipelines) or 'none'}"
            raise click.UsageError(f"no pipeline is called {name!r}; {hint}")
    return [pipelines[name] for name in dict.fromkeys(names)] or list(pipelines.values())
