"""What could a flow of R^D still learn: by one more affine coupling; at all, where it keeps volumes.

The divergence of a law from a flow is that of the law of the codes z from the normal law. Of the latter

* one affine coupling can remove the first two conditional moments, whatever the rotation before it:

      Delta = max over rotations of E_b sum_i 1/2 (m_i(b)^2 + sigma_i(b)^2 - 1 - log sigma_i(b)^2),

  m and sigma the mean and deviation of an active column given the passive ones. Where no affine coupling can gain, z is
  normal; `affine_gain` estimates Delta, from below: one passive number at a time.

* A volume-preserving map can only rearrange a density p. With `mu(t)` the volume where p > t, `omega` that of the unit
  ball, the volume radius `rho(x) = (mu(p(x)) / omega)^(1/D)` and `M = E_p rho^2`, the best that any of them learns is

      log p_VP(x) = D/2 log(D / (2 pi M)) - D rho(x)^2 / (2 M),

  which has the level sets of p and the profile of a normal law, and the divergence that is left is

      KL_VP = D/2 (log(2 pi e) + log(M / D)) - H(p),

  an infimum: where those level sets fall apart, thin bridges between the pieces cost a trained flow some more.
* Of a normal law with covariance Sigma what is left to learn is `S = 1/2 (tr Sigma - D - log det Sigma)`; a coupling
  behind a random rotation lowers it at a rate that only the eigenvalues decide.

References:
    Draxler, Wahl, Schnörr, Köthe (2024), arXiv 2402.06578; Draxler, Schnörr, Köthe (2022), arXiv 2210.14032. The
    formulas of p_VP and KL_VP are derived on the page on theory.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.bijections import conditional_moments, reflected, reflector
from isthmus.bijections.moments import bins_for
from isthmus.errors import InputError
from isthmus.mixtures import gaussian_mixture

__all__ = [
    "AffineGain",
    "VolumePreservingLimit",
    "affine_gain",
    "non_standardness",
    "volume_preserving_limit",
    "volume_preserving_limit_on_grid",
    "whitening_bound",
]

_ROWS = 6_000  # of codes
_BINS, _ROWS_EACH = 24, 30
_FOLDS = 3
_AXES = 16  # columns that are tried as directions, beside random ones
_COMPONENTS = (1, 2, 4, 8, 16, 32, 64)
_RIDGES = (1e-4, 1e-2, 0.1, 1.0)  # shares of the mean variance
_MASS = 0.01  # that a grid may lack


class AffineGain(NamedTuple):
    """What one more affine coupling would gain, in nats a row, with its standard error."""

    value: float
    standard_error: float

    def sentence(self) -> str:
        """Return it in words.

        Example:
            >>> AffineGain(0.0213, 0.0049).sentence()
            'one more layer would gain 0.021 ± 0.005 nats'
        """
        digits = max(2, min(6, 1 - math.floor(math.log10(self.standard_error)))) if self.standard_error > 0 else 2
        digits = min(digits, 3)
        return f"one more layer would gain {self.value:.{digits}f} ± {self.standard_error:.{digits}f} nats"


class _Split(NamedTuple):
    """How codes are split: a direction, None for nothing passive, and weights of its column and of the context."""

    direction: Tensor | None
    weights: Tensor


@torch.no_grad()
def affine_gain(
    z: Float[Tensor, "n d"], c: Float[Tensor, "n C"] | None = None, *, directions: int = 32, seed: int = 0
) -> AffineGain:
    """Estimate what one more affine coupling would gain: the distance of codes from a normal law that it would remove.

    Rows are cut in three: moments by the first third, the direction and its columns by the second, the gain by the
    last, each third in each part once. So noise gains nothing, and one layer more is not found wanting by chance.

    Args:
        z: codes whose law is to be standard normal, (n, d); at most 6,000 evenly spaced ones are used.
        c: context, (n, C), or None.
        directions: random ones, beside the first 16 axes, no direction at all, and each column of the context.
        seed: of these; the global random state is left as it was.

    Returns:
        Value, 0 at least, and standard error, nats a row.

    Raises:
        InputError: fewer than 30 rows.

    Example:
        >>> z = torch.randn(3000, 2)
        >>> affine_gain(z).value < 0.01
        True
        >>> z[:, 1] += z[:, 0].square()  # the variance of z_0^2 is 2
        >>> 0.8 < affine_gain(z).value < 2.0
        True
    """
    if len(z) < _FOLDS * 10:
        raise InputError(f"expected at least {_FOLDS * 10} rows to tell a gain from noise; got {len(z)}; give more")
    every = max(1, math.ceil(len(z) / _ROWS))
    z = z[::every].to(torch.float64)
    c = None if c is None else c[::every].to(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(z), generator=generator).to(z.device)
    parts = order.tensor_split(_FOLDS)
    candidates = list(_candidates(z.shape[1], 0 if c is None else c.shape[1], directions, generator))
    gain = torch.zeros(len(z)).to(z)
    for fold in range(_FOLDS):
        first, second, last = (parts[(fold + k) % _FOLDS] for k in range(_FOLDS))
        chosen, columns, best = None, torch.zeros(0), 0.0
        for split in candidates:
            values = _gain(z, c, split, first, second)
            mean = values.mean(0)
            active = mean > values.std(0) / len(second) ** 0.5
            if float(mean[active].sum()) > best:
                chosen, columns, best = split, active, float(mean[active].sum())
        if chosen is not None:
            gain[last] = _gain(z, c, chosen, torch.cat([first, second]), last)[:, columns].sum(1)
    return AffineGain(max(0.0, float(gain.mean())), float(gain.std()) / len(gain) ** 0.5)


def _candidates(d: int, contexts: int, directions: int, generator: torch.Generator) -> Iterator[_Split]:
    """Return ways to split codes: none passive, axes, random directions, and each of the context's columns."""
    plain = torch.zeros(1 + contexts, dtype=torch.float64)
    plain[0] = 1
    yield _Split(None, torch.zeros_like(plain))
    for column in range(contexts):
        yield _Split(None, torch.eye(1 + contexts, dtype=torch.float64)[1 + column])
    if d > 1:
        for axis in torch.eye(d, dtype=torch.float64)[:_AXES]:
            yield _Split(axis, plain)
        for _ in range(directions):
            direction = torch.randn(d, dtype=torch.float64, generator=generator)
            yield _Split(direction / direction.norm(), plain)


