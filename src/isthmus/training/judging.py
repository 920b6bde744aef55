"""What held-out rows say of a flow while it is trained."""

import copy
import math

import torch

from isthmus.ambient import Ambient, IsotropicNoise, tangent
from isthmus.diagnostics.geometry import affordable
from isthmus.flow import Flow, in_double
from isthmus.refit import Rows, by_chunks
from isthmus.volume import log_volume

_CORRECTED_ROWS, _CORRECTION_POINTS = 200, 32  # by which the held-out linearised density is corrected

Row = dict[str, float | int]


@torch.no_grad()
def scores(flow: Flow, held_out: Rows) -> Row:
    """What the held-out rows, in float64, say of a flow: squared error, and both densities in nats a row."""
    flow = in_double(copy.deepcopy(flow)).eval()
    reconstruction = float((held_out.x - by_chunks(flow.reconstruct, held_out)).square().sum(1).mean())
    ambient, manifold = _densities(flow, noise_sigma(flow, reconstruction), held_out)
    return {
        "reconstruction": reconstruction,
        "manifold_log_likelihood": manifold,
        "ambient_log_likelihood": ambient if math.isfinite(ambient) else -math.inf,
    }


def noise_sigma(flow: Flow, reconstruction: float) -> float:
    """Standard deviation of the residuals per direction off the manifold."""
    return max(reconstruction / max(1, flow.data_dim - flow.latent_dim), 1e-12) ** 0.5


def _densities(flow: Flow, sigma: float, held_out: Rows) -> tuple[float, float]:
    """Held-out means: ambient, linearised and corrected by what importance sampling says of some rows; manifold."""
    x, c = held_out.x, held_out.c
    if flow.whole_space:
        value = float(flow.log_prob(x, c).mean())
        return value, value
    ambient, at = Ambient(flow, IsotropicNoise(flow.data_dim, sigma).to(x)), tangent(flow, x, c)
    some = slice(None, None, held_out.spacing(affordable(flow, _CORRECTED_ROWS, times=4, least=50)))
    manifold = flow.base(c).log_prob(at.z) - log_volume(at.J)
    try:
        linearised = ambient.linearised(x, c, at=at)
        given = None if c is None else c[some]
        sampled = ambient.importance_sampled(x[some], given, n_points=_CORRECTION_POINTS, at=at.at(some)).value
    except torch.linalg.LinAlgError:  # a Jacobian with NaN has no Cholesky factor
        return -math.inf, float(manifold.mean())
    return float(linearised.mean() + (sampled - linearised[some]).mean()), float(manifold.mean())
