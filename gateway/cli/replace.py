"""`tidegate replace`: this machine takes the place of the one that a log was recorded on."""

import os

import click

from gateway.cli._config import config_option

KEEPS = """\
The log in {folder} is {standing}, and would go on here under the same epoch.
If that machine has recorded since with a copy of this log, or does again, both give the same ids to different readings,
and whoever drops repeats by id drops readings. Without this command a new epoch begins, and only what was under way is
sent twice."""


@click.command()
@click.option(
    "--log", "folder", type=click.Path(), metavar="FOLDER", help="The log; what the configuration says unless told."
)
@click.option("--yes", "-y", "sure", is_flag=True, help="Do not ask: the other machine is off for good.")
@config_option
def command(folder: str | None, sure: bool, path: str) -> None:
    """Have the log of another machine, brought here with its card or copied while its gateway was stopped, go on under
    the same epoch, as if nothing had happened. The gateway must not run.

    A log that comes to another machine without this begins a new epoch when the gateway starts: nothing is lost by
    that, and what was under way is sent again under new ids.
    """
    from gateway.config import load_pipelines
    from gateway.errors import LogError
    from gateway.log import SystemFiles
    from gateway.log.identity import FILE, Standing, adopt, standing

    folder, files = folder or load_pipelines(path).log.path, SystemFiles()
    journal = os.path.join(folder, "journal")
    if not os.access(os.path.dirname(journal), os.R_OK | os.X_OK) and os.path.exists(folder):
        raise click.ClickException(f"{folder} is not for you; try it with sudo")
    if not os.path.exists(journal):
        raise click.ClickException(f"there is no log in {folder}; say where it is with --log FOLDER")
    found = standing(folder, files)
    if found in (Standing.HERE, Standing.UNBOUND):
        click.echo(f"nothing to do: the log in {folder} is {found.value}, and keeps its epoch")
        return
    if found is Standing.LIVE_COPY:
        raise click.ClickException(
            f"the log in {folder} is {found.value}: what that recorded since has ids that this one would give again. "
            "Start the gateway; a new epoch begins, and nothing is lost"
        )
    if not sure:
        click.echo(KEEPS.format(folder=folder, standing=found.value))
        click.confirm("Is the other one off for good?", abort=True)
    try:
        adopt(folder, files)
        if os.geteuid() == 0 and os.path.exists(os.path.join(folder, FILE)):  # it is for the gateway's user
            owner = os.stat(journal)
            os.chown(os.path.join(folder, FILE), owner.st_uid, owner.st_gid)
    except (LogError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"the log in {folder} belongs to this machine now, and keeps its epoch")
