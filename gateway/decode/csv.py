r"""One line of separated values: `1763899200;21,5;"boiler room"\r\n`. The columns are named in `columns:`.

An empty value is missing. Every line has as many values as there are columns: a line that was cut off on its way must
not shift values into other fields. A line that repeats the names of the columns is a header, and no record.
"""

import csv
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.decode._text import converters, number, number_with_comma
from gateway.errors import Malformed, NoRecord
from gateway.plugin import Mistake, Plugin

EXAMPLE = "decode: {csv: {columns: [ts, v]}}"


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of separated values, as `1763899200;21.5;"boiler room"`; an empty one is missing.

    columns: the names of the columns, from the left; an empty name, `""`, is a column that nobody wants.
    delimiter: what stands between two values: one character; a blank stands for any number of blanks and tabs.
    quote: around values that hold the delimiter; `null` if a quote is a character like any other.
    decimal: how numbers are written: `21.5` with a point, `21,5` with a comma.
    skip: lines that begin with one of these are no records, such as comments. They are counted as `no_record`.
    """

    columns: Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(min_length=1, max_length=256)]
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Meta(min_length=1, max_length=1)] | None = '"'
    decimal: Literal["point", "comma"] = "point"
    skip: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=16)] = []

    def __post_init__(self) -> None:
        for i, name in enumerate(self.columns):
            if name and name in self.columns[:i]:
                raise Mistake(("columns", i), f"{name!r} names two columns; every name must be another, or empty")
        if not any(self.columns):
            raise Mistake(("columns",), "every column is without a name; name those you want")
        for option, sign in (("delimiter", self.delimiter), ("quote", self.quote)):
            if sign in ("\r", "\n"):
                raise Mistake((option,), "a line end cannot stand inside a line; write another character")
        if self.delimiter == self.quote:
            raise Mistake(("delimiter",), "the delimiter and the quote are the same; write another")
        if self.delimiter == "," and self.decimal == "comma":
            raise Mistake(("decimal",), 'numbers with a comma need another delimiter; write delimiter: ";"')


class Csv:
    def __init__(self, options: Options) -> None:
        self.options = options

    def fields(self) -> list[str]:
        return [name for name in self.options.columns if name]

    def reader(self, shape: type[msgspec.Struct]) -> Callable[[bytes], Any]:
        columns, width = self.options.columns, len(self.options.columns)
        made = converters(shape, number_with_comma if self.options.decimal == "comma" else number)
        places = [(name, columns.index(name), make) for name, make in made.items() if name in columns]
        convert = msgspec.convert
        cells_of = _splitter(self.options.delimiter, self.options.quote)
        skip = tuple(self.options.skip)

        def read(payload: bytes) -> Any:
            line = payload.decode().strip("\r\n")
            if not line or line.startswith(skip):
                raise NoRecord("a comment or an empty line")
            cells = cells_of(line)
            if len(cells) != width:
                raise Malformed(f"{len(cells)} values, not {width}")
            if cells[0].strip() == columns[0] and [cell.strip() for cell in cells] == columns:
                raise NoRecord("a header")
            return convert({name: make(cell) for name, i, make in places if (cell := cells[i].strip())}, shape)

        return read


def _splitter(delimiter: str, quote: str | None) -> Callable[[str], list[str]]:
    """A function from a line to its values."""
    blank = delimiter == " "
    forms: dict[str, Any] = {"delimiter": delimiter, "quotechar": quote, "skipinitialspace": blank, "strict": True}

    def split(line: str) -> list[str]:
        if blank:
            line = line.expandtabs(1).strip(" ")
        if quote is None or quote not in line:
            if "\n" in line or "\r" in line:
                raise Malformed("more than one line")
            return line.split() if blank else line.split(delimiter)
        try:
            rows = list(csv.reader(line.splitlines(keepends=True), **forms))
        except csv.Error as error:
            raise Malformed(str(error)) from None
        if len(rows) != 1:
            raise Malformed("more than one line")
        return rows[0]

    return split


plugin = Plugin(Options, Csv)
