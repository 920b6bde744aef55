"""Files on a disk: written whole or not at all, never through a link, never over something that is not ours.

Every file that isthmus writes comes to its name in one of these ways. A new file is filled under a random name in the
folder where it will stand, flushed to the disk and renamed: whenever the machine stops, the old content is there or the
new one. The random name is made, never opened, so that a link or pipe that waits under it is not followed; a link under
the final name is replaced, not what it points to.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import IO

from isthmus.errors import InputError

__all__ = [
    "appending",
    "check_not_input",
    "check_output_file",
    "is_plain",
    "is_unfinished",
    "move",
    "read_plain",
    "replacing",
    "sweep",
    "sync",
    "write_durably",
]

_TOKEN = 16  # bytes
_UNFINISHED = re.compile(rf"\.[0-9a-f]{{{2 * _TOKEN}}}\.part")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@contextmanager
def replacing(path: Path) -> Iterator[BufferedWriter]:
    """Open a new file that takes the place of another once it is complete.

    Args:
        path: the file; its folder must exist. The permissions of a file that stands there are kept.

    Raises:
        OSError: it could not be written; what stood there is left as it was, and nothing beside it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "a")) as file:
        ...         _ = file.write(b"1")
        ...     os.listdir(folder)
        ['a']
    """
    new = path.with_name(f".{secrets.token_hex(_TOKEN)}.part")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if is_plain(path):
                os.chmod(new, stat.S_IMODE(os.lstat(path).st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)  # half a file would keep a full disk full
    sync(path.parent)


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Replace a file by one with this content.

    Args:
        path: the file; its folder must exist.
        content: all of it.

    Raises:
        OSError: see `replacing`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_durably(Path(folder, "a"), b"1")
        ...     Path(folder, "a").read_bytes()
        b'1'
    """
    with replacing(path) as file:
        file.write(content)


def is_unfinished(name: str) -> bool:
    """Tell whether a name is one of those that `replacing` writes under.

    Args:
        name: of a file, without its folder.

    Example:
        >>> is_unfinished("model.part"), is_unfinished(f".{'0' * 32}.part")
        (False, True)
    """
    return bool(_UNFINISHED.fullmatch(name))


def sweep(folder: Path) -> None:
    """Remove the unfinished files that killed processes left in a folder where no other process is at work.

    Args:
        folder: the folder.

    Raises:
        OSError: it cannot be read, or a file not be removed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, f".{'0' * 32}.part").touch()
        ...     sweep(Path(folder))
        ...     os.listdir(folder)
        []
    """
    for path in folder.iterdir():
        if is_unfinished(path.name) and is_plain(path):
            path.unlink()


def move(source: Path, target: Path) -> None:
    """Rename a finished file, on the disk before and after.

    Args:
        source: the file.
        target: its name from now on, on the same disk; a file that stands there is replaced.

    Raises:
        OSError: it could not be renamed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_durably(Path(folder, "a"), b"1")
        ...     move(Path(folder, "a"), Path(folder, "b"))
        ...     os.listdir(folder)
        ['b']
    """
    sync(source)
    os.replace(source, target)
    sync(target.parent)


@contextmanager
def appending(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to add to its end.

    Args:
        path: the file; made if there is none.

    Raises:
        OSError: it cannot be opened, or is a link, a pipe or a device.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for _ in range(2):
        ...         with appending(Path(folder, "a")) as file:
        ...             _ = file.write(b"1")
        ...     Path(folder, "a").read_bytes()
        b'11'
    """
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, "ab") as file:
        yield file


def read_plain(path: Path, most: int) -> bytes:
    """Read a file of ours, of at most so many bytes.

    Args:
        path: the file.
        most: bytes that are read of it.

    Raises:
        OSError: there is none, or a link, a pipe, a device or a larger file.

    Example:
        >>> read_plain(Path("/dev/null"), 10)
        Traceback (most recent call last):
        ...
        OSError: [Errno 22] not a regular file: '/dev/null'
    """
    with _opened(path, os.O_RDONLY, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes", str(path))
    return content


@contextmanager
def _opened(path: Path, flags: int, mode: str) -> Iterator[IO[bytes]]:
    """Open a regular file that is no link; a pipe is not waited for."""
    descriptor = os.open(path, flags | _NO_LINK, 0o666)
    with os.fdopen(descriptor, mode) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file


def is_plain(path: Path) -> bool:
    """Tell whether a regular file stands there: no folder, no link, pipe or device.

    Example:
        >>> is_plain(Path("/dev/null")), is_plain(Path("no such file"))
        (False, False)
    """
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Args:
        path: the file or folder.

    Raises:
        OSError: the disk failed.
    """
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in {errno.EINVAL, errno.ENOTSUP}):  # some file systems know no such thing
            raise
    finally:
        os.close(descriptor)


def check_output_file(path: Path, inputs: Iterable[Path] = (), *, force: bool = False) -> None:
    """Refuse to write where an input stands, or anything else that may not be replaced.

    Args:
        path: the file that is to be written.
        inputs: files that are read for it; by whatever name or link they are known, none is ever replaced.
        force: whether an existing file is replaced.

    Raises:
        InputError: it may not be written.

    Example:
        >>> check_output_file(Path("/dev/null"))
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected a file to write; got /dev/null, which is none; choose another name
    """
    try:
        there = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise InputError(f"expected a file to write; got {path}, a broken link; remove it") from None
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"expected a file to write; got {path}: {reason}; choose another name") from error
    if not stat.S_ISREG(there.st_mode):
        raise InputError(f"expected a file to write; got {path}, which is none; choose another name")
    check_not_input(path, inputs)
    if not force:
        raise InputError(f"expected a new file; got {path}, which exists; choose another name or --force")


def check_not_input(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write a file that is read, by whatever name or link it is known.

    Args:
        path: the file that is to be written, or a link to it; it must exist.
        inputs: files that are read.

    Raises:
        InputError: it is one of them.

    Example:
        >>> check_not_input(Path("."), [Path("..", Path.cwd().name)])
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected an output apart from the input; got ., which is read; choose another name
    """
    for source in inputs:
        if _same(source, path):
            raise InputError(f"expected an output apart from the input; got {path}, which is read; choose another name")


def _same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # not there, or an impossible name
        return False
