"""Standard output and standard error while a verb runs: text that any terminal takes, and failures in one line."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["OutputError", "standard_streams"]


class OutputError(Exception):
    """Standard output cannot be written."""


class _Raw(io.RawIOBase):
    """Standard output, whose failures are told from those of other files; without a descriptor, a closed one."""

    def __init__(self, descriptor: int | None) -> None:
        super().__init__()
        self.descriptor, self.failed = descriptor, False

    def fileno(self) -> int:
        """Return the file descriptor."""
        if self.descriptor is None:
            raise io.UnsupportedOperation("standard output is closed")
        return self.descriptor

    def writable(self) -> bool:
        """Tell that the stream is meant for writing."""
        return True

    def write(self, content: Any) -> int:
        """Write some bytes; once that has failed, what buffers still hold goes nowhere."""
        if self.failed:
            return len(content)
        try:
            if self.descriptor is None:
                raise OSError(errno.EBADF, "closed")
            return os.write(self.descriptor, content)
        except OSError as error:
            self.failed = True
            if isinstance(error, BrokenPipeError):
                raise
            raise OutputError(
                f"expected to write to standard output; got {error.strerror!r}; redirect it elsewhere"
            ) from error


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Have what a terminal cannot show escaped, and what standard output cannot take raise `OutputError`.

    Streams that others have put in the place of the process's own are left as they are.
    """
    before, own = (sys.stdout, sys.stderr), sys.stdout is sys.__stdout__
    output: Any = sys.stdout
    errors: Any = sys.stderr
    with contextlib.ExitStack() as stack:
        if errors is None:
            sys.stderr = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        if output is None:
            _occupy(1)
            sys.stdout = _output(None, "utf-8")
        elif own and not output.isatty():
            output.flush()
            sys.stdout = _output(output.fileno(), output.encoding)
        elif own:
            output.reconfigure(errors="backslashreplace")
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _output(descriptor: int | None, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(_Raw(descriptor)), encoding=encoding, errors="backslashreplace")


def _occupy(descriptor: int) -> None:
    """Put the null device where nothing is open, lest the next file that is opened becomes standard output."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
