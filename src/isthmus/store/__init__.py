"""A model on disk: a folder of `config.json` and `model.safetensors`, with the run's record beside them.

Reading executes nothing and imports nothing that a file names: kinds are looked up in the library's own dicts, tensors
are read by safetensors after their names, shapes and types in the header were compared with what the configuration
implies. Memory and time are bounded by the size of the folder. A byte of the configuration, the tensors or the
figures that has changed is told, and so are NaN among the weights: a damaged model is refused, as its scores would look
like any others. A model loads without its data, on any device, and scores bit for bit the same. Every format since 2 is
read.

    config.json         format version, dimensions, recipe, kinds of latent and noise, the table's schema, versions
    model.safetensors   every parameter and buffer
    metrics.json        figures of the run, by which scores are trusted or not
    SHA256SUMS          checksums of these three, as `sha256sum --check` reads them
    recipe.yaml         the recipe, to run again
    log.csv             one line a validation
    report.html         what `isthmus.report` wrote, if it did, and grids of images; nothing reads them back

What else a user keeps in the folder is neither read nor touched.
"""

import csv
import importlib.metadata
import io
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError

from isthmus.columns import Columns
from isthmus.data.tables import Schema
from isthmus.data.tables.systems import DensityUnit
from isthmus.data.tables.wording import one_line
from isthmus.density import NOISES, density_of
from isthmus.disk import appending
from isthmus.errors import InputError
from isthmus.flow import Flow, Injection, LearnedManifold
from isthmus.latents import LATENTS
from isthmus.model import Model
from isthmus.recipe import LatentPart, Part, Recipe
from isthmus.store.figures import Figures, migrate_figures, read_figures, write_figures
from isthmus.store.folders import FILES, finish, read_bytes, sign, write_folder
from isthmus.store.formats import (
    FORMAT,
    MIGRATIONS,
    RENAMED_TENSORS,
    SIGNED,
    Config,
    read_config,
)
from isthmus.store.tensors import Budget, Header, read_header, read_tensors, stored
from isthmus.vetting import vet

__all__ = [
    "FORMAT",
    "MIGRATIONS",
    "Figures",
    "Fitted",
    "append_row",
    "check_output",
    "holds",
    "load",
    "save",
    "versions",
]

_VERSIONS = ("isthmus", "torch", "zuko", "lightning", "scikit-learn", "safetensors", "numpy")


