"""Figures of the suites' results, as docs/figures/NAME.png, each with a sentence of what is to be seen in it.

    python -m benchmarks.figures [NAME ...] [--results FOLDER] [--grids FOLDER] [--out FOLDER]

Lines are means over seeds, bars reach from the smallest to the largest. Only results of the suites as they stand
count. Names are those of `FIGURES` and of `GRIDS`, pictures of samples that runs leave in `build/grids`; by default all
that there is something to draw of.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.images import GRIDS as DRAWN
from benchmarks.run import RESULTS, read
from benchmarks.speed.curves import AXES, QUANTITIES, exponent
from benchmarks.suites import Suite
from benchmarks.suites import names as suites
from benchmarks.tables import Found
from isthmus.data.tables.pictures import png_grid, read_image, write_png
from isthmus.plots.style import COLORS, GREY, INK, Picture, canvas, log_scale, number, styled

__all__ = ["FIGURES", "GRIDS", "frame", "joined", "pictures"]

OUT = Path(__file__).parents[1] / "docs" / "figures"
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1)), "-")


def frame(found: Found) -> pd.DataFrame:
    """One line a row of results: its labels, its values and the seed."""
    return pd.DataFrame({**values, **labels, "seed": seed} for labels, seed, values in found.rows)


def span(data: pd.DataFrame, x: str, y: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, means over what else differs, and how far the smallest and the largest are off, (2, n)."""
    grouped = data.dropna(subset=[x, y]).assign(**{x: lambda d: d[x].astype(float)}).groupby(x)[y]
    mean = grouped.mean().to_numpy()
    return (
        grouped.mean().index.to_numpy(),
        mean,
        np.stack([mean - grouped.min(), grouped.max() - mean]).clip(0),
    )  # rounding


def kinds(data: pd.DataFrame, name: str) -> list[Any]:
    """The labels of an axis, in the order of the suite."""
    return list(dict.fromkeys(data[name].dropna()))


def line(ax: Any, data: pd.DataFrame, x: str, y: str, place: int, *, dodge: float = 1.0, **options: Any) -> None:
    """Means with bars, in the colour, the marker and the style of a place; positions multiplied by `dodge`."""
    at, mean, off = span(data, x, y)
    look = {"color": COLORS[place], "marker": MARKERS[place], "ls": LINES[place], "ms": 4, "elinewidth": 1, "lw": 1.2}
    ax.errorbar(at * dodge, mean, off, **(look | options))


def log_ticks(ax: Any, values: Iterable[Any]) -> None:
    """A logarithmic axis below, labelled at these numbers."""
    at = sorted({float(value) for value in values})
    ax.set_xscale("log")
    ax.xaxis.minorticks_off()
    ax.set_xticks(at, [number(value) for value in at])


def legend(figure: Any, ax: Any, columns: int) -> None:
    """Above the panels."""
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=columns)


def below(words: Sequence[str]) -> str:
    """A list in a sentence."""
    return "; ".join(words)


@styled
def toy_transition(data: pd.DataFrame, published: Sequence[Mapping[str, Any]]) -> Picture:
    """Reconstruction error and likelihood against beta, for each noise, with the published points beside."""
    figure, (top, bottom) = canvas(2, height=4.8, sharex=True)
    said = []
    for place, noise in enumerate(kinds(data, "noise")):
        own = data[data["noise"] == noise]
        for ax, value in ((top, "reconstruction"), (bottom, "manifold_nll")):
            line(ax, own, "beta", value, place, label=f"noise {noise}")
            beside(ax, [p for p in published if p["value"] == value and str(p["where"].get("noise")) == noise], place)
        top.axhline(float(noise) ** 2, color=COLORS[place], lw=0.8, ls=":")
        at, error, _ = span(own, "beta", "reconstruction")
        ends = [f"{number(error[end])} at beta {number(at[end])}" for end in (0, -1)]
        said.append(f"noise {noise}: {', '.join(ends)}")
    points = [p["mean"] for p in published if p["value"] == "reconstruction"]
    shown = [*data["reconstruction"], *points, *(float(noise) ** 2 for noise in kinds(data, "noise"))]
    log_scale(top, "y", min(shown), max(shown))
    log_ticks(bottom, {*kinds(data, "beta"), *(p["where"]["beta"] for p in published)})
    top.set_ylabel("reconstruction error\n(log scale)")
    bottom.set(ylabel="exact NLL (nats per row)", xlabel="beta (log scale)")
    top.errorbar([], [], fmt="o", color=GREY, mfc="white", ms=5, label="published")
    top.plot([], [], color=GREY, lw=0.8, ls=":", label="noise variance")
    legend(figure, top, 2)
    return Picture(figure, f"Reconstruction error against beta. {below(said)}. Dotted: the variances of the noise.")


