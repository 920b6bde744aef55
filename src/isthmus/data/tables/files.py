"""Tables on disk: one reader and one writer a format, chosen by the suffix; nothing but `InputError` gets out."""

import csv
import gzip
import io
import math
import os
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from isthmus.data.tables.arrow import arrow_to_frame, read_feather, read_parquet
from isthmus.data.tables.columns import is_image, is_number, named
from isthmus.data.tables.delimited import Asked, read_delimited
from isthmus.data.tables.indices import without_index
from isthmus.data.tables.pictures import (
    grey_levels,
    holds_images,
    is_idx,
    png_grid,
    read_idx,
    read_image,
    read_images,
    write_png,
)
from isthmus.data.tables.schema import MAX_LEVELS, Schema
from isthmus.data.tables.sizes import MOST_UNPACKED, check_unpacked, unpacking_at_most
from isthmus.data.tables.wording import listed, one_line, quoted
from isthmus.disk import replacing
from isthmus.errors import InputError
from isthmus.pipes import is_pipe, read_pipe

_ARRAY_KINDS = "biufcmMSU"
_LONGEST_HEADER = 1 << 16  # bytes of an array's header; NumPy refuses those above 10,000
_MOST_DEFLATED = 1032  # bytes that deflate makes of one
_ENCRYPTED = 1  # flag of an archive's member
_PLURAL = {"image": "images", "label": "labels"}  # columns and their arrays in an .npz file


def _read_csv(
    source: Path | pa.Buffer, delimiter: str = "", compression: str | None = None, asked: Asked | None = None
) -> pd.DataFrame:
    table, reading = read_delimited(source, delimiter=delimiter, compression=compression, asked=asked)
    frame = arrow_to_frame(table)
    frame.attrs["reading"] = reading.model_dump()
    return frame


def _array_to_frame(array: np.ndarray, name: str = "") -> pd.DataFrame:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.names:
        return pd.DataFrame(array)
    if array.ndim == 1:
        return pd.DataFrame({name or "c0": array})
    if array.ndim in (3, 4):
        return pd.DataFrame({"image": _images(array)})
    if array.ndim != 2:
        raise ValueError(f"an array of shape {array.shape}, neither 2-D nor of images: reshape it to rows and columns")
    return pd.DataFrame(array, columns=[f"{name or 'c'}{j}" for j in range(array.shape[1])])


def _read_numpy(path: Path) -> pd.DataFrame:
    with path.open("rb") as file:  # given a path, np.load leaves the file of a broken archive open
        if not zipfile.is_zipfile(file):
            file.seek(0)
            _check_array(file.read(_LONGEST_HEADER), path.stat().st_size)
            file.seek(0)
            return _array_to_frame(np.load(file, allow_pickle=False))
        with zipfile.ZipFile(file) as archive:
            packed = [member for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
            check_unpacked(sum(member.file_size for member in packed), path)
            for member in archive.infolist():
                if member.flag_bits & _ENCRYPTED:
                    raise ValueError("an encrypted archive: write it without a password")
                with archive.open(member) as stream:
                    head = stream.read(_LONGEST_HEADER)
                    _check_array(head, min(member.file_size, _MOST_DEFLATED * (member.compress_size + 1)))
        file.seek(0)
        loaded = np.load(file, allow_pickle=False)
        return _arrays_to_frame({name: loaded[name] for name in loaded.files})


def _check_array(start: bytes, size: int) -> None:
    """Refuse, by how its file starts, an array of other things than numbers, times and text, or of over `size` bytes.

    NumPy would make room for whatever a header says.
    """
    head = io.BytesIO(start)
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(head)
    kinds = [dtype[name] for name in dtype.names] if dtype.names else [dtype]
    if any(kind.kind not in _ARRAY_KINDS or kind.itemsize == 0 for kind in kinds):
        raise ValueError(f"an array of {dtype}, not of numbers, times or text: convert it")
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"an array of shape {shape}, which is more than the file holds")


def _arrays_to_frame(arrays: dict[str, np.ndarray]) -> pd.DataFrame:
    if len(arrays) == 1:
        ((name, array),) = arrays.items()
        return _array_to_frame(array, "" if array.ndim == 2 else name)
    if arrays.keys() == {"X", "columns"} and arrays["columns"].dtype.kind == "U":  # what write_table makes
        return pd.DataFrame(arrays["X"], columns=arrays["columns"].tolist())
    if len({array.shape[:1] for array in arrays.values()}) != 1 or any(
        a.ndim not in (1, 2, 3, 4) for a in arrays.values()
    ):
        shapes = [f"{name} {array.shape}" for name, array in arrays.items()]
        raise ValueError(f"arrays that do not make one table, {listed(shapes)}: keep one, or arrays of equal length")
    frame = pd.concat([_array_to_frame(array, name) for name, array in arrays.items()], axis=1)
    if all(array.ndim < 3 for array in arrays.values()):
        return frame
    return _with_classes(frame.rename(columns={many: one for one, many in _PLURAL.items() if one not in frame}))


