"""Questions that are put to a line again and again, one at a time, and whose answer it is that comes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.plugin import Mistake
from gateway.quantity import Duration, Octets

MOST_TOLD = 3  # questions that are not answered, in the state
LONGEST_TOLD = 40  # characters of one
SILENT, UNREAD = 3, 10  # rounds without a sign of life, or with nothing that could be read, until nobody is there


class Poll(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    r"""A question that is asked again and again.

    send: what is sent, as `READ\r\n` or `\x01\x03\x00\x00\x00\x02`.
    checksum: the checksum that answers have by the driver's `checksum:` is put to it, before the end mark of a line
        where it has one.
    every: how often.
    timeout: how long the answer may take. One that comes later, up to as long again, is dropped and counted, not taken
        for that of another.
    key: the key of its answers; that of the driver unless given.
    """

    send: Octets
    checksum: bool = False
    every: Annotated[Duration, Meta(extra={"ge": Duration(0.01), "le": Duration(86400.0)})] = Duration(1.0)
    timeout: Annotated[Duration, Meta(extra={"ge": Duration(0.01), "le": Duration(60.0)})] = Duration(0.5)
    key: str | None = None

    def __post_init__(self) -> None:
        if not self.send.raw:
            raise Mistake(("send",), "is empty; write what is to be sent")


class Trouble:
    """Of a question that is not answered: how often in a row, and how often of that something came nevertheless."""

    __slots__ = ("garbled", "times")

    def __init__(self) -> None:
        self.times = self.garbled = 0

    @property
    def silent(self) -> int:
        return self.times - self.garbled


class Questions:
    """Used on the event loop. All that comes up to the next question is the answer to the last one.

    `missing` is called when nobody answered, `changed` when silence() says something else than before.
    """

    def __init__(self, polls: Sequence[Poll], missing: Callable[[], None], changed: Callable[[], None]) -> None:
        self._polls, self._missing, self._changed = polls, missing, changed
        self.late = False  # what comes now is an answer whose time is over
        self.key: str | None = None  # of the answers that come now; None: that of the driver
        self.asked = ""  # the question whose answers come now, in words; empty before the first
        self._heard = asyncio.Event()
        self._alive = False  # something came, whatever it is
        self._known = False  # somebody answered since the line was opened
        self._listening = asyncio.Event()
        self._listening.set()
        self._troubles: dict[int, Trouble] = {}  # by the place of a question

    async def ask(self, over: Callable[[], None], send: Callable[[Poll], Awaitable[None]]) -> None:
        """Ask each when it is due and the last one is over, until cancelled. Raises what `send` raises.

        `over` is called before each: what came up to then was no answer to this one.
        """
        loop = asyncio.get_running_loop()
        self._troubles.clear()
        self.late, self.key, self.asked, self._known = False, None, "", False
        due = [loop.time()] * len(self._polls)
        while due:
            at = min(range(len(due)), key=due.__getitem__)
            await asyncio.sleep(max(0.0, due[at] - loop.time()))
            await self._listening.wait()
            poll = self._polls[at]
            due[at] = max(due[at] + poll.every, loop.time())
            over()
            self._heard.clear()
            self.late, self.key, self.asked, self._alive = False, poll.key, _shown(poll.send), False
            await send(poll)
            if await self._is_answered(poll.timeout):
                if self._troubles.pop(at, None) or not self._known:
                    self._known = True
                    self._changed()
            else:
                self.late = True
                self._fail(at)
                await asyncio.sleep(poll.timeout)  # whose answer came in the time of the next would not be seen

    def answered(self) -> None:
        """An answer came."""
        self._heard.set()

    def alive(self) -> None:
        """Bytes came: whatever they are, somebody is there."""
        self._alive = True

    def pause(self) -> None:
        """Nobody hears answers: nothing is asked, and the time of the last question stands still."""
        self._listening.clear()

    def resume(self) -> None:
        self._listening.set()

    def silence(self) -> str:
        """Which questions are not answered, in words; empty where there are none."""
        told = [self._told(at, trouble) for at, trouble in sorted(self._troubles.items())]
        more = f" and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
        return f"{', '.join(told[:MOST_TOLD])}{more}"

    @property
    def hopeless(self) -> bool:
        """Nobody answers anything, for several rounds; at the first one, where nobody ever did."""
        silent = SILENT if self._known else 1
        troubles = self._troubles.values()
        return 0 < len(self._polls) == len(troubles) and all(
            trouble.silent >= silent or trouble.times >= UNREAD for trouble in troubles
        )

    def _fail(self, at: int) -> None:
        trouble = self._troubles.setdefault(at, Trouble())
        trouble.times += 1
        trouble.garbled += self._alive
        if not self._alive:
            self._missing()
        self._changed()

    def _told(self, at: int, trouble: Trouble) -> str:
        poll = self._polls[at]
        who = f"{poll.key[:LONGEST_TOLD]}" if poll.key else ""
        if not who or sum(other.key == poll.key for other in self._polls) > 1:
            who = f"{who} to {_shown(poll.send)}" if who else _shown(poll.send)
        what = "no answer" if not trouble.garbled else "no good answer"
        joint = "from" if poll.key else "to"
        return f"{what} {joint} {who} ({trouble.times} time{'s' * (trouble.times > 1)})"

    async def _is_answered(self, timeout_s: float) -> bool:
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._heard.wait()
            except TimeoutError:
                if self._listening.is_set():
                    return False
                await self._listening.wait()
            else:
                return True


def _shown(send: Octets) -> str:
    text = repr(send.raw)[1:]
    return text if len(text) <= LONGEST_TOLD else f"{text[:LONGEST_TOLD]}…'"
