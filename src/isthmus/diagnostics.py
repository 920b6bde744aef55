"""Is this fit healthy, and how many dimensions has the data?"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.errors import InputError

__all__ = ["intrinsic_dimension"]

_ROWS = 4_000
_COINCIDE = 1e-6  # rows nearer than this share of a standard deviation count as one


def intrinsic_dimension(x: Float[Tensor, "n D"], *, neighbours: int = 20) -> float:
    """Maximum-likelihood estimate of the number of dimensions, from distances to near neighbours.

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
