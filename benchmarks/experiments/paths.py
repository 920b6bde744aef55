"""Penalty paths against the paths that optimisation knows, coverage of their intervals, and long Markov chains.

With standardised columns and response, the coefficients of `PenaltyPath` lie on the level set `g(b) = t`. The mode at t
is the minimum of the squared error there:

* p = 1: a point of the path of the LASSO, which `lars_path` gives corner by corner, and which is linear between them;
* p = 2: `b = (X^T X + lambda I)^-1 X^T y`, with the multiplier lambda >= 0 of length `|b| = t`.

Coverage is counted where it is exact: coefficients are drawn uniformly on the level set and rows given them, so that
intervals of a posterior at the true level hold the true coefficients as often as they say, whatever the rows. Where
least squares are below the true level, rows are drawn again, since a path ends there; as this is decided by the rows
and the level, it changes nothing.
"""

import json
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from sklearn.linear_model import lars_path

from benchmarks import chains
from benchmarks.experiments.setting import Row, Spec
from isthmus.inference import MixtureWeights, PenaltyPath
from isthmus.supports import LpSphere

__all__ = ["agreement", "coverage", "lasso", "penalty_path", "ridge"]

Array = NDArray[np.float64]


def lasso(X: Array, y: Array, level: float) -> Array:
    """Return the coefficients of the LASSO with the sum of sizes given, (d,)."""
    _, _, corners = lars_path(X, y, method="lasso")
    sizes = np.abs(corners).sum(0)
    return np.array([np.interp(level, sizes, coefficient) for coefficient in corners])


def ridge(X: Array, y: Array, level: float) -> Array:
    """Return the coefficients of ridge regression with the length given, at most that of least squares, (d,)."""
    values, vectors = np.linalg.eigh(X.T @ X)
    moment = vectors.T @ (X.T @ y)
    multiplier = brentq(lambda v: np.linalg.norm(moment / (values + v)) - level, 0.0, np.linalg.norm(moment) / level)
    return np.asarray(vectors @ (moment / (values + multiplier)))


_OPTIMUM: dict[float, Callable[[Array, Array, float], Array]] = {1.0: lasso, 2.0: ridge}


def penalty_path(spec: Spec, seed: int) -> Iterable[Row]:
    """Learn the path of the mode for the diabetes data, and compare it with the optimum at some levels.

    Args:
        spec: `p`, 1 or 2; `columns`, how many of the ten, none for all; `shares` of the level of least squares;
            `training` and `flow`, options of `PenaltyPath`.
        seed: of the law.

    Returns:
        A row a share: `level`; `error`, the largest difference of a coefficient from the optimum; `deviation`, the
        largest standard deviation of the law around the mode; `excess`, the mean squared error of the rows by the
        coefficients, less that of the optimum; `seconds` of the whole path.
    """
    X, y, _ = chains.regression()
    X = X[:, : spec.get("columns")]
    begun = time.perf_counter()
    path = PenaltyPath(
        p=spec["p"], sigma=chains.SIGMA, mode=True, training=spec["training"], flow=spec.get("flow"), random_state=seed
    ).fit(X, y)
    seconds = time.perf_counter() - begun
    for share in spec["shares"]:
        level = share * path.highest_
        optimum, learnt = _OPTIMUM[spec["p"]](X, y, level), path.path([level])
        excess = np.square(y - X @ learnt.mean[0]).mean() - np.square(y - X @ optimum).mean()
        error = float(np.abs(learnt.mean[0] - optimum).max())
        values = {"level": level, "error": error, "deviation": float(learnt.deviation.max()), "excess": float(excess)}
        yield Row({"share": share}, {**values, "seconds": seconds})


def _simulated(spec: Spec, generator: np.random.Generator) -> tuple[Array, Array, Array, float, float]:
    """Return standardised rows and response, and their true coefficients, level and noise."""
    n, d, p = spec["rows"], spec["columns"], float(spec["p"])
    while True:
        X = generator.standard_normal((n, d)) @ (np.eye(d) + spec["mixing"] * generator.standard_normal((d, d)))
        X = (X - X.mean(0)) / X.std(0)
        b = LpSphere(d, p).uniform(1)[0].double().numpy()
        y = X @ b + spec["sigma"] * generator.standard_normal(n)
        scale, y = y.std(), (y - y.mean()) / y.std()
        least_squares, *_ = np.linalg.lstsq(X, y, rcond=None)
        if 1 / scale < (np.abs(least_squares) ** p).sum() ** (1 / p):
            return X, y, b / scale, 1 / scale, spec["sigma"] / scale


