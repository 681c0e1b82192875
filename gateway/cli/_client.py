"""What the commands that look at a running gateway share: where it is, how to ask it, and how to lay out the answer."""

import http.client
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import click

from gateway.cli import EXIT_CONFIG
from gateway.cli._config import config_option

USUAL_CONFIG = "/etc/tidegate/tidegate.yaml"
USUAL_ADDRESS = "127.0.0.1:8765"
TIMEOUT_S = 10.0

F = TypeVar("F", bound=Callable[..., Any])


def place_options(command: F) -> F:
    """`--config` and `--url`, handed to the command as `path` and `url`."""
    return config_option(click.option("--url", help="Ask this address instead, like http://127.0.0.1:8765.")(command))


class Unreadable(click.ClickException):
    """The configuration that was to say where the gateway is."""

    exit_code = EXIT_CONFIG


class Client:
    """Asks one gateway. What goes wrong ends the command with exit code 1 and what to try."""

    def __init__(self, address: str, source: str) -> None:
        self._address, self._source = address, source

    @classmethod
    def of(cls, path: str, url: str | None) -> "Client":
        if url is not None:
            return cls(url.removeprefix("http://").rstrip("/"), "--url")
        return cls(*_configured(path))

    def get(self, *path: str, **query: object) -> Any:
        """The JSON under /api/v1/."""
        return json.loads(self._ask(path, query, "application/json")[0])

    def records(self, stream: str, **query: object) -> tuple[list[bytes], int]:
        """A page of records as lines of JSON, and where the next page begins."""
        body, after = self._ask(("streams", stream, "records"), query, "application/x-ndjson")
        return body.split(b"\n")[:-1], int(after)

    def _ask(self, path: Sequence[str], query: dict[str, object], accept: str) -> tuple[bytes, str]:
        from gateway.status import parse_address

        target = "/api/v1/" + "/".join(quote(part, safe="") for part in path)
        if query:
            target += f"?{urlencode(query)}"
        try:
            with closing(http.client.HTTPConnection(*parse_address(self._address), timeout=TIMEOUT_S)) as connection:
                connection.request("GET", target, headers={"Accept": accept, "Host": "localhost"})
                answer = connection.getresponse()
                body = answer.read()
        except ValueError as error:
            raise click.UsageError(f"{error} (from {self._source})") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise click.ClickException(
                f"nothing answers at {self._address} (from {self._source}): {reason}\n"
                "Is the gateway running? Try: systemctl status tidegate. Does it serve its status elsewhere? "
                "Say where with --config or --url."
            ) from error
        if answer.status != http.client.OK:
            raise click.ClickException(_words(answer.status, body))
        return body, answer.headers.get("tidegate-next", "0")


def _words(status: int, body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError):
        return f"the gateway answered {status}: {safe(body[:200].decode(errors='replace').strip())}"


def _configured(path: str) -> tuple[str, str]:
    """The status address in a configuration, and where it was found. Other mistakes in the file do not matter here."""
    from gateway.config.marks import parse

    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        if path != USUAL_CONFIG:
            raise click.UsageError(f"there is no file {path}") from None
        return USUAL_ADDRESS, "the usual address"
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}; say where the gateway is with --url") from error
    tree, problems = parse(path, data, os.environ)
    whole = tree.plain() if tree is not None else None
    if tree is None or not isinstance(whole, dict | None):
        why = f"\n{problems[0]}" if problems else ""
        raise Unreadable(
            f"{path} cannot be read, so it does not say where the gateway is; try: tidegate check {path}{why}"
        )
    gateway = whole.get("gateway") if whole is not None else None
    address = gateway.get("status", USUAL_ADDRESS) if isinstance(gateway, dict) else USUAL_ADDRESS
    if not isinstance(address, str):
        raise click.ClickException(f"{path} turns the status address off (gateway.status)")
    return address, path


# -- layout ------------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns, numbers to the right. Whatever came from outside is made safe to show."""
    cells = [list(head)] + [[safe("-" if cell is None else str(cell)) for cell in row] for row in rows]
    numeric = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(head))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    )


def safe(text: str) -> str:
    """Text from outside for a terminal: what does not print is escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def local_time(ns: int) -> str:
    """ns since 1970 as people read it, in the zone of this machine, to the millisecond."""
    try:
        return datetime.fromtimestamp(ns // 1_000_000 / 1000).astimezone().isoformat(" ", "milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"


def duration(seconds: float | None) -> str:
    """`12 s`, `3 min`, `5.2 h`, `12 d`."""
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def size(count: float) -> str:
    """Bytes as `512 B`, `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def show_json(data: object) -> None:
    click.echo(json.dumps(data, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))
