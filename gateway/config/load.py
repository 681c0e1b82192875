"""From a file to a Config, or to every problem of every file in one run.

The steps, each of which reports what it finds and lets the next ones go on with the rest: read the files and what they
include; convert the entries; agree on how each stream is decoded; compile the pipelines; put them in order; connect the
sinks. What a broken entry was meant to feed counts as there, so that one mistake is reported once.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import inspect

import gateway.plugin
from gateway.address import collide, parse_address
from gateway.config.convert import BROKEN, Reader, Steps, unreadable
from gateway.config.marks import MAX_BYTES, Node, parse, quoted
from gateway.config.model import (
    NAME,
    SAY_NAME,
    Config,
    DriverEntry,
    DriverKeys,
    GatewayOptions,
    LogSettings,
    PipelineEntry,
    SinkEntry,
    SinkKeys,
    StatusOptions,
    StreamEntry,
    StreamKeys,
    Workshop,
)
from gateway.decode import JSON
from gateway.errors import ConfigError, Problem
from gateway.plugin import Claiming, Compiler, Decoding, Listening, MissingExtra, Plugin, Program, UnknownPlugin
from gateway.record import DEAD_LETTERS, METRICS

SECTIONS = ("drivers", "streams", "pipelines", "sinks")  # maps of entries by name, in any file
TOP = ("gateway", "log", *SECTIONS, "include")
HOUSE_STREAMS = (DEAD_LETTERS, METRICS)
MAX_STREAMS = 1000
RECIPE = "recipe:"  # in `include:`, a file that comes with the gateway
_USUAL_FORMAT = next(one.default for one in msgspec.structs.fields(SinkKeys) if one.name == "format")

T = TypeVar("T", bound=msgspec.Struct)


class Plugins(Protocol):
    """Where plugins come from. The module gateway.plugin is one."""

    def names(self, family: str) -> list[str]: ...

    def load(self, family: str, name: str) -> Plugin[Any]: ...

    def compiler(self) -> Compiler: ...

    def definition(self) -> type[msgspec.Struct]: ...


def load(path: str | Path, *, environ: Mapping[str, str] = os.environ, plugins: Plugins = gateway.plugin) -> Config:
    """Read and check a configuration. Raises ConfigError with every problem of all its files, in their order."""
    # A service is not told HOSTNAME, but one file for many gateways needs it.
    loader = _Loader(str(path), {"HOSTNAME": os.uname().nodename, **environ}, plugins)
    config = loader.load()
    if config is None:
        raise ConfigError(loader.in_order(loader.problems))
    return config


def load_pipelines(
    path: str | Path, *, environ: Mapping[str, str] = os.environ, plugins: Plugins = gateway.plugin
) -> Workshop:
    """Read the pipelines of a configuration, or of a file that has nothing but pipelines. Raises ConfigError.

    What pipelines have nothing to do with is not looked at: sinks, and the files of secrets, which a person may not
    read. In a file without `gateway:` a pipeline may read a stream that nothing feeds.
    """
    loader = _Loader(str(path), {"HOSTNAME": os.uname().nodename, **environ}, plugins, secrets=False)
    workshop = loader.load_pipelines()
    if workshop is None:
        raise ConfigError(loader.in_order(loader.problems))
    return workshop


class Wires(NamedTuple):
    """What a pipeline reads and writes, as far as its definition can be understood."""

    node: Node
    inputs: Sequence[str]
    outputs: Sequence[str]
    program: Program | None


class _Loader:
    def __init__(self, path: str, environ: Mapping[str, str], plugins: Plugins, *, secrets: bool = True) -> None:
        self._path, self._environ, self._plugins = path, environ, plugins
        self.problems: list[Problem] = []
        self.files: list[str] = []
        self._read = Reader(environ, self.problems, secrets=secrets)
        self._top: dict[str, Node] = {}  # gateway, log
        self._entries: dict[str, dict[str, Node]] = {section: {} for section in SECTIONS}
        self._missing_parts = False  # a file could not be read: what is not found may be in it
        self._fed: dict[str, None] = {}  # every stream that is declared, fed or emitted to
        self._sources: set[str] = set()  # every stream that a driver or pipeline feeds
        self._perhaps: set[str] = set()  # streams that broken entries may have been meant to feed
        self._unsaid = False  # a broken entry does not say what it was meant to feed: that may be anything

    def load(self) -> Config | None:
        """The configuration, or None where there are problems."""
        root = self._read_all()
        if root is None:
            return None
        own = self._gateway(root)
        log = self._log()
        declared = self._streams()
        drivers = self._drivers()
        decoders = self._decoders(drivers, declared)
        wires = self._pipelines(decoders)
        order = self._order(wires)
        sinks = self._sinks()
        if own is not BROKEN:
            self._claims(own.id, {"drivers": drivers, "sinks": sinks})
            self._listening(own.serves, drivers)
        self._dry(declared)
        if len(self._fed) > MAX_STREAMS:
            self._read.problem(root.head, ("streams",), f"there are {len(self._fed)}; at most {MAX_STREAMS}, use fewer")
        if self.problems:
            return None
        return Config(
            gateway=own,
            log=log,
            drivers=drivers,
            streams={name: _stream(name, declared.get(name), decoders) for name in self._fed},
            pipelines=_entries(order, wires),
            sinks=sinks,
            files=tuple(self.files),
            warnings=tuple(self.in_order(self._read.warnings)),
        )

    def load_pipelines(self) -> Workshop | None:
        """The pipelines and what they depend on, or None where there are problems."""
        if self._read_all() is None:
            return None
        self._unsaid = "gateway" not in self._top
        log, declared, drivers = self._log(), self._streams(), self._drivers()
        wires = self._pipelines(self._decoders(drivers, declared))
        order = self._order(wires)
        if self.problems:
            return None
        feeders: dict[str, list[str]] = {}
        for driver in drivers.values():
            for stream in driver.streams:
                feeders.setdefault(stream, []).append(f"driver {driver.name}")
        for name, wire in wires.items():
            for stream in wire.outputs:
                feeders.setdefault(stream, []).append(f"pipeline {name}")
        return Workshop(log=log, pipelines=_entries(order, wires), feeders=feeders, files=tuple(self.files))

    def in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems in the order of the files, and of what stands in them."""
        rank = {file: i for i, file in enumerate(self.files)}
        return sorted(problems, key=lambda p: (rank.get(p.file, 0), p.line, p.column))

    # -- files ---------------------------------------------------------------------------------------------------------

    def _read_all(self) -> Node | None:
        """Read the file and all it includes; the tree of the file itself."""
        root = self._read_file(self._path)
        if root is not None:
            self._take_file(root, main=True)
            for node in self._included(root):
                self._take_file(node, main=False)
        return root

    def _read_file(self, file: str) -> Node | None:
        """The tree of a file; None where there is none to go on with."""
        self.files.append(file)
        try:
            with open(file, "rb") as opened:
                data = opened.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            self.problems.append(Problem(file, 1, 1, "file", unreadable(file, error)))
            self._missing_parts = True
            return None
        root, problems = parse(file, data, self._environ)
        self.problems += problems
        if root is None:
            self._missing_parts = True
        elif root.value is None:
            root.value = {}  # an empty file is an empty map
        elif not isinstance(root.value, dict) and not root.broken:
            self._read.problem(root.place, (), f"expected a map with {', '.join(TOP)}; write `name: …` lines")
            return None
        return root if root is not None and isinstance(root.value, dict) else None

    def _take_file(self, root: Node, *, main: bool) -> None:
        """Sort what a file says into its sections."""
        for name, node in root.value.items():
            if name in SECTIONS:
                if node.value is not None and self._read.is_map(node, (name,)):
                    self._take_section(name, node)
                self._missing_parts |= node.broken
            elif name not in TOP:
                hint = self._read.suggest(name, TOP)
                self._read.problem(node.head, (name,), f"unknown option; {hint}")
            elif not main:
                self._read.problem(node.head, (name,), f"only {self._path} may say this; move it there")
            elif name != "include":
                self._top[name] = node

    def _take_section(self, section: str, node: Node) -> None:
        entries = self._entries[section]
        for name, entry in node.value.items():
            first = entries.setdefault(name, entry)
            if first is not entry:
                place = "{}:{}:{}".format(*first.head)
                message = f"there is one of this name already, at {place}; rename or remove one of them"
                self._read.problem(entry.head, (section, name), message)
            elif not _is_name(name) and not (section == "streams" and name in HOUSE_STREAMS):
                self._read.problem(entry.head, (section, name), f"{quoted(name)} is no name; write {SAY_NAME}")

    def _included(self, root: Node) -> Iterator[Node]:
        """The trees of the files that `include:` names, each once."""
        include = root.value.get("include")
        if include is None or include.value is None:
            return
        patterns = self._read.read(include, inspect.type_info(list[str]), ("include",))
        if patterns is BROKEN:
            self._missing_parts = True
            return
        folder = os.path.dirname(self._path)
        seen = {os.path.realpath(self._path)}
        for i, pattern in enumerate(patterns):
            node = include.value[i]
            if pattern.startswith(RECIPE):
                found = self._recipe(node, ("include", i), pattern.removeprefix(RECIPE))
            else:
                found = sorted(glob.glob(pattern, root_dir=folder or None, recursive=True))
            if not found and not glob.has_magic(pattern) and not pattern.startswith(RECIPE):
                message = f"there is no file {os.path.join(folder, pattern)}; create it, or remove this line"
                self._read.problem(node.place, ("include", i), message)
                self._missing_parts = True
            for name in found:
                file = os.path.join(folder, name)
                if os.path.realpath(file) in seen or (glob.has_magic(pattern) and not os.path.isfile(file)):
                    continue
                seen.add(os.path.realpath(file))
                tree = self._read_file(file)
                if tree is not None:
                    yield tree

    def _recipe(self, node: Node, path: Steps, name: str) -> list[str]:
        """The file of a recipe; none where there is no such recipe, which is reported."""
        known = gateway.plugin.recipes()
        if name in known:
            return [str(known[name])]
        self._read.problem(node.place, path, f"no recipe is called {quoted(name)}; {self._read.suggest(name, known)}")
        self._missing_parts = True
        return []

    # -- entries -------------------------------------------------------------------------------------------------------

    def _gateway(self, root: Node) -> Any:
        node = self._top.get("gateway")
        if node is None or (node.value is None and not node.broken):
            self._read.problem((node or root).head, ("gateway",), "missing; add `gateway: {id: NAME}`")
            return BROKEN
        return self._read.struct(node, ("gateway",), GatewayOptions)

    def _log(self) -> Any:
        node = self._top.get("log")
        if node is None or (node.value is None and not node.broken):
            return LogSettings()
        settings = self._read.struct(node, ("log",), LogSettings)
        if settings is not BROKEN:
            self._read.doubts(node, ("log",), settings)
        return settings

    def _streams(self) -> dict[str, StreamKeys]:
        declared = {}
        for name, node in self._entries["streams"].items():
            self._fed[name] = None
            path: Steps = ("streams", name)
            empty = node.value is None and not node.broken
            keys = StreamKeys() if empty else self._read.struct(node, path, StreamKeys)
            if keys is not BROKEN:
                declared[name] = keys
        return declared

    def _dry(self, declared: Iterable[str]) -> None:
        """Tell of streams that are listed, and that nothing feeds: a name that is misspelt looks just so."""
        if self._missing_parts or self._unsaid:
            return
        for stream in declared:
            if stream not in self._sources and stream not in self._perhaps and stream not in HOUSE_STREAMS:
                known = [one for one in self._sources if one not in declared and one not in HOUSE_STREAMS]
                close = self._read.nearest(stream, known) or self._read.nearest(stream, self._sources)
                hint = f"did you mean {close}?" if close else "name it at a driver or in to:, or remove it"
                head = self._entries["streams"][stream].head
                self._read.warning(head, ("streams", stream), f"nothing feeds this stream; {hint}")

    def _drivers(self) -> dict[str, DriverEntry]:
        drivers = {}
        for name, node in self._entries["drivers"].items():
            path: Steps = ("drivers", name)
            keys, options, complete = self._entry(node, path, "drivers", DriverKeys)
            if not complete:  # what it feeds may stand under a misspelt name
                self._perhaps.update(_all_texts(node))
            if options is BROKEN:
                self._unsaid |= not any(_texts_under(node, ("stream", "streams")))
                continue
            streams = tuple(dict.fromkeys(options.streams()))
            self._fed.update((stream, None) for stream in streams if self._is_stream(node, path, stream))
            self._sources.update(streams)
            if complete:
                drivers[name] = DriverEntry(name=name, options=options, streams=streams, **keys)
        return drivers

    def _entry(self, node: Node, path: Steps, family: str, house: type) -> tuple[dict[str, Any], Any, bool]:
        """What the house wants to know of an entry, its plugin's options (or BROKEN), and whether all of it is right.

        There may be options although something was wrong: a wrong option is then read as its default.
        """
        if node.broken or not self._read.is_map(node, path):
            return {}, BROKEN, False
        info: Any = inspect.type_info(house)
        keys, complete = self._read.fields(node, path, info.fields)
        kind = family[:-1]
        if kind not in keys:
            return keys, BROKEN, False
        plugin = self._plugin(family, keys[kind], node.value[kind], (*path, kind))
        if plugin is None:
            return keys, BROKEN, False
        theirs: Any = inspect.type_info(plugin.options)
        names = {field.encode_name for field in info.fields}
        own = [field for field in theirs.fields if field.encode_name not in names]
        strange = self._read.unknown(node, path, own, names, getattr(plugin.options, "instead", {}))
        values, right = self._read.fields(node, path, own)
        options = BROKEN
        if all(field.name in values for field in own if field.required):
            options = self._read.build(node, path, plugin.options, values, right and not strange)
        if options is not BROKEN and hasattr(options, "warnings"):
            self._read.doubts(node, path, options)
        return keys, options, complete and right and not strange and options is not BROKEN

    def _claims(self, gateway: str, families: Mapping[str, Mapping[str, Any]]) -> None:
        """Report what two entries would take from each other again and again."""
        taken: dict[str, str] = {}
        for family, entries in families.items():
            for name, entry in entries.items():
                if not hasattr(entry.options, "claims"):
                    continue
                claiming: Claiming = entry.options
                for option, what in claiming.claims(gateway, name).items():
                    other = taken.setdefault(what, f"{family}.{name}")
                    if other != f"{family}.{name}":
                        place = self._entries[family][name].find((option,)).place
                        message = f"{what} is that of {other} too, and only one can have it; write another {option}"
                        self._read.problem(place, (family, name, option), message)

    def _listening(self, status: StatusOptions | None, drivers: Mapping[str, DriverEntry]) -> None:
        """Report who would listen where somebody else does."""
        taken = {"gateway.status": status.listen} if status is not None else {}
        for name, entry in drivers.items():
            if not hasattr(entry.options, "listens"):
                continue
            listening: Listening = entry.options
            for option, address in listening.listens().items():
                other = next((who for who, theirs in taken.items() if collide(address, theirs)), None)
                if other is None:
                    taken[f"drivers.{name}"] = address
                    continue
                place = self._entries["drivers"][name].find((option,)).place
                port = parse_address(address)[1]
                message = (
                    f"port {port} is that of {other} too ({taken[other]}), and only one can have it; write another"
                )
                self._read.problem(place, ("drivers", name, option), message)

    def _plugin(self, family: str, name: str, node: Node, path: Steps) -> Plugin[Any] | None:
        try:
            return self._plugins.load(family, name)
        except UnknownPlugin as error:
            hint = self._read.suggest(name, error.known)
            self._read.problem(node.place, path, f"no {family[:-1]} is called {quoted(name)}; {hint}")
        except MissingExtra as error:
            self._read.problem(node.place, path, str(error))
        except Exception as error:  # a plugin of the user's own may fail at its import in any way: his file, his line
            message = f"the {family[:-1]} {name!r} cannot be loaded: {type(error).__name__}: {error}; correct its file"
            self._read.problem(node.place, path, message)
        return None

    def _is_stream(self, node: Node, path: Steps, stream: str) -> bool:
        """Whether records may be put into a stream of this name; if not, that is reported."""
        if _is_name(stream):
            return True
        spot, where = _where(node, stream)
        if stream in HOUSE_STREAMS:
            self._read.problem(spot.place, (*path, *where), f"{stream} is the house's own; choose another name")
        else:
            self._read.problem(
                spot.place, (*path, *where), f"{quoted(stream)} is no name of a stream; write {SAY_NAME}"
            )
        return False

    # -- streams -------------------------------------------------------------------------------------------------------

    def _decoders(self, drivers: Mapping[str, DriverEntry], declared: Mapping[str, StreamKeys]) -> dict[str, Decoding]:
        """How each stream is decoded: its own word and that of all who feed it must agree."""
        said: dict[str, tuple[Decoding, str]] = {}  # stream -> decoder, who said so
        for name, keys in declared.items():
            if keys.decode is not None:
                said[name] = (keys.decode, f"streams.{name}")
        for driver in drivers.values():
            for stream in driver.streams:
                if driver.decode is None and stream in declared and declared[stream].decode is not None:
                    continue
                mine = driver.decode or JSON
                theirs, who = said.setdefault(stream, (mine, f"drivers.{driver.name}"))
                if theirs != mine:
                    node = self._entries["drivers"][driver.name]
                    place = node.value["decode"].place if "decode" in node.value else node.head
                    other = theirs.name if theirs.name != mine.name else "with other options"
                    message = f"{stream} is {mine.name} here and {other} by {who}; use two streams, or one decoder"
                    self._read.problem(place, ("drivers", driver.name, "decode"), message)
        return {stream: decoder for stream, (decoder, _) in said.items()}

    def _known(self, node: Node, path: Steps, stream: str) -> None:
        """Report a stream that nothing feeds."""
        if stream in HOUSE_STREAMS:
            self._fed[stream] = None  # our numbers are recorded only where somebody reads them
            return
        if stream in self._fed or stream in self._perhaps:
            return
        if self._missing_parts or self._unsaid:
            return
        hint = self._read.suggest(stream, self._fed)
        self._read.problem(node.place, path, f"there is no stream {quoted(stream)}; {hint}")

    # -- pipelines -----------------------------------------------------------------------------------------------------

    def _pipelines(self, decoders: Mapping[str, Decoding]) -> dict[str, Wires]:
        """Compile every pipeline, then see that what they read is there."""
        wires = {}
        entries = self._entries["pipelines"]
        compile_pipeline = self._plugins.compiler() if entries else None
        for name, node in entries.items():
            path: Steps = ("pipelines", name)
            if compile_pipeline is None or node.broken or not self._read.is_map(node, path):
                continue
            written = _texts(node.value.get("from")), _texts(node.value.get("to"))
            result: Any = None
            if not any(inner.broken for inner in node.walk()):
                result = compile_pipeline(name, node.plain(), decoders)
            if isinstance(result, list):
                for mistake in result:
                    spot = node.find(mistake.path)
                    self._read.problem(spot.at(mistake.offset), (*path, *mistake.path), str(mistake))
                # What it reads and feeds is known nevertheless if only its tests are wrong.
                only_tests = all(mistake.path[:1] == ("tests",) for mistake in result)
                untested = {option: written for option, written in node.plain().items() if option != "tests"}
                result = compile_pipeline(name, untested, decoders) if only_tests else None
            if result is None:
                self._perhaps.update((*_all_texts(node), f"{name}.late"))
                self._unsaid |= not any(_texts_under(node, ("to",)))
                wires[name] = Wires(node, *written, None)
            else:
                wires[name] = Wires(node, result.inputs, result.outputs, result)
                self._sources.update(result.outputs)
                for doubt in result.doubts:
                    self._read.warning(node.find(doubt.path).place, (*path, *doubt.path), str(doubt))
                self._fed.update(
                    (stream, None)
                    for stream in result.outputs
                    if stream == DEAD_LETTERS or self._is_stream(node, path, stream)
                )
        self._fed[DEAD_LETTERS] = None
        for name, wire in wires.items():
            for stream in wire.inputs:
                steps: Steps = ("from",)
                at = wire.node.find(steps)
                if isinstance(at.value, list):
                    steps = ("from", _texts(at).index(stream))
                self._known(wire.node.find(steps), ("pipelines", name, *steps), stream)
        return wires

    def _order(self, wires: Mapping[str, Wires]) -> list[str]:
        """The pipelines, each after all it reads from, otherwise as written. Cycles are reported."""
        writers: dict[str, list[str]] = {}
        for name, wire in wires.items():
            for stream in wire.outputs:
                writers.setdefault(stream, []).append(name)
        before: dict[str, set[str]] = {}
        for name, wire in wires.items():
            # What a pipeline feeds itself is for its compiler to refuse, and so is reading its own dead letters.
            before[name] = {w for s in wire.inputs if s not in HOUSE_STREAMS for w in writers.get(s, ()) if w != name}
        ordered: dict[str, None] = {}
        while len(ordered) < len(wires):
            waiting = [name for name in wires if name not in ordered]
            ready = next((name for name in waiting if before[name] <= ordered.keys()), None)
            ordered.update(dict.fromkeys([ready] if ready is not None else self._cycle(waiting, before, wires)))
        return list(ordered)

    def _cycle(self, waiting: Sequence[str], before: Mapping[str, set[str]], wires: Mapping[str, Wires]) -> list[str]:
        """Report one cycle among pipelines that all wait for one another; its members."""
        trail = [waiting[0]]
        while True:
            following = next(name for name in waiting if name in before[trail[-1]])
            if following in trail:
                break
            trail.append(following)
        members = trail[trail.index(following) :][::-1]  # in the direction in which records flow
        turn = min(range(len(members)), key=lambda i: waiting.index(members[i]))
        members = members[turn:] + members[:turn]
        drawn = " -> ".join([*members, members[0]])
        place = wires[members[0]].node.find(("from",)).head
        message = f"pipelines feed each other: {drawn}; let one of them read something else"
        self._read.problem(place, ("pipelines", members[0], "from"), message)
        return members

    # -- sinks ---------------------------------------------------------------------------------------------------------

    def _sinks(self) -> dict[str, SinkEntry]:
        sinks = {}
        for name, node in self._entries["sinks"].items():
            path: Steps = ("sinks", name)
            keys, options, complete = self._entry(node, path, "sinks", SinkKeys)
            seen: set[str] = set()
            for i, stream in enumerate(keys.get("streams", ())):
                item = node.value["streams"].value[i]
                if stream in seen:
                    self._read.problem(
                        item.place, (*path, "streams", i), f"{quoted(stream)} is listed twice; remove one"
                    )
                else:
                    self._known(item, (*path, "streams", i), stream)
                seen.add(stream)
            if options is not BROKEN and ("format" in keys or "format" not in node.value):
                complete &= self._goes_with(node, path, options, keys.get("format", _USUAL_FORMAT))
            if complete:
                sinks[name] = SinkEntry(name=name, options=options, **keys)
        return sinks

    def _goes_with(self, node: Node, path: Steps, options: Any, written: str) -> bool:
        """Whether a sink's options go with its format; a sink that cares has a method to say so."""
        ask = getattr(options, "problem_with", None)
        message = ask(written) if ask is not None else None
        if message is not None:
            self._read.complaint(node, path, message)
        return message is None


