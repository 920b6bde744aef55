"""One column of a table: what it is, its features in the matrix, and the way back to its own type."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float
from pandas.api import types
from pydantic import BaseModel, ConfigDict, Field

from isthmus.data.tables.pictures import MOST_PIXELS
from isthmus.data.tables.wording import Report, quoted, reject
from isthmus.errors import InputError

Kind = Literal["number", "boolean", "time", "category", "image", "empty"]
Role = Literal["data", "context"]
Level = bool | int | float | str

_PIXELS = "iuf"  # kinds of arrays that are images


def named(frame: pd.DataFrame, where: str = "") -> pd.DataFrame:
    """Return the same table with names that are text; raise `InputError` where two are the same.

    Example:
        >>> list(named(pd.DataFrame([[1, 2]])).columns)
        ['0', '1']
    """
    names = pd.Index([str(name) for name in frame.columns])
    if not names.is_unique:
        twice = names[names.duplicated()].unique().tolist()
        raise InputError(f"expected column names that differ{where}; got {quoted(*twice)} more than once; rename them")
    return frame.set_axis(names, axis=1)


def is_number(dtype: Any) -> bool:
    """Tell whether float64 can stand for the values of this type, booleans among them.

    Example:
        >>> is_number(np.dtype("int8")), is_number(pd.BooleanDtype()), is_number(np.dtype("complex64"))
        (True, True, False)
    """
    return types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype)


def _plain(series: pd.Series) -> pd.Series:
    """Convert a series from Arrow or object storage, as far as pandas has a type of its own for what it holds."""
    if isinstance(series.dtype, pd.ArrowDtype):
        series = pa.array(series).to_pandas(date_as_object=False).rename(series.name)
    if series.dtype == object:
        series = series.infer_objects()
    if series.dtype != object:
        return series
    inferred = types.infer_dtype(series, skipna=True)
    if inferred in {"decimal", "integer", "floating", "mixed-integer-float"}:
        return series.astype(np.float64)
    return pd.to_datetime(series) if inferred == "date" else series


def is_image(value: object) -> bool:
    """Tell whether a value is an array of numbers (height, width) or (height, width, channels).

    Example:
        >>> is_image(np.zeros((28, 28, 3))), is_image(np.zeros(28)), is_image("a.png")
        (True, False, False)
    """
    return isinstance(value, np.ndarray) and value.ndim in (2, 3) and value.dtype.kind in _PIXELS and value.size > 0


def _kind(series: pd.Series) -> Kind:
    if series.isna().all():
        return "empty"
    if series.dtype == object and is_image(series.iloc[0]):
        return "image"
    if isinstance(series.dtype, pd.CategoricalDtype):
        return "category"
    inferred = types.infer_dtype(series, skipna=True)
    if inferred == "boolean":
        return "boolean"
    if is_number(series.dtype):
        return "number"
    if series.dtype.kind in "mM":
        return "time"
    odd = (series.notna() & (inferred != "string")).to_numpy(dtype=bool)
    reject(odd, series, "only numbers, text, booleans or times", f"convert or remove this column of type {inferred}")
    return "category"


def _told(value: object) -> object:
    """Return an image by its shape, as a message has it, and any other value as it is."""
    return " x ".join(map(str, (*value.shape, 1)[:3])) if isinstance(value, np.ndarray) else value


def _levels(series: pd.Series) -> tuple[Level, ...]:
    """Return the levels that occur: text sorted, a categorical type in its own order."""
    if not isinstance(series.dtype, pd.CategoricalDtype):
        return tuple(sorted(series.dropna().unique().tolist()))
    levels = series.cat.remove_unused_categories().cat.categories
    if types.infer_dtype(levels) not in {"string", "integer", "floating", "boolean"}:
        return tuple(dict.fromkeys(map(str, levels)))
    return tuple(levels.tolist())


def _text(value: object) -> str:
    """Return a level as text; 7.0 is "7", as a column of whole numbers turns to floats where one is missing."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _seconds(series: pd.Series, dtype: str) -> Float[np.ndarray, " n"]:
    """Return seconds since 1970-01-01 UTC, or of a duration; NaN where there is none or the text does not parse."""
    kind = "m" if dtype.startswith("timedelta") else "M"
    if series.dtype.kind != kind:
        series = series.astype("string")
    if kind == "m":
        return pd.to_timedelta(series, errors="coerce").to_numpy("timedelta64[us]") / np.timedelta64(1, "s")
    times = pd.to_datetime(series, utc=True, format="ISO8601", errors="coerce").to_numpy("datetime64[us]")
    return (times - np.datetime64(0, "us")) / np.timedelta64(1, "s")


