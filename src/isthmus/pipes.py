"""Pipes in place of files, as the shell makes of `<(command)`: read to their end, once, and never waited for in vain.

A pipe that no program writes to, or that has been read already, would be waited for without end; so would some devices.
"""

import os
import stat
from pathlib import Path

from isthmus.errors import InputError

__all__ = ["is_pipe", "read_pipe"]


def is_pipe(path: str | Path) -> bool:
    """Return whether a path is neither a file nor a folder, but a pipe, socket or device.

    Example:
        >>> is_pipe("/dev/null"), is_pipe("."), is_pipe("no-such-file")
        (True, False, False)
    """
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def read_pipe(path: str | Path) -> bytes:
    """Read a pipe to its end.

    Args:
        path: a pipe.

    Returns:
        All that was written to it; something.

    Raises:
        InputError: it is another thing, or no program writes to it.

    Example:
        >>> read_pipe("/dev/null")
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected a file, or a pipe that a program writes to; got '/dev/null'; store its ...
    """
    try:
        content = _drained(path) if stat.S_ISFIFO(os.stat(path).st_mode) else b""
    except OSError as error:
        raise InputError(f"expected to read {str(path)!r}; got {error.strerror}; check the path") from error
    if not content:
        advice = "store its content in a file, or give - and pass it on standard input"
        raise InputError(f"expected a file, or a pipe that a program writes to; got {str(path)!r}; {advice}")
    return content


def _drained(path: str | Path) -> bytes:
    """Return what a pipe holds, waiting for more only while it has a writer."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        start = pipe.read(1)  # None where there is a writer, who has written nothing yet
        if start == b"":
            return b""
        os.set_blocking(pipe.fileno(), True)
        return (start or b"") + pipe.readall()
