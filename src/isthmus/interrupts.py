"""What asks a program to stop: Ctrl-C, SIGTERM (a scheduler, `docker stop`) and SIGHUP (a terminal that is closed).

All become a `KeyboardInterrupt`, so that whatever is cleaned up after Ctrl-C is cleaned up after each of them.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["STOPPING", "Interruption", "handlers", "interruptible"]

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a program to stop, where the system knows them."""

_SAME = 2.0  # seconds; the kernel and a shell may both tell a program that its terminal is closed


class Interruption:
    """A signal handler that raises `KeyboardInterrupt`, and remembers the signal.

    Attributes:
        signal: the one that arrived, None as long as none did.

    Example:
        >>> interruption = Interruption()
        >>> try:
        ...     interruption(signal.SIGTERM)
        ... except KeyboardInterrupt:
        ...     interruption.signal, interruption.code
        (<Signals.SIGTERM: 15>, 143)
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._last = -_SAME

    def __call__(self, number: int, _: FrameType | None = None) -> None:
        """Remember the signal and raise, but where it repeats one that is being obeyed; a second Ctrl-C does raise."""
        before, self._last = self._last, time.monotonic()
        if number != signal.SIGINT and self.signal is not None and self._last - before < _SAME:
            return
        self.signal = signal.Signals(number)
        raise KeyboardInterrupt

    @property
    def code(self) -> int:
        """The exit code of a stopped program: 128 and the number of the signal, that of Ctrl-C if there was none."""
        return 128 + (self.signal or signal.SIGINT)


def handlers() -> dict[signal.Signals, Callable[[int, FrameType | None], object]]:
    """Return the signals that raise `KeyboardInterrupt` now, each with its handler; none but in the main thread.

    Example:
        >>> before = signal.signal(signal.SIGINT, signal.default_int_handler)
        >>> list(handlers())
        [<Signals.SIGINT: 2>]
        >>> _ = signal.signal(signal.SIGINT, before)
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    current = {number: signal.getsignal(number) for number in STOPPING}
    return {
        number: handler
        for number, handler in current.items()
        if isinstance(handler, Interruption) or handler is signal.default_int_handler
    }


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Let every signal that asks to stop raise `KeyboardInterrupt`, and restore its handler afterwards.

    A signal that is ignored, as SIGHUP under `nohup`, stays ignored; one that the program handles itself stays so.
    Outside the main thread nothing changes.

    Yields:
        What remembers the signal that arrived.

    Example:
        >>> with interruptible() as interruption:
        ...     try:
        ...         signal.raise_signal(signal.SIGTERM)
        ...     except KeyboardInterrupt:
        ...         interruption.code
        143
    """
    interruption = Interruption()
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in STOPPING if main}
    usual = [number for number, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    try:
        for number in usual:
            signal.signal(number, interruption)
        yield interruption
    finally:
        for number in usual:
            signal.signal(number, before[number])
