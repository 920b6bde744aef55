"""How long a whole fit may take, and what is left of it for each of its phases.

The time is shared out by marks, shares of the whole at which a phase is to be over:

    0.40  reading, preparing, trials of curves, the search for a latent dimension
    0.62  training, which has what the search left, and `LEAST_TRAINING` at least
    0.76  the refit of density and noise: fewer candidates, of fewer rows
    0.88  figures and checks, on fewer rows
    1.00  the model and its report, whose figures come last and are left out where no time is left

Each phase does what the clock allows. Without a limit nothing looks at the clock, so that results stay the same bit for
bit.
"""

import math
import time

__all__ = ["CHECKS", "LEAST_TRAINING", "REFIT", "SEARCH", "TRAINING", "Deadline"]

SEARCH, TRAINING, REFIT, CHECKS = 0.40, 0.62, 0.76, 0.88
LEAST_TRAINING = 0.15


class Deadline:
    """The time that something may take, and what of it is spent.

    Args:
        seconds: of the whole; None for no limit.
        started: by `time.monotonic`; now if not given.

    Attributes:
        seconds: as given.
        earlier: seconds that were spent before an interruption.

    Example:
        >>> deadline = Deadline(100.0)
        >>> deadline.earlier = 30.0
        >>> round(deadline.left()), round(deadline.left(0.4)), Deadline().left()
        (70, 10, inf)
    """

    def __init__(self, seconds: float | None = None, *, started: float | None = None) -> None:
        self.seconds = seconds
        self.earlier = 0.0
        self._started = time.monotonic() if started is None else started

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.seconds is not None

    def spent(self) -> float:
        """Return the seconds that are spent, those before an interruption included."""
        return time.monotonic() - self._started + self.earlier

    def left(self, share: float = 1.0) -> float:
        """Return the seconds until a share of the whole is spent: infinite without a limit, negative once it is.

        Args:
            share: of the whole, in [0, 1].
        """
        return math.inf if self.seconds is None else share * self.seconds - self.spent()

    def until(self, share: float, least: float = 0.05) -> "Deadline":
        """Return the deadline of one phase.

        Args:
            share: of the whole at which the phase is to be over.
            least: share of the whole that the phase has in any case, where the phases before took longer.

        Example:
            >>> Deadline(100.0).until(0.4).seconds <= 40, Deadline().until(0.4).seconds
            (True, None)
        """
        return Deadline(None if self.seconds is None else max(self.left(share), least * self.seconds))

    def allows(self, seconds: float) -> bool:
        """Tell whether a limit is at least so long; no limit is.

        Args:
            seconds: of the whole.

        Example:
            >>> Deadline(20.0).allows(60), Deadline().allows(60)
            (False, True)
        """
        return self.seconds is None or self.seconds >= seconds

    def rows(self, per_second: int, least: int) -> int | None:
        """Return how many rows the time that is left is enough for, at a usual pace; None without a limit.

        Args:
            per_second: the pace.
            least: rows in any case.

        Example:
            >>> Deadline(0.5).rows(100, 200), Deadline().rows(100, 200)
            (200, None)
        """
        return None if self.seconds is None else max(least, int(per_second * self.left()))
