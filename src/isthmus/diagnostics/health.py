"""The verdicts on a fit."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from isthmus.errors import InputError

__all__ = ["STATUSES", "Health", "Status", "Verdict"]

Status = Literal["ok", "warn", "fail"]
STATUSES: tuple[Status, ...] = ("ok", "warn", "fail")


@dataclass(frozen=True)
class Verdict:
    """One diagnostic, judged.

    Attributes:
        name: which diagnostic, a key of `LIMITS`, or `finite` or `rows`.
        status: `ok`, `warn` or `fail`.
        value: what was measured, in the unit that `LIMITS` states.
        threshold: the limit that `value` passed, or of a healthy value the one that it would pass next.
        sentence: what was found; if something is wrong, what to do.
    """

    name: str
    status: Status
    value: float
    threshold: float
    sentence: str


@dataclass(frozen=True)
class Health:
    """All verdicts on a fit, causes before their symptoms.

    Example:
        >>> health = Health((Verdict("beta", "fail", 0.01, 0.1, "beta is too low; raise it to about 12"),))
        >>> health.status, health.failing[0].name
        ('fail', 'beta')
        >>> Health.from_dict(health.as_dict()) == health
        True
    """

    verdicts: tuple[Verdict, ...]

    @property
    def status(self) -> Status:
        """The worst status of all; `ok` if there is none."""
        return max((verdict.status for verdict in self.verdicts), key=STATUSES.index, default="ok")

    @property
    def failing(self) -> tuple[Verdict, ...]:
        """The verdicts that fail."""
        return tuple(verdict for verdict in self.verdicts if verdict.status == "fail")

    def summary(self) -> str:
        """Return one line: the status, and the first of the worst verdicts with the number of others."""
        if self.status == "ok":
            return "ok: nothing wrong was found"
        worst = [verdict for verdict in self.verdicts if verdict.status == self.status]
        others = ", ".join(verdict.name for verdict in worst[1:])
        more = f" (also {others})" if others else ""
        return f"{self.status}: {worst[0].name}: {worst[0].sentence}{more}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, which `from_dict` reads; a value that is not finite is None."""
        verdicts = [asdict(verdict) for verdict in self.verdicts]
        for verdict in verdicts:
            verdict["value"] = verdict["value"] if math.isfinite(verdict["value"]) else None
        return {"status": self.status, "verdicts": verdicts}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Health":
        """Read what `as_dict` wrote.

        Raises:
            InputError: it is something else.
        """
        try:
            filled = ({**v, "value": math.nan if v["value"] is None else v["value"]} for v in record["verdicts"])
            verdicts = tuple(Verdict(**verdict) for verdict in filled)
        except (KeyError, TypeError) as error:
            raise InputError(f"expected verdicts as `Health.as_dict` writes them; got {error}; fit again") from error
        if any(verdict.status not in STATUSES for verdict in verdicts):
            raise InputError("expected the status of each verdict to be ok, warn or fail; got another; fit again")
        return cls(verdicts)
