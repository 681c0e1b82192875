"""The option by which commands are told the configuration."""

import click

config_option = click.option(
    "--config",
    "-c",
    "path",
    envvar="TIDEGATE_CONFIG",
    default="/etc/tidegate/tidegate.yaml",
    show_default=True,
    show_envvar=True,
    metavar="PATH",
    help="The configuration.",
)
