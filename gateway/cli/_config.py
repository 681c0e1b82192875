"""The option by which commands are told the configuration, and what to say where that is not found."""

import os

import click

from gateway.errors import ConfigError

USUAL_CONFIG = "/etc/tidegate/tidegate.yaml"

config_option = click.option(
    "--config",
    "-c",
    "path",
    envvar="TIDEGATE_CONFIG",
    default=USUAL_CONFIG,
    show_default=True,
    show_envvar=True,
    type=click.Path(),
    metavar="PATH",
    help="The configuration.",
)


def refusal(error: ConfigError) -> str:
    """Every problem on a line of its own, and where the configuration may be if it was not found."""
    hint = overlooked(error.problems[0].file) if len(error.problems) == 1 else ""
    return f"{error}\n{hint}" if hint else str(error)


def overlooked(path: str) -> str:
    """What to try where the usual configuration was meant and is not there; empty where there is nothing to say."""
    name = os.path.basename(USUAL_CONFIG)
    if path != USUAL_CONFIG or os.path.exists(path) or not os.path.isfile(name):
        return ""
    return f"There is a {name} here: add `-c {name}`, or `export TIDEGATE_CONFIG=$PWD/{name}`."


def start_it(path: str) -> str:
    """What starts the gateway of a configuration."""
    return "systemctl start tidegate" if path == USUAL_CONFIG else f"tidegate run -c {path}"