def _images(array: np.ndarray) -> pd.Series:
    """Return a column of images: (n, height, width), (n, height, width, channels) or (n, 1 or 3, height, width)."""
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    return pd.Series(list(array.astype(np.uint8) if array.dtype == bool else array), dtype=object)


def _with_classes(frame: pd.DataFrame) -> pd.DataFrame:
    """Convert whole numbers beside images to classes, where there are few."""
    few = {
        name: "category"
        for name, kind in frame.dtypes.items()
        if kind.kind in "iu" and frame[name].nunique() <= MAX_LEVELS
    }
    return frame.astype(few)


def _read_png(path: Path) -> pd.DataFrame:
    return pd.DataFrame({"image": _images(read_image(path)[None])})


def _read_folder(path: Path) -> pd.DataFrame:
    images, classes = read_images(path)
    frame = pd.DataFrame({"image": _images(images.transpose(0, 2, 3, 1))})
    labels: Any = [label or None for label in classes]
    return frame.assign(label=labels) if any(classes) else frame


def _read_idx(path: Path) -> pd.DataFrame:
    """Read images, and their classes where the file of the labels lies beside them, named as that of MNIST."""
    frame = _array_to_frame(read_idx(path))
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if beside != path and beside.is_file():
        frame = _with_classes(frame.assign(label=read_idx(beside)))
    return frame


def _write_csv(frame: pd.DataFrame, stream: io.BufferedIOBase, delimiter: str = ",") -> None:
    plain = not any(set(name) & {delimiter, '"', "\n", "\r"} for name in frame.columns)
    options = pa.csv.WriteOptions(
        delimiter=delimiter,
        quoting_header="none" if plain else "needed",
        null_string="" if frame.shape[1] > 1 else "NaN",  # an empty line would be no row
    )
    pa.csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), stream, options)


def _write_csv_gz(frame: pd.DataFrame, stream: io.BufferedIOBase, delimiter: str = ",") -> None:
    with gzip.GzipFile(fileobj=stream, mode="wb") as zipped:
        _write_csv(frame, zipped, delimiter)


def _write_parquet(frame: pd.DataFrame, stream: io.BufferedIOBase) -> None:
    pa.parquet.write_table(pa.Table.from_pandas(frame, preserve_index=False), stream)


def _write_feather(frame: pd.DataFrame, stream: io.BufferedIOBase) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)


def _numeric(frame: pd.DataFrame) -> np.ndarray:
    other = [name for name, dtype in frame.dtypes.items() if not is_number(dtype)]
    if other:
        raise ValueError(f"columns that are not numbers, {quoted(*other)}: write .csv or .parquet")
    same = len(set(frame.dtypes)) == 1 and isinstance(frame.dtypes.iloc[0], np.dtype)
    return frame.to_numpy() if same else frame.to_numpy(dtype=np.float64, na_value=np.nan)


def _write_npy(frame: pd.DataFrame, stream: io.BufferedIOBase) -> None:
    np.save(stream, _numeric(frame), allow_pickle=False)


def _is_images(series: pd.Series) -> bool:
    return series.dtype == object and len(series) > 0 and all(map(is_image, series))


def _write_png(frame: pd.DataFrame, stream: io.BufferedIOBase) -> None:
    images = [np.stack(list(series)) for _, series in frame.items() if _is_images(series)]
    if not images:
        raise ValueError(f"no column of images among {quoted(*frame.columns)}: write .csv or .parquet")
    levels = grey_levels(images[0])
    channels_first = levels[:, None] if levels.ndim == 3 else levels.transpose(0, 3, 1, 2)
    if channels_first.shape[1] not in (1, 3):
        raise ValueError(f"images of {channels_first.shape[1]} channels, neither grey nor of three colours: write .npz")
    write_png(png_grid(channels_first, math.ceil(len(levels) ** 0.5)), stream)


def _in_archive(name: Any, names: Collection[Any]) -> str:
    """Return the name of a column's array: a plural, unless another column is called so."""
    plural = _PLURAL.get(str(name), str(name))
    return str(name) if plural in names else plural


def _array(series: pd.Series) -> np.ndarray:
    """Return a column as an array; an empty string in place of a text that is missing."""
    array = np.array(series.tolist())
    return array if array.dtype != object else np.array([str(v) if pd.notna(v) else "" for v in series])


