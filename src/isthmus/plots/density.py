"""Figures of densities: scores with the outlier cut, samples against rows, calibration; arrays in, a `Picture` out."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from isthmus.plots.style import GREY, INK, MODEL, ROWS, Picture, canvas, log_scale, number, points, shown, styled

__all__ = ["calibration", "histogram", "kolmogorov_smirnov", "marginals", "pair_plot"]

_BINS = 24
_WHOLE_BINS = 30  # a column of that many whole numbers has one bin a number
_PIT_BINS = 20


@styled
def histogram(
    values: Float[np.ndarray, " n"], cut: float, *, what: str, unusual: str = "below", logarithmic: bool = False
) -> Picture:
    """Draw the histogram of a score over rows, with the cut beyond which a row is called unusual.

    Args:
        values: one score a row; those that are not finite are left out.
        cut: the limit.
        what: name and unit of the score, for the axis.
        unusual: on which side of the cut, "below" or "above".
        logarithmic: whether the axis is; for values > 0 only.

    Returns:
        The picture.

    Example:
        >>> histogram(np.arange(100.0), 4.5, what="score").alt
        'Histogram of the score of 100 rows: median 49.5, half of them between 24.8 and 74.2; 5 rows (5.0 %) are below
        the cut at 4.5.'
    """
    figure, (ax,) = canvas(height=2.5)
    finite = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
    low, high = np.quantile(finite, [0.002, 0.998])
    spare = 0.05 * (high - low) + 1e-12 * abs(high)
    edges = np.linspace(low - spare, high + spare, _BINS + 1)
    if logarithmic:
        edges = np.geomspace(low / 1.1, high * 1.1, _BINS + 1)
        log_scale(ax, "x", edges[0], edges[-1])
    bars = ax.hist(finite.clip(edges[0], edges[-1]), edges, color=ROWS)
    usual = np.array(edges[:-1] >= cut) if unusual == "below" else np.array(edges[1:] <= cut)
    for patch, inside in zip(bars[2], usual, strict=True):
        patch.set(color=ROWS if inside else MODEL, hatch=None if inside else "////")
    ax.axvline(cut, color=INK, ls="--", lw=1.2, label=f"cut at {number(cut)}")
    ax.set(xlabel=what, ylabel="rows")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left")
    beyond = int((values < cut).sum() if unusual == "below" else (values > cut).sum())
    first, median, third = np.quantile(finite, [0.25, 0.5, 0.75])
    out = "1 row" if beyond == 1 else f"{beyond:,} rows"
    verb = "is" if beyond == 1 else "are"
    return Picture(
        figure,
        f"Histogram of the {what} of {len(values):,} rows: median {number(median)}, half of them between "
        f"{number(first)} and {number(third)}; {out} ({100 * beyond / len(values):.1f} %) {verb} "
        f"{unusual} the cut at {number(cut)}.",
    )


def kolmogorov_smirnov(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]) -> float:
    """Return the largest difference of two empirical distribution functions, in [0, 1].

    Args:
        x: values.
        y: values.

    Example:
        >>> kolmogorov_smirnov(np.array([0.0, 1.0]), np.array([0.5, 2.0]))
        0.5
    """
    both = np.concatenate([x, y])
    x, y = np.sort(x), np.sort(y)
    share = np.searchsorted(x, both, "right") / len(x) - np.searchsorted(y, both, "right") / len(y)
    return float(np.abs(share).max())


@styled
def marginals(rows: Float[np.ndarray, "n D"], samples: Float[np.ndarray, "m D"], names: Sequence[str]) -> Picture:
    """Draw each column of rows against that of samples, with the distance of Kolmogorov and Smirnov (KS).

    Args:
        rows: data, in the user's units.
        samples: drawn from the model.
        names: of the columns.

    Returns:
        The picture, of two panels a line.

    Example:
        >>> x = np.linspace(0, 1, 50)[:, None]
        >>> marginals(x, x, ["length"]).alt
        'Columns of 50 rows against 50 samples, with the largest difference of their distribution functions: length
        0.'
    """
    lines = -(-len(names) // 2)
    figure, axes = canvas(lines, min(2, len(names)), height=0.5 + 1.25 * lines)
    distances = [kolmogorov_smirnov(rows[:, j], samples[:, j]) for j in range(len(names))]
    for j, ax in enumerate(axes):
        if j >= len(names):
            ax.axis("off")
            continue
        _two_histograms(ax, rows[:, j], samples[:, j])
        ax.set_title(f"{shown(names[j], 14)}: KS {distances[j]:.2f}", loc="left", fontweight="normal")
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    listed = ", ".join(f"{shown(n, 40)} {number(round(d, 3))}" for n, d in zip(names, distances, strict=True))
    return Picture(
        figure,
        f"Columns of {len(rows):,} rows against {len(samples):,} samples, with the largest difference of their "
        f"distribution functions: {listed}.",
    )


@styled
def pair_plot(rows: Float[np.ndarray, "n D"], samples: Float[np.ndarray, "m D"], names: Sequence[str]) -> Picture:
    """Draw columns of rows and samples against one another; on the diagonal each alone.

    Args:
        rows: data, in the user's units.
        samples: drawn from the model.
        names: of the columns, two or more; three fit well.

    Returns:
        The picture: rows below the diagonal, samples above it with the axes swapped.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 1)) * np.ones((1, 2))
        >>> pair_plot(x, -x, ["a", "b"]).alt
        'Pairs of columns, 50 rows below the diagonal and 50 samples above it. Correlations in rows and samples: a
        with b 1 and 1.'
    """
    D = len(names)
    figure, axes = canvas(D, D, height=4.4)
    for place, ax in enumerate(axes):
        i, j = divmod(place, D)
        if i == j:
            _two_histograms(ax, rows[:, j], samples[:, j])
            ax.set_yticks([])
        else:
            source, color = (rows, ROWS) if i > j else (samples, MODEL)
            points(ax, source[:, j], source[:, i], color=color, alpha=0.5)
            ax.set_ylim(*_limits(rows[:, i], samples[:, i]))
            ax.locator_params(nbins=3)
        ax.set_xlim(*_limits(rows[:, j], samples[:, j]))
        ax.locator_params(axis="x", nbins=3)
        ax.tick_params(labelbottom=i == D - 1, labelleft=j == 0 and i > 0, labelsize=7)
        ax.set_xlabel(shown(names[j], 16) if i == D - 1 else "")
        ax.set_ylabel(shown(names[i], 16) if j == 0 else "")
    handles, _ = axes[0].get_legend_handles_labels()
    figure.legend(handles, ["rows (lower left)", "samples (upper right)"], loc="outside upper left", ncols=2)
    return Picture(
        figure,
        f"Pairs of columns, {len(rows):,} rows below the diagonal and {len(samples):,} samples above it. Correlations "
        f"in rows and samples: {_correlations(rows, samples, names)}.",
    )


def _correlations(rows: Float[np.ndarray, "n D"], samples: Float[np.ndarray, "m D"], names: Sequence[str]) -> str:
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (np.nan_to_num(np.corrcoef(values.T)) for values in (rows, samples))  # a constant has none
    return "; ".join(
        f"{shown(names[j], 40)} with {shown(names[i], 40)} {number(round(a[i, j], 2))} and {number(round(b[i, j], 2))}"
        for i in range(len(names))
        for j in range(i)
    )


@styled
def calibration(pit: Float[np.ndarray, " n"]) -> Picture:
    """Draw whether the spread off the surface is what the model says: uniform if so, a hump if noise is overstated.

    Args:
        pit: the normal distribution function of residuals along directions normal to the surface, each divided by the
            model's standard deviation there, in [0, 1].

    Returns:
        The picture.

    Example:
        >>> calibration(np.linspace(0.0005, 0.9995, 1000)).alt
        'Histogram of 1,000 residuals off the surface on the scale of the model: 50 % lie in the half where the model
        expects 50 %, 10 % in the tails where it expects 10 %; largest difference of the distribution functions 0.'
    """
    figure, (ax,) = canvas(height=2.5)
    expected = len(pit) / _PIT_BINS
    ax.hist(pit, np.linspace(0, 1, _PIT_BINS + 1), color=ROWS, label="rows")
    ax.axhline(expected, color=INK, lw=1.2, ls="--", label="if calibrated")
    ax.set(xlabel="quantile that the model gives a row's residual", ylabel="residuals", xlim=(0, 1))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    middle = float(((pit > 0.25) & (pit < 0.75)).mean())
    tails = float(((pit < 0.05) | (pit > 0.95)).mean())
    ordered, place = np.sort(pit), np.arange(len(pit) + 1) / len(pit)
    distance = max(float((place[1:] - ordered).max()), float((ordered - place[:-1]).max()))
    return Picture(
        figure,
        f"Histogram of {len(pit):,} residuals off the surface on the scale of the model: {number(round(100 * middle))} "
        f"% lie in the half where the model expects 50 %, {number(round(100 * tails))} % in the tails where it expects "
        f"10 %; largest difference of the distribution functions {number(round(distance, 2))}.",
    )


def _limits(*groups: Float[np.ndarray, " _"]) -> tuple[float, float]:
    """Return a range that holds nearly all of the values."""
    low = min(float(np.quantile(values, 0.002)) for values in groups)
    high = max(float(np.quantile(values, 0.998)) for values in groups)
    spare = 0.06 * (high - low) or 0.5
    return low - spare, high + spare


def _two_histograms(ax: Axes, rows: Float[np.ndarray, " n"], samples: Float[np.ndarray, " m"]) -> None:
    """Draw histograms: rows as filled steps, samples as a line, on the same bins, each as a density."""
    low, high = _limits(rows, samples)
    edges = np.linspace(low, high, _BINS + 1)
    if all((values == np.round(values)).all() for values in (rows, samples)) and high - low < _WHOLE_BINS:
        edges = np.arange(np.floor(low), np.ceil(high) + 1) + 0.5
        edges = np.concatenate([edges[:1] - 1, edges])
    for values, style in ((rows, {"color": ROWS, "alpha": 0.55}), (samples, {"color": MODEL, "histtype": "step"})):
        label = "rows" if values is rows else "samples"
        inside = values.clip(edges[0], edges[-1])
        ax.hist(inside, edges.tolist(), density=True, label=label, lw=1.3 if label == "samples" else 0, **style)
    ax.locator_params(axis="x", nbins=4)
    ax.spines["left"].set(color=GREY)