def beside(ax: Any, published: Sequence[Mapping[str, Any]], place: int) -> None:
    """Published values with their spread, a little to the right of their beta."""
    if published:
        at = np.array([float(p["where"]["beta"]) for p in published]) * 1.15
        mean, spread = ([p.get(key, 0.0) for p in published] for key in ("mean", "spread"))
        ax.errorbar(at, mean, spread, fmt=MARKERS[place], color=COLORS[place], mfc="white", ms=5, elinewidth=1)


@styled
def toy_pathology(data: pd.DataFrame, published: Sequence[Mapping[str, Any]]) -> Picture:
    """Reconstruction error and likelihood of every objective and beta, filled where the last weights are healthy."""
    figure, axes = canvas(3, height=5.6, sharex=True)
    betas = sorted(kinds(data, "beta"), key=float)
    variants = kinds(data, "variant")
    said = []
    for place, variant in enumerate(variants):
        own = data[data["variant"] == variant]
        at = own["beta"].map(betas.index) + 0.15 * (place - (len(variants) - 1) / 2)
        for ax, value in zip(axes, ("reconstruction", "nll", "turning"), strict=True):
            healthy = own["regime"] == "healthy"
            look: dict[str, Any] = {"marker": MARKERS[place], "color": COLORS[place], "ls": "", "ms": 4.5}
            ax.plot(at[healthy], own[value][healthy], **look, label=variant)
            ax.plot(at[~healthy], own[value][~healthy], **look, mfc="white")
        regimes = [", ".join(kinds(own[own["beta"] == beta], "regime")) for beta in betas]
        said.append(f"{variant}: {' / '.join(regimes)}")
    for ax, ideal in zip(axes, (0.09, 0.5 * np.log(2 * np.pi * np.e), None), strict=True):
        if ideal is not None:
            ax.axhline(ideal, color=INK, lw=0.8, ls=":")
        for edge in range(1, len(betas)):
            ax.axvline(edge - 0.5, color=INK, lw=0.5, alpha=0.3)
    for ax, value in ((axes[0], "reconstruction"), (axes[2], "turning")):
        log_scale(ax, "y", float(data[value].min()), float(data[value].max()))
    axes[0].set_ylabel("reconstruction\nerror (log)")
    axes[1].set(ylabel="exact NLL\n(nats per row)")
    axes[2].set(ylabel="turning of the\ncurve (rad, log)", xlabel="beta")
    axes[2].set_xticks(range(len(betas)), betas)
    axes[2].set_xlim(-0.5, len(betas) - 0.5)
    legend(figure, axes[0], 2)
    return Picture(
        figure,
        f"Last weights of every seed at beta {', '.join(betas)}, filled where healthy; the dotted line is the ideal. "
        f"{below(said)}.",
    )


