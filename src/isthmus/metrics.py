"""Distances between generated rows and reference rows: one function a metric, each with its unit and direction.

A metric takes `samples` (n, D) and `reference` (m, D), floating-point tensors on the same device, computes in float64
and returns a Python float. Nothing is standardised silently: where a metric has a unit, it is the unit of the data, so
rescale both tensors alike if the columns differ in unit. Rows are exchangeable; n and m may differ. None of these
numbers sees a density: report them beside likelihood and reconstruction, never instead.

A new metric is a function of this shape and one line in `METRICS`.

Images are judged by their features, of which `benchmarks/features.py` has extractors: `fid_like` of features is the
Frechet distance of the literature. Two functions are of another shape, and not in `METRICS`: `precision_recall` gives
two numbers, and `inception_score` takes probabilities of classes and no reference.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.errors import InputError

__all__ = [
    "METRICS",
    "Metric",
    "PrecisionRecall",
    "c2st_auc",
    "energy_distance",
    "fid_like",
    "inception_score",
    "precision_recall",
    "reconstruction_mse",
    "sliced_wasserstein",
]

_ELEMENTS = 4_000_000  # of the largest float64 matrix in memory at once: 32 MB


def fid_like(samples: Float[Tensor, "n D"], reference: Float[Tensor, "m D"]) -> float:
    """Return the squared 2-Wasserstein distance between Gaussian fits: the FID formula on the raw columns.

    |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2), with covariances C over n (not n - 1). Lower is better, 0 is best;
    unit: squared unit of the data. It sees means and covariances only. Samples of a linear d-dimensional model cannot
    get below the sum of the discarded eigenvalues of the reference covariance.

    With centred rows A, B, scaled so that C1 = A^T A and C2 = B^T B, the last trace is the nuclear norm of A B^T; taken
    from QR factors it needs no matrix square root and stays exact for singular covariances.

    Args:
        samples: Generated rows.
        reference: Rows to compare with (the paper: the test set, as many as the samples).

    Returns:
        The squared distance, >= 0.

    Raises:
        InputError: Fewer than 2 rows, differing columns, NaN or infinity.

    References:
        Heusel et al. 2017, arXiv 1706.08500; Sorrenson et al. 2024, arXiv 2306.01843 (tabular experiments).

    Example:
        >>> x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> round(fid_like(2 * x + 1, x), 6)  # shift (1, 1), standard deviation 2 against 1
        3.0
    """
    samples, reference = _checked_pair(samples, reference)
    shift = samples.mean(0) - reference.mean(0)
    a, b = _scaled_deviations(samples), _scaled_deviations(reference)
    factors = torch.linalg.qr(a, mode="r").R @ torch.linalg.qr(b, mode="r").R.T
    fidelity = torch.linalg.matrix_norm(factors, "nuc")
    return _distance(float(shift.square().sum() + a.square().sum() + b.square().sum() - 2 * fidelity))


def energy_distance(samples: Float[Tensor, "n D"], reference: Float[Tensor, "m D"], *, max_rows: int = 10_000) -> float:
    """Return the energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'|: zero only if both laws are equal.

    This is the squared form (some software reports its square root) as a V-statistic: averages run over all pairs, a
    row with itself included, so the value is never negative and tends to zero from above, like 1/n, for equal laws.
    Lower is better, 0 is best; unit: unit of the data.

    Args:
        samples: Generated rows.
        reference: Rows to compare with.
        max_rows: Either side is thinned to so many rows, always the same ones; time grows with the square, memory not.

    Returns:
        The distance, >= 0.

    Raises:
        InputError: Fewer than 2 rows, differing columns, NaN or infinity.

    References:
        Szekely and Rizzo 2013, Energy statistics, J. Stat. Plan. Inference 143(8).

    Example:
        >>> x = torch.tensor([[0.0], [0.0]])
        >>> energy_distance(x + 3, x)
        6.0
    """
    samples, reference = _checked_pair(samples, reference)
    origin = reference.mean(0)  # distances by matrix products lose digits far from the origin
    x, y = _thinned(samples - origin, max_rows), _thinned(reference - origin, max_rows)
    return _distance(2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y))


def sliced_wasserstein(
    samples: Float[Tensor, "n D"], reference: Float[Tensor, "m D"], *, n_projections: int = 256, seed: int = 0
) -> float:
    """Return the sliced 2-Wasserstein distance: the root mean square, over random directions, of the 1-D distances W2.

    Along a unit direction, W2^2 is the integral over (0, 1) of the squared difference of the two quantile functions,
    which is a finite sum, also for n != m. Lower is better, 0 is best; unit: unit of the data. A shift by a vector s
    costs |s| / sqrt(D) on average.

    Args:
        samples: Generated rows.
        reference: Rows to compare with.
        n_projections: Number of directions; the Monte Carlo error falls like its square root.
        seed: Of the directions; equal seeds use equal directions.

    Returns:
        The distance, >= 0.

    Raises:
        InputError: Fewer than 2 rows, differing columns, NaN or infinity.

    References:
        Bonneel et al. 2015, Sliced and Radon Wasserstein barycenters of measures, J. Math. Imaging Vis. 51.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> sliced_wasserstein(x + 3, x)
        3.0
    """
    samples, reference = _checked_pair(samples, reference)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(n_projections, samples.shape[1], generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=1).to(samples.device)
    left, right, weights = _quantile_coupling(len(samples), len(reference), samples.device)
    total = 0.0
    for block in directions.split(max(1, _ELEMENTS // len(weights))):
        gaps = (samples @ block.T).sort(0).values[left] - (reference @ block.T).sort(0).values[right]
        total += float(weights @ gaps.square().sum(1))
    return (total / n_projections) ** 0.5


def c2st_auc(
    samples: Float[Tensor, "n D"], reference: Float[Tensor, "m D"], *, max_rows: int = 5_000, seed: int = 0
) -> float:
    """Run a classifier two-sample test: how well boosted trees tell samples from reference rows.

    The area under the ROC curve (no unit), averaged over 5-fold cross-validation with equally many rows of either kind.
    0.5 is best: held-out rows cannot be told apart; 1 is worst: every sample is recognised. Well below 0.5 means that
    samples are near-copies of single reference rows (reconstructions, memorised data), which misleads the classifier.

    The trees see each standardised column and each principal coordinate of the pooled rows; they split one feature at a
    time, and would be nearly blind to noise in directions that no column shows without the second set.

    Args:
        samples: Generated rows, at least 10.
        reference: Rows to compare with, at least 10; rows the model was not trained on.
        max_rows: Each side is thinned to so many rows at most.
        seed: Of the folds. One device, one seed, one value.

    Returns:
        The AUC, in [0, 1].

    Raises:
        InputError: Fewer than 10 rows, differing columns, NaN or infinity.

    References:
        Lopez-Paz and Oquab 2017, Revisiting classifier two-sample tests, arXiv 1610.06545 (there: accuracy).

    Example:
        >>> x = torch.arange(40.0)[:, None]
        >>> c2st_auc(x + 100, x)
        1.0
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    samples, reference = _checked_pair(samples, reference, min_rows=10)
    rows = min(len(samples), len(reference), max_rows)
    features = _columns_and_principal_coordinates(torch.cat([_thinned(samples, rows), _thinned(reference, rows)]))
    is_sample = (torch.arange(2 * rows) < rows).numpy()
    classifier = HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return float(cross_val_score(classifier, features.cpu().numpy(), is_sample, cv=folds, scoring="roc_auc").mean())


