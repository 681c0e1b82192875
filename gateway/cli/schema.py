"""`tidegate schema`: the configuration as JSON Schema, for editors."""

import json

import click


@click.group()
def command() -> None:
    """Print schemas."""


@command.command()
def config() -> None:
    """Print the JSON Schema (2020-12) of the configuration, all installed plugins included.

    Editors with the YAML language server check and complete the file when it begins with the line
    `# yaml-language-server: $schema=PATH`.
    """
    from gateway.config.schema import schema

    click.echo(json.dumps(schema(), indent=2, ensure_ascii=False))
