"""Do codes, samples, densities and gradients say what the model claims? Each on rows, in nats or as pure numbers."""

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.autodiff import jacobian, pullback
from isthmus.density import Ambient, Density
from isthmus.flow import Context, Injection, in_double
from isthmus.rows import Rows
from isthmus.volume import ESTIMATORS, Map, exact, orthonormal_probes

__all__ = [
    "Agreement",
    "Codes",
    "Generalisation",
    "GradientQuality",
    "Samples",
    "TwoSample",
    "agreement",
    "codes",
    "generalisation",
    "gradient_quality",
    "samples",
    "two_sample",
]

_ROWS = 500  # in tests on pairs of rows
_NEIGHBOUR_ROWS = 4_000
_PERMUTATIONS = 200
_DENSITY_ROWS = 1_000
_GRADIENT_ROWS = 64
_PROBES = 8  # at most
_SAMPLED_ROWS = 128
_SAMPLED_POINTS = 64


class TwoSample(NamedTuple):
    """The energy distance between two samples.

    Attributes:
        share: `(2 E|X-Y| - E|X-X'| - E|Y-Y'|) / (2 E|X-Y|)` less its mean under permutations of the rows: 0 for equal
            laws up to chance, at most 1. A shift of one standard deviation in one dimension gives about 0.2.
        p_value: share of permutations, and the observed rows, with as large a distance.
    """

    share: float
    p_value: float


class Samples(NamedTuple):
    """Rows drawn from the model against held-out rows.

    Attributes:
        energy: the energy test between them.
        nearest: median distance of drawn rows to the nearest training row, divided by that of held-out rows; 1 is best,
            more where the model is blurred around a thin manifold, NaN where held-out rows repeat training rows.
    """

    energy: TwoSample
    nearest: float


class Codes(NamedTuple):
    """Codes against the latent density; the first four are 0 where their moments agree.

    Attributes:
        mean: largest difference of means over the d columns, in standard deviations of p_Z.
        scale: largest |log(standard deviation of codes / standard deviation of p_Z)| over the columns.
        skewness: largest difference of skewness over the columns.
        kurtosis: largest difference of excess kurtosis over the columns.
        energy: the energy test of codes against draws from p_Z.
    """

    mean: float
    scale: float
    skewness: float
    kurtosis: float
    energy: TwoSample


class Generalisation(NamedTuple):
    """Mean linearised ambient log density of training and of held-out rows.

    Attributes:
        train: nats per row.
        held_out: nats per row.
        gap: train - held_out, nats per row.
        standard_error: of the gap, in nats.
    """

    train: float
    held_out: float
    gap: float
    standard_error: float


class Agreement(NamedTuple):
    """The two evaluations of the ambient density, on the same rows.

    Attributes:
        bias: mean of linearised minus importance-sampled, nats per row.
        spread: mean of the absolute difference, nats per row.
        standard_error: of `bias`, nats.
    """

    bias: float
    spread: float
    standard_error: float


class GradientQuality(NamedTuple):
    """Cosines between gradients of the change of volume over all parameters; 1 is best.

    Attributes:
        encoder: of the surrogate's gradient, averaged over probes, with that of the exact `-1/2 log det f' f'^T`.
        decoder: the same with that of the exact `1/2 log det g'^T g'`.
        either: the same with the nearest sum of both, neither subtracted: what a choice between them by probe follows.
        single: mean cosine of one probe's gradient with that of all probes: how noisy a single probe is.
    """

    encoder: float
    decoder: float
    either: float
    single: float


def two_sample(
    x: Float[Tensor, "n D"], y: Float[Tensor, "m D"], *, permutations: int = _PERMUTATIONS, seed: int = 0
) -> TwoSample:
    """Return the energy distance as a share of its largest possible value, with a permutation test.

    Args:
        x: rows, (n, D); at most 500 evenly spaced ones are used.
        y: rows, (m, D), likewise.
        permutations: how many times rows are dealt out anew, >= 1.
        seed: of the permutations.

    Returns:
        The record `TwoSample`.

    References:
        Szekely and Rizzo 2013, Energy statistics, J. Stat. Plan. Inference 143(8).

    Example:
        >>> x = torch.linspace(0, 1, 50).unsqueeze(1)
        >>> two_sample(x, x + 10).share > 0.9, two_sample(x, x + 0.001).p_value > 0.5
        (True, True)
    """
    x, y = (Rows(rows.to(torch.float64)).thinned(_ROWS).x for rows in (x, y))
    n, m = len(x), len(y)
    both = torch.cat([x, y])
    distances = torch.cdist(both, both)
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(n + m, generator=generator) for _ in range(permutations)])
    order = torch.cat([torch.arange(n + m).unsqueeze(0), order]).to(x.device)
    member = torch.zeros(permutations + 1, n + m).to(x).scatter_(1, order[:, :n], 1.0)
    rows = member @ distances
    within_x = (rows * member).sum(1) / n**2
    across = (rows * (1 - member)).sum(1) / (n * m)
    within_y = (distances.sum() - (rows * (2 - member)).sum(1)) / m**2
    shares = (2 * across - within_x - within_y) / (2 * across).clamp_min(1e-300)
    observed, null = shares[0], shares[1:]
    extreme = 1 + int((null >= observed).sum())
    return TwoSample(float(observed - null.mean()), extreme / (permutations + 1))


