"""`tidegate run`: the daemon, in the foreground."""

import sys

import click


@click.command()
@click.option(
    "--config", "-c", "path", envvar="TIDEGATE_CONFIG", default="/etc/tidegate/tidegate.yaml", show_default=True
)
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
        for problem in error.problems:
            click.echo(str(problem), err=True)
        sys.exit(78)
    except LogTooNew as error:
        click.echo(f"{error}", err=True)
        sys.exit(78)
    except OSError as error:
        click.echo(f"{error}; choose another address with `gateway: {{status: …}}`", err=True)
        sys.exit(1)
    except LogError as error:
        click.echo(f"the log could not be opened: {error}", err=True)
        sys.exit(1)
