"""A log as it lies on the disk, for looking only: nothing is written, created, locked out or checkpointed.

It may be in use by a gateway, closed, or left behind by a crash.

- One sees what was recorded when open() returned, however long one looks; what is evicted meanwhile becomes a gap.
- SQLite is asked one short question at a time, each on a connection of its own, so that no owner waits for us.
- It is for a process of its own: in the owner's, SQLite would share with it what we may not write.
- Memory is bounded: the unsealed tails, which the journal holds, and one block per stream that is read.
"""

import grp
import os
import pwd
import stat
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from gateway.errors import LogError, LogTooNew
from gateway.log.contents import place_of
from gateway.log.files import Files, SystemFiles, as_log_errors
from gateway.log.journal import Found, Journal
from gateway.log.position import Place
from gateway.log.replay import replay
from gateway.log.schema import FORMAT, VERSION, newer
from gateway.log.store_reader import StoreReader
from gateway.log.stream import Stream, Streams
from gateway.record import Batch, Gap

TRIES = 20  # to meet a moment at which the owner changes nothing
PAUSE_S = 0.05  # between two of them


class NoLog(LogError):
    """There is no log in this folder."""


class Archive:
    """Everything blocks and may raise LogError. After open() it is read as a log is read."""

    def __init__(self, folder: str, files: Files | None = None, pause: Callable[[float], None] = time.sleep) -> None:
        self._folder, self._files, self._pause = folder, files or SystemFiles(), pause
        self._reader = Looking(os.path.join(folder, "log.db"), self._files, pause)
        self._streams = Streams()
        self._shelves: dict[str, int] = {}  # stream -> its id in the store
        self._blocks: dict[str, Batch] = {}  # stream -> the block that was read last
        self._places: dict[tuple[str, str], Place] = {}
        self._edges: dict[str, list[int]] = {}  # stream -> where each of its blocks starts
        self.epoch = ""
        self.written = 0  # ns since 1970: when the newest commit was made; 0 where the journal does not say

    def open(self) -> None:
        """Take note of what is there. Raises NoLog; LogTooNew; LogError, with what to try where one may not read it."""
        self._may_read()
        for attempt in range(TRIES):
            if attempt:
                self._pause(PAUSE_S)
            missing = self._take()
            # A commit that seems to be missing may have been written while we read past its place.
            if missing is not None and (not missing or attempt > 2):
                return
        raise LogError(f"{self._folder} changes faster than it can be read; try again")

    def _may_read(self) -> None:
        for name in ("journal", "log.db", "log.db-wal", "log.db-shm"):
            path = os.path.join(self._folder, name)
            try:
                found = self._files.head(path, 1)
            except PermissionError as error:
                raise LogError(_refusal(path)) from error
            except OSError as error:
                raise NoLog(f"{path} cannot be read: {error.strerror}; is this the folder of a log?") from error
            if not found and name in ("journal", "log.db"):
                raise NoLog(f"there is no log in {self._folder} ({name} is not there); has the gateway run with it?")

    def _take(self) -> int | None:
        """Take note of everything; the number of commits that seem to be missing, None where it changed meanwhile."""
        self._streams, self._shelves, self._blocks, self._edges = Streams(), {}, {}, {}
        self.written = missing = 0
        epoch, generation, commit, shelves = self._reader.shelves()
        for id_, name, next_, oldest in shelves:
            home = self._streams.homes[name] = Stream(name, next_, ())
            home.oldest, self._shelves[name] = oldest, id_
        self._places = {(place.reader, place.stream): place for place in self._reader.places()}
        journal = Journal(os.path.join(self._folder, "journal"), 0, self._files)
        for found in journal.look(epoch, generation):
            missing += found.commit - commit - 1
            commit = found.commit
            self._replay(found)
        self.epoch = epoch
        return missing if self._reader.shelves()[1] == generation else None

    def _replay(self, found: Found) -> None:
        """What one journal record adds to what is sealed."""
        self.written = found.entry.moment.wall_ns
        replay(self._streams, found)
        self._places |= {(place.reader, place.stream): place for place in found.entry.places}

    # -- looking -------------------------------------------------------------------------------------------------------

    def streams(self) -> list[str]:
        """Every stream there is, sorted."""
        return sorted(self._streams.homes)

    def oldest(self, stream: str) -> int:
        """The first offset that could be read when it was opened; `next` where none could."""
        return self._streams.homes[stream].oldest

    def next(self, stream: str) -> int:
        """The offset after the newest record."""
        return self._streams.homes[stream].next

    def gaps(self, stream: str) -> list[Gap]:
        """Every gap that is declared by now, in order; as of open() those that only the journal tells of."""
        id_ = self._shelves.get(stream)
        return sorted(
            [*self._streams.homes[stream].gaps, *(self._reader.gaps(id_, stream) if id_ is not None else ())],
            key=lambda gap: gap.first,
        )

    def places(self) -> list[Place]:
        """Where every reader stood."""
        return list(self._places.values())

    def read(self, stream: str, first: int, limit: int = 1 << 30) -> Batch | Gap | None:
        """Records from `first` on, at most `limit` and never beyond a block; a Gap, from `first` on, where there are
        none any more; None at the end.
        """
        home = self._streams.homes[stream]
        if first >= home.next:
            return None
        for _ in range(2):  # a block may be evicted between two looks: then its gap is there
            found = home.gap(first) or home.piece(first) or self._stored(stream, first)
            if isinstance(found, Batch):
                return found.slice(first, min(first + limit, home.next))
            if found is not None:
                return Gap(stream, first, min(found.last, home.next - 1), found.cause)
        following = self._reader.block_after(self._shelves[stream], first) if stream in self._shelves else None
        return Gap(stream, first, min(following or home.next, home.next) - 1, "damaged")

    def _stored(self, stream: str, first: int) -> Batch | Gap | None:
        kept = self._blocks.get(stream)
        if kept is not None and kept.first <= first < kept.next:
            return kept
        id_ = self._shelves.get(stream)
        if id_ is None:
            return None
        found = self._reader.block(id_, stream, first) or self._reader.gap(id_, stream, first)
        if isinstance(found, Batch):
            self._blocks[stream] = found
        return found

    def batches(self, stream: str, first: int, until: int) -> Iterator[Batch | Gap]:
        """All there is of a stretch of offsets, `until` not included."""
        while first < until and (found := self.read(stream, first, until - first)) is not None:
            if isinstance(found, Gap):
                found = Gap(stream, first, min(found.last, until - 1), found.cause)
            first = found.next if isinstance(found, Batch) else found.last + 1
            yield found

    def seek(self, stream: str, time_ns: int) -> int:
        """The first offset whose record has that time or a later one; the end where there is none."""
        home, id_ = self._streams.homes[stream], self._shelves.get(stream)
        at = home.oldest
        if id_ is not None:
            found = self._reader.block_since(id_, time_ns)
            at = max(
                at, home.pieces[0].first if found is None and home.pieces else home.next if found is None else found
            )
        for part in self.batches(stream, at, home.next):
            if isinstance(part, Batch) and max(part.times) >= time_ns:
                return part.first + next(i for i, time in enumerate(part.times) if time >= time_ns)
        return home.next

    def seek_commit(self, stream: str, commit: int) -> int:
        """The first offset that was recorded by that commit or a later one; the end where there is none."""
        home = self._streams.homes[stream]
        if stream in self._shelves and stream not in self._edges:
            self._edges[stream] = self._reader.edges(self._shelves[stream])
        starts = sorted({*self._edges.get(stream, ()), *[piece.first for piece in home.pieces]})
        # The last block that begins before that commit is where to look: what follows begins with it or later.
        at = bisect_right(starts, False, key=lambda first: self._begins(stream, first, commit)) - 1
        for part in self.batches(stream, starts[at] if at >= 0 else home.oldest, home.next):
            if isinstance(part, Batch):
                offset = part.first
                for number, count in part.commits:
                    if number >= commit:
                        return offset
                    offset += count
        return home.next

    def _begins(self, stream: str, first: int, commit: int) -> bool:
        """Whether the block that starts at `first` begins with that commit or a later one."""
        part = self.read(stream, first, 1)
        while isinstance(part, Gap):
            part = self.read(stream, part.last + 1, 1)
        return part is None or part.commits[0][0] >= commit


