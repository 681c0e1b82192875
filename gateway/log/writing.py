"""Writing: a commit becomes one record of the journal. It belongs to the log thread."""

import os

from gateway.log.files import Files, as_log_errors
from gateway.log.gathering import Commit
from gateway.log.journal import Entry, Journal, section_of
from gateway.log.stream import Streams
from gateway.log.unsealed import Unsealed
from gateway.log.upkeep import Upkeep


class Writing:
    """`told_epoch` is the epoch as the file `epoch` has it."""

    def __init__(
        self, folder: str, files: Files, journal: Journal, upkeep: Upkeep, streams: Streams, unsealed: Unsealed
    ) -> None:
        self._folder, self._files = folder, files
        self._journal, self._upkeep, self._streams, self._unsealed = journal, upkeep, streams, unsealed
        self.told_epoch = ""
        self.commits = 0

    def write(self, commit: Commit) -> None:
        """As Log.write()."""
        unsealed = self._unsealed
        if commit.number <= unsealed.commit:
            return
        assert commit.number == unsealed.commit + 1, "commits are written in the order they were gathered"
        unsealed.coming = commit.places  # a turnover before it must not forget what it cuts
        self._upkeep.mend()
        if not commit.body:
            commit.raw, commit.body = self._journal.encode(self._entry(commit))
        self._upkeep.make_way(commit.body)
        if self._journal.at == 0 and not commit.whole:
            commit.whole = True
            commit.raw, commit.body = self._journal.encode(self._entry(commit))
        self._tell_epoch()
        self._journal.write(commit.number, commit.raw, commit.body)
        unsealed.commit = commit.number
        self.commits += 1
        for stream, pieces in commit.pieces.items():
            self._streams.homes[stream].written = pieces[-1].next
        unsealed.note_places(commit.places)
        unsealed.coming = ()
        unsealed.note_ticks(commit.ticks)
        for noted in commit.marks.values():
            for marks, batch in noted:
                unsealed.note_ids(marks, batch.keys, batch.values)
        if commit.snapshots is not None:
            unsealed.snapshots = (commit.number, commit.snapshots)

    def _tell_epoch(self) -> None:
        """Before the first record: from then on the journal must be readable by itself."""
        epoch = self._upkeep.epoch
        if self.told_epoch != epoch:
            with as_log_errors(f"cannot write {self._folder}/epoch"):
                self._files.replace(os.path.join(self._folder, "epoch"), f"{epoch}\n".encode())
            self.told_epoch = epoch

    def _entry(self, commit: Commit) -> Entry:
        """What the journal will say; with `whole`, of all streams and readers, as the first record of a generation."""
        sections = [
            section_of(pieces, [marks for marks, _ in commit.marks.get(stream, ())])
            for stream, pieces in commit.pieces.items()
        ]
        if not commit.whole:
            return Entry(commit.moment, sections, commit.nexts, commit.places, commit.gaps, commit.ticks)
        homes = list(self._streams.homes.values())
        nexts = {home.name: home.written for home in homes if home.name not in commit.pieces}
        changed = {(place.reader, place.stream) for place in commit.places}
        places = [place for place in self._unsealed.places if (place.reader, place.stream) not in changed]
        gaps = [gap for home in homes for gap in home.gaps]
        shelves = {name: shelf.id for name, shelf in self._streams.shelves.items()}
        return Entry(commit.moment, sections, nexts, places + commit.places, gaps, commit.ticks, shelves)