@styled
def hutchinson_variance(data: pd.DataFrame, published: Sequence[Mapping[str, Any]]) -> Picture:
    """Measured variance of the trace estimate (markers) on its closed form (lines), against the number of probes."""
    data = data.dropna(subset=["measured"])
    sets = kinds(data, "set")
    figure, axes = canvas(len(sets), height=1.2 + 2.1 * len(sets), sharex=True)
    for ax, name in zip(axes, sets, strict=True):
        own = data[data["set"] == name]
        for place, (space, probes) in enumerate(own[["space", "probes"]].drop_duplicates().itertuples(index=False)):
            these = own[(own["space"] == space) & (own["probes"] == probes) & (own["closed_form"] > 1e-9)]
            line(ax, these, "K", "measured", place, ls="", label=f"{space} space, {probes}")
            at, mean, _ = span(these, "K", "closed_form")
            ax.plot(at, mean, color=COLORS[place], ls=LINES[place], lw=1.2)
        log_scale(ax, "y", float(own["measured"][own["measured"] > 1e-9].min()), float(own["measured"].max()))
        ax.set(ylabel="variance (log scale)", title=name)
        ax.grid(axis="y")
        log_ticks(ax, kinds(data, "K"))
    axes[-1].set_xlabel("probes K")
    legend(figure, axes[0], 2)
    ratio = data["ratio"].dropna()
    return Picture(
        figure,
        f"Variance of the trace estimate, measured (markers) and in closed form (lines): the ratio of the two lies "
        f"between {number(ratio.min())} and {number(ratio.max())} in {len(ratio)} cases. Orthonormal probes in latent "
        "space have the least variance, and none where K = d.",
    )


@styled
def hutchinson_gradient(data: pd.DataFrame, published: Sequence[Mapping[str, Any]]) -> Picture:
    """Error of the surrogate's gradient: from the probes alone, and in all, for the same number of products."""
    data = data.dropna(subset=["probe_error"])
    data = data[data["set"] == kinds(data, "set")[-1]].astype({"K": int, "batch": int})
    data = data.assign(products=data["K"] * data["batch"])
    figure, (top, bottom) = canvas(2, height=5.2)
    for place, batch in enumerate(kinds(data, "batch")):
        own = data[(data["batch"] == batch) & (data["probes"] == "orthonormal")]
        partial = own[own["probe_error"] > 1e-6]
        line(top, partial, "K", "probe_error", place, label=f"{batch} rows, orthonormal")
        line(bottom, own, "products", "total_error", place)
        other = data[(data["batch"] == batch) & (data["probes"] == "gaussian")]
        line(top, other, "K", "probe_error", place, mfc="white", lw=0.7, label=f"{batch} rows, gaussian")
    probed = data["probe_error"][data["probe_error"] > 1e-6]
    log_scale(top, "y", float(probed.min()), float(probed.max()))
    log_scale(bottom, "y", float(data["total_error"].min()), float(data["total_error"].max()))
    log_ticks(top, kinds(data, "K"))
    log_ticks(bottom, [2.0**power for power in range(4, 14, 2)])
    top.set(ylabel="from the probes alone\n(log scale)", xlabel="probes K", title="Relative error of the gradient")
    bottom.set(ylabel="from probes and rows\n(log scale)", xlabel="products a step: rows times K, orthonormal")
    for ax in (top, bottom):
        ax.grid(axis="y")
    legend(figure, top, 2)
    one = data[(data["probes"] == "orthonormal") & (data["K"] == 1)].groupby("batch")["total_error"].mean()
    many = (
        data[(data["probes"] == "orthonormal") & (data["batch"] == one.index.min())].groupby("K")["total_error"].mean()
    )
    return Picture(
        figure,
        f"Relative error of the surrogate's gradient at {kinds(data, 'set')[0]}. With one probe it falls from "
        f"{number(one.iloc[0])} at {one.index[0]} rows to {number(one.iloc[-1])} at {one.index[-1]} rows; with "
        f"{one.index[0]} rows from {number(many.iloc[0])} at 1 probe to {number(many.iloc[-1])} at {many.index[-1]}.",
    )


