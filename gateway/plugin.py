"""The seams: what drivers, decoders, pipelines and sinks must be, what each is given, and how they are found by name.

A plugin is one file with three parts in this order: `Options` (a frozen, keyword-only msgspec Struct that forbids
unknown fields), the class, and `plugin = Plugin(Options, Class)`. The file's name is its name in the configuration.
Names come from the built-in folders, from entry points (`tidegate.drivers`, `tidegate.decoders`, `tidegate.sinks`,
`tidegate.steps`), and from `/etc/tidegate/plugins/{drivers,decoders,sinks,steps}/*.py`.
"""

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

from gateway.clock import Clock
from gateway.record import Batch, Delivery, Receipt

# family -> package of the built-in ones
FAMILIES = {"drivers": "drivers", "decoders": "gateway.decode", "sinks": "sinks", "steps": "pipelines"}
SITE_PLUGINS = Path("/etc/tidegate/plugins")

P = TypeVar("P")


class Inlet(Protocol):
    """The house as one driver sees it. All methods are called on the event loop and return at once."""

    name: str
    gateway: str  # the gateway's id
    clock: Clock
    urgent: bool  # True: something this driver feeds is urgent, so read at once instead of waiting for turns
    memory: "Sequence[Remembered]"  # at start: the last records of this driver that carried ids, oldest first

    @property
    def leaving(self) -> bool:
        """This entry is being taken out of a gateway that goes on: removed, or about to be followed by another."""
        ...

    def record(
        self,
        stream: str,
        times: Sequence[int],
        keys: Sequence[str],
        values: Sequence[bytes],
        *,
        flags: bytes | None = None,
        ids: Sequence[int] | None = None,
        receipt: object = None,
    ) -> None:
        """Append records to a stream; after the commit that holds them, `receipt` comes back through acknowledge().

        `ids` (0..65535, one per record) are the source's own delivery ids; they are journaled beside the records and
        come back as `memory` after a restart, so that the driver can recognise what the source delivers again.
        Records with neither are what a power cut would take: nobody waits for their receipt, to send them again.
        """
        ...

    def hurry(self) -> None:
        """The source waits for our acknowledgement: commit as soon as the floor between commits allows."""
        ...

    def up(self, detail: str = "") -> None:
        """The source is there and readings can flow."""
        ...

    def waiting(self, detail: str) -> None:
        """The source is not usable now, in words for the person who reads the status."""
        ...

    def bad_frame(self, reason: str, sample: bytes, count: int = 1) -> None:
        """Count bytes that were no record; some samples are kept for the status page."""
        ...

    def count(self, metric: str, n: int = 1) -> None:
        """Add to a counter of this driver, e.g. "redelivered_total"."""
        ...

    def summary(self) -> Mapping[str, object]:
        """What the gateway says of itself, for those who pass it on.

        state: "online", or "stopping" once the ordered stop has begun; version; sentence: all of it in plain words;
        level: "ok" | "attention" | "trouble"; waiting: records that sinks have not delivered; oldest_s: how long the
        oldest of them has waited (s), None where none waits or that is not known.
        """
        ...


