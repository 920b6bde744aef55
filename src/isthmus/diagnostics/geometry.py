"""Do encoder and decoder reconstruct, do they belong together, and how does the decoder's manifold lie in space?

`f'(x)` is the encoder's Jacobian (d, D) and `g'(z)` the decoder's (D, d) at z = f(x). Where reconstruction is optimal
`f'(x) = g'(z)^+`, the pseudo-inverse, hence `f' g' = I`: what every surrogate of `isthmus.volume` assumes. Everything
here is exact, from whole Jacobians of at most so many rows that they fit into memory.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.autodiff import jacobian
from isthmus.diagnostics.dimension import FlatPieces
from isthmus.flow import Context, Injection, LearnedManifold
from isthmus.rows import Rows

__all__ = [
    "Curvature",
    "PseudoInverse",
    "Reconstruction",
    "Spectrum",
    "curvature",
    "pseudo_inverse",
    "reconstruction",
    "spectrum",
]

_ROWS = 256
_PATHS, _STEPS = 32, 32

# A residual of less than this share of the data's variance counts as none: below it neither the float32 networks nor
# the flat pieces can be told from exact ones.
_RESOLUTION = 1e-3


class Reconstruction(NamedTuple):
    """The residual's variance per direction off the manifold, `E|x - x_hat|^2 / (D - d)`, in squared units of x.

    Attributes:
        train: of training rows.
        held_out: of held-out rows.
        floor: what flat pieces of d dimensions leave of the same held-out rows, and 0.1 % of the variance at least.
        excess: `held_out / floor`; 1 is the noise floor, less where the manifold is too curved for flat pieces.
        standard_error: of `excess`.
        unexplained: the held-out residual as a share of the rows' variance, in [0, 1] for a useful model.
    """

    train: float
    held_out: float
    floor: float
    excess: float
    standard_error: float
    unexplained: float


class PseudoInverse(NamedTuple):
    """How far the encoder is from the decoder's pseudo-inverse; pure numbers, 0, 0 and 1 are best.

    Attributes:
        gap: median over rows of `|f' - g'^+|_F / |g'^+|_F`.
        defect: median over rows of `|f' g' - I|_F / sqrt(d)`.
        trace: mean over rows of `tr(f' g') / d`: the value of the encoder's surrogate divided by -d.
    """

    gap: float
    defect: float
    trace: float


class Spectrum(NamedTuple):
    """The singular values of `g'` at the codes, scaled by the codes' standard deviations: extents in units of x.

    Attributes:
        mean: the mean over rows of the largest, the second largest, ... singular value, in units of x.
        deviation: their standard deviations over rows, in units of x.
        participation: `(sum s^2)^2 / sum s^4`, the effective number of dimensions, in [1, d].
        above_noise: mean number of singular values above sigma.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    participation: float
    above_noise: float


class Curvature(NamedTuple):
    """How the decoder's tangent space turns, by its largest principal angle, along straight lines between codes.

    Attributes:
        per_length: radians per unit of length on the manifold (1 / units of x): 1/R for a circle of radius R.
        per_line: radians from one code to another, on average.
        times_noise: `per_length * sigma`; near 1 the manifold turns within the reach of the noise, and points off it
            have no clear nearest point on it.
        detour: length of the lines on the manifold divided by the distance between their ends, >= 1.
    """

    per_length: float
    per_line: float
    times_noise: float
    detour: float


