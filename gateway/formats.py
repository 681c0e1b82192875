"""Formats of a batch: what a receiver gets for one extent of one stream, records and gaps by offset.

    ndjson, json     {"o": offset, "t": time in ns, "k": key, "v": value} per record, and "r": true if it was retained;
                     {"gap": [first, last], "cause": why} where nobody will read records any more
    msgpack          an array of the same maps; bytes that are no text are a msgpack bin
    block            the log's own block codec, framed as described at `_encode_block`
    raw              no body: the sink sends record by record

`value` is, for a receiver, the JSON value it is; else text; else {"$b": base64}. JSON travels byte for byte, only line
breaks between its tokens become spaces. JSON here is strict (RFC 8259, UTF-8, no lone surrogates) and at most DEPTH
levels deep, so that no payload breaks the receiver of a whole batch; anything else is text. An object whose only member
is "$b" travels as {"$b": base64} itself, so that bytes cannot be forged.

The same input gives the same bytes, today and after a restart: a batch that is sent again is the same batch.
"""

import base64
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby

import msgspec
import zstandard

from gateway.errors import LogDamaged, Malformed
from gateway.record import RETAINED, Batch, Gap, Record, concat

DEPTH = 128  # levels of nesting that still count as JSON: far below what any receiver's parser refuses
ZSTD_LEVEL = 3  # costs 0.05 µs per reading more than level 1 and saves a tenth of the bytes
ZSTD_STEP = 512  # packed bytes that are unpacked at a time
LARGEST_BODY = 64 << 20  # bytes that decode() unpacks at most, unless told

CONTENT_TYPES = {
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "msgpack": "application/vnd.msgpack",
    "block": "application/vnd.tidegate.block",
    "raw": "",
}
ENCODINGS = ("", "zstd", "gzip")
_NAMES = {content_type: name for name, content_type in CONTENT_TYPES.items() if content_type}


class Bloated(Malformed):
    """What was packed is larger than it may be."""


class Format:
    """How batches are written. Built by parse(); one object serves one sink (its compressor is not shared)."""

    __slots__ = ("_zstd", "content_type", "encoding", "name", "raw")

    def __init__(self, name: str, encoding: str) -> None:
        self.name, self.encoding = name, encoding
        self.content_type = CONTENT_TYPES[name]
        self.raw = name == "raw"
        self._zstd = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)

    @classmethod
    def parse(cls, text: str) -> "Format":
        """Read `ndjson`, `json+gzip`, `block`, `raw`, … Raises ValueError with what to write instead."""
        name, _, encoding = text.partition("+")
        if name not in CONTENT_TYPES or encoding not in ENCODINGS or text.endswith("+") or (name == "raw" and encoding):
            raise ValueError(
                f"{text!r} is no format; write ndjson, json, msgpack or block, "
                "each alone or with +zstd or +gzip, or raw for one message per record"
            )
        return cls(name, encoding)

    def encode(self, batches: Sequence[Batch], gaps: Sequence[Gap], *, gateway: str, epoch: str) -> bytes:
        """The body for one extent of one stream. `gateway` and `epoch` go into formats that name their origin."""
        parts: list[Batch | Gap] = [*filter(len, batches), *gaps]
        parts.sort(key=_first)
        if self.name == "ndjson":
            body = b"".join(_lines(parts, b"\n"))
        elif self.name == "json":
            body = b"[" + b"".join(_lines(parts, b",\n"))[:-2] + b"]"
        elif self.name == "msgpack":
            body = _encode_msgpack(parts)
        elif self.name == "block":
            body = _encode_block(parts, gateway, epoch)
        else:
            raise ValueError("raw has no body")
        if self.encoding == "zstd":
            return self._zstd.compress(body)
        if self.encoding == "gzip":
            return _gzip(body)
        return body

    def __repr__(self) -> str:
        return f"Format({self.name}{'+' if self.encoding else ''}{self.encoding})"


def _first(part: Batch | Gap) -> int:
    return part.first


