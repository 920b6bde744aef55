"""The density of a prepared row.

| density | of | evaluations |
|---|---|---|
| `Own` | a flow whose law is one of rows: on R^n, on a known surface, of categories | `own` |
| `Ambient` | a learned manifold with noise off it | `linearised`, `ambient` (importance-sampled), `manifold` |

A new kind of noise is a class in `noise` and a line in `NOISES`.
"""

from isthmus.density.ambient import Ambient, Tangent, gaussian_components, log_normal, tangent
from isthmus.density.contract import Density, Own
from isthmus.density.noise import NOISES, ComponentNoise, IsotropicNoise, LowRankNoise, Noise
from isthmus.flow import Flow, LearnedManifold
from isthmus.rows import Rows

__all__ = [
    "NOISES",
    "Ambient",
    "ComponentNoise",
    "Density",
    "IsotropicNoise",
    "LowRankNoise",
    "Noise",
    "Own",
    "Tangent",
    "as_trained",
    "density_of",
    "gaussian_components",
    "log_normal",
    "tangent",
]


def density_of(flow: Flow, noise: Noise | None) -> Density:
    """Return the density of rows: that around a learned manifold, else the flow's own.

    Args:
        flow: any flow.
        noise: the noise off a learned manifold; None for other flows.

    Example:
        >>> from isthmus.flows import BijectiveFlow
        >>> density_of(BijectiveFlow(2, 2), None).names
        ('own',)
    """
    return Own(flow) if noise is None or not isinstance(flow, LearnedManifold) else Ambient(flow, noise)


def as_trained(flow: Flow, rows: Rows) -> Density:
    """Return the density of a flow in the midst of training: its own, or with noise as large as the residual of rows.

    Args:
        flow: any flow.
        rows: held-out rows.

    Example:
        >>> import torch
        >>> from isthmus.flows import RectangularFlow
        >>> sorted(as_trained(RectangularFlow(3, 1).double(), Rows(torch.randn(9, 3).double())).score(
        ...     Rows(torch.randn(9, 3).double())))
        ['log_density', 'log_density_manifold', 'reconstruction']
    """
    if not isinstance(flow, LearnedManifold):
        return Own(flow)
    residuals = rows.x - rows.map(flow.reconstruct)
    sigma = flow.sigma(float(residuals.square().sum(1).mean().detach()))
    return Ambient(flow, IsotropicNoise(flow.data_dim, sigma).to(rows.x))