def reconstruction_mse(x: Float[Tensor, "n D"], x_hat: Float[Tensor, "n D"]) -> float:
    """Return the mean over rows of the squared Euclidean distance |x - x_hat|^2, summed (not averaged) over columns.

    Lower is better, 0 is best; unit: squared unit of the data. Row i of one belongs to row i of the other. A model that
    learned the manifold exactly stays at the noise: (D - d) sigma^2 for isotropic noise.

    Args:
        x: Data.
        x_hat: Its reconstructions, row by row.

    Returns:
        The error, >= 0.

    Raises:
        InputError: Fewer than 2 rows, differing shapes, NaN or infinity.

    References:
        Sorrenson et al. 2024, arXiv 2306.01843: the reconstruction term of the loss.

    Example:
        >>> x = torch.zeros(5, 3)
        >>> reconstruction_mse(x, x + 2)
        12.0
    """
    x, x_hat = _checked_pair(x, x_hat)
    if len(x) != len(x_hat):
        raise InputError(f"expected one reconstruction a row; got {len(x_hat)} for {len(x)}; pass rows in pairs")
    return float((x - x_hat).square().sum(1).mean())


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]: of samples that look like reference rows, and of reference rows that samples look like."""

    precision: float
    recall: float


def precision_recall(
    samples: Float[Tensor, "n D"], reference: Float[Tensor, "m D"], *, k: int = 3, max_rows: int = 10_000
) -> PrecisionRecall:
    """Return improved precision and recall: which share of either set lies within the other.

    A set fills the balls around its rows that reach to the k-th nearest other row of the set. Precision is the share of
    samples inside the balls of the reference rows, quality; recall the share of reference rows inside the balls of the
    samples, variety. Higher is better, 1 is best; no unit. Both grow with k and shrink with the number of rows, so that
    only values for equal numbers of both can be compared.

    Args:
        samples: Generated rows, more than k; of images their features.
        reference: Rows to compare with, more than k.
        k: Which neighbour, >= 1.
        max_rows: Either side is thinned to so many rows, always the same ones; time grows with the square, memory not.

    Returns:
        Precision and recall.

    Raises:
        InputError: Not more than k rows, k < 1, differing columns, NaN or infinity.

    References:
        Kynkaanniemi, Karras, Laine, Lehtinen, Aila 2019, arXiv 1904.06991 (k = 3).

    Example:
        >>> x = torch.arange(10.0)[:, None]
        >>> precision_recall(x[:5], x, k=1)
        PrecisionRecall(precision=1.0, recall=0.6)
    """
    if k < 1:
        raise InputError(f"expected k >= 1, the number of a neighbour; got {k}; 3 is usual")
    samples, reference = _checked_pair(samples, reference, min_rows=k + 1)
    origin = reference.mean(0)  # distances by matrix products lose digits far from the origin
    x, y = _thinned(samples - origin, max_rows), _thinned(reference - origin, max_rows)
    return PrecisionRecall(_share_within(x, y, k), _share_within(y, x, k))


def inception_score(probabilities: Float[Tensor, "n K"], *, splits: int = 10) -> float:
    """Return the inception score: how sure a classifier is of each sample, and how evenly its classes are met.

    exp(mean of KL(p(y | x) || p(y))) with p(y) the mean of p(y | x), averaged over `splits` parts of the rows in their
    order. Higher is better, from 1 (no row differs from another) to the number of classes; no unit. It sees no
    reference, and only what the classifier sees.

    Args:
        probabilities: Of K classes for each sample; rows are >= 0 and sum to 1.
        splits: Number of parts, 1 to n; the publication has 10 of 5,000.

    Returns:
        The score, in [1, K].

    Raises:
        InputError: Rows are no probabilities, or there are fewer rows than parts.

    References:
        Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen 2016, Improved techniques for training GANs,
        arXiv 1606.03498.

    Example:
        >>> round(inception_score(torch.eye(4), splits=1), 6)
        4.0
    """
    p = probabilities.detach().double()
    if p.ndim != 2 or not 1 <= splits <= len(p):
        raise InputError(f"expected at least {splits} rows, for as many parts; got shape {tuple(p.shape)}; give more")
    if not (p.isfinite().all() and (p >= 0).all() and torch.allclose(p.sum(1), p.new_ones(()), atol=1e-3)):
        raise InputError("expected rows of probabilities that sum to 1; got others; apply a softmax")
    scores = [
        (torch.special.xlogy(part, part) - torch.special.xlogy(part, part.mean(0))).sum(1).mean().exp()
        for part in p.tensor_split(splits)
    ]
    return float(torch.stack(scores).mean())


@dataclass(frozen=True)
class Metric:
    """What a report or a benchmark must know of a metric.

    Attributes:
        name: Key in `METRICS`.
        function: Computes it; the arguments are told by `takes`.
        unit: Of the value.
        better: Which way is good.
        takes: "samples": (samples, reference), any rows; "reconstruction": (x, x_hat), row by row.
    """

    name: str
    function: Callable[..., float]
    unit: str
    better: Literal["lower", "higher", "closer to 0.5"]
    takes: Literal["samples", "reconstruction"] = "samples"


METRICS: dict[str, Metric] = {
    "fid_like": Metric("fid_like", fid_like, "squared data units", "lower"),
    "energy_distance": Metric("energy_distance", energy_distance, "data units", "lower"),
    "sliced_wasserstein": Metric("sliced_wasserstein", sliced_wasserstein, "data units", "lower"),
    "c2st_auc": Metric("c2st_auc", c2st_auc, "AUC in [0, 1]", "closer to 0.5"),
    "reconstruction_mse": Metric(
        "reconstruction_mse", reconstruction_mse, "squared data units", "lower", takes="reconstruction"
    ),
}


def _checked_pair(
    samples: Float[Tensor, "n D"], reference: Float[Tensor, "m D"], min_rows: int = 2
) -> tuple[Float[Tensor, "n D"], Float[Tensor, "m D"]]:
    """Return both tensors in float64, detached, after the checks that all metrics share."""
    for rows in (samples, reference):
        if rows.ndim != 2 or len(rows) < min_rows or rows.shape[1] == 0:
            shape = tuple(rows.shape)
            raise InputError(f"expected a table of at least {min_rows} rows; got shape {shape}; give more rows")
        if not rows.isfinite().all():
            raise InputError("expected finite values; got NaN or infinity; drop those rows or mend the model")
    if samples.shape[1] != reference.shape[1]:
        columns = f"{samples.shape[1]} and {reference.shape[1]}"
        raise InputError(f"expected equal numbers of columns; got {columns}; compare rows of the same table")
    return samples.detach().double(), reference.detach().double()


def _distance(value: float) -> float:
    """Keep rounding from making a distance negative, and overflow, infinity minus infinity, from making it NaN."""
    return math.inf if math.isnan(value) else max(0.0, value)


def _thinned(rows: Float[Tensor, "n D"], max_rows: int) -> Float[Tensor, "k D"]:
    """Draw at most `max_rows` of the rows without replacement, always the same ones."""
    if len(rows) <= max_rows:
        return rows
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:max_rows]
    return rows[chosen.to(rows.device)]


def _scaled_deviations(rows: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
    """Return A with A^T A = the covariance over n."""
    return (rows - rows.mean(0)) / len(rows) ** 0.5


def _mean_distance(x: Float[Tensor, "n D"], y: Float[Tensor, "m D"]) -> float:
    """Return E|X - Y| over all pairs."""
    return sum(float(torch.cdist(block, y).sum()) for block in _blocks(x, len(y))) / (len(x) * len(y))


def _share_within(x: Float[Tensor, "n D"], y: Float[Tensor, "m D"], k: int) -> float:
    """Return the share of rows of x in a ball around a row of y, each as wide as its k-th other row of y is far."""
    radii = torch.cat([torch.cdist(block, y).kthvalue(k + 1).values for block in _blocks(y, len(y))])
    inside = [(torch.cdist(block, y) <= radii).any(1) for block in _blocks(x, len(y))]
    return float(torch.cat(inside).double().mean())


def _blocks(rows: Float[Tensor, "n D"], others: int) -> tuple[Float[Tensor, "k D"], ...]:
    """Split the rows into parts, few enough that their distances to so many others fit."""
    return rows.split(max(1, _ELEMENTS // others))


def _quantile_coupling(
    n: int, m: int, device: torch.device
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
    """Return which of n and of m sorted values are the quantiles on each piece of (0, 1), and how long each piece is.

    The pieces end at the multiples of 1/n and of 1/m, counted in whole steps of 1/(n m), hence without rounding.
    """
    steps = torch.arange(1, max(n, m) + 1, device=device)
    ends = torch.cat([steps[:n] * m, steps[:m] * n]).unique()
    lengths = ends.diff(prepend=ends.new_zeros(1))
    return (ends - 1) // m, (ends - 1) // n, lengths.double() / (n * m)


def _columns_and_principal_coordinates(rows: Float[Tensor, "n D"]) -> Float[Tensor, "n 2*D"]:
    """Return standardised columns, then the same rows in the eigenbasis of their correlations."""
    deviations = rows - rows.mean(0)
    scale = deviations.square().mean(0).sqrt()
    columns = deviations / torch.where(scale > 0, scale, 1.0)
    basis = torch.linalg.eigh(columns.T @ columns).eigenvectors
    return torch.cat([columns, columns @ basis], 1)
