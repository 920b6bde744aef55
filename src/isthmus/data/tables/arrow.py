"""Tables of Arrow: the types that are read and what they become, how much a file unpacks to, the way to pandas.

booleans, integers, floats, dates, time stamps, durations, text, null, dictionaries of these    as they are
decimals                                                                                         float64
times of day, text in views                                                                      text
run-end encoded, extension types                                                                 what they hold
bytes, lists, records, maps, unions, intervals                                                   refused by name
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from isthmus.data.tables.ipc import unpacked_batches
from isthmus.data.tables.sizes import check_unpacked
from isthmus.data.tables.wording import one_line, quoted

__all__ = ["arrow_to_frame", "expand_texts", "plain", "plain_schema", "read_feather", "read_parquet", "text_columns"]

_KEPT = (
    *(pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating),
    *(pa.types.is_date, pa.types.is_timestamp, pa.types.is_duration, pa.types.is_string, pa.types.is_large_string),
)
_BYTES = (*(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),)


def _plain_type(of: pa.DataType) -> pa.DataType | None:
    """Return the type that values of a type are read as; None where they are not read."""
    if isinstance(of, pa.BaseExtensionType):
        return _plain_type(of.storage_type)
    if pa.types.is_run_end_encoded(of):
        return _plain_type(of.value_type)
    if pa.types.is_dictionary(of):
        value = _plain_type(of.value_type)
        return of if value == of.value_type else value
    if pa.types.is_decimal(of):
        return pa.float64()
    if pa.types.is_time(of) or pa.types.is_string_view(of):
        return pa.large_string()
    return of if any(kept(of) for kept in _KEPT) else None


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema that a table is read with.

    Raises:
        ValueError: a column holds what is neither numbers, text, booleans nor times.

    Example:
        >>> plain_schema(pa.schema({"a": pa.decimal128(9), "b": pa.string_view()})).types
        [DataType(double), DataType(large_string)]
    """
    for i, field in enumerate(schema):
        to = _plain_type(field.type)
        if to is None:
            inner = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
            odd = "bytes in" if any(test(inner) for test in _BYTES) else f"values of type {one_line(field.type, 60)} in"
            told = "that are not UTF-8 text" if odd == "bytes in" else "that are neither numbers, text nor times"
            raise ValueError(f"{odd} column {quoted(field.name)} {told}: convert or leave it out")
        schema = schema.set(i, field.with_type(to))
    return schema


def plain(table: pa.Table) -> pa.Table:
    """Return a table as `plain_schema` says.

    Raises:
        ValueError: as `plain_schema`.

    Example:
        >>> plain(pa.table({"a": pa.array(["x"], pa.string_view())})).schema.types
        [DataType(large_string)]
    """
    schema = plain_schema(table.schema)
    columns = [_plain_column(column, field.type) for column, field in zip(table.columns, schema, strict=True)]
    return pa.Table.from_arrays(columns, schema=schema)


def _plain_column(column: pa.ChunkedArray, to: pa.DataType) -> pa.ChunkedArray:
    of = column.type
    if of == to:
        return column
    if isinstance(of, pa.BaseExtensionType):
        return _plain_column(pa.chunked_array([chunk.storage for chunk in column.chunks], of.storage_type), to)
    if pa.types.is_run_end_encoded(of):
        decoded = [pc.run_end_decode(chunk) for chunk in column.chunks]
        return _plain_column(pa.chunked_array(decoded, of.value_type), to)
    return _plain_column(column.cast(of.value_type), to) if pa.types.is_dictionary(of) else column.cast(to)


def arrow_to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table of pandas; dates become timestamps, and an index columns, unless it only counts.

    Raises:
        ValueError: as `plain_schema`.

    Example:
        >>> arrow_to_frame(pa.table({"a": [1, 2]})).shape
        (2, 1)
    """
    frame = plain(table).to_pandas(date_as_object=False)
    if isinstance(frame.index, pd.RangeIndex) and frame.index.name is None:
        return frame.reset_index(drop=True)
    return frame.reset_index(names=[name or f"__index_level_{i}__" for i, name in enumerate(frame.index.names)])


def text_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of text, which a Parquet file may hold as a few values, each many times.

    Example:
        >>> text_columns(pa.schema({"a": pa.string(), "b": pa.int8()}))
        ['a']
    """
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return [field.name for field in schema if any(test(field.type) for test in tests)]


def expand_texts(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """Return a table whose text was read as dictionaries, with text in their place, after a look at its size.

    Args:
        table: read with `read_dictionary`.
        schema: of the file; columns that are dictionaries there stay so.
        path: the file, for messages.

    Raises:
        InputError: it is too large, see `check_unpacked`.

    Example:
        >>> packed = pa.table({"a": pa.array(["x", "x"]).dictionary_encode()})
        >>> expand_texts(packed, pa.schema({"a": pa.string()}), Path("t.parquet")).schema.types
        [DataType(large_string)]
    """
    texts = text_columns(schema)
    packed = [i for i, field in enumerate(table.schema) if field.name in texts and pa.types.is_dictionary(field.type)]
    size = table.nbytes
    for chunk in (chunk for i in packed for chunk in table.column(i).chunks):
        size += pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
    check_unpacked(size, path)
    for i in packed:
        field = table.schema.field(i).with_type(pa.large_string())
        table = table.set_column(i, field, table.column(i).cast(pa.large_string()))
    return table


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file; its metadata tell its size in advance, that of its text is counted before it is expanded.

    Args:
        path: the file.

    Raises:
        InputError: it unpacks to too much.
        ValueError: as `plain_schema`.

    Example:
        >>> read_parquet(Path("no-such-file.parquet"))
        Traceback (most recent call last):
        ...
        FileNotFoundError: ...
    """
    with pa.parquet.ParquetFile(path) as file:  # not read_table, which makes columns of folders called a=1
        schema, footer = file.schema_arrow, file.metadata
    plain_schema(schema)
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    chunks = [group.column(j) for group in groups for j in range(group.num_columns)]
    text = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.physical_type == "BYTE_ARRAY")
    check_unpacked(text + footer.num_rows * sum(_bytes_of_a_value(of) for of in schema.types), path)
    with pa.parquet.ParquetFile(path, read_dictionary=text_columns(schema)) as file:
        return arrow_to_frame(expand_texts(file.read(), schema, path))


def _bytes_of_a_value(of: pa.DataType) -> int:
    """Return the room that a value takes, or the place of a text."""
    if pa.types.is_run_end_encoded(of):
        return _bytes_of_a_value(of.value_type)
    try:
        return -(-of.bit_width // 8)
    except ValueError:
        return 4


def read_feather(path: Path) -> pd.DataFrame:
    """Read an Arrow file; its headers tell in advance what it unpacks to.

    Args:
        path: the file.

    Raises:
        InputError: it unpacks to too much.
        ValueError: as `plain_schema`, or it is damaged.

    Example:
        >>> read_feather(Path("no-such-file.arrow"))
        Traceback (most recent call last):
        ...
        FileNotFoundError: ...
    """
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        plain_schema(reader.schema)
        width = sum(_bytes_of_a_value(of) for of in reader.schema.types)
        size = sum(max(batch.size, batch.rows * width) for batch in unpacked_batches(path))
        if size > 2 * path.stat().st_size:  # it is compressed, or its values are told once for many rows
            check_unpacked(size, path)
        table = reader.read_all()
        table.validate(full=True)  # unlike Parquet, the format is trusted when read: a damaged file would crash Python
        return arrow_to_frame(table)
