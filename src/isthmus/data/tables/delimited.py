"""Text files of cells between delimiters: what is a name, a number, a missing value or a code is decided by the cells.

Nothing is asked that the rows can tell: the delimiter is the one that makes rows of one width and numbers of their
cells; the first row is a header if it differs in type from the rows below; a column is of numbers if all its cells are
written in one form, but for a few spellings of a missing value. Arrow reads the file, once; columns whose type needs a
second look come as text and are converted here. What was decided goes into a `Dialect`, and in words into notes, both
in `frame.attrs["reading"]`, from where `Schema.learn` takes them. Later files are read alike.
"""

from __future__ import annotations

import contextvars
import io
import itertools
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.csv
from pydantic import BaseModel, ConfigDict

from isthmus.data.tables.columns import Column
from isthmus.data.tables.numerals import FORMS, Form, are_codes, explain, is_missing, numbers, ranked, times, whole
from isthmus.data.tables.sizes import check_unpacked
from isthmus.data.tables.sniffing import Kind, delimiter_of, has_header, kind_of, preamble, rows_of
from isthmus.data.tables.wording import listed, quoted

__all__ = ["Asked", "Dialect", "Reading", "read_delimited"]

_HEAD, _LONGEST_HEAD = 1 << 20, 1 << 28  # bytes looked at, to find three lines
_HEAD_LINES = 3
_BLOCK = 1 << 20  # bytes that Arrow reads at once; a line must fit in


class Dialect(BaseModel):
    """What was decided about a file, to be held to in later ones; plain data, stored with the schema.

    Attributes:
        delimiter: between cells.
        header: whether the first row is of names.
        form: how numbers are written, one of `isthmus.data.tables.numerals.FORMS`; "" where no cell tells.
        exceptions: columns whose numbers are written in another form -> that form.
        missing: spellings of a missing value that the user named.
        words: unusual spellings of a missing value in columns of numbers.

    Example:
        >>> Dialect(delimiter=";", form="1.234,5").model_dump(exclude_defaults=True)
        {'delimiter': ';', 'form': '1.234,5'}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    delimiter: str = ","
    header: bool = True
    form: Form | Literal[""] = ""
    exceptions: dict[str, Form] = {}
    missing: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


class Asked(NamedTuple):
    """What a reader is told beforehand.

    Attributes:
        missing: further spellings of a missing value, in every column.
        decimal: the decimal mark, "." or ","; "" where the cells are to tell.
        columns: of the schema that the table is to suit.
        before: how the table of that schema was read.
    """

    missing: tuple[str, ...] = ()
    decimal: str = ""
    columns: tuple[Column, ...] = ()
    before: Dialect | None = None

    @property
    def kinds(self) -> dict[str, str]:
        """Name -> "text", or the kind of the column, as far as they say how cells are to be read."""
        texts = {c.name for c in self.columns if c.levels and all(isinstance(level, str) for level in c.levels)}
        return {column.name: "text" if column.name in texts else column.kind for column in self.columns}


class Reading(BaseModel):
    """How a file was read.

    Attributes:
        dialect: what was decided; None where the format leaves nothing to decide.
        notes: the same in sentences for the user.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dialect: Dialect | None = None
    notes: tuple[str, ...] = ()


class _Counted(io.RawIOBase):
    """A stream whose bytes are counted while they are read, against the bound of `check_unpacked`."""

    def __init__(self, stream: Any, path: str | Path) -> None:
        self._stream, self._path, self._size = stream, path, 0
        self._context = contextvars.copy_context()  # Arrow reads in a thread of its own

    def readable(self) -> bool:
        """Tell that the stream can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes, and refuse them where they are too many together with those before."""
        block = self._stream.read(size if size >= 0 else None)
        self._size += len(block)
        self._context.run(check_unpacked, self._size, self._path)
        return block

    def close(self) -> None:
        """Close the stream too."""
        self._stream.close()
        super().close()


