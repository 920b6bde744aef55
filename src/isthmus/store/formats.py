"""`config.json`: what it holds, in this version and in those before it.

A change of the format takes three lines: `FORMAT` goes up by one, `MIGRATIONS` gets a function from the record of the
version before to that of this one, and `tests/models/` a folder of the new format, which is read for ever.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from isthmus.data.tables import Schema
from isthmus.errors import InputError
from isthmus.recipe import Part, Recipe
from isthmus.store.folders import CHECKSUMS, explained, read_json, verify

__all__ = [
    "FORMAT",
    "MIGRATIONS",
    "RENAMED_TENSORS",
    "SIGNED",
    "Config",
    "read_config",
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


def read_config(folder: Path) -> Config:
    """Read `config.json` of any format there has been, as one of this format, and compare files with their checksums.

    Args:
        folder: the model folder.

    Raises:
        InputError: it is damaged, or of a format to come; or one of the files is not as it was written.
    """
    path = folder / "config.json"
    record = read_json(path)
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
        raise InputError(f"expected a valid {path}; got {explained(error)}; the model is damaged") from error