CLOSED, OPEN, BETWEEN = "closed", "open", "between"  # of a database


class Looking(StoreReader):
    """The store of a log that may have an owner or none, and may change hands at any time.

    With an owner, or after a crash, there are a -wal and a -shm; what the WAL holds counts. After a close there are
    none, and nobody may create them but the owner: then the database is opened as immutable, which takes no locks and
    trusts that nothing changes. An owner who comes meanwhile is betrayed by its -wal, and the question is asked again.
    """

    def __init__(self, path: str, files: Files, pause: Callable[[float], None]) -> None:
        super().__init__(path, files)
        self._pause = pause

    def shelves(self) -> tuple[str, int, int, list[tuple[int, str, int, int]]]:
        """(epoch, generation, commit, (id, name, next, oldest) of each stream), all of one moment."""
        query = (
            "SELECT (SELECT value FROM meta WHERE name='epoch'), (SELECT value FROM meta WHERE name='generation'),"
            " (SELECT value FROM meta WHERE name='commit'), s.id, s.name, s.next, s.oldest"
            " FROM (SELECT 1) LEFT JOIN stream s"
        )
        rows = self._rows(query)
        epoch, generation, commit = rows[0][:3]
        return str(epoch), int(str(generation)), int(str(commit)), [row[3:] for row in rows if row[3] is not None]  # type: ignore[misc]

    def places(self) -> list[Place]:
        """Where every reader stood at the last turnover."""
        ledger = {str(name) for (name,) in self._rows("SELECT name FROM pragma_table_info('position')")}
        had = "ledger" if "ledger" in ledger else "'null'"  # a log of the first format has none yet
        columns = f"reader, stream, next, beyond, cuts, {had}"
        return [place_of(*row) for row in self._rows(f"SELECT {columns} FROM position")]  # type: ignore[arg-type]

    def gaps(self, shelf_id: int, stream: str) -> list[Gap]:
        """Every stored gap of a stream."""
        rows = self._rows("SELECT first, last, cause FROM gap WHERE stream=?", shelf_id)
        return [Gap(stream, first, last, cause) for first, last, cause in rows]  # type: ignore[arg-type]

    def edges(self, shelf_id: int) -> list[int]:
        """Where each block of a stream starts, in order."""
        return [
            int(str(first)) for (first,) in self._rows("SELECT first FROM block WHERE stream=? ORDER BY 1", shelf_id)
        ]

    def _rows(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        return self.together((sql, *values))[0]

    def together(self, *questions: Sequence[object]) -> list[list[tuple[object, ...]]]:
        """The rows of each question, (SQL, values …), all of one moment."""
        error = LogError(f"{self._path} is opened and closed faster than it can be read; try again")
        for attempt in range(TRIES):
            if attempt:
                self._pause(PAUSE_S)
            state, head = self.state()
            if state == BETWEEN:
                hint = "is there without log.db-shm, as after a power cut; start the gateway once, it repairs that"
                error = LogError(f"{self._path}-wal {hint}")
                continue
            try:
                rows = self._ask(questions, immutable=state == CLOSED)
            except LogTooNew:
                raise
            except LogError as failed:  # it may have been opened or closed under our hands
                error = failed
                continue
            if state == OPEN or self.state() == (CLOSED, head):
                return rows
        raise error

    def state(self) -> tuple[str, bytes]:
        """What the files beside the database say, and its first bytes, which every change of it changes."""
        wal = self._path + "-wal"
        if self._files.exists(self._path + "-shm"):
            return (OPEN if self._files.exists(wal) else BETWEEN), b""
        return (BETWEEN, b"") if self._files.head(wal, 1) else (CLOSED, self._files.head(self._path, 100))

    def _ask(self, questions: Sequence[Sequence[object]], *, immutable: bool) -> list[list[tuple[object, ...]]]:
        with (
            as_log_errors(f"cannot read {self._path}"),
            closing(self._files.look(self._path, immutable=immutable)) as db,
        ):
            version, application = (db.execute(f"PRAGMA {name}").fetchall()[0][0] for name in VERSION)
            if newer(version, application):
                raise LogTooNew(f"{self._path} has format {version}, this version knows up to {FORMAT}")
            db.execute("BEGIN")
            return [db.execute(str(sql), values).fetchall() for sql, *values in questions]


def _refusal(path: str) -> str:
    """Which file may not be read, whose it is, and what to try."""
    there = path
    while True:
        try:
            found = os.stat(there)
            break
        except PermissionError:
            there = os.path.dirname(there)
    owner, group = _name(pwd.getpwuid, found.st_uid, "pw_name"), _name(grp.getgrgid, found.st_gid, "gr_name")
    mode = stat.S_IMODE(found.st_mode)
    me = _name(pwd.getpwuid, os.geteuid(), "pw_name")
    needed = 0o050 if stat.S_ISDIR(found.st_mode) else 0o040
    if mode & needed == needed and found.st_gid:
        hint = f"sudo usermod -aG {group} {me}, then log in again"
    else:
        hint = f"sudo -u {owner} and the same command"
    return f"{me} may not read {there} (it belongs to {owner}, group {group}, mode {mode:04o}); try: {hint}"


def _name(find: Callable[[int], object], number: int, field: str) -> str:
    try:
        return str(getattr(find(number), field))
    except KeyError:
        return str(number)
