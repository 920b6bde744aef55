"""Columns that pandas writes of an index: they number or name the rows, and measure nothing."""

import re
from collections.abc import Collection

import numpy as np
import pandas as pd
from pandas.api import types

from isthmus.data.tables.delimited import Reading
from isthmus.data.tables.wording import quoted

__all__ = ["without_index"]

_LEVEL = re.compile(r"__index_level_\d+__")  # of an index without a name, in Parquet and Arrow files
_UNNAMED = ("", "Unnamed: 0")  # in a text file, and after it was read and written once more


def without_index(frame: pd.DataFrame, known: Collection[str] = ()) -> pd.DataFrame:
    """Return a table without the columns of an index that has no name.

    Such are all that are called `__index_level_0__` and so on, and the first column, if it has no name, or is called
    `Unnamed: 0`, and holds whole numbers, each another.

    Args:
        frame: as it was read from a file of any format.
        known: names of columns that the table is to have, which are no index.

    Returns:
        The other columns; what was left out is a note in `attrs["reading"]`.

    Example:
        >>> table = without_index(pd.DataFrame({"": [0, 1], "x": [0.5, 1.5]}))
        >>> list(table), table.attrs["reading"]["notes"]
        (['x'], ('The first column is left out: it has no name, and numbers the rows.',))
    """
    names = [str(name) for name in frame.columns]
    levels = [name for name in names if _LEVEL.fullmatch(name) and name not in known]
    kept = np.array([name not in levels for name in names], dtype=bool)
    notes = []
    if levels:
        notes.append(f"Columns of an index that has no name are left out ({len(levels)}): {quoted(*levels)}.")
    if kept.sum() > 1 and names[0] in _UNNAMED and names[0] not in known and _numbers_rows(frame.iloc[:, 0]):
        kept[0] = False
        notes.append("The first column is left out: it has no name, and numbers the rows.")
    if not notes:
        return frame
    reading = Reading.model_validate(frame.attrs.get("reading", {}))
    others = frame.loc[:, kept]
    others.attrs["reading"] = reading.model_copy(update={"notes": (*reading.notes, *notes)}).model_dump()
    return others


def _numbers_rows(column: pd.Series) -> bool:
    return types.is_integer_dtype(column.dtype) and not column.hasnans and column.is_unique