@styled
def gradient_quality(data: pd.DataFrame, published: Sequence[Mapping[str, Any]]) -> Picture:
    """Cosines with the exact gradients, and the distance from the pseudo-inverse, along training."""
    sets, surrogates = kinds(data, "set"), kinds(data, "surrogate")
    panels = {
        "encoder": "cosine with the\nencoder's gradient",
        "either": "cosine with the\nnearest sum",
        "single": "cosine of one\nprobe with all",
        "gap": "distance from the\npseudo-inverse",
        "defect": "distance of f' g'\nfrom the identity",
    }
    figure, axes = canvas(len(panels), len(sets), height=7.6, sharex=True, sharey="row")
    grid = np.array(axes).reshape(len(panels), len(sets))
    said = []
    for column, name in enumerate(sets):
        for place, surrogate in enumerate(surrogates):
            own = data[(data["set"] == name) & (data["surrogate"] == surrogate)]
            for row, value in enumerate(panels):
                line(grid[row, column], own, "step", value, place, label=surrogate.replace("_", " "))
            last = own[own["step"].astype(int) == own["step"].astype(int).max()]
            said.append(f"{name}, {surrogate}: {number(last['either'].mean())} and {number(last['defect'].mean())}")
        grid[0, column].set_title(name)
        grid[-1, column].set_xlabel("training step")
        grid[-1, column].set_xscale("symlog", linthresh=30, linscale=0.5)
        steps = sorted(map(int, kinds(data, "step")))
        grid[-1, column].set_xticks(steps, [number(step) for step in steps], rotation=60)
        grid[-1, column].minorticks_off()
    for row, label in enumerate(panels.values()):
        grid[row, 0].set_ylabel(label)
        for ax in grid[row]:
            ax.axhline(0.0 if row >= 3 else 1.0, color=INK, lw=0.8, ls=":")
    legend(figure, grid[0, 0], 3)
    return Picture(
        figure,
        "Cosine of the surrogate's gradient with the nearest sum of the exact gradients, and distance of f' g' from "
        f"the identity, after the last step: {below(said)}. Dotted: the best value.",
    )


@styled
def singular_values(data: pd.DataFrame, published: Sequence[Mapping[str, Any]]) -> Picture:
    """Sorted singular values of the decoder's Jacobian, for flows of several latent dimensions."""
    sets = kinds(data, "set")
    figure, axes = canvas(len(sets), height=1.0 + 2.3 * len(sets))
    said = []
    for ax, name in zip(axes, sets, strict=True):
        own = data[data["set"] == name]
        for place, d in enumerate(sorted(kinds(own, "latent_dim"), key=int)):
            these = own[(own["latent_dim"] == d) & own["mean"].notna()]
            at, mean, _ = span(these, "place", "mean")
            _, sd, _ = span(these, "place", "sd")
            look: dict[str, Any] = {"color": COLORS[place], "marker": MARKERS[place], "ls": LINES[place], "ms": 4}
            ax.errorbar(at + 0.06 * place, mean, sd, elinewidth=0.8, lw=1.1, label=f"d = {d}", **look)
            fits = own[(own["latent_dim"] == d) & own["effective_dim"].notna()]
            said.append(
                f"{name}, d = {d}: {number(fits['effective_dim'].mean())} effective dimensions, "
                f"{number(fits['above_noise'].mean())} above the noise"
            )
        noise = own["noise"].dropna().min()
        ax.axhline(1.0, color=INK, lw=0.8, ls=":", label="1")
        ax.axhline(noise, color=INK, lw=0.8, ls="--", label="noise")
        said.append(f"the noise is {number(noise)}")
        ax.set(ylabel="singular value\n(standard deviations)", title=name)
        ax.set_ylim(bottom=0)
        ax.set_xticks(sorted(own["place"].dropna().astype(int).unique()))
    axes[-1].set_xlabel("place, the largest first")
    legend(figure, axes[0], 4)
    return Picture(figure, f"Singular values of the decoder's Jacobian, and their spread over draws. {below(said)}.")


