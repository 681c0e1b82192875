"""A sealed block: consecutive records of one stream as one self-contained blob, byte-exact.

    b"TGB" | format (1 byte) | one zstd frame of a msgpack array, see `_Block`

Two layouts of the payloads. `PLAIN`: in record order. `TURNED`: sorted by length, then by key; a length shared by at
least 16 payloads is stored column by column (all first bytes, all second bytes, …), which halves what telemetry
takes, since payloads of one key and length differ in few places. The order of arrival is not stored: it follows from
the key and the length of each record.
"""

import struct
from collections import Counter, deque
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import add

import msgspec
import zstandard

from gateway.errors import LogDamaged
from gateway.log.columns import Times, pack_keys, pack_small, pack_times, unpack, unpack_keys, unpack_times
from gateway.record import Batch

FORMAT = 1
MAGIC = b"TGB" + bytes([FORMAT])
PLAIN, TURNED = 1, 2
LEVEL = 1  # levels 3, 6 and 9 save at most 5 % for up to twice the time
TURN_FROM = 16  # turning fewer payloads than this costs more steps than it saves bytes
RAW_LIMIT = 64 << 20  # what a blob may claim to unpack to, before a byte of it is allocated


class _Block(msgspec.Struct, array_like=True, frozen=True, gc=False):
    first: int
    times: Times
    keys: list[bytes]
    index: bytes  # per record: which key
    lengths: bytes  # per record: bytes of its payload
    flags: bytes | None
    commits: list[int]  # commit number, records, then per further run: step of the number, records
    layout: int
    payloads: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Block)


def encode_block(batch: Batch, layout: int | None = None) -> bytes:
    """A batch as a blob. Without a layout both are made and the smaller one is returned."""
    lengths = list(map(len, batch.values))
    keys, index = pack_keys(batch.keys)
    times, widths = pack_times(batch.times), pack_small(lengths, max(lengths, default=0))
    blobs = []
    for choice in (PLAIN, TURNED) if layout is None else (layout,):
        turned = choice == TURNED
        payloads = _turn(batch.values, lengths, unpack(index), len(keys)) if turned else b"".join(batch.values)
        block = _Block(batch.first, times, keys, index, widths, batch.flags, _steps(batch.commits), choice, payloads)
        blobs.append(MAGIC + zstandard.ZstdCompressor(level=LEVEL).compress(_encoder.encode(block)))
    return min(blobs, key=len)


def decode_block(blob: bytes, stream: str) -> Batch:
    """The batch of a blob. Raises LogDamaged for anything that encode_block() did not make."""
    if not blob.startswith(MAGIC):
        raise LogDamaged(f"{stream}: not a block of format {FORMAT}")
    try:
        block = _decoder.decode(unpacked(blob[len(MAGIC) :]))
        lengths, index = unpack(block.lengths), unpack(block.index)
        count = len(lengths)
        if len(index) != count or sum(lengths) != len(block.payloads) or len(block.flags or lengths) != count:
            raise ValueError("columns of different length")
        if block.layout == PLAIN:
            ends = list(accumulate(lengths, initial=0))
            values = list(map(block.payloads.__getitem__, map(slice, ends, ends[1:])))
        else:
            values = _turn_back(block.payloads, lengths, index, len(block.keys))
        commits = _runs(block.commits)
        if sum([n for _, n in commits]) != (count if commits else 0):
            raise ValueError("commit runs of another length")
        return Batch(
            stream,
            block.first,
            unpack_times(block.times, count),
            unpack_keys(block.keys, index),
            values,
            commits,
            block.flags,
        )
    except (ValueError, KeyError, IndexError, OverflowError, StopIteration, struct.error) as error:
        # msgspec's and Unicode's errors are ValueErrors
        raise LogDamaged(f"{stream}: a block does not unpack: {error}") from error


def unpacked(frame: bytes) -> bytes:
    """One zstd frame, decompressed. Its declared size is checked before anything is allocated. Raises ValueError."""
    try:
        size = zstandard.get_frame_parameters(frame).content_size
        if size > RAW_LIMIT:  # an undeclared size reads as 2**64 - 1
            raise ValueError("a frame claims too much memory")
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _steps(runs: tuple[tuple[int, int], ...]) -> list[int]:
    out: list[int] = []
    last = 0
    for commit, n in runs:
        out += (commit - last, n)
        last = commit
    return out


def _runs(steps: list[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(accumulate(steps[::2]), steps[1::2], strict=True))


def _classes(lengths: list[int], keys: int) -> dict[int, int]:
    """Length -> the first of the codes of its payloads; a code is that plus the number of the key."""
    return {length: rank * keys for rank, length in enumerate(sorted(set(lengths)))}


def _turn(values: Sequence[bytes], lengths: list[int], index: list[int], keys: int) -> bytes:
    classes = _classes(lengths, keys)
    codes = list(map(add, map(classes.__getitem__, lengths), index))
    groups: dict[int, list[bytes]] = {code: [] for code in sorted(set(codes))}
    deque(map(list.append, map(groups.__getitem__, codes), values), maxlen=0)
    rows: dict[int, list[list[bytes]]] = {length: [] for length in classes}
    for group in groups.values():
        rows[len(group[0])].append(group)
    parts = []
    for length, groups_of_length in rows.items():
        data = b"".join(chain.from_iterable(groups_of_length))
        if length > 1 and len(data) >= length * TURN_FROM:
            parts += [data[i::length] for i in range(length)]
        else:
            parts.append(data)
    return b"".join(parts)


def _turn_back(payloads: bytes, lengths: list[int], index: list[int], keys: int) -> list[bytes]:
    classes = _classes(lengths, keys)
    codes = list(map(add, map(classes.__getitem__, lengths), index))
    rows: list[bytes] = []
    at = 0
    for length, count in sorted(Counter(lengths).items()):
        data = payloads[at : at + length * count]
        at += length * count
        if length == 0:
            rows += [b""] * count
            continue
        if length > 1 and count >= TURN_FROM:
            plain = bytearray(len(data))
            for i in range(length):
                plain[i::length] = data[i * count : (i + 1) * count]
            data = bytes(plain)
        rows += chain.from_iterable(struct.iter_unpack(f"{length}s", data))
    # Each code's rows stand together, in record order: hand them out as the codes ask for them.
    start, source = 0, {}
    for code, count in sorted(Counter(codes).items()):
        source[code] = iter(rows[start : start + count])
        start += count
    return list(map(next, map(source.__getitem__, codes)))
