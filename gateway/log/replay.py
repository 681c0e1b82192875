"""What one record of the journal adds to what is known of the streams, for whoever opens a log or looks at one."""

from typing import NamedTuple

from gateway.log.journal import Found, Section, batch_of
from gateway.log.stream import Streams, size_of
from gateway.record import Batch, Gap


class Replayed(NamedTuple):
    """`sections` are all of the record, with those that were sealed already; `gaps` the ones that nobody knew."""

    sections: list[tuple[Section, Batch]]
    gaps: list[Gap]


def replay(streams: Streams, found: Found) -> Replayed:
    """Apply the records from each stream's `next` on, and the gaps. What is missing before them becomes a gap, too."""
    entry, sections, gaps = found.entry, list[tuple[Section, Batch]](), list[Gap]()
    for section in entry.sections:
        batch = batch_of(section, found.commit)
        sections.append((section, batch))
        home = streams.home(section.stream)
        if batch.next > home.next:
            gaps += streams.skip(home, batch.first)
            fresh = batch.slice(home.next, batch.next)
            streams.append(home, fresh, size_of(fresh))
        home.written = home.next
        streams.settle(home)
    for name, next_ in entry.nexts.items():
        home = streams.home(name)
        gaps += streams.skip(home, next_)
        home.written = home.durable = home.next
    for gap in entry.gaps:
        gaps += streams.declare(gap)
    return Replayed(sections, gaps)
