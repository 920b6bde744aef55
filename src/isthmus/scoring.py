"""What a fitted model says about tables: scores, codes, rows and figures, from data frames to data frames.

Columns are found by name through the model's schema; the context columns of a conditional model are columns of the same
table. Log densities are in nats and in the table's own units. Reconstruction errors and distances between samples and
rows are measured on columns standardised as the model standardises them, so that a change of units changes nothing.
"""

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.data.tables import Column, Schema
from isthmus.data.tables.columns import Role, is_image, named
from isthmus.data.tables.schema import NOTE
from isthmus.data.tables.wording import Faults, quoted, reject
from isthmus.diagnostics import AffineGain, affine_gain
from isthmus.errors import InputError
from isthmus.flow import Context, Injection, WholeSpace
from isthmus.matrices import LARGEST
from isthmus.metrics import METRICS
from isthmus.model import Model
from isthmus.rows import Rows
from isthmus.store import Fitted

__all__ = [
    "decode",
    "distrust",
    "encode",
    "evaluate",
    "features",
    "gain_of_a_layer",
    "sample",
    "score",
    "tensors",
    "undecoded",
    "unscored",
]

_SAMPLED_ROWS = 1_000  # at once: noise with one covariance a component takes D^2 numbers a row
_MOST_AUDITED_ROWS = 5_000  # above, the importance-sampled density is computed on fewer rows
_AUDITED_ROWS = 2_000
_MEANS = ("log_density", "log_density_linearised", "log_density_manifold")  # figures that have a unit of volume
_NULLABLE: dict[str, Any] = {"i": "Int64", "u": "UInt64", "b": "boolean"}  # kind of a type that has no missing value
_FEWEST_FOR_GAIN = 30  # rows, with fewer a gain cannot be told from noise
_LARGEST_GAP = 1.0  # nats a row, beside three standard errors
_RECONSTRUCTION = ("training", "finite", "latent_dim", "curvature", "beta", "reconstruction")  # verdicts, and causes


class _Rows(NamedTuple):
    """Data (n, columns), and context (n, C) or None, in the user's units."""

    x: Float[Tensor, "n columns"]
    c: Context


def score(
    fitted: Fitted,
    frame: pd.DataFrame,
    *,
    density: str | None = None,
    per: str | None = None,
    strict: bool = False,
) -> pd.DataFrame:
    """Return log density and reconstruction error of each row.

    Args:
        fitted: the model and its record.
        frame: a table with the columns of the fit.
        density: a name of the model's density, see `isthmus.model.Model.log_prob`; the first by default.
        per: of rows on a known surface the unit of the density, see `isthmus.store.Fitted.density_unit`.
        strict: whether one row that does not suit the model refuses the table. If not, such a row has no scores, and
            those of the other rows are, bit for bit, what they would be if it did suit.

    Returns:
        `log_density` in nats, with respect to the measure that `fitted.density_unit(per)` names; of a flow with codes
        also `reconstruction_error`, the squared distance to the reconstruction on standardised columns; in the order
        of the rows. Of images of whole numbers also `bits_per_dimension`, unless the density is that of the manifold.
        Where the model does not reconstruct its own data also `untrusted`, why. Where a row has a gap or another value
        that the fit has not prepared for, its numbers are NaN, and `note` says why. A row so far away that arithmetic
        overflows has minus infinity and infinity.

    Raises:
        InputError: the density is unknown, a column is missing, or, if `strict`, a row does not suit the model.

    Example:
        >>> from isthmus import fit, Recipe
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> fitted = fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]], recipe=recipe)
        >>> score(fitted, pd.DataFrame({"a": [1.5], "b": [1.5]})).columns.tolist()
        ['log_density', 'reconstruction_error']
    """
    faults = Faults()
    offset = fitted.density_unit(per).offset
    model, rows = fitted.model, _stood_in(fitted, frame, faults, strict=strict)
    scores = pd.DataFrame({"log_density": model.log_prob(rows.x, rows.c, density=density).numpy() + offset})
    if isinstance(model.flow, Injection):
        scores["reconstruction_error"] = model.reconstruction_error(rows.x, rows.c).numpy()
    if density != "manifold" and _dequantised(fitted):
        scores["bits_per_dimension"] = bits_per_dimension(fitted, scores["log_density"])
    scores.loc[list(faults.reasons)] = math.nan
    reason = untrusted(fitted)
    return _with_notes(scores if reason is None else scores.assign(untrusted=reason), faults)


