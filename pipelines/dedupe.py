"""`dedupe: {by: seq, within: 10m}`: a record does not go on if one with the same key and value just did.

The span is counted by event time from the record that went on, in both directions. Those that do not go on are counted
as `duplicate`. At most `max_keys` values are remembered, of all keys together: when there are more, the oldest are
forgotten and counted as `evicted`.
"""

from collections.abc import Mapping
from itertools import islice, takewhile
from typing import Annotated, Any

import msgspec

from gateway.plugin import Plugin
from gateway.quantity import Duration
from pipelines.language import Code

FEW = 64  # values below which nothing is tidied up


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`dedupe: {by: seq, within: 10m}`: a record does not go on if one with the same key and value just did.

    by: what makes two records of a key the same: a field, an expression, or a list of them.
    within: how long a value is remembered, by event time, from the record that went on.
    """

    by: Annotated[str | list[str], msgspec.Meta(examples=["by: seq"])]
    within: Annotated[Duration, msgspec.Meta(examples=["within: 10m"])]


class Dedupe:
    def __init__(self, options: Options) -> None:
        self.options = options

    def write(self, code: Code) -> None:
        within = self.options.within.ns
        if within < 1_000_000:
            code.mistake("this must be at least 1ms", "within")
        values = self._values(code)
        seen = Seen(within, code.max_keys)
        code.state(seen)
        same, before, known = code.local(), code.local(), code.constant(seen.known)
        code.write(f"{same} = ({', '.join([code.key, *values])})")
        code.write(f"{before} = {code.constant(seen.known.get)}({same})")
        with code.block(f"if {before} is not None:"):
            with code.block(f"if -{within} < {code.stamp} - {before} < {within}:"):
                code.count("duplicate")
                code.write("continue")
            code.write(f"del {known}[{same}]")  # it goes to the end, as the one that went on last
        with code.block(f"elif len({known}) >= {code.constant(seen)}.enough:"):
            code.write(f"{code.constant(seen.tidy)}({code.stamp})")
        code.write(f"{known}[{same}] = {code.stamp}")

    def _values(self, code: Code) -> list[str]:
        by = self.options.by
        texts = [by] if isinstance(by, str) else by
        if not texts:
            code.mistake("name what makes two records the same, as in `by: seq`", "by")
        found = []
        for i, text in enumerate(texts):
            where = ("by",) if isinstance(by, str) else ("by", i)
            value = code.value(text, *where)
            if value.type.missing:
                code.mistake("this may be missing: put `filter: has(…)` before, or use default(…)", *where)
            found.append(code.assign(value, *where).code)
        return found


class Seen:
    """(key, value, …) -> event time of the record that went on, in the order in which they did."""

    def __init__(self, within: int, most: int) -> None:
        self.within, self.most = within, most
        self.known: dict[tuple[Any, ...], int] = {}
        self.enough = min(FEW, most)  # when to tidy up; saved, because what is forgotten depends on it
        self.evicted = 0

    def tidy(self, now: int) -> None:
        """Forget from the oldest on whose span is over at `now`, and then the oldest if that makes too little room."""
        for same in list(takewhile(lambda same: now - self.known[same] >= self.within, self.known)):
            del self.known[same]
        if len(self.known) >= self.most:
            self._forget_oldest(max(1, self.most // 64))
        self.enough = min(max(FEW, 2 * len(self.known)), self.most)

    def _forget_oldest(self, count: int) -> None:
        for same in list(islice(self.known, count)):
            del self.known[same]
        self.evicted += count

    def save(self) -> Any:
        return [self.enough, self.known]

    def load(self, saved: Any) -> None:
        enough, known = saved
        self.enough = min(enough, self.most)
        self.known.clear()  # generated code has bound this very dict
        self.known.update(known)
        if (excess := len(self.known) - self.most) > 0:  # max_keys was lowered
            self._forget_oldest(excess)

    def stats(self) -> Mapping[str, int]:
        return {"remembered": len(self.known), "evicted": self.evicted}


plugin = Plugin(Options, Dedupe)
