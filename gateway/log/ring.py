"""The ring: what is forgotten, oldest blocks first, when a stream or the whole log is over its size or age.

A block that holds an outstanding cut of some reader is passed over: its bytes may be on the way. What goes becomes a
gap in the same transaction.
"""

from collections.abc import Iterator, Mapping

from gateway.log.contents import BlockRow, Shelf
from gateway.log.store import Store
from gateway.log.stream import Keep
from gateway.record import Gap

EVICTED, EXPIRED = "evicted", "expired"


def evict(
    store: Store,
    shelves: Mapping[str, Shelf],
    keeps: Mapping[str, Keep],
    pins: Mapping[str, list[tuple[int, int]]],
    size: int,
    now: int | None,
) -> list[Gap]:
    """Delete blocks until every limit holds. `now` in ns; None where the clock is not trusted, then nothing expires.

    `pins`: stream -> (first, last) of every outstanding cut. The shelves are changed as the blocks go.
    """
    gaps: list[Gap] = []
    free: dict[str, Iterator[BlockRow]] = {}

    def next_block(stream: str) -> BlockRow | None:
        if stream not in free:
            free[stream] = _unpinned(store, shelves[stream], pins.get(stream, []))
        return next(free[stream], None)

    def forget(stream: str, block: BlockRow, cause: str) -> None:
        store.delete_block(shelves[stream], block)
        gaps.append(Gap(stream, block.first, block.first + block.n - 1, cause))

    for stream, shelf in shelves.items():
        keep = keeps.get(stream, Keep())
        if keep.age_s is not None and now is not None:
            limit = now - round(keep.age_s * 1e9)
            for block in _unpinned(store, shelf, pins.get(stream, [])):
                if block.max_time >= limit:
                    break
                forget(stream, block, EXPIRED)
        # The newest block stays: a limit below one block must not forget what was sealed a moment ago.
        while keep.size is not None and shelf.bytes > keep.size and shelf.blocks > 1:
            block_ = next_block(stream)
            if block_ is None:
                break
            forget(stream, block_, EVICTED)

    while store.used_bytes() > size:
        # the stream with the most bytes pays; urgent ones only when nobody else has any left
        for stream in sorted(shelves, key=lambda s: (keeps.get(s, Keep()).urgent, -shelves[s].bytes)):
            block_ = next_block(stream)
            if block_ is not None:
                forget(stream, block_, EVICTED)
                break
        else:
            break
    return gaps


def _unpinned(store: Store, shelf: Shelf, pins: list[tuple[int, int]]) -> Iterator[BlockRow]:
    at = shelf.oldest
    while (block := store.oldest_block(shelf, at)) is not None:
        at = block.first + block.n
        if not any(first < at and last >= block.first for first, last in pins):
            yield block
