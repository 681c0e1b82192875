"""Where a log stood, from whatever is left of it: the words for files that are not ours, the epoch, a lost database."""

import os
import re
import secrets
from collections.abc import Sequence

from gateway.errors import LogError
from gateway.log.contents import BlockRow, Contents, Shelf
from gateway.log.files import Files
from gateway.log.journal import Found
from gateway.log.salvage import Attic
from gateway.log.seal import Sealing
from gateway.record import Gap

OURS = ("journal", "log.db", "log.db-wal", "log.db-shm", "log.db-journal", "epoch", "reserve", "machine")
FOLDERS = ("salvage", "quarantine")


def refuse_foreign(path: str, files: Files) -> None:
    """Raise LogError, in words, where something stands in the place of a file of ours. Opens nothing."""
    for name in OURS:
        what = files.foreign(os.path.join(path, name))
        if what:
            hint = "move it away, or write another log.path"
            raise LogError(f"{path}/{name} is {what}, and should be a file of this log; {hint}")
    for name in FOLDERS:
        there = os.path.join(path, name)
        if files.exists(there) and files.foreign(there) != "a folder":
            hint = "move it away, or write another log.path"
            raise LogError(f"{there} should be a folder of this log, and is none; {hint}")


def known_epoch(path: str, files: Files) -> str:
    """The epoch as its own file has it: with it the journal can be read though the database is lost."""
    text = files.head(os.path.join(path, "epoch"), 64).decode("ascii", "replace").strip()
    return text if re.fullmatch("[0-9a-f]{32}", text) else ""


def stood(records: Sequence[Found], attic: Attic, epoch: str, generation: int) -> tuple[Contents, bool]:
    """(where everything stood before these records of the journal, whether they tell it exactly).

    Exactly where the first record of the generation is among them: then no offset can be given twice. Else what they
    mention counts, and what the rows of old databases say, under a new epoch.
    """
    first = records[0].entry if records and records[0].entry.shelves is not None else None
    nexts: dict[str, int] = {}
    for found in records:
        for section in found.entry.sections:
            nexts.setdefault(section.stream, section.first)
        for name, next_ in found.entry.nexts.items():
            nexts.setdefault(name, next_)
        if first is not None:
            break
    ids = dict((first.shelves if first is not None else None) or {})
    for name, (next_, id_) in attic.streams.items():
        if first is None:
            nexts.setdefault(name, next_)
            if id_ not in ids.values():
                ids.setdefault(name, id_)
    shelves: dict[str, Shelf] = {}
    for name, next_ in nexts.items():
        if next_:
            id_ = ids.get(name) or 1 + max([*ids.values(), *(shelf.id for shelf in shelves.values())], default=0)
            shelves[name] = Shelf(id_, next_, next_)
    gaps: dict[str, tuple[Gap, ...]] = {}
    for gap in sorted(first.gaps if first is not None else (), key=lambda gap: gap.first):
        gaps[gap.stream] = (*gaps.get(gap.stream, ()), gap)
    commit = records[0].commit - 1 if records else 0
    return (
        Contents(
            epoch if first is not None else secrets.token_hex(16),
            max(generation, 1),
            commit,
            shelves,
            gaps,
            list(first.places) if first is not None else [],
            attic.whole_snapshots(),
            [],
            {},
        ),
        first is not None,
    )


def bring_back(work: Sealing, attic: Attic, room: int) -> list[tuple[str, int]]:
    """Put blocks of old databases into the new one, the last of each stream first, within `room` bytes.

    Inside a transaction; returns (stream, first) of those that are done with, one way or the other.
    """
    done: list[tuple[str, int]] = []
    for stream, first, last in attic.last_first():
        if room <= 0:
            break
        found = attic.blob(stream, first)
        if found is None:
            work.lose([Gap(stream, first, last, "damaged")])
        else:
            block, blob = found
            row = BlockRow(0, block.first, block.n, block.min_time, block.max_time, len(blob))
            work.put_back(stream, row, block.crc, blob)
            room -= len(blob)
        done.append((stream, first))
    return done
