"""Two usual densities on the same rows: is the model better than what needs no training?"""

import math
import time
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.deadline import Deadline
from isthmus.density import Ambient
from isthmus.flow import Injection
from isthmus.mixtures import gaussian_mixture
from isthmus.report.evidence import Evidence
from isthmus.rows import Rows
from isthmus.store import Fitted

__all__ = ["Score", "compare", "learned_from"]

_COMPONENTS = (1, 2, 4, 8, 16, 32, 64)
_RIDGES = (1e-3, 5e-2)  # squared standard deviations added to every direction
_LEARN_ROWS, _LEARN_NUMBERS = 3_000, 100_000  # at least so many rows, and more of narrow tables
_FEWEST_ROWS = 10
_GROWTH = 5  # how many times as long the next number of components and the last fit take, of a limited time
_FULL_COLUMNS = 128  # above, covariances are diagonal


class Score(NamedTuple):
    """One density on the judged rows.

    Attributes:
        name: what it is.
        mean: mean log density in nats a row, user's units.
        error: its standard error.
        ahead: by how much the model's mean is above, in nats a row; None for the model itself.
        ahead_error: standard error of that difference, row by row.
    """

    name: str
    mean: float
    error: float
    ahead: float | None = None
    ahead_error: float | None = None


def learned_from(evidence: Evidence) -> Rows | None:
    """Return the rows that alternatives are fitted to: of `evidence.learn` as many as are affordable, or None.

    Args:
        evidence: what `gather` returned.
    """
    if evidence.learn is None:
        return None
    return evidence.learn.thinned(max(_LEARN_ROWS, _LEARN_NUMBERS // evidence.learn.x.shape[1]))


def compare(fitted: Fitted, evidence: Evidence, *, seed: int = 0, deadline: Deadline | None = None) -> list[Score]:
    """Score the model, probabilistic PCA of the same dimension and a Gaussian mixture on the same rows.

    The two are fitted to `learned_from(evidence)`; the mixture's number of components and its ridge are chosen on a
    quarter of these rows.

    Args:
        fitted: the model and its record.
        evidence: what `gather` returned.
        seed: of the mixture's initialisation.
        deadline: by when to be done; mixtures of more components are not tried if that took longer.

    Returns:
        The model's score first; nothing where there are too few rows, or no time, or its density is not one of volume.

    References:
        Tipping, Bishop (1999), Probabilistic principal component analysis, J. R. Stat. Soc. B 61.

    Example:
        >>> from isthmus import fit, Recipe
        >>> from isthmus.report.evidence import gather
        >>> X = torch.randn(99, 3, generator=torch.Generator().manual_seed(0))
        >>> fitted = fit(X, recipe=Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5}))
        >>> compare(fitted, gather(fitted, None))
        []
    """
    learn, x, limit = learned_from(evidence), evidence.rows.x, deadline or Deadline()
    columns, density = fitted.model.columns, fitted.model.density
    if learn is None or limit.left() <= 0 or density.rows.measure != "volume":
        return []
    d = density.flow.latent_dim if isinstance(density.flow, Injection) else density.flow.data_dim - 1
    if len(learn) < max(_FEWEST_ROWS, d + 2) or len(x) < 2:
        return []
    own, log_det = evidence.log_density, columns.log_det(columns.restore(x))
    scores = [_score(f"this model, {d} latent dimensions" if isinstance(density, Ambient) else "this model", own)]
    name, values = _mixture(learn.x, x, seed, limit)
    alternatives = {f"probabilistic PCA, {d} dimensions": _ppca(learn.x, x, d), name: values}
    return scores + [_score(name, values + log_det, own) for name, values in alternatives.items()]


def _score(name: str, values: Float[Tensor, " n"], model: Float[Tensor, " n"] | None = None) -> Score:
    root = math.sqrt(len(values))
    mean, error = float(values.mean()), float(values.std(correction=0)) / root
    if model is None:
        return Score(name, mean, error)
    difference = model - values
    return Score(name, mean, error, float(difference.mean()), float(difference.std(correction=0)) / root)


def _ppca(rows: Float[Tensor, "n D"], x: Float[Tensor, "m D"], d: int) -> Float[Tensor, " m"]:
    from sklearn.decomposition import PCA

    return torch.as_tensor(PCA(d, svd_solver="full").fit(rows.numpy()).score_samples(x.numpy()))


def _mixture(
    rows: Float[Tensor, "n D"], x: Float[Tensor, "m D"], seed: int, limit: Deadline
) -> tuple[str, Float[Tensor, " m"]]:
    """Fit the best Gaussian mixture by a quarter of the rows, its components raised as long as that gains."""
    quarter = len(rows) // 4
    inner, outer = rows[quarter:], rows[:quarter]
    full = rows.shape[1] <= _FULL_COLUMNS
    options: dict[str, Any] = {"covariance": "full" if full else "diag", "iterations": 50, "seed": seed}
    best: tuple[float, int, float] = (-math.inf, 1, _RIDGES[0])
    for ridge in _RIDGES:
        before = -math.inf
        for components in (k for k in _COMPONENTS if k == 1 or len(inner) >= 8 * k):
            began = time.monotonic()
            value = float(gaussian_mixture(inner, components, ridge=ridge, **options).score(outer.numpy()))
            best = max(best, (value, components, ridge))
            if value < before or limit.left() < _GROWTH * (time.monotonic() - began):
                break
            before = value
    _, components, ridge = best
    plural = "" if components == 1 else "s"
    name = f"Gaussian mixture, {components} {'' if full else 'diagonal '}component{plural}"
    return name, torch.as_tensor(gaussian_mixture(rows, components, ridge=ridge, **options).score_samples(x.numpy()))