@torch.no_grad()
def codes(flow: Injection, x: Float[Tensor, "n D"], c: Context = None, *, seed: int = 0) -> Codes:
    """Compare moments of the codes with those of the latent density, and run the energy test between them.

    Args:
        flow: any flow.
        x: standardised data, (n, D).
        c: context, (n, C), or None.
        seed: of the draws from p_Z and of the permutations; the global random state is left as it was.

    Returns:
        The record `Codes`.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> flow = FreeFormFlow(torch.nn.Identity(), torch.nn.Identity(), data_dim=2, latent_dim=2)
        >>> codes(flow, torch.randn(500, 2) + torch.tensor([3.0, 0.0])).mean > 2.5
        True
    """
    z = flow.encode(x, c)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        repeats = max(1, 4_000 // len(z))
        reference = torch.cat([flow.draw(len(z), c) for _ in range(repeats)]).to(z)
    mean, deviation, *higher = _moments(z)
    mean_p, deviation_p, *higher_p = _moments(reference)
    skewness, kurtosis = (float((a - b).abs().max()) for a, b in zip(higher, higher_p, strict=True))
    energy = two_sample(z / deviation_p, reference / deviation_p, seed=seed)
    shift = float(((mean - mean_p) / deviation_p).abs().max())
    return Codes(shift, float((deviation / deviation_p).log().abs().max()), skewness, kurtosis, energy)


def _moments(z: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean, standard deviation, skewness and excess kurtosis of each column."""
    mean, deviation = z.mean(0), z.std(0, correction=0).clamp_min(1e-300)
    standard = (z - mean) / deviation
    return mean, deviation, standard.pow(3).mean(0), standard.pow(4).mean(0) - 3


@torch.no_grad()
def samples(density: Density, train: Rows, held_out: Rows, *, seed: int = 0) -> Samples:
    """Compare drawn rows with held-out rows: as a cloud, and each by its nearest training row.

    Args:
        density: of prepared rows.
        train: the rows that it was fitted to; at most 4,000 evenly spaced ones.
        held_out: other rows; at most 500. Samples are drawn for their contexts.
        seed: of samples and permutations; the global random state is left as it was.

    Returns:
        The record `Samples`.

    Example:
        >>> from isthmus.density import IsotropicNoise
        >>> from isthmus.flows import RectangularFlow
        >>> x = torch.randn(50, 3)
        >>> samples(Ambient(RectangularFlow(3, 2), IsotropicNoise(3, 0.1)), Rows(x), Rows(x + 0.1)).nearest > 0
        True
    """
    rows = held_out.thinned(_ROWS)
    x, c = rows.x, rows.c
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = density.sample(len(x), c)
    known = train.thinned(_NEIGHBOUR_ROWS).x
    ours, theirs = (float(torch.cdist(rows, known).amin(1).median()) for rows in (drawn, x))
    return Samples(two_sample(drawn, x, seed=seed), ours / theirs if theirs > 0 else math.nan)


@torch.no_grad()
def generalisation(density: Density, train: Rows, held_out: Rows) -> Generalisation:
    """Compare the log density of training rows with that of held-out rows.

    Args:
        density: of prepared rows.
        train: the rows that the flow was trained on.
        held_out: other rows; of both at most 1,000 evenly spaced ones are used.

    Returns:
        The record `Generalisation`.

    Example:
        >>> from isthmus.density import IsotropicNoise
        >>> from isthmus.flows import RectangularFlow
        >>> x = torch.randn(9, 3)
        >>> generalisation(Ambient(RectangularFlow(3, 2), IsotropicNoise(3, 0.1)), Rows(x), Rows(x)).gap
        0.0
    """
    most = density.flow.affordable(_DENSITY_ROWS, times=5)
    few = (rows.thinned(most) for rows in (train, held_out))
    inside, outside = (density.log_prob(rows.x, rows.c) for rows in few)
    mean, other = float(inside.mean()), float(outside.mean())
    error = sum(float(v.var(correction=0)) / len(v) for v in (inside, outside)) ** 0.5
    return Generalisation(mean, other, mean - other, error)


def agreement(
    ambient: Ambient, x: Float[Tensor, "n D"], c: Context = None, *, n_points: int = _SAMPLED_POINTS, seed: int = 0
) -> Agreement:
    """Compare the linearised with the importance-sampled ambient log density.

    Args:
        ambient: flow and noise.
        x: standardised data, (n, D); at most 128 evenly spaced rows are used.
        c: context, (n, C), or None.
        n_points: decoder evaluations a row.
        seed: of the quasi-random points.

    Returns:
        The record `Agreement`.

    Example:
        >>> from isthmus.density import IsotropicNoise
        >>> from isthmus.flows import RectangularFlow
        >>> flow = RectangularFlow(3, 2, latent_transforms=0).double()
        >>> agreement(Ambient(flow, IsotropicNoise(3, 0.1).double()), torch.randn(9, 3).double()).spread >= 0
        True
    """
    rows = Rows(x, c).thinned(ambient.flow.affordable(_SAMPLED_ROWS))
    x, c = rows.x, rows.c
    sampled = ambient.importance_sampled(x, c, n_points=n_points, seed=seed)
    difference = ambient.linearised(x, c) - sampled.value
    error = float(difference.std(correction=0)) / len(x) ** 0.5
    return Agreement(float(difference.mean()), float(difference.abs().mean()), error)


def gradient_quality(
    flow: Injection, x: Float[Tensor, "n D"], c: Context = None, *, surrogate: str = "encoder", seed: int = 0
) -> GradientQuality:
    """Return cosines of a surrogate's gradient with the exact gradients of the change of volume.

    Args:
        flow: any flow with parameters; a copy is differentiated.
        x: standardised data, (n, D); at most 64 evenly spaced rows are used.
        c: context, (n, C), or None.
        surrogate: a key of `isthmus.volume.ESTIMATORS`.
        seed: of the probes; the global random state is left as it was.

    Returns:
        The record `GradientQuality`; a cosine is NaN where a gradient vanishes.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import mlp_pair
        >>> flow = FreeFormFlow(*mlp_pair(3, 2, width=8), data_dim=3, latent_dim=2)
        >>> -1 <= gradient_quality(flow, torch.randn(9, 3)).encoder <= 1
        True
    """
    flow = in_double(copy.deepcopy(flow)).requires_grad_()
    rows = Rows(x, c).thinned(flow.affordable(_GRADIENT_ROWS)).to(torch.float64)
    x, c = rows.x, rows.c
    encode, decode = flow.maps(c)
    parameters = list(flow.parameters())

    def gradient(value: Tensor) -> Tensor:
        """Return the gradient of the mean, all parameters in one vector."""
        return torch.cat([g.flatten() for g in torch.autograd.grad(value.mean(), parameters, materialize_grads=True)])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        z = torch.empty(len(x), flow.latent_dim).to(x)
        probes = orthonormal_probes(z, min(_PROBES, flow.latent_dim)).split(1)  # d of them give the exact trace
    estimator = ESTIMATORS[surrogate]
    single = torch.stack([gradient(estimator(encode, decode, x, probes=v)[2]) for v in probes])
    mean = single.mean(0)
    encoder = gradient(exact(encode, decode, x, side="encoder", dtype=None).log_volume)
    decoder = gradient(_decoder_log_volume(encode, decode, x))
    noise = sum(_cosine(g, mean) for g in single) / len(single)
    either = _nearest_sum(mean, encoder, decoder)
    return GradientQuality(_cosine(mean, encoder), _cosine(mean, decoder), _cosine(mean, either), noise)


def _nearest_sum(target: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the sum `s a + t b`, s, t >= 0, nearest to the target, by its normal equations.

    LAPACK's least squares round as their workspace lies in memory; plain sums give the same bits every time.
    """
    aa, ab, bb, at, bt = (float((u * v).sum()) for u, v in ((a, a), (a, b), (b, b), (a, target), (b, target)))
    determinant, s, t = aa * bb - ab * ab, at * bb - bt * ab, bt * aa - at * ab
    if determinant > 1e-12 * aa * bb and s >= 0 and t >= 0:
        return (s * a + t * b) / determinant
    return max(a, b, key=lambda g: _cosine(target, g))


def _decoder_log_volume(encode: Map, decode: Map, x: Tensor) -> Tensor:
    """Return a number with the gradient of `1/2 log det g'^T g'`: `tr(SG(g'^+) g')`, by d products instead of D."""
    z = encode(x)
    with torch.no_grad():
        inverse = torch.linalg.pinv(jacobian(decode, z.detach())[1])  # batch d D
    _, transpose = pullback(decode, z)
    return transpose(inverse.movedim(1, 0)).diagonal(dim1=0, dim2=2).sum(1)


def _cosine(a: Tensor, b: Tensor) -> float:
    norm = float(a.norm() * b.norm())
    return float((a * b).sum()) / norm if norm > 0 else math.nan
