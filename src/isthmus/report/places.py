"""Figures of a law on a known surface: the density on a map, a triangle or panels of angles; the least likely rows."""

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float

from isthmus import plots
from isthmus.data.tables import Coordinates
from isthmus.plots.style import nats, number
from isthmus.report.evidence import Evidence
from isthmus.report.figures import CUT, Figure
from isthmus.rows import Rows
from isthmus.store import Fitted

__all__ = ["coordinates_of", "least_likely", "place_figures"]

_LATITUDES, _SIDE, _CELLS = 72, 60, 60  # of the grids: of the map, of the triangle, of a pair of angles
_CONTEXTS = 8  # over which a density is averaged
_DRAWN, _COARSE = 20_000, 36  # samples, and cells of a pair, where there are more than two angles
_LISTED = 10


def coordinates_of(fitted: Fitted) -> Coordinates | None:
    """Return the columns that say where on a known surface a row is, or None where there are none.

    Args:
        fitted: the model and its record.
    """
    return None if fitted.schema is None else fitted.schema.coordinates


def place_figures(fitted: Fitted, evidence: Evidence) -> Iterator[Figure]:
    """Draw the density with the judged rows: on the sphere, of three parts, or of pairs of angles.

    Args:
        fitted: the model and its record.
        evidence: what is judged; a conditional density is averaged over some of its contexts.
    """
    own = coordinates_of(fitted)
    if own is None:
        return
    drawn = {("sphere", 3): _map, ("simplex", 3): _triangle}.get((own.surface, len(own.features)))
    if own.surface == "torus" and len(own.columns) > 1:
        drawn = _panels
    if drawn is not None:
        yield drawn(fitted, own, evidence)


def least_likely(fitted: Fitted, evidence: Evidence) -> list[tuple[str, str]]:
    """Return the least likely of the judged rows, each with its log density, in the columns and units of the table.

    Args:
        fitted: the model and its record.
        evidence: what is judged.
    """
    if fitted.schema is None or evidence.source == "drawn":
        return []
    model, rows = fitted.model, evidence.rows[torch.argsort(evidence.log_density)[:_LISTED]]
    c = None if rows.c is None or model.context_columns is None else model.context_columns.restore(rows.c).numpy()
    frame = fitted.schema.decode(model.columns.restore(rows.x).numpy(), c)
    scores = evidence.log_density.sort().values.tolist()
    told = [
        ", ".join(f"{name} {number(value) if isinstance(value, float) else value}" for name, value in row.items())
        for row in frame.to_dict("records")
    ]
    return [(nats(score), row) for score, row in zip(scores, told, strict=False)]


def _map(fitted: Fitted, own: Coordinates, evidence: Evidence) -> Figure:
    latitude, longitude = (
        (np.arange(count) + 0.5) / count * span - span / 2
        for count, span in ((_LATITUDES, math.pi), (2 * _LATITUDES, 2 * math.pi))
    )
    places = Coordinates(surface="sphere", columns=("latitude", "longitude"), unit="degrees")
    grid = np.degrees(np.stack(np.meshgrid(latitude, longitude, indexing="ij"), 2).reshape(-1, 2))
    density = _log_density(fitted, evidence, places.encode(grid)).reshape(_LATITUDES, -1)
    at = places.decode(evidence.rows.x.numpy())
    picture = plots.sphere_map(density, at, _unusual(evidence), own.density_unit().phrase)
    return Figure("Map of the density", f"Equal areas are equal on it.{_averaged(evidence)}", picture)


def _triangle(fitted: Fitted, own: Coordinates, evidence: Evidence) -> Figure:
    density = _log_density(fitted, evidence, plots.triangle_centres(_SIDE))
    whole = own.system.units[own.unit or ""]
    rows, unit = evidence.rows.x.numpy(), own.density_unit().phrase
    picture = plots.density_triangle(density, rows, _unusual(evidence), own.columns, unit, whole=whole)
    return Figure("Triangle of the parts", f"A corner is one part alone.{_averaged(evidence)}", picture)


def _panels(fitted: Fitted, own: Coordinates, evidence: Evidence) -> Figure:
    turn = 2 * math.pi * own.system.units[own.unit or ""]
    starts = [0.0 if positive else -turn / 2 for positive in own.positive]
    two = len(own.columns) == 2
    grids = [_pair(fitted, own, evidence, starts, turn)] if two else _estimated(fitted, own, evidence, starts, turn)
    rows, phrase = own.decode(evidence.rows.x.numpy()), own.density_unit().phrase
    picture = plots.angle_panels(grids, rows, _unusual(evidence), own.columns, phrase, starts=starts, turn=turn)
    how = _averaged(evidence) if two else f" Each density is that of {_DRAWN:,} samples."
    return Figure("Pairs of angles", f"Opposite edges are the same angle.{how}", picture)


def _pair(
    fitted: Fitted, own: Coordinates, evidence: Evidence, starts: list[float], turn: float
) -> Float[np.ndarray, "cells cells"]:
    first, second = (start + (np.arange(_CELLS) + 0.5) * turn / _CELLS for start in starts)
    grid = np.stack(np.meshgrid(first, second, indexing="xy"), 2).reshape(-1, 2)
    return _log_density(fitted, evidence, own.encode(grid)).reshape(_CELLS, _CELLS)


def _estimated(
    fitted: Fitted, own: Coordinates, evidence: Evidence, starts: list[float], turn: float
) -> list[Float[np.ndarray, "cells cells"]]:
    """Return the log densities of pairs of the first three angles by counts of samples; half a sample is the least."""
    c = evidence.rows.c
    contexts = None if c is None else c[torch.arange(_DRAWN) % len(c)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        angles = own.decode(fitted.model.density.sample(_DRAWN, contexts).numpy())
    area = (2 * math.pi / _COARSE) ** 2
    grids = []
    for i, j in combinations(range(3), 2):
        edges = [np.linspace(starts[k], starts[k] + turn, _COARSE + 1) for k in (i, j)]
        counts, _, _ = np.histogram2d(angles[:, i], angles[:, j], bins=edges)
        grids.append(np.log(np.maximum(counts.T, 0.5) / (_DRAWN * area)))
    return grids


def _log_density(fitted: Fitted, evidence: Evidence, x: Float[np.ndarray, "m D"]) -> Float[np.ndarray, " m"]:
    """Return the log density at points, averaged over some contexts of the judged rows where there are any."""
    density, points = fitted.model.density, torch.from_numpy(x)
    c = evidence.rows.thinned(_CONTEXTS).c
    if c is None:
        return Rows(points).map(density.log_prob).numpy()
    each = [Rows(points, row.expand(len(points), -1)).map(density.log_prob) for row in c]
    return (torch.stack(each).logsumexp(0) - math.log(len(each))).numpy()


def _unusual(evidence: Evidence) -> Bool[np.ndarray, " n"]:
    """Tell which of the judged rows are beyond the cut; of samples none."""
    density = evidence.log_density.numpy()
    return (density < np.quantile(density, CUT)) & (evidence.source != "drawn")


def _averaged(evidence: Evidence) -> str:
    c = evidence.rows.thinned(_CONTEXTS).c
    return "" if c is None else f" The density is averaged over the contexts of {len(c)} rows."
