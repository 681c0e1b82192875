"""The log: records of many streams in order, durable, compressed, bounded, replayable.

docs/storage.md tells its invariants, its formats, and what a power cut costs.
"""

from gateway.log.block import decode_block, encode_block
from gateway.log.files import Files, SystemFiles
from gateway.log.journal import Tick
from gateway.log.log import Commit, Log, LogOptions, Maintained, Recovery
from gateway.log.position import Place, Positions
from gateway.log.store import Snapshot
from gateway.log.stream import Keep

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