class _File:
    """A file of cells: its first rows, and what Arrow makes of all.

    Attributes:
        header: whether the first row is of names.
        names: of all columns; c0, c1, ... where there are none.
        samples: of each column, its first cells.
    """

    def __init__(self, source: Path | pa.Buffer, compression: str | None, delimiter: str, asked: Asked) -> None:
        self.source, self.compression, self.asked = source, compression, asked
        with self.stream() as stream:
            head, cut = _head(stream)
        self._block = max(_BLOCK, 1 << (2 * max(map(len, head.splitlines()), default=0)).bit_length())
        text = head.decode("utf-8-sig", errors="replace")
        self._skipped = preamble(text)
        text = "".join(text.splitlines(keepends=True)[self._skipped :])
        self.delimiter = delimiter or delimiter_of(text, cut=cut)
        rows = rows_of(text, self.delimiter, cut=cut)
        headless = asked.before is not None and not asked.before.header
        self.header = has_header(rows, [column.name for column in asked.columns], headless=headless)
        self.names = rows[0] if rows and self.header else [f"c{j}" for j in range(len(rows[0]) if rows else 0)]
        if any("\ufffd" in name for name in self.names) and b"\xef\xbf\xbd" not in head:
            raise ValueError("a first row that does not decode as UTF-8")
        if self.names.count("") > 1:
            self.names = [name or f"c{j}" for j, name in enumerate(self.names)]
        below = rows[1:] if self.header else rows
        cells: Iterable[tuple[str, ...]] = itertools.zip_longest(
            *(row[: len(self.names)] for row in below), fillvalue=""
        )
        self.samples = dict(zip(self.names, itertools.chain(cells, itertools.repeat(())), strict=False))

    def stream(self) -> Any:
        """Open the file as a stream of decompressed bytes."""
        plain = pa.input_stream(self.source, self.compression)
        return pa.PythonFile(_Counted(plain, str(self.source)), "r") if self.compression else plain

    def read(self, texts: Collection[str], only: Sequence[str] | None = None, *, decimal: str = ".") -> pa.Table:
        """Parse the table, or some of its columns; `texts` names those that are read as text."""
        parse = pa.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)
        convert = pa.csv.ConvertOptions(
            strings_can_be_null=True,
            null_values=[*pa.csv.ConvertOptions().null_values, *self.asked.missing],
            column_types=dict.fromkeys(texts, pa.string()),
            include_columns=only,
            decimal_point=decimal,
        )
        block = self._block
        while True:
            read = pa.csv.ReadOptions(
                block_size=block,
                column_names=self.names,
                skip_rows=self._skipped,
                skip_rows_after_names=int(self.header),
            )
            try:
                with self.stream() as stream:
                    return pa.csv.read_csv(stream, read, parse, convert)
            except pa.ArrowInvalid as error:
                if "straddling" not in str(error) or block >= _LONGEST_HEAD:
                    raise
                block *= 8  # a later line is longer than the first ones


def _head(stream: Any) -> tuple[bytes, bool]:
    """Read the first bytes, of three lines at least, and tell whether there are more."""
    head = stream.read(_HEAD)
    while head.count(b"\n") < _HEAD_LINES and len(head) < _LONGEST_HEAD and (more := stream.read(len(head) or 1)):
        head += more
    return head, bool(stream.read(1))


def read_delimited(
    source: Path | pa.Buffer, *, delimiter: str = "", compression: str | None = None, asked: Asked | None = None
) -> tuple[pa.Table, Reading]:
    r"""Read a text file of cells between delimiters.

    Args:
        source: the file, or its content.
        delimiter: between cells; "" where the rows are to tell.
        compression: as in `pyarrow.input_stream`.
        asked: what is known beforehand.

    Returns:
        The table, and how it was read.

    Raises:
        InputError: it unpacks to more than the bound.
        pyarrow.ArrowInvalid: it is no such file.

    Example:
        >>> table, reading = read_delimited(pa.py_buffer(b"a;b;c\n1,5;?;007\n2;8;010\n"))
        >>> table.to_pylist()
        [{'a': 1.5, 'b': None, 'c': '007'}, {'a': 2.0, 'b': 8, 'c': '010'}]
        >>> print(*reading.notes, sep="\n")
        Cells are separated by ';'.
        Numbers are written like 1.234,5 (1): 'a'.
        Digits that begin with a zero are codes, kept as text (1): 'c'.
        Among numbers, or times, these cells are missing values (1): 'b' '?' (1).
    """
    file = _File(source, compression, delimiter, asked or Asked())
    if len(set(file.names)) < len(file.names) or not file.names:
        return file.read([]), Reading(dialect=Dialect(delimiter=file.delimiter))
    return _Converter(file).table()