def coverage(spec: Spec, seed: int) -> Iterable[Row]:
    """Simulate data sets, learn a path of each, and count how often intervals at the true level hold the truth.

    Args:
        spec: `p`; `rows`, `columns`, the `mixing` of columns, `sigma`; `sets`, how many; `interval`, its mass;
            `training` and `flow`, options of `PenaltyPath`.
        seed: of the first data set; the next have the next.

    Returns:
        One row: `covered`, the share of coefficients within their interval; `standard_error`, over data sets;
        `width`, mean of intervals over the level; `effective`, the least effective sample size; `seconds` a data set.
    """
    shares, widths, effective = [], [], []
    begun = time.perf_counter()
    for number in range(spec["sets"]):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1_000 * seed + number)
            X, y, b, level, sigma = _simulated(spec, np.random.default_rng(1_000 * seed + number))
        options = {"training": spec["training"], "flow": spec.get("flow"), "random_state": number}
        fitted = PenaltyPath(p=spec["p"], sigma=sigma, **options).fit(X, y)
        path = fitted.path([level], interval=spec["interval"])
        shares.append(float(((path.low[0] <= b) & (b <= path.high[0])).mean()))
        widths.append(float((path.high[0] - path.low[0]).mean() / level))
        effective.append(float(path.effective[0]))
    error = float(np.std(shares) / len(shares) ** 0.5)
    values = {"covered": float(np.mean(shares)), "standard_error": error, "width": float(np.mean(widths))}
    yield Row({}, {**values, "effective": min(effective), "seconds": (time.perf_counter() - begun) / spec["sets"]})


def _learnt_penalty(spec: Spec, seed: int) -> tuple[Array, Array]:
    """Return means and deviations of the coefficients at the level of the chains."""
    X, y, level = chains.regression()
    options = {"training": spec["training"], "flow": spec.get("flow"), "random_state": seed}
    path = PenaltyPath(p=1, sigma=chains.SIGMA, **options).fit(X, y).path([level], n=spec["draws"])
    return path.mean[0], path.deviation[0]


def _learnt_weights(spec: Spec, seed: int) -> tuple[Array, Array]:
    """Return means and deviations of the weights."""
    options = {"training": spec["training"], "flow": spec.get("flow"), "random_state": seed}
    law = MixtureWeights(chains.ALPHA, **options).fit(chains.mixture()).inference_
    weights = law.judge(n=spec["draws"], seed=seed)
    mean, deviation, *_ = weights.summarise(weights.x)
    return mean, deviation


def agreement(spec: Spec, seed: int) -> Iterable[Row]:
    """Learn a posterior, and compare its means with those of long Markov chains, see `benchmarks.chains`.

    Args:
        spec: `target`, `penalty` or `weights`; `draws` of the means; `training` and `flow`, options of the estimators.
        seed: of the law.

    Returns:
        One row: `error`, the largest difference of a mean in standard deviations of the chains; `noise`, the standard
        error of the chains' own, by their least effective sample size; `spread`, the largest relative difference of a
        standard deviation; `seconds` of one processor, and `chain_seconds`.
    """
    lines = map(json.loads, chains.REFERENCE.read_text().splitlines())
    reference = next(line for line in lines if line["target"] == spec["target"])
    begun = time.process_time()
    mean, deviation = {"penalty": _learnt_penalty, "weights": _learnt_weights}[spec["target"]](spec, seed)
    seconds = time.process_time() - begun
    of_chains = np.array(reference["deviation"])
    values = {
        "error": float(np.abs((mean - reference["mean"]) / of_chains).max()),
        "noise": reference["effective"] ** -0.5,
        "spread": float(np.abs(deviation / of_chains - 1).max()),
        "seconds": seconds,
        "chain_seconds": reference["seconds"],
        "chain_draws": reference["draws"],
        "chain_effective": reference["effective"],
    }
    yield Row({}, values)