def _from_seconds(values: Float[np.ndarray, " n"], missing: Bool[np.ndarray, " n"], dtype: Any) -> pd.Series:
    unit = getattr(dtype, "unit", None) or np.datetime_data(dtype)[0]
    low, high = (-9.2e9, 9.2e9) if unit == "ns" else (-62135596800, 253402300799)  # int64; the years 1 to 9999
    values = np.clip(values, low, high)
    whole = np.floor(values)
    micros = whole.astype(np.int64) * 1_000_000 + np.rint((values - whole) * 1e6).astype(np.int64)
    micros[missing] = np.iinfo(np.int64).min  # NaT
    series = pd.Series(micros.view(f"{dtype.kind}8[us]"))
    zoned = isinstance(dtype, pd.DatetimeTZDtype)
    return (series.dt.tz_localize("UTC") if zoned else series).astype(dtype)


def _from_number(values: Float[np.ndarray, " n"], missing: Bool[np.ndarray, " n"], dtype: Any) -> pd.Series:
    """Convert numbers to a type, clipped to what it holds: a model may sample 200 for a column of int8."""
    machine = getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", dtype))
    info: Any = np.iinfo(machine) if machine.kind in "iu" else np.finfo(machine)
    low, high = float(info.min), float(info.max)
    high = high if high <= info.max else np.nextafter(high, 0.0)  # 2**63 is a float64, 2**63 - 1 is not
    return pd.Series(np.where(missing, np.nan, np.clip(values, low, high))).astype(dtype)


def _from_boolean(values: Float[np.ndarray, " n"], missing: Bool[np.ndarray, " n"], dtype: Any) -> pd.Series:
    truth = (values > 0.5).astype(object)
    truth[missing] = None
    return pd.Series(truth, dtype=dtype)


_RESTORE = {"number": _from_number, "boolean": _from_boolean, "time": _from_seconds}
_TRUTH = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}


