"""The map between a whole table and the matrices X (n, D) and C (n, C), column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from pandas.api import types
from pydantic import BaseModel, ConfigDict, model_validator

from isthmus.data.tables.columns import Column, Level, Role, is_image, named
from isthmus.data.tables.coordinates import Coordinates, number_column
from isthmus.data.tables.delimited import Dialect, Reading
from isthmus.data.tables.wording import Report, check_known, listed, quoted, reject
from isthmus.errors import InputError

NOTE = "note"
"""The column that says of a row why it has no scores or code."""

MAX_LEVELS = 50
"""Text with more levels than this, or than half of the rows, is not one-hot encoded but dropped."""


class Schema(BaseModel):
    """The exactly invertible map between a user's table and the matrices X and C; plain data, so it is stored as JSON.

    Attributes:
        columns: in the order of the table.
        dialect: how the table was read, if that was a text file; later ones are read alike.
        coordinates: which of the columns say where on a known surface a row is, and how; then X are its points.

    Example:
        >>> frame = pd.DataFrame({"age": [30, 41, 30, 52], "colour": ["red", "blue", "red", "red"], "unit": "cm"})
        >>> schema, notes = Schema.learn(frame)
        >>> schema.features
        ('age', 'colour=blue', 'colour=red')
        >>> X, C = schema.encode(frame)
        >>> X[1].tolist(), C
        ([41.0, 1.0, 0.0], None)
        >>> schema.decode(X).equals(frame)
        True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[Column, ...]
    dialect: Dialect | None = None
    coordinates: Coordinates | None = None

    @model_validator(mode="after")
    def _check(self) -> Schema:
        if self.coordinates:
            self.coordinates.check([column.name for column in self._of("data")])
        if len({column.name for column in self.columns}) < len(self.columns):
            raise ValueError("two columns of the same name")
        alike = {(c.kind, c.dtype, c.levels, c.constant, c.has_missing, c.shape): c for c in self.columns}
        for column in alike.values():
            column.check()
        return self

    @classmethod
    def learn(
        cls, frame: pd.DataFrame, target: Sequence[str] = (), coordinates: Coordinates | None = None
    ) -> tuple[Schema, list[str]]:
        r"""Decide how each column is encoded.

        Args:
            frame: the training table, at least one row.
            target: names of the context columns: what the others are conditioned on.
            coordinates: which columns say where on a known surface a row is, as far as that is known; the others but
                the context columns are left out.

        Returns:
            The schema, and what was done to the table in sentences for the user.

        Raises:
            InputError: if a name is unknown, a target has the name of a column of codes, a value is infinite, a type
                has no meaning, or nothing is left to learn.

        Example:
            >>> schema, notes = Schema.learn(pd.DataFrame({"x": [0.5, None, 2.5, 1.5], "k": 1}))
            >>> print(*notes, sep="\n")
            Constant columns are left out, and refilled on the way back (1): 'k'.
            Missing values are filled in, and flagged by one more feature (1): 'x' (median 1.5).
        """
        frame = named(frame)
        targets = [target] if isinstance(target, str) else [str(name) for name in target]
        if frame.empty:
            raise InputError(f"expected a table with rows and columns; got shape {frame.shape}; give more data")
        for name in targets:
            check_known(name, list(frame.columns), "a target that is a column of the table")
        beside: list[str] = []
        placed: list[str] = []
        if coordinates is not None:
            coordinates, placed = Coordinates.learn(frame, coordinates, targets)
            beside = [name for name in frame.columns if name not in (*coordinates.columns, *targets)]
        elif images := [name for name in frame.columns if is_image(frame[name].iloc[0])]:
            _check_images(images, targets)
            beside = [name for name in frame.columns if name not in (*images, *targets)]
        learnt = frame.drop(columns=beside)
        on_surface = () if coordinates is None else coordinates.columns
        columns = [
            number_column(name) if name in on_surface else Column.learn(learnt[name], _role(name, targets))
            for name in learnt.columns
        ]
        limit = min(MAX_LEVELS, len(frame) / 2)
        wide = [column for column in columns if len(column.levels) > limit and not column.constant]
        kept = [column for column in columns if len(column.levels) <= limit or column.constant]
        reading = Reading.model_validate(frame.attrs["reading"]) if "reading" in frame.attrs else None
        schema = cls(columns=tuple(kept), dialect=reading and reading.dialect, coordinates=coordinates)
        _check_useful(schema, targets, wide)
        _check_targets(targets, codes=len(schema.features))
        return schema, [*(reading.notes if reading else ()), *placed, *_notes(kept, wide, beside, frame)]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of X."""
        return self.coordinates.features if self.coordinates else self._numbers

    @property
    def _numbers(self) -> tuple[str, ...]:
        """Names of the numbers that the data columns become, one by one."""
        return tuple(name for column in self._of("data") for name in column.features)

    @property
    def context_features(self) -> tuple[str, ...]:
        """Names of the columns of C; none where no column is context."""
        return tuple(name for column in self._of("context") for name in column.features)

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Channels, height and width, where a row of X is an image; None where it is none."""
        for column in self._of("data"):
            if column.kind == "image":
                channels, height, width = column.shape
                return channels, height, width
        return None

    @property
    def integer(self) -> tuple[bool, ...]:
        """For each column of X, whether it holds whole numbers only, as levels and indicators do."""
        if self.coordinates:
            return (False,) * len(self.features)
        return tuple(
            column.integer or (column.has_missing and name == column.features[-1])
            for column in self._of("data")
            for name in column.features
        )

    @property
    def categorical(self) -> tuple[bool, ...]:
        """For each column of X, whether it is a level of a category."""
        if self.coordinates:
            return (False,) * len(self.features)
        return tuple(column.kind == "category" for column in self._of("data") for _ in column.features)

    @property
    def stand_in(self) -> Float[np.ndarray, " D"]:
        """A row of X that stands in for one that cannot be encoded: zeros, or a point of the surface."""
        if self.coordinates:
            return self.coordinates.encode(np.full((1, len(self.coordinates.columns)), np.nan))[0]
        return np.zeros(len(self.features))

    def encode(
        self, frame: pd.DataFrame, *, context: bool = True, report: Report = reject
    ) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, "n C"] | None]:
        """Encode a table as matrices, its columns found by name; constants need not be there, others are ignored.

        Args:
            frame: a table like the training table.
            context: whether the context columns must be there too.
            report: what to do about rows with a value that training has not prepared for: `reject` raises, and the
                `note` of `Faults` keeps why, and leaves anything in their place.

        Returns:
            X (n, D), and C (n, C) or None where there is no context, or none is asked for.

        Raises:
            InputError: if a column is missing, or `reject` finds a value that training has not prepared for.

        Example:
            >>> schema, _ = Schema.learn(pd.DataFrame({"x": [0.5, 2.5], "digit": [3, 7]}), target=["digit"])
            >>> X, C = schema.encode(pd.DataFrame({"digit": [4], "x": [1.5]}))
            >>> X.tolist(), C.tolist()
            ([[1.5]], [[4.0]])
        """
        frame = named(frame)
        conditions = self._of("context") if context else ()
        needed = [column.name for column in (*self._of("data"), *conditions) if column.features]
        absent = [name for name in needed if name not in frame.columns]
        if absent:
            there = f"a table with {quoted(*frame.columns)}"
            raise InputError(f"expected the columns {quoted(*needed)}; got {there}; add or rename {quoted(*absent)}")
        X = _matrix(self._of("data"), frame, report)
        if self.coordinates:
            X = self.coordinates.encode(X[:, self._places], report)
        return X, _matrix(conditions, frame, report) if conditions else None

    def encode_context(self, values: Mapping[str, Level | None]) -> Float[np.ndarray, "1 C"]:
        """Encode a value for each context column, in text or as a number, as one row of C.

        Args:
            values: name of the context column -> its value; None where it is missing.

        Returns:
            C (1, C).

        Raises:
            InputError: if a name is unknown or not given, or a value does not suit its column.

        Example:
            >>> schema, _ = Schema.learn(pd.DataFrame({"x": [0.5, 2.5], "digit": [3, 7]}), target=["digit"])
            >>> schema.encode_context({"digit": "7"}).tolist()
            [[7.0]]
        """
        columns = self._of("context")
        names = [column.name for column in columns]
        if not columns:
            raise InputError(f"expected no given values, as no column is context; got {quoted(*values)}; drop them")
        for name in values:
            check_known(name, names, "the name of a context column")
        absent = [name for name in names if name not in values]
        if absent:
            raise InputError(f"expected a value for each of {quoted(*names)}; got none for {quoted(*absent)}; give it")
        return _matrix(columns, pd.DataFrame({name: pd.Series([values[name]], dtype=object) for name in names}))

    def decode(self, X: Float[np.ndarray, "n D"], C: Float[np.ndarray, "m C"] | None = None) -> pd.DataFrame:
        """Decode matrices to their table: `decode(*encode(frame))` equals `frame`.

        Args:
            X: (n, D), finite; it may come from a model: levels are the nearest, whole numbers rounded.
            C: (n, C), finite; without it, the context columns are left out.

        Returns:
            The user's columns in the user's order and types.

        Raises:
            InputError: if a matrix has another shape or is not finite.

        Example:
            >>> schema, _ = Schema.learn(pd.DataFrame({"age": [30, 40, 50, 60], "up": [True, False, True, True]}))
            >>> schema.decode(np.array([[41.7, 0.2]])).to_dict("records")
            [{'age': 42, 'up': False}]
        """
        parts: dict[str, pd.Series] = {}
        roles: tuple[tuple[Role, np.ndarray | None], ...] = (("data", X), ("context", C))
        for role, matrix in roles:
            if matrix is not None:
                columns, names = self._of(role), self.features if role == "data" else self.context_features
                matrix = _check_matrix(matrix, names, len(X))
                if role == "data" and self.coordinates:
                    matrix = self.coordinates.decode(matrix)[:, np.argsort(self._places)]
                parts |= {column.name: column.decode(matrix[:, block]) for column, block in _blocks(columns)}
        return pd.DataFrame({column.name: parts[column.name] for column in self.columns if column.name in parts})

    @property
    def _places(self) -> list[int]:
        """The numbers of the data columns in the order that the coordinates have."""
        names = [column.name for column in self._of("data")]
        return [names.index(name) for name in self.coordinates.columns] if self.coordinates else []

    def _of(self, role: Role) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.role == role)


