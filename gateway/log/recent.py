"""Blocks that were sealed or read a moment ago, unpacked, so that readers close behind never touch the disk."""

import threading
from collections import OrderedDict

from gateway.log.stream import size_of
from gateway.record import Batch

LEAST = 64 << 10  # what an entry counts for at least: keeps the number of entries small


class Recent:
    """The least recently used block goes when they take more than `limit` bytes. Safe to use from every thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[str, int], tuple[Batch, int]] = OrderedDict()
        self._used = 0

    def at(self, stream: str, offset: int) -> Batch | None:
        """The block of a stream that holds this offset."""
        with self._lock:
            for key, (block, _) in reversed(self._blocks.items()):
                if key[0] == stream and block.first <= offset < block.next:
                    self._blocks.move_to_end(key)
                    return block
        return None

    def put(self, block: Batch) -> None:
        key, size = (block.stream, block.first), max(size_of(block), LEAST)
        with self._lock:
            self._used += size - self._blocks.pop(key, (block, 0))[1]
            self._blocks[key] = (block, size)
            while self._used > self._limit and len(self._blocks) > 1:
                self._used -= self._blocks.popitem(last=False)[1][1]
