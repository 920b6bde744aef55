"""Reading frames and arrays that old versions of pandas and NumPy pickled, without running what a pickle says.

A pickle names functions and classes and what to call them with. Here the few names of such a pickle all stand for
one inert class, which keeps the arguments and the state and does nothing with them; any other name is refused. The
table is then put together from the records.
"""

import pickle
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from isthmus.data.fetch import reading

__all__ = ["read_frame", "read_pickled"]

_NAMES = frozenset(
    [
        "__builtin__.slice",
        "builtins.slice",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray._reconstruct",
        "pandas.core.frame.DataFrame",
        "pandas.core.index.Index",
        "pandas.core.index.Int64Index",
        "pandas.core.index._new_Index",
        "pandas.core.indexes.base.Index",
        "pandas.core.indexes.base._new_Index",
        "pandas.core.indexes.numeric.Int64Index",
        "pandas.core.indexes.range.RangeIndex",
        "pandas.core.internals.BlockManager",
        "pandas.core.internals.managers.BlockManager",
        "pandas.indexes.base.Index",
        "pandas.indexes.base._new_Index",
        "pandas.indexes.numeric.Int64Index",
        "pandas.indexes.range.RangeIndex",
    ]
)


class _Record:
    """What a pickle makes an object of."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Self:
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Record]:
        """Return an inert class for each name that a frame needs; refuse any other."""
        if f"{module}.{name}" not in _NAMES:
            raise pickle.UnpicklingError(f"the name {module}.{name}, which no frame needs")
        return type("_Record", (_Record,), {})  # a new one each time: a pickle can change the classes it is given


def read_frame(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Read the column names and values of a frame of numbers that pandas 0.14 to 0.25 pickled.

    With Python 2 or 3, protocols 2 to 4.

    Args:
        path: The file. It is safe to read, whoever made it.

    Returns:
        Names, and values, (rows, columns).

    Raises:
        InputError: The file is no such pickle, or names a function or class that is not part of one.

    Example:
        >>> read_frame(Path("tests/fixtures/tabular/gas/ethylene_CO.pickle"))[0][:4]
        ['Time', 'Meth', 'Eth', 'R1']
    """
    with reading(path, "a frame of numbers pickled by pandas 0.14 to 0.25"), path.open("rb") as file:
        return _table(_Unpickler(file, encoding="latin1").load())


def read_pickled(path: Path) -> dict[str, Any]:
    """Read a dict of arrays, lists and text that was pickled under Python 2 or 3, protocols 0 to 3.

    Args:
        path: The file. It is safe to read, whoever made it.

    Returns:
        The values by their names.

    Raises:
        InputError: The file is no such pickle, or names a function or class that arrays do not need.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "batch").write_bytes(pickle.dumps({"labels": [6, 9]}, protocol=2))
        ...     read_pickled(Path(folder, "batch"))
        {'labels': [6, 9]}
    """
    with reading(path, "a pickled dict of arrays"), path.open("rb") as file:
        stored = _Unpickler(file, encoding="latin1").load()
        return {name: _array(value) if isinstance(value, _Record) else value for name, value in stored.items()}


def _table(frame: _Record) -> tuple[list[str], NDArray[np.float64]]:
    state = frame.state["_data"].state[-1]["0.14.1"]  # the layout that pandas 0.14.1 began
    columns, _ = state["axes"]
    names = [str(name) for name in _array(columns.args[1]["data"])]
    blocks = [(_places(block["mgr_locs"]), _array(block["values"])) for block in state["blocks"]]
    x = np.full((blocks[0][1].shape[1], len(names)), np.nan)
    for places, values in blocks:
        x[:, places] = values.T
    return names, x


def _places(record: _Record) -> slice | NDArray[Any]:
    """Return the columns that a block holds: a slice, whose record has no state, or an array."""
    return _array(record) if record.state else slice(*record.args)


def _array(record: _Record) -> NDArray[Any]:
    _, shape, dtype, fortran, content = record.state
    if isinstance(content, list):
        return np.array(content, dtype=object).reshape(shape)
    raw = content.encode("latin1") if isinstance(content, str) else content
    byte_order, kind = dtype.state[1], dtype.args[0]
    return np.frombuffer(raw, byte_order + kind).reshape(shape, order="F" if fortran else "C")
