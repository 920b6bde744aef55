r"""How numbers are written: decimal and thousands marks, spellings of a missing value, and codes that only look so.

A column of text cells is a column of numbers if every cell, but for the spellings of a missing value, is written in one
of `FORMS`. Digits that begin with a zero, such as 01025, are no number: they are kept as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data.tables.wording import listed, quoted

__all__ = [
    "FORMS",
    "MISSING",
    "Form",
    "Numbers",
    "are_codes",
    "explain",
    "is_missing",
    "numbers",
    "ranked",
    "times",
    "whole",
]

MISSING = frozenset(
    [
        *("", "?", "-", "--", "---", "\u2013", "\u2014", ".", "..", "...", "*", "\\n"),
        *("na", "n/a", "n.a.", "<na>", "nan", "nat", "none", "null", "(null)", "nil", "missing", "unknown", "unk"),
        *("#n/a", "#num!", "#value!", "#div/0!", "#ref!", "#name?", "#null!"),
    ]
)
"""What stands for a missing value where all else is numbers, in small letters."""

_MOST_WORDS, _LONGEST_WORD = 3, 16  # others that may mean the same: so few, so short,
_FEWEST_NUMBERS, _LEAST_SHARE = 20, 0.5  # where so many different numbers are so large a share of the cells
_MOST_SPELLINGS = 200  # beside numbers; above, a column is text
_NEARLY = 0.9  # share of numbers above which it is said why a column is text
_EXPONENT = r"(?:[eE][+-]?\d+)?"
_MAYBE_NUMBER = rf"^[+-]?(?:\d[\d.,'’ \x{{a0}}\x{{2009}}\x{{202f}}]*|[.,]\d+|(?i:inf|infinity)){_EXPONENT}$"
_TIME = r"^\d{4}-\d\d-\d\d"


class Writing(NamedTuple):
    """Marks of a form: the characters between thousands, and the one before decimals."""

    thousands: str
    decimal: str

    @property
    def pattern(self) -> str:
        """A regular expression for the whole of a cell."""
        grouped = rf"[1-9]\d{{0,2}}(?:[{self.thousands}]\d{{3}})+"
        point = re.escape(self.decimal)
        digits = rf"(?:{grouped}|\d+)(?:{point}\d*)?|{point}\d+"
        return rf"^[+-]?(?:{digits}|(?i:inf|infinity)){_EXPONENT}$"


_BLANKS, _TICKS = " \u00a0\u2009\u202f", "'’"

Form = Literal["1,234.5", "1.234,5", "1 234,5", "1 234.5", "1'234.5", "1'234,5"]
FORMS: dict[Form, Writing] = {
    "1,234.5": Writing(",", "."),
    "1.234,5": Writing(".", ","),
    "1 234,5": Writing(_BLANKS, ","),
    "1 234.5": Writing(_BLANKS, "."),
    "1'234.5": Writing(_TICKS, "."),
    "1'234,5": Writing(_TICKS, ","),
}
"""A number as it is written -> its marks; thousands marks may be absent in all of them."""


class Numbers(NamedTuple):
    """A column of text as numbers.

    Attributes:
        values: int64 or float64; text where some cells are no numbers.
        form: one of `FORMS`.
        marked: whether a cell has a mark that a plain number has not.
        words: how a missing value was spelled, and how often.
        others: what is no number, and how often; empty if `values` are numbers.
    """

    values: pa.ChunkedArray
    form: Form
    marked: bool
    words: dict[str, int]
    others: dict[str, int]


def is_missing(word: str) -> bool:
    """Return whether a cell is a usual spelling of a missing value.

    Example:
        >>> is_missing(" ? "), is_missing("N/A"), is_missing("no")
        (True, True, False)
    """
    return word.strip().lower() in MISSING


def ranked(cells: pa.Array, names: Sequence[Form], *, ungrouped: bool = False) -> list[Form]:
    """Order forms by how many cells are written so.

    Args:
        cells: text.
        names: the forms to order; of two with equally many cells the first stays first.
        ungrouped: whether of two with equally many the one with fewer thousands marks comes first.

    Returns:
        The same names.

    Example:
        >>> ranked(pa.array(["0,5", "1.000,25"]), ["1,234.5", "1.234,5"])
        ['1.234,5', '1,234.5']
    """
    trimmed = pc.utf8_trim_whitespace(cells)

    def key(name: Form) -> tuple[int, int]:
        """Return the sort key of a form, smaller for one that suits better."""
        suiting = trimmed.filter(pc.match_substring_regex(trimmed, FORMS[name].pattern))
        grouped = pc.sum(pc.match_substring_regex(suiting, f"[{FORMS[name].thousands}]")).as_py() or 0
        return -len(suiting), grouped if ungrouped else 0

    return sorted(names, key=key)


def are_codes(texts: pa.ChunkedArray) -> bool:
    """Return whether cells are digits only, of which some begin with a zero, but for missing values.

    Example:
        >>> are_codes(pa.chunked_array([["01025", "90210"]])), are_codes(pa.chunked_array([["0", "0.5"]]))
        (True, False)
    """
    if not pc.any(pc.match_substring_regex(texts, r"^\s*0\d")).as_py():
        return False
    cells = pc.utf8_trim_whitespace(texts)
    rest = _spellings(cells.filter(pc.invert(pc.match_substring_regex(cells, r"^\d+$"))), _MOST_SPELLINGS)
    return rest is not None and all(map(is_missing, rest))


def whole(texts: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return the whole numbers that all cells are; None if they are not.

    Example:
        >>> whole(pa.chunked_array([["1", None]])).to_pylist(), whole(pa.chunked_array([["1.5"]]))
        ([1, None], None)
    """
    try:
        return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return None