def _gain(z: Tensor, c: Tensor | None, split: _Split, fit: Tensor, rows: Tensor) -> Tensor:
    """Return the gain at some rows by the moments of others, (rows, active)."""
    if split.direction is None:
        b, a = torch.zeros(len(z)).to(z), z
    else:
        turned = reflected(z, reflector(split.direction.to(z)))
        b, a = turned[:, 0] * split.weights[0], turned[:, 1:]
    if c is not None:
        b = b + c @ split.weights[1:].to(c)
    bins = bins_for(len(fit), _BINS, _ROWS_EACH) if split.weights.any() else 1
    m, deviation = conditional_moments(b[fit], a[fit], bins).at(b[rows])
    rest = a[rows]
    return 0.5 * (rest.square() - ((rest - m) / deviation).square()) - deviation.log()


@dataclass(frozen=True)
class VolumePreservingLimit:
    """The best that a volume-preserving flow can learn of a law.

    Attributes:
        divergence: KL_VP, the divergence of the law from it, in nats.
        standard_error: of the divergence; 0 on a grid.
        entropy: of the law, H(p), in nats.
        points: where the density was evaluated, (n, D): rows, or the centres of a grid's cells.
        log_density: log p_VP there, (n,) in nats.
    """

    divergence: float
    standard_error: float
    entropy: float
    points: Float[Tensor, "n D"]
    log_density: Float[Tensor, " n"]


LogDensity = Callable[[Float[Tensor, "n D"]], Float[Tensor, " n"]]


