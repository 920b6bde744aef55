"""Gaussian mixtures by expectation maximisation: the one way in which they are fitted here, by scikit-learn."""

import math
import warnings
from typing import TYPE_CHECKING, Literal

from jaxtyping import Float
from torch import Tensor

from isthmus.errors import InputError

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

__all__ = ["gaussian_mixture"]

_LAST_ITERATIONS = 3


def gaussian_mixture(
    rows: Float[Tensor, "n D"],
    components: int,
    *,
    ridge: float,
    covariance: Literal["full", "diag"] = "full",
    iterations: int = 100,
    tolerance: float = 1e-3,
    begin_with: int | None = None,
    seed: int = 0,
) -> "GaussianMixture":
    """Fit a Gaussian mixture by expectation maximisation, from the clusters of k-means.

    One that has not converged is returned like any other: held-out rows judge it.

    Args:
        rows: (n, D), n >= components.
        components: number of Gaussians, >= 1.
        ridge: added to each variance, >= 0, in squared units of the rows.
        covariance: `full`, or `diag` for diagonal ones.
        iterations: at most so many.
        tolerance: gain of the mean log density, in nats, below which no further iteration is made.
        begin_with: number of evenly spaced rows to begin with, where there are more; three iterations then take all.
        seed: of the initialisation.

    Returns:
        The fitted `sklearn.mixture.GaussianMixture`.

    Raises:
        InputError: fewer rows than components.

    References:
        Dempster, Laird, Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.

    Example:
        >>> import torch
        >>> gaussian_mixture(torch.randn(100, 2), 3, ridge=1e-3).means_.shape
        (3, 2)
    """
    if len(rows) < components:
        raise InputError(f"expected at least one row for each of {components} components; got {len(rows)}; use fewer")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    x = rows.detach().cpu().numpy()
    first = x if begin_with is None else x[:: max(1, math.ceil(len(x) / begin_with))]
    mixture = GaussianMixture(
        components,
        covariance_type=covariance,
        reg_covar=ridge,
        max_iter=iterations,
        tol=tolerance,
        random_state=seed,
        warm_start=True,
    )
    # products this small wait longer for a second thread, on a busy machine 10 times, than one thread needs
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(first)
        return mixture if len(first) == len(x) else mixture.set_params(max_iter=_LAST_ITERATIONS).fit(x)
