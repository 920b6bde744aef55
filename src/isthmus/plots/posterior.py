"""Figures of laws from a log density: penalty paths, evidence, mixture weights; arrays in, a `Picture` out."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from isthmus.plots.style import CORNERS, GREY, INK, MODEL, ROWS, Picture, canvas, nats, number, points, shown, styled

__all__ = ["evidence", "path", "shares", "ternary"]

_MOST_PANELS = 12


@styled
def path(
    levels: Float[np.ndarray, " m"],
    mean: Float[np.ndarray, "m d"],
    low: Float[np.ndarray, "m d"],
    high: Float[np.ndarray, "m d"],
    names: Sequence[str],
    *,
    best: float | None = None,
    beside: Float[np.ndarray, "m d"] | None = None,
    called: str = "point estimate",
) -> Picture:
    """Draw posterior means with their intervals against the level of the penalty, a panel a column.

    Args:
        levels: of the penalty, ascending.
        mean: posterior mean of each coefficient.
        low: lower ends of the intervals.
        high: upper ends.
        names: of the columns; of more than 12 those of the largest means at the last level are drawn.
        best: a level to mark, that of the highest evidence.
        beside: the path of another method, at the same levels; NaN where it has none.
        called: its name.

    Returns:
        The picture, of two panels a line.

    Example:
        >>> t = np.array([0.5, 1.0])
        >>> mean = np.array([[0.5, 0.0], [0.8, 0.2]])
        >>> path(t, mean, mean - 0.1, mean + 0.1, ["bmi", "age"], best=1.0).alt
        'Coefficients of 2 columns at penalties from 0.5 to 1; at the level of the highest evidence, 1: bmi 0.8 (0.7
        to 0.9), age 0.2 (0.1 to 0.3).'
    """
    chosen = np.argsort(-np.abs(mean[-1] * (mean[-1] != 0)), kind="stable")[:_MOST_PANELS]
    chosen = np.arange(len(names)) if len(names) <= _MOST_PANELS else chosen
    lines = -(-len(chosen) // 2)
    figure, axes = canvas(lines, min(2, len(chosen)), height=0.9 + 1.3 * lines, sharex=True)
    for ax, j in zip(axes, chosen, strict=False):
        ax.fill_between(levels, low[:, j], high[:, j], color=ROWS, alpha=0.3, lw=0, label="credible interval")
        ax.plot(levels, mean[:, j], color=ROWS, label="posterior mean")
        if beside is not None:
            ax.plot(levels, beside[:, j], color=MODEL, ls="--", lw=1.3, label=called)
        if best is not None:
            ax.axvline(best, color=INK, ls=":", lw=1.0, label="highest evidence")
        ax.axhline(0, color=GREY, lw=0.6)
        ax.set_title(shown(names[j], 24), loc="left", fontweight="normal")
    for ax in axes[len(chosen) :]:
        ax.axis("off")
    for ax in axes[max(0, len(chosen) - 2) : len(chosen)]:
        ax.set_xlabel("level of the penalty")
        ax.tick_params(labelbottom=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    k = len(levels) - 1 if best is None else int(np.abs(levels - best).argmin())
    place = "at the last level" if best is None else f"at the level of the highest evidence, {number(best)}"
    told = ", ".join(
        f"{shown(names[j], 40)} {number(mean[k, j])} ({number(low[k, j])} to {number(high[k, j])})" for j in chosen
    )
    which = f"{len(names)} columns" + (f", the {len(chosen)} largest shown," if len(chosen) < len(names) else "")
    span = f"from {number(levels[0])} to {number(levels[-1])}"
    return Picture(figure, f"Coefficients of {which} at penalties {span}; {place}: {told}.")


@styled
def evidence(
    levels: Float[np.ndarray, " m"], log_evidence: Float[np.ndarray, " m"], error: Float[np.ndarray, " m"]
) -> Picture:
    """Draw the log evidence against the level of the penalty, with two standard errors.

    Args:
        levels: of the penalty, ascending.
        log_evidence: in nats.
        error: standard errors.

    Returns:
        The picture.

    Example:
        >>> evidence(np.array([1.0, 2.0]), np.array([-9.0, -5.0]), np.array([0.1, 0.1])).alt
        'Log evidence of levels from 1 to 2: highest at 2, −5.00 nats (standard error 0.1), 4.00 above the lowest.'
    """
    figure, (ax,) = canvas(height=2.5)
    ax.errorbar(levels, log_evidence, 2 * error, fmt="o-", color=ROWS, ms=3.5, label="two standard errors")
    k = int(log_evidence.argmax())
    ax.axvline(levels[k], color=INK, ls=":", lw=1.0, label=f"highest at {number(levels[k])}")
    ax.set(xlabel="level of the penalty", ylabel="log evidence (nats)")
    ax.grid(axis="y")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    span = f"from {number(levels[0])} to {number(levels[-1])}"
    return Picture(
        figure,
        f"Log evidence of levels {span}: highest at {number(levels[k])}, {nats(log_evidence[k])} nats (standard error "
        f"{number(error[k])}), {nats(log_evidence[k] - log_evidence.min())} above the lowest.",
    )


@styled
def shares(
    draws: Float[np.ndarray, "n K"],
    mean: Float[np.ndarray, " K"],
    low: Float[np.ndarray, " K"],
    high: Float[np.ndarray, " K"],
    names: Sequence[str],
) -> Picture:
    """Draw the posterior of each component's weight: its density, mean and interval, a line a component.

    Args:
        draws: of the weights.
        mean: posterior means.
        low: lower ends of the intervals.
        high: upper ends.
        names: of the components.

    Returns:
        The picture.

    Example:
        >>> w = np.random.default_rng(0).dirichlet([2.0, 6.0], 200)
        >>> shares(w, np.array([0.25, 0.75]), np.array([0.1, 0.6]), np.array([0.4, 0.9]), ["a", "b"]).alt
        'Weights of 2 components: a 0.25 (0.1 to 0.4), b 0.75 (0.6 to 0.9).'
    """
    K = len(names)
    figure, (ax,) = canvas(height=min(9.0, 0.9 + 0.32 * K))
    place = np.arange(K)[::-1]
    spread = draws.std(0) > 0
    if spread.any():
        bodies = ax.violinplot(
            draws[:, spread], place[spread], orientation="horizontal", widths=0.85, showextrema=False, points=200
        )["bodies"]
        for body in bodies:
            body.set(facecolor=ROWS, alpha=0.35, edgecolor="none")
    ax.errorbar(
        mean, place, xerr=[mean - low, high - mean], fmt="o", color=ROWS, ms=4, lw=1.5, label="mean, credible interval"
    )
    ax.set_yticks(place, [shown(name) for name in names])
    ax.set(xlabel="weight", xlim=(0, None))
    ax.grid(axis="x")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left")
    told = ", ".join(
        f"{shown(name, 40)} {number(m)} ({number(a)} to {number(b)})"
        for name, m, a, b in zip(names, mean, low, high, strict=True)
    )
    return Picture(figure, f"Weights of {K} component{'s' * (K != 1)}: {told}.")


@styled
def ternary(draws: Float[np.ndarray, "n 3"], mean: Float[np.ndarray, "3"], names: Sequence[str]) -> Picture:
    """Draw three parts of a whole in a triangle: each corner is all of one part, each side none of the third.

    Args:
        draws: rows that sum to 1.
        mean: of them, marked.
        names: of the parts.

    Returns:
        The picture.

    Example:
        >>> w = np.random.default_rng(0).dirichlet([2.0, 6.0, 2.0], 200)
        >>> ternary(w, np.array([0.2, 0.6, 0.2]), ["a", "b", "c"]).alt
        'Triangle of 200 draws of three weights, with means a 0.2, b 0.6, c 0.2.'
    """
    figure, (ax,) = canvas(height=3.6)
    for share in (0.25, 0.5, 0.75):
        for k in range(3):
            one, two = np.zeros(3), np.zeros(3)
            one[k] = two[k] = share
            one[k - 1], two[k - 2] = 1 - share, 1 - share
            ax.plot(*(np.stack([one, two]) @ CORNERS).T, color=INK, alpha=0.15, lw=0.6)
    ax.plot(*CORNERS[[0, 1, 2, 0]].T, color=INK, lw=0.8)
    points(ax, *(draws @ CORNERS).T, color=ROWS, alpha=0.35, label="draws")
    ax.plot(*(mean @ CORNERS), "D", color=MODEL, ms=6, label="mean")
    alignments = (("left", "top", (0, -6)), ("right", "top", (0, -6)), ("center", "bottom", (0, 6)))
    for name, corner, (horizontal, vertical, offset) in zip(names, CORNERS, alignments, strict=True):
        ax.annotate(
            shown(name), corner, xytext=offset, textcoords="offset points", ha=horizontal, va=vertical, weight="bold"
        )
    ax.set(aspect="equal", xlim=(-0.08, 1.08), ylim=(-0.12, 0.98))
    ax.axis("off")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    told = ", ".join(f"{shown(name, 40)} {number(value)}" for name, value in zip(names, mean, strict=True))
    return Picture(figure, f"Triangle of {len(draws):,} draws of three weights, with means {told}.")