def unscored(results: pd.DataFrame) -> int:
    """Count the rows to which `score` or `encode` gave a note in place of numbers.

    Args:
        results: what `score` or `encode` returned.

    Example:
        >>> unscored(pd.DataFrame({"log_density": [0.5, math.nan], "note": [None, "expected a value in column 'a'"]}))
        1
    """
    return int(results.iloc[:, 0].isna().sum())


def undecoded(fitted: Fitted, rows: pd.DataFrame) -> int:
    """Count the rows to which `decode` gave a note in place of values.

    Args:
        fitted: the model and its record.
        rows: what `decode` returned: the user's columns, one of which may be called `note` too, and then the notes.
    """
    return int(rows.iloc[:, len(_schema(fitted).columns) :].notna().to_numpy().sum())


def bits_per_dimension(fitted: Fitted, log_density: Any) -> Any:
    """Return log densities of images as bits a number of them: `-log p / (D log 2)`.

    Of whole numbers, whose log density is the mean over the unit around each, an upper bound of `-log2 P / D`.

    Args:
        fitted: the model and its record.
        log_density: in nats.
    """
    return -log_density / (fitted.model.columns.mean.shape[0] * math.log(2))


def _dequantised(fitted: Fitted) -> bool:
    """Tell whether rows are images of whole numbers."""
    return fitted.recipe.columns.image is not None and bool(fitted.model.columns.integer.all())


def untrusted(fitted: Fitted) -> str | None:
    """Return why no likelihood of this model may stand alone: the verdicts by which its reconstruction fails; or None.

    A flow that does not bring its own data back has a likelihood of something else: the change of volume is measured
    at points that are not the data.

    Args:
        fitted: the model and its record.

    Returns:
        One line, or None where the reconstruction is sound or nothing is known.

    Example:
        >>> from isthmus import fit, Recipe
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> untrusted(fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]], recipe=recipe)) is None
        True
    """
    failing = fitted.figures.health.failing if fitted.figures.health else ()
    reasons = [f"{verdict.name}: {verdict.sentence}" for verdict in failing if verdict.name in _RECONSTRUCTION]
    return "; ".join(reasons) or None


def encode(fitted: Fitted, frame: pd.DataFrame, *, strict: bool = False) -> pd.DataFrame:
    """Return the code of each row.

    Args:
        fitted: the model and its record.
        frame: a table with the columns of the fit.
        strict: whether one row that does not suit the model refuses the table. If not, such a row has no code.

    Returns:
        Columns z0, z1, ..., then the context columns, which `decode` needs. Where a row does not suit the model, or is
        so far away that its code overflows, its code is NaN and `note` says why.

    Raises:
        InputError: a column is missing, or, if `strict`, a row does not suit the model.

    Example:
        >>> from isthmus import fit, Recipe
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> fitted = fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]], recipe=recipe)
        >>> encode(fitted, pd.DataFrame({"a": [1.5, None], "b": [1.5, 2.0]}))["note"].tolist()
        [None, "expected a value in column 'c0'; got a missing value"]
    """
    faults = Faults()
    rows = _stood_in(fitted, frame, faults, strict=strict)
    z = fitted.model.encode(rows.x, rows.c).numpy()
    codes = pd.DataFrame(z, columns=[axis.name for axis in _numbers("z", z.shape[1])])
    overflows = ~np.isfinite(z).all(1)
    series = pd.Series(np.where(overflows, math.inf, 0.0), name="z0")
    (reject if strict else faults.note)(overflows, series, "a finite code", "leave out that row, which is too far away")
    codes.loc[list(faults.reasons)] = math.nan
    context = _named(fitted, frame)[list(conditions(fitted))]
    return _with_notes(pd.concat([codes, context.reset_index(drop=True)], axis=1), faults)