class Remembered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record that was committed with a delivery id: enough to recognise it if it is delivered again."""

    id: int
    crc: int  # fingerprint(key, value)


class DriverOptions(Protocol):
    """What the `Options` of a driver must offer beside its fields."""

    def streams(self) -> Sequence[str]:
        """The streams that a driver with these options may feed."""
        ...


class Doubtful(Protocol):
    """What the `Options` of a driver or sink may offer: what is legal, and yet may not be what was meant."""

    def warnings(self) -> "Sequence[Mistake]":
        """Told by `tidegate check` and at every start, each at the option it is about. Nothing is refused."""
        ...


class Welcoming(Protocol):
    """What the `Options` of a driver or sink may offer: what people write who know another one."""

    instead: ClassVar[Mapping[str, str]]  # such a name -> the option that is meant


class Claiming(Protocol):
    """What the `Options` of a driver or sink may offer: what only one entry of a configuration can have."""

    def claims(self, gateway: str, name: str) -> Mapping[str, str]:
        """Option -> what it takes for itself alone, in words; two entries with the same words are a mistake."""
        ...


class Listening(Protocol):
    """What the `Options` of a driver may offer that others connect to: a port is for one, and the page has one."""

    def listens(self) -> Mapping[str, str]:
        """Option -> the address, as 127.0.0.1:8088."""
        ...


@runtime_checkable
class Sniffable(Protocol):
    """What the `Options` of a driver may offer: how to listen beside a gateway that runs, taking nothing from it."""

    def sniffing(self) -> Any:
        """Options of the same kind: a session of its own, nothing published, nothing that others would miss."""
        ...


class Finding(Protocol):
    """What the `Options` of a driver may offer whose sources can be looked for."""

    def found(self) -> Sequence[str]:
        """A class method: what is there now on this machine, each as OPTION=VALUE, the most likely first."""
        ...


class Driver(Protocol):
    """Reads a source. Built by calling its class with (options, inlet); constructors only assign."""

    async def run(self) -> None:
        """Serve the source until cancelled. Raise DriverUnavailable to be started again after a jittered wait."""
        ...

    def turn(self) -> None:
        """Read what the source holds now (open the tap once); records go to `inlet.record`, now or a moment later."""
        ...

    def pause(self) -> None:
        """Back-pressure: read nothing more until resume(). Called only when it changes."""
        ...

    def resume(self) -> None: ...

    def acknowledge(self, receipts: Sequence[object]) -> None:
        """These receipts' records are durable now. One call per commit, in the order of record()."""
        ...


class Decoder(Protocol):
    """A way of reading payloads. Built by calling its class with (options); constructors only assign."""

    def fields(self) -> Sequence[str] | None:
        """The names that a payload can carry, at its top; None where a payload names its own fields."""
        ...

    def reader(self, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
        """A function from payload to `shape`, a Struct of the fields that somebody wants: nothing else is looked at.

        It raises msgspec.DecodeError, UnicodeDecodeError, RecursionError or Malformed for a payload that does not have
        that shape, NoRecord for one that is not meant to have it, and nothing else. Raises Mistake, its path a field of
        the shape, where no payload can ever have it.
        """
        ...


@runtime_checkable
class Exploring(Protocol):
    """What a decoder offers where payloads name fields of their own, at their top or further inside."""

    def explore(self, payload: bytes) -> Mapping[str, Any]:
        """Every field of a payload as plain data, objects as dicts. Raises what a reader raises."""
        ...


Kind = Literal["int", "float", "str", "bool", "object"]  # of a value; an `int` will do for a float


@runtime_checkable
class Typed(Protocol):
    """What a decoder offers where it knows what a field holds before the first payload comes."""

    def kinds(self) -> Mapping[str, Kind]:
        """By the name of a field, what it holds where it is there. One that may hold anything is left out."""
        ...


@runtime_checkable
class Sorting(Protocol):
    """What a decoder offers where one source says several sorts of payloads, each with fields of its own."""

    sorted_by: str  # the field, a text, that tells them apart


class Decoding:
    """How the payloads of a stream are read, as `decode:` says it: a decoder's name, and its options if it has any.

    `options` is None where they are all their defaults, so that what reads alike is equal.
    """

    __slots__ = ("name", "options")

    def __init__(self, name: str, options: msgspec.Struct | None = None) -> None:
        self.name, self.options = name, options

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Decoding) and self.plain() == other.plain()

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Decoding({self.name!r}, {self.options!r})"

    def plain(self) -> Any:
        """The name, or {name: options} as plain data: what decides how a payload is read."""
        return self.name if self.options is None else {self.name: msgspec.to_builtins(self.options)}


class Outputs(Protocol):
    """Where a pipeline's run puts what it derives."""

    def emit(self, stream: str, time: int, key: str, value: bytes) -> None: ...


