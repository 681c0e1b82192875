"""`tidegate run`: the daemon, in the foreground."""

import sys

import click

from gateway.cli import EXIT_CONFIG
from gateway.cli._config import config_option, refusal


@click.command()
@config_option
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def command(path: str, log_level: str) -> None:
    """Run the gateway until SIGTERM or SIGINT."""
    import gateway.logs
    from gateway.config import load
    from gateway.daemon import serve
    from gateway.errors import ConfigError, LogError, LogTooNew

    gateway.logs.configure(log_level)
    try:
        config = load(path)
        serve(config)
    except ConfigError as error:
        click.echo(refusal(error), err=True)
        sys.exit(EXIT_CONFIG)
    except LogTooNew as error:
        click.echo(f"{error}", err=True)
        sys.exit(EXIT_CONFIG)
    except OSError as error:
        click.echo(f"{error}; choose another address with `gateway: {{status: …}}`", err=True)
        sys.exit(1)
    except LogError as error:
        click.echo(f"the log could not be opened: {error}", err=True)
        sys.exit(1)
