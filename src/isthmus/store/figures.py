"""`metrics.json`: the figures of a fit, by which its scores are trusted or not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError

from isthmus.diagnostics.health import Health, Status
from isthmus.errors import InputError
from isthmus.store.folders import explained, read_json

__all__ = ["Candidate", "Figures", "Source", "Tried", "migrate_figures", "read_figures", "write_figures"]


def _not_negative(value: float) -> float:
    if value < 0:  # NaN, of a training that failed, is none
        raise ValueError("a negative number")
    return value


def _squares(values: dict[str, float]) -> dict[str, float]:
    _not_negative(values.get("reconstruction_mse", 0.0))
    return values


Count = Annotated[int, Field(ge=0, le=10**18)]
Size = Annotated[float, AfterValidator(_not_negative)]
Means = Annotated[dict[str, float], AfterValidator(_squares)]
_OPTIONAL: Any = Field(default=None)  # not there; a null that is there is refused, as a default is not validated


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    def plain(self) -> dict[str, Any]:
        """Return the figures that are there as plain values for JSON."""
        return self.model_dump(exclude_unset=True)


class _Verdict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    status: Status
    value: float | None
    threshold: float
    sentence: str


class _Health(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    status: Status
    verdicts: list[_Verdict]


def _health(record: Any) -> Health:
    if isinstance(record, Health):
        return record
    health = Health.from_dict(_Health.model_validate(record).model_dump())
    if health.status != record["status"]:
        raise ValueError(f"{record['status']!r} where the worst verdict is {health.status!r}")
    return health


Checks = Annotated[Health, PlainValidator(_health), PlainSerializer(Health.as_dict)]


class Candidate(_Part):
    """A density that the refit tried: the names of its parts, and its held-out mean log density in nats."""

    latent: dict[str, Any]
    noise: dict[str, Any] | None
    log_likelihood: float


class Tried(_Part):
    """A latent dimension that the search tried: its held-out mean log density in nats, with its standard error."""

    latent_dim: Count
    log_likelihood: float
    standard_error: Size


class Source(_Part):
    """The table of a fit: its rows, and a hash of them or the number of files and of rows that were sampled."""

    rows: Count
    sha256: str = _OPTIONAL
    sampled: Count = _OPTIONAL
    files: Count = _OPTIONAL


class Figures(_Part):
    """The figures of a fit. Each is None where there is none, and others may stand beside them.

    Attributes:
        training_seconds: of the training alone.
        seconds: of the whole fit.
        steps: optimiser steps.
        best_step: the step whose weights were kept.
        skipped_steps: steps without a finite gradient.
        retreats: how many times training went back to earlier weights.
        beta: weight of the squared reconstruction error at the kept step.
        beta_reason: where it comes from.
        latent_dim: d.
        measure: name of the measure that log densities are with respect to.
        latent_dim_curve: the dimensions that were tried.
        heavy_tailed: numbers of the columns that are curved.
        validation: held-out means: `reconstruction_mse`, and a `log_density_...` in nats for each evaluation.
        density_candidates: the densities that the refit tried.
        curving: what curving heavy tails gained.
        health: verdicts on held-out rows.
        table: the table that was fitted.
        stream: the long table of which a sample was fitted first.
        command: the command line that made the model.

    Example:
        >>> Figures(steps=20, beta=None).model_dump(exclude_unset=True)
        {'steps': 20, 'beta': None}
    """

    training_seconds: Size = _OPTIONAL
    seconds: Size = _OPTIONAL
    steps: Count = _OPTIONAL
    best_step: Count = _OPTIONAL
    skipped_steps: Count = _OPTIONAL
    retreats: Count = _OPTIONAL
    beta: float | None = _OPTIONAL
    beta_reason: str | None = _OPTIONAL
    latent_dim: Count | None = _OPTIONAL
    measure: str = _OPTIONAL
    latent_dim_curve: list[Tried] = _OPTIONAL
    heavy_tailed: list[Count] = _OPTIONAL
    validation: Means = _OPTIONAL
    density_candidates: list[Candidate] = _OPTIONAL
    curving: dict[str, float] | None = _OPTIONAL
    health: Checks = _OPTIONAL
    table: Source = _OPTIONAL
    stream: Source = _OPTIONAL
    command: str = _OPTIONAL

    def but(self, **figures: Any) -> "Figures":
        """Return these figures with others in the place of some."""
        return Figures.model_validate(self.plain() | figures)


_RENAMED = {
    "ambient_log_likelihood_linearised": "log_density_linearised",
    "manifold_log_likelihood": "log_density_manifold",
    "ambient_log_likelihood": "log_density",
}


def migrate_figures(figures: Mapping[str, Any], version: int) -> dict[str, Any]:
    """Return the figures of a run, or a line of its log, of some format under their names of now."""
    if version >= 6:
        return dict(figures)
    return {
        _RENAMED.get(name, name): migrate_figures(value, version) if isinstance(value, dict) else value
        for name, value in figures.items()
    }


def read_figures(path: Path, version: int) -> Figures:
    """Read the figures of a fit.

    Args:
        path: of `metrics.json`.
        version: format of the model folder.

    Raises:
        InputError: they are not of the types that `Figures` says.
    """
    try:
        return Figures.model_validate(migrate_figures(read_json(path), version))
    except ValidationError as error:
        raise InputError(
            f"expected the figures of a fit in {path}; got {explained(error)}; the model is damaged, fit it again"
        ) from error


def write_figures(figures: Figures, path: Path) -> None:
    """Write `metrics.json`."""
    path.write_text(json.dumps(figures.plain(), indent=1))
