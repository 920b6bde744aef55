"""Figures of how a fit came about and how well it reconstructs: arrays in, a `Picture` out."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from isthmus.plots.style import GREY, INK, MODEL, ROWS, Picture, canvas, log_scale, nats, number, styled

__all__ = ["latent_dim_curve", "reconstruction_floor", "spectrum", "training_curves"]

_MARKS = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)), "solid")


@styled
def training_curves(log: Sequence[Mapping[str, float]], events: Sequence[tuple[float, str]] = ()) -> Picture:
    """Draw the held-out log density, and the reconstruction error where there is one, against the steps.

    Args:
        log: one record a validation: `step`, `log_density` in nats a row, and with a reconstruction its squared
            error `reconstruction`, in squared standard deviations.
        events: steps and words to mark them with.

    Returns:
        The picture, of one panel or two.

    Example:
        >>> log = [{"step": s, "log_density": -9.0 + s, "reconstruction": 1.0} for s in (0, 1, 2)]
        >>> training_curves(log, [(2, "weights kept")]).alt
        'Over 2 steps the held-out log density went from −9.00 to −7.00 nats per row, the held-out reconstruction error
        from 1 to 1. Marked: weights kept at step 2.'
    """
    reconstructs = "reconstruction" in log[0]
    figure, axes = canvas(2, height=3.6, sharex=True) if reconstructs else canvas(1, height=2.4)
    step, density = (np.array([row[key] for row in log], dtype=float) for key in ("step", "log_density"))
    _density_curve(axes[0], step, density)
    text = f"held-out log density went from {nats(density[0])} to {nats(density[-1])} nats per row"
    if reconstructs:
        error = np.array([row["reconstruction"] for row in log], dtype=float)
        _error_curve(axes[1], step, error)
        text += f", the held-out reconstruction error from {number(error[0])} to {number(error[-1])}"
    axes[-1].set_xlabel("training step")
    for (at, what), style in zip(events, _MARKS, strict=False):
        for ax in axes:
            ax.axvline(at, color=INK, lw=1.0, ls=style, label=what)
    for ax in axes:
        ax.grid(axis="y")
    if events:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    marks = "; ".join(f"{what} at step {number(at)}" for at, what in events)
    marked = f" Marked: {marks}." if marks else ""
    return Picture(figure, f"Over {number(step[-1])} steps the {text}.{marked}")


def _density_curve(ax: Axes, step: Float[np.ndarray, " n"], density: Float[np.ndarray, " n"]) -> None:
    ax.plot(step, density, ".-", color=MODEL)
    ax.set_ylabel("log density\n(nats per row)")
    settled = density[len(density) // 4 :]
    settled = settled[np.isfinite(settled)]
    if len(settled):  # an untrained flow's value may be lower by thousands
        low, high = settled.min(), density[np.isfinite(density)].max()
        ax.set_ylim(low - 0.5 * (high - low) - 0.05, high + 0.15 * (high - low) + 0.05)


def _error_curve(ax: Axes, step: Float[np.ndarray, " n"], error: Float[np.ndarray, " n"]) -> None:
    ax.plot(step, error, ".-", color=ROWS)
    positive = error[np.isfinite(error) & (error > 0)]
    if len(positive):  # an exact inverse reconstructs exactly
        log_scale(ax, "y", float(positive.min()), float(positive.max()))
    ax.set_ylabel("reconstruction\nerror (log scale)")


@styled
def reconstruction_floor(
    linear: Float[np.ndarray, " dims"], pieces: Float[np.ndarray, " dims"], latent_dim: int, model: float
) -> Picture:
    """Draw the residual of the model on held-out rows against linear and piecewise linear fits of each dimension.

    Args:
        linear: residual standard deviation per direction off the principal axes, for 0, 1, 2, ... of them, in standard
            deviations of a column.
        pieces: the same for flat pieces; at the model's dimension it is the noise floor.
        latent_dim: d of the model, less than the number of dimensions drawn.
        model: its residual standard deviation per direction.

    Returns:
        The picture.

    Example:
        >>> reconstruction_floor(np.array([1.0, 0.5]), np.array([1.0, 0.2]), 1, 0.25).alt
        'With 1 latent dimension the model leaves a residual of 0.25 standard deviations per direction; principal axes
        leave 0.5, flat pieces (the noise floor) 0.2: the model is 1.25 times the floor.'
    """
    figure, (ax,) = canvas()
    ax.plot(linear, "o:", color=GREY, ms=3.5, label="principal axes (linear)")
    ax.plot(pieces, "s--", color=ROWS, ms=3.5, label="flat pieces: the noise floor")
    ax.plot([latent_dim], [model], "D", color=MODEL, ms=7, label="the model")
    ax.set(xlabel="dimensions", ylabel="residual per direction\n(standard deviations)")
    log_scale(ax, "y", float(min(linear.min(), pieces.min(), model)), float(linear.max()))
    _whole_ticks(ax, 0, len(pieces) - 1)
    ax.grid(axis="y")
    ax.set_ylim(top=float(max(linear.max(), model)) * 1.25)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    floor, flat = float(pieces[latent_dim]), float(linear[latent_dim])
    return Picture(
        figure,
        f"With {_dimensions(latent_dim)} the model leaves a residual of {number(model)} standard deviations per "
        f"direction; principal axes leave {number(flat)}, flat pieces (the noise floor) {number(floor)}: the model is "
        f"{number(model / max(floor, 1e-300))} times the floor.",
    )


@styled
def spectrum(mean: Float[np.ndarray, " d"], deviation: Float[np.ndarray, " d"], sigma: float) -> Picture:
    """Draw the extents of the learned surface in its own directions, against the noise.

    Args:
        mean: mean singular values of the decoder's derivative, scaled by the codes' spread, in standard deviations of
            a column, largest first.
        deviation: their standard deviations over rows.
        sigma: standard deviation of the noise per direction, in the same unit.

    Returns:
        The picture.

    Example:
        >>> spectrum(np.array([2.0, 0.05]), np.array([0.1, 0.0]), 0.2).alt
        'The extents of the surface fall from 2 to 0.05 standard deviations over 2 directions; 1 of 2 exceed the
        noise, which is 0.2.'
    """
    figure, (ax,) = canvas(height=2.6)
    place = np.arange(1, len(mean) + 1)
    ax.errorbar(place, mean, deviation, fmt="o", color=MODEL, ms=4, elinewidth=1, label="extent, and spread over rows")
    ax.axhline(sigma, color=INK, lw=1.0, ls="--", label=f"noise: {number(sigma)}")
    ax.set(xlabel="direction on the surface", ylabel="extent\n(standard deviations)")
    ax.set_ylim(bottom=0)
    ax.set_xlim(0.5, len(mean) + 0.5)
    _whole_ticks(ax, 1, len(mean))
    ax.grid(axis="y")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    extents = f"extents of the surface fall from {number(mean[0])} to {number(mean[-1])} standard deviations over "
    if len(mean) == 1:
        extents = f"extent of the surface is {number(mean[0])} standard deviations in "
    above = f"{int((mean > sigma).sum())} of {len(mean)} exceed{'s' * (len(mean) == 1)}"
    directions = f"{len(mean)} direction{'s' * (len(mean) != 1)}"
    return Picture(figure, f"The {extents}{directions}; {above} the noise, which is {number(sigma)}.")


@styled
def latent_dim_curve(records: Sequence[Mapping[str, float]], chosen: int) -> Picture:
    """Draw held-out log density against the latent dimension, with standard errors.

    Args:
        records: each with `latent_dim`, `log_likelihood` in nats a row and `standard_error`.
        chosen: the dimension that was taken.

    Returns:
        The picture.

    Example:
        >>> records = [{"latent_dim": d, "log_likelihood": -3.0 / d, "standard_error": 0.1} for d in (1, 2, 4)]
        >>> latent_dim_curve(records, 2).alt
        'Held-out log density by latent dimension: 1: −3.00, 2: −1.50, 4: −0.75 nats per row; 2 was chosen, 4 is
        highest.'
    """
    figure, (ax,) = canvas(height=2.6)
    order = sorted(records, key=lambda record: record["latent_dim"])
    d, value, error = (np.array([r[k] for r in order]) for k in ("latent_dim", "log_likelihood", "standard_error"))
    ax.errorbar(d, value, error, fmt="o-", color=ROWS, ms=4, label="held-out log density, standard error")
    ax.axvline(chosen, color=MODEL, ls="--", label=f"chosen: {chosen}")
    ax.set(xlabel="latent dimension", ylabel="log density\n(nats per row)")
    _whole_ticks(ax, int(d.min()), int(d.max()))
    ax.grid(axis="y")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    listed = ", ".join(f"{k:.0f}: {nats(v)}" for k, v in zip(d, value, strict=True))
    return Picture(
        figure,
        f"Held-out log density by latent dimension: {listed} nats per row; {chosen} was chosen, "
        f"{d[value.argmax()]:.0f} is highest.",
    )


def _whole_ticks(ax: Axes, first: int, last: int) -> None:
    step = max(1, round((last - first) / 8))
    ax.set_xticks(range(first, last + 1, step))


def _dimensions(d: int) -> str:
    return f"{d} latent dimension{'' if d == 1 else 's'}"
