"""Lines that look like a table: what `decode: csv` would have to be told to read them."""

import json
import re
from collections import Counter

from gateway.decode._text import number, number_with_comma

DELIMITERS = (";", "\t", ",", " ")  # the most telling first
MOST = 64  # columns
LEAST_LINES = 2
_PLAIN = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_NO_NAMES = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}  # as YAML may read them


class Columns:
    """What is known of the lines so far. A line with more numbers than anything else is a row, one without a header."""

    def __init__(self) -> None:
        self._lines = 0
        self._widths = {delimiter: Counter[int]() for delimiter in DELIMITERS}  # of rows; of each MOST at the most
        self._commas = Counter[str]()  # rows that are one with decimal commas alone
        self._heads: dict[str, list[str]] = {}  # the last line without a number

    def add(self, payload: bytes) -> None:
        try:
            line = payload.decode().strip("\r\n")
        except UnicodeDecodeError:
            return
        self._lines += 1
        for delimiter in DELIMITERS:
            cells = line.split() if delimiter == " " else [cell.strip() for cell in line.split(delimiter)]
            if not 2 <= len(cells) <= MOST:
                continue
            points = sum(number(cell) is not None for cell in cells)
            commas = sum(number_with_comma(cell) is not None for cell in cells) if delimiter != "," else 0
            if 2 * max(points, commas) > len(cells):
                self._widths[delimiter][len(cells)] += 1
                self._commas[delimiter] += commas > points
            elif not points and not commas:
                self._heads[delimiter] = cells

    def decode(self) -> str | None:
        """`{csv: …}`, as a configuration says it; None where the lines are no table."""
        for delimiter, widths in self._widths.items():
            (width, rows), *others = widths.most_common() or [(0, 0)]
            if others or rows < LEAST_LINES or 2 * rows < self._lines:
                continue
            names = self._heads.get(delimiter, [])
            if len(names) != width or len(set(names)) < width or "" in names:
                names = [f"c{n}" for n in range(1, width + 1)]
            told = f"columns: [{', '.join(map(_written, names))}]"
            if delimiter != ",":
                told += f", delimiter: {json.dumps(delimiter)}"
            if self._commas[delimiter]:
                told += ", decimal: comma"
            return f"{{csv: {{{told}}}}}"
        return None


def _written(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and name.lower() not in _NO_NAMES else json.dumps(name, ensure_ascii=False)
