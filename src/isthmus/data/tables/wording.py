"""What the errors and notes about tables are worded with: one line, a few names, the row at fault."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Bool

from isthmus.errors import InputError

Report = Callable[[Bool[np.ndarray, " n"], pd.Series, str, str], None]
"""What is done about bad rows of a column, see `reject`, which refuses the table, and `Faults.note`, which goes on."""


def one_line(text: object, limit: int = 200) -> str:
    r"""Return what a library or a file said as one printable line.

    Example:
        >>> one_line("first\n  second\x07")
        'first second?'
    """
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    return line if len(line) <= limit else line[:limit] + ".."


def listed(items: Sequence[str], limit: int = 5) -> str:
    """Return the first few items and the count of the others.

    Example:
        >>> listed(["a", "b", "c", "d"], limit=2)
        'a, b and 2 more'
    """
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def quoted(*names: object) -> str:
    """Return the first few names, as Python writes them.

    Example:
        >>> quoted("age", 7)
        "'age', 7"
    """
    return listed([one_line(repr(name), 60) for name in names])


def check_known(name: str, known: Sequence[str], what: str) -> None:
    """Raise for a name that is not among those known, and propose the nearest.

    Example:
        >>> check_known("digitt", ["digit", "x"], "a column")
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected a column; got 'digitt'; did you mean 'digit'? There are 'digit', 'x'
    """
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"did you mean {quoted(*nearest)}? There are {quoted(*known)}"
        raise InputError(f"expected {what}; got {quoted(name)}; {hint}")


def reject(bad: Bool[np.ndarray, " n"], series: pd.Series, expected: str, advice: str) -> None:
    """Raise for the first row that is `bad`; a series of one value needs no row number.

    Example:
        >>> ages = pd.Series([30.0, -1.0], name="age")
        >>> reject((ages < 0).to_numpy(), ages, "positive numbers", "correct that row")
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected positive numbers in column 'age'; got -1.0 in row 1 (counted from 0); ...
    """
    if bad.any():
        row = int(bad.argmax())
        where = f" in row {row} (counted from 0)" if len(series) > 1 else ""
        raise InputError(f"{_fault(series, row, expected)}{where}; {advice}")


@dataclass
class Faults:
    """Rows that do not suit their column, and why: what `reject` refuses a table for, kept row by row.

    Attributes:
        reasons: number of the row -> the first reason that was noted of it.

    Example:
        >>> ages, faults = pd.Series([30.0, -1.0], name="age"), Faults()
        >>> faults.note((ages < 0).to_numpy(), ages, "positive numbers", "correct that row")
        >>> faults.reasons
        {1: "expected positive numbers in column 'age'; got -1.0"}
    """

    reasons: dict[int, str] = field(default_factory=dict)

    def note(self, bad: Bool[np.ndarray, " n"], series: pd.Series, expected: str, advice: str) -> None:
        """Keep the reason of each row that is `bad`, in place of `reject`; a note needs no advice."""
        for row in np.flatnonzero(bad).tolist():
            if row not in self.reasons:
                self.reasons[row] = _fault(series, row, expected)


def _fault(series: pd.Series, row: int, expected: str) -> str:
    value = series.iloc[row]
    value = value.item() if isinstance(value, np.generic) else value
    got = "a missing value" if np.ndim(value) == 0 and pd.isna(value) else quoted(value)
    return f"expected {expected} in column {quoted(series.name)}; got {got}"
