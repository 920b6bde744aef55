"""The posterior of mixture weights: which share each of some known components has in the rows."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from isthmus.errors import InputError
from isthmus.flow import Context
from isthmus.inference.law import infer
from isthmus.supports import Simplex

__all__ = ["MixtureWeights"]

_DRAWS = 10_000


class MixtureWeights(BaseEstimator):
    """The weights w of K components whose densities are known, given rows: their posterior on the simplex.

    `p(w | rows) ~ Dirichlet(w; alpha) prod_i sum_k w_k p_k(row i)`.

    Args:
        alpha: concentration of the Dirichlet prior, > 0: one number or one a component; below 1 few are favoured.
        training: options of a recipe's section `training`.
        flow: options of the flow.
        restarts: laws from other starts, which the verdict `coverage` compares with; each takes as long as the first.
        random_state: seed.

    Attributes:
        inference_: the law of the weights, with its verdicts.
        weights_: draws of it with their importance weights.
        mean_: posterior means, (K,).
        deviation_: posterior standard deviations, (K,).
        log_evidence_: log of the marginal likelihood, in nats.
        n_features_in_, feature_names_in_: as in scikit-learn.

    References:
        Negri, Arend Torres, Roth (2025), Injective flows for star-like manifolds, arXiv 2406.09116.

    Example:
        >>> log_likelihoods = np.log(np.random.default_rng(0).dirichlet(np.ones(3), 50))
        >>> weights = MixtureWeights(training={"max_steps": 20}, random_state=0).fit(log_likelihoods)
        >>> bool(abs(weights.mean_.sum() - 1) < 1e-9), weights.sample(5).shape
        (True, (5, 3))
    """

    def __init__(
        self,
        alpha: float | Sequence[float] = 1.0,
        *,
        training: dict[str, Any] | None = None,
        flow: dict[str, Any] | None = None,
        restarts: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.alpha, self.training, self.flow = alpha, training, flow
        self.restarts, self.random_state = restarts, random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn the posterior of the weights.

        Args:
            X: log density of each row under each component, (n_samples, K), K >= 2; minus infinity where it has none.
            y: ignored.

        Raises:
            InputError: alpha is not positive or has another length; a log density is NaN or infinite, or a row has a
                density under no component.
        """
        sizes: dict[str, Any] = {"ensure_min_features": 2, "ensure_all_finite": False}
        rows: NDArray[np.float64] = validate_data(self, X, dtype=np.float64, **sizes)
        _check_log_densities(rows)
        K = rows.shape[1]
        alpha = np.asarray(self.alpha, dtype=np.float64)
        if alpha.shape not in ((), (K,)) or not (alpha > 0).all():
            raise InputError(f"expected alpha > 0, one number or {K}; got {self.alpha}; 1 favours no weights")
        alpha = np.broadcast_to(alpha, (K,))
        target = _Mixture(rows, alpha)
        seed = int(check_random_state(self.random_state).randint(2**31))
        how: dict[str, Any] = {"flow": self.flow, "training": self.training, "restarts": self.restarts}
        self.inference_ = infer(target, Simplex(K), seed=seed, **how)
        self.weights_ = self.inference_.judge(n=_DRAWS, seed=seed)
        self.mean_, self.deviation_, *_ = self.weights_.summarise(self.weights_.x)
        self.log_evidence_ = self.weights_.log_evidence
        return self

    def sample(self, n_samples: int = 1) -> NDArray[np.float64]:
        """Draw weights from the law that was learnt, (n_samples, K)."""
        check_is_fitted(self)
        seed = int(check_random_state(self.random_state).randint(2**31))
        return self.inference_.sample(n_samples, seed=seed).numpy()

    def intervals(self, mass: float = 0.9) -> NDArray[np.float64]:
        """Return credible intervals of the weights, (K, 2).

        Args:
            mass: of each interval, in (0, 1).
        """
        check_is_fitted(self)
        _, _, low, high = self.weights_.summarise(self.weights_.x, mass)
        return np.stack([low, high], 1)


def _check_log_densities(rows: NDArray[np.float64]) -> None:
    """Refuse NaN, plus infinity, and rows without a finite number."""
    bad = np.isnan(rows) | (rows == np.inf)
    if bad.any():
        i, k = np.argwhere(bad)[0].tolist()
        got = "NaN" if np.isnan(rows[i, k]) else "inf"
        raise InputError(
            f"expected log densities, finite or minus infinity; got {got} in row {i} (counted from 0), component {k}; "
            "correct it"
        )
    if (nowhere := np.isneginf(rows).all(1)).any():
        i = int(nowhere.argmax())
        raise InputError(f"expected rows with a density under a component; got row {i} with none; leave it out")


class _Mixture:
    """The log posterior of weights, with respect to the area of the simplex, which is sqrt(K) times that of K - 1."""

    def __init__(self, X: NDArray[np.float64], alpha: NDArray[np.float64]) -> None:
        most, self.alpha = X.max(1, keepdims=True), torch.tensor(alpha)
        self.relative = torch.tensor(np.exp(X - most))
        normaliser = self.alpha.sum().lgamma() - self.alpha.lgamma().sum()
        self.constant = float(normaliser) - 0.5 * math.log(len(alpha)) + float(most.sum())

    def __call__(self, w: Tensor, c: Context) -> Tensor:
        """Return the log posterior, up to the evidence."""
        likelihood = (w @ self.relative.T).log().sum(1)
        return likelihood + ((self.alpha - 1) * w.log()).sum(1) + self.constant