def _entries(order: Iterable[str], wires: Mapping[str, Wires]) -> dict[str, PipelineEntry]:
    entries = {}
    for name in order:
        node, _, _, program = wires[name]
        if program is not None:
            tests = tuple([node.find(("tests", i)).place for i in range(len(program.tests))])
            entries[name] = PipelineEntry(name=name, definition=node.plain(), program=program, tests=tests)
    return entries


def _stream(name: str, said: StreamKeys | None, decoders: Mapping[str, Decoding]) -> StreamEntry:
    said = said or StreamKeys()
    return StreamEntry(name=name, keep=said.keep, priority=said.priority, decode=decoders.get(name, JSON))


def _is_name(text: str) -> bool:
    return re.fullmatch(NAME, text) is not None


def _texts(node: Node | None) -> tuple[str, ...]:
    """The text, or the list of texts, that a node is."""
    nodes = [] if node is None else node.value if isinstance(node.value, list) else [node]
    return tuple(one.value for one in nodes if isinstance(one.value, str))


def _where(node: Node, text: str) -> tuple[Node, Steps]:
    """The first value below a node that is this text, and the path to it; the node itself where there is none."""
    inside = node.value
    children = inside.items() if isinstance(inside, dict) else enumerate(inside if isinstance(inside, list) else ())
    for step, child in children:
        found, steps = _where(child, text)
        if steps or found.value == text:
            return found, (step, *steps)
    return node, ()


def _all_texts(node: Node) -> Iterator[str]:
    """Every text that stands at or below a node."""
    return (inner.value for inner in node.walk() if isinstance(inner.value, str))


def _texts_under(node: Node, names: Iterable[str]) -> Iterator[str]:
    """Every text that stands, at any depth, under one of these keys."""
    for inner in node.walk():
        if isinstance(inner.value, dict):
            for name in names:
                yield from _texts(inner.value.get(name))
