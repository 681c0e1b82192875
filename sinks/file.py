"""Files: every stream in a folder of its own, every delivery there exactly once. Also the example for a sink of yours.

- A receipt is given after the bytes, and the note that they are there, were synced to the device.
- `.position` in the folder notes which file, how much of it, and which deliveries. It is the truth: what stands beyond
  it was written by an attempt that did not end, and is cut off before the next one.
- ndjson (also packed, since zstd frames and gzip members can be chained) and raw grow a file until it is due for a new
  one; of the other formats every delivery is a file.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar
from urllib.parse import quote

import msgspec

from gateway.errors import SinkUnavailable
from gateway.formats import CONTENT_TYPES
from gateway.plugin import Outlet, Plugin
from gateway.quantity import Duration, LocalPath, Size
from gateway.record import Delivery, Receipt

EXAMPLE = """\
sink: file
path: /var/lib/tidegate/export
streams: [freezer-temps]
format: ndjson+zstd
rotate: {size: 64MiB, age: 1d}
keep: 30
"""

P = ParamSpec("P")
T = TypeVar("T")

RECENT = 64  # deliveries that are recognised when they come again: more than are under way at a time
_SUFFIX = {content_type: f".{name}" for name, content_type in CONTENT_TYPES.items()}
_PACKED = {"": "", "zstd": ".zst", "gzip": ".gz"}
_CHAINED = (CONTENT_TYPES["ndjson"], CONTENT_TYPES["raw"])


class Rotate(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """When a file is full: at this size, or this long after it was begun."""

    size: Size = Size(64 << 20)
    age: Duration = Duration(86_400)


class Options(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Write streams to rotating files.

    path: the folder; each stream gets a folder in it.
    rotate: when to begin a new file.
    keep: how many files to keep of each stream; the oldest are deleted.
    """

    path: LocalPath
    rotate: Rotate = Rotate()
    keep: Annotated[int, msgspec.Meta(ge=1)] = 100


class Position(msgspec.Struct, frozen=True):
    """How far a folder is written: `size` bytes of `file`, the one with `number`; `ids` are the last deliveries."""

    number: int = 0
    file: str = ""
    size: int = 0
    begun: int = 0  # ns since 1970
    ids: tuple[str, ...] = ()


class File:
    def __init__(self, options: Options, outlet: Outlet) -> None:
        self._options, self._outlet = options, outlet
        self._root = Path(options.path)
        self._positions: dict[Path, Position] = {}
        # One thread: deliveries are written one at a time, in order, also after a send was cancelled half-way.
        self._thread = ThreadPoolExecutor(1, "file-sink")

    async def run(self) -> None:
        await self._in_thread(self._open)
        self._outlet.up(str(self._root))
        await asyncio.Event().wait()

    async def send(self, delivery: Delivery) -> Receipt:
        for metric, n in (await self._in_thread(self._write, delivery)).items():
            self._outlet.count(metric, n)
        return Receipt()

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *args, **kwargs))
        except OSError as error:
            raise SinkUnavailable(f"{error.filename or self._root}: {error.strerror or error}") from error

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)

    def _write(self, delivery: Delivery) -> dict[str, int]:
        """Write it unless it is there; returns what to count."""
        folder = self._root / folder_name(delivery.extent.stream)
        position = self._positions.get(folder) or _recover(folder)
        if delivery.id in position.ids:
            return {"repeated_total": 1}
        body = delivery.body or b"".join([value + b"\n" for batch in delivery.batches for value in batch.values])
        suffix = _SUFFIX.get(delivery.content_type, "") + _PACKED.get(delivery.encoding, "")
        number, name, size, begun = position.number, position.file, position.size, position.begun
        if not self._fits(folder, position, delivery, suffix):
            number, size, begun = number + 1, 0, self._outlet.clock.now()
            name = f"{number:08d}{suffix}"
        with open(folder / name, "ab") as file:
            file.truncate(size)
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        position = Position(number, name, size + len(body), begun, (*position.ids, delivery.id)[-RECENT:])
        _save(folder, position)
        self._positions[folder] = position
        outdated = _files(folder)[: -self._options.keep]
        for path in outdated:
            path.unlink()
        return {"wire_bytes_total": len(body), "files_removed_total": len(outdated)}

    def _fits(self, folder: Path, position: Position, delivery: Delivery, suffix: str) -> bool:
        """May this delivery go to the end of the file that was written last?"""
        if delivery.content_type not in _CHAINED or not position.file.endswith(suffix):
            return False
        rotate, path = self._options.rotate, folder / position.file
        if position.size >= rotate.size or self._outlet.clock.now() - position.begun >= rotate.age.ns:
            return False
        # Someone may have moved the file away, or emptied it.
        return path.is_file() and path.stat().st_size >= position.size


def folder_name(stream: str) -> str:
    """A stream's folder: its name, with what could lead elsewhere written as %2F."""
    name = quote(stream, safe="~")
    return name.replace(".", "%2E") if name.startswith(".") else name


def _files(folder: Path) -> list[Path]:
    """The files of a folder, oldest first."""
    return sorted(folder.glob("[0-9]" * 8 + ".*"))


def _recover(folder: Path) -> Position:
    """Where the last run ended; whole files beyond that are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        position = msgspec.json.decode((folder / ".position").read_bytes(), type=Position)
    except (FileNotFoundError, msgspec.DecodeError):
        # A new folder is noted before anything is written. Else the note is lost or damaged: go on in a new file; what
        # was under way may then be there twice, nothing is lost.
        position = Position(number=max(map(_number, _files(folder)), default=0))
        _save(folder, position)
    for path in _files(folder):
        if _number(path) > position.number:
            path.unlink()
    return position


def _number(path: Path) -> int:
    return int(path.name[:8])


def _save(folder: Path, position: Position) -> None:
    """Note the position so that it is either the old or the new one after a power cut."""
    temporary = folder / ".position.new"
    with open(temporary, "wb") as file:
        file.write(msgspec.json.encode(position))
        file.flush()
        os.fsync(file.fileno())
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)  # the file's name first: a position must never name what is not there
        temporary.rename(folder / ".position")
        os.fsync(handle)
    finally:
        os.close(handle)


plugin = Plugin(Options, File)
