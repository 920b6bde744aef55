"""What a report is made of: the rows that a model is judged on, its samples, its surface.

Everything is on standardised columns, as the flow sees them, integers spread over their unit; log densities and what is
drawn in the user's columns are in the user's units.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeGuard

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.autodiff import jacobian
from isthmus.columns import Columns
from isthmus.deadline import Deadline
from isthmus.density import Ambient, Noise, gaussian_components, log_normal
from isthmus.diagnostics import AffineGain, FlatPieces, Samples, Spectrum, flat_pieces, samples, spectrum
from isthmus.errors import InputError
from isthmus.fitting import rows_again
from isthmus.flow import Context, Flow, Injection, LearnedManifold, WholeSpace
from isthmus.metrics import c2st_auc
from isthmus.rows import Rows
from isthmus.scoring import gain_of_a_layer, tensors
from isthmus.store import Fitted
from isthmus.supports import Euclidean

__all__ = ["Evidence", "OnSurface", "Source", "Surface", "Walks", "gather", "surface", "walks"]

Source = Literal["held out", "given", "drawn"]

_ROWS = 4_000  # judged
_ROWS_PER_SECOND, _FEWEST_JUDGED = 50, 200  # of a limited time
_FEWEST_ROWS = 10  # with fewer there are no statistics
_FEWEST_FOR_GAIN = 30  # likewise, of one more layer
_SURFACE_POINTS = 1_500
_TWO_SAMPLE_ROWS, _FEWEST_TOLD = 500, 10  # of the classifier
_SECONDS_PER_CUBE, _SECONDS_PER_CELL = 3e-10, 1.1e-4  # of the classifier, measured: D^3 for axes, n D for trees
_SHARE_OF_CLASSIFIER = 0.5  # of the time that is left, at most
_NORMALS = 8  # directions a row
_EXTREMES = (0.01, 0.99)  # codes between which lines are drawn
_LINES, _LINE_POINTS = 9, 60
_LONGEST_WALK = 2.0  # standard deviations of the codes


@dataclass(frozen=True)
class Evidence:
    """What is known of a model from rows, or where there is no table, from its own samples.

    Attributes:
        source: "held out" where the table is that of the fit: rows that it held out; "given": a third of another table;
            "drawn": no table, samples stand in for rows.
        count: rows of the table.
        rows: the rows judged.
        learn: other rows, which alternatives may be fitted to; None without a table.
        log_density: of the rows, (n,) in nats, user's units.
        drawn: samples for the same contexts, (n, D).
        samples: energy test and nearest rows of samples against rows, or None.
        c2st: how well a classifier tells them apart, or None.
        surface: what a flow with codes shows; None of others.
        gain: what one more affine coupling would gain a flow of the whole space; None of others, and of few rows.
    """

    source: Source
    count: int
    rows: Rows
    learn: Rows | None
    log_density: Float[Tensor, " n"]
    drawn: Float[Tensor, "n D"]
    samples: Samples | None
    c2st: float | None
    surface: "OnSurface | None"
    gain: AffineGain | None = None


@dataclass(frozen=True)
class OnSurface:
    """Where the rows lie on the surface of a flow with codes, and how far off it.

    Attributes:
        z: codes of the rows, (n, d).
        error: squared distance of each row to its reconstruction, (n,).
        spectrum: extents of the surface.
        noise: standard deviation of the residuals per direction off the surface.
        pit: calibration of residuals, see `isthmus.plots.calibration`; empty where there is no noise or no table.
        pieces: what flat pieces leave of the rows, or None.
        linear: mean square per direction off 0, 1, ... principal axes, as many as `pieces` has, or None.
    """

    z: Float[Tensor, "n d"]
    error: Float[Tensor, " n"]
    spectrum: Spectrum
    noise: float
    pit: Float[Tensor, " p"]
    pieces: FlatPieces | None
    linear: Float[Tensor, " dims"] | None


class Surface(NamedTuple):
    """Points of the learned surface: standardised, with the log density on it in nats, user's units; and lines."""

    points: Float[Tensor, "n D"]
    log_density: Float[Tensor, " n"]
    lines: list[Float[Tensor, "_ D"]]


