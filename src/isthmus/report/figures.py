"""Which figures a report has, each with a heading and a line on how to read it."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isthmus import plots
from isthmus.flow import Injection
from isthmus.plots import Picture
from isthmus.report.evidence import Evidence, OnSurface, Surface, surface, walks
from isthmus.scoring import features
from isthmus.store import Figures, Fitted

__all__ = ["CUT", "Figure", "fit_figures", "sample_figures", "score_figures", "statistics", "surface_figures"]

_DRAWN_ROWS = 2_000
_PANELS = 8
CUT = 0.01
"""Share of the rows that is beyond the cut, and called unusual."""
_PAIRS = 3
_IMAGES = 9


class Figure(NamedTuple):
    """A picture in its place."""

    heading: str
    guide: str
    picture: Picture


def fit_figures(fitted: Fitted, evidence: Evidence) -> Iterator[Figure]:
    """Draw training, latent dimension, noise floor and spectrum, as far as there are data for them."""
    figures = fitted.figures
    if len(fitted.log) > 1 and {"step", "log_density"} <= set(fitted.log[0]):
        picture = plots.training_curves(fitted.log, list(_events(fitted)))
        guide = f"On held-out rows; it should have levelled off where the weights were kept.{_left_out(figures)}"
        yield Figure("Training", guide, picture)
    if figures.latent_dim_curve:
        curve = [tried.plain() for tried in figures.latent_dim_curve]
        picture = plots.latent_dim_curve(curve, fitted.model.injection.latent_dim)
        yield Figure(
            "How many dimensions?",
            "Short trainings; the smallest dimension that is within an error of the best is taken.",
            picture,
        )
    if evidence.surface is not None:
        yield from _extents(evidence.surface)


def _extents(surface: OnSurface) -> Iterator[Figure]:
    pieces, linear, d = surface.pieces, surface.linear, surface.z.shape[1]
    if pieces is not None and linear is not None and d < len(linear):
        floor = np.sqrt([max(pieces.variance(q), 1e-12) for q in range(len(linear))])
        picture = plots.reconstruction_floor(np.sqrt(linear.clamp_min(1e-12).numpy()), floor, d, surface.noise)
        guide = "A good model lies on or below the noise floor; far above it, structure is missing."
        yield Figure("Reconstruction against the noise floor", guide, picture)
    extents = surface.spectrum
    picture = plots.spectrum(np.array(extents.mean), np.array(extents.deviation), surface.noise)
    yield Figure(
        "Extents of the surface", "Directions below the noise carry nothing: fewer dimensions would do.", picture
    )


def _events(fitted: Fitted) -> Iterator[tuple[float, str]]:
    """Yield the events of training, each with its step."""
    log = fitted.log
    broken = [row["step"] for row in log if not np.isfinite(row["log_density"] + row.get("reconstruction", 0.0))]
    if broken:
        yield broken[0], "not finite"
    rises = [row["step"] for before, row in pairwise(log) if row.get("beta") != before.get("beta")]
    if rises:
        yield rises[-1], "last change of beta"
    drops = [
        (before["log_density"] - row["log_density"], row["step"])
        for before, row in pairwise(log)
        if row["log_density"] < before["log_density"] - 1.0
    ]
    if drops:
        yield max(drops)[1], "largest setback"
    if fitted.figures.best_step is not None:
        yield fitted.figures.best_step, "weights kept"


def _left_out(figures: Figures) -> str:
    """Return in words what of training has no place in the log."""
    skipped, retreats = figures.skipped_steps, figures.retreats
    if not skipped:
        return ""
    back = f", and {retreats:,} times it went back to the last good weights" if retreats else ""
    return f" {skipped:,} steps were left out, their gradient not being finite{back}."


def sample_figures(fitted: Fitted, evidence: Evidence, shape: tuple[int, int] | None) -> Iterator[Figure]:
    """Draw samples against rows, column by column and in pairs, and as images where a shape is given."""
    model = fitted.model
    rows, drawn = (model.columns.round_integers(model.columns.restore(u)) for u in (evidence.rows.x, evidence.drawn))
    a, b = (_thin(values).numpy() for values in (rows, drawn))
    names, chosen = features(fitted), _plain_columns(fitted)
    own = None if fitted.schema is None else fitted.schema.coordinates
    if own is not None:
        a, b, names, chosen = own.decode(a), own.decode(b), own.columns, list(range(len(own.columns)))
    distances = {j: plots.kolmogorov_smirnov(a[:, j], b[:, j]) for j in chosen}
    worst = sorted(chosen, key=lambda j: -distances[j])[:_PANELS]
    picture = plots.marginals(a[:, worst], b[:, worst], [names[j] for j in worst])
    others = f" Of {len(chosen)} columns the {len(worst)} that differ most." if len(chosen) > len(worst) else ""
    yield Figure("Columns of samples and rows", f"The line should follow the filled steps.{others}", picture)
    if len(chosen) > 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            strength = np.nan_to_num(np.abs(np.corrcoef(a[:, chosen].T))).sum(0)
        linked = [chosen[k] for k in sorted(np.argsort(-strength, kind="stable")[:_PAIRS])]
        picture = plots.pair_plot(a[:, linked], b[:, linked], [names[j] for j in linked])
        guide = "The upper right should be the mirror image of the lower left. Most correlated columns."
        yield Figure("Pairs of columns", guide, picture)
    if shape:
        images = np.stack([_pixels(fitted, values[:_IMAGES], shape) for values in (rows, drawn)])
        picture = plots.image_rows(images, ["rows", "samples"], f"{images.shape[1]} rows above as many samples.")
        yield Figure("Rows and samples as images", "The two lines should be of one kind.", picture)


def surface_figures(fitted: Fitted, evidence: Evidence, shape: tuple[int, int] | None) -> Iterator[Figure]:
    """Draw the surface in space, codes, and walks along the surface; nothing of a flow without codes."""
    columns, judged, flow, own = fitted.model.columns, evidence.source != "drawn", fitted.model.flow, evidence.surface
    if own is None or not isinstance(flow, Injection):
        return
    found = surface(fitted, flow, evidence)
    if columns.dim > 1:
        where = "in the columns themselves" if columns.dim <= 3 else "in the two leading principal axes"
        guide = f"Drawn {where}; grey are rows of the table." if judged else f"Drawn {where}."
        yield Figure("The learned surface", guide, _drawn_surface(fitted, evidence, found))
    z = _thin(own.z).numpy()
    density, error = _thin(evidence.log_density).numpy(), _thin(own.error.sqrt()).numpy()
    whose = "of rows" if judged else "of samples"
    yield Figure(
        f"Codes {whose}, by density",
        "Places on the surface; each axis is a code. Neighbours should be about as likely.",
        plots.latent_scatter(z, density, "log density (nats)"),
    )
    yield Figure(
        f"Codes {whose}, by error",
        "A region of large errors is one that the surface does not reach.",
        plots.latent_scatter(z, error, "distance to reconstruction"),
    )
    yield Figure(
        "Walks along the surface",
        "What a latent direction means; the middle is the mean code.",
        _drawn_walks(fitted, flow, own, evidence, shape),
    )


def _drawn_walks(
    fitted: Fitted, flow: Injection, own: OnSurface, evidence: Evidence, shape: tuple[int, int] | None
) -> Picture:
    columns = fitted.model.columns
    if shape:
        path = walks(flow, own, evidence.rows, steps=_IMAGES)
        flat = _pixels(fitted, columns.restore(path.columns.flatten(0, 1)), shape)
        images = flat.reshape(len(path.columns), _IMAGES, *shape)
        lines = [f"direction {k + 1}" for k in range(len(images))]
        return plots.image_rows(images, lines, "Walks along the surface, from −2 to 2 standard deviations.")
    path = walks(flow, own, evidence.rows, steps=41)
    names = [name for name, kept in zip(features(fitted), columns.kept, strict=True) if kept]
    return plots.profiles(path.t.numpy(), path.columns.numpy(), names)


def _drawn_surface(fitted: Fitted, evidence: Evidence, found: Surface) -> Picture:
    columns = fitted.model.columns
    rows = _thin(evidence.rows.x) if evidence.source != "drawn" else evidence.rows.x[:0]
    if columns.dim <= 3:
        names = [name for name, kept in zip(features(fitted), columns.kept, strict=True) if kept]

        def place(u: Tensor) -> np.ndarray:
            """Return points in the table's own columns."""
            return columns.restore(u)[:, columns.kept].numpy()
    else:
        mean = evidence.rows.x.mean(0)
        axes = torch.linalg.svd(evidence.rows.x - mean, full_matrices=False).Vh[:2]
        names = ["principal axis 1", "principal axis 2"]

        def place(u: Tensor) -> np.ndarray:
            """Project points on two principal axes."""
            return ((u - mean) @ axes.mT).numpy()

    lines = [place(line) for line in found.lines]
    return plots.manifold(place(found.points), found.log_density.numpy(), place(rows), names, lines)


