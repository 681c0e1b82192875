"""The log: records of many streams in order, durable, compressed, bounded, replayable.

docs/storage.md tells its invariants, its formats, and what a power cut costs.
"""

from gateway.log.block import decode_block, encode_block
from gateway.log.contents import Snapshot
from gateway.log.files import Files, SystemFiles
from gateway.log.gathering import Commit
from gateway.log.journal import Tick
from gateway.log.log import Log
from gateway.log.opening import Recovery
from gateway.log.options import LogOptions
from gateway.log.position import Place, Positions
from gateway.log.stream import Keep
from gateway.log.upkeep import Maintained

__all__ = [
    "Commit",
    "Files",
    "Keep",
    "Log",
    "LogOptions",
    "Maintained",
    "Place",
    "Positions",
    "Recovery",
    "Snapshot",
    "SystemFiles",
    "Tick",
    "decode_block",
    "encode_block",
]
