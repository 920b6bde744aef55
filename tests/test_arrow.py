"""Every type of Arrow, in one file and in two: read to the same columns, or refused in the same sentence."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from isthmus.data.tables import Parquet, Schema, Stream, read_table
from isthmus.errors import InputError

DAYS = [datetime.date(2024, 1, 1 + k) for k in range(4)]
TIMES = [datetime.datetime(2024, 1, 1, k) for k in range(4)]
HOURS = [datetime.time(k % 2) for k in range(4)]
SPANS = [datetime.timedelta(hours=k) for k in range(4)]
DECIMALS = [decimal.Decimal(k) / 4 for k in range(4)]
TEXTS, BYTES = list("abab"), [b"ab", b"\xff\xfe", b"cd", b"ef"]
CODES = [f"{k:016d}".encode() for k in range(4)]

READ = {
    **{
        f"{kind}{bits}": (getattr(pa, f"{kind}{bits}")(), range(4))
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
    **{f"float{bits}": (getattr(pa, f"float{bits}")(), [0.5, None, 1.5, 2.5]) for bits in (32, 64)},
    "float16": (pa.float16(), [np.float16(k) for k in range(4)]),
    "bool": (pa.bool_(), [True, False, True, True]),
    **{f"decimal{bits}": (getattr(pa, f"decimal{bits}")(9, 3), DECIMALS) for bits in (32, 64, 128, 256)},
    "date32": (pa.date32(), DAYS),
    "date64": (pa.date64(), DAYS),
    **{f"timestamp[{unit}]": (pa.timestamp(unit), TIMES) for unit in ("s", "ms", "us", "ns")},
    "zoned": (pa.timestamp("us", "Europe/Paris"), TIMES),
    **{f"duration[{unit}]": (pa.duration(unit), SPANS) for unit in ("s", "ms", "us", "ns")},
    **{f"time32[{unit}]": (pa.time32(unit), HOURS) for unit in ("s", "ms")},
    **{f"time64[{unit}]": (pa.time64(unit), HOURS) for unit in ("us", "ns")},
    "string": (pa.string(), TEXTS),
    "large_string": (pa.large_string(), TEXTS),
    "string_view": (pa.string_view(), TEXTS),
    "null": (pa.null(), [None] * 4),
    "dictionary of text": (pa.dictionary(pa.int8(), pa.string()), TEXTS),
    "dictionary of large text": (pa.dictionary(pa.int32(), pa.large_string()), TEXTS),
    "dictionary of numbers": (pa.dictionary(pa.int16(), pa.int64()), [3, 4, 3, 4]),
    "dictionary of decimals": (None, pa.array(DECIMALS, pa.decimal128(9, 3)).dictionary_encode()),
    "run-end encoded": (pa.run_end_encoded(pa.int32(), pa.float64()), [1.0, 1.0, 2.0, 2.0]),
    "bool8": (pa.bool8(), [True, False, True, True]),
    "json": (pa.json_(), ["1", "2", "1", "2"]),
}
REFUSED = {
    "binary": (pa.binary(), BYTES),
    "large_binary": (pa.large_binary(), BYTES),
    "binary_view": (pa.binary_view(), BYTES),
    "fixed_size_binary": (pa.binary(16), CODES),
    "uuid": (pa.uuid(), CODES),
    "list": (pa.list_(pa.int8()), [[1]] * 4),
    "large_list": (pa.large_list(pa.int8()), [[1]] * 4),
    "fixed_size_list": (pa.list_(pa.int8(), 2), [[1, 2]] * 4),
    "list_view": (pa.list_view(pa.int8()), [[1]] * 4),
    "large_list_view": (pa.large_list_view(pa.int8()), [[1]] * 4),
    "struct": (pa.struct({"a": pa.int8()}), [{"a": 1}] * 4),
    "map": (pa.map_(pa.string(), pa.int8()), [[("a", 1)]] * 4),
    "month_day_nano_interval": (pa.month_day_nano_interval(), [pa.MonthDayNano([1, 2, 3])] * 4),
    "dictionary of bytes": (pa.dictionary(pa.int8(), pa.binary()), BYTES),
    "dense_union": (
        None,
        pa.UnionArray.from_dense(pa.array([0] * 4, pa.int8()), pa.array(range(4), pa.int32()), [pa.array(range(4))]),
    ),
    "sparse_union": (None, pa.UnionArray.from_sparse(pa.array([0] * 4, pa.int8()), [pa.array(range(4))])),
    "tensor": (None, pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((4, 2, 2)))),
}
TYPES = READ | REFUSED
OF_PARQUET = "a type that Parquet does not hold"


def column(name):
    of, values = TYPES[name]
    if of is None:
        return values
    if pa.types.is_run_end_encoded(of):
        return pc.run_end_encode(pa.array(values))
    if isinstance(of, pa.BaseExtensionType):
        return of.wrap_array(pa.array(values, pa.bool_() if name == "bool8" else of.storage_type).cast(of.storage_type))
    return pa.array(values, of)


def write(name, path):
    """Four rows of the type, beside numbers; False where the format does not hold it."""
    table = pa.table({"x": [0.5, 1.5, 2.5, 4.0], "y": column(name)})
    try:
        if path.suffix == ".parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        path.unlink(missing_ok=True)
        return False
    return True


def one_file(path):
    frame = read_table(path)
    return Schema.learn(frame)[0].encode(frame)[0]


def two_files(folder):
    stream, _ = Stream.learn(Parquet.open(folder))
    return np.concatenate([X for X, _ in stream.epoch(0)])


def answer(read, path):
    """The matrix, or the sentence that refuses it."""
    try:
        return read(path)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow"])
def test_a_type_is_read_or_refused_alike_in_one_file_and_in_two(name, suffix, tmp_path):
    path = tmp_path / f"1{suffix}"
    if not write(name, path):
        pytest.skip(OF_PARQUET if suffix == ".parquet" else "a type that no file holds")
    one = answer(one_file, path)
    if name in REFUSED:
        assert isinstance(one, str)
        assert one.startswith(f"expected a table in '{path}'; got ")
        assert "column 'y'" in one
        assert one.isprintable()
    else:
        assert isinstance(one, np.ndarray), one
        assert np.isfinite(one).all()
    if suffix == ".parquet":
        (tmp_path / "two").mkdir()
        for part in "12":
            assert write(name, tmp_path / "two" / f"{part}.parquet")
        two = answer(two_files, tmp_path / "two")
        if isinstance(one, str):
            assert two == one.replace(str(path), str(tmp_path / "two" / "1.parquet"))
        else:
            assert np.array_equal(np.sort(two, 0), np.sort(np.vstack([one, one]), 0))


def test_no_type_of_arrow_is_left_out():
    made = {t.id for t in (column(name).type for name in TYPES)}
    known = {getattr(pa.lib, name) for name in dir(pa.lib) if name.startswith("Type_")}
    old = (
        {pa.lib.Type_INTERVAL_MONTHS, pa.lib.Type_INTERVAL_DAY_TIME}
        if hasattr(pa.lib, "Type_INTERVAL_DAY_TIME")
        else set()
    )
    assert known - made <= old