def _write_arrays(arrays: Mapping[str, np.ndarray], stream: io.BufferedIOBase) -> None:
    """Write an .npz archive as `np.savez` does, for arrays of any name, and none of objects."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_npz(frame: pd.DataFrame, stream: io.BufferedIOBase) -> None:
    if any(_is_images(series) for _, series in frame.items()):
        _write_arrays({_in_archive(name, frame.columns): _array(series) for name, series in frame.items()}, stream)
        return
    np.savez(stream, X=_numeric(frame), columns=np.array(frame.columns, dtype=str))


def _read_piped(path: Path, asked: Asked) -> pd.DataFrame:
    """Read CSV from standard input, or from another pipe."""
    content = sys.stdin.buffer.read() if str(path) == "-" else read_pipe(path)
    return _read_csv(pa.py_buffer(content), asked=asked)


class _Format(NamedTuple):
    read: Callable[..., pd.DataFrame]
    write: Callable[[pd.DataFrame, io.BufferedIOBase], None]
    images: bool = False  # whether a column of images can be written
    delimited: bool = False  # whether it has no types of its own, so that the reader takes an `Asked` too


FORMATS: dict[str, _Format] = {
    ".csv": _Format(_read_csv, _write_csv, delimited=True),
    ".csv.gz": _Format(partial(_read_csv, compression="gzip"), _write_csv_gz, delimited=True),
    ".tsv": _Format(partial(_read_csv, delimiter="\t"), partial(_write_csv, delimiter="\t"), delimited=True),
    ".parquet": _Format(read_parquet, _write_parquet),
    ".feather": _Format(read_feather, _write_feather),
    ".arrow": _Format(read_feather, _write_feather),
    ".npy": _Format(_read_numpy, _write_npy),
    ".npz": _Format(_read_numpy, _write_npz, images=True),
    ".png": _Format(_read_png, _write_png, images=True),
}
"""Suffix -> reader and writer; a new format is one line here."""

# what the readers and writers raise over bytes that are not what the suffix says
_UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, EOFError, MemoryError, OverflowError, NotImplementedError),
    *(SyntaxError, csv.Error, zipfile.BadZipFile, zlib.error, tokenize.TokenError, pa.ArrowException),
)


@contextmanager
def explained(expected: str, advice: str) -> Iterator[None]:
    """Turn whatever a reader or writer raises into an `InputError`: expected that; got what it said; the advice."""
    try:
        yield
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"expected {expected}; got {one_line(error)}; {advice}") from error


def explained_table(shown: str) -> AbstractContextManager[None]:
    """Return what explains why a file, shown so in the message, is no table; the same for one file and for several.

    Example:
        >>> with explained_table("'t.csv'"):
        ...     raise ValueError("nothing")
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected a table in 't.csv'; got nothing; check that its content is ...
    """
    return explained(f"a table in {shown}", "check that its content is what its suffix says")


def shown_path(path: str | Path) -> str:
    """Format a path for a message, in one printable line."""
    return one_line(repr(str(path)), 400)


def _format(path: Path) -> _Format:
    for suffix, form in FORMATS.items():
        if path.name.lower().endswith(suffix):
            return form
    advice = "rename or convert the file"
    raise InputError(f"expected a file name that ends in {', '.join(FORMATS)}; got {shown_path(path)}; {advice}")


def _reader(path: Path, asked: Asked) -> Callable[[Path], pd.DataFrame]:
    if holds_images(path):
        return _read_folder
    form = None if is_idx(path) else _format(path)
    read = _read_idx if form is None else partial(form.read, asked=asked) if form.delimited else form.read
    if os.path.isdir(path):  # unlike Path.is_dir, False and not an error for an impossible path
        raise InputError(f"expected a file; got the directory {shown_path(path)}; name a file in it")
    if not os.path.exists(path):
        raise InputError(f"expected a table in {shown_path(path)}; got no such file; check the path")
    return read


def as_frame(values: Any) -> pd.DataFrame | None:
    """Return a table as a frame of pandas: of pandas or polars, or at a path; None for what has no named columns.

    Args:
        values: anything.

    Raises:
        InputError: a path that holds no table.

    Example:
        >>> as_frame([[1.0]]) is None, as_frame(pd.DataFrame({"a": [1]})).columns.tolist()
        (True, ['a'])
    """
    if isinstance(values, pd.DataFrame):
        return values
    if isinstance(values, str | Path):
        return read_table(values)
    if hasattr(values, "to_arrow") and hasattr(values, "columns"):  # polars
        return arrow_to_frame(values.to_arrow())
    return None


def read_table(
    path: str | Path,
    *,
    max_unpacked: int = MOST_UNPACKED,
    missing: Sequence[str] = (),
    decimal: str = "",
    schema: Schema | None = None,
) -> pd.DataFrame:
    r"""Read a table from a file, in the format that its suffix names.

    In a .csv file the rows tell the delimiter, the marks in numbers and whether the first row is of names: it is if it
    differs in type from the rows below. Columns without names, like those of a nameless array, are called c0, c1, ...
    Empty cells, NA, NaN and null are missing values, and among numbers also ?, - and the like. Digits that begin with a
    zero are text.

    In every format a first column without a name that numbers the rows is left out, as are other columns of an index
    that pandas wrote. What was decided, and notes on it for the user, are in `attrs["reading"]` of the table, and
    `Schema.learn` takes them from there.

    In an .npz file, 1-D arrays are columns by their name and a 2-D array `a` among others is a0, a1, ...

    Images are a column `image` of arrays (height, width) or (height, width, channels): of a folder of PNG and JPEG
    files, whose sub-folders, if any, are a column `label`; of a PNG file; of an idx file, with the labels beside it; of
    an array (n, height, width), (n, height, width, channels) or (n, 1 or 3, height, width). Whole numbers of at most
    50 values beside images are classes.

    Args:
        path: a file that ends in one of `FORMATS`, an idx file, a folder of images, or "-" for CSV on standard input;
            or a pipe, which is read as standard input is.
        max_unpacked: bytes that a compressed file may unpack to.
        missing: further spellings of a missing value in text files.
        decimal: the decimal mark of text files, "." or ","; "" where the cells are to tell.
        schema: of a table that this one is to be like: columns are of the same type, and read in the same way.

    Returns:
        The table, at least one row and one column, with unique names.

    Raises:
        InputError: if there is no such file, or no table in it that can be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "points.csv").write_text("1,2.5\n3,4.5\n")
        ...     read_table(Path(folder, "points.csv"))
           c0   c1
        0   1  2.5
        1   3  4.5
    """
    if decimal not in ("", ".", ","):
        raise InputError(f"expected a decimal mark, . or ,; got {quoted(decimal)}; name one of them")
    dialect = schema.dialect if schema else None
    words = dict.fromkeys([*(dialect.missing if dialect else ()), *missing])
    asked = Asked(tuple(words), decimal, schema.columns if schema else (), dialect)
    read = partial(_read_piped, asked=asked) if str(path) == "-" or is_pipe(path) else _reader(Path(path), asked)
    shown = "standard input" if str(path) == "-" else shown_path(path)
    with explained_table(shown), unpacking_at_most(max_unpacked):
        frame = without_index(read(Path(path)), [column.name for column in asked.columns])
    if frame.empty:
        raise InputError(f"expected at least one row and one column in {shown}; got none; check the file")
    return named(frame, f" in {shown}")


def _write_standard(content: bytes) -> None:
    """Write bytes to standard output, whatever the encoding of the terminal is; as text where it takes only text."""
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        sys.stdout.write(content.decode())
        return
    sys.stdout.flush()
    binary.write(content)
    binary.flush()


def _refuse_images(frame: pd.DataFrame, where: str) -> None:
    images = [name for name, series in frame.items() if _is_images(series)]
    if images:
        takers = " or ".join(suffix for suffix, form in FORMATS.items() if form.images)
        raise InputError(f"expected a {takers} file for the images in {quoted(*images)}; got {where}; name one")


def write_table(frame: pd.DataFrame, path: str | Path | None) -> None:
    """Write a table to a file, in the format that its suffix names, at full precision and without its index.

    The file appears complete or not at all, see `isthmus.disk`. A file that is there is replaced, as pandas does it;
    the command line asks before it does so.

    Args:
        frame: the table; for .npy and .npz, all numbers; for .npz also with images; for .png, a grid, with images.
        path: a file that ends in one of `FORMATS`; None or "-" for CSV on standard output.

    Raises:
        InputError: if the table cannot be written there, or not in that format.

    Example:
        >>> write_table(pd.DataFrame({"x": [0.1, 2.5], "colour": ["red", "blue"]}), None)
        x,colour
        0.1,"red"
        2.5,"blue"
    """
    frame = named(frame)
    if path is None or str(path) == "-":
        _refuse_images(frame, "standard output, which is CSV")
        buffer = io.BytesIO()
        with explained("a table to write as CSV", "convert its columns or write another format"):
            _write_csv(frame, buffer)
        _write_standard(buffer.getvalue())
        return
    path = Path(path)
    form, shown = _format(path), shown_path(path)
    if not form.images:
        _refuse_images(frame, shown)
    if not os.path.isdir(path.parent):
        raise InputError(f"expected an existing folder for {shown}; got {shown_path(path.parent)}; create it first")
    with explained(f"to write a table to {shown}", "write elsewhere or in another format"), replacing(path) as stream:
        form.write(frame, stream)