def _with_notes(results: pd.DataFrame, faults: Faults) -> pd.DataFrame:
    """Return the results, with a last column that says of rows why they have none, if there are any."""
    if not faults.reasons:
        return results
    name = NOTE
    while name in results.columns:  # a column of the user's own
        name += "_"
    notes = [faults.reasons.get(row) for row in range(len(results))]
    return named(pd.concat([results, pd.Series(notes, name=name, dtype=object)], axis=1))


def decode(fitted: Fitted, codes: pd.DataFrame, *, strict: bool = False) -> pd.DataFrame:
    """Return the rows that codes stand for, points of the learned manifold in the user's columns.

    Args:
        fitted: the model and its record.
        codes: columns z0, z1, ..., and the context columns of a conditional model; a nameless array will do.
        strict: whether one code that cannot be decoded refuses the table. If not, its row has no values.

    Returns:
        The user's columns, whole numbers rounded. Where a code has a gap, a value that the fit has not prepared for, or
        is so far away that its row overflows, all values of the row are missing (an image is black), and `note` says
        why, as that of `encode` did where it is among the columns of `codes`.

    Raises:
        InputError: a column is missing, or, if `strict`, holds what is no code.

    Example:
        >>> from isthmus import fit, Recipe
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> fitted = fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]], recipe=recipe)
        >>> decode(fitted, pd.DataFrame({"z0": [0.5, None]}))["note"].tolist()
        [None, "expected a value in column 'z0'; got a missing value"]
    """
    axes, faults = _numbers("z", fitted.model.injection.latent_dim), Faults()
    report = reject if strict else faults.note
    if list(codes.columns) == [f"c{i}" for i in range(len(axes))]:  # as `read_table` names a nameless array
        codes = codes.set_axis([axis.name for axis in axes], axis=1)
    z, c = Schema(columns=(*axes, *_columns(fitted, "context"))).encode(codes, report=report)
    largest = pd.Series(np.abs(z).max(1), name="z")
    report((largest > LARGEST).to_numpy(), largest, f"numbers up to {LARGEST:g}", "leave out that row")
    safe = _stand_ins(z, c, faults)
    rows = _Rows(fitted.model.decode(*safe), safe.c)
    overflows = ~rows.x.isfinite().all(1).numpy()
    report(overflows, largest, "a code whose row is finite", "leave out that row")
    rows.x[list(faults.reasons)] = 0.0
    if NOTE in codes:
        earlier = codes[NOTE].reset_index(drop=True).dropna().astype(str).to_dict()
        faults.reasons |= {row: reason for row, reason in earlier.items() if row in faults.reasons}
    return _with_notes(_emptied(_frame(fitted, rows), list(faults.reasons)), faults)


def _emptied(frame: pd.DataFrame, bad: list[int]) -> pd.DataFrame:
    """Return the table with missing values in some rows; whole numbers stay whole, and images are as they were."""
    if not bad:
        return frame
    columns = {}
    for name, series in frame.items():
        columns[name] = series
        if series.dtype != object or not is_image(series.iloc[0]):
            nullable = _NULLABLE.get(series.dtype.kind) if isinstance(series.dtype, np.dtype) else None
            columns[name] = series.astype(nullable) if nullable else series.copy()
            columns[name].iloc[bad] = None
    return pd.DataFrame(columns)


