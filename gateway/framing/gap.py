"""Frames that end with silence, as Modbus RTU has it: whoever reads the source calls flush() after `idle_s` of it."""

from gateway.framing.checksum import Check
from gateway.framing.framer import Framer


class Gap(Framer):
    def __init__(self, check: Check | None, most: int, idle_s: float) -> None:
        super().__init__(check, most)
        self.idle_s = idle_s
        self._skipping = False  # all up to the next silence is no frame, and counted

    def feed(self, data: bytes) -> list[bytes]:
        if not self._skipping:
            self._rest += data
            if len(self._rest) > self._most:
                self._drop_long(self._rest)
                self._rest, self._skipping = b"", True
        return []

    def flush(self) -> list[bytes]:
        rest, self._rest, self._skipping = self._rest, b"", False
        return self._checked([rest]) if rest else []

    def reset(self) -> None:
        super().reset()
        self._skipping = False

    def overslept(self) -> None:
        self._drop("came while nobody listened: where its frames end is not known", self._rest)
        self._rest, self._skipping = b"", True
