"""Figures of the learned surface: codes, the surface in space, walks along it; arrays in, a `Picture` out."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from isthmus.plots.style import COLORS, DENSITY, GREY, Picture, canvas, number, points, shown, styled

__all__ = ["image_rows", "latent_scatter", "manifold", "profiles"]

_SHOWN_CODES = 3
_CLIP = (0.01, 0.99)  # the colour scale leaves out the outermost values


@styled
def latent_scatter(
    z: Float[np.ndarray, "n d"], values: Shaped[np.ndarray, " n"], what: str, axes: Sequence[str] = ()
) -> Picture:
    """Draw codes against one another, coloured by a number or by a level; a single code against the number itself.

    Args:
        z: codes, of which the first three are drawn.
        values: one number or text a row, to colour by.
        what: what they are.
        axes: names of the codes, z0, z1, ... if not given.

    Returns:
        The picture.

    Example:
        >>> z = np.linspace(-1, 1, 50)[:, None] * np.array([1.0, -1.0])
        >>> latent_scatter(z, z[:, 0], "log density").alt
        'Codes of 50 points, z0 from −1 to 1, z1 from −1 to 1, coloured by log density, which has rank correlation
        1 with z0, −1 with z1.'
    """
    d = min(z.shape[1], _SHOWN_CODES)
    names = list(axes) or [f"z{i}" for i in range(z.shape[1])]
    by_number = values.dtype.kind in "fiu"
    pairs = list(combinations(range(d), 2)) or [(0, 0)]
    figure, panels = canvas(1, len(pairs), height=2.9 if len(pairs) == 1 else 2.3)
    for ax, (i, j) in zip(panels, pairs, strict=True):
        alone = i == j and by_number
        drawn = _colored(ax, z[:, i], values if alone else z[:, j], values)
        ax.set(xlabel=names[i], ylabel=what if alone else names[j])
        ax.locator_params(nbins=4 if len(pairs) == 1 else 3)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))  # short: three panels are narrow
    if by_number and d > 1:
        figure.colorbar(drawn, ax=panels, label=what, shrink=0.9, pad=0.02, aspect=30, location="bottom")
    elif not by_number:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, markerscale=3)
    detail = ""
    if by_number:
        ranks = [number(round(_rank_correlation(z[:, i], values), 2)) for i in range(d)]
        detail = ", which has rank correlation " + ", ".join(f"{ranks[i]} with {names[i]}" for i in range(d))
    return Picture(figure, f"Codes of {len(z):,} points, {_spans(z[:, :d], names[:d])}, coloured by {what}{detail}.")


@styled
def manifold(
    surface: Float[np.ndarray, "n k"],
    log_density: Float[np.ndarray, " n"],
    rows: Float[np.ndarray, "m k"],
    axes: Sequence[str],
    lines: Sequence[Float[np.ndarray, "_ k"]] = (),
) -> Picture:
    """Draw the learned surface in the data's space, coloured by the density on it, with rows behind it.

    Args:
        surface: points of the surface, without noise; 2 or 3 coordinates.
        log_density: with respect to volume on the surface, in nats.
        rows: data in the same coordinates; may be empty.
        axes: names of the coordinates.
        lines: curves of equal codes on the surface.

    Returns:
        The picture.

    Example:
        >>> x = np.linspace(0, 1, 30)[:, None] * np.ones((1, 2))
        >>> manifold(x, x[:, 0], x, ["length", "width"]).alt
        'The learned surface by 30 points, over 30 rows; length from 0 to 1, width from 0 to 1. Its log density runs
        from 0.01 to 0.99 nats and is highest at length 1, width 1.'
    """
    k = surface.shape[1]
    solid: dict[str, Any] = {"subplot_kw": {"projection": "3d"}} if k == 3 else {}
    figure, (ax,) = canvas(height=3.7 if k == 3 else 3.4, **solid)
    common: dict[str, Any] = {"linewidths": 0, "rasterized": True}
    if len(rows):
        size = float(np.clip(200 / len(rows) ** 0.5, 3, 12))
        ax.scatter(*rows.T, s=size, color=GREY, alpha=0.4, label="rows", **common)
    for line in lines:
        ax.plot(*line.T, color=GREY, lw=0.7, alpha=0.8)
    low, high = np.quantile(log_density, _CLIP)
    size = float(np.clip(250 / np.sqrt(len(surface)), 4, 16))
    drawn = ax.scatter(*surface.T, c=log_density, s=size, cmap=DENSITY, vmin=low, vmax=high, alpha=0.9, **common)
    label = "log density on the surface (nats)"
    figure.colorbar(drawn, ax=ax, label=label, shrink=0.8, pad=0.12 if k == 3 else 0.02, aspect=30, location="bottom")
    _name_axes(ax, axes)
    place = ", ".join(f"{shown(n, 40)} {number(v)}" for n, v in zip(axes, surface[log_density.argmax()], strict=True))
    over = f", over {len(rows):,} rows" if len(rows) else ""
    return Picture(
        figure,
        f"The learned surface by {len(surface):,} points{over}; {_spans(surface, axes)}. Its log density runs from "
        f"{number(low)} to {number(high)} nats and is highest at {place}.",
    )


def _name_axes(ax: Any, names: Sequence[str]) -> None:
    """Label the axes with the coordinates; in space without walls, which would be white on a dark page."""
    solid = len(names) == 3
    for letter, name in zip("xyz", names, strict=False):
        getattr(ax, f"set_{letter}label")(shown(name, 14 if solid else 28))
        if solid:
            getattr(ax, f"{letter}axis").set_pane_color((0, 0, 0, 0))
    if solid:
        ax.set_box_aspect(None, zoom=0.97)
        ax.grid(visible=False)
    ax.locator_params(nbins=5)


def _spans(values: Float[np.ndarray, "n k"], names: Sequence[str]) -> str:
    """Return the range of each coordinate in words."""
    ends = zip(names, values.min(0), values.max(0), strict=True)
    return ", ".join(f"{shown(name, 40)} from {number(low)} to {number(high)}" for name, low, high in ends)


@styled
def profiles(
    t: Float[np.ndarray, " steps"], walks: Float[np.ndarray, "walks steps D"], names: Sequence[str], most: int = 5
) -> Picture:
    """Draw how columns change on walks along the surface's leading directions, each from the middle to both sides.

    Args:
        t: place on the walk, in standard deviations of the codes.
        walks: standardised columns along each of up to three walks.
        names: of the columns.
        most: how many columns to draw, those that change most.

    Returns:
        The picture, one panel a walk.

    Example:
        >>> t = np.linspace(-2, 2, 5)
        >>> profiles(t, np.stack([t, 0 * t], 1)[None], ["length", "width"]).alt
        'Along direction 1, from −2 to 2 standard deviations: length from −2 to 2, width from 0 to 0.'
    """
    figure, axes = canvas(len(walks), height=0.4 + 1.9 * len(walks), sharex=True)
    sentences = []
    for k, (ax, walk) in enumerate(zip(axes, walks, strict=True)):
        change = np.ptp(walk, axis=0)
        chosen = np.argsort(-change, kind="stable")[:most]
        for place, j in enumerate(chosen):
            dashes = [(None, None), (5, 2), (1.5, 1.5), (6, 1.5, 1.5, 1.5), (3, 1)][place % 5]
            ax.plot(t, walk[:, j], color=COLORS[place % len(COLORS)], dashes=dashes, label=shown(names[j], 18))
        ax.set_ylabel(f"direction {k + 1}\ncolumn (std.)")
        ax.grid(axis="y")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=1.6, fontsize=7.5)
        ends = ", ".join(f"{shown(names[j], 40)} {_course(walk[:, j])}" for j in chosen)
        start, end = number(t[0]), number(t[-1])
        sentences.append(f"Along direction {k + 1}, from {start} to {end} standard deviations: {ends}.")
    axes[-1].set_xlabel("standard deviations from the mean code")
    return Picture(figure, " ".join(sentences))


@styled
def image_rows(images: Float[np.ndarray, "lines columns h w"], labels: Sequence[str], what: str) -> Picture:
    """Draw rows of pictures, all on one scale of grey.

    Args:
        images: grey values.
        labels: of each line.
        what: the sentence that says what is shown.

    Returns:
        The picture; its words give the mean grey value of each line.

    Example:
        >>> image_rows(np.zeros((1, 3, 2, 2)), ["rows"], "Three pictures.").alt
        'Three pictures. Mean grey value from left to right, on a scale from 0 to 1: rows 0, 0, 0.'
    """
    lines, columns, h, w = images.shape
    figure, (ax,) = canvas(height=0.3 + 4.1 * lines * h / (columns * w))
    low, high = float(images.min()), float(images.max())
    gap = max(1, round(0.12 * min(h, w)))
    sheet = np.full((lines * (h + gap) - gap, columns * (w + gap) - gap), np.nan)
    for (i, j), _ in np.ndenumerate(images[:, :, 0, 0]):
        sheet[i * (h + gap) :, j * (w + gap) :][:h, :w] = images[i, j]
    ax.imshow(np.ma.masked_invalid(sheet), cmap="gray", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([i * (h + gap) + h / 2 for i in range(lines)], labels)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    scale = max(high - low, 1e-12)
    means = (images.mean((2, 3)) - low) / scale
    grey = "; ".join(
        f"{label} " + ", ".join(number(round(m, 2)) for m in row) for label, row in zip(labels, means, strict=True)
    )
    return Picture(figure, f"{what} Mean grey value from left to right, on a scale from 0 to 1: {grey}.")


def _colored(ax: Axes, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], values: Shaped[np.ndarray, " n"]) -> Any:
    """Draw points coloured by a number, in the order of the number, or by a level, with a legend's entry each."""
    if values.dtype.kind in "fiu":
        low, high = np.quantile(values[np.isfinite(values)], _CLIP)
        order = np.argsort(values, kind="stable")
        return points(ax, x[order], y[order], c=values[order], cmap=DENSITY, vmin=low, vmax=high)
    levels, counts = np.unique(values.astype(str), return_counts=True)
    common = levels[np.argsort(-counts, kind="stable")][: len(COLORS) - 1]
    drawn = None
    for color, level in zip(COLORS, common, strict=False):
        chosen = values.astype(str) == level
        drawn = points(ax, x[chosen], y[chosen], color=color, label=shown(level, 12), rasterized=len(x) > 300)
    rest = ~np.isin(values.astype(str), common)
    if rest.any():
        drawn = points(ax, x[rest], y[rest], color=GREY, label="others", rasterized=len(x) > 300)
    return drawn


def _course(values: Float[np.ndarray, " steps"]) -> str:
    """Return in words the first and last value, and the range if it turns on the way."""
    start, end, low, high = (number(round(float(v), 2)) for v in (values[0], values[-1], values.min(), values.max()))
    turns = high not in (start, end) or low not in (start, end)
    return f"from {start} to {end}" + (f" (between {low} and {high})" if turns else "")


def _rank_correlation(x: Float[np.ndarray, " n"], y: Shaped[np.ndarray, " n"]) -> float:
    a, b = (np.argsort(np.argsort(v, kind="stable"), kind="stable").astype(float) for v in (x, y))
    return float(np.corrcoef(a, b)[0, 1]) if len(x) > 1 else 0.0