def wire_line(item: Record | Gap) -> bytes:
    """One record or gap as one line of JSON, without the line's end: for the edges."""
    if isinstance(item, Gap):
        return _gap_line(item)
    retained = b',"r":true' if item.flags & RETAINED else b""
    return _RECORD % (item.offset, item.time, _key(item.key), _value(item.value) + retained)


def decode(
    body: bytes, content_type: str, encoding: str = "", *, stream: str = "", limit: int = LARGEST_BODY
) -> list[Record | Gap]:
    """What encode() was given, for receivers. `stream` names the gaps (only `block` carries its stream itself).

    Payloads come back as they were, but for what a receiver cannot see either: line breaks between JSON tokens are
    spaces, and a JSON string reads as its text (unless that text is JSON again, as in "12", which keeps its quotes);
    msgpack gives JSON payloads written anew. Unpacks `limit` bytes at most. Raises Malformed.
    """
    name = _NAMES.get(content_type.partition(";")[0].strip())
    if name is None:
        raise Malformed(f"content type {content_type!r} is not known")
    body = unpack(body, encoding, limit)
    try:
        if name == "msgpack":
            return [_from_wire(item, _from_msgpack, stream) for item in _msgpack_items.decode(body)]
        if name == "block":
            return list(_decode_block(body))
        items = _json_item.decode_lines(body) if name == "ndjson" else _json_items.decode(body)
        return [_from_wire(item, _from_json, stream) for item in items]
    except (msgspec.DecodeError, LogDamaged, ValueError, RecursionError) as error:
        raise Malformed(f"{name} body: {error}") from error


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo `zstd` or `gzip`, whatever the number of frames, never holding more than `limit` bytes.

    Raises Malformed, and of that Bloated where there is more than the limit.
    """
    if encoding == "":
        plain = body
    elif encoding == "zstd":
        plain = _unzstd(body, limit)
    elif encoding == "gzip":
        plain = _gunzip(body, limit)
    else:
        raise Malformed(f"encoding {encoding!r} is not known")
    if len(plain) > limit:
        raise Bloated(f"the body unpacks to more than {limit} bytes")
    return plain


def _gzip(body: bytes) -> bytes:
    """One gzip member without time, name or system: the same body, the same bytes."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


def _unzstd(body: bytes, limit: int) -> bytes:
    # In small steps: a frame's header may promise any size, and every 4 bytes may mean 128 KiB.
    unpacker = zstandard.ZstdDecompressor(max_window_size=8 << 20)
    out, at = bytearray(), 0
    try:
        while at < len(body) and len(out) <= limit:
            frame = unpacker.decompressobj()
            while not frame.eof and len(out) <= limit:
                if at >= len(body):
                    raise Malformed("zstd: the body is cut short")
                out += frame.decompress(body[at : at + ZSTD_STEP])
                at = min(at + ZSTD_STEP, len(body))
            at -= len(frame.unused_data)
    except zstandard.ZstdError as error:
        raise Malformed(f"zstd: {error}") from error
    return bytes(out)


def _gunzip(body: bytes, limit: int) -> bytes:
    out = bytearray()
    while body:
        member = zlib.decompressobj(31)
        try:
            out += member.decompress(body, limit + 1 - len(out))
        except zlib.error as error:
            raise Malformed(f"gzip: {error}") from error
        if len(out) > limit:
            break
        if not member.eof:
            raise Malformed("gzip: the body is cut short")
        body = member.unused_data
    return bytes(out)


# -- JSON lines --------------------------------------------------------------------------------------------------------

_RECORD = b'{"o":%d,"t":%d,"k":%b,"v":%b}'
_shape = msgspec.json.Decoder(msgspec.Raw).decode  # is it one JSON value? Reads no UTF-8, keeps nothing
_names_bytes = re.compile(rb'"(?:\$|\\u0024)(?:b|\\u0062)"').search  # every spelling of the member name "$b"


@lru_cache(4096)
def _key(key: str) -> bytes:
    return msgspec.json.encode(key)


