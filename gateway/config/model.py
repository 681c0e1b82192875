"""The configuration as the daemon sees it: plain, frozen, complete. Every limit and default of the file is here.

`…Keys` are what the house wants to know of an entry; what else an entry says belongs to its plugin's own `Options`.
A range of a duration or size is given as `Meta(extra={"ge": …, "le": …})`: msgspec knows ranges of numbers only.
`extra={"say": …}` completes the sentence "…; write …" where a text does not match its pattern. The docstrings say what
each option is for; `tidegate plugins`, the JSON Schema and docs/config.md show them.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.address import ADDRESS, is_loopback
from gateway.config.marks import Place
from gateway.decode import JSON
from gateway.errors import Problem
from gateway.plugin import Decoding, Mistake, Program
from gateway.quantity import Duration, LocalPath, Rate, Secret, Size
from gateway.web import RECIPE, weakness

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
SAY_NAME = "letters, digits, '-', '_' and '.', beginning with a letter or digit, at most 64"

HOST_NAME = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"
SAY_ADDRESS = "host:port, as 127.0.0.1:8765"
TOKEN_NAME = "status-token"  # noqa: S105 - of the file, as we propose to call it

Format = Literal[
    "ndjson", "ndjson+zstd", "ndjson+gzip",
    "json", "json+zstd", "json+gzip",
    "msgpack", "msgpack+zstd", "msgpack+gzip",
    "block", "block+zstd", "block+gzip",
    "raw",
]  # fmt: skip


def _between(low: str, high: str) -> Meta:
    kind = _kind(low)
    return Meta(extra={"ge": kind.parse(low), "le": kind.parse(high)})


def _kind(text: str) -> type[Duration] | type[Size] | type[Rate]:
    return Rate if "/" in text else Size if text.endswith("B") else Duration


def _from(low: str) -> Meta:
    kind = _kind(low)
    return Meta(extra={"ge": kind.parse(low)})


class Start(str):
    """Where a reader without a position begins: `earliest`, `latest`, a time with its zone, or how long ago (`7d`)."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Start":
        """Check a start. Raises ValueError with what to write instead."""
        if text not in ("earliest", "latest"):
            try:
                _moment(text, 0)
            except (ValueError, OverflowError):
                time = "2026-05-01T00:00:00Z"
                raise ValueError(f"{text!r} is no start; write earliest, latest, a time as {time}, or 7d") from None
        return cls(text)

    def resolve(self, now: int) -> str | int:
        """`earliest`, `latest`, or ns since 1970, when it is `now` (ns)."""
        return str(self) if self in ("earliest", "latest") else _moment(self, now)


def _moment(text: str, now: int) -> int:
    if not re.match(r"\d{4}-", text):
        return now - Duration.parse(text).ns
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return round(moment.timestamp() * 1_000_000) * 1000


class StatusOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the status page, the metrics and the API are, and who may look.

    listen: host and port; only this machine can reach it unless told, `0.0.0.0:8765` is every address of it.
    token_file: a file with a token of at least 16 characters (`head -c 24 /dev/urandom | base64`) that everybody must
    show, people at the page's login and programs as `Authorization: Bearer`; needed where other machines can ask. It
    is read again when it changes, and travels readable: the status is plain HTTP.
    names: names that browsers may ask for it by, beside its addresses, its host name and `HOSTNAME.local`.
    """

    listen: Annotated[str, Meta(pattern=ADDRESS, extra={"say": SAY_ADDRESS})] = "127.0.0.1:8765"
    token_file: Secret | None = None
    names: Annotated[
        tuple[Annotated[str, Meta(pattern=HOST_NAME, extra={"say": "a name like pi.lan, without a port"})], ...],
        Meta(max_length=32),
    ] = ()

    def __post_init__(self) -> None:
        host, _, port = self.listen.rpartition(":")
        if int(port) > 65535:
            raise ValueError(f"{self.listen!r} has no port up to 65535; write it like 127.0.0.1:8765")
        if self.token_file is None and not is_loopback(host):
            raise ValueError(
                f"{self.listen!r} can be reached from other machines, so it needs a token; make one with "
                f'{RECIPE.format(TOKEN_NAME)} and write status: {{listen: "{self.listen}", token_file: {TOKEN_NAME}}}'
            )
        if self.token_file is not None:
            problem = weakness(self.token_file.read(), TOKEN_NAME)
            if problem is not None:
                raise ValueError(problem)


class GatewayOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this gateway is, and where it shows its status.

    id: the name of this gateway wherever its records arrive.
    status: host and port of the status page, the metrics and the API, or a map; `null` for none.
    metrics_every: how often the gateway's own numbers go to the stream `_metrics`, where a pipeline or sink reads it.
    """

    id: Annotated[str, Meta(pattern=NAME, extra={"say": SAY_NAME})]
    status: Annotated[str, Meta(pattern=ADDRESS, extra={"say": SAY_ADDRESS})] | StatusOptions | None = "127.0.0.1:8765"
    metrics_every: Annotated[Duration, _between("1s", "1d")] = Duration(60.0)

    def __post_init__(self) -> None:
        if isinstance(self.status, str):
            StatusOptions(listen=self.status)  # raises for what it refuses

    @property
    def serves(self) -> StatusOptions | None:
        """Where the status is, however it was written."""
        return StatusOptions(listen=self.status) if isinstance(self.status, str) else self.status


