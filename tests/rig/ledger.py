"""What a process promised up to a moment of its trace, and whether a log that was opened after a power cut keeps it."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
from disk import MARK, Event

from gateway.log import Log, Recovery
from gateway.record import Batch

_decode = msgspec.msgpack.Decoder().decode
Gaps = dict[str, list[list]]  # stream -> [first, last, cause]


class Ledger:
    """Marks go in with the events they stand among. A commit is kept, or under way: gathered, and not said to be written."""

    def __init__(self) -> None:
        self.epochs: set[str] = set()
        self.times: dict[str, list[int]] = {}  # stream -> of every record up to the commit under way
        self.keys: dict[str, list[str]] = {}
        self.values: dict[str, list[bytes]] = {}
        self.commit = 0  # kept
        self.next: dict[str, int] = {}  # … up to it
        self.places: dict[tuple[str, str], int] = {}
        self.coming = 0  # under way; the same number where none is
        self.coming_places: dict[tuple[str, str], int] = {}
        self.acknowledged: dict[str, int] = {}  # stream -> next offset
        self.sent: dict[str, int] = {}
        self.snapshots: dict[str, list[tuple[int, list]]] = {}  # pipeline -> (commit, what it held)
        self.forgotten: Gaps | None = {}  # what the ring may have taken at most; None: it is not known
        self.confirmed: dict[str, set[int]] = {}
        self.wrong: list[tuple[str, str]] = []  # promises that the process broke while it ran

    def copy(self) -> "Ledger":
        """One that can go on by itself."""
        twin = Ledger.__new__(Ledger)
        for name, value in vars(self).items():
            setattr(twin, name, value)
        for name in ("times", "keys", "values"):
            setattr(twin, name, {stream: list(column) for stream, column in getattr(self, name).items()})
        for name in ("next", "places", "coming_places", "acknowledged", "sent"):
            setattr(twin, name, dict(getattr(self, name)))
        twin.snapshots = {name: list(states) for name, states in self.snapshots.items()}
        twin.epochs, twin.wrong = set(self.epochs), list(self.wrong)
        return twin

    def hear(self, mark: dict) -> None:
        getattr(self, "_" + mark["kind"])(mark)

    def _opened(self, mark: dict) -> None:
        self.epochs.add(mark["epoch"])
        if mark["commit"] == self.coming:
            self._keep()
        elif mark["commit"] != self.commit:
            self.wrong.append(("open", f"opened at commit {mark['commit']}, not {self.commit} or {self.coming}"))
        self.coming, self.coming_places = self.commit, dict(self.places)
        for stream, values in self.values.items():
            next_ = self.next.get(stream, 0)
            del values[next_:], self.keys[stream][next_:], self.times[stream][next_:]

    def _gathered(self, mark: dict) -> None:
        self.coming = mark["commit"]
        self.epochs.add(mark["epoch"])  # one that began with this start is bound to the machine before it is told
        for stream, pieces in mark["records"].items():
            for first, times, keys, values in pieces:
                known = self.values.setdefault(stream, [])
                if first != len(known):
                    self.wrong.append(("offset", f"{stream} goes on at {first}, not at {len(known)}"))
                known += values
                self.times.setdefault(stream, []).extend(times)
                self.keys.setdefault(stream, []).extend(keys)
        for reader, stream, next_, _ in mark["places"]:
            self.coming_places[reader, stream] = next_
            if reader.startswith("sink:"):
                early = set(range(next_)) - self.confirmed.get(stream, set()) - self._forgotten(stream)
                if early and self.forgotten is not None:
                    self.wrong.append(("position", f"{reader} stands at {stream} {next_}, {min(early)} is unconfirmed"))
        for name, held in mark["snapshots"].items():
            self.snapshots.setdefault(name, []).append((mark["commit"], held))

    def _written(self, mark: dict) -> None:
        assert mark["commit"] in (self.commit, self.coming)
        self._keep()

    def _keep(self) -> None:
        self.commit = self.coming
        self.next = {stream: len(values) for stream, values in self.values.items()}
        self.places = dict(self.coming_places)

    def _sealed(self, mark: dict) -> None:
        pass  # read ahead of time, by `marks`

    def _acknowledged(self, mark: dict) -> None:
        self.acknowledged.update(mark["next"])
        for stream, next_ in mark["next"].items():
            if next_ > self.next.get(stream, 0):
                self.wrong.append(("early", f"{stream} was acknowledged up to {next_} before its commit"))

    def _sent(self, mark: dict) -> None:
        stream, _, last = mark["extent"]
        self.sent[stream] = max(self.sent.get(stream, 0), last + 1)
        if last >= self.next.get(stream, 0):
            self.wrong.append(("early", f"{mark['id']} was sent before its commit"))

    def _confirmed(self, mark: dict) -> None:
        stream, first, last = mark["extent"]
        self.confirmed.setdefault(stream, set()).update(range(first, last + 1))

    # -- after the cut -------------------------------------------------------------------------------------------------

    def broken(self, log: Log, found: Recovery) -> Iterator[tuple[str, str]]:
        """(kind, in words) of every promise that the log does not keep. Kinds: lost, shown, corrupt, gap, position, …"""
        commit = log._unsealed.commit - bool(found.moved)  # a new epoch begins with a commit of its own
        if self.epochs and (log.epoch not in self.epochs) != bool(found.moved):
            yield "lost", "the log has another epoch, or should have"
        for stream, next_ in self.acknowledged.items():
            there = log.next(stream) if stream in log.streams() else 0
            if there < next_:
                yield "lost", f"{stream} was acknowledged up to {next_}, and ends at {there}"
        for stream, next_ in self.sent.items():
            if stream not in log.streams() or log.next(stream) < next_:
                yield "shown", f"{stream} was shown up to {next_}, and its offsets would be given again"
        if found.damaged or found.gaps:
            yield "damage", f"{found.damaged} commits are called damaged, gaps {found.gaps}"
        if commit not in (self.commit, self.coming):
            yield "commit", f"commit {commit} is neither the last kept ({self.commit}) nor under way ({self.coming})"
            return
        under_way = commit != self.commit
        for stream in set(self.values) | set(log.streams()):
            known = self.values.get(stream, [])
            expected = len(known) if under_way or commit == self.coming else self.next.get(stream, 0)
            there = log.next(stream) if stream in log.streams() else 0
            if there != expected:
                yield "whole", f"commit {commit}, and {stream} ends at {there}, not at {expected}"
            elif there:
                yield from self._content(log, stream, there)
        places = self.coming_places if under_way or commit == self.coming else self.places
        for (reader, stream), next_ in places.items():
            if log.positions.where(reader, stream) != next_:
                yield "position", f"{reader} stands at {log.positions.where(reader, stream)} in {stream}, not {next_}"
        for name, snapshot in found.snapshots.items():
            held = [snapshot.signature, snapshot.state, snapshot.positions]
            if held not in [state for at, state in self.snapshots.get(name, ()) if at <= commit]:
                yield "snapshot", f"the state of {name} is none that was taken"
            for stream, next_ in snapshot.positions.items():
                if next_ > (places.get((f"pipeline:{name}", stream), 0)):
                    yield "snapshot", f"the state of {name} is ahead of its position in {stream}"

    def _forgotten(self, stream: str) -> set[int]:
        gaps = (self.forgotten or {}).get(stream, ())
        return {offset for first, last, cause in gaps if cause != "damaged" for offset in range(first, last + 1)}

    def _content(self, log: Log, stream: str, end: int) -> Iterator[tuple[str, str]]:
        at, forgotten = 0, self._forgotten(stream)
        while at < end:
            part = log.read(stream, at, 1 << 20)
            if part is None or part.first != at:
                yield "gap", f"{stream} has nothing at {at}"
                return
            if isinstance(part, Batch):
                stop = part.next
                for columns, mine in ((part.values, self.values), (part.keys, self.keys), (part.times, self.times)):
                    if list(columns) != mine[stream][at:stop]:
                        yield "corrupt", f"{stream} {at}-{stop - 1} is not what was recorded"
                at = stop
            else:
                known = self.forgotten is None or set(range(at, part.last + 1)) <= forgotten
                if part.cause not in ("evicted", "expired") or not known:
                    yield "gap", f"{part} was never forgotten"
                at = part.last + 1


def unsound(folder: Path) -> str:
    """What SQLite finds wrong with a closed database; nothing where it is sound."""
    db = sqlite3.connect(f"file:{folder}/log.db?immutable=1", uri=True)
    try:
        answer = db.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        answer = str(error)
    finally:
        db.close()
    return "" if answer == "ok" else answer


def marked(events: list[Event]) -> list[tuple[Event, dict | None, Gaps | None]]:
    """Each event, what it says if it is a mark, and what is forgotten as of the next mark that tells: None where none does."""
    out: list[tuple[Event, dict | None, Gaps | None]] = []
    gaps: Gaps = {}
    for event in reversed(events):
        said = _decode(event.data) if event.kind == MARK else None
        if said and said["kind"] == "sealed":
            gaps = said["gaps"]
        out.append((event, said, gaps))
    out.reverse()
    for at in range(len(out) - 1, -1, -1):  # behind the last mark that tells, a seal may be under way
        event, said, _ = out[at]
        if said and said["kind"] == "sealed":
            break
        out[at] = (event, said, None)
    return out


def kinds(findings: list[tuple[str, str]]) -> Counter:
    return Counter(kind for kind, _ in findings)