@torch.no_grad()
def volume_preserving_limit(
    rows: Float[Tensor, "n D"], log_density: LogDensity | None = None, *, seed: int = 0
) -> VolumePreservingLimit:
    """Estimate the best that a volume-preserving flow can learn, from rows of a law of any dimension.

    The volume where p is above p(x) is the mean of 1/p over rows that are there.

    Args:
        rows: draws of the law, (n, D).
        log_density: of the law, in nats; a Gaussian mixture fitted to the rows where there is none.
        seed: of the mixture.

    Returns:
        The limit, its density at the rows.

    Raises:
        InputError: fewer than 10 rows, or the log density of one is not finite.

    Example:
        >>> rows = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
        >>> normal = torch.distributions.Normal(0.0, 1.0)
        >>> limit = volume_preserving_limit(rows, lambda x: normal.log_prob(x).sum(1))
        >>> abs(limit.divergence) < 0.05
        True
    """
    if len(rows) < 10:
        raise InputError(f"expected at least 10 rows of the law; got {len(rows)}; give more")
    log_p = (log_density or _mixture(rows, seed))(rows).to(torch.float64)
    if not bool(log_p.isfinite().all()):
        raise InputError("expected rows with a finite log density; got one without; draw rows from the law itself")
    n, D = rows.shape
    order = log_p.argsort(descending=True)
    inverse = -log_p[order] - math.log(n)
    above = torch.logcumsumexp(inverse, 0)
    log_volume = torch.empty_like(log_p)
    log_volume[order] = above + torch.log1p(-0.5 * (inverse - above).exp())  # half of the row's own volume
    return _limit(rows, log_p, log_volume, torch.full_like(log_p, 1 / n), D, sampled=True)


@torch.no_grad()
def volume_preserving_limit_on_grid(
    log_density: LogDensity, low: list[float], high: list[float], *, cells: int = 500
) -> VolumePreservingLimit:
    """Compute the best that a volume-preserving flow can learn of a law of few columns, on a grid.

    Args:
        log_density: of the law, in nats; minus infinity where there is none.
        low: the box's lower ends, one for each of D columns.
        high: its upper ends.
        cells: along each column.

    Returns:
        The limit, its density at the centres of all cells.

    Raises:
        InputError: the box does not hold the law.

    Example:
        >>> square = lambda x: torch.where(x.abs().amax(1) < 0.5, 0.0, -torch.inf)
        >>> limit = volume_preserving_limit_on_grid(square, [-0.5, -0.5], [0.5, 0.5], cells=100)
        >>> round(limit.divergence, 3), round(1 - math.log(2), 3)
        (0.307, 0.307)
    """
    edges = [(b - a) / cells for a, b in zip(low, high, strict=True)]
    axes = [a + step * (torch.arange(cells, dtype=torch.float64) + 0.5) for a, step in zip(low, edges, strict=True)]
    points = torch.cartesian_prod(*axes).reshape(-1, len(low))
    log_p = torch.cat([log_density(part) for part in points.split(100_000)]).to(torch.float64)
    log_cell = sum(math.log(step) for step in edges)
    mass = (log_p + log_cell).exp()
    if abs(float(mass.sum()) - 1) > _MASS:
        raise InputError(f"expected a box with all of the law in it; got a mass of {float(mass.sum()):.3f}; widen it")
    order = log_p.argsort(descending=True, stable=True)
    log_volume = torch.empty_like(log_p)
    log_volume[order] = (torch.arange(len(log_p)).to(log_p) + 0.5).log() + log_cell
    return _limit(points, log_p, log_volume, mass / mass.sum(), len(low), sampled=False)