COMMIT_MAX = Duration(10.0)


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the log lives, how large it gets, and how often it breathes.

    path: the folder of the log; a relative one is looked up beside the configuration.
    size: what the log may take on the disk; when it is full, the oldest records go first.
    turn: how often inputs are read when nothing presses.
    commit: the most that a power cut can take from a source that cannot send again.
    wear: what the log may write to its card, as `300MB/day`; where it would be more, commits wait longer than `commit`.
    commit_max: how long they may wait then; with it grows what a power cut can take.
    endurance: what the card can take in its life, for the status to say how long it lasts; its maker calls it TBW.
    memory: what the newest records of all streams may take in memory.
    journal: the preallocated file that holds the newest commits.
    """

    path: LocalPath = LocalPath("/var/lib/tidegate")
    size: Annotated[Size, _from("16MiB")] = Size(2 << 30)
    turn: Annotated[Duration, _between("20ms", "10s")] = Duration(0.25)
    commit: Annotated[Duration, _between("20ms", "60s")] = Duration(1.0)
    wear: Annotated[Rate, _between("10MB/day", "100TB/day")] | None = None
    commit_max: Annotated[Duration, _between("20ms", "60s")] = COMMIT_MAX
    endurance: Annotated[Size, _from("1GB")] = Size(4 * 10**12)
    memory: Annotated[Size, _between("1MiB", "1GiB")] = Size(16 << 20)
    journal: Annotated[Size, _between("1MiB", "256MiB")] = Size(8 << 20)

    def warnings(self) -> list[Mistake]:
        """As of gateway.plugin.Doubtful."""
        if self.wear is None and self.commit_max != COMMIT_MAX:
            told = (
                "without wear: commits are never stretched, and this does nothing; write wear: 300MB/day, or remove it"
            )
            return [Mistake(("commit_max",), told)]
        if self.wear is not None and self.commit_max <= self.commit:
            told = (
                "not longer than commit, so wear: can stretch nothing; write a longer commit_max, or a shorter commit"
            )
            return [Mistake(("commit_max",), told)]
        return []


class DriverKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What every driver takes beside its own options.

    driver: which driver reads this source.
    decode: how its payloads are read: a decoder's name, or `{name: options}`; what the stream says unless given.
    """

    driver: str
    decode: Decoding | None = None


class DriverEntry(DriverKeys, frozen=True, kw_only=True):
    """One source, its plugin's options built."""

    name: str
    options: Any
    streams: tuple[str, ...]  # every stream it may feed


class Keep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a stream is kept; without limits, as much as the log has room for.

    size: at most this many bytes.
    age: at most this long.
    """

    size: Annotated[Size, _from("64KiB")] | None = None
    age: Annotated[Duration, _from("1s")] | None = None


class StreamKeys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be said of a stream. One of which there is nothing to say need not be listed.

    keep: how much of it is kept.
    priority: urgent streams are committed at once and delivered first.
    decode: how its payloads are read: a decoder's name, or `{name: options}`; what its driver says unless given, else
        json.
    """

    keep: Keep = Keep()
    priority: Literal["normal", "urgent"] = "normal"
    decode: Decoding | None = None


class StreamEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One stream: declared, fed by a driver, emitted to by a pipeline, or the house's own."""

    name: str
    keep: Keep = Keep()
    priority: Literal["normal", "urgent"] = "normal"
    decode: Decoding = JSON


class PipelineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline, compiled."""

    name: str
    definition: Mapping[str, Any]
    program: Program
    tests: tuple[Place, ...] = ()  # where each of the program's tests stands


class BatchOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ends a batch, whichever comes first.

    records: at most this many records.
    bytes: at most this many bytes of payload.
    age: no record waits longer than this.
    """

    records: Annotated[int, Meta(ge=1, le=100_000)] = 500
    bytes: Annotated[Size, _between("1KiB", "16MiB")] = Size(100 << 10)
    age: Annotated[Duration, _between("10ms", "7d")] = Duration(10.0)


class SinkKeys(msgspec.Struct, frozen=True, kw_only=True):
    """What every sink takes beside its own options.

    sink: which sink delivers.
    streams: what it delivers; urgent streams go first.
    batch: what ends a batch.
    format: how a batch is written; `raw` is one message per record.
    in_flight: how many batches may be under way at a time.
    start: where it begins when it is new: `earliest`, `latest`, a time as `2026-05-01T00:00:00Z`, or `7d` ago.
    """

    sink: str
    streams: Annotated[tuple[str, ...], Meta(min_length=1)]
    batch: BatchOptions = BatchOptions()
    format: Format = "ndjson"
    in_flight: Annotated[int, Meta(ge=1, le=64)] = 4
    start: Start = Start("earliest")


class SinkEntry(SinkKeys, frozen=True, kw_only=True):
    """One destination, its plugin's options built."""

    name: str
    options: Any


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration, checked."""

    gateway: GatewayOptions
    log: LogSettings
    drivers: dict[str, DriverEntry]
    streams: dict[str, StreamEntry]  # every stream there is
    pipelines: dict[str, PipelineEntry]  # a pipeline comes after all those it reads from
    sinks: dict[str, SinkEntry]
    files: tuple[str, ...]  # what it was read from
    warnings: tuple[Problem, ...] = ()  # what is legal, and yet may not be what was meant; in the order of the files


class Workshop(msgspec.Struct, frozen=True, kw_only=True):
    """The pipelines of a configuration, to be tried out away from the gateway."""

    log: LogSettings
    pipelines: dict[str, PipelineEntry]  # a pipeline comes after all those it reads from
    feeders: dict[str, list[str]]  # stream -> who feeds it, as `driver boiler`
    files: tuple[str, ...]  # what it was read from
