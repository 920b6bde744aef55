"""A model on disk: a folder of `config.json` and `model.safetensors`, with the run's record beside them.

Reading executes nothing and imports nothing that a file names: kinds are looked up in the library's own dicts, tensors
are read by safetensors after their names, shapes and types in the header were compared with what the configuration
implies. A model loads without its data, on any device, and scores bit for bit the same.

    config.json         format version, dimensions, recipe, kinds of latent and noise, the table's schema, versions
    model.safetensors   every parameter and buffer
    metrics.json        figures of the run
    recipe.yaml         the recipe, to run again
    log.csv             one line a validation
    report.html         what `isthmus.report` wrote, if it did; nothing reads it back
"""

import csv
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from isthmus.ambient import NOISES, Ambient
from isthmus.columns import Columns
from isthmus.data.tables import Schema
from isthmus.errors import InputError
from isthmus.flow import Flow
from isthmus.latents import LATENTS
from isthmus.model import Model
from isthmus.recipe import Part, Recipe

__all__ = ["FORMAT", "Fitted", "append_row", "check_output", "load", "save", "versions"]

FORMAT = 2
_LARGEST_CONFIG = 50_000_000  # bytes
_VERSIONS = ("isthmus", "torch", "zuko", "lightning", "scikit-learn", "safetensors", "numpy")


@dataclass(frozen=True)
class Fitted:
    """A model with everything that is known about how it came about."""

    model: Model
    recipe: Recipe
    latent: Part
    noise: Part
    metrics: dict[str, Any]
    log: Sequence[Mapping[str, float]] = field(default_factory=list)
    schema: Schema | None = None
    custom: bool = False


class _Config(BaseModel):
    """`config.json`."""

    model_config = ConfigDict(extra="forbid")

    format: int
    data_dim: int = Field(ge=1, le=10_000_000)
    latent_dim: int = Field(ge=1, le=10_000_000)
    context_dim: int = Field(ge=0, le=10_000_000)
    n_columns: int = Field(ge=1, le=10_000_000)
    recipe: Recipe
    latent: Part
    noise: Part
    custom: bool
    schema_: Schema | None = Field(alias="schema")
    versions: dict[str, str]


def save(fitted: Fitted, folder: str | Path, *, force: bool = False) -> Path:
    """Write a model folder: to a temporary name first, then renamed, so that a crash leaves no half-written model.

    Args:
        fitted: the model and its record.
        folder: where to; its parent must exist.
        force: whether an existing folder is replaced.

    Returns:
        The folder.

    Raises:
        InputError: it exists already, or cannot be written.

    Example:
        >>> from isthmus import fit
        >>> from sklearn.datasets import load_iris
        >>> fitted = fit(load_iris().data, recipe=Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5}))
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     again = load(save(fitted, Path(parent) / "iris"))
        >>> again.metrics["steps"]
        5
    """
    folder = Path(folder)
    check_output(folder, force=force)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(fitted, temporary)
        _replace(temporary, folder)
    except OSError as error:
        raise InputError(f"could not write {folder}: {error.strerror}; nothing was kept") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_output(folder: Path, *, force: bool = False) -> None:
    """Refuse what `save` would refuse, so that no training is done in vain.

    Args:
        folder: where a model is to be written.
        force: whether an existing model is replaced; what is no model is never replaced.

    Raises:
        InputError: it exists already, or cannot be written.

    Example:
        >>> check_output(Path("."), force=True)
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected a model to replace; got ., which is none; choose another name
    """
    try:
        if folder.exists() and not force:
            raise InputError(f"expected a new folder; got {folder}, which exists; choose another name or --force")
        if folder.exists() and not (folder / "config.json").is_file():
            raise InputError(f"expected a model to replace; got {folder}, which is none; choose another name")
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent):
            pass
    except OSError as error:
        raise InputError(f"expected {folder.parent} to be writable; got {error.strerror}; choose another") from error