class Walks(NamedTuple):
    """Along the surface's leading directions: place in standard deviations of the codes, and standardised columns."""

    t: Float[Tensor, " steps"]
    columns: Float[Tensor, "walks steps D"]


@torch.no_grad()
def gather(fitted: Fitted, frame: pd.DataFrame | None, *, seed: int = 0, deadline: Deadline | None = None) -> Evidence:
    """Judge a model on a table, or show it by its samples where there is none.

    Args:
        fitted: the model and its record.
        frame: a table with the columns of the fit, or None.
        seed: of everything that is drawn; the global random state is left as it was.
        deadline: by when to be done: fewer than 4,000 rows are judged, and a classifier whose training would take too
            long is left out.

    Returns:
        The evidence.

    Raises:
        InputError: the table does not suit the model.

    Example:
        >>> from isthmus import fit, Recipe
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> evidence = gather(fit(np.random.default_rng(0).normal(size=(99, 3)), recipe=recipe), None)
        >>> evidence.source, evidence.surface.z.shape, len(evidence.surface.spectrum.mean)
        ('drawn', torch.Size([500, 1]), 1)
    """
    density, columns, flow = fitted.model.density, fitted.model.columns, fitted.model.flow
    limit = deadline or Deadline()
    most = limit.rows(_ROWS_PER_SECOND, _FEWEST_JUDGED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        source, count, learn, rows = _rows(fitted, frame, seed)
        rows = rows.thinned(flow.affordable(min(_ROWS, most or _ROWS), times=20))
        x, c = rows.x, rows.c
        drawn = density.sample(len(x), c)
        others = learn if learn is not None and min(len(learn), len(x)) >= _FEWEST_ROWS else None
        return Evidence(
            source=source,
            count=count,
            rows=rows,
            learn=learn,
            log_density=density.log_prob(x, c) + columns.log_det(columns.restore(x)),
            drawn=drawn,
            samples=None if others is None else samples(density, others, rows, seed=seed),
            c2st=None if others is None else _told_apart(columns, drawn, x, seed, limit),
            surface=_on_surface(fitted, flow, rows, others, source, seed) if _has_flat_codes(flow) else None,
            gain=gain_of_a_layer(flow, rows) if others is not None and _can_gain(flow, rows) else None,
        )


def _can_gain(flow: Flow, rows: Rows) -> TypeGuard[WholeSpace]:
    return isinstance(flow, WholeSpace) and len(rows) >= _FEWEST_FOR_GAIN


def _has_flat_codes(flow: Flow) -> TypeGuard[Injection]:
    """Tell whether there are codes in R^d, of which means, straight lines and spectra mean something."""
    return isinstance(flow, Injection) and isinstance(flow.codes, Euclidean)


def _on_surface(
    fitted: Fitted, flow: Injection, rows: Rows, others: Rows | None, source: Source, seed: int
) -> OnSurface:
    x, c = rows.x, rows.c
    z = flow.encode(x, c)
    residual = x - flow.decode(z, c)
    error = residual.square().sum(1)
    noise = flow.sigma(float(error.mean())) if isinstance(flow, LearnedManifold) else 0.0
    pieces = None
    if others is not None:
        most = min(flow.data_dim - 1, 2 * flow.latent_dim)
        pieces = flat_pieces(others.x, x[:1_000], max(1, most), seed=seed)
    return OnSurface(
        z=z,
        error=error,
        spectrum=spectrum(flow, x, c, sigma=noise),
        noise=noise,
        pit=_calibration(fitted, rows, z, residual) if source != "drawn" else x.new_zeros(0),
        pieces=pieces,
        linear=None if others is None or pieces is None else _off_axes(others.x, x, pieces.squares.shape[1]),
    )


@torch.no_grad()
def surface(fitted: Fitted, flow: Injection, evidence: Evidence, *, seed: int = 0) -> Surface:
    """Sample points of the learned surface from the latent density, with the density on it.

    Args:
        fitted: the model and its record.
        flow: its flow.
        evidence: what `gather` returned; a conditional model is shown at one of its contexts.
        seed: of the draw.

    Returns:
        The surface; lines of equal codes where d <= 2.
    """
    columns = fitted.model.columns
    n, c = flow.affordable(_SURFACE_POINTS, times=20), typical(evidence.rows)
    repeated = None if c is None else c.expand(n, -1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base, z = flow.base(repeated), flow.draw(n, repeated)
    decode = flow.maps(repeated)[1]
    points, (_, J) = decode(z), jacobian(lambda z: columns.restore_kept(decode(z)), z)
    log_density = base.log_prob(z) - torch.linalg.svdvals(J).clamp_min(1e-300).log().sum(1)
    low, high = (z.quantile(q, 0) for q in _EXTREMES)
    lines = [flow.decode(line, None if c is None else c.expand(len(line), -1)) for line in _lines(low, high)]
    return Surface(points, log_density, lines)


@torch.no_grad()
def walks(flow: Injection, surface: OnSurface, rows: Rows, *, steps: int, most: int = 3) -> Walks:
    """Return walks along the directions in code space that move the reconstruction most, through the mean code.

    Args:
        flow: the flow.
        surface: where the rows lie.
        rows: the rows judged.
        steps: points on each walk.
        most: number of walks; d at most.

    Returns:
        The walks, the longest direction first.
    """
    z, c = surface.z, typical(rows)
    values, vectors = torch.linalg.eigh(z.mT.cov(correction=0).reshape(z.shape[1], z.shape[1]))
    spread = vectors * values.clamp_min(0).sqrt()  # d d
    some = z[:: max(1, len(z) // flow.affordable(200))]
    _, J = jacobian(flow.maps(None if c is None else c.expand(len(some), -1))[1], some)
    stretch = J @ spread
    directions = spread @ torch.linalg.eigh((stretch.mT @ stretch).mean(0)).eigenvectors.flip(1)
    count = min(most, z.shape[1])
    t = torch.linspace(-_LONGEST_WALK, _LONGEST_WALK, steps).to(z)
    codes = z.mean(0) + t.reshape(1, -1, 1) * directions.mT[:count].unsqueeze(1)
    flat = codes.flatten(0, 1)
    return Walks(t, flow.decode(flat, None if c is None else c.expand(len(flat), -1)).unflatten(0, (count, steps)))


def typical(rows: Rows) -> Context:
    """Return the context nearest to the mean of all, (1, C), or None."""
    if rows.c is None:
        return None
    return rows.c[(rows.c - rows.c.mean(0)).square().sum(1).argmin()].unsqueeze(0)


def _rows(fitted: Fitted, frame: pd.DataFrame | None, seed: int) -> tuple[Source, int, Rows | None, Rows]:
    """Return where rows come from, how many the table has, rows to learn from, and rows to judge on."""
    model, flow = fitted.model, fitted.model.flow
    if frame is None:
        n = _TWO_SAMPLE_ROWS
        c = torch.zeros(n, flow.context_dim, dtype=torch.float64) if flow.context_dim else None
        return "drawn", 0, None, Rows(model.density.sample(n, c), c)
    if frame.empty:
        raise InputError(f"expected a table with rows; got shape {frame.shape}; give more")
    x, c = tensors(fitted, frame)
    try:
        learn, rows = rows_again(fitted, x, c)
    except InputError:
        u = model.columns.standardise(x)
        u = model.columns.spread(u, torch.rand(u.shape, dtype=u.dtype) - 0.5)
        order = torch.randperm(len(u), generator=torch.Generator().manual_seed(seed))
        every = Rows(u, None if c is None or model.context_columns is None else model.context_columns.standardise(c))
        third = -(-len(u) // 3)
        return "given", len(x), every[order[third:]], every[order[:third]]
    return "held out", len(x), learn, rows


def _told_apart(
    columns: Columns, drawn: Float[Tensor, "n D"], x: Float[Tensor, "n D"], seed: int, limit: Deadline
) -> float | None:
    """Return the classifier's AUC on what a user sees: whole numbers are whole; None where there is no time for it."""
    rows = _affordable_rows(x.shape[1], limit)
    if rows < _FEWEST_TOLD:
        return None
    pair = (columns.standardise(columns.round_integers(columns.restore(u))) for u in (drawn, x))
    return c2st_auc(*pair, max_rows=rows, seed=seed)


def _affordable_rows(D: int, limit: Deadline) -> int:
    """Return how many rows of either kind the classifier can learn from in time: its seconds go as n D, after D^3."""
    seconds = _SHARE_OF_CLASSIFIER * limit.left() - _SECONDS_PER_CUBE * D**3
    return int(min(_TWO_SAMPLE_ROWS, seconds / (_SECONDS_PER_CELL * D)))


def _off_axes(learn: Float[Tensor, "n D"], x: Float[Tensor, "m D"], dims: int) -> Float[Tensor, " dims"]:
    """Return the mean square per direction off the leading 0, 1, ... principal axes of other rows."""
    mean = learn.mean(0)
    axes = torch.linalg.svd(learn[:: max(1, len(learn) // _ROWS)] - mean, full_matrices=False).Vh[: dims - 1]
    inside = ((x - mean) @ axes.mT).square().mean(0)
    left = (x - mean).square().sum(1).mean() - torch.nn.functional.pad(inside, (1, 0)).cumsum(0)
    return left.clamp_min(0) / (x.shape[1] - torch.arange(len(left))).clamp_min(1)


def _calibration(
    fitted: Fitted, rows: Rows, z: Float[Tensor, "n d"], residual: Float[Tensor, "n D"]
) -> Float[Tensor, " p"]:
    """Return the probability integral transform of residuals under the model, along random normals of the surface."""
    density = fitted.model.density
    if not isinstance(density, Ambient) or density.flow.data_dim == density.flow.latent_dim:
        return z.new_zeros(0)
    flow, noise = density.flow, density.noise
    n, K = flow.affordable(500, times=4), min(_NORMALS, flow.codimension)
    z, residual, c = z[:n], residual[:n], None if rows.c is None else rows.c[:n]
    tangent = torch.linalg.qr(jacobian(flow.maps(c)[1], z)[1]).Q
    v = torch.randn(len(z), flow.data_dim, K).to(z)
    normal = torch.nn.functional.normalize(v - tangent @ (tangent.mT @ v), dim=1).mT  # n K D
    along = (normal * residual.unsqueeze(1)).sum(2)
    deviation = _deviations(noise, normal)
    components = gaussian_components(flow.base(c)) if deviation.shape[2] > 1 else None
    if components is None:
        return torch.special.ndtr(along / deviation.squeeze(2)).flatten()
    log_weights, means, tril = components
    shares = (log_weights + log_normal(z.unsqueeze(1) - means, tril)).softmax(1).unsqueeze(1)
    return (shares * torch.special.ndtr(along.unsqueeze(2) / deviation)).sum(2).flatten()


def _deviations(noise: Noise, directions: Float[Tensor, "n K D"]) -> Float[Tensor, "n K components"]:
    """Return the standard deviation of each component's noise along unit vectors."""
    eye = torch.eye(directions.shape[2]).to(directions)
    index = torch.zeros(len(eye), dtype=torch.long)
    roots = (noise.color(eye, index + k) for k in range(len(noise.half_log_det())))  # transposed
    return torch.stack([(directions @ root.mT).norm(dim=2) for root in roots], 2)


def _lines(low: Float[Tensor, " d"], high: Float[Tensor, " d"]) -> list[Float[Tensor, "_ d"]]:
    """Return codes along lines: one for d = 1, a net for d = 2."""
    share = torch.linspace(0, 1, _LINE_POINTS).to(low).unsqueeze(1)
    if len(low) == 1:
        return [low + share * (high - low)]
    if len(low) > 2:
        return []
    net = []
    for fixed in (0, 1):
        for place in np.linspace(0, 1, _LINES):
            line = low + share * (high - low)
            line[:, fixed] = low[fixed] + place * (high - low)[fixed]
            net.append(line)
    return net
