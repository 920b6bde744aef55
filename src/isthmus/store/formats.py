"""`config.json` and `metrics.json`: what they hold, in this version and in those before it.

A change of the format takes three lines: `FORMAT` goes up by one, `MIGRATIONS` gets a function from the record of the
version before to that of this one, and `tests/models/` a folder of the new format, which is read for ever.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from isthmus.data.tables import Schema
from isthmus.data.tables.wording import one_line
from isthmus.diagnostics.health import STATUSES, Status
from isthmus.errors import InputError
from isthmus.recipe import Part, Recipe
from isthmus.store.folders import CHECKSUMS, read_bytes, verify

__all__ = [
    "FORMAT",
    "MIGRATIONS",
    "RENAMED_TENSORS",
    "SIGNED",
    "Config",
    "Figures",
    "migrate_figures",
    "read_config",
    "read_figures",
]

FORMAT = 6

SIGNED = {"config.json": 3, "model.safetensors": 3, "metrics.json": 5}
"""Name of a file that has a checksum -> the first format where it has."""

_FIRST_WITH_CHECKSUMS = min(SIGNED.values())

Record = dict[str, Any]


def _with_checksums(record: Record) -> Record:
    """Upgrade to format 3, which has checksums beside `config.json`; in it nothing changed."""
    return record


def _with_stages(record: Record) -> Record:
    """Upgrade to format 4: images in tables, and more options of the convolutional pair, which had two stages only."""
    match record:
        case {"recipe": {"flow": {"network": {"kind": "convolutional"} as network}}}:
            network.update(stages=2, kernel=4, blocks=0)
    return record


def _with_signed_figures(record: Record) -> Record:
    """Upgrade to format 5, where `metrics.json` has a checksum too; in `config.json` nothing changed."""
    return record


def _with_laws(record: Record) -> Record:
    """Upgrade to format 6, where a recipe holds only what its flow takes, and a law of rows has no noise."""
    match record:
        case {"recipe": {"flow": {"kind": "rectangular" | "bijective" as kind} as flow, "density": refit}}:
            for name in ("network", "latent"):
                flow.pop(name, None)
            refit.update({"noise": "auto"} if kind == "bijective" else {})
    match record:
        case {"noise": {"kind": "none"}}:
            record["noise"] = None
    return record


RENAMED_TENSORS = {"ambient.": "density."}
"""Prefixes of tensors in formats before 6, and what they are called now."""

_RENAMED_FIGURES = {
    "ambient_log_likelihood_linearised": "log_density_linearised",
    "manifold_log_likelihood": "log_density_manifold",
    "ambient_log_likelihood": "log_density",
}


def migrate_figures(figures: Mapping[str, Any], version: int) -> Record:
    """Return the figures of a run, or a line of its log, of some format under their names of now."""
    if version >= 6:
        return dict(figures)
    return {
        _RENAMED_FIGURES.get(name, name): migrate_figures(value, version) if isinstance(value, dict) else value
        for name, value in figures.items()
    }


MIGRATIONS: dict[int, Callable[[Record], Record]] = {
    2: _with_checksums,
    3: _with_stages,
    4: _with_signed_figures,
    5: _with_laws,
}
"""Format -> function from its record to that of the next format."""


class Config(BaseModel):
    """`config.json`."""

    model_config = ConfigDict(extra="forbid")

    format: int
    data_dim: int = Field(ge=1, le=10_000_000)
    latent_dim: int = Field(ge=1, le=10_000_000)
    context_dim: int = Field(ge=0, le=10_000_000)
    n_columns: int = Field(ge=1, le=10_000_000)
    recipe: Recipe
    latent: Part
    noise: Part | None
    custom: bool
    schema_: Schema | None = Field(alias="schema")
    versions: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schema_ is not None:
            there = len(self.schema_.features), len(self.schema_.context_features)
            if there != (self.n_columns, self.context_dim):
                raise ValueError(f"a schema of {there} columns and context columns, not of as many as the model has")
        return self


def _not_negative(value: float) -> float:
    if value < 0:  # NaN, of a training that failed, is none
        raise ValueError("a negative number")
    return value


Count = Annotated[int, Field(ge=0, le=10**18)]
Size = Annotated[float, AfterValidator(_not_negative)]
_OPTIONAL: Any = Field(default=None)  # not there; a null that is there is refused, as a default is not validated


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Validation(_Part):
    reconstruction_mse: Size = _OPTIONAL
    __pydantic_extra__: dict[str, float] = Field(init=False)  # log densities


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

    @model_validator(mode="after")
    def _check(self) -> Self:
        worst = max((verdict.status for verdict in self.verdicts), key=STATUSES.index, default="ok")
        if worst != self.status:
            raise ValueError(f"{self.status!r} where the worst verdict is {worst!r}")
        return self


class _Candidate(_Part):
    latent: dict[str, Any]
    noise: dict[str, Any] | None
    log_likelihood: float


class _Tried(_Part):
    latent_dim: Count
    log_likelihood: float
    standard_error: Size


class _Rows(_Part):
    rows: Count


class Figures(_Part):
    """`metrics.json`: figures of a fit. All may be missing and others may be there, but these are of these types."""

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
    latent_dim_curve: list[_Tried] = _OPTIONAL
    heavy_tailed: list[Count] = _OPTIONAL
    validation: _Validation = _OPTIONAL
    density_candidates: list[_Candidate] = _OPTIONAL
    curving: dict[str, float] | None = _OPTIONAL
    health: _Health = _OPTIONAL
    table: _Rows = _OPTIONAL
    stream: _Rows = _OPTIONAL
    command: str = _OPTIONAL


def _explained(error: ValidationError) -> str:
    first = error.errors()[0]
    return one_line(": ".join(text for text in (".".join(map(str, first["loc"])), first["msg"]) if text))


def read_figures(path: Path, version: int) -> Record:
    """Read the figures of a fit, checked to be of the types that `Figures` says.

    Args:
        path: of `metrics.json`.
        version: format of the model folder.

    Returns:
        The figures that are there, fractions as floats, and whatever else stands beside them.

    Raises:
        InputError: they are not.
    """
    record = migrate_figures(_read_json(path), version)
    try:
        return Figures.model_validate(record).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise InputError(
            f"expected the figures of a fit in {path}; got {_explained(error)}; the model is damaged, fit it again"
        ) from error


def _read_json(path: Path) -> Record:
    """Read the names and values in a JSON file of bounded size."""
    try:
        record = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"expected JSON in {path}; got {one_line(error)}; the model is damaged, fit it again"
        ) from error
    if not isinstance(record, dict):
        raise InputError(f"expected names and values in {path}; got something else; the model is damaged")
    return record


def read_config(folder: Path) -> Config:
    """Read `config.json` of any format there has been, as one of this format, and compare files with their checksums.

    Args:
        folder: the model folder.

    Raises:
        InputError: it is damaged, or of a format to come; or one of the files is not as it was written.
    """
    path = folder / "config.json"
    record = _read_json(path)
    version = record.get("format")
    if version != FORMAT and (type(version) is not int or version not in MIGRATIONS):
        newer = isinstance(version, int) and version > FORMAT
        advice = "install a newer isthmus" if newer else "use the version that wrote it"
        known = ", ".join(map(str, (*MIGRATIONS, FORMAT)))
        raise InputError(f"expected model format {known} in {path}; got {str(version)[:60]!r}; {advice}")
    if version >= _FIRST_WITH_CHECKSUMS or (folder / CHECKSUMS).exists():
        known = max(version, _FIRST_WITH_CHECKSUMS)
        verify(folder, [name for name, first in SIGNED.items() if known >= first])
    for earlier in range(version, FORMAT):
        record = MIGRATIONS[earlier](record)
    try:
        return Config.model_validate(record)
    except ValidationError as error:
        raise InputError(f"expected a valid {path}; got {_explained(error)}; the model is damaged") from error
