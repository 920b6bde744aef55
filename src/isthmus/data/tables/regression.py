"""A table as a regression: one column is the response, all others are what it is regressed on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from isthmus.data.tables.columns import Column, named
from isthmus.data.tables.schema import Schema
from isthmus.data.tables.wording import check_known, quoted, reject
from isthmus.errors import InputError

__all__ = ["Regression"]


class Regression(NamedTuple):
    """The matrices of a regression.

    Attributes:
        X: features of the other columns, (n, d).
        y: response, (n,).
        names: of the features.
        groups: the number of the table's column that each feature comes from: levels of a category are one group.
        notes: what was done to the table, in sentences.

    Example:
        >>> frame = pd.DataFrame({"age": [30, 41, 30, 52], "colour": ["a", "b", "a", "a"], "price": [1.0, 2, 3, 5]})
        >>> regression = Regression.of(frame, "price")
        >>> regression.names, regression.groups, regression.y.tolist()
        (('age', 'colour=a', 'colour=b'), (0, 1, 1), [1.0, 2.0, 3.0, 5.0])
    """

    X: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, " n"]
    names: tuple[str, ...]
    groups: tuple[int, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, frame: pd.DataFrame, response: str) -> Regression:
        """Encode a table, all columns but the response as `Schema` does it.

        Args:
            frame: the table.
            response: name of the column to explain.

        Raises:
            InputError: no such column, or it is no column of numbers that vary, or a number is missing.
        """
        frame = named(frame)
        check_known(response, list(frame.columns), "a response that is a column of the table")
        y = _numbers(frame[response])
        schema, notes = Schema.learn(frame.drop(columns=[response]))
        X, _ = schema.encode(frame)
        sizes = [len(column.features) for column in schema.columns if column.features]
        groups = np.repeat(np.arange(len(sizes)), sizes)
        return cls(X, y, schema.features, tuple(groups.tolist()), tuple(notes))


def _numbers(series: pd.Series) -> Float[np.ndarray, " n"]:
    """Return a column of numbers that vary, none missing."""
    column = Column.learn(series, "data")
    name = quoted(series.name)
    if column.kind != "number" or column.constant:
        got = f"a constant {name}" if column.constant else f"{name} of kind {column.kind}"
        raise InputError(f"expected a response of numbers that vary; got {got}; choose another column")
    reject(series.isna().to_numpy(), series, "a response", "fill it in, or leave the row out")
    values = np.zeros((len(series), 1))
    column.encode(series, values)
    return values[:, 0]
