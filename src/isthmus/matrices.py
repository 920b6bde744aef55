"""A user's table as a matrix: checked, in its own precision, not copied where that is not needed, and never written to.

Taken are float32 as it is and every other real number as float64: arrays of any order, stride and byte order,
read-only or mapped into memory; tensors on any device; lists; frames of pandas and polars. Refused, each in one
sentence, are what is no number (text, times, complex and structured values, sparse matrices), what is missing (NaN,
None, masked entries) and what is too large to compute with.
"""

import hashlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from isthmus.errors import InputError

__all__ = ["by_rows", "check_finite", "check_kind", "doubled", "fingerprint", "matrix", "row_weights", "rows_at_once"]

LARGEST = 1e300  # beyond it differences overflow
_NUMBERS_AT_ONCE = 1 << 20  # 8 MB of float64


def matrix(values: ArrayLike | Tensor, what: str) -> Float[Tensor, "n columns"]:
    """Return a user's table as a tensor of finite numbers; it may share the user's memory, so nothing may write to it.

    Args:
        values: numbers, (n, columns), none of them above 1e300.
        what: what to call it in messages.

    Returns:
        (n, columns), float32 if the table is float32, else float64.

    Raises:
        InputError: it is not a matrix of finite numbers, or is empty.

    Example:
        >>> matrix([[1, 2]], "X")
        tensor([[1., 2.]], dtype=torch.float64)
    """
    array = _array(values, what)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"expected {what} of shape (rows, columns); got shape {array.shape}; reshape it")
    table = _tensor(_numbers(array, what))
    check_finite(table, what)
    return table


def row_weights(values: ArrayLike | Tensor | None, n: int) -> Float[Tensor, " n"] | None:
    """Return one weight >= 0 for each of n rows as a tensor, not all of them zero; None where none are given.

    Example:
        >>> row_weights([1, 2], 2)
        tensor([1., 2.], dtype=torch.float64)
    """
    if values is None:
        return None
    w = _tensor(_numbers(_array(values, "weights"), "weights")).to(torch.float64)
    if w.shape != (n,) or not bool(torch.isfinite(w).all()) or bool((w < 0).any()) or not 0 < float(w.sum()) < math.inf:
        raise InputError(
            f"expected {n} finite weights >= 0, not all zero; got shape {tuple(w.shape)}; give one for each row"
        )
    return w


def check_kind(values: Any, what: str) -> None:
    """Refuse what NumPy would take for numbers without a word: times, and masked entries, whose values it would show.

    Example:
        >>> check_kind(np.ma.masked_equal([[1.0, 2.0]], 2.0), "X")
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected X without missing values; got masked entries; impute or drop them
    """
    rows = values if isinstance(values, list | tuple) else ()
    if np.ma.is_masked(values) or any(np.ma.is_masked(row) for row in rows):
        raise InputError(f"expected {what} without missing values; got masked entries; impute or drop them")
    of_columns = getattr(values, "dtypes", None) if hasattr(values, "shape") else None  # a lazy frame would compute
    for dtype in of_columns if np.iterable(of_columns) else [getattr(values, "dtype", None)]:
        if getattr(dtype, "kind", "") in ("m", "M") or getattr(dtype, "is_temporal", bool)():
            raise InputError(f"expected numbers in {what}; got times of type {dtype}; convert them, say to seconds")


def check_finite(x: Float[Tensor, "n columns"], what: str) -> None:
    """Refuse NaN, infinities, and numbers above 1e300, some rows at a time.

    Example:
        >>> check_finite(torch.tensor([[0.0], [torch.nan]]), "X")
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected finite numbers in X; got nan in row 1, column 0; impute or drop it
    """
    most = min(LARGEST, torch.finfo(x.dtype).max)  # 1e300 as a float32 would be infinity
    for start, rows in by_rows(x):
        if not bool((rows.abs() <= most).all()):
            row, column = torch.nonzero(~(rows.abs() <= most))[0].tolist()
            got = f"{float(rows[row, column])} in row {start + row}, column {column}"
            if torch.isfinite(rows[row, column]):
                raise InputError(f"expected numbers up to {LARGEST:g} in {what}; got {got}; change the units")
            raise InputError(f"expected finite numbers in {what}; got {got}; impute or drop it")


