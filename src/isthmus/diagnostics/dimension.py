"""How many dimensions and how much noise have the data? Answers that need no flow, from distances and flat pieces."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.errors import InputError
from isthmus.mixtures import gaussian_mixture

__all__ = ["FlatPieces", "correlation_dimension", "flat_pieces", "intrinsic_dimension"]

_ROWS = 4_000  # in the search for neighbours
_COINCIDE = 1e-6  # rows nearer than this share of a standard deviation count as one
_PAIR_ROWS = (3_000, 500)  # rows, and how many of them are the first of a pair
_FEWEST_PAIRS = 100  # a slope of counts from fewer pairs is noise
_SMALLEST_SHARE = 2e-3  # of all pairs, where noise reaches less far than that
_PIECES = (1, 2, 4, 8, 16, 32, 64)
_SIGNIFICANT = 2.0  # standard errors by which more pieces must gain
_PATIENCE = 2  # numbers of pieces tried in a row without a gain
_PIECE_ROWS = 2_000
_ROWS_PER_DIRECTION = 5  # of a piece
_SPARE_DIRECTIONS = 8  # beside those measured, in which pieces are told apart


def intrinsic_dimension(x: Float[Tensor, "n D"], *, neighbours: int = 20) -> float:
    """Estimate the number of dimensions by maximum likelihood, from distances to near neighbours.

    For a row with distances T_1 <= ... <= T_k to its neighbours the inverse dimension is the mean of log(T_k / T_j),
    j < k; inverses are averaged over rows. Noise raises it, and too few rows lower it for high dimensions.

    Args:
        x: data on comparable scales, (n, D), n >= 3; at most 4,000 evenly spaced rows are used.
        neighbours: k >= 3; fewer where there are fewer rows.

    Returns:
        A number of dimensions, in (0, D].

    Raises:
        InputError: fewer than 3 different rows, or k < 3.

    References:
        Levina, Bickel (2004), Maximum likelihood estimation of intrinsic dimension; averaged as proposed by MacKay and
        Ghahramani (2005).

    Example:
        >>> plane = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 9)
        >>> round(intrinsic_dimension(plane))
        2
    """
    if neighbours < 3:
        raise InputError(f"expected neighbours >= 3; got {neighbours}; 20 is a usual choice")
    x = x[:: max(1, math.ceil(x.shape[0] / _ROWS))].to(torch.float64)
    grain = (_COINCIDE * x.std(correction=0)).clamp_min(1e-300)
    x = torch.unique((x / grain).round(), dim=0)
    if x.shape[0] < 3:
        raise InputError(
            f"expected 3 different rows to estimate a dimension from; got {x.shape[0]}; choose it yourself"
        )
    k = min(neighbours, x.shape[0] - 1)
    nearest = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").topk(k + 1, largest=False).values[:, 1:]
    inverse = (nearest[:, -1:] / nearest[:, :-1]).log().mean()
    return float((1 / inverse.clamp_min(1e-12)).clamp_max(x.shape[1]))


def correlation_dimension(x: Float[Tensor, "n D"], noise_variance: float) -> float:
    """Return how fast the number of pairs grows with their distance, at distances beyond the noise.

    The slope of log C(r) against log r between r = 2 s and r = 2 sqrt(2) s, with C(r) the number of pairs nearer than r
    and s^2 = D sigma^2, so that noise alone puts a pair at sqrt(2) s. Where fewer than 1 pair in 500 is that near, the
    nearest ones are taken instead. It is near the dimension of the manifold even where noise makes every small
    neighbourhood full-dimensional, and below it where d is above about 5 or the manifold ends at such distances.

    Args:
        x: data on comparable scales, (n, D); at most 3,000 evenly spaced rows are used.
        noise_variance: sigma^2, per direction, in squared units of x, >= 0.

    Returns:
        A number of dimensions, >= 0; NaN if there are fewer than 100 pairs.

    References:
        Grassberger, Procaccia (1983), Measuring the strangeness of strange attractors, Physica D 9.

    Example:
        >>> circle = torch.randn(2_000, 2, generator=torch.Generator().manual_seed(0))
        >>> circle = circle / circle.norm(dim=1, keepdim=True) + 0.03 * torch.randn(2_000, 2)
        >>> round(correlation_dimension(circle, 0.03**2))
        1
    """
    most, first = _PAIR_ROWS
    x = x[:: max(1, math.ceil(x.shape[0] / most))].to(torch.float64)
    squares = torch.cdist(x[:: max(1, math.ceil(x.shape[0] / first))], x).square().flatten()
    squares = squares[squares > 1e-12 * squares.max()].sort().values  # a row is no pair with itself or its copies
    if len(squares) < _FEWEST_PAIRS:
        return math.nan
    fewest = max(_FEWEST_PAIRS, int(_SMALLEST_SHARE * len(squares)))
    low = max(4 * x.shape[1] * noise_variance, float(squares[fewest - 1]))
    inner, outer = (int(torch.searchsorted(squares, factor * low, right=True)) for factor in (1, 2))
    return math.log(outer / inner) / math.log(2) * 2 if inner >= _FEWEST_PAIRS else math.nan


@dataclass(frozen=True)
class FlatPieces:
    """What flat pieces of every dimension leave of held-out rows.

    Attributes:
        squares: squared distance of each row from the pieces of dimension 0, 1, ..., Q, (m, Q + 1), in squared units of
            x.
        data_dim: D.
        count: number of pieces.
    """

    squares: Float[Tensor, "m dims"]
    data_dim: int
    count: int

    def variance(self, dimension: int) -> float:
        """Return the mean square per direction off pieces of so many dimensions; 0 for D dimensions.

        Above the largest dimension measured, that of the largest.
        """
        q = min(dimension, self.squares.shape[1] - 1)
        return float(self.squares[:, q].mean()) / max(1, self.data_dim - q)


def flat_pieces(train: Float[Tensor, "n D"], held_out: Float[Tensor, "m D"], most: int, *, seed: int = 0) -> FlatPieces:
    """Measure the squared distance of held-out rows from flat pieces fitted to the training rows: a noise floor.

    A Gaussian mixture with full covariances, in the leading principal axes; of 1, 2, 4, ... 64 pieces as many as gain
    held-out likelihood, and of each piece its leading axes. Where the pieces are smaller than the
    manifold's radii of curvature and larger than the noise, what they leave is the noise; a strongly curved manifold
    with few rows leaves more. So a flow of d dimensions should not leave more than the pieces of dimension d.

    Args:
        train: rows to fit, (n, D); at most 2,000 evenly spaced ones are used.
        held_out: rows to measure, (m, D).
        most: largest dimension Q of the pieces, >= 1; D at most.
        seed: of the mixture's initialisation.

    Returns:
        The record `FlatPieces`.

    Example:
        >>> x = torch.randn(2_000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 0.1, 0.1])
        >>> round(flat_pieces(x[:1_500], x[1_500:], 2).variance(1), 2)
        0.01
    """
    train = train[:: max(1, math.ceil(train.shape[0] / _PIECE_ROWS))].to(torch.float64)
    mean = train.mean(0)
    axes = torch.linalg.svd(train - mean, full_matrices=False).Vh
    m, most = min(len(axes), most + _SPARE_DIRECTIONS), min(len(axes), most)
    held_out = held_out.to(torch.float64) - mean
    u, v = (train - mean) @ axes[:m].mT, held_out @ axes[:m].mT
    outside = (held_out.square().sum(1) - v.square().sum(1)).clamp_min(0)
    label, center, covariance = _pieces(u, v, seed)
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(2)
    inside = torch.einsum("nij,ni->nj", vectors[label], v - center[label]).square()
    left = inside.sum(1, keepdim=True) - torch.nn.functional.pad(inside, (1, 0)).cumsum(1)
    squares = outside.unsqueeze(1) + left[:, : most + 1].clamp_min(0)
    return FlatPieces(squares, train.shape[1], len(center))


def _pieces(
    u: Float[Tensor, "n m"], v: Float[Tensor, "k m"], seed: int
) -> tuple[Tensor, Float[Tensor, "K m"], Float[Tensor, "K m m"]]:
    """Return which piece each row of v belongs to, and the pieces' means and covariances.

    More pieces are taken as long as v gains by more than chance: as soon as they are shorter than the noise, they no
    longer gain, and what they leave would no longer be the noise.
    """
    held_out, ridge = v.cpu().numpy(), 1e-6 * float(u.var(0, correction=0).mean()) + 1e-300
    best: Any = None
    score, without = torch.empty(0), 0
    for K in (K for K in _PIECES if K == 1 or len(u) >= _ROWS_PER_DIRECTION * K * u.shape[1]):
        fitted = gaussian_mixture(u, K, ridge=ridge, iterations=30, tolerance=1e-2, seed=seed)
        value = torch.as_tensor(fitted.score_samples(held_out))
        gain = value - score if best is not None else value
        without += 1
        if best is None or float(gain.mean()) > _SIGNIFICANT * float(gain.std(correction=0)) / len(v) ** 0.5:
            best, score, without = fitted, value, 0
        if without == _PATIENCE:
            break
    label = torch.as_tensor(best.predict(held_out))
    return label.to(u.device), torch.as_tensor(best.means_).to(u), torch.as_tensor(best.covariances_).to(u)