def sample(
    fitted: Fitted,
    n: int,
    *,
    given: Mapping[str, str] | None = None,
    noise: bool = True,
    temperature: float = 1.0,
    truncation: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Draw rows from a model.

    Args:
        fitted: the model and its record.
        n: number of rows, >= 1.
        given: a value for each context column of a conditional model.
        noise: whether to add the noise off the manifold.
        temperature: scale of codes about their modes, and of noise; 1 is the model, less is more typical.
        truncation: share in (0, 1] of the codes to draw from, the likeliest ones; 1 is the model.
        seed: of the draw; the global random state is left as it was.

    Returns:
        The user's columns, the given ones among them; whole numbers are rounded and within the range seen.

    Raises:
        InputError: a value is missing or given to no purpose, or does not suit its column.

    Example:
        >>> from isthmus import fit, Recipe
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> sample(fit([[0, 1], [1, 2], [2, 3], [3, 4]], recipe=recipe), 2).shape
        (2, 2)
    """
    given, names = given or {}, conditions(fitted)
    if names and not given:
        raise InputError(f"expected a value for each of {quoted(*names)}; got none; give it (--given {names[0]}=...)")
    c = torch.from_numpy(_schema(fitted).encode_context(given)).expand(n, -1) if given else None
    how = {"noise": noise, "temperature": temperature, "truncation": truncation}
    return _frame(fitted, _Rows(_draw(fitted.model, n, c, seed=seed, **how), c))


def evaluate(fitted: Fitted, frame: pd.DataFrame, *, per: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Evaluate how well a model fits rows, best rows that it was not fitted to.

    As many samples as rows are compared with the rows by the metrics of `isthmus.metrics`; above 5,000 rows the
    importance-sampled density is computed on 2,000 evenly spaced ones.

    Args:
        fitted: the model and its record.
        frame: a table with the columns of the fit, at least 10 rows.
        per: of rows on a known surface the unit of the density, see `isthmus.store.Fitted.density_unit`.
        seed: of the samples.

    Returns:
        `untrusted`, why the likelihoods may not stand alone, or None; `measure` of the log densities; `n` rows, `D`
        columns that enter the flow, `d` codes or None; `fid_like`, `energy_distance` and `c2st_auc` on standardised
        columns; `log_density`, the mean in nats a row, the most faithful there is, with `log_density_standard_error`,
        on `log_density_rows`. Around a learned manifold this is importance-sampled, and there are
        `log_density_linearised`, `log_density_gap`, by how much that exceeds the former on the same rows, and
        `log_density_manifold`; of a flow with codes `reconstruction_mse`; of an invertible flow of the whole space, on
        30 rows and more, `affine_gain`, what one more affine coupling would gain before a standard normal, in nats a
        row, with `affine_gain_standard_error`; of images of whole numbers
        `bits_per_dimension`; `beyond_arithmetic`, the number of rows so far away that their log density is minus
        infinity, which makes the means so too, and which gap and standard error leave out; `seconds`.

    Raises:
        InputError: the table does not suit the model.
    """
    started, unit = time.monotonic(), fitted.density_unit(per)
    model, rows = fitted.model, _rows(fitted, frame)
    samples = _frame(fitted, _Rows(_draw(model, len(rows.x), rows.c, seed=seed), rows.c))
    pair = model.columns.standardise(_rows(fitted, samples).x), model.columns.standardise(rows.x)
    flow, names = model.flow, ("fid_like", "energy_distance", "c2st_auc")
    figures: dict[str, Any] = {
        "untrusted": untrusted(fitted),
        "measure": unit.phrase,
        "n": len(rows.x),
        "D": flow.data_dim,
        "d": flow.codes.dim if isinstance(flow, Injection) else None,
        **{name: METRICS[name].function(*pair) for name in names},
    }
    if isinstance(flow, Injection):
        figures["reconstruction_mse"] = float(model.reconstruction_error(rows.x, rows.c).mean())
    figures |= _log_densities(model, rows)
    figures |= {name: figures[name] + unit.offset for name in _MEANS if name in figures}
    if isinstance(flow, WholeSpace) and len(rows.x) >= _FEWEST_FOR_GAIN:
        gain = gain_of_a_layer(flow, _spread(model, rows, seed))
        figures |= {"affine_gain": gain.value, "affine_gain_standard_error": gain.standard_error}
    if _dequantised(fitted):
        figures["bits_per_dimension"] = bits_per_dimension(fitted, figures["log_density"])
    return figures | {"seconds": time.monotonic() - started}


def gain_of_a_layer(flow: WholeSpace, rows: Rows) -> AffineGain:
    """Return what one more affine coupling would gain; see `isthmus.diagnostics.affine_gain`.

    Args:
        flow: an invertible flow of the whole space.
        rows: prepared rows, 30 at least, whole numbers spread.
    """
    return affine_gain(rows.map(flow.encode).detach(), rows.c)


def _spread(model: Model, rows: _Rows, seed: int) -> Rows:
    """Return prepared rows, whole numbers spread over their unit."""
    u = model.columns.standardise(rows.x)
    noise = torch.rand(u.shape, dtype=u.dtype, generator=torch.Generator().manual_seed(seed)) - 0.5
    c = None if rows.c is None or model.context_columns is None else model.context_columns.standardise(rows.c)
    return Rows(model.columns.spread(u, noise), c)


def distrust(figures: Mapping[str, Any]) -> str | None:
    """Return a sentence where the figures of `evaluate` say that the linearised density is wrong, or None.

    Example:
        >>> distrust({"log_density_gap": 0.5, "log_density_standard_error": 0.1}) is None
        True
    """
    gap, error = figures.get("log_density_gap", 0.0), figures["log_density_standard_error"]
    if abs(gap) <= _LARGEST_GAP + 3 * error:
        return None
    side = "above" if gap > 0 else "below"
    return (
        f"the linearised density is {abs(gap):.2f} nats per row {side} the importance-sampled one and should not be "
        "trusted; score with density 'ambient'"
    )


def tensors(fitted: Fitted, frame: pd.DataFrame) -> tuple[Float[Tensor, "n columns"], Context]:
    """Return the matrices of a table: data (n, columns), and context (n, C) or None, in the user's units.

    Args:
        fitted: the model and its record.
        frame: a table with the columns of the fit.

    Raises:
        InputError: the table does not suit the model.
    """
    return _rows(fitted, frame)


def conditions(fitted: Fitted) -> tuple[str, ...]:
    """Return the names of the columns that a model is conditioned on, as `sample` takes them.

    Args:
        fitted: the model and its record.
    """
    return tuple(column.name for column in _columns(fitted, "context"))


def features(fitted: Fitted) -> tuple[str, ...]:
    """Return the names of the columns of the data's matrix.

    Args:
        fitted: the model and its record.
    """
    return _schema(fitted).features


def _log_densities(model: Model, rows: _Rows) -> dict[str, Any]:
    """Return mean log densities by every evaluation of the model's density; the slowest one on fewer rows."""
    n = len(rows.x)
    index = torch.arange(n)
    if n > _MOST_AUDITED_ROWS:
        index = torch.linspace(0, n - 1, _AUDITED_ROWS, dtype=torch.float64).round().long()
    usual = model.log_prob(rows.x, rows.c)
    value, error = model.estimate(rows.x[index], None if rows.c is None else rows.c[index])
    near = value.isfinite() & usual[index].isfinite()
    figures = {
        "log_density": float(value.mean()),
        "log_density_standard_error": float(error[near].square().mean().sqrt()) / math.sqrt(len(index)),
        "log_density_rows": len(index),
        "beyond_arithmetic": int(usual.isneginf().sum()),
    }
    for name in (name for name in model.density.names if name not in ("own", "ambient")):  # a set has no order
        other = usual if name == model.density.names[0] else model.log_prob(rows.x, rows.c, density=name)
        figures[f"log_density_{name}"] = float(other.mean())
        if name == model.density.names[0]:
            figures["log_density_gap"] = float((other[index] - value)[near].mean())
    return figures


def _draw(model: Model, n: int, c: Context, *, seed: int = 0, **how: Any) -> Float[Tensor, "n columns"]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = []
        for start in range(0, n, _SAMPLED_ROWS):
            stop = min(n, start + _SAMPLED_ROWS)
            part = None if c is None else c[start:stop]
            parts.append(model.sample(stop - start, part, **how))
    return torch.cat(parts)


def _frame(fitted: Fitted, rows: _Rows) -> pd.DataFrame:
    """Return the table of rows that a model made; the largest level of a category wins, so features are not rounded."""
    category = torch.tensor(_schema(fitted).categorical)
    x = torch.where(category, rows.x, fitted.model.columns.round_integers(rows.x))
    return _schema(fitted).decode(x.numpy(), None if rows.c is None else rows.c.numpy())


def _rows(fitted: Fitted, frame: pd.DataFrame) -> _Rows:
    return _tensors(*_schema(fitted).encode(_named(fitted, frame)))


def _stood_in(fitted: Fitted, frame: pd.DataFrame, faults: Faults, *, strict: bool) -> _Rows:
    """Return the matrices of a table; note rows that do not suit the model, and let another row stand in for each.

    They are not left out, since the last bits of a row's score depend on how many rows are scored at once.
    """
    report = reject if strict else faults.note
    schema = _schema(fitted)
    x, c = schema.encode(_named(fitted, frame), report=report)
    for matrix, names in ((x, schema.features), (c, schema.context_features)):
        for name, column in zip(names, () if matrix is None else matrix.T, strict=matrix is not None):
            values = pd.Series(column, name=name)
            report((values.abs() > LARGEST).to_numpy(), values, f"numbers up to {LARGEST:g}", "change the units")
    return _stand_ins(x, c, faults, schema.stand_in)


def _stand_ins(x: np.ndarray, c: np.ndarray | None, faults: Faults, blank: np.ndarray | float = 0.0) -> _Rows:
    """Return the matrices as tensors, with the first good row in place of each that was noted, or a blank one."""
    if bad := list(faults.reasons):
        good = next((row for row in range(len(x)) if row not in faults.reasons), None)
        for matrix, instead in ((x, blank), (c, 0.0)):
            if matrix is not None:
                matrix[bad] = instead if good is None else matrix[good]
    return _tensors(x, c)


def _tensors(x: np.ndarray, c: np.ndarray | None) -> _Rows:
    return _Rows(torch.from_numpy(x), None if c is None else torch.from_numpy(c))


def _schema(fitted: Fitted) -> Schema:
    """Return the model's schema; of a model fitted to a nameless matrix, columns c0, c1, ... of numbers."""
    if fitted.schema is not None:
        return fitted.schema
    n_columns, context_dim = fitted.model.columns.mean.shape[0], fitted.model.flow.context_dim
    return Schema(columns=(*_numbers("c", n_columns), *_numbers("context", context_dim, "context")))


def _columns(fitted: Fitted, role: Role) -> tuple[Column, ...]:
    return tuple(column for column in _schema(fitted).columns if column.role == role)


def _numbers(prefix: str, count: int, role: Role = "data") -> tuple[Column, ...]:
    return tuple(Column(name=f"{prefix}{i}", kind="number", role=role, dtype="float64") for i in range(count))


def _named(fitted: Fitted, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table under the model's names: by position where the model was fitted to a nameless matrix."""
    names = [column.name for column in _schema(fitted).columns]
    by_position = fitted.schema is None and frame.shape[1] == len(names)
    return frame.set_axis(names, axis=1) if by_position else named(frame)