def rows_at_once(n_columns: int) -> int:
    """Return how many rows of so many columns are converted at a time, so that what comes in between is 8 MB.

    Example:
        >>> rows_at_once(1024)
        1024
    """
    return max(1, _NUMBERS_AT_ONCE // max(1, n_columns))


def by_rows(x: Float[Tensor, "n columns"]) -> Iterator[tuple[int, Float[Tensor, "rows columns"]]]:
    """Yield consecutive rows, some at a time, each time with the number of the first.

    Example:
        >>> [start for start, rows in by_rows(torch.zeros(2**20, 2))]
        [0, 524288]
    """
    size = rows_at_once(x.shape[1])
    return ((start, x[start : start + size]) for start in range(0, max(1, len(x)), size))


def doubled(x: Float[Tensor, "n columns"]) -> Float[Tensor, "n columns"]:
    """Return the rows in float64 and in C order, in which sums have the same last bit whatever the table's own order.

    Example:
        >>> doubled(torch.zeros(2, 3).mT).stride()
        (2, 1)
    """
    return x.to(torch.float64).contiguous()


def fingerprint(x: Float[Tensor, "n columns"], c: Float[Tensor, "n C"] | None = None) -> dict[str, Any]:
    """Fingerprint data and context, to tell them from others without keeping them: the number of rows, and a hash.

    Example:
        >>> fingerprint(torch.zeros(3, 2))["rows"]
        3
    """
    digest = hashlib.sha256()
    for table in (x, c):
        if table is not None:
            digest.update(repr(tuple(table.shape)).encode())
            for _, rows in by_rows(table):
                digest.update(doubled(rows).numpy().data)
    return {"rows": len(x), "sha256": digest.hexdigest()}


def _array(values: ArrayLike | Tensor, what: str) -> NDArray[Any]:
    """Return an array of whatever type; raises for what is no array of numbers in rows."""
    check_kind(values, what)
    try:
        array = np.asarray(_to_numpy(values) if isinstance(values, Tensor) else values)
    except (TypeError, ValueError, RuntimeError) as error:
        got = " ".join(str(error).split())
        raise InputError(f"expected numbers in {what}; got {got}; convert or drop the other columns") from error
    if array.ndim == 0:
        got = type(values).__name__
        raise InputError(f"expected {what} as an array of numbers; got {got}; convert it to a dense array")
    return array


def _to_numpy(values: Tensor) -> NDArray[Any]:
    if values.is_complex():
        raise TypeError(f"values of type {values.dtype}")
    if values.layout != torch.strided:
        raise TypeError(f"a sparse or nested tensor of layout {values.layout}")
    as_is = values.dtype in (torch.float32, torch.float64)
    return values.detach().to("cpu", values.dtype if as_is else torch.float64).resolve_neg().numpy()


def _numbers(array: NDArray[Any], what: str) -> NDArray[np.float64] | NDArray[np.float32]:
    if array.dtype.kind == "O":
        return _of_objects(array, what)
    if array.dtype.kind not in "biuf":
        raise InputError(f"expected numbers in {what}; got values of type {array.dtype}; convert or drop them")
    if array.dtype == np.float32 or array.dtype == np.float64:  # in this machine's byte order
        return array
    with np.errstate(over="ignore"):  # an infinity is refused, by its place, as any other
        return array.astype(np.float64)


def _of_objects(array: NDArray[Any], what: str) -> NDArray[np.float64]:
    numbers = np.empty(array.shape)
    for place, value in np.ndenumerate(array):
        try:
            if isinstance(value, str | bytes):
                raise TypeError("text")
            numbers[place] = math.nan if value is None else float(value)
        except (TypeError, ValueError, OverflowError) as error:
            where = ", ".join(f"{name} {i}" for name, i in zip(("row", "column"), place, strict=False))
            got = " ".join(repr(value).split())[:60]
            raise InputError(f"expected numbers in {what}; got {got} in {where}; convert or drop it") from error
    return numbers


def _tensor(array: NDArray[np.float64] | NDArray[np.float32]) -> Tensor:
    """Return a tensor, in the array's own memory where it can have that."""
    if not array.flags.aligned or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nothing here writes
        return torch.from_numpy(array)
