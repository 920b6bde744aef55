"""What the command line shows: a model, a fit and an evaluation as lines of name, value and remark, or as JSON."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.errors import InputError

if TYPE_CHECKING:
    from isthmus.diagnostics import Health
    from isthmus.store import Fitted

__all__ = [
    "description",
    "escaped",
    "indented",
    "of_description",
    "of_evaluation",
    "of_fit",
    "print_json",
    "print_rows",
]

Line = tuple[str, str, str]

HIGHER = "nats a row, higher is better"
_FEW_COLUMNS = 12
_FIGURES = ("latent_dim_curve", "validation", "seconds", "steps")


def description(folder: Path, fitted: "Fitted") -> dict[str, Any]:
    """Describe a model as `inspect` does.

    Args:
        folder: the model's folder.
        fitted: the model that was read from it.

    Returns:
        Plain values for JSON.

    Raises:
        InputError: the folder's figures are not those of a fit.
    """
    from isthmus.flow import Injection

    model, schema, config = fitted.model, fitted.schema, json.loads((folder / "config.json").read_text())
    figures = fitted.figures.plain()
    if not figures.keys() >= set(_FIGURES):
        raise InputError(f"expected {', '.join(_FIGURES)} in {folder / 'metrics.json'}; got less; the model is damaged")
    number = {f"c{i}": "number" for i in range(model.columns.mean.shape[0])}
    return {
        "model": str(folder),
        "data_dim": model.flow.data_dim,
        "latent_dim": model.flow.codes.dim if isinstance(model.flow, Injection) else None,
        "measure": fitted.measured,
        "surface": schema.coordinates.model_dump() if schema and schema.coordinates else None,
        "context_dim": model.flow.context_dim,
        "level": model.level,
        "custom": fitted.custom,
        "latent": fitted.latent.model_dump(),
        "noise": None if fitted.noise is None else fitted.noise.model_dump(),
        **{name: figures.get(name) for name in ("beta", "beta_reason", *_FIGURES)},
        "heavy_tailed": figures.get("heavy_tailed", []),
        "health": figures.get("health"),
        "columns": {c.name: _kind(c) for c in schema.columns} if schema else number,
        "recipe": fitted.recipe.model_dump(mode="json"),
        "versions": config["versions"],
    }


def _by_kind(kinds: Mapping[str, str]) -> list[Line]:
    from isthmus.data.tables.wording import listed

    groups: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        groups.setdefault(kind, []).append(name)
    return [(f"  {kind}", f"{len(names):,}", listed(names, _FEW_COLUMNS)) for kind, names in groups.items()]


def _kind(column: Any) -> str:
    words = [column.kind, "constant" * column.constant, "context" * (column.role == "context")]
    return ", ".join(word for word in words if word)


def print_json(record: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output; what is not finite is null."""
    sys.stdout.write(json.dumps(_finite(record), allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """Replace NaN and infinities by null, which JSON has."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def escaped(text: str) -> str:
    r"""Return the text with what cannot be printed, or would move the cursor, as Python writes it.

    Example:
        >>> escaped("a\x1b[2J\n")
        'a\\x1b[2J\\n'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_rows(rows: Sequence[Line]) -> None:
    """Print name, value and remark in aligned columns; what cannot be printed is escaped."""
    rows = [(escaped(name), escaped(value), escaped(remark)) for name, value, remark in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table as Grid

        grid = Grid.grid(padding=(0, 2))
        for style in ("", "bold", "dim"):
            grid.add_column(style=style)
        for row in rows:
            grid.add_row(*row)
        Console(highlight=False, markup=False).print(grid)
        return
    names, values = (max(len(row[i]) for row in rows) for i in range(2))
    for name, value, remark in rows:
        sys.stdout.write(f"{name:<{names}}  {value:<{values}}  {remark}".rstrip() + "\n")


def of_description(record: Mapping[str, Any]) -> list[Line]:
    """Return what `inspect` shows of a model, from its `description`."""
    from isthmus.diagnostics import Health

    context = f"given {record['context_dim']} context features" if record["context_dim"] else ""
    others = dict(record["versions"])
    own = others.pop("isthmus", "")
    curved, curve = record["heavy_tailed"], [tried["latent_dim"] for tried in record["latent_dim_curve"]]
    return [
        ("model", record["model"], "with modules of its own" if record["custom"] else ""),
        ("dimensions", _dimensions(record["data_dim"], record["latent_dim"]), context),
        *_surface(record["surface"]),
        *([("latent dimension", str(record["latent_dim"]), _tried(curve))] if curve else []),
        ("latent density", _part(record["latent"]), ""),
        *([("noise", _part(record["noise"]), "")] if record["noise"] else []),
        *_beta(record["beta"], record["beta_reason"]),
        *((f"{name} told", f"{value:.4g}", "to the networks, of a range") for name, value in record["level"].items()),
        *_held_out(record["validation"]),
        _measure(record["measure"]),
        *_health(record["health"] and Health.from_dict(record["health"])),
        ("columns", f"{len(record['columns']):,}", ""),
        *_by_kind(record["columns"]),
        *([("  heavy-tailed", f"{len(curved):,}", "prepared by a curve")] if curved else []),
        ("written by", f"isthmus {own}", ", ".join(f"{name} {number}" for name, number in others.items())),
    ]


def _tried(curve: Sequence[int], *, estimated: bool = False) -> str:
    """Say of which latent dimensions this one was chosen."""
    if curve:
        return f"the fewest that held-out rows ask for, of {', '.join(map(str, curve))}"
    return "as near neighbours have it, there was no time to try others" if estimated else "as given"


def of_fit(fitted: "Fitted", n_columns: int) -> list[Line]:
    """Return what `fit` shows of a finished fit of a table with so many columns."""
    figures, schema, D = fitted.figures, fitted.schema, fitted.model.flow.data_dim
    estimated = fitted.recipe.flow.latent_dim == "auto" and fitted.noise is not None
    d, curve = figures.latent_dim, [tried.latent_dim for tried in figures.latent_dim_curve or ()]
    return [
        ("columns", f"{n_columns:,}", "" if n_columns == D else f"{D:,} numbers enter the flow"),
        *_surface(schema.coordinates.model_dump() if schema and schema.coordinates else None),
        *([("latent dimension", str(d), _tried(curve, estimated=estimated))] if d else []),
        *_beta(figures.beta, figures.beta_reason),
        ("seconds", f"{figures.seconds:.1f}", f"{figures.steps:,} steps"),
        *_held_out(figures.validation),
        _measure(fitted.measured),
        *_health(figures.health),
    ]


def _surface(record: "Mapping[str, Any] | None") -> list[Line]:
    """Return the known surface that rows lie on, and its columns in their order."""
    if record is None:
        return []
    from isthmus.data.tables.wording import listed

    off = "; rows off it are projected" if record["project"] else ""
    return [("surface", record["surface"], f"{listed(record['columns'], _FEW_COLUMNS)} in {record['unit']}{off}")]


def _health(health: "Health | None") -> list[Line]:
    """Return the worst verdict, and the names of what is not ok."""
    if health is None:
        return []
    names = [verdict.name for verdict in health.verdicts if verdict.status != "ok"]
    return [("health", health.status, ", ".join(names) or f"{len(health.verdicts)} checks on held-out rows")]


def _beta(beta: float | None, reason: str | None) -> list[Line]:
    return [] if beta is None or reason is None else [("beta", f"{beta:.4g}", reason)]


def _measure(measured: str) -> Line:
    unit, _, measure = measured.partition(", ")
    return "log densities in", unit, measure


def _dimensions(data_dim: int, latent_dim: int | None) -> str:
    return f"{data_dim} -> {latent_dim} -> {data_dim}" if latent_dim else str(data_dim)


def _held_out(figures: Mapping[str, float]) -> list[Line]:
    labels = {
        "log_density_linearised": ("held-out log density", ".2f", HIGHER),
        "log_density_own": ("held-out log density", ".2f", HIGHER),
        "reconstruction_mse": ("held-out reconstruction", ".4g", "on standardised columns, lower is better"),
    }
    shown = {key: label for key, label in labels.items() if key in figures}
    return [(label, format(figures[key], form), remark) for key, (label, form, remark) in shown.items()]


_DISTANCE = "samples against rows, lower is better"
_EVALUATED: dict[str, tuple[str, str]] = {  # figure of `evaluate` -> name and remark, where it is there
    "log_density": ("log density", HIGHER),
    "log_density_standard_error": ("  standard error", "of its sampling, on {log_density_rows:,} rows"),
    "log_density_linearised": ("  linearised", "the fast form of it"),
    "log_density_manifold": ("manifold log density", "comparable for equal latent dimension only"),
    "affine_gain": ("one more layer", "nats that an affine coupling would gain, ± {affine_gain_standard_error:.4f}"),
    "reconstruction_mse": ("reconstruction_mse", "on standardised columns, lower is better"),
    "fid_like": ("fid_like", _DISTANCE),
    "energy_distance": ("energy_distance", _DISTANCE),
    "c2st_auc": ("c2st_auc", "samples against rows, 0.5 is best, 1 is worst"),
    "bits_per_dimension": ("bits per dimension", "of the log density above, lower is better"),
}


def of_evaluation(figures: Mapping[str, Any]) -> list[Line]:
    """Return the lines that `evaluate` shows of its figures."""
    shown = ((figures[key], *line) for key, line in _EVALUATED.items() if key in figures)
    far = figures["beyond_arithmetic"]
    return [
        ("rows", f"{figures['n']:,}", ""),
        *([("  beyond arithmetic", f"{far:,}", "their log density is minus infinity")] if far else []),
        ("dimensions", _dimensions(figures["D"], figures["d"]), ""),
        _measure(figures["measure"]),
        *((name, f"{value:.4f}", remark.format(**figures)) for value, name, remark in shown),
        ("seconds", f"{figures['seconds']:.1f}", ""),
    ]


def _part(record: Mapping[str, Any]) -> str:
    """Return a kind with its options, in one word and a few."""
    options = ", ".join(f"{key} {value}" for key, value in record.items() if key != "kind")
    return f"{record['kind']} ({options})" if options else str(record["kind"])


def indented(record: Mapping[str, Any]) -> str:
    """Return a record as YAML, indented."""
    import yaml

    return "".join(f"  {line}\n" for line in yaml.safe_dump(record, sort_keys=False).splitlines())
