"""scikit-learn estimators: `InjectiveFlow` for density, codes and samples, `InjectiveFlowDetector` for outliers."""

from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OutlierMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from isthmus.errors import InputError
from isthmus.fitting import fit
from isthmus.flow import Injection
from isthmus.matrices import check_kind, matrix, row_weights
from isthmus.objective import Beta
from isthmus.recipe import Recipe
from isthmus.store import Fitted

__all__ = ["InjectiveFlow", "InjectiveFlowDetector"]


class _Base(BaseEstimator):
    """Fitting and scoring, common to both estimators."""

    fitted_: Fitted

    def __init__(
        self,
        n_components: int | Literal["auto"] = "auto",
        *,
        beta: Beta = "auto",
        max_steps: int | Literal["auto"] = "auto",
        max_time: float | None = None,
        density: str | None = None,
        recipe: Recipe | Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        run_dir: str | Path | None = None,
    ) -> None:
        self.n_components = n_components
        self.beta = beta
        self.max_steps = max_steps
        self.max_time = max_time
        self.density = density
        self.recipe = recipe
        self.random_state = random_state
        self.verbose = verbose
        self.run_dir = run_dir

    def fit(
        self,
        X: ArrayLike,
        y: object = None,
        context: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn manifold and density.

        Args:
            X: data, (n_samples, n_features), finite numbers in any units.
            y: ignored.
            context: what to condition on, (n_samples, n_context), or None.
            sample_weight: one weight >= 0 a row; a weight of 2 is the same as the row twice.

        Returns:
            self.
        """
        check_kind(X, "X")
        data: NDArray[Any] = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        d, most = self.n_components, data.shape[1]
        if d != "auto" and not (isinstance(d, Integral) and 1 <= d <= most):
            raise InputError(f"expected 1 <= n_components <= n_features={most}; got n_components={d!r}; choose another")
        self.fitted_ = fit(
            data,
            context,
            recipe=self._recipe(),
            sample_weight=sample_weight,
            progress=bool(self.verbose),
            run_dir=self.run_dir,
        )
        flow = self.fitted_.model.flow
        self.n_components_ = flow.latent_dim if isinstance(flow, Injection) else 0
        return self

    def score_samples(self, X: ArrayLike, context: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return the log density of each row in nats, in the units of X, under `density`; deterministic.

        Args:
            X: data, (n_samples, n_features).
            context: (n_samples, n_context), required where the fit had one.

        Returns:
            (n_samples,) in nats; minus infinity where a row is so far away that arithmetic overflows.
        """
        x, c = self._tensors(X, context)
        return self.fitted_.model.log_prob(x, c, density=self.density).numpy()

    def score(
        self,
        X: ArrayLike,
        y: object = None,
        context: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Return the mean log density of the rows, in nats; higher is better, so that grid searches maximise it.

        Args:
            X: data, (n_samples, n_features).
            y: ignored.
            context: (n_samples, n_context), required where the fit had one.
            sample_weight: one weight >= 0 a row, of the mean; equal ones by default.

        Returns:
            Mean nats per row.
        """
        scores = self.score_samples(X, context)
        weights = row_weights(sample_weight, len(scores))
        if weights is not None:  # a row of minus infinity and without weight does not count
            scores, weights = scores[weights > 0], weights[weights > 0]
        return float(np.average(scores, weights=weights))

    def reconstruct(self, X: ArrayLike, context: ArrayLike | None = None) -> NDArray[Any]:
        """Return the points of the manifold that rows are mapped to, in the units of X.

        Args:
            X: data, (n_samples, n_features).
            context: (n_samples, n_context), required where the fit had one.

        Returns:
            (n_samples, n_features).
        """
        x, c = self._tensors(X, context)
        return self.fitted_.model.reconstruct(x, c).numpy().astype(_dtype(X), copy=False)

    def sample(
        self, n_samples: int = 1, context: ArrayLike | None = None, *, noise: bool = True
    ) -> NDArray[np.float64]:
        """Draw rows from the density; the same ones at each call if `random_state` is an integer.

        Args:
            n_samples: number of rows, >= 1.
            context: one context row for all or one for each; required where the fit had one.
            noise: whether to add the noise off the manifold.

        Returns:
            (n_samples, n_features), integer columns rounded.
        """
        check_is_fitted(self)
        model = self.fitted_.model
        c = None if context is None else matrix(np.atleast_2d(np.asarray(context)), "context")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(check_random_state(self.random_state).randint(2**31))
            return model.columns.round_integers(model.sample(n_samples, c, noise=noise)).numpy()

    def _recipe(self) -> Recipe:
        record = self.recipe.model_dump(mode="json") if isinstance(self.recipe, Recipe) else dict(self.recipe or {})
        named: dict[str, dict[str, Any]] = {"flow": {"latent_dim": self.n_components}, "objective": {"beta": self.beta}}
        named["training"] = {"max_steps": self.max_steps, "max_time": self.max_time}
        for section, values in named.items():
            asked = {key: value for key, value in values.items() if value not in ("auto", None)}
            record[section] = {**record.get(section, {}), **asked}
        if self.random_state is not None:
            record["seed"] = int(check_random_state(self.random_state).randint(2**31))
        return Recipe.validated(record)

    def _tensors(self, X: ArrayLike, context: ArrayLike | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        check_is_fitted(self)
        check_kind(X, "X")
        data: NDArray[Any] = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return matrix(data, "X"), None if context is None else matrix(context, "context")


class InjectiveFlow(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Base):
    """A manifold of `n_components` dimensions and the probability density on and around it.

    A free-form injective flow: an encoder and a decoder trained by maximum likelihood and reconstruction. `transform`
    gives codes, `inverse_transform` points of the manifold, `score_samples` log densities in the units of the data,
    `sample` new rows.

    Args:
        n_components: dimension of the manifold, 1..n_features, or `auto`, estimated from neighbour distances.
        beta: weight of the squared reconstruction error on standardised columns, > 0, or `auto`, from the noise floor.
        max_steps: optimiser steps, or `auto`, from the number of rows.
        max_time: seconds that the whole fit may take, > 0; see `isthmus.deadline`.
        density: what `score_samples` returns, in nats: `linearised` (the default around a learned manifold) or
            `ambient` (importance-sampled), both of x in the space of the data, or `manifold`, of the reconstruction on
            the manifold (not comparable across dimensions); of a flow whose law is one of rows only `own`.
        recipe: everything else, as a `Recipe` or as nested dicts; the arguments above go before it.
        random_state: seed of the fit and of `sample`.
        verbose: whether to show a progress bar.
        run_dir: folder for checkpoints and logs; the same fit, interrupted there, goes on where `random_state` is an
            integer. One folder for one fit at a time: none in a parallel search.

    Attributes:
        n_components_: the dimension used.
        fitted_: the model with its recipe, figures and history.
        n_features_in_, feature_names_in_: as in scikit-learn.

    References:
        Sorrenson et al. (2024), Lifting Architectural Constraints of Injective Flows, arXiv 2306.01843.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> flow = InjectiveFlow(2, max_steps=20, random_state=0).fit(load_iris().data)
        >>> flow.transform(load_iris().data).shape, flow.sample(3).shape
        ((150, 2), (3, 4))
        >>> flow.get_feature_names_out().tolist()
        ['injectiveflow0', 'injectiveflow1']
    """

    def fit_transform(
        self,
        X: ArrayLike,
        y: object = None,
        context: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> NDArray[Any]:
        """Return the codes of the rows fitted to; the context goes to both, see `fit` and `transform`."""
        return self.fit(X, y, context, sample_weight).transform(X, context)

    def transform(self, X: ArrayLike, context: ArrayLike | None = None) -> NDArray[Any]:
        """Return the codes of rows.

        Args:
            X: data, (n_samples, n_features).
            context: (n_samples, n_context), required where the fit had one.

        Returns:
            (n_samples, n_components_), in the dtype of X.
        """
        x, c = self._tensors(X, context)
        return self.fitted_.model.encode(x, c).numpy().astype(_dtype(X), copy=False)

    def inverse_transform(self, Z: ArrayLike, context: ArrayLike | None = None) -> NDArray[Any]:
        """Return the points of the manifold at codes, in the units of the data.

        Args:
            Z: codes, (n_samples, n_components_).
            context: (n_samples, n_context), required where the fit had one.

        Returns:
            (n_samples, n_features).

        Raises:
            InputError: the codes have another number of columns.
        """
        check_is_fitted(self)
        codes, c = matrix(Z, "codes"), None if context is None else matrix(context, "context")
        if codes.shape[1] != self.n_components_:
            got = tuple(codes.shape)
            raise InputError(f"expected codes of {self.n_components_} columns; got shape {got}; use transform")
        return self.fitted_.model.decode(codes, c).numpy().astype(_dtype(Z), copy=False)

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        if tags.transformer_tags is not None:
            tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class InjectiveFlowDetector(OutlierMixin, _Base):
    """Outliers by the ambient density: rows far from the manifold or in thin regions of it.

    The density in the space of the data joins both: distance off the manifold, in units of the noise there, and density
    along it.

    Args:
        n_components: dimension of the manifold, 1..n_features, or `auto`.
        contamination: share of the training rows called outliers, in (0, 0.5].
        beta: as in `InjectiveFlow`.
        max_steps: as in `InjectiveFlow`.
        max_time: as in `InjectiveFlow`.
        density: as in `InjectiveFlow`.
        recipe: as in `InjectiveFlow`.
        random_state: seed of the fit.
        verbose: whether to show a progress bar.
        run_dir: as in `InjectiveFlow`.

    Attributes:
        offset_: the log density in nats below which a row is an outlier.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X = load_iris().data
        >>> detector = InjectiveFlowDetector(2, max_steps=20, random_state=0).fit(X)
        >>> int((detector.predict(X) == -1).sum())
        15
    """

    def __init__(
        self,
        n_components: int | Literal["auto"] = "auto",
        *,
        contamination: float = 0.1,
        beta: Beta = "auto",
        max_steps: int | Literal["auto"] = "auto",
        max_time: float | None = None,
        density: str | None = None,
        recipe: Recipe | Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        run_dir: str | Path | None = None,
    ) -> None:
        super().__init__(
            n_components,
            beta=beta,
            max_steps=max_steps,
            max_time=max_time,
            density=density,
            recipe=recipe,
            random_state=random_state,
            verbose=verbose,
            run_dir=run_dir,
        )
        self.contamination = contamination

    def fit(
        self,
        X: ArrayLike,
        y: object = None,
        context: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn the density and the cut below which rows are outliers; see `InjectiveFlow.fit`."""
        if not 0 < self.contamination <= 0.5:
            raise InputError(f"expected contamination in (0, 0.5]; got {self.contamination}; 0.1 is a usual choice")
        super().fit(X, y, context, sample_weight)
        self.offset_ = _cut(self.score_samples(X, context), self.contamination, sample_weight)
        return self

    def decision_function(self, X: ArrayLike, context: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return the log density minus the cut, in nats: negative for outliers.

        Args:
            X: data, (n_samples, n_features).
            context: (n_samples, n_context), required where the fit had one.

        Returns:
            (n_samples,) in nats; minus infinity where a row is so far away that arithmetic overflows.
        """
        scores = self.score_samples(X, context)
        return np.subtract(scores, self.offset_, out=scores.copy(), where=~np.isneginf(scores))

    def predict(self, X: ArrayLike, context: ArrayLike | None = None) -> NDArray[np.int64]:
        """Return -1 for outliers, 1 for the others.

        Args:
            X: data, (n_samples, n_features).
            context: (n_samples, n_context), required where the fit had one.

        Returns:
            (n_samples,) of -1 and 1.
        """
        return np.where(self.decision_function(X, context) < 0, -1, 1)


def _cut(scores: NDArray[np.float64], share: float, sample_weight: ArrayLike | None) -> float:
    """Return a cut between the scores of the given share of the weighted rows and the others.

    Halfway, since the last bit of a score depends on how many rows are scored at once: a row must not change sides.
    """
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    quantile = np.quantile(scores, share, weights=weights, method="inverted_cdf")
    return float(quantile + scores[scores > quantile].min(initial=scores.max())) / 2


def _dtype(X: ArrayLike) -> Any:
    """Return float32 for float32 input, else float64."""
    dtype = getattr(X, "dtype", None)
    return np.float32 if dtype == np.float32 else np.float64