def load(folder: str | Path, *, flow: Flow | None = None) -> Fitted:
    """Read a model folder.

    Args:
        folder: what `save` wrote.
        flow: for a model that was fitted with modules of your own: an untrained flow of the same modules.

    Returns:
        The model and its record, on the CPU.

    Raises:
        InputError: no such folder, a damaged one, or one of an unknown format version.
    """
    folder = Path(folder)
    config = _read_config(folder / "config.json")
    model = _rebuild(config, flow, folder)
    expected = model.state_dict()
    model.load_state_dict(_read_tensors(folder / "model.safetensors", expected))
    metrics = _read_json(folder / "metrics.json")
    if not isinstance(metrics, dict):
        raise InputError(
            f"expected names and values in {folder / 'metrics.json'}; got something else; the model is damaged"
        )
    log = _read_log(folder / "log.csv")
    return Fitted(model, config.recipe, config.latent, config.noise, metrics, log, config.schema_, config.custom)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that figures depend on, by name.

    Example:
        >>> "torch" in versions()
        True
    """
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _VERSIONS}


def _write(fitted: Fitted, folder: Path) -> None:
    model = fitted.model
    flow = model.flow
    config = {
        "format": FORMAT,
        "data_dim": flow.data_dim,
        "latent_dim": flow.latent_dim,
        "context_dim": flow.context_dim,
        "n_columns": model.columns.mean.shape[0],
        "recipe": fitted.recipe.model_dump(mode="json"),
        "latent": fitted.latent.model_dump(),
        "noise": fitted.noise.model_dump(),
        "custom": fitted.custom,
        "schema": None if fitted.schema is None else fitted.schema.model_dump(mode="json"),
        "versions": versions(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "metrics.json").write_text(json.dumps(fitted.metrics, indent=1))
    (folder / "recipe.yaml").write_text(fitted.recipe.dump())
    (folder / "log.csv").write_text("")
    for row in fitted.log:
        append_row(folder / "log.csv", row)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def append_row(path: Path, row: Mapping[str, float]) -> None:
    """Add a line to a CSV file, and before the first one the names.

    Args:
        path: an existing file.
        row: the values by name.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "log.csv"
        ...     path.touch()
        ...     append_row(path, {"step": 1})
        ...     path.read_text().split()
        ['step', '1']
    """
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def _replace(temporary: Path, folder: Path) -> None:
    """Rename, moving an existing folder aside until the new one stands."""
    temporary.chmod(0o755)
    if folder.exists():
        aside = folder.with_name(f".{folder.name}.replaced")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        temporary.rename(folder)
        shutil.rmtree(aside)
    else:
        temporary.rename(folder)


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise InputError(f"expected {path} below {_LARGEST_CONFIG} bytes; got {path.stat().st_size}; it is damaged")
        return json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"expected a model folder; got {path}: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON in {path}; got {error}; the model is damaged, fit it again") from error


def _read_config(path: Path) -> _Config:
    record = _read_json(path)
    version = record.get("format") if isinstance(record, dict) else None
    if version != FORMAT:
        raise InputError(f"expected model format {FORMAT} in {path}; got {version!r}; use the version that wrote it")
    try:
        return _Config.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"])
        raise InputError(f"expected a valid {path}; got {where}: {first['msg']}; the model is damaged") from error


def _rebuild(config: _Config, flow: Flow | None, folder: Path) -> Model:
    dims = (config.data_dim, config.latent_dim, config.context_dim)
    if config.custom and flow is None:
        raise InputError(f"expected the modules that {folder} was fitted with; got none; pass load(folder, flow=...)")
    if not config.custom or flow is None:
        flow = config.recipe.build_flow(*dims)
    if config.latent.kind != "as trained":
        flow.latent = config.latent.check(LATENTS, "latent").build(LATENTS, config.latent_dim, config.context_dim)
    noise = config.noise.check(NOISES, "noise").build(NOISES, config.data_dim)
    columns = Columns(config.n_columns)
    context = Columns(config.context_dim) if config.context_dim else None
    return Model(Ambient(flow, noise), columns, context)


def _read_tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
            wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
            if found != wanted:
                name = sorted(found.items() ^ wanted.items())[0][0]
                raise InputError(
                    f"expected {name!r} of shape {wanted.get(name)} in {path}; got {found.get(name)}; it is damaged"
                )
            return {name: file.get_tensor(name) for name in wanted}
    except OSError as error:
        raise InputError(f"expected a model folder with {path.name}; got {path}: {error}; check the path") from error
    except safetensors.SafetensorError as error:
        raise InputError(f"expected tensors in {path}; got {error}; the model is damaged, fit it again") from error


def _read_log(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(newline="") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except OSError:
        return []  # the log is a record of the run; the model is whole without it
    except (TypeError, ValueError, AttributeError, csv.Error) as error:
        raise InputError(f"expected numbers in {path}; got {error}; remove the damaged file") from error
