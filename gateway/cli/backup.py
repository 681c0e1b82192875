"""`tidegate backup`: the log and the configuration, while the gateway runs."""

import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Sequence

import click

from gateway.cli._config import config_option

RESTORE = """\
A backup of a Tidegate log (log/) and of its configuration (config/). Files with passwords and tokens are not in it.

    sudo systemctl stop tidegate
    sudo mv /var/lib/tidegate /var/lib/tidegate.before
    sudo cp -r log /var/lib/tidegate
    sudo chown -R tidegate: /var/lib/tidegate && sudo chmod 750 /var/lib/tidegate
    sudo cp -r config/. /etc/tidegate/ && sudo chgrp -R tidegate /etc/tidegate
    sudo systemctl start tidegate

It goes on from the moment of the backup, under a new epoch.
"""


@click.command()
@click.argument("target", type=click.Path(), metavar="FILE.tar|FOLDER")
@click.option(
    "--log", "folder", type=click.Path(), metavar="FOLDER", help="The log; what the configuration says unless told."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
def command(target: str, folder: str | None, as_json: bool, path: str) -> None:
    """Copy the log, as of now, and the configuration into a new folder or a tar file. The gateway may run: it is not
    held up, and nothing of its log is written. Files of secrets are not copied.

    A restored backup goes on from where it stood, under a new epoch.
    """
    from gateway.cli._layout import show_json
    from gateway.config import load_pipelines
    from gateway.errors import ConfigError, LogError
    from gateway.log.archive import NoLog
    from gateway.log.backup import back_up
    from gateway.quantity import in_units

    config: Sequence[str] = ()
    try:
        settings = load_pipelines(path)
        folder, config = folder or settings.log.path, [file for file in settings.files if os.path.isfile(file)]
    except ConfigError:
        if folder is None:
            raise
    parent = os.path.dirname(os.path.abspath(target))
    if os.path.exists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise click.ClickException(f"{target} is there already; write another name")
    if not os.path.isdir(parent):
        raise click.ClickException(f"there is no folder {parent}")
    before = os.umask(0o077)  # readings are nobody else's business
    work = ""
    try:
        work = tempfile.mkdtemp(prefix=f".{os.path.basename(os.path.abspath(target))}.", dir=parent)
        os.mkdir(os.path.join(work, "log"))
        copied = back_up(folder, os.path.join(work, "log"), _progress)
        names = _copy_configuration(config, os.path.join(work, "config"))
        with open(os.path.join(work, "RESTORE.txt"), "w", encoding="utf-8") as file:
            file.write(RESTORE)
        _finish(work, target)
    except NoLog as error:
        raise click.ClickException(f"{error}\nIs the log elsewhere? Say where with --log FOLDER.") from error
    except (LogError, OSError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        os.umask(before)
        if work:
            shutil.rmtree(work, ignore_errors=True)
    if as_json:
        show_json({"target": target, "config": names, **copied._asdict()})
        return
    how = "while its gateway went on" if copied.live else "of a gateway that does not run"
    told = f"{len(names)} {'file' if len(names) == 1 else 'files'} of configuration" if names else "no configuration"
    click.echo(f"{target}: {in_units(copied.bytes)} of log, {how}, and {told}")


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done} of {of} blocks" + ("\n" if done == of else ""), err=True, nl=False)


def _copy_configuration(files: Sequence[str], target: str) -> list[str]:
    """The files, as they stand to the first of them; others below `elsewhere`. Returns their names there."""
    names = []
    for file in files:
        name = os.path.relpath(file, os.path.dirname(files[0]))
        if name.startswith(".."):
            name = os.path.join("elsewhere", os.path.abspath(file).lstrip("/"))
        beside = os.path.dirname(os.path.join(target, name))
        os.makedirs(beside, exist_ok=True)
        shutil.copymode(os.path.dirname(os.path.abspath(file)), beside)  # as it has to be where it is put back
        shutil.copy(file, os.path.join(target, name))
        names.append(name)
    return names


def _finish(work: str, target: str) -> None:
    """It gets its name once it is whole and on the device."""
    if target.endswith(".tar"):
        packed = f"{work}.tar"
        try:
            with open(packed, "xb") as file:
                with tarfile.open(fileobj=file, mode="w") as tar:
                    for name in sorted(os.listdir(work)):
                        tar.add(os.path.join(work, name), name)
                file.flush()
                os.fsync(file.fileno())
            os.rename(packed, target)
        finally:
            if os.path.exists(packed):
                os.unlink(packed)
    else:
        for folder, _, names in os.walk(work):
            for name in names:
                with open(os.path.join(folder, name), "rb") as file:
                    os.fsync(file.fileno())
        os.rename(work, target)
    handle = os.open(os.path.dirname(os.path.abspath(target)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