def _blocks(columns: Sequence[Column]) -> Iterator[tuple[Column, slice]]:
    """Yield each column with the columns of the matrix that it owns."""
    start = 0
    for column in columns:
        stop = start + len(column.features)
        yield column, slice(start, stop)
        start = stop


def _matrix(columns: Sequence[Column], frame: pd.DataFrame, report: Report = reject) -> Float[np.ndarray, "n D"]:
    matrix = np.zeros((len(frame), sum(len(column.features) for column in columns)))
    for column, block in _blocks(columns):
        if column.features:
            column.encode(frame[column.name], matrix[:, block], report)
    return matrix


def _role(name: str, targets: Sequence[str]) -> Role:
    return "context" if name in targets else "data"


def _check_matrix(matrix: np.ndarray, features: Sequence[str], rows: int) -> Float[np.ndarray, "n D"]:
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (rows, len(features)):
        advice = "give one row a sample and one column a feature"
        raise InputError(f"expected a matrix of shape {(rows, len(features))}; got {matrix.shape}; {advice}")
    finite = np.isfinite(matrix)
    if not finite.all():
        row, j = np.argwhere(~finite)[0].tolist()
        where = f"{matrix[row, j]} at row {row} (counted from 0), feature {quoted(features[j])}"
        raise InputError(f"expected finite values to decode; got {where}; check the model that made them")
    return matrix


