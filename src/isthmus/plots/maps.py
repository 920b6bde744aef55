"""Figures of densities on known surfaces: a map of the sphere, a triangle of three parts, panels of angles.

Arrays in, a `Picture` out. Every figure shows rows over the density, and those of them that are least likely.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon

from isthmus.plots.style import CORNERS, DENSITY, INK, MODEL, Picture, canvas, number, points, shown, styled

__all__ = ["angle_panels", "density_triangle", "sphere_map", "triangle_centres"]

_NATS = 8.0  # below the highest density, from where all is one colour
_ROWS = "#161616"  # over the density, which no page changes
_TICKS = (0.2, 0.4, 0.6, 0.8)
_SHOWN_ANGLES = 3


@styled
def sphere_map(
    log_density: Float[np.ndarray, "latitudes longitudes"],
    places: Float[np.ndarray, "n 2"],
    unusual: Bool[np.ndarray, " n"],
    unit: str,
) -> Picture:
    """Draw a density on the sphere on a map of equal areas, that of Mollweide, with rows over it.

    Args:
        log_density: in cells of equal steps, from -90 to 90 degrees of latitude and from -180 to 180 of longitude.
        places: latitude and longitude of rows, in degrees.
        unusual: which rows are the least likely.
        unit: of the density, as `per steradian`.

    Returns:
        The picture.

    Example:
        >>> density = np.add.outer(np.linspace(-1, 1, 6), np.zeros(12))
        >>> sphere_map(density, np.array([[45.0, -120.0]]), np.array([False]), "per steradian").alt
        'Map of the sphere in the projection of Mollweide, with 1 row, 0 of them unusual. The log density, in nats per
        steradian, runs from −1 to 1 and is highest at latitude 75, longitude −165.'
    """
    figure, (ax,) = canvas(height=3.1, subplot_kw={"projection": "mollweide"})
    edges = [
        np.linspace(-end, end, count + 1) for end, count in zip((np.pi / 2, np.pi), log_density.shape, strict=True)
    ]
    drawn = ax.pcolormesh(edges[1], edges[0], log_density, **_scale(log_density), rasterized=True)
    _rows(ax, np.radians((places[:, 1] + 180) % 360 - 180), np.radians(places[:, 0]), unusual)
    ax.set_longitude_grid(60)
    ax.set_latitude_grid(30)
    ax.grid(visible=True, color=_ROWS, alpha=0.25, lw=0.5)
    ax.set_xticklabels([])
    ax.tick_params(labelsize=7)
    _finish(figure, ax, drawn, f"log density (nats {unit})")
    row, column = np.unravel_index(log_density.argmax(), log_density.shape)
    latitude, longitude = (np.degrees(edge[at : at + 2].mean()) for edge, at in zip(edges, (row, column), strict=True))
    where = f"latitude {number(latitude)}, longitude {number(longitude)}"
    return Picture(
        figure,
        f"Map of the sphere in the projection of Mollweide, with {_counted(unusual)}. "
        f"{_course(log_density, unit)} and is highest at {where}.",
    )


def triangle_centres(n: int) -> Float[np.ndarray, "cells 3"]:
    """Return the centres of the small triangles that make up a triangle of fractions, for `density_triangle`.

    Args:
        n: small triangles along a side, >= 1.

    Example:
        >>> triangle_centres(1).round(3).tolist()
        [[0.333, 0.333, 0.333]]
    """
    corners, cells = _lattice(n)
    return corners[cells].mean(1)


@styled
def density_triangle(
    log_density: Float[np.ndarray, " cells"],
    fractions: Float[np.ndarray, "n 3"],
    unusual: Bool[np.ndarray, " n"],
    names: Sequence[str],
    unit: str,
    *,
    whole: float = 1.0,
) -> Picture:
    """Draw a density of three parts on a triangle, with rows over it: a corner is a part alone.

    Args:
        log_density: at `triangle_centres(n)`, n * n of them.
        fractions: of rows.
        unusual: which rows are the least likely.
        names: of the parts: at the lower left, the lower right and the top.
        unit: of the density, as `per unit of area`.
        whole: what parts sum to in the table, 1 or 100.

    Returns:
        The picture.

    Example:
        >>> density = -((triangle_centres(4) - 1 / 3) ** 2).sum(1)
        >>> rows = np.array([[0.2, 0.3, 0.5]])
        >>> density_triangle(density, rows, np.array([True]), ["sand", "silt", "clay"], "per unit of area").alt
        'Triangle of sand (lower left), silt (lower right) and clay (top), with 1 row, 1 of them unusual. The log
        density, in nats per unit of area, runs from −0.375 to 0 and is highest at sand 0.333, silt 0.333, clay 0.333.'
    """
    n = round(len(log_density) ** 0.5)
    corners, cells = _lattice(n)
    figure, (ax,) = canvas(height=4.2)
    options = _scale(log_density)
    drawn = ax.tripcolor(*(corners @ CORNERS).T, cells, log_density, rasterized=True, **options)
    ax.add_patch(Polygon(CORNERS, fill=False, edgecolor=INK, lw=0.9))
    x, y = (fractions @ CORNERS).T
    _rows(ax, x, y, unusual)
    for part in range(3):
        _graduate(ax, part, whole)
    offsets = ((-0.02, -0.1, "left"), (1.02, -0.1, "right"), (0.5, 3**0.5 / 2 + 0.04, "center"))
    for name, (x, y, side) in zip(names, offsets, strict=True):
        ax.text(x, y, shown(name), ha=side, va="bottom", fontweight="bold", fontsize=8.5)
    ax.set(aspect="equal", xlim=(-0.08, 1.08), ylim=(-0.12, 0.95))
    ax.axis("off")
    _finish(figure, ax, drawn, f"log density (nats {unit})")
    best = whole * corners[cells].mean(1)[log_density.argmax()]
    where = ", ".join(f"{shown(name, 40)} {number(value)}" for name, value in zip(names, best, strict=True))
    told = [shown(name, 40) for name in names]
    return Picture(
        figure,
        f"Triangle of {told[0]} (lower left), {told[1]} (lower right) and {told[2]} (top), with {_counted(unusual)}. "
        f"{_course(log_density, unit)} and is highest at {where}.",
    )


@styled
def angle_panels(
    log_density: Sequence[Float[np.ndarray, "cells cells"]],
    rows: Float[np.ndarray, "n k"],
    unusual: Bool[np.ndarray, " n"],
    names: Sequence[str],
    unit: str,
    *,
    starts: Sequence[float],
    turn: float,
) -> Picture:
    """Draw densities of pairs of angles over a whole turn of each, as Ramachandran's plots do, with rows over them.

    Args:
        log_density: of each pair of the first three angles, (0, 1), (0, 2), (1, 2): the first angle along the second
            axis of the array.
        rows: angles in the unit of the table.
        unusual: which rows are the least likely.
        names: of the angles, two or more.
        unit: of the density, as `per radian of each angle`.
        starts: where the turn of each angle starts.
        turn: a whole turn in the unit of the table.

    Returns:
        The picture, a panel a pair.

    Example:
        >>> density, rows = np.zeros((4, 4)), np.array([[10.0, 20.0]])
        >>> angle_panels([density], rows, np.array([False]), ["phi", "psi"], "per radian", starts=[-180, -180],
        ...     turn=360).alt
        'Pairs of 2 angles over a whole turn, with 1 row, 0 of them unusual. The log density, in nats per radian, of phi
        and psi runs from 0 to 0 and is highest at phi −135, psi −135.'
    """
    pairs = list(combinations(range(min(len(names), _SHOWN_ANGLES)), 2))
    side = len(pairs) if len(pairs) < 3 else 2
    figure, axes = canvas(side, side, height=3.7 if side == 1 else 4.6)
    panels = [axes[side * (j - 1) + i] for i, j in pairs]
    for ax in axes:
        ax.set_axis_off()
    high = max(float(grid.max()) for grid in log_density)
    low = max(high - _NATS, min(float(grid.min()) for grid in log_density))
    sentences = []
    for ax, grid, (i, j) in zip(panels, log_density, pairs, strict=True):
        edges = [np.linspace(starts[k], starts[k] + turn, len(grid) + 1) for k in (i, j)]
        ax.set_axis_on()
        drawn = ax.pcolormesh(*edges, grid, cmap=DENSITY, vmin=low, vmax=max(high, low + 1e-9), rasterized=True)
        _rows(ax, rows[:, i], rows[:, j], unusual)
        ticks = [[starts[k] + turn * quarter / 4 for quarter in range(5)] for k in (i, j)]
        ax.set_xticks(ticks[0], [number(tick) for tick in ticks[0]], fontsize=7)
        ax.set_yticks(ticks[1], [number(tick) for tick in ticks[1]], fontsize=7)
        ax.tick_params(labelbottom=j == side, labelleft=i == 0)
        ax.set(xlabel=shown(names[i], 16) if j == side else "", ylabel=shown(names[j], 16) if i == 0 else "")
        ax.set_aspect("equal")
        down, across = np.unravel_index(grid.argmax(), grid.shape)
        best = [number((edge[at] + edge[at + 1]) / 2) for edge, at in zip(edges, (across, down), strict=True)]
        told = [shown(names[k], 40) for k in (i, j)]
        sentences.append(
            f"of {told[0]} and {told[1]} runs from {number(grid.min())} to {number(grid.max())} and is highest at "
            f"{told[0]} {best[0]}, {told[1]} {best[1]}"
        )
    _finish(figure, axes, drawn, f"log density (nats {unit})")
    return Picture(
        figure,
        f"Pairs of {len(names)} angles over a whole turn, with {_counted(unusual)}. The log density, in nats {unit}, "
        f"{'; '.join(sentences)}.",
    )


def _lattice(n: int) -> tuple[Float[np.ndarray, "corners 3"], Any]:
    """Return fractions at the corners of n * n small triangles, and which three corners each triangle has."""
    at = [(i, j) for j in range(n + 1) for i in range(n + 1 - j)]
    index = {place: k for k, place in enumerate(at)}
    up = [(index[i, j], index[i + 1, j], index[i, j + 1]) for i, j in at if i + j < n]
    down = [(index[i + 1, j], index[i + 1, j + 1], index[i, j + 1]) for i, j in at if i + j < n - 1]
    second, third = np.array(at, dtype=float).T / n
    return np.stack([1 - second - third, second, third], 1), np.array(up + down)


def _graduate(ax: Any, part: int, whole: float) -> None:
    """Draw lines of equal shares of a part, each with its number at the side where the next part is none."""
    for share in _TICKS:
        ends = np.zeros((2, 3))
        ends[:, part] = share
        ends[0, (part + 1) % 3] = ends[1, (part + 2) % 3] = 1 - share
        (x, y), other = ends @ CORNERS
        ax.plot([x, other[0]], [y, other[1]], color=_ROWS, alpha=0.25, lw=0.5)
        away = 0.035 * (np.array([x, y]) - other) / (1 - share)
        ax.text(x + away[0], y + away[1], number(share * whole), ha="center", va="center", fontsize=7)


def _rows(ax: Any, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], unusual: Bool[np.ndarray, " n"]) -> None:
    """Draw rows as dots, and the least likely of them as crosses."""
    points(ax, x[~unusual], y[~unusual], color=_ROWS, alpha=0.55)
    if unusual.any():
        cross: dict[str, Any] = {"marker": "x", "s": 22, "linewidths": 1.3, "alpha": 1.0, "rasterized": False}
        points(ax, x[unusual], y[unusual], color=MODEL, **cross)


def _scale(log_density: Float[np.ndarray, "..."]) -> dict[str, Any]:
    """Return the colours of a density, one colour from some nats below the highest on."""
    high = float(log_density.max())
    return {"cmap": DENSITY, "vmin": max(float(log_density.min()), high - _NATS) - 1e-9, "vmax": high}


def _finish(figure: Any, axes: Any, drawn: Any, label: str) -> None:
    """Add the scale of the density, and what the marks mean."""
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.8, pad=0.04, aspect=30, location="bottom")
    mark: dict[str, Any] = {"linestyle": "none", "markersize": 5}
    dot = Line2D([], [], marker="o", color=INK, alpha=0.55, markeredgewidth=0, label="rows", **mark)
    cross = Line2D([], [], marker="x", color=MODEL, label="least likely rows", **mark)
    figure.legend(handles=[dot, cross], loc="outside upper left", ncols=2)


def _counted(unusual: Bool[np.ndarray, " n"]) -> str:
    n = len(unusual)
    return f"{n:,} row{'s' * (n != 1)}, {int(unusual.sum()):,} of them unusual"


def _course(log_density: Float[np.ndarray, "..."], unit: str) -> str:
    ends = f"{number(float(log_density.min()))} to {number(float(log_density.max()))}"
    return f"The log density, in nats {unit}, runs from {ends}"
