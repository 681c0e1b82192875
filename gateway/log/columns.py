"""Columns of whole numbers as bytes that compress well; little endian, self-describing, checked on the way back.

A packed column is one byte that names the width and then the bytes of all numbers, first all lowest bytes, then all
second ones, …: neighbours that differ little give long runs of equal bytes.
"""

import math
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import sub
from typing import TypeVar

import msgspec

T = TypeVar("T")

assert sys.byteorder == "little", "the log's columns are little endian"

WIDTHS = {"B": 1, "H": 2, "I": 4, "i": 4, "q": 8}


def pack(code: str, numbers: Sequence[int]) -> bytes:
    """Numbers as a column of `array` type `code`. Raises OverflowError where one does not fit."""
    data, width = array(code, numbers).tobytes(), WIDTHS[code]
    if width == 1:
        return code.encode() + data
    return code.encode() + b"".join([data[i::width] for i in range(width)])


def pack_small(numbers: Sequence[int], top: int) -> bytes:
    """Numbers from 0 to `top`, as narrow as that allows."""
    return pack("B" if top < 256 else "H" if top < 65536 else "I", numbers)


def unpack(data: bytes) -> list[int]:
    """The numbers of a packed column. Raises ValueError or KeyError for bytes that are none."""
    code = chr(data[0]) if data else "B"
    width = WIDTHS[code]
    count, rest = divmod(len(data) - 1 if data else 0, width)
    if rest:
        raise ValueError("a column ends inside a number")
    plain = bytearray(count * width)
    for i in range(width):
        plain[i::width] = data[1 + i * count : 1 + (i + 1) * count]
    numbers = array(code)
    numbers.frombytes(plain)
    return numbers.tolist()


class Times(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Times in ns: the first one, and the steps from one to the next in units of `scale`.

    Steps are 4 bytes wide where they fit; a clock that was set in between makes them 8; where even that is too narrow
    the column holds the times themselves and `scale` is 0.
    """

    first: int
    scale: int
    steps: bytes


def pack_times(times: Sequence[int]) -> Times:
    """`times` must fit into 64 bits each."""
    if len(times) < 2:
        return Times(times[0] if times else 0, 1, b"")
    steps = list(map(sub, times[1:], times))
    scale = math.gcd(*steps[:32])
    if scale > 1:  # times in whole ms or s: the common factor carries no information
        scale = math.gcd(*steps)
    if scale > 1:
        steps = [step // scale for step in steps]
    scale = scale or 1
    for code in ("i", "q"):
        try:
            return Times(times[0], scale, pack(code, steps))
        except OverflowError:
            continue
    return Times(0, 0, pack("q", times))


def unpack_times(times: Times, count: int) -> list[int]:
    """Back to a list of `count` times. Raises ValueError where that many are not there."""
    if count == 0:
        return []
    steps = unpack(times.steps)
    if times.scale > 1:
        steps = [step * times.scale for step in steps]
    out = list(accumulate(steps, initial=times.first)) if times.scale else steps
    if len(out) != count:
        raise ValueError("a column of times has the wrong length")
    return out


def pack_keys(keys: Sequence[str]) -> tuple[list[bytes], bytes]:
    """Keys as (every different one, the number of each record's own). No text makes this fail."""
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    names = [key.encode("utf-8", "surrogatepass") for key in number]
    return names, pack_small(list(map(number.__getitem__, keys)), len(names))


def unpack_keys(names: Sequence[bytes], index: Sequence[int]) -> list[str]:
    """Raises IndexError or UnicodeDecodeError for what pack_keys() never made."""
    texts = [name.decode("utf-8", "surrogatepass") for name in names]
    return list(map(texts.__getitem__, index))


def joined(columns: Sequence[Sequence[T]]) -> list[T]:
    """The pieces of one column as one list."""
    return list(columns[0]) if len(columns) == 1 else list(chain.from_iterable(columns))