def _lines(parts: Sequence[Batch | Gap], end: bytes) -> Iterator[bytes]:
    for part in parts:
        yield _gap_line(part) + end if isinstance(part, Gap) else _records(part, end)


def _gap_line(gap: Gap) -> bytes:
    return b'{"gap":[%d,%d],"cause":%b}' % (gap.first, gap.last, msgspec.json.encode(gap.cause))


def _records(batch: Batch, end: bytes) -> bytes:
    """All records of a batch at once: each question is asked of the whole batch, of single records only in doubt."""
    values = batch.values
    if batch.flags or not _are_sound(values):
        values = list(map(_value, values))
        for i, flags in enumerate(batch.flags or b""):
            if flags & RETAINED:
                values[i] += b',"r":true'
    n = len(values)
    columns: list[object] = [None] * (4 * n)
    columns[::4] = range(batch.first, batch.next)
    columns[1::4] = batch.times
    columns[2::4] = map(_key, batch.keys)
    columns[3::4] = values
    return (_RECORD + end) * n % tuple(columns)


def _are_sound(values: Sequence[bytes]) -> bool:
    """May all these payloads stand on their lines as they are?"""
    try:
        # Each must be one JSON value by itself, or one payload could smuggle two.
        deque(map(_shape, values), maxlen=0)
        joined = b" ".join(values)
        if not joined.isascii():
            joined.decode()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    if b"\n" in joined or b"\r" in joined:
        return False
    # Looking for one byte costs 2 ns a record, for several 80: so the rare byte first.
    if (b"$" in joined or b"\\" in joined) and _names_bytes(joined):
        return False
    return max(map(len, values)) <= 2 * DEPTH or not any(map(_may_be_deep, values))


