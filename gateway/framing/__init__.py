"""Framing: bytes in, whole frames out. Where a frame ends is said by `frame:`, whether it is whole by `checksum:`.

- What comes out does not depend on how the bytes were cut into reads.
- Memory is bounded by the longest frame allowed, whatever comes.
- Everything that is dropped is counted (Framer.bad), and the next good frame is found.
"""

from gateway.framing.checksum import Checksum
from gateway.framing.framer import Bad, Framer
from gateway.framing.options import Frame, FrameOptions

__all__ = ["Bad", "Checksum", "Frame", "FrameOptions", "Framer"]
