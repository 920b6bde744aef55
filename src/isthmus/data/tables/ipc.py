"""How much an Arrow file unpacks to, by its headers: pyarrow has no name for it, and unpacks a batch as a whole.

An Arrow file is a row of messages and a footer with their places. A message is a header and a body of buffers; in a
compressed one each buffer begins with the 8 bytes of its unpacked length, -1 where it is not compressed after all.
Headers and footer are FlatBuffers: tables whose fields are found by number, and vectors of structures.

References:
    Apache Arrow, "Serialization and Interprocess Communication", and its files File.fbs and Message.fbs.
"""

import os
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Batch", "unpacked_batches"]

_BLOCK = np.dtype("<i8,<i4,<i4,<i8")  # where a message is: offset, length of the header, padding, length of the body
_BUFFER = np.dtype("<i8,<i8")  # where a buffer is within a body: offset, length
_FOOTER_END, _LENGTH = 10, 8  # bytes: the footer's length, then ARROW1; the unpacked length of a buffer
_DICTIONARY = 2  # kind of a message
_CONTINUED = b"\xff\xff\xff\xff"  # before the length of a header, but in old files


class Batch(NamedTuple):
    """What a batch of rows, or of values that rows refer to, unpacks to: rows, and bytes of all buffers."""

    rows: int
    size: int


class _Table(NamedTuple):
    """A table of a FlatBuffer, and where it begins."""

    content: bytes
    start: int

    def number(self, start: int, width: int, *, signed: bool = False) -> int:
        """Return the integer at a place."""
        return int.from_bytes(self.content[start : start + width], "little", signed=signed)

    def field(self, i: int) -> int:
        """Return the place of a field; 0 where it is not given."""
        fields = self.start - self.number(self.start, 4, signed=True)
        last = self.number(fields, 2)
        offset = self.number(fields + 4 + 2 * i, 2) if 4 + 2 * i < last else 0
        return self.start + offset if offset else 0

    def table(self, i: int) -> "_Table":
        """Return the table that a field refers to."""
        place = self.field(i)
        return _Table(self.content, place + self.number(place, 4))

    def vector(self, i: int, of: np.dtype) -> np.ndarray:
        """Return the structures that a field refers to."""
        place = self.field(i)
        if not place:
            return np.empty(0, of)
        start = place + self.number(place, 4)
        return np.frombuffer(self.content, of, count=self.number(start, 4), offset=start + 4)


def _root(content: bytes) -> _Table:
    return _Table(content, int.from_bytes(content[:4], "little"))


def unpacked_batches(path: Path) -> list[Batch]:
    """Return what each batch of an Arrow file unpacks to, dictionaries first, from a look at its headers alone.

    Args:
        path: a file that `pyarrow.ipc.open_file` opens.

    Raises:
        ValueError: it is damaged.

    Example:
        >>> import tempfile
        >>> import pyarrow as pa
        >>> table = pa.table({"x": np.zeros(1000)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "t.arrow")
        ...     with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        ...         writer.write_table(table)
        ...     unpacked_batches(path)
        [Batch(rows=1000, size=8000)]
    """
    with path.open("rb") as file:
        end = file.seek(-_FOOTER_END, os.SEEK_END)
        size = int.from_bytes(file.read(4), "little")
        file.seek(end - size)
        footer = _root(file.read(size))
        return [_batch(file, *block) for i in (2, 3) for block in footer.vector(i, _BLOCK).tolist()]


def _batch(file: BufferedReader, start: int, length: int, _: int, size: int) -> Batch:
    """Return what the message at a place unpacks to."""
    file.seek(start)
    header = file.read(length)
    message = _root(header[2 * len(_CONTINUED) if header.startswith(_CONTINUED) else len(_CONTINUED) :])
    batch = message.table(2)
    if message.number(message.field(1), 1) == _DICTIONARY:
        batch = batch.table(1)
    rows = batch.number(batch.field(0), 8, signed=True) if batch.field(0) else 0
    if not batch.field(3):  # not compressed
        return Batch(rows, size)
    unpacked = 0
    for offset, packed in batch.vector(2, _BUFFER).tolist():
        if packed >= _LENGTH:
            file.seek(start + length + offset)
            of_buffer = int.from_bytes(file.read(_LENGTH), "little", signed=True)
            unpacked += packed if of_buffer == -1 else of_buffer
    return Batch(rows, unpacked)