@styled
def speed_curves(data: pd.DataFrame, _: Sequence[Mapping[str, Any]]) -> Picture:
    """Seconds and megabytes of a step and of both volumes against each size."""
    sizes = [axis for axis in AXES if axis in set(data["axis"])]
    figure, axes = canvas(2, len(sizes), height=4.8, sharey="row", sharex="col")
    said = []
    for column, size in enumerate(sizes):
        own = data[data["axis"] == size].drop_duplicates("value", keep="last").sort_values("value")
        for place, quantity in enumerate(QUANTITIES):
            look: dict[str, Any] = {"color": COLORS[place], "marker": MARKERS[place], "ls": LINES[place], "ms": 3}
            measured = [quantity in costs for costs in own["costs"]]
            at = own["value"][measured]
            costs = pd.DataFrame([costs[quantity] for costs in own["costs"][measured]], columns=["seconds", "bytes"])
            for ax, shown in ((axes[column], costs["seconds"]), (axes[len(sizes) + column], costs["bytes"] / 1e6)):
                ax.plot(at, shown, lw=1.1, label=quantity, **look)
            if len(at) > 2:
                said.append(f"{quantity} in {size} {exponent([*at], [*costs['seconds']]):.1f}")
        log_ticks(axes[len(sizes) + column], (own["value"].min(), own["value"].max()))
        axes[len(sizes) + column].set_xlabel(size)
    every = [cost for costs in data["costs"] for cost in costs.values()]
    for ax, amounts in (
        (axes[0], [cost["seconds"] for cost in every]),
        (axes[len(sizes)], [cost["bytes"] / 1e6 for cost in every]),
    ):
        log_scale(ax, "y", min(amounts), max(amounts))
    axes[0].set_ylabel("seconds\n(log scales)")
    axes[len(sizes)].set_ylabel("megabytes\n(log scales)")
    legend(figure, axes[0], 4)
    return Picture(
        figure, f"Time and memory against the sizes; exponents of time at the right ends: {', '.join(said)}."
    )


Drawing = Callable[[pd.DataFrame, Sequence[Mapping[str, Any]]], Picture]

# Name of the figure: the suite it is drawn from, or the file of other results, and the function.
FIGURES: dict[str, tuple[str, Drawing]] = {
    "toy_transition": ("toy_transition", toy_transition),
    "toy_pathology": ("toy_pathology", toy_pathology),
    "hutchinson_variance": ("hutchinson_variance", hutchinson_variance),
    "hutchinson_gradient": ("hutchinson_variance", hutchinson_gradient),
    "gradient_quality": ("gradient_quality", gradient_quality),
    "singular_values": ("singular_values", singular_values),
    "speed_curves": ("speed_curves", speed_curves),
}

# Name of the figure: the samples that runs drew, side by side.
GRIDS = {"images_conditional": ("conditional-mnist-own-0", "conditional-fashion_mnist-own-0")}
_BETWEEN = 12  # pixels


def joined(names: Sequence[str], folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The pictures of those names whose samples are all in the folder."""
    for name in names:
        files = [folder / f"{grid}.png" for grid in GRIDS[name]]
        if all(file.exists() for file in files):
            images = np.stack([read_image(file).transpose(2, 0, 1) for file in files])
            yield name, png_grid(images, len(files), gap=_BETWEEN)


def pictures(names: Sequence[str], results: Path) -> Iterator[tuple[str, Picture]]:
    """The figures of those names that have results."""
    for name in names:
        source, draw = FIGURES[name]
        file = results / f"{source}.jsonl"
        if source not in suites() and file.exists():
            yield name, draw(pd.DataFrame(read(file)), [])
        elif source in suites() and (found := Found(Suite.read(source), file)).rows:
            yield name, draw(frame(found), found.published)


def main() -> None:
    """Draw what there is, and print what is to be seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*FIGURES, *GRIDS]))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--grids", type=Path, default=DRAWN)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    known = [*FIGURES, *GRIDS]
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"expected names among {', '.join(known)}; got {', '.join(sorted(unknown))}; correct them")
    options.out.mkdir(parents=True, exist_ok=True)
    asked = options.names or known
    for name, grid in joined([name for name in asked if name in GRIDS], options.grids):
        write_png(grid, options.out / f"{name}.png")
        print(f"{options.out / name}.png")
    for name, picture in pictures([name for name in asked if name in FIGURES], options.results):
        (options.out / f"{name}.png").write_bytes(picture.png())
        print(f"{options.out / name}.png: {picture.alt}")


if __name__ == "__main__":
    main()