class Program(Protocol):
    """A compiled pipeline: inputs in, outputs out, state per key inside, no clock and no I/O.

    Its outputs depend on the sequence of records and ticks alone, never on how the records were cut into batches.
    """

    name: str
    inputs: tuple[str, ...]  # streams, in configured order
    outputs: tuple[str, ...]  # every stream it may emit to, dead letters included
    alarms: frozenset[str]  # those of them that alarms go to
    start: (
        str | int
    )  # where a reader without a position starts: "earliest" | "latest" | ns since 1970, or below zero: ns ago
    signature: str  # of the definition; a snapshot taken under another signature is not restored
    tests: "Sequence[Case]"  # its own
    doubts: "Sequence[Mistake]"  # what is legal, and yet may not be what was meant

    def run(self, batch: Batch, out: Outputs) -> None:
        """Process records of one input, in order. A record's failure is emitted as a dead letter, never raised."""
        ...

    def due(self) -> int | None:
        """The wall time (ns) at which tick() would act if no record came before; None: nothing is pending."""
        ...

    def tick(self, now: int, out: Outputs) -> None:
        """Time passes: an input in its own right. The house journals it with the position it happened at."""
        ...

    def snapshot(self) -> bytes:
        """The whole state, to be given to restore() of a program with the same signature."""
        ...

    def restore(self, state: bytes) -> None: ...

    def adopt(self, state: bytes) -> Sequence[str]:
        """Before the first run: take over what fits of a snapshot() of another definition. Returns the steps that hold
        something and start empty, as `steps[1].window`.
        """
        ...

    def clear(self, steps: Sequence[str]) -> None:
        """Have these steps forget what they hold."""
        ...

    def caught_up(self) -> None:
        """What was run up to here had been run before: stats() count from now on."""
        ...

    def stats(self) -> Mapping[str, int]:
        """Counters for the status: keys held, windows open, late, evicted, …"""
        ...


class Given(NamedTuple):
    """A record that comes in in a test; `arrival` is ns since 1970."""

    stream: str
    arrival: int
    key: str
    value: bytes
    flags: int = 0


class Wanted(NamedTuple):
    """A record that must come out in a test: every part of `value`, or exactly the bytes `raw` where they are given.

    A key or time (ns) of None is not looked at.
    """

    key: str | None
    time: int | None
    value: Any
    raw: bytes | None = None


class WantedLetter(NamedTuple):
    """A dead letter that must come in a test: texts that must be part of its own."""

    key: str
    step: str
    reason: str


class Case(NamedTuple):
    """A test that a pipeline carries."""

    name: str
    start: int  # ns: when it begins
    given: Sequence[Given]
    out: Mapping[str, Sequence[Wanted]]  # a stream that is not named is not looked at
    dead: Sequence[WantedLetter]
    wait: int | None  # ns that pass after the last record; None: until nothing waits for time any more