def numbers(
    texts: pa.ChunkedArray, forms: Sequence[Form], words: Sequence[str] = (), *, certain: bool = False
) -> Numbers | None:
    """Convert a column of text that holds numbers, as far as it does.

    Args:
        texts: the cells; nulls are missing values.
        forms: those to try, in this order.
        words: further spellings of a missing value.
        certain: whether the column is known to hold numbers; then a cell that is none stays text.

    Returns:
        The numbers; or why the column is text though nearly all cells are numbers; None if it is text.

    Example:
        >>> numbers(pa.chunked_array([["1.5", "?", "2"]]), list(FORMS)).values.to_pylist()
        [1.5, None, 2.0]
        >>> numbers(pa.chunked_array([["1.5", "red", "blue"]]), list(FORMS))
    """
    cells = pc.utf8_trim_whitespace(texts)
    like = pc.match_substring_regex(cells, _MAYBE_NUMBER)
    if not certain and not pc.any(like).as_py():
        return None
    rest = _spellings(cells.filter(pc.invert(like)), None if certain else _MOST_SPELLINGS)
    if rest is None:
        return None
    missing = {word for word in rest if is_missing(word) or word in words}
    others = {word: count for word, count in rest.items() if word not in missing}
    likely = cells.filter(like)
    if others and not certain:
        if not _mean_missing(others, likely):
            nearly = len(likely) >= _NEARLY * (len(likely) + sum(others.values()))
            return Numbers(texts, forms[0], marked=False, words={}, others=others) if nearly else None
        missing, others = set(rest), {}
    form = next((name for name in forms if _all_are(likely, FORMS[name])), forms[0] if certain else None)
    if form is None:
        return None
    values = _spelled(_without(cells, missing), FORMS[form])
    marks = f"[{FORMS[form].thousands}{FORMS[form].decimal.strip('.')}]"
    marked = pc.any(pc.match_substring_regex(likely, marks)).as_py()
    return Numbers(_cast(values), form, bool(marked), {word: rest[word] for word in sorted(missing)}, others)


def times(
    texts: pa.ChunkedArray, words: Sequence[str] = (), *, certain: bool = False
) -> tuple[pa.ChunkedArray, dict[str, int]] | None:
    """Convert a column of text that is of times but for the usual spellings of a missing value.

    Args:
        texts: the cells.
        words: further spellings of a missing value.
        certain: whether the column is known to hold times; then it stays text where a cell is none.

    Returns:
        Times, and how a missing value was spelled and how often; None if it is text.

    Example:
        >>> times(pa.chunked_array([["2024-02-03", "-"]]))[1]
        {'-': 1}
    """
    cells = pc.utf8_trim_whitespace(texts)
    like = pc.match_substring_regex(cells, _TIME)
    rest = _spellings(cells.filter(pc.invert(like)), _MOST_SPELLINGS) if certain or pc.any(like).as_py() else None
    missing = {word: count for word, count in (rest or {}).items() if is_missing(word) or word in words}
    if not missing or (missing != rest and not certain):
        return None
    values = _without(cells, missing)
    for kind in (pa.date32(), pa.timestamp("s"), pa.timestamp("ns")):
        try:
            return values.cast(kind), missing
        except pa.ArrowInvalid:
            continue
    return (values, missing) if certain else None


def _without(cells: pa.ChunkedArray, words: Collection[str]) -> pa.ChunkedArray:
    """Return the cells with these words set to null."""
    return pc.if_else(pc.is_in(cells, pa.array(sorted(words), pa.string())), pa.scalar(None, pa.string()), cells)


def _spellings(cells: pa.ChunkedArray, most: int | None = None) -> dict[str, int] | None:
    """Count how often each distinct cell occurs; None where there are more than `most`."""
    counted = pc.value_counts(cells.drop_null())
    if most is not None and len(counted) > most:
        return None
    return dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True))


def _all_are(cells: pa.ChunkedArray, form: Writing) -> bool:
    return pc.all(pc.match_substring_regex(cells, form.pattern)).as_py() is not False


def _mean_missing(words: Mapping[str, int], cells: pa.ChunkedArray) -> bool:
    """Tell whether unusual words beside numbers are few, short and without digits, and the numbers are no levels."""
    if len(words) > _MOST_WORDS or any(len(word) > _LONGEST_WORD or re.search(r"\d", word) for word in words):
        return False
    share = len(cells) / (len(cells) + sum(words.values()))
    return share >= _LEAST_SHARE and pc.count_distinct(cells).as_py() >= _FEWEST_NUMBERS


def _spelled(cells: pa.ChunkedArray, form: Writing) -> pa.ChunkedArray:
    """Return the cells, numbers spelled as Arrow parses them, the others as they are."""
    digits = pc.replace_substring_regex(cells, f"^[+]|[{form.thousands}]", "")
    digits = pc.replace_substring(digits, form.decimal, ".")
    return pc.if_else(pc.match_substring_regex(cells, form.pattern), digits, cells)


def _cast(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast text to whole numbers, else to numbers, else leave it as text."""
    integers = whole(values)
    if integers is not None:
        return integers
    try:
        return values.cast(pa.float64())
    except pa.ArrowInvalid:
        return values


def explain(words: Mapping[str, int]) -> str:
    """Return spellings and their counts as they stand in a note.

    Example:
        >>> explain({"?": 17, "-": 1})
        "'?' (17), '-' (1)"
    """
    ordered = sorted(words.items(), key=lambda item: -item[1])
    return listed([f"{quoted(word)} ({count})" for word, count in ordered], 3)
