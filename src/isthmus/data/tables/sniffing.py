"""What the first rows of a text file say of it: the delimiter, and whether the first row is of names.

Both are decided by the types of cells. A delimiter suits if it makes rows of one width, and the better the more cells
become numbers. A row of names differs from the rows below: text above numbers, whole numbers above decimals, years
above what is no year. Text above text is of names unless it stands below too.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Collection, Sequence
from enum import Enum

from isthmus.data.tables.numerals import is_missing

__all__ = ["NUMBERS", "Kind", "delimiter_of", "has_header", "kind_of", "preamble", "rows_of"]

_DELIMITERS = ",;\t|"
_SAMPLE_ROWS, _SAMPLE_CELLS = 1_000, 200_000
_LEAST_RUN, _FEWEST_BELOW = 3, 10  # cells in the first row, and rows below, that make a difference no chance
_WHOLE = re.compile(r"[+-]?\d+")
_DECIMAL = re.compile(r"[+-]?(?:\d[\d.,'’ \u00a0\u2009\u202f]*|[.,]\d+|inf|infinity)(?:e[+-]?\d+)?", re.IGNORECASE)
_LONGEST = 19  # digits that are a number, and not a code
_TIME = re.compile(r"\d{4}-\d\d-\d\d.*|\d\d:\d\d(:\d\d.*)?")

Rows = list[list[str]]


class Kind(Enum):
    """What a cell, or the cells of a column, look like."""

    BLANK = "blank"
    WHOLE = "whole numbers"
    DECIMAL = "decimals"
    MIXED = "whole numbers and decimals"
    TIME = "times"
    TEXT = "text"


NUMBERS = frozenset([Kind.WHOLE, Kind.DECIMAL, Kind.MIXED])
"""Kinds of numbers."""


def kind_of(cell: str) -> Kind:
    """Return what a cell looks like; a usual spelling of a missing value is blank.

    Example:
        >>> kind_of("7"), kind_of("1.234,5"), kind_of("-"), kind_of("2024-02-03"), kind_of("a7")
        (<Kind.WHOLE: ...>, <Kind.DECIMAL: ...>, <Kind.BLANK: ...>, <Kind.TIME: ...>, <Kind.TEXT: ...>)
    """
    cell = cell.strip()
    if is_missing(cell):
        return Kind.BLANK
    for pattern, kind in ((_WHOLE, Kind.WHOLE), (_TIME, Kind.TIME), (_DECIMAL, Kind.DECIMAL)):
        if pattern.fullmatch(cell):
            return kind
    return Kind.TEXT


def rows_of(text: str, delimiter: str, *, cut: bool = False) -> Rows:
    r"""Split the first rows of a text into cells, without empty lines.

    Args:
        text: the head of the file.
        delimiter: between cells.
        cut: whether the text ends before the file does, perhaps within a row, which is then left out.

    Returns:
        At most 1,000 rows, fewer of many cells, but two.

    Example:
        >>> rows_of('a,"b, c"\n1,2\n', ",")
        [['a', 'b, c'], ['1', '2']]
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: Rows = []
    most = _SAMPLE_ROWS
    try:
        for row in filter(None, reader):
            rows.append(row)
            most = min(most, max(2, _SAMPLE_CELLS // len(row)))
            if len(rows) >= most:
                return rows
    except csv.Error:  # a cell longer than the module allows; Arrow reads it
        return rows
    return rows[:-1] if cut and len(rows) > 1 else rows


def delimiter_of(text: str, *, cut: bool = False) -> str:
    r"""Return the delimiter that suits the first rows of a text best.

    Args:
        text: the head of the file.
        cut: whether the text ends before the file does.

    Example:
        >>> delimiter_of("a;b\n1,5;2,5\n"), delimiter_of("1,5;2,5\n"), delimiter_of("a,b\nx;y,1\n")
        (';', ';', ',')
    """
    shares = {}
    for mark in _DELIMITERS:
        rows = rows_of(text, mark, cut=cut)[:100]
        if rows and len(rows[0]) > 1 and len(set(map(len, rows))) == 1:
            kinds = [kind_of(cell) for row in rows for cell in row[:1000]]
            shares[mark] = sum(kind in NUMBERS for kind in kinds) / len(kinds)
    if shares:
        return max(shares, key=lambda mark: shares[mark])
    first = text.lstrip("\r\n").splitlines()[:1]
    return next((mark for mark in _DELIMITERS[:3] if first and mark in first[0]), ",")


def preamble(text: str) -> int:
    r"""Return the number of lines before the first row: empty ones, and comments that begin with # and are no names.

    Args:
        text: the head of the file.

    Example:
        >>> preamble("# from a station\n\na,b\n1,2\n"), preamble("# a,b\n1,2\n")
        (2, 0)
    """
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line and not line.startswith("#")), 0)
    comments = [i for i in range(first) if lines[i]]
    if not comments:
        return first
    last = "\n".join(lines[i] for i in (comments[-1], *range(first, min(first + 3, len(lines)))))
    rows = rows_of(last, delimiter_of(last))
    return comments[-1] if len({len(row) for row in rows}) == 1 else first