def score_figures(evidence: Evidence) -> Iterator[Figure]:
    """Draw histograms of the scores with the outlier cut, and the calibration."""
    if evidence.source == "drawn":
        return
    density = evidence.log_density.numpy()
    share = f"The cut leaves out the {100 * CUT:.0f} % most unusual of these rows."
    finite = density[np.isfinite(density)]
    if len(finite) and np.ptp(finite) > 0:
        low = float(np.quantile(finite, CUT))
        yield Figure("Log densities", share, plots.histogram(density, low, what="log density (nats)"))
    if evidence.surface is None:
        return
    error = evidence.surface.error.sqrt().numpy()
    if np.isfinite(error).any() and np.ptp(error) > 0 and (error > 0).all():
        high = float(np.quantile(error, 1 - CUT))
        what = "distance to the reconstruction (std.)"
        picture = plots.histogram(error, high, what=what, unusual="above", logarithmic=True)
        yield Figure("Reconstruction errors", share, picture)
    if len(evidence.surface.pit):
        guide = "Level if the noise is what the model says; a hump in the middle: noise overstated; a dip: understated."
        yield Figure("Calibration off the surface", guide, plots.calibration(evidence.surface.pit.numpy()))


def statistics(fitted: Fitted, evidence: Evidence) -> list[tuple[str, str, str]]:
    """Return two-sample statistics: name, value, how to read it."""
    found = []
    if evidence.samples is not None:
        energy = evidence.samples.energy
        found += [
            (
                "energy distance",
                f"{max(0.0, energy.share):.2%}",
                f"0 % is best; p = {energy.p_value:.2g} if both follow one law",
            ),
            (
                "distance to the nearest known row",
                f"{evidence.samples.nearest:.2f}",
                "1 is best: as far as unseen rows",
            ),
        ]
    if evidence.c2st is not None:
        found.append(
            ("classifier (AUC)", f"{evidence.c2st:.2f}", "0.5 is best: samples cannot be told from rows; 1 is worst")
        )
    return found


def _plain_columns(fitted: Fitted) -> list[int]:
    """Return the varying columns that are no level and no indicator, or if there are none, all that vary."""
    kept = [j for j, inside in enumerate(fitted.model.columns.kept) if inside]
    schema = fitted.schema.columns if fitted.schema else ()
    if not schema:
        return kept
    names, plain = features(fitted), {c.name for c in schema if c.kind != "category"}
    return [j for j in kept if names[j] in plain] or kept


def _pixels(fitted: Fitted, x: Tensor, shape: tuple[int, int]) -> Float[np.ndarray, "n h w"]:
    """Return rows as images, constant columns of the table filled in again."""
    schema, values = fitted.schema, x.numpy()
    if schema is not None and not schema.image:
        values = schema.decode(values).to_numpy(np.float64)
    return values.reshape(len(x), *shape)


def _thin(values: Tensor) -> Tensor:
    return values[:: max(1, -(-len(values) // _DRAWN_ROWS))]