def _value(value: bytes) -> bytes:
    """One payload as JSON on one line."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return _as_bytes(value)
    if not _is_json(value):
        return msgspec.json.encode(text)
    if _names_bytes(value) and _reads_as_bytes(value):
        return _as_bytes(value)
    # Raw control characters are not allowed inside JSON strings, so these stand between tokens.
    return value.replace(b"\n", b" ").replace(b"\r", b" ")


def _as_bytes(value: bytes) -> bytes:
    return b'{"$b":"%b"}' % base64.b64encode(value)


def _is_json(value: bytes) -> bool:
    """One JSON value, at most DEPTH levels deep. `value` must be UTF-8."""
    # The parser's own depth limit depends on how deep we are called; ours must not, for the same bytes every time.
    if _may_be_deep(value) and _depth(value) > DEPTH:
        return False
    try:
        _shape(value)
    except msgspec.DecodeError:
        return False
    return True


def _may_be_deep(value: bytes) -> bool:
    return len(value) > 2 * DEPTH and value.count(b"[") + value.count(b"{") > DEPTH


# A string that is not closed takes the rest, so that no input is looked at twice.
_tokens = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def _depth(value: bytes) -> int:
    """The deepest nesting of what may be JSON."""
    depth = deepest = 0
    for token in _tokens.finditer(value):
        mark = token[0][:1]
        if mark != b'"':
            depth += 1 if mark in b"[{" else -1
            deepest = max(deepest, depth)
    return deepest


def _reads_as_bytes(value: bytes) -> bool:
    """Would a receiver take this JSON for {"$b": …}?"""
    try:
        members = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return False
    return members.keys() == {"$b"}


# -- the way back ------------------------------------------------------------------------------------------------------

_ABSENT = msgspec.Raw()


class _Item(msgspec.Struct, omit_defaults=True):
    """A record or a gap as it travels; `v` is what the format at hand makes of a payload."""

    o: int | None = None
    t: int | None = None
    k: str | None = None
    v: msgspec.Raw = _ABSENT
    r: bool = False
    gap: tuple[int, int] | None = None
    cause: str | None = None


_json_item = msgspec.json.Decoder(_Item)
_json_items = msgspec.json.Decoder(list[_Item])
_msgpack_items = msgspec.msgpack.Decoder(list[_Item])


def _from_wire(item: _Item, payload: Callable[[msgspec.Raw], bytes], stream: str) -> Record | Gap:
    if item.gap is not None:
        return Gap(stream, *item.gap, item.cause or "")
    if item.o is None or item.t is None or item.k is None or not bytes(item.v):
        raise ValueError("an item is neither a record nor a gap")
    return Record(item.o, item.t, item.k, payload(item.v), RETAINED if item.r else 0)


def _from_json(raw: msgspec.Raw) -> bytes:
    value = bytes(raw)
    if value.startswith(b'"'):
        return _from_text(msgspec.json.decode(value, type=str).encode(), value)
    if _names_bytes(value) and _reads_as_bytes(value):
        return base64.b64decode(msgspec.json.decode(value, type=dict[str, str])["$b"], validate=True)
    return value


def _from_msgpack(raw: msgspec.Raw) -> bytes:
    value = msgspec.msgpack.decode(raw)
    if isinstance(value, bytes):
        return value
    as_json = msgspec.json.encode(value)
    return _from_text(value.encode(), as_json) if isinstance(value, str) else as_json


def _from_text(text: bytes, quoted: bytes) -> bytes:
    """A text that would be JSON cannot have been the payload: that was the JSON string."""
    return quoted if _is_json(text) else text


# -- msgpack -----------------------------------------------------------------------------------------------------------


def _encode_msgpack(parts: Sequence[Batch | Gap]) -> bytes:
    items: list[_Item] = []
    for part in parts:
        if isinstance(part, Gap):
            items.append(_Item(gap=(part.first, part.last), cause=part.cause))
            continue
        items += [
            _Item(offset, time, key, _native(value), bool(flags & RETAINED))
            for offset, time, key, value, flags in part.records()
        ]
    return msgspec.msgpack.encode(items)


def _native(value: bytes) -> msgspec.Raw:
    """A payload as msgpack says it; JSON that it cannot say (1e400, integers beyond 64 bits) stays bytes."""
    native: object = value
    try:
        text = value.decode()
        native = msgspec.json.decode(value) if _is_json(value) else text
        return msgspec.Raw(msgspec.msgpack.encode(native))
    except (UnicodeDecodeError, msgspec.DecodeError, OverflowError):
        return msgspec.Raw(msgspec.msgpack.encode(value))


# -- block -------------------------------------------------------------------------------------------------------------

_MAGIC = b"TGD1"


def _encode_block(parts: Sequence[Batch | Gap], gateway: str, epoch: str) -> bytes:
    """`TGD1`, then one msgpack array: [gateway, epoch, stream, [[first, last, cause, block], …]].

    An item with a cause is a gap and has no block; one without is records, as the log's block codec writes them.
    Records between two gaps are one block.
    """
    from gateway.log.block import encode_block

    items: list[tuple[int, int, str, bytes]] = []
    for _, run in groupby(parts, type):
        found = list(run)
        items += [(gap.first, gap.last, gap.cause, b"") for gap in found if isinstance(gap, Gap)]
        batches = [batch for batch in found if isinstance(batch, Batch)]
        if batches:
            batch = concat(batches)
            items.append((batch.first, batch.next - 1, "", encode_block(batch)))
    stream = parts[0].stream if parts else ""
    return _MAGIC + msgspec.msgpack.encode((gateway, epoch, stream, items))


_block_body = msgspec.msgpack.Decoder(tuple[str, str, str, list[tuple[int, int, str, bytes]]])


def _decode_block(body: bytes) -> Iterator[Record | Gap]:
    from gateway.log.block import decode_block

    if body[:4] != _MAGIC:
        raise Malformed("block body: it does not start with TGD1")
    _, _, stream, items = _block_body.decode(memoryview(body)[4:])
    for first, last, cause, block in items:
        if cause:
            yield Gap(stream, first, last, cause)
        else:
            yield from decode_block(block, stream).records()