@dataclass(frozen=True)
class Fitted:
    """A model with everything that is known about how it came about."""

    model: Model
    recipe: Recipe
    latent: Part
    noise: Part | None
    figures: Figures
    log: Sequence[Mapping[str, float]] = field(default_factory=list)
    schema: Schema | None = None
    custom: bool = False

    @property
    def measured(self) -> str:
        """The unit and measure of the log density of a row, and what stands in it for columns that are no numbers."""
        if self.schema is not None and self.schema.coordinates is not None:
            return self.density_unit().phrase
        columns = self.schema.columns if self.schema else ()
        kinds = {
            "a category counts as one number a level, spread over a unit": any(
                c.kind == "category" and c.role == "data" and c.features for c in columns
            ),
            "a gap as a flag and the median": any(c.has_missing and c.role == "data" for c in columns),
        }
        volume = self.model.density.rows.measure == "volume"
        return ", ".join([self.model.measured, *(words for words, there in kinds.items() if there and volume)])

    def density_unit(self, per: str | None = None) -> DensityUnit:
        """Return the unit and measure of the log density of a row, and what is added to it in the model's own unit.

        Args:
            per: of rows on a known surface another unit, as `km2` for places; see `isthmus.data.tables.systems`.

        Raises:
            InputError: there is no such unit.

        Example:
            >>> import pandas as pd
            >>> from isthmus import fit
            >>> places = pd.DataFrame({"latitude": [36.1, 38.3, -3.3], "longitude": [140.0, 142.4, 95.9]})
            >>> fitted = fit(places, surface="sphere", recipe={"training": {"max_steps": 5}})
            >>> fitted.density_unit("km2")
            DensityUnit(phrase='nats a row, per square kilometre of the Earth, a sphere of radius 6,371.0072 km',
            offset=-17.51...)
        """
        coordinates = None if self.schema is None else self.schema.coordinates
        if coordinates is not None:
            unit = coordinates.density_unit(per)
            return unit._replace(phrase=f"nats a row, {unit.phrase}")
        if per is not None:
            raise InputError(
                f"expected no other unit of the density than the usual one; got {per!r}; only models of rows on a "
                "surface (isthmus fit --surface) have several"
            )
        return DensityUnit(self.measured, 0.0)

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Channels, height and width, where a row of X is an image by its table, the recipe or the networks."""
        if self.schema is not None and self.schema.image:
            return self.schema.image
        network = None if self.custom else self.recipe.flow.network
        shape = () if network is None else network.options.get("shape", ())
        channels, height, width = self.recipe.columns.image or (tuple(shape) if len(shape) == 3 else (0, 0, 0))
        return (channels, height, width) if channels else None


def save(fitted: Fitted, folder: str | Path, *, force: bool = False) -> Path:
    """Write a model folder, so that a crash leaves no half-written model.

    After a crash, a full disk or a lost right to write, the model that stood there can be read, or the new one. (A
    process that is killed may leave a folder in it whose name begins with .isthmus-, or beside it one that begins with
    .NAME., which can be removed.) In a folder that is there only the files of the model are replaced, and a report or
    grids of the old model are removed; what else is in it stays.

    Args:
        fitted: the model and its record.
        folder: where to; its parent must exist.
        force: whether the model in an existing folder is replaced. A folder that holds none is never written to.

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
        >>> again.figures.steps
        5
    """
    folder = Path(folder)
    check_output(folder, force=force)
    try:
        write_folder(folder, lambda temporary: _write(fitted, temporary))
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        advice = "what stood there before is kept, make room or choose another name"
        raise InputError(f"expected to write a model to {folder}; got {reason}; {advice}") from error
    return folder


def check_output(folder: Path, *, force: bool = False) -> None:
    """Refuse what `save` would refuse, so that no training is done in vain.

    A model is a folder whose configuration, with the recipe in it, is one of a known format, with tensors of its
    columns, all of them as their checksums say.

    Args:
        folder: where a model is to be written.
        force: whether an existing model is replaced; what is no model is never replaced.

    Raises:
        InputError: it exists already, or cannot be written.

    Example:
        >>> check_output(Path("."), force=True)
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected a new folder; got ., which exists and is no model of isthmus (...); choose
            another name
    """
    finish(folder)
    try:
        exists = folder.exists()
        if not exists and os.path.islink(folder):
            raise InputError(f"expected a new folder; got {folder}, a broken link; remove it")
        if exists:
            _check_model(folder)
        if exists and not force:
            raise InputError(f"expected a new folder; got {folder}, which exists; choose another name or --force")
        where = folder if exists else folder.parent
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=where):
            pass
    except OSError as error:
        raise InputError(f"expected {folder.parent} to be writable; got {error.strerror}; choose another") from error


def _check_model(folder: Path) -> None:
    """Refuse a folder that is no model, and one where something else has the name of a model's file."""
    try:
        config, header = read_config(folder), read_header(folder / "model.safetensors")
        _check_widths(config, header, folder)
    except InputError as error:
        got = f"{folder}, which exists and is no model of isthmus ({one_line(error, 400)})"
        raise InputError(f"expected a new folder; got {got}; choose another name") from error
    odd = [name for name in FILES if (folder / name).is_dir()]
    if odd:
        raise InputError(f"expected files of a model in {folder}; got a folder {odd[0]}; choose another name")


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
    finish(folder)
    config, path = read_config(folder), folder / "model.safetensors"
    header = read_header(path)
    model = _rebuild(config, flow, folder, header)
    renamed = {} if config.format == FORMAT else RENAMED_TENSORS
    model.load_state_dict(read_tensors(path, header, model, finite=not config.custom, renamed=renamed))
    _check_columns(model, config, path)
    figures, log = read_figures(folder / "metrics.json", config.format), _read_log(folder / "log.csv")
    log = [migrate_figures(row, config.format) for row in log]
    return Fitted(model, config.recipe, config.latent, config.noise, figures, log, config.schema_, config.custom)