def _check_useful(schema: Schema, targets: Sequence[str], wide: Sequence[Column]) -> None:
    for column in wide:
        if column.role == "context":
            got = f"{len(column.levels)} levels of text in {quoted(column.name)}"
            raise InputError(f"expected a target with few levels; got {got}; choose another target or group its levels")
    for column in schema.columns:
        if column.role == "context" and not column.features:
            raise InputError(
                f"expected a target that varies; got {quoted(column.name)}, a constant; choose another target"
            )
    if not schema.features:
        constant = sum(column.constant for column in schema.columns)
        got = f"{constant} constant, {len(wide)} of text with too many levels, {len(set(targets))} used as target"
        raise InputError(f"expected at least one column of numbers or categories that varies; got {got}; add columns")


def _check_targets(targets: Sequence[str], codes: int) -> None:
    """Refuse targets that would stand beside a column of the same name in a table of codes."""
    taken = [name for name in targets if name in {NOTE, *(f"z{i}" for i in range(codes))}]
    if taken:
        names = f"other target names than {quoted('z0')} to {quoted(f'z{codes - 1}')} and {quoted(NOTE)}"
        raise InputError(f"expected {names}, which codes have beside them; got {quoted(*taken)}; rename the column")


def _check_images(images: Sequence[str], targets: Sequence[str]) -> None:
    if len(images) > 1 or images[0] in targets:
        got = f"{quoted(*images)}" + (" as target" if images[0] in targets else "")
        raise InputError(f"expected one column of images, and others as targets; got {got}; leave out the others")


