"""The posterior of a regression on the level sets of its penalty: the LASSO path with intervals, for all levels.

Instead of a prior `exp(-lambda g(b))`, which depends on how the penalty is written (g, g^2, ...), all coefficients with
the same penalty g(b) = t are taken to be equally likely before the data: the posterior given t is the likelihood on the
level set {g(b) = t}, normalised. Its mode, as t grows, is the path of the penalised regression.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from isthmus.errors import InputError
from isthmus.flow import Context
from isthmus.inference.law import Inference, infer
from isthmus.supports import Gauge, GroupLasso, LevelSet, LpSphere, StarLike

__all__ = ["Path", "PenaltyPath"]

_TRAINED_LEVELS = 512
_DRAWS = 4_000


@dataclass(frozen=True)
class Path:
    """The posterior of the coefficients at m levels of the penalty, in the units of the columns.

    Attributes:
        levels: g(b) of the standardised coefficients, (m,).
        mean: posterior means, (m, d).
        deviation: posterior standard deviations, (m, d).
        low: lower ends of the credible intervals, (m, d).
        high: upper ends, (m, d).
        log_evidence: log marginal likelihood of each level in nats, (m,).
        standard_error: of these, (m,).
        effective: effective sample size at each level, a share in (0, 1], (m,).
    """

    levels: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    log_evidence: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    effective: NDArray[np.float64]


class PenaltyPath(RegressorMixin, BaseEstimator):
    """A linear regression with Gaussian noise, its coefficients given the value of their penalty, for all values.

    Columns and response are standardised; levels are those of the standardised coefficients.

    Args:
        p: exponent of the penalty `(sum |b_k|^p)^(1/p)`, > 0: 1 for the LASSO, 2 for ridge.
        groups: number of the group of each column, for the group LASSO in place of p; None for none.
        share: w in (0, 1), for `w |b|_1 + (1 - w) |b|_2` in place of p; None for none. The elastic net's own penalty,
            with |b|_2 squared, is no multiple of itself at other levels; this one also shrinks, and sets to 0.
        sigma: standard deviation of the noise of the standardised response, > 0, or `auto`, that of the residuals of
            least squares.
        lowest: the lowest level as a share of the highest, the penalty of least squares, in (0, 1).
        measure: what "equally likely" on a level set refers to: `surface`, its area; `cone`, the cone over it;
            `coarea`, what a prior in the whole space leaves on it. The same for p = 1 and p = 2.
        mode: whether the path of the mode is looked for instead of the posterior, by a last temperature of 0.01.
        training: options of a recipe's section `training`.
        flow: options of the flow.
        draws: draws a level, of which means, intervals and evidence are computed.
        restarts: laws from other starts, which the verdict `coverage` compares with; each takes as long as the first.
        random_state: seed.

    Attributes:
        inference_: the law of the standardised coefficients over their level, on the surface of level 1.
        sigma_: the standard deviation of the noise of the standardised response.
        highest_: the highest level.
        level_: the level of the highest evidence of 20.
        coef_, intercept_: posterior mean at this level, in the units of the columns.
        n_features_in_, feature_names_in_: as in scikit-learn.

    References:
        Negri, Arend Torres, Roth (2025), Injective flows for star-like manifolds, arXiv 2406.09116, section on
        penalised likelihoods.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> path = PenaltyPath(p=1, training={"max_steps": 20}, random_state=0).fit(X[:, :3], y)
        >>> path.path([0.1, 0.4]).mean.shape, round(path.highest_, 2)
        ((2, 3), 0.68)
    """

    def __init__(
        self,
        p: float = 1.0,
        *,
        groups: Sequence[int] | None = None,
        share: float | None = None,
        sigma: float | Literal["auto"] = "auto",
        lowest: float = 0.05,
        measure: Literal["surface", "cone", "coarea"] = "surface",
        mode: bool = False,
        training: dict[str, Any] | None = None,
        flow: dict[str, Any] | None = None,
        draws: int = _DRAWS,
        restarts: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.p, self.groups, self.share, self.sigma, self.lowest = p, groups, share, sigma, lowest
        self.measure, self.mode, self.random_state = measure, mode, random_state
        self.training, self.flow, self.draws, self.restarts = training, flow, draws, restarts

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn the posterior of the coefficients at all levels.

        Args:
            X: (n_samples, n_features), at least 2 columns.
            y: response, (n_samples,).

        Raises:
            InputError: an argument is out of its range; sigma is `auto` with no more rows than columns.
        """
        sizes = {"ensure_min_samples": 3, "ensure_min_features": 2}
        rows: NDArray[np.float64]
        rows, response = validate_data(self, X, y, y_numeric=True, dtype=np.float64, **sizes)
        if not 0 < self.lowest < 1:
            raise InputError(f"expected lowest in (0, 1), a share of the highest level; got {self.lowest}; try 0.05")
        self._centre, self._scale = rows.mean(0), np.where(rows.std(0) > 0, rows.std(0), 1.0)
        self._response = float(response.mean()), float(response.std()) or 1.0
        A, b = (rows - self._centre) / self._scale, (response - self._response[0]) / self._response[1]
        least_squares, _, rank, _ = np.linalg.lstsq(A, b, rcond=None)
        self.sigma_ = self._noise(A, b, least_squares, int(rank))
        surface = self._surface(A.shape[1])
        gauge = surface.log_gauge(torch.tensor(least_squares).unsqueeze(0)).exp()
        self.highest_ = float(gauge) / surface.level
        self._problem = _Regression(A, b, self.sigma_, surface, self.measure)
        spaced = [space(self.lowest, 1.0, _TRAINED_LEVELS // 2) for space in (np.linspace, np.geomspace)]
        levels = np.sort(np.concatenate(spaced))[:, None] * self.highest_  # laws of low levels differ the most
        self.inference_: Inference = infer(
            self._problem,
            surface,
            given=levels,
            flow=self.flow,
            training=self.training,
            end=0.01 if self.mode else 1.0,
            restarts=self.restarts,
            seed=int(check_random_state(self.random_state).randint(2**31)),
        )
        found = self.path(np.linspace(self.lowest, 1.0, 20) * self.highest_)
        best = int(found.log_evidence.argmax())
        self.level_, self.coef_ = float(found.levels[best]), found.mean[best]
        self.intercept_ = self._response[0] - float(self._centre @ self.coef_)
        return self

    def path(self, levels: ArrayLike, *, interval: float = 0.9) -> Path:
        """Return the posterior at some levels, by importance sampling from the law that was learnt.

        Args:
            levels: of the penalty, (m,), from the lowest to the highest of the fit.
            interval: mass of the credible intervals, in (0, 1).

        Raises:
            InputError: a level is outside of those that the fit served.
        """
        check_is_fitted(self)
        asked = np.atleast_1d(np.asarray(levels, dtype=np.float64))
        least, most = self.lowest * self.highest_, self.highest_
        if not ((asked >= least * (1 - 1e-9)) & (asked <= most * (1 + 1e-9))).all():
            raise InputError(f"expected levels from {least:.4g} to {most:.4g}, as fitted; got {asked}; choose others")
        rows = []
        for level in asked:
            weights = self.inference_.judge([[level]], n=self.draws)
            coefficients = weights.x * torch.tensor(level * self._response[1] / self._scale)
            summary = weights.summarise(coefficients, interval, equal=self.mode)
            error = math.hypot(weights.standard_error, self._problem.error)
            rows.append((level, *summary, weights.log_evidence + self._problem.constant, error, weights.effective))
        return Path(*(np.array(column) for column in zip(*rows, strict=True)))

    def least_squares(self, levels: ArrayLike) -> NDArray[np.float64] | None:
        """Return the path of penalised least squares at some levels, (m, d), in the units of the columns.

        The LASSO's by least angle regression for p = 1, ridge regression's in closed form for p = 2, NaN at levels
        beyond its end; None for other penalties.

        Args:
            levels: of the penalty, (m,).
        """
        check_is_fitted(self)
        solve = {1.0: _lasso, 2.0: _ridge}.get(float(self.p)) if self.groups is None and self.share is None else None
        if solve is None:
            return None
        gram, moment = self._problem.gram.numpy(), self._problem.moment.numpy()
        asked = np.atleast_1d(np.asarray(levels, dtype=np.float64))
        return solve(gram, moment, asked) * self._response[1] / self._scale

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the posterior mean of the response at the level of the highest evidence, (n_samples,)."""
        check_is_fitted(self)
        data: NDArray[np.float64] = validate_data(self, X, dtype=np.float64, reset=False)
        return data @ self.coef_ + self.intercept_

    def _noise(
        self, A: NDArray[np.float64], b: NDArray[np.float64], least_squares: NDArray[np.float64], rank: int
    ) -> float:
        if self.sigma != "auto":
            if self.sigma <= 0:
                raise InputError(f"expected sigma > 0; got {self.sigma}; 'auto' takes that of least squares")
            return float(self.sigma)
        freedom = len(A) - rank - 1  # levels of a category sum to 1: columns may depend on one another
        if freedom < 1:
            raise InputError(f"expected sigma where {len(A)} rows leave no residual; got 'auto'; give it")
        return max(1e-6, float(np.linalg.norm(b - A @ least_squares)) / math.sqrt(freedom))

    def _surface(self, d: int) -> LevelSet:
        if self.groups is not None and self.share is not None:
            raise InputError("expected groups or a share; got both; leave one out")
        if self.share is not None:
            if not 0 < self.share < 1:
                raise InputError(f"expected a share in (0, 1); got {self.share}; p=1 or p=2 is the penalty at the ends")
            return Gauge(d, _Mixed(self.share))
        return LpSphere(d, float(self.p)) if self.groups is None else GroupLasso(d, tuple(self.groups))


@dataclass(frozen=True)
class _Mixed:
    """The penalty `w |b|_1 + (1 - w) |b|_2`: a norm, so its level sets are multiples of one surface."""

    share: float

    def __call__(self, b: Tensor) -> Tensor:
        """Return the penalty of rows, (n,)."""
        return self.share * b.abs().sum(1) + (1 - self.share) * b.norm(dim=1)


class _Regression:
    """The log likelihood of coefficients `t u` with u on the surface of level 1, times a measure on it."""

    def __init__(
        self, A: NDArray[np.float64], b: NDArray[np.float64], sigma: float, surface: StarLike, measure: str
    ) -> None:
        self.gram, self.moment = torch.tensor(A.T @ A), torch.tensor(A.T @ b)
        self.square, self.sigma, self.surface, self.measure = float(b @ b), sigma, surface, measure
        # the prior is uniform on the surface, and the likelihood that of the standardised response
        area, self.error = surface.log_area()  # an estimate on some surfaces
        self.constant = -area - 0.5 * len(b) * math.log(2 * math.pi * sigma**2)

    def __call__(self, u: Tensor, c: Context) -> Tensor:
        """Return the log density at u with respect to the area of the surface, the level in c."""
        coefficients = u if c is None else u * c[:, :1]
        fitted = ((coefficients @ self.gram) * coefficients).sum(1) - 2 * coefficients @ self.moment
        likelihood = -0.5 * (fitted + self.square) / self.sigma**2
        return likelihood if self.measure == "surface" else likelihood + self.surface.log_measure(u, self.measure)


def _lasso(gram: NDArray[np.float64], moment: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coefficients of the LASSO at levels of their sum of sizes, (m, d); NaN beyond the last corner."""
    from sklearn.linear_model import lars_path_gram

    _, _, corners = lars_path_gram(moment, gram, n_samples=len(moment), method="lasso")
    sizes = np.abs(corners).sum(0)
    reached = np.where(levels <= sizes[-1] * (1 + 1e-6), np.minimum(levels, sizes[-1]), np.nan)
    return np.stack([np.interp(reached, sizes, coefficient) for coefficient in corners], 1)


def _ridge(gram: NDArray[np.float64], moment: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coefficients of ridge regression at levels of their length, (m, d); NaN beyond least squares."""
    from scipy.optimize import brentq

    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-10 * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    along = vectors.T @ moment
    most = np.linalg.norm(along / values)

    def at(level: float) -> NDArray[np.float64]:
        """Return the coefficients of length `level`."""
        if level >= most * (1 - 1e-9):
            return vectors @ (along / values) * (1.0 if level <= most * (1 + 1e-6) else np.nan)
        excess = lambda log: np.linalg.norm(along / (values + np.exp(log))) - level  # noqa: E731
        log_penalty = brentq(excess, np.log(values[0]) - 40, np.log(np.linalg.norm(along) / level) + 1)
        return vectors @ (along / (values + np.exp(log_penalty)))

    return np.stack([at(float(level)) for level in levels])
