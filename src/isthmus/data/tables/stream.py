"""Tables larger than memory: Parquet files read row group by row group.

A `Parquet` is one long table in several files, its rows numbered from 0 in the order of the files. Nothing larger than
a piece of a row group is ever in memory, but for a uniform sample of at most 250,000 rows, from which a `Stream` learns
what a `Schema` learns from a whole table.

In every epoch the row groups come in another order, dealt out to shards as evenly as rows can be, each row to exactly
one; within a shard rows pass through a buffer that exchanges each for a random one of about as many as a row group has.
So rows that stand together in a file whose row groups are much larger than 250,000 rows stay near one another.
"""

from __future__ import annotations

import bisect
import glob
import hashlib
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import Float, Int

from isthmus.data.tables.arrow import arrow_to_frame, expand_texts, plain, plain_schema, text_columns
from isthmus.data.tables.columns import named
from isthmus.data.tables.coordinates import Coordinates
from isthmus.data.tables.files import explained, explained_table, shown_path
from isthmus.data.tables.indices import without_index
from isthmus.data.tables.schema import Schema
from isthmus.data.tables.sizes import MOST_UNPACKED, unpacking_at_most
from isthmus.data.tables.wording import check_known, quoted
from isthmus.disk import replacing
from isthmus.errors import InputError

SAMPLE_ROWS = 250_000
_SAMPLE_NUMBERS, _FEWEST_ROWS = 2**22, 20_000  # 34 MB, of which a fit has a dozen copies; so fewer rows of wide tables
_CHUNK_ROWS, _CHUNK_NUMBERS = 2**16, 2**20  # read at once
_BUFFER_ROWS, _BUFFER_NUMBERS = 2**18, 2**23  # from which rows are drawn in training
_RUN_ROWS = 2**14  # row groups smaller than that are read together
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # in the name of a folder
_FOOTER_END = 8  # bytes: the footer's length, then PAR1

Block = tuple[Float[np.ndarray, "m D"], Float[np.ndarray, "m C"] | None]


class Run(NamedTuple):
    """Consecutive row groups of one file; `first` is the number of their first row in the whole table."""

    path: Path
    groups: tuple[int, ...]
    first: int
    rows: int


class Sample(NamedTuple):
    """Rows of a long table, in its order, with their numbers."""

    rows: Int[np.ndarray, " n"]
    frame: pd.DataFrame


