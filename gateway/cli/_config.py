"""The option by which commands are told the configuration."""

import click

USUAL_CONFIG = "/etc/tidegate/tidegate.yaml"

config_option = click.option(
    "--config",
    "-c",
    "path",
    envvar="TIDEGATE_CONFIG",
    default=USUAL_CONFIG,
    show_default=True,
    show_envvar=True,
    metavar="PATH",
    help="The configuration.",
)
