"""How much memory a compressed file may unpack to: some 100 kB can hold gigabytes of one and the same value.

What a format tells in advance is checked before anything is unpacked, the rest is counted while it is unpacked. A file
that is not compressed is as large as it looks, and is not bounded.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from io import BufferedIOBase
from pathlib import Path

from isthmus.data.tables.wording import one_line
from isthmus.errors import InputError

__all__ = ["MOST_UNPACKED", "check_unpacked", "parse_size", "read_unpacked", "shown_size", "unpacking_at_most"]

MOST_UNPACKED = 4 << 30
"""Bytes that a compressed file may unpack to, unless another bound is given."""

_most: ContextVar[int] = ContextVar("most_unpacked", default=MOST_UNPACKED)
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?([KMGT]?)(?:I?B)?", re.ASCII | re.IGNORECASE)
_CHUNK = 1 << 20  # bytes


def parse_size(text: str) -> int:
    """Return the bytes of a size such as 512MiB; K, M, G and T are powers of 1024, written with B, iB or nothing.

    Args:
        text: a number, and perhaps a unit.

    Raises:
        InputError: it is no such size.

    Example:
        >>> parse_size("8GiB"), parse_size("1.5 M"), parse_size("100")
        (8589934592, 1572864, 100)
    """
    size = _SIZE.fullmatch(text.strip())
    if size is None:
        raise InputError(f"expected a size such as 8GiB; got {one_line(repr(text), 60)}; write a number and its unit")
    return int(float(size[1]) * (1 << 10 * " KMGT".index(size[2].upper() or " ")))


def shown_size(size: int) -> str:
    """Return a size in the unit that suits it.

    Example:
        >>> shown_size(9 << 30), shown_size(1536), shown_size(12)
        ('9 GiB', '1.5 KiB', '12 B')
    """
    power = min(4, max(0, size.bit_length() - 1) // 10)
    return f"{size / (1 << 10 * power):.4g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


@contextmanager
def unpacking_at_most(most: int) -> Iterator[None]:
    """Set the bound of `check_unpacked` meanwhile.

    Args:
        most: bytes.

    Example:
        >>> with unpacking_at_most(10):
        ...     check_unpacked(11, "a.npz")
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected 'a.npz' to unpack to at most 10 B; got at least 11 B; allow more with ...
    """
    token = _most.set(most)
    try:
        yield
    finally:
        _most.reset(token)


def check_unpacked(size: int, path: str | Path) -> None:
    """Refuse a compressed file that unpacks to more than the bound.

    Args:
        size: bytes that it unpacks to, as far as is known.
        path: the file, for the message.

    Raises:
        InputError: it is more than the bound, which is `MOST_UNPACKED` or that of `unpacking_at_most`.

    Example:
        >>> check_unpacked(1 << 30, "a.parquet")
    """
    most = _most.get()
    if size > most:
        got = f"at least {shown_size(size)}; allow more with --max-unpacked"
        enough = shown_size(1 << size.bit_length()).replace(" ", "")
        raise InputError(
            f"expected {one_line(repr(str(path)), 400)} to unpack to at most {shown_size(most)}; got {got} {enough}"
        )


def read_unpacked(stream: BufferedIOBase, path: str | Path) -> bytes:
    """Read all that a stream unpacks to, counting meanwhile.

    Args:
        stream: such as that of `gzip.open`.
        path: the file, for the message.

    Raises:
        InputError: it is more than the bound.

    Example:
        >>> import io
        >>> read_unpacked(io.BytesIO(b"abc"), "a.gz")
        b'abc'
    """
    chunks, size = [], 0
    while chunk := stream.read(_CHUNK):
        size += len(chunk)
        check_unpacked(size, path)
        chunks.append(chunk)
    return b"".join(chunks)
