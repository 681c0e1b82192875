"""The command line: one file per command, imported when it is used. Each exports `command` and is called like it.

Exit codes: 0 fine, 1 the thing asked about is not fine, 2 usage, 78 configuration.
"""

import difflib
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import click

from gateway import __version__
from gateway.errors import ConfigError

EXIT_CONFIG = 78  # sysexits.h: EX_CONFIG; systemd does not restart on it


class Commands(click.Group):
    """The commands are the files of this folder, by name; none is imported before it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            close = difflib.get_close_matches(args[0], known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help: the first line of each file, read without running it."""
        rows = []
        for name in self.list_commands(ctx):
            with Path(__path__[0], f"{name}.py").open(encoding="utf-8") as file:
                line = file.readline().strip().strip('"').removeprefix(f"`tidegate {name}`: ")
            rows.append((name, line[:1].upper() + line[1:]))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a wrong configuration ends every one of them alike."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            from gateway.cli._config import refusal

            click.echo(refusal(error), err=True)
            ctx.exit(EXIT_CONFIG)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="tidegate", message="%(prog)s %(version)s")
def main() -> None:
    """Tidegate: an event-streaming gateway for the edge."""