def holds(folder: str | Path, fitted: Fitted) -> bool:
    """Tell whether a folder holds a model already: the same recipe, densities, table and weights, bit for bit.

    Args:
        folder: of a model, or anything else.
        fitted: the model.

    Example:
        >>> from isthmus import fit
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> fitted = fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0]] * 9, recipe=recipe)
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     holds(save(fitted, Path(parent) / "a"), fitted), holds(Path(parent) / "b", fitted)
        (True, False)
    """
    try:
        there = load(folder)
    except InputError:
        return False
    facts = [(one.recipe, one.latent, one.noise, one.schema, one.custom) for one in (there, fitted)]
    weights, others = there.model.state_dict(), fitted.model.state_dict()
    return facts[0] == facts[1] and all(
        torch.equal(weights[name], stored(value.detach().cpu()).to(weights[name].dtype))
        for name, value in others.items()
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that figures depend on, by name.

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
        "latent_dim": flow.latent_dim if isinstance(flow, Injection) else flow.data_dim,
        "context_dim": flow.context_dim,
        "n_columns": model.columns.mean.shape[0],
        "recipe": fitted.recipe.model_dump(mode="json"),
        "latent": fitted.latent.model_dump(),
        "noise": None if fitted.noise is None else fitted.noise.model_dump(),
        "custom": fitted.custom,
        "schema": None if fitted.schema is None else fitted.schema.model_dump(mode="json"),
        "versions": versions(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    write_figures(fitted.figures, folder / "metrics.json")
    (folder / "recipe.yaml").write_text(fitted.recipe.dump())
    (folder / "log.csv").write_text("")
    for row in fitted.log:
        append_row(folder / "log.csv", row)
    state = {name: stored(value.detach().cpu()).contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    sign(folder, tuple(SIGNED))


def append_row(path: Path, row: Mapping[str, float]) -> None:
    """Add a line to a CSV file, and before the first one the names.

    Args:
        path: the file; made if there is none.
        row: the values by name.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "log.csv"
        ...     path.touch()
        ...     append_row(path, {"step": 1})
        ...     path.read_text().split()
        ['step', '1']
    """
    with appending(path) as file:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
        file.write(text.getvalue().encode())


def _rebuild(config: Config, flow: Flow | None, folder: Path, header: Header) -> Model:
    """Rebuild the untrained model, within what the header of its tensors justifies."""
    if config.custom and flow is None:
        raise InputError(f"expected the modules that {folder} was fitted with; got none; pass load(folder, flow=...)")
    _check_widths(config, header, folder)
    part = config.recipe.flow
    if config.latent.kind != "as trained":
        part = part.model_copy(
            update={"latent": part.latent and LatentPart(**config.latent.check(LATENTS, "latent").model_dump())}
        )
    with Budget(header) as budget:
        noise = config.noise.options if config.noise else {}
        budget.check_counts([part.model_dump(), config.latent.options, noise])
        try:
            return _build(config, config.recipe.model_copy(update={"flow": part}), flow)
        except InputError:
            raise
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"expected a recipe to build in {folder}; got {one_line(error)}; the model is damaged"
            ) from error


def _check_widths(config: Config, header: Header, folder: Path) -> None:
    """Refuse tensors of columns of another number than the configuration has."""
    for name, dim in (("columns.mean", config.n_columns), ("context_columns.mean", config.context_dim)):
        if (header[name].shape if name in header else (0,)) != (dim,):
            raise InputError(f"expected {dim} numbers as {name!r} in {folder}; got others; the model is damaged")


def _build(config: Config, recipe: Recipe, flow: Flow | None) -> Model:
    if config.custom and flow is not None:
        vet(flow)
    else:
        flow = recipe.build_flow(config.data_dim, config.latent_dim, config.context_dim)
    if config.latent.kind != "as trained" and isinstance(flow, Injection):
        flow.latent = config.latent.build(LATENTS, config.latent_dim, config.context_dim)
    if isinstance(flow, LearnedManifold) is (config.noise is None):
        raise InputError(
            f"expected noise off a learned manifold, and none elsewhere; got {type(flow).__name__} with "
            f"{config.noise.kind if config.noise else 'none'}; the model is damaged"
        )
    noise = config.noise.check(NOISES, "noise").build(NOISES, config.data_dim) if config.noise else None
    context = Columns(config.context_dim) if config.context_dim else None
    return Model(density_of(flow, noise), Columns(config.n_columns), context, recipe.build_levels())


def _check_columns(model: Model, config: Config, path: Path) -> None:
    """Refuse columns of another number than the networks have."""
    dims = model.columns.dim, model.context_columns.dim if model.context_columns else 0
    if dims != (config.data_dim, config.context_dim):
        wanted = f"{config.data_dim} columns that vary and {config.context_dim} of the context"
        raise InputError(f"expected {wanted} in {path}; got {dims}; the model is damaged, fit it again")


def _read_log(path: Path) -> list[dict[str, float]]:
    if not os.path.lexists(path):
        return []  # the log is a record of the run; the model is whole without it
    try:
        rows = csv.DictReader(io.StringIO(read_bytes(path).decode(), newline=""))
        return [{key: float(value) for key, value in row.items()} for row in rows]
    except (TypeError, ValueError, AttributeError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected numbers in {path}; got {one_line(error)}; remove the damaged file") from error
