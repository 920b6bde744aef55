"""Importance weights of a law against the density that it was trained for: what says whether it is right."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Summary", "Weights", "pareto_k"]

_FEWEST_OF_TAIL = 20


class Summary(NamedTuple):
    """Means, standard deviations, and the ends of credible intervals, each (k,)."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """Log importance weights `log p(x) - log q(x)` of n draws x of q, and what they say of q.

    A high effective sample size says that the weights are alike where q draws, and nothing of places where it never
    does: a law that leaves a fifth of the mass out may have 0.98. What it leaves out shows in `log_evidence` where the
    normaliser of p is known, and in `missing`, beside laws that were trained apart.

    Attributes:
        log_p: unnormalised log density at the draws, (n,).
        log_q: that of the law, (n,).
        x: the draws, (n, columns).

    References:
        Kong (1992) for the effective sample size; Vehtari, Simpson, Gelman, Yao, Gabry (2024), Pareto smoothed
        importance sampling, arXiv 1507.02646, for k; Yao, Vehtari, Simpson, Gelman (2018), Yes, but did it work?,
        arXiv 1802.02538.

    Example:
        >>> import torch
        >>> weights = Weights(torch.full((100,), -1.0), torch.full((100,), -1.5), torch.ones(100, 2))
        >>> weights.elbo, round(weights.log_evidence, 3), weights.standard_error, round(weights.effective, 3)
        (0.5, 0.5, 0.0, 1.0)
    """

    log_p: Float[Tensor, " n"]
    log_q: Float[Tensor, " n"]
    x: Float[Tensor, "n columns"]

    @property
    def log(self) -> Float[Tensor, " n"]:
        """The log weights, in float64."""
        return (self.log_p - self.log_q).double()

    @property
    def elbo(self) -> float:
        """The evidence lower bound, the mean log weight, in nats."""
        return float(self.log.mean())

    @property
    def log_evidence(self) -> float:
        """The log of the mean weight: the log of the integral of p, where q draws everywhere that p is."""
        return float(self.log.logsumexp(0)) - math.log(len(self.log))

    @property
    def standard_error(self) -> float:
        """The standard error of `log_evidence`, by the delta method."""
        weights = (self.log - self.log.max()).exp()
        return float(weights.std(correction=0) / weights.mean()) / math.sqrt(len(weights))

    @property
    def effective(self) -> float:
        """The effective sample size as a share of the draws, in (0, 1]."""
        return float((2 * self.log.logsumexp(0) - (2 * self.log).logsumexp(0)).exp()) / len(self.log)

    def summarise(self, values: Float[Tensor, "n k"], mass: float = 0.9, *, equal: bool = False) -> "Summary":
        """Return means, standard deviations and credible intervals of values under p, by the weights.

        Args:
            values: of the draws, (n, k).
            mass: of the intervals, in (0, 1).
            equal: whether all draws weigh the same, for the law itself instead of p.
        """
        v, n = values.double().numpy(), len(self.log)
        w = np.full(n, 1 / n) if equal else self.log.softmax(0).numpy()
        ends = [(1 - mass) / 2, (1 + mass) / 2]
        mean = w @ v
        low, high = np.quantile(v, ends, axis=0, weights=w, method="inverted_cdf")
        return Summary(mean, np.sqrt(w @ (v - mean) ** 2), low, high)

    @property
    def k(self) -> float:
        """The shape of the generalised Pareto law of the largest weights, see `pareto_k`."""
        return pareto_k(self.log)


def pareto_k(log_weights: Float[Tensor, " n"]) -> float:
    """Return the shape k of the generalised Pareto law of the largest weights, by maximum likelihood.

    Above 0.5 the weights have no variance, above 0.7 estimates by them converge too slowly to be of use.

    Args:
        log_weights: (n,).

    Returns:
        k; minus infinity where the largest weights are all the same, NaN for fewer than 20 of them.

    Example:
        >>> import torch
        >>> u = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> abs(pareto_k(-0.6 * u.log()) - 0.6) < 0.15  # weights u^-0.6
        True
    """
    from scipy.stats import genpareto

    n = len(log_weights)
    size = math.ceil(min(0.2 * n, 3 * math.sqrt(n)))
    if size < _FEWEST_OF_TAIL:
        return math.nan
    largest = (log_weights - log_weights.max()).double().sort().values[-size - 1 :].exp().cpu().numpy()
    excess = largest[1:] - largest[0]
    if excess[-1] <= 1e-12 * largest[-1]:
        return -math.inf
    k, _, _ = genpareto.fit(np.maximum(excess, 1e-300) / excess[-1], floc=0)
    return float(k)
