"""What a step keeps of each key: a short list of plain data in one dict, bounded, and moments that keys wait for.

Looking a key up is one dict access in the generated loop; what comes rarely, making room and acting on a deadline, is
done here. Both depend on the order of records alone, and are saved as they are.
"""

import heapq
from collections.abc import Callable, Mapping
from typing import Any

from gateway.plugin import Outputs
from pipelines.language.build import Code
from pipelines.language.progress import NEVER


class Keyed:
    """key -> [moment of its last record, …] of at most `most` keys. What follows the moment is the step's own."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.kept: dict[str, list[Any]] = {}
        self.evicted = 0

    # writing, once per load

    def look_up(self, code: Code) -> str:
        """Write the line that looks the record's key up; gives the local that has its list, or None."""
        found = code.local()
        code.write(f"{found} = {code.constant(self.kept.get)}({code.key})")
        return found

    def begin(self, code: Code, *values: str) -> None:
        """Write the lines that keep these values of a key that is not kept yet."""
        with code.block(f"if len({code.constant(self.kept)}) >= {self.most}:"):
            code.write(f"{code.constant(self.make_room)}()")
        code.write(f"{code.constant(self.kept)}[{code.key}] = [{', '.join([code.touch, *values])}]")

    # running

    def make_room(self) -> None:
        """Forget the keys that were used least recently; a few at a time, so that finding them costs little per key."""
        self._forget_least(max(1, self.most // 64))

    def _forget_least(self, count: int) -> None:
        for key in heapq.nsmallest(count, self.kept, key=self.worth):
            self.forget(key)
            self.evicted += 1

    def worth(self, key: str) -> Any:
        """What is worth least is forgotten first; of equals, the one that came first."""
        return self.kept[key][0]

    def forget(self, key: str) -> None:
        del self.kept[key]

    def save(self) -> Any:
        return self.kept

    def load(self, saved: Any) -> None:
        self.kept.clear()  # generated code has bound this very dict
        self.kept.update(saved)
        if (excess := len(self.kept) - self.most) > 0:  # max_keys was lowered
            self._forget_least(excess)

    def stats(self) -> Mapping[str, int]:
        return {"keys": len(self.kept), "evicted": self.evicted}


class Deadlines:
    """key -> the moment it waits for. As that passes `act(key, out)` is called; of one moment, in the order of keys.

    pipelines.language.Timed. `due` is always exact, never the deadline of a key that has ceased to wait: how far time
    goes on in a silence depends on it.
    """

    def __init__(self, act: Callable[[str, Outputs], None]) -> None:
        self.act = act
        self.due = NEVER
        self.of: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []  # with entries of keys that ceased to wait; never one of them at its top

    def set(self, key: str, due: int) -> None:
        self.of[key] = due
        heapq.heappush(self._heap, (due, key))
        if len(self._heap) > 2 * len(self.of) + 64:
            self._heap = [(due, key) for key, due in self.of.items()]
            heapq.heapify(self._heap)
        self._settle()

    def drop(self, key: str) -> None:
        """This key waits no longer, if it did."""
        if self.of.pop(key, None) is not None:
            self._settle()

    def fire(self, out: Outputs) -> None:
        _, key = self._heap[0]
        self.drop(key)
        self.act(key, out)

    def save(self) -> dict[str, int]:
        return self.of

    def load(self, saved: dict[str, int]) -> None:
        self.of = saved
        self._heap = [(due, key) for key, due in saved.items()]
        heapq.heapify(self._heap)
        self._settle()

    def _settle(self) -> None:
        heap = self._heap
        while heap and self.of.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        self.due = heap[0][0] if heap else NEVER