def _notes(columns: Sequence[Column], wide: Sequence[Column], beside: Sequence[str], frame: pd.DataFrame) -> list[str]:
    """Return notes on what was done, one sentence a kind of change, with the first few columns that it concerns."""

    def sized(chosen: Sequence[Column]) -> list[str]:
        """Return the names of columns, each with its number of levels."""
        return [f"{quoted(column.name)} ({len(column.levels)} levels)" for column in chosen]

    def few(test: Callable[[Column], bool]) -> list[str]:
        """Return the names of the columns that pass a test."""
        return [quoted(column.name) for column in columns if test(column)]

    filled = [c for c in columns if c.has_missing and c.kind == "number" and not c.constant]
    medians = [f"{quoted(c.name)} (median {c.fill:g})" for c in filled]
    groups = {
        "Context columns, on which the others are conditioned": few(lambda c: c.role == "context"),
        "Other columns are left out, as nothing is conditioned on them": [quoted(name) for name in beside],
        "Constant columns are left out, and refilled on the way back": few(lambda c: c.constant),
        f"Text with over {MAX_LEVELS} levels, or more than half as many as rows, is dropped": sized(wide),
        "Categories become one feature a level": sized([c for c in columns if c.levels and not c.constant]),
        "Booleans become 0 or 1": few(lambda c: c.kind == "boolean" and not c.constant),
        "Times become seconds, since 1970-01-01 UTC": few(lambda c: c.kind == "time" and not c.constant),
        "Missing values are filled in, and flagged by one more feature": medians
        + few(lambda c: c.has_missing and c not in filled),
        "Integers beyond 2**53 are rounded": few(lambda c: _is_inexact(frame[c.name])),
    }
    return [f"{sentence} ({len(names)}): {listed(names)}." for sentence, names in groups.items() if names]


def _is_inexact(series: pd.Series) -> bool:
    """Tell whether float64 does not hold these integers."""
    whole = types.is_integer_dtype(series.dtype) and bool(series.notna().any())
    return whole and max(abs(int(series.min())), abs(int(series.max()))) > 2**53