def _limit(
    points: Tensor, log_p: Tensor, log_volume: Tensor, mass: Tensor, D: int, *, sampled: bool
) -> VolumePreservingLimit:
    log_ball = D / 2 * math.log(math.pi) - math.lgamma(D / 2 + 1)
    log_squares = 2 / D * (log_volume - log_ball)  # log rho^2
    inside = mass > 0
    log_second = float((mass.log() + log_squares)[inside].logsumexp(0))
    entropy = -float((mass * log_p)[inside].sum())
    divergence = D / 2 * (math.log(2 * math.pi * math.e) + log_second - math.log(D)) - entropy
    log_density = D / 2 * (math.log(D / (2 * math.pi)) - log_second - (log_squares - log_second).exp())
    error = float((log_p - log_density).std()) / len(points) ** 0.5 if sampled else 0.0
    return VolumePreservingLimit(divergence, error, entropy, points, log_density)


def _mixture(rows: Tensor, seed: int) -> LogDensity:
    """Return the log density of the Gaussian mixture that every third row, held out, finds likeliest."""
    held_out = torch.arange(len(rows)) % 3 == 0
    learn, judge = rows[~held_out].to(torch.float64), rows[held_out].to(torch.float64).numpy()
    spread = float(rows.var(0).mean())
    counts = [K for K in _COMPONENTS if len(learn) >= 4 * K * rows.shape[1]]
    choices = [(K, _RIDGES[0]) for K in counts] or [(1, ridge) for ridge in _RIDGES]  # of few rows a ridge is chosen
    fitted = [gaussian_mixture(learn, K, ridge=ridge * spread, seed=seed) for K, ridge in choices]
    best = max(fitted, key=lambda mixture: float(mixture.score(judge)))
    return lambda x: torch.from_numpy(best.score_samples(x.to(torch.float64).numpy()))


def non_standardness(covariance: Float[Tensor, "D D"]) -> float:
    """Return what is left to learn of a centred normal law, `1/2 (tr Sigma - D - log det Sigma)`, in nats.

    Args:
        covariance: Sigma, positive definite, (D, D).

    Example:
        >>> non_standardness(torch.eye(3))
        0.0
    """
    return 0.5 * float(covariance.trace() - len(covariance) - torch.logdet(covariance))


def whitening_bound(eigenvalues: Float[Tensor, " D"], active: int) -> float:
    """Return a bound on what is left of a normal law, on average, behind a random rotation and the best coupling.

    `E S' <= S + 1/2 (D_a log(1 - D D_p / ((D + 2) (D - 1)) Var(lambda) / max(lambda)) + D log mean(lambda))`, where the
    eigenvalues have mean 1 at most; with `g = exp(-2 S / D)` also

    `E S' <= S + D_a/2 log(1 - 2 D D_p / ((D - 1) (D + 2)) (1 - sqrt(1 - g^D)) / (1 + sqrt(1 - g^D)) (1 - g))`;

    the smaller of the two.

    Args:
        eigenvalues: of the covariance, positive, (D,), of mean 1, as any scale makes them.
        active: columns that the coupling moves, D_a, 1 <= D_a < D.

    Returns:
        Nats.

    Raises:
        InputError: no active or no passive column.

    References:
        Draxler, Schnörr, Köthe (2022), arXiv 2210.14032.

    Example:
        >>> eigenvalues = torch.tensor([0.5, 1.5])
        >>> whitening_bound(eigenvalues, 1) < non_standardness(torch.diag(eigenvalues))
        True
    """
    D = len(eigenvalues)
    if not 1 <= active < D:
        raise InputError(f"expected from 1 to {D - 1} active columns of {D}; got {active}; choose another number")
    values = eigenvalues.to(torch.float64)
    left, passive = non_standardness(torch.diag(values)), D - active
    spread = float(values.var(correction=0) / values.max())
    share = D * passive / ((D + 2) * (D - 1))
    by_values = 0.5 * (active * math.log(1 - share * spread) + D * math.log(float(values.mean())))
    g = math.exp(-2 * left / D)
    root = math.sqrt(1 - g**D)
    by_left = active / 2 * math.log(1 - 2 * share * (1 - root) / (1 + root) * (1 - g))
    return left + min(by_values, by_left)