class Mistake(Exception):
    """A user's mistake inside one plugin's or pipeline's options: path below the options, offset inside that text."""

    def __init__(self, path: Sequence[str | int], message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.path, self.message, self.offset = tuple(path), message, offset


class Compiler(Protocol):
    """What `pipelines.language` exports as `compile_pipeline`; the daemon wires it in."""

    def __call__(
        self, name: str, definition: Mapping[str, Any], decoders: Mapping[str, Decoding]
    ) -> "Program | list[Mistake]":
        """Compile `definition` (plain data from YAML). `decoders`: how streams are read; `json` where not given."""
        ...


class Outlet(Protocol):
    """The house as one sink sees it."""

    name: str
    gateway: str
    clock: Clock

    @property
    def leaving(self) -> bool:
        """As of an Inlet."""
        ...

    def up(self, detail: str = "") -> None:
        """The destination is there. Said again during a delivery that takes long, it is a sign of progress."""
        ...

    def waiting(self, detail: str) -> None: ...

    def count(self, metric: str, n: int = 1) -> None:
        """Add to a counter of this sink, e.g. "wire_bytes_total"."""
        ...

    def summary(self) -> Mapping[str, object]:
        """What the gateway says of itself, as for an Inlet."""
        ...


class Sink(Protocol):
    """Delivers to a destination. Built by calling its class with (options, outlet); constructors only assign."""

    async def run(self) -> None:
        """Keep the connection, until cancelled. A sink without one awaits for ever."""
        ...

    async def send(self, delivery: Delivery) -> Receipt:
        """Return after the far side confirmed. Several may be under way; they are started in order.

        Raises SinkUnavailable; DeliveryTooLarge where a smaller batch would be taken; DeliveryRefused where the far
        side keeps nothing of this one because of a record that it cannot name.
        """
        ...


def compiler() -> Compiler:
    """The pipeline compiler, found by name like every plugin: the house imports none."""
    compile_pipeline: Compiler = importlib.import_module("pipelines.language").compile_pipeline
    return compile_pipeline


class Proposal(Protocol):
    """A schema that fits payloads, as an Inference proposes it."""

    @property
    def schema(self) -> Mapping[str, str]:
        """Field as the language writes it -> its type."""
        ...

    @property
    def event(self) -> str | None:
        """The field that can tell the time."""
        ...

    @property
    def zone(self) -> str | None:
        """Of times that are text without one."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was left out, and why."""
        ...

    def yaml(self) -> str:
        """`schema:` and `time:`, to be pasted into a pipeline."""
        ...


class Inference(Protocol):
    """What is known of the fields of payloads: `pipelines.language.infer.Inference`. Bounded, whatever they are."""

    payloads: int

    def add(self, payload: Mapping[str, object], arrival: int) -> None:
        """One decoded payload, and when it arrived (ns)."""
        ...

    def merge(self, other: Any) -> None:
        """Add all that another one knows."""
        ...

    def fits(self, other: Any) -> bool:
        """Whether both may well be one kind of payload."""
        ...

    def propose(self) -> Proposal: ...


def explainer() -> Callable[[Exception], str]:
    """What a person should read about a payload that could not be read, as dead letters say it."""
    reason: Callable[[Exception], str] = importlib.import_module("pipelines.language.runtime").reason
    return reason


def inference() -> Callable[[str], Inference]:
    """Makes an Inference for a zone, an IANA name that times without a zone are taken to be of."""
    made: Callable[[str], Inference] = importlib.import_module("pipelines.language.infer").Inference
    return made


def definition() -> type[msgspec.Struct]:
    """What a pipeline's definition may say: for the reference and the schema, which are made from it."""
    kind: type[msgspec.Struct] = importlib.import_module("pipelines.language").Definition
    return kind


def recipes() -> dict[str, Path]:
    """The files of pipelines that come with the gateway, by the name that `include: [recipe:NAME]` says."""
    spec = importlib.util.find_spec("pipelines")
    folders = spec.submodule_search_locations if spec is not None else None
    return {path.stem: path for folder in folders or () for path in sorted(Path(folder, "recipes").glob("*.yaml"))}


class Plugin(Generic[P]):
    """The last line of a plugin's file: its options and how it is built from them."""

    def __init__(self, options: type[msgspec.Struct], build: Callable[..., P]) -> None:
        self.options, self.build = options, build


class UnknownPlugin(LookupError):
    """No plugin of that name; `known` lists those there are."""

    def __init__(self, family: str, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no {family[:-1]} is called {name!r}")
        self.family, self.name, self.known = family, name, tuple(known)


class MissingExtra(ImportError):
    """The plugin needs a library that is not installed; the text names the command that installs it."""


def names(family: str) -> list[str]:
    """Every plugin name of a family, sorted."""
    from importlib.metadata import entry_points  # 2 MB that a daemon with built-in plugins alone never needs

    found = _built_in(family) | {point.name for point in entry_points(group=f"tidegate.{family}")}
    return sorted(found | {path.stem for path in (SITE_PLUGINS / family).glob("[a-z]*.py")})


def _built_in(family: str) -> set[str]:
    package = importlib.import_module(FAMILIES[family])
    return {m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg and not m.name.startswith("_")}


def _entry_points(family: str, name: str) -> list[str]:
    from importlib.metadata import entry_points

    return [point.value for point in entry_points(group=f"tidegate.{family}", name=name)]


def load(family: str, name: str) -> Plugin[Any]:
    """The plugin called `name`. Raises UnknownPlugin, or MissingExtra where its library is not installed."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UnknownPlugin(family, name, names(family))
    site, built_in = SITE_PLUGINS / family / f"{name}.py", f"{FAMILIES[family]}.{name}"
    module: Any
    try:
        if site.exists():
            spec = importlib.util.spec_from_file_location(f"tidegate_site_{family}_{name}", site)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        elif importlib.util.find_spec(built_in) is not None and name in _built_in(family):
            module = importlib.import_module(built_in)
        elif points := _entry_points(family, name):
            module = importlib.import_module(points[0])
        else:
            raise UnknownPlugin(family, name, names(family))
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in {"gateway", "drivers", "pipelines", "sinks"}:
            raise
        raise MissingExtra(f"{name} needs the library {error.name}: pip install 'tidegate[{name}]'") from error
    plugin: Plugin[Any] = module.plugin
    return plugin
