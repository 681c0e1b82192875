"""`tidegate lag`: how far each reader is behind the newest record."""

import click

from gateway.cli._client import Client, place_options, show_json
from gateway.cli.status import lag_table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As the gateway says it, for programs.")
@place_options
def command(as_json: bool, path: str, url: str | None) -> None:
    """Show what each reader has not finished yet: records, and how long the oldest one waits."""
    readers = Client.of(path, url).get("status")["readers"]
    if as_json:
        show_json(readers)
    else:
        click.echo(lag_table(sorted(readers, key=lambda reader: -reader["lag"])) if readers else "no reader yet")
