"""What every run of a pipeline has in common, in the gateway and away from it: which records come next, and where what
is derived of them is gathered.
"""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.record import Batch


class Columns(NamedTuple):
    """Records of one stream, without their offsets."""

    times: Sequence[int]
    keys: Sequence[str]
    values: Sequence[bytes]


class Outputs:
    """gateway.plugin.Outputs: what a run derived, as columns per stream, until somebody takes it."""

    __slots__ = ("columns",)

    def __init__(self) -> None:
        self.columns: dict[str, tuple[list[int], list[str], list[bytes]]] = {}

    def emit(self, stream: str, time: int, key: str, value: bytes) -> None:
        columns = self.columns.get(stream)
        if columns is None:
            columns = self.columns[stream] = ([], [], [])
        columns[0].append(time)
        columns[1].append(key)
        columns[2].append(value)

    def take(self) -> dict[str, Columns]:
        """What came since the last time."""
        taken, self.columns = self.columns, {}
        return {stream: Columns(*columns) for stream, columns in taken.items()}


def next_stretch(heads: Sequence[Batch]) -> Batch:
    """What a pipeline of several inputs runs next: by commit, of one commit as the inputs are configured, by offset.

    `heads`: the next records of every input that has some, in configured order; all of the oldest commit among them
    must be known.
    """
    oldest = min(heads, key=lambda batch: batch.commits[0][0])  # of equals the first
    return oldest.slice(oldest.first, oldest.first + oldest.commits[0][1])
