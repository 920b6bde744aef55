"""What held-out rows say of a flow while it is trained."""

import copy
import math

import torch

from isthmus.ambient import Ambient, IsotropicNoise, NoNoise
from isthmus.flow import Flow
from isthmus.refit import Rows

_CORRECTED_ROWS, _CORRECTION_POINTS = 200, 32  # by which the held-out linearised density is corrected

Row = dict[str, float | int]


@torch.no_grad()
def scores(flow: Flow, held_out: Rows) -> Row:
    """What the held-out rows, in float64, say of a flow: squared error, and both densities in nats a row."""
    flow = copy.deepcopy(flow).double().eval()
    x, c = held_out.x, held_out.c
    z, x_hat, log_volume = flow.volume(x, c)
    reconstruction = float((x - x_hat).square().sum(1).mean())
    return {
        "reconstruction": reconstruction,
        "manifold_log_likelihood": float((flow.base(c).log_prob(z) - log_volume).mean()),
        "ambient_log_likelihood": _ambient(flow, noise_sigma(flow, reconstruction), held_out),
    }


def noise_sigma(flow: Flow, reconstruction: float) -> float:
    """Standard deviation of the residuals per direction off the manifold."""
    return max(reconstruction / max(1, flow.data_dim - flow.latent_dim), 1e-12) ** 0.5


def _ambient(flow: Flow, sigma: float, held_out: Rows) -> float:
    """Held-out mean log density: linearised, corrected by what importance sampling says of some of the rows."""
    noise = NoNoise(flow.data_dim) if flow.whole_space else IsotropicNoise(flow.data_dim, sigma)
    ambient = Ambient(flow, noise.to(held_out.x))
    some = held_out.thinned(_CORRECTED_ROWS)
    try:
        value = ambient.linearised(held_out.x, held_out.c).mean()
        sampled = ambient.importance_sampled(some.x, some.c, n_points=_CORRECTION_POINTS).value
        value = value + (sampled - ambient.linearised(some.x, some.c)).mean()
    except torch.linalg.LinAlgError:  # a Jacobian with NaN has no Cholesky factor
        return -math.inf
    return float(value) if torch.isfinite(value) else -math.inf
