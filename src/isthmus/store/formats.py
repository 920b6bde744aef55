"""`config.json`: what it holds, in this version and in those before it.

A change of the format takes three lines: `FORMAT` goes up by one, `MIGRATIONS` gets a function from the record of the
version before to that of this one, and `tests/models/` a folder of the new format, which is read for ever.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from isthmus.data.tables import Schema
from isthmus.data.tables.wording import one_line
from isthmus.errors import InputError
from isthmus.recipe import Part, Recipe
from isthmus.store.folders import CHECKSUMS, read_bytes, verify

__all__ = ["FORMAT", "MIGRATIONS", "RENAMED_TENSORS", "Config", "migrate_figures", "read_config", "read_json"]

FORMAT = 5
_SIGNED = 3  # the first format with checksums

Record = dict[str, Any]


def _with_checksums(record: Record) -> Record:
    """Format 3 has checksums beside `config.json`; in it nothing changed."""
    return record


def _with_stages(record: Record) -> Record:
    """In format 4 tables have images, and the convolutional pair more options: before it had two stages and no more."""
    match record:
        case {"recipe": {"flow": {"network": {"kind": "convolutional"} as network}}}:
            network.update(stages=2, kernel=4, blocks=0)
    return record


def _with_laws(record: Record) -> Record:
    """In format 5 only what a flow takes stands in its recipe, and a law of rows has no noise."""
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
"""Prefixes of tensors in formats before 5, and what they are called now."""

_RENAMED_FIGURES = {
    "ambient_log_likelihood_linearised": "log_density_linearised",
    "manifold_log_likelihood": "log_density_manifold",
    "ambient_log_likelihood": "log_density",
}


def migrate_figures(figures: Mapping[str, Any]) -> Record:
    """Return the figures of a run, or a line of its log, of a format before 5 under their names of now."""
    return {
        _RENAMED_FIGURES.get(name, name): migrate_figures(value) if isinstance(value, dict) else value
        for name, value in figures.items()
    }


MIGRATIONS: dict[int, Callable[[Record], Record]] = {2: _with_checksums, 3: _with_stages, 4: _with_laws}
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


def read_json(path: Path) -> Record:
    """The names and values in a JSON file of bounded size.

    Raises:
        InputError: there are none.
    """
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


def read_config(folder: Path, signed: tuple[str, ...]) -> Config:
    """`config.json` of any format there has been, as one of this format.

    Args:
        folder: the model folder.
        signed: names of the files that are compared with their checksums.

    Raises:
        InputError: it is damaged, or of a format to come.
    """
    path = folder / "config.json"
    record = read_json(path)
    version = record.get("format")
    if version != FORMAT and (type(version) is not int or version not in MIGRATIONS):
        newer = isinstance(version, int) and version > FORMAT
        advice = "install a newer isthmus" if newer else "use the version that wrote it"
        known = ", ".join(map(str, (*MIGRATIONS, FORMAT)))
        raise InputError(f"expected model format {known} in {path}; got {str(version)[:60]!r}; {advice}")
    if version >= _SIGNED or (folder / CHECKSUMS).exists():
        verify(folder, signed)
    for earlier in range(version, FORMAT):
        record = MIGRATIONS[earlier](record)
    try:
        return Config.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"])
        raise InputError(
            f"expected a valid {path}; got {one_line(where + ': ' + first['msg'])}; the model is damaged"
        ) from error