@dataclass(frozen=True)
class Parquet:
    """One long table in Parquet files, never in memory as a whole.

    Attributes:
        files: in the order of their rows.
        schema: the columns and their types, wide enough for every file.
        groups: every row group that holds rows.
        max_unpacked: bytes that what is read at once may unpack to.
        partitions: of each file the values of the columns that the names of its folders state, as `year=2022`.

    Example:
        >>> import tempfile
        >>> from isthmus.data.tables import write_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in range(3):
        ...         write_table(pd.DataFrame({"x": [part, part + 0.5]}), Path(folder, f"{part}.parquet"))
        ...     table = Parquet.open(folder)
        ...     len(table), table.columns, table.sample(2, seed=1).frame["x"].tolist()
        (6, ['x'], [0.5, 2.0])
    """

    files: tuple[Path, ...]
    schema: pa.Schema
    groups: tuple[Run, ...]
    partitions: Mapping[Path, Mapping[str, str | None]] = field(default_factory=dict)
    max_unpacked: int = MOST_UNPACKED

    @classmethod
    def open(cls, *sources: str | Path, max_unpacked: int = MOST_UNPACKED) -> Parquet:
        """Open the table in files, in folders (all that ends in .parquet in them), or in what matches patterns as `*`.

        Within a folder, sub-folders called NAME=VALUE state a column, as Hive and Spark write them; hidden files and
        folders are left out.

        Args:
            sources: paths or patterns, one after the other; what is in a folder or matches a pattern is sorted.
            max_unpacked: bytes that what is read at once, some tens of thousands of rows, may unpack to.

        Raises:
            InputError: there is no Parquet file, one cannot be read, or the files disagree about the columns.
        """
        partitions: dict[Path, Mapping[str, str | None]] = {}
        for source in sources:
            found = _files(source)
            partitions |= zip(found, _partitions(Path(source), found), strict=True)
        files = tuple(path for source in sources for path in _files(source))
        groups, schemas, first = [], [], 0
        for path in files:
            with explained_table(shown_path(path)), pa.parquet.ParquetFile(path) as file:
                footer = file.metadata
                schemas.append(plain_schema(file.schema_arrow))
            for i in range(footer.num_row_groups):
                if rows := footer.row_group(i).num_rows:
                    groups.append(Run(path, (i,), first, rows))
                    first += rows
        schema = _common(files, schemas)
        if not groups or not schema.names:
            raise InputError(f"expected at least one row and one column in {shown_path(files[0])}; got none; check it")
        inside = {path: {k: v for k, v in keys.items() if k not in schema.names} for path, keys in partitions.items()}
        return cls(files, _with_partitions(schema, inside), tuple(groups), inside, max_unpacked)

    def __len__(self) -> int:
        return self.groups[-1].first + self.groups[-1].rows

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._frame(self.schema.empty_table()).columns)

    def types(self, names: Sequence[str]) -> dict[str, pa.DataType]:
        """Return the types in which these columns are stored again."""
        return {name: self.schema.field(name).type for name in names}

    def runs(self, least: int) -> tuple[Run, ...]:
        """Return all row groups, consecutive ones of a file joined while they have fewer than `least` rows together."""
        runs: list[Run] = []
        for group in self.groups:
            last = runs[-1] if runs else None
            if last is not None and last.path == group.path and last.rows < least:
                runs[-1] = last._replace(groups=last.groups + group.groups, rows=last.rows + group.rows)
            else:
                runs.append(group)
        return tuple(runs)

    def frames(self, run: Run) -> Iterator[tuple[int, pd.DataFrame]]:
        """Yield the rows of a run, some tens of thousands at a time, each with the number of its first row.

        Raises:
            InputError: the file cannot be read, or is no longer what it was.
        """
        for first, table in self._tables(run):
            yield first, self._frame(table)

    def sample(self, most: int = SAMPLE_ROWS, *, seed: int = 0) -> Sample:
        """Draw a uniform sample without replacement, all rows where there are no more; in the order of the table.

        Args:
            most: number of rows; fewer of a table with more than 16 columns: 4 million numbers, but 20,000 rows.
            seed: of the draw.
        """
        n = min(most, len(self), _affordable(len(self.schema.names)))
        rows = np.sort(np.array(random.Random(seed).sample(range(len(self)), n), dtype=np.int64))
        taken = []
        for run in self.runs(_CHUNK_ROWS):
            if len(_within(rows, run.first, run.rows)):
                for first, table in self._tables(run):
                    taken.append(table.take(pa.array(_within(rows, first, len(table)) - first)))
        frame = self._frame(pa.concat_tables(taken))
        del taken
        pa.default_memory_pool().release_unused()  # it keeps what it read with otherwise, 270 MB measured
        return Sample(rows, frame)

    def place(self, row: int) -> tuple[Path, int]:
        """Return the file that has a row of the table, and which of the file's rows it is."""
        group = self.groups[bisect.bisect_right(self.groups, row, key=lambda group: group.first) - 1]
        return group.path, row - next(other.first for other in self.groups if other.path == group.path)

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return a fingerprint of the files, without reading their rows: name, size, time, and hash of the footer."""
        return [{"name": path.name, **_fingerprint(path)} for path in self.files]

    def _tables(self, run: Run) -> Iterator[tuple[int, pa.Table]]:
        size = min(_CHUNK_ROWS, 1 << (_CHUNK_NUMBERS // len(self.schema.names)).bit_length())
        at = run.first
        readable = explained(f"the rows of {shown_path(run.path)}", "check that it was not changed or damaged")
        stated = self.partitions.get(run.path, {})
        options = {"buffer_size": 1 << 20, "read_dictionary": [n for n in text_columns(self.schema) if n not in stated]}
        with readable, pa.parquet.ParquetFile(run.path, **options) as file:
            for batch in file.iter_batches(size, row_groups=list(run.groups)):
                table = pa.Table.from_batches([batch])
                for name, value in stated.items():
                    kind = self.schema.field(name)
                    values = pa.array([value] * len(table), pa.string()).cast(kind.type)
                    table = table.append_column(kind, values)
                with unpacking_at_most(self.max_unpacked):
                    table = expand_texts(table, self.schema, run.path)
                yield at, plain(table).select(self.schema.names).cast(self.schema, safe=False)
                at += len(batch)

    def _frame(self, table: pa.Table) -> pd.DataFrame:
        with explained_table(shown_path(self.files[0])):
            return named(arrow_to_frame(table.unify_dictionaries()), f" in {shown_path(self.files[0])}")


@dataclass(frozen=True)
class Stream:
    """A long table as the matrices of its `Schema`, both learnt from a uniform sample; `isthmus.fit` takes it as X.

    Attributes:
        table: the files.
        schema: the map from rows to X and C.
        rows: numbers of the sampled rows, (m,), rising.
        X: the sampled rows, (m, D).
        C: their context, (m, C), or None.

    Example:
        >>> import tempfile
        >>> from isthmus.data.tables import write_table
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_table(pd.DataFrame({"x": range(40), "y": 20 * ["a", "b"]}), Path(folder, "long.parquet"))
        ...     stream, notes = Stream.learn(Parquet.open(folder), most=10)
        ...     rows = np.concatenate([X for X, _ in stream.epoch(0)])
        >>> stream.X.shape, rows.shape, sorted(rows[:, 0]) == list(range(40))
        ((10, 3), (40, 3), True)
    """

    table: Parquet
    schema: Schema
    rows: Int[np.ndarray, " m"]
    X: Float[np.ndarray, "m D"]
    C: Float[np.ndarray, "m C"] | None

    @classmethod
    def learn(
        cls,
        table: Parquet,
        target: Sequence[str] = (),
        coordinates: Coordinates | None = None,
        *,
        most: int = SAMPLE_ROWS,
        seed: int = 0,
    ) -> tuple[Stream, list[str]]:
        """Draw the sample, and learn from it how each column is encoded.

        Args:
            table: the files.
            target: names of the context columns.
            coordinates: which columns say where on a known surface a row is, see `Schema.learn`.
            most: rows of the sample; fewer where X is wide, see `Parquet.sample`.
            seed: of the sample.

        Returns:
            The stream, and what was done to the columns in sentences, see `Schema.learn`.

        Raises:
            InputError: as `Schema.learn`; or a value of the sample does not suit its column.
        """
        for name in target:  # before all files are read
            check_known(name, table.columns, "a target that is a column of the table")
        rows, frame = table.sample(most, seed=seed)
        schema, notes = Schema.learn(without_index(frame), target, coordinates)
        affordable = _affordable(len(schema.features + schema.context_features))
        if affordable < len(rows):
            keep = np.sort(np.random.default_rng(seed).permutation(len(rows))[:affordable])
            rows, frame = rows[keep], frame.iloc[keep]
        return cls(table, schema, rows, *schema.encode(frame)), notes

    def __len__(self) -> int:
        return len(self.table)

    def epoch(
        self,
        number: int,
        *,
        seed: int = 0,
        shard: int = 0,
        shards: int = 1,
        without: Int[np.ndarray, " k"] | None = None,
    ) -> Iterator[Block]:
        """Yield all rows of a shard in a random order, in blocks of any length: X (m, D) and C (m, C) or None.

        The shards of an epoch have every row of the table exactly once, and one row more or less than one another.

        Args:
            number: of the epoch; each has its own order.
            seed: of all orders.
            shard: which of the shards, 0 <= shard < shards.
            shards: how many there are.
            without: numbers of rows to leave out, rising.

        Raises:
            InputError: a value is one that the sample has not prepared for; its row and file are named.
        """
        runs = self.table.runs(_RUN_ROWS)
        order = np.random.default_rng((seed, number)).permutation(len(runs))
        low, high = (len(self) * k // shards for k in (shard, shard + 1))
        D = self.X.shape[1]
        blocks = self._blocks([runs[i] for i in order], low, high, without)
        try:
            for rows in _shuffled(blocks, np.random.default_rng((seed, number, shard))):
                yield rows[:, :D], None if self.C is None else rows[:, D:]
        finally:
            pa.default_memory_pool().release_unused()

    def _blocks(
        self, runs: Sequence[Run], low: int, high: int, without: np.ndarray | None
    ) -> Iterator[Float[np.ndarray, "m width"]]:
        """Yield the rows, X and C side by side, at the places low .. high - 1 of the runs one after the other."""
        start, step = 0, max(1, _CHUNK_NUMBERS // self._width)  # the place of the run's first row
        for run in runs:
            if start < high and start + run.rows > low:
                for first, frame in self.table.frames(run):
                    place = start + first - run.first
                    stop = min(len(frame), high - place)
                    for at in range(max(0, low - place), stop, step):
                        yield self._block(frame.iloc[at : min(at + step, stop)], first + at, without)
            start += run.rows

    def _block(self, frame: pd.DataFrame, first: int, without: np.ndarray | None) -> np.ndarray:
        try:
            X, C = self.schema.encode(frame)
        except InputError as error:
            raise located(error, self.table, first, frame, self.schema.encode) from error
        rows = X if C is None else np.hstack([X, C])
        return rows if without is None else np.delete(rows, _within(without, first, len(X)) - first, axis=0)

    @property
    def _width(self) -> int:
        return self.X.shape[1] + (0 if self.C is None else self.C.shape[1])


def located(
    error: InputError, table: Parquet, first: int, frame: pd.DataFrame, check: Callable[[pd.DataFrame], object]
) -> InputError:
    """Return an error about some rows of a long table with the file and the row in it.

    Args:
        error: what was said of the rows.
        table: the files.
        first: the number of the first row.
        frame: the rows.
        check: raises `InputError` for rows that contain the one at fault.

    Returns:
        The error to raise; as it was where no single row is at fault.
    """
    good, bad = 0, len(frame)  # the first so many rows are fine, the first so many are not
    while bad - good > 1:
        middle = (good + bad) // 2
        if _refusal(check, frame.iloc[good:middle]) is None:
            good = middle
        else:
            bad = middle
    reason = _refusal(check, frame.iloc[good:bad])
    if reason is None or len(frame) == 1 or _refusal(check, frame.iloc[:0]) is not None:
        return error
    path, row = table.place(first + good)
    got, _, advice = str(reason).rpartition("; ")
    return InputError(f"{got} in row {row} (counted from 0) of {shown_path(path)}; {advice}")


def write_frames(frames: Iterable[pd.DataFrame], path: Path, types: Mapping[str, pa.DataType]) -> None:
    """Write tables of the same columns one after the other to one Parquet file, which appears complete or not at all.

    Args:
        frames: at least one.
        path: of the file.
        types: of columns whose values in the first frame may not tell; without any value there, text by default.

    Raises:
        InputError: the file cannot be written.
    """
    writer = None
    with explained(f"to write a table to {shown_path(path)}", "write elsewhere"), replacing(path) as file:
        try:
            for frame in frames:
                schema = pa.Schema.from_pandas(frame, preserve_index=False).remove_metadata()
                schema = pa.schema([field.with_type(types.get(field.name, _text_if_empty(field))) for field in schema])
                writer = writer or pa.parquet.ParquetWriter(file, schema)
                writer.write_table(pa.Table.from_pandas(frame, writer.schema, preserve_index=False))
        finally:
            if writer is not None:
                writer.close()


def count_missing(path: Path) -> int:
    """Count the missing values of the first column of a file that `write_frames` wrote, by its footer.

    Args:
        path: the Parquet file.

    Raises:
        InputError: the file cannot be read.
    """
    readable = explained(f"a Parquet file in {shown_path(path)}", "remove it and run again")
    with readable, pa.parquet.ParquetFile(path) as file:
        groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        return sum(group.column(0).statistics.null_count for group in groups)


def _text_if_empty(field: pa.Field) -> pa.DataType:
    return pa.string() if pa.types.is_null(field.type) else field.type


def _refusal(check: Callable[[pd.DataFrame], object], frame: pd.DataFrame) -> InputError | None:
    try:
        check(frame)
    except InputError as error:
        return error
    return None


def _affordable(width: int) -> int:
    """Return the number of rows of a sample of so many columns."""
    return max(_FEWEST_ROWS, _SAMPLE_NUMBERS // width)


def _within(rows: np.ndarray, first: int, count: int) -> np.ndarray:
    """Return the row numbers, which are sorted, that are among `count` from `first` on."""
    return rows[slice(*np.searchsorted(rows, (first, first + count)))]


def _shuffled(blocks: Iterator[np.ndarray], random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the rows of blocks, each exchanged for a random one of a shuffle buffer, which is emptied at the end."""
    held: np.ndarray | None = None
    for block in blocks:
        room = min(_BUFFER_ROWS, max(1, _BUFFER_NUMBERS // block.shape[1])) - (0 if held is None else len(held))
        if held is None:
            held = block[:room].copy()
        elif room:
            held = np.concatenate([held, block[:room]])
        rest = block[room:]
        if len(rest):
            places = random.permutation(len(held))[: len(rest)]
            yield held[places]
            held[places] = rest
    if held is not None:
        yield held[random.permutation(len(held))]


def _files(source: str | Path) -> list[Path]:
    """Return the Parquet files that a path or a pattern stands for."""
    path, text = Path(source), str(source)
    if os.path.isdir(path):  # hidden files and folders are what other programs are still writing
        found = [p for p in sorted(path.rglob("*.parquet")) if not any(n[0] in "._" for n in p.relative_to(path).parts)]
    elif os.path.exists(path):
        found = [path]
    else:
        found = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
    if not found:
        raise InputError(f"expected Parquet files in {shown_path(source)}; got none; check the path")
    for file in found:
        if file.suffix.lower() != ".parquet" or not os.path.isfile(file):
            raise InputError(
                f"expected files that end in .parquet; got {shown_path(file)}; convert it, or leave it out"
            )
    return found


def _partitions(folder: Path, files: Sequence[Path]) -> list[dict[str, str | None]]:
    """Return what the folders between a folder and each of its files state, nothing for other sources."""
    if not os.path.isdir(folder):
        return [{} for _ in files]
    stated: list[dict[str, str | None]] = []
    for file in files:
        pairs = [part.partition("=") for part in file.relative_to(folder).parts[:-1] if "=" in part]
        stated.append({unquote(k): None if v == _NO_VALUE else unquote(v) for k, _, v in pairs})
        if stated[-1].keys() != stated[0].keys():
            both = f"{shown_path(files[0])} and {shown_path(file)}"
            names = quoted(*sorted(stated[-1].keys() ^ stated[0].keys()))
            raise InputError(
                f"expected folders that state the same columns for {both}; got {names} for one only; move it"
            )
    return stated


def _with_partitions(schema: pa.Schema, partitions: Mapping[Path, Mapping[str, str | None]]) -> pa.Schema:
    """Return the schema with the columns that folders state, of whole numbers where all their values are."""
    names = dict.fromkeys(name for keys in partitions.values() for name in keys)
    for name in names:
        values = [value for keys in partitions.values() if (value := keys.get(name)) is not None]
        whole = all(value.isascii() and value.isdecimal() and str(int(value)) == value for value in values)
        schema = schema.append(pa.field(name, pa.int64() if whole else pa.string()))
    return schema


def _common(files: Sequence[Path], schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return the schema of the first file, of types wide enough for all files."""
    common = schemas[0]
    for path, schema in zip(files, schemas, strict=True):
        odd = sorted(set(schema.names) ^ set(common.names))
        both = f"{shown_path(files[0])} and {shown_path(path)}"
        if odd:
            raise InputError(f"expected the same columns in {both}; got {quoted(*odd)} in one only; write them alike")
        for i, column in enumerate(common):
            other = schema.field(column.name)
            try:
                types = [pa.schema([("", f.type)]) for f in (column, other)]
                wide = pa.unify_schemas(types, promote_options="permissive").field(0).type
            except pa.ArrowException:
                got = f"{column.type} and {other.type}"
                raise InputError(
                    f"expected one type for column {quoted(column.name)} of {both}; got {got}; write them alike"
                ) from None
            common = common.set(i, column.with_type(wide))
    return common


def _fingerprint(path: Path) -> dict[str, Any]:
    with explained(f"a Parquet file in {shown_path(path)}", "check that it is still there"), path.open("rb") as file:
        size, time = os.fstat(file.fileno()).st_size, os.fstat(file.fileno()).st_mtime_ns
        file.seek(size - _FOOTER_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(size - _FOOTER_END - length)
        return {"bytes": size, "time": time, "footer": hashlib.sha256(file.read(length)).hexdigest()}
