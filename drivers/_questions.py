"""Questions that are put to a line again and again, one at a time, and whose answer it is that comes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.plugin import Mistake
from gateway.quantity import Duration, Octets

MOST_TOLD = 3  # questions that nobody answers, in the state
LONGEST_TOLD = 40  # characters of one


class Poll(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    r"""A question that is asked again and again.

    send: what is sent, as `READ\r\n` or `\x01\x03\x00\x00\x00\x02\xc4\x0b`.
    every: how often.
    timeout: how long the answer may take. One that comes later, up to as long again, is dropped and counted, not taken
        for that of another.
    key: the key of its answers; that of the driver unless given.
    """

    send: Octets
    every: Annotated[Duration, Meta(extra={"ge": Duration(0.01), "le": Duration(86400.0)})] = Duration(1.0)
    timeout: Annotated[Duration, Meta(extra={"ge": Duration(0.01), "le": Duration(60.0)})] = Duration(0.5)
    key: str | None = None

    def __post_init__(self) -> None:
        if not self.send.raw:
            raise Mistake(("send",), "is empty; write what is to be sent")


class Questions:
    """Used on the event loop. All that comes up to the next question is the answer to the last one.

    `missing` is called when nobody answered, `changed` when silence() says something else than before.
    """

    def __init__(self, polls: Sequence[Poll], missing: Callable[[], None], changed: Callable[[], None]) -> None:
        self._polls, self._missing, self._changed = polls, missing, changed
        self.late = False  # what comes now is an answer whose time is over
        self.key: str | None = None  # of the answers that come now; None: that of the driver
        self._heard = asyncio.Event()
        self._listening = asyncio.Event()
        self._listening.set()
        self._silent: dict[int, int] = {}  # place of a question -> how often in a row nobody answered

    async def ask(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Ask each when it is due and the last one is over, until cancelled. Raises what `send` raises."""
        loop = asyncio.get_running_loop()
        self._silent.clear()
        self.late, self.key = False, None
        due = [loop.time()] * len(self._polls)
        while due:
            at = min(range(len(due)), key=due.__getitem__)
            await asyncio.sleep(max(0.0, due[at] - loop.time()))
            await self._listening.wait()
            poll = self._polls[at]
            due[at] = max(due[at] + poll.every, loop.time())
            self._heard.clear()
            self.late, self.key = False, poll.key
            await send(poll.send.raw)
            if await self._is_answered(poll.timeout):
                if self._silent.pop(at, 0):
                    self._changed()
            else:
                self.late = True
                self._silent[at] = self._silent.get(at, 0) + 1
                self._missing()
                self._changed()
                await asyncio.sleep(poll.timeout)  # whose answer came in the time of the next would not be seen

    def answered(self) -> None:
        """Something came."""
        self._heard.set()

    def pause(self) -> None:
        """Nobody hears answers: nothing is asked, and the time of the last question stands still."""
        self._listening.clear()

    def resume(self) -> None:
        self._listening.set()

    def silence(self) -> str:
        """Which questions nobody answers, in words; empty where there are none."""
        told = [f"{_shown(self._polls[at].send)} ({n} times)" for at, n in sorted(self._silent.items())]
        more = f" and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
        return f"no answer to {', '.join(told[:MOST_TOLD])}{more}" if told else ""

    @property
    def all_silent(self) -> bool:
        """Nobody answers anything."""
        return bool(self._silent) and len(self._silent) == len(self._polls)

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
