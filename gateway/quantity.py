"""Quantities with units, as people write them: durations (`250ms`, `10s`, `7d`), sizes (`512MiB`, `2GiB`) and rates
(`300MB/day`).

And three kinds of text that are more than text: bytes with escapes, paths, and the files of secrets.
"""

import re
from typing import Any

DURATION_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
RATE_UNITS = {"day": 1, "h": 24}
SIZE_UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


class Duration(float):
    """Seconds."""

    __slots__ = ()

    @property
    def ns(self) -> int:
        return round(self * 1e9)

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Read `250ms`, `10s`, `5m`, `2h`, `7d`. Raises ValueError with what to write instead."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", text)
        if not match:
            raise ValueError(f"{text!r} is no duration; write a number and a unit: 250ms, 10s, 5m, 2h, 7d")
        return cls(float(match[1]) * DURATION_UNITS[match[2]])


class Size(int):
    """Bytes."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Read `100KiB`, `512MiB`, `2GiB`, `500MB`. Raises ValueError with what to write instead."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)", text)
        if not match:
            raise ValueError(f"{text!r} is no size; write a number and a unit: 100KiB, 512MiB, 2GiB")
        return cls(float(match[1]) * SIZE_UNITS[match[2]])


def in_units(count: float) -> str:
    """Bytes for people: `512 B`, `1.5 MiB`."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB"):
        if count < 1024:
            break
        count, unit = count / 1024, larger
    return f"{count:.4g} {unit}" if count >= 1000 else f"{count:.3g} {unit}"


class Rate(int):
    """Bytes per day."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """Read `300MB/day`, `20MB/h`, `1.5GiB/day`. Raises ValueError with what to write instead."""
        size, slash, per = (part.strip() for part in text.partition("/"))
        if not slash or per not in RATE_UNITS:
            raise ValueError(f"{text!r} is no rate; write a size per day or hour: 300MB/day, 20MB/h")
        return cls(Size.parse(size) * RATE_UNITS[per])


EXAMPLES: dict[Any, str] = {Duration: "10s", Size: "512MiB", Rate: "300MB/day"}  # of what has a unit


def option_hook(kind: Any, value: object) -> object:
    """msgspec `dec_hook`: turn the text of a duration, size or secret into its type."""
    if kind in EXAMPLES:
        if isinstance(value, str):
            return kind.parse(value)
        raise ValueError(f"{value!r} has no unit; write it like {EXAMPLES[kind]}")
    if kind is Octets and isinstance(value, str):
        return Octets.parse(value)
    if kind in (Secret, LocalPath) and isinstance(value, str):
        return kind(value)
    raise NotImplementedError(kind)


class Octets(str):
    r"""Bytes, as people write them: text, with `\r`, `\n`, `\t`, `\0`, `\\` and `\xHH` for what is no letter."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Octets":
        """Check a text. Raises ValueError with what to write instead."""
        octets = cls(text)
        octets.raw  # noqa: B018 - it is asked for to see whether it raises
        return octets

    @property
    def raw(self) -> bytes:
        r"""The bytes. A character up to U+00FF is one byte, so a YAML escape as `"\x02"` means the same as ours."""
        try:
            return re.sub(rb"\\(x[0-9A-Fa-f]{2}|.|$)", _escaped, self.encode("latin-1"), flags=re.DOTALL)
        except UnicodeEncodeError as error:
            raise ValueError(f"{self[error.start]!r} is no byte; write its bytes as \\xHH") from None


def _escaped(found: "re.Match[bytes]") -> bytes:
    letter = found[1]
    if len(letter) == 3:
        return bytes.fromhex(letter[1:].decode())
    if letter not in _ESCAPES:
        said = found[0].decode("latin-1")
        raise ValueError(f"{said} is no escape; write \\r, \\n, \\t, \\0, \\xHH, or \\\\ for a backslash")
    return _ESCAPES[letter]


class LocalPath(str):
    """A path on this machine. In a configuration a relative one is looked up beside the file it is written in."""

    __slots__ = ()


class Secret:
    """The path of a file that holds a secret. The text is read when it is needed, and never shown."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> bytes:
        """The secret, without the newline editors leave behind. Raises OSError."""
        with open(self.path, "rb") as file:
            return file.read(65536).rstrip(b"\r\n")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"Secret({self.path!r})"