def has_header(rows: Rows, known: Collection[str] = (), *, headless: bool = False) -> bool:
    """Return whether the first of some rows is of names.

    Args:
        rows: the first rows of the file.
        known: names of the columns that the table is to have, if it is to suit others.
        headless: whether those others had no names.

    Example:
        >>> has_header([["", "0", "1"], ["0", "1.5", "2.5"]]), has_header([["1", "2.5"], ["3", "4.5"]])
        (True, False)
        >>> has_header([["5.1", "setosa"], ["4.9", "setosa"]])
        False
    """
    if not rows:
        return True
    first, below = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    if known and not set(first).isdisjoint(set(known) - {""}):
        return True
    if not below:
        return not headless and any(kind_of(cell) is Kind.TEXT for cell in first)
    top = _Top(first, below)
    return bool(top.where(Kind.TEXT, NUMBERS)) if headless else _is_of_names(top)


class _Top:
    """A first row, the rows below, and the kinds of their columns."""

    def __init__(self, first: Sequence[str], below: Rows) -> None:
        self.first, self.below = first, below
        self.columns = list(zip(*below, strict=True))
        self.above, self.under = [kind_of(cell) for cell in first], [_kind(column) for column in self.columns]
        self.differ = len(set(first)) == len(first)
        self.blank_corner = not first[0].strip() and all(cell.strip() for cell in first[1:]) and len(first) > 1
        self.series = first[1:] if self.blank_corner else first  # what may be evenly spaced

    def where(self, above: Kind, under: Collection[Kind]) -> list[int]:
        """Return the places of the columns with these kinds of cells above and below."""
        return [j for j, (a, u) in enumerate(zip(self.above, self.under, strict=True)) if a is above and u in under]

    def counts(self) -> bool:
        """Tell whether the first row is 0, 1, 2, ..., as pandas names the columns of a matrix."""
        return [cell.strip() for cell in self.series] == [str(j) for j in range(len(self.series))]

    def beyond(self, j: int) -> bool:
        """Tell whether a number of the first row lies outside those below it."""
        below = [value for value in map(_value, self.columns[j]) if value is not None]
        return not below or not min(below) <= float(self.first[j]) <= max(below)


def _is_of_names(top: _Top) -> bool:
    if top.where(Kind.TEXT, {*NUMBERS, Kind.TIME}) or top.where(Kind.TIME, NUMBERS):
        return True
    if not any(cell.strip() for cell in top.first):
        return all(any(cell.strip() for cell in row) for row in top.below)
    if not top.differ:
        return False
    if top.blank_corner and _is_index(top.columns[0], matrix=top.counts()):
        return True
    texts = top.where(Kind.TEXT, set(Kind))
    if texts:
        return not all(top.first[j] in top.columns[j] for j in texts)
    if Kind.TIME in top.above or Kind.DECIMAL in top.above or Kind.BLANK in top.above[1:]:
        return False
    return _above_decimals(top) or _above_whole_numbers(top)


def _is_index(cells: Sequence[str], *, matrix: bool) -> bool:
    """Tell whether the cells below a blank corner are names of rows: text, or 0, 1, 2, ..., or 1, 2, 3, ..."""
    if not all(cell.strip() for cell in cells):
        return False
    return _kind(cells) is Kind.TEXT or matrix or (cells[0] in ("0", "1") and (len(cells) == 1 or _step(cells) == 1))


def _above_decimals(top: _Top) -> bool:
    """Tell whether whole numbers above decimals are names: 0, 1, 2, ..., so many that it is no chance, or no values."""
    places = top.where(Kind.WHOLE, {Kind.DECIMAL})
    if not places:
        return False
    certain = len(places) > 1 or len(top.below) >= _FEWEST_BELOW
    return top.counts() or len(places) >= _LEAST_RUN or (certain and all(map(top.beyond, places)))


def _above_whole_numbers(top: _Top) -> bool:
    """Tell whether whole numbers above whole numbers are names: evenly spaced, and no values of the columns below."""
    if len(top.series) < _LEAST_RUN or _step(top.series) <= 0:
        return False
    start = len(top.first) - len(top.series)
    evenly = all(_step(row[start:]) == _step(top.series) for row in top.below)
    return top.counts() or (not evenly and all(top.beyond(j) for j in range(start, len(top.first))))


def _kind(cells: Sequence[str]) -> Kind:
    kinds = {kind_of(cell) for cell in cells} - {Kind.BLANK}
    if len(kinds) > 1:
        return Kind.MIXED if kinds <= NUMBERS else Kind.TEXT
    return kinds.pop() if kinds else Kind.BLANK


def _value(cell: str) -> float | None:
    """Parse the number in a cell with at most a decimal mark; None where it is none."""
    try:
        return float(cell.strip().replace(",", "."))
    except ValueError:
        return None


def _step(cells: Sequence[str]) -> int:
    """Return by how much each number is larger than the one before it; 0 where that differs or they are not whole."""
    if len(cells) < 2 or not all(_WHOLE.fullmatch(cell.strip()) and len(cell) < _LONGEST for cell in cells):
        return 0
    values = [int(cell) for cell in cells]
    steps = {b - a for a, b in itertools.pairwise(values)}
    return steps.pop() if len(steps) == 1 else 0