class _Converter:
    """The columns of a file, one after the other, and what is decided on the way."""

    def __init__(self, file: _File) -> None:
        self.file, self.asked, self.kinds = file, file.asked, file.asked.kinds
        before = self.asked.before
        alike = before is not None and before.delimiter == file.delimiter
        self.before = before if before is not None and alike else Dialect()
        self.looks = {name: {kind_of(cell) for cell in cells} - {Kind.BLANK} for name, cells in file.samples.items()}
        self.forms = self._forms()
        self.form: Form | Literal[""] = ""
        self.exceptions: dict[str, Form] = {}
        self.marked: dict[Form, list[str]] = {}  # form -> columns
        self.words: dict[str, dict[str, int]] = {}  # column -> spelling of a missing value -> how often
        self.nearly: dict[str, dict[str, int]] = {}  # column -> what is no number -> how often
        self.codes: list[str] = []

    def table(self) -> tuple[pa.Table, Reading]:
        """Return the table, and how it was read."""
        texts, decimal = self._texts(), FORMS[self.forms[0]].decimal
        table = self.file.read(texts, decimal=decimal)
        columns = {name: self._column(name, table.column(name)) for name in self.file.names}
        inferred = [n for n in texts if columns[n].type == pa.string() and n not in self.codes and not self._is_text(n)]
        if inferred:  # the first rows look like numbers, others do not
            again = self.file.read([], inferred, decimal=decimal)
            columns |= {name: again.column(name) for name in inferred}
        dialect = Dialect(
            delimiter=self.file.delimiter,
            header=self.file.header,
            form=self.form,
            exceptions=self.exceptions,
            missing=self.asked.missing,
            words=tuple(sorted({word for words in self.words.values() for word in words if not is_missing(word)})),
        )
        return pa.table(columns), Reading(dialect=dialect, notes=self._notes())

    def _forms(self) -> list[Form]:
        """Return the forms of numbers, in the order in which they are tried."""
        names = [name for name, form in FORMS.items() if self.asked.decimal in ("", form.decimal)]
        names.sort(key=lambda name: name != self.before.form)
        numeric = [name for name, look in self.looks.items() if Kind.DECIMAL in look and not self._is_text(name)]
        cells = [cell for name in numeric for cell in self.file.samples[name]]
        return ranked(
            pa.array(cells, pa.string()), names, ungrouped=self.file.delimiter == ";" and not self.before.form
        )

    def _is_text(self, name: str) -> bool:
        return self.kinds.get(name) == "text"

    def _texts(self) -> list[str]:
        """Return the columns to be read as text: those known to be, and whole numbers, which may be codes."""
        whole_numbers = [name for name, look in self.looks.items() if look == {Kind.WHOLE} and name not in self.kinds]
        return [*filter(self._is_text, self.looks), *whole_numbers]

    def _column(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Convert a column that came as text to what it is."""
        if column.type == pa.float64() and FORMS[self.forms[0]].decimal == ",":
            self._mark(name, self.forms[0])
        if column.type != pa.string() or self._is_text(name):
            return column
        if column.null_count == len(column):
            return column.cast(pa.null())
        certain = self.kinds.get(name) == "number"
        if not certain and are_codes(column):
            self.codes.append(name)
            return column
        integers = whole(column)
        return self._numbers(name, column, certain=certain) if integers is None else integers

    def _numbers(self, name: str, column: pa.ChunkedArray, *, certain: bool) -> pa.ChunkedArray:
        """Convert a column of text to numbers or times, if it is of such."""
        first = self.before.exceptions.get(name, self.forms[0])
        forms = [first, *(form for form in self.forms if form != first)]
        words = (*self.before.words, *self.asked.missing)
        result = numbers(column, forms, words, certain=certain)
        if result is None or (result.others and not certain):
            dates = times(column, words, certain=self.kinds.get(name) == "time")
            if dates is not None:
                values, self.words[name] = dates
                return values
            if result is not None:
                self.nearly[name] = result.others
            return column
        if result.words:
            self.words[name] = result.words
        if result.marked:
            self._mark(name, result.form)
        if result.form != self.forms[0]:
            self.exceptions[name] = result.form
        return result.values

    def _mark(self, name: str, form: Form) -> None:
        """Note that the cells of a column tell the form."""
        self.marked.setdefault(form, []).append(name)
        if form == self.forms[0]:
            self.form = form

    def _notes(self) -> tuple[str, ...]:
        """Return notes on what was decided, one sentence a kind of decision."""
        notes = []
        if self.file.delimiter not in ",\t":
            notes.append(f"Cells are separated by {quoted(self.file.delimiter)}.")
        if not self.file.header:
            notes.append("The first row is of values, as those below, so columns are called c0, c1, and so on.")
        elif not any(kind_of(name) is Kind.TEXT for name in self.file.names):
            notes.append(f"The first row is of names, as it differs from the rows below: {quoted(*self.file.names)}.")
        for form, columns in self.marked.items():
            notes.append(f"Numbers are written like {form} ({len(columns)}): {quoted(*columns)}.")
        if self.codes:
            notes.append(
                f"Digits that begin with a zero are codes, kept as text ({len(self.codes)}): {quoted(*self.codes)}."
            )
        spelled = "Among numbers, or times, these cells are missing values"
        nearly = "Columns of numbers are text, as these cells are none; --missing WORD makes one a missing value"
        for sentence, cells in ((spelled, self.words), (nearly, self.nearly)):
            if cells:
                shown = listed([f"{quoted(name)} {explain(words)}" for name, words in cells.items()])
                notes.append(f"{sentence} ({len(cells)}): {shown}.")
        return tuple(notes)