class Column(BaseModel):
    """One column of the user's table, and how it becomes features of the matrix.

    Attributes:
        name: as in the table.
        kind: how it is encoded; "empty" where no value was ever given.
        role: "data" for X, "context" for C.
        dtype: the type of pandas that `decode` restores.
        levels: of a category, in the order of its features.
        fill: what stands for a missing value, the (lower) median; of a constant, its value.
        constant: only one value was seen, so there is no feature but the indicator, if any.
        has_missing: values were missing, so the last feature is the indicator.
        integer: whole numbers only; rounded by `decode`.
        shape: of an image, channels, height and width; its dtype is that of the pixels.

    Example:
        >>> Column.learn(pd.Series(["red", "blue", None], name="colour"), "data").features
        ('colour=blue', 'colour=red', 'colour is missing')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    role: Role = "data"
    dtype: str
    levels: tuple[Level, ...] = ()
    fill: float = Field(0.0, allow_inf_nan=False)
    constant: bool = False
    has_missing: bool = False
    integer: bool = False
    shape: tuple[int, ...] = ()

    @classmethod
    def learn(cls, series: pd.Series, role: Role) -> Column:
        """Infer what the column is from all of its values; raise `InputError` for infinities and odd types."""
        series = _plain(series)
        ordered = isinstance(series.dtype, pd.CategoricalDtype) and series.dtype.ordered
        dtype = "ordered category" if ordered else str(series.dtype)
        column = cls(name=str(series.name), kind=_kind(series), role=role, dtype=dtype)
        learnt: dict[str, Any] = {"has_missing": bool(series.isna().any())}
        if column.kind == "empty":
            learnt = {"constant": True}
        elif column.kind == "image":
            first = series.iloc[0]
            h, w, channels = (*first.shape, 1)[:3]
            learnt = {"shape": (channels, h, w), "dtype": first.dtype.name, "integer": first.dtype.kind in "iu"}
        elif column.kind == "category":
            levels = _levels(series)
            learnt |= {"levels": levels, "constant": len(levels) == 1, "integer": True}
        else:
            values = column._floats(series, reject)
            values = values[~np.isnan(values)]
            middle = (len(values) - 1) // 2
            whole = bool((np.abs(values) < 2.0**53).all() and (values == np.rint(values)).all())
            learnt["fill"] = float(np.partition(values, middle)[middle])
            learnt["constant"] = bool(values.min() == values.max())
            learnt["integer"] = whole or series.dtype.kind in "iu"
        return column.model_copy(update=learnt)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the matrix columns that this column becomes; none for a constant."""
        if self.kind == "image":
            return tuple(f"{self.name}[{','.join(map(str, place))}]" for place in np.ndindex(*self.shape))
        values = tuple(f"{self.name}={level}" for level in self.levels) or (self.name,)
        indicator = (f"{self.name} is missing",) if self.has_missing else ()
        return indicator if self.constant else values + indicator

    def encode(self, series: pd.Series, out: Float[np.ndarray, "n features"], report: Report = reject) -> None:
        """Fill `out`, zeros so far, with the features of these values; of rows that are reported with anything."""
        if self.kind == "image":
            self._fill(series, out, report)
            return
        series = _plain(series)
        if self.kind == "category":
            codes = self._codes(series, report)
            missing = codes < 0
            if not self.constant:
                known = np.flatnonzero(~missing)
                out[known, codes[known]] = 1.0
        else:
            values = self._floats(series, report)
            missing = np.isnan(values)
            if not self.constant:
                out[:, 0] = np.where(missing, self.fill, values) if self.has_missing else values
        if self.has_missing:
            out[:, -1] = missing
        else:
            advice = "none was missing in training: fill it in, or fit on a table that has missing values there"
            report(missing, series, "a value", advice)

    def decode(self, block: Float[np.ndarray, "n features"]) -> pd.Series:
        """Decode these features to values in the type that the user's column had."""
        rows = len(block)
        missing = block[:, -1] > 0.5 if self.has_missing else np.zeros(rows, dtype=bool)
        if self.kind == "empty":
            return pd.Series(None, index=range(rows), dtype=self._pandas_dtype())
        if self.kind == "image":
            return self._images(block)
        if self.kind == "category":
            width = len(self.levels)
            codes = np.zeros(rows, dtype=int) if self.constant else block[:, :width].argmax(axis=1)
            values = np.array([*self.levels, None], dtype=object)[np.where(missing, width, codes)]
            return pd.Series(values, dtype=self._pandas_dtype())
        values = np.full(rows, self.fill) if self.constant else block[:, 0]
        return _RESTORE[self.kind](np.rint(values) if self.integer else values, missing, self._pandas_dtype())

    def check(self) -> None:
        """Raise `ValueError` for a column, perhaps of a damaged file, whose type cannot hold what it stands for."""
        try:
            dtype = self._pandas_dtype()
            possible = len(self.shape) == 3 and min(self.shape) > 0 and math.prod(self.shape) <= MOST_PIXELS
            if self.shape if self.kind != "image" else not (possible and dtype.kind in _PIXELS):
                raise TypeError("a shape that is none")
            plain = dtype.kind not in "SUV" and len(set(self.levels)) == len(self.levels)
            if not plain or bool(self.levels) != (self.kind == "category"):
                raise TypeError("bytes, or levels that are none")
            pd.Series(list(self.levels), dtype=dtype if self.levels else None)
            self.decode(np.zeros((1, len(self.features))))
        except (ArithmeticError, AttributeError, LookupError, SyntaxError, TypeError, ValueError) as error:
            raise ValueError(
                f"no table has a column {quoted(self.name)} of {self.kind} as {quoted(self.dtype)}"
            ) from error

    def _fill(self, series: pd.Series, out: Float[np.ndarray, "n features"], report: Report) -> None:
        """Fill in the features of images, one at a time."""
        channels, h, w = self.shape
        values = series.to_numpy(object)
        advice = "images of one size and without missing numbers: resize, convert or remove it"
        odd = np.array([not is_image(v) or (*v.shape, 1)[:3] != (h, w, channels) for v in values], dtype=bool)
        report(odd, pd.Series(list(map(_told, values)), name=series.name), f"{h} x {w} x {channels}", advice)
        for i, (row, image) in enumerate(zip(out, values, strict=True)):
            if not odd[i]:
                row[:] = image.reshape(h, w, channels).transpose(2, 0, 1).ravel()
        report(~np.isfinite(out).all(1), pd.Series(["NaN"] * len(out), name=series.name), "finite numbers", advice)

    def _images(self, block: Float[np.ndarray, "n features"]) -> pd.Series:
        """Return arrays (height, width), or (height, width, channels) for several, within what their type holds."""
        channels, h, w = self.shape
        flat = np.rint(block) if self.integer else block
        numbers = _from_number(flat.ravel(), np.zeros(flat.size, dtype=bool), np.dtype(self.dtype)).to_numpy()
        images = numbers.reshape(-1, channels, h, w).transpose(0, 2, 3, 1)
        return pd.Series(list(images if channels > 1 else images[..., 0]), dtype=object)

    def _pandas_dtype(self) -> Any:
        if self.dtype in {"category", "ordered category"}:
            return pd.CategoricalDtype(list(self.levels), ordered=self.dtype == "ordered category")
        return types.pandas_dtype(self.dtype)

    def _floats(self, series: pd.Series, report: Report) -> Float[np.ndarray, " n"]:
        """Return the values as numbers, NaN where missing."""
        if is_number(series.dtype):
            values = series.to_numpy(np.float64, na_value=np.nan)
        elif self.kind == "time":
            values = _seconds(series, self.dtype)
        elif self.kind == "boolean":
            values = series.astype("string").str.lower().map(_TRUTH).to_numpy(np.float64, na_value=np.nan)
        else:
            numbers = pd.to_numeric(series.astype(object), errors="coerce").to_numpy()
            values = np.where(np.isreal(numbers), np.real(numbers), np.nan).astype(np.float64)
        bad = np.isnan(values) & series.notna().to_numpy()
        if self.kind == "boolean":
            bad |= (values != 0.0) & (values != 1.0) & ~np.isnan(values)
        advice = "correct or remove that row"
        report(bad, series, {"number": "numbers", "boolean": "true or false", "time": "times"}[self.kind], advice)
        report(np.isinf(values), series, "finite numbers", advice)
        return values

    def _codes(self, series: pd.Series, report: Report) -> np.ndarray:
        """Return the position of each value among the levels, -1 where missing; as text where the types differ."""
        values = series.astype(object)
        if types.infer_dtype(values, skipna=True) == "mixed":  # perhaps lists, which cannot be looked up
            values = values.map(_text, na_action="ignore")
        present = values.notna().to_numpy()
        codes = pd.Index(self.levels, dtype=object).get_indexer(pd.Index(values, dtype=object))
        codes[~present] = -1
        rest = (codes < 0) & present
        if rest.any():
            texts = pd.Index([_text(level) for level in self.levels], dtype=object)
            codes[rest] = texts.get_indexer(pd.Index(values[rest].map(_text), dtype=object))
            unknown = (codes < 0) & present
            report(unknown, values, f"one of the levels {quoted(*self.levels)}", "correct or remove that row")
        return codes