def _whitening(z: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """Return a matrix L with L L^T = the covariance of the codes."""
    values, vectors = torch.linalg.eigh(z.mT.cov(correction=0).reshape(z.shape[1], z.shape[1]))
    return vectors * values.clamp_min(0).sqrt()


@torch.no_grad()
def reconstruction(flow: LearnedManifold, train: Rows, held_out: Rows, pieces: FlatPieces) -> Reconstruction:
    """Compare the residuals of training and of held-out rows with the noise floor.

    Args:
        flow: any injection.
        train: standardised rows that it was trained on.
        held_out: other rows.
        pieces: what flat pieces leave of the same held-out rows.

    Returns:
        The record `Reconstruction`.

    Example:
        >>> from isthmus.diagnostics import flat_pieces
        >>> from isthmus.flows import FreeFormFlow
        >>> line = FreeFormFlow(torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(1, 2, bias=False), 2, 1)
        >>> line.encoder.weight.data, line.decoder.weight.data = torch.eye(2)[:1], torch.eye(2)[:, :1]
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.1])
        >>> result = reconstruction(line, Rows(x[:200]), Rows(x[200:]), flat_pieces(x[:200], x[200:], 1))
        >>> round(result.excess, 1)
        1.0
    """
    off = flow.codimension
    squares = ((rows.x - flow.reconstruct(rows.x, rows.c)).square().sum(1) for rows in (train, held_out))
    inside, outside = (values.to(torch.float64) for values in squares)
    total = float(held_out.x.var(0, correction=0).sum())
    left = pieces.squares[:, min(flow.latent_dim, pieces.squares.shape[1] - 1)]
    floor = max(pieces.variance(flow.latent_dim), _RESOLUTION * total / off, 1e-300)
    excess = float(outside.mean()) / off / floor
    error = float((outside - excess * left).std(correction=0)) / len(outside) ** 0.5 / off / floor
    unexplained = float(outside.mean()) / max(total, 1e-300)
    return Reconstruction(float(inside.mean()) / off, float(outside.mean()) / off, floor, excess, error, unexplained)


@torch.no_grad()
def pseudo_inverse(flow: Injection, x: Float[Tensor, "n D"], c: Context = None) -> PseudoInverse:
    """Measure how far `f'(x)` is from the pseudo-inverse of `g'(z)`, by whole Jacobians.

    Args:
        flow: any injection.
        x: standardised data, (n, D); at most 256 evenly spaced rows are used.
        c: context, (n, C), or None.

    Returns:
        The record `PseudoInverse`.

    Example:
        >>> from isthmus.flows import RectangularFlow
        >>> flow = RectangularFlow(3, 2).double()
        >>> round(pseudo_inverse(flow, flow.sample(9)).trace, 6)  # on the manifold f' is a left inverse of g'
        1.0
    """
    d = flow.latent_dim
    rows = Rows(x, c).thinned(flow.affordable(_ROWS, times=4))
    x, c = rows.x, rows.c
    encode, decode = flow.maps(c)
    z, F = jacobian(encode, x)
    _, J = jacobian(decode, z)
    inverse = torch.linalg.pinv(J)
    product = F @ J
    gap = (F - inverse).norm(dim=(1, 2)) / inverse.norm(dim=(1, 2)).clamp_min(1e-300)
    defect = (product - torch.eye(d).to(product)).norm(dim=(1, 2)) / d**0.5
    trace = product.diagonal(dim1=1, dim2=2).sum(1) / d
    return PseudoInverse(float(gap.median()), float(defect.median()), float(trace.mean()))


@torch.no_grad()
def spectrum(flow: Injection, x: Float[Tensor, "n D"], c: Context = None, *, sigma: float) -> Spectrum:
    """Compute the singular values of `g'(z) L` at z = f(x), with L L^T the covariance of the codes.

    Args:
        flow: any injection.
        x: standardised data, (n, D); Jacobians are taken at no more than 256 evenly spaced rows.
        c: context, (n, C), or None.
        sigma: standard deviation of the noise per direction, in units of x.

    Returns:
        The record `Spectrum`.

    Example:
        >>> from isthmus.flows import RectangularFlow
        >>> len(spectrum(RectangularFlow(3, 2).double(), torch.randn(9, 3).double(), sigma=0.1).mean)
        2
    """
    L = _whitening(flow.encode(x, c))
    rows = Rows(x, c).thinned(flow.affordable(_ROWS, times=4))
    x, c = rows.x, rows.c
    encode, decode = flow.maps(c)
    s = torch.linalg.svdvals(jacobian(decode, encode(x))[1] @ L)
    squares = s.square().mean(0)
    return Spectrum(
        tuple(s.mean(0).tolist()),
        tuple(s.std(0, correction=0).tolist()),
        float(squares.sum().square() / squares.square().sum().clamp_min(1e-300)),
        float((s > sigma).sum(1).double().mean()),
    )


@torch.no_grad()
def curvature(flow: Injection, x: Float[Tensor, "n D"], c: Context = None, *, sigma: float) -> Curvature:
    """Measure how much the decoder's tangent space turns along straight lines between pairs of codes.

    A line is cut into 32 steps; each step's angle is the largest principal angle between the tangent spaces at its
    ends. With a context each line keeps the context of its first row.

    Args:
        flow: any injection.
        x: standardised data, (n, D), n >= 2; at most 32 pairs of evenly spaced rows are used.
        c: context, (n, C), or None.
        sigma: standard deviation of the noise per direction, in units of x.

    Returns:
        The record `Curvature`.

    Example:
        >>> from isthmus.flows import RectangularFlow
        >>> curvature(RectangularFlow(3, 2).double(), torch.randn(9, 3).double(), sigma=0.1).detour >= 1
        True
    """
    rows = Rows(x, c).thinned(flow.affordable(2 * _PATHS))
    x, c = rows.x, rows.c
    z = flow.encode(x, c)
    half = z.shape[0] // 2
    start, end = z[:half], z[half : 2 * half]
    previous: tuple[Tensor, Tensor] | None = None
    angle, length = torch.zeros_like(start[:, 0]), torch.zeros_like(start[:, 0])
    decode = flow.maps(None if c is None else c[:half])[1]
    for step in range(_STEPS + 1):
        points, J = jacobian(decode, start + step / _STEPS * (end - start))
        Q = torch.linalg.qr(J).Q
        if previous is None:
            first = points
        else:
            angle += largest_angle(previous[1], Q)
            length += (points - previous[0]).norm(dim=1)
        previous = points, Q
    per_length = float(angle.sum() / length.sum().clamp_min(1e-300))
    chord = (points - first).norm(dim=1).sum().clamp_min(1e-300)
    return Curvature(per_length, float(angle.mean()), per_length * sigma, float(length.sum() / chord))


def largest_angle(P: Float[Tensor, "n D d"], Q: Float[Tensor, "n D d"]) -> Float[Tensor, " n"]:
    """Return the largest principal angle, in radians, between the spans of orthonormal columns.

    Args:
        P: orthonormal columns, (n, D, d).
        Q: likewise.

    Returns:
        (n,), in [0, pi/2].

    Example:
        >>> largest_angle(torch.eye(2)[:, :1].unsqueeze(0), torch.eye(2)[:, 1:].unsqueeze(0))
        tensor([1.5708])
    """
    sine = torch.linalg.matrix_norm(Q - P @ (P.mT @ Q), 2)
    return sine.clamp_max(1).asin()
