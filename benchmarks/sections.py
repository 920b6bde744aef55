"""The runs of the benchmark of the defaults: what is fitted, and what is written down about it.

A `Run` has a key (section, set, seed, method), and a function that measures it. Where it needs what another run found,
the number of latent dimensions or the seconds, it names that run's method, and its function is given that record.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import rivals
from benchmarks.sets import SETS, Matrix, Split, digits, split_rows
from isthmus import Model, Recipe, fit
from isthmus.data import DATASETS, Dataset
from isthmus.store import Fitted

__all__ = ["AUTOENCODERS", "METHODS", "SECTIONS", "Key", "Record", "Run"]

Record = dict[str, Any]
Key = tuple[str, str, int, str]

AUTOENCODERS = {"autoencoder_gaussian": "gaussian", "autoencoder_mixture": "mixture"}
METHODS = ("isthmus", "encoder_surrogate", "ppca", "gmm", *AUTOENCODERS, "nsf")
TOYS: dict[str, dict[str, int]] = {
    "sine": {},
    "swiss_roll": {},
    "sphere": {},
    "torus": {},
    "random_manifold": {"latent_dim": 3, "data_dim": 20},
}
NOISE_ROUNDS = ((0.01, 0.1), (0.05, 0.2))  # the first ten runs are each toy at the first two
LARGEST_EXCESS = 0.15  # of the reconstruction error over the noise floor
LARGEST_SECONDS = {"digits_500": 60.0, "random_manifold_100000": 600.0}


@dataclass(frozen=True)
class Run:
    """One measurement: its key, the method whose record of the same set and seed it needs, and what measures it."""

    section: str
    set: str
    seed: int
    method: str
    measure: Callable[[Record], Record]
    needs: str | None = None

    @property
    def key(self) -> Key:
        """What identifies it in the results file, beside the version."""
        return self.section, self.set, self.seed, self.method


# -- isthmus -----------------------------------------------------------------------------------------------------------


def fitted_record(x: Matrix | Tensor, recipe: Recipe) -> tuple[Fitted, Record]:
    """Fit, and what the fit itself says about the model."""
    start = time.perf_counter()
    fitted = fit(x, recipe=recipe)
    seconds = time.perf_counter() - start
    figures, health = fitted.figures, fitted.figures.health
    flagged = {
        status: [verdict.name for verdict in health.verdicts if verdict.status == status] for status in ("fail", "warn")
    }
    return fitted, {
        "seconds": seconds,
        "training_seconds": figures.training_seconds,
        "steps": figures.steps,
        "best_step": figures.best_step,
        "latent_dim": figures.latent_dim,
        "beta": None if figures.beta is None else finite(figures.beta),
        "latent": fitted.latent.model_dump(),
        "noise": None if fitted.noise is None else fitted.noise.model_dump(),
        "status": health.status,
        "failing": flagged["fail"],
        "warning": flagged["warn"],
        "latent_dim_curve": [tried.plain() for tried in figures.latent_dim_curve],
        "parameters": sum(parameter.numel() for parameter in fitted.model.parameters()),
    }


def score(values: Matrix) -> Record:
    """The headline numbers of the rows that all methods are scored on."""
    mean, error = mean_and_error(values)
    return {"log_likelihood": mean, "standard_error": error, "median": float(np.median(values)), "rows": len(values)}


def finite(value: float | None) -> float | None:
    """The number, or None for one that JSON has no word for."""
    return None if value is None or not math.isfinite(value) else float(value)


def mean_and_error(values: Matrix) -> tuple[float, float]:
    """Mean over rows and its standard error.

    Raises:
        ArithmeticError: it is not finite.
    """
    mean, error = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
    if not math.isfinite(mean):
        raise ArithmeticError(f"the mean log-likelihood is {mean}, {(~np.isfinite(values)).sum()} rows not finite")
    return mean, error


# -- tables ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def table(name: str, seed: int) -> Split:
    """The split of a set; the last one is kept, since all methods are run on it in turn."""
    return split_rows(SETS[name](), seed)


def check_columns(model: Model, split: Split) -> None:
    """Refuse a model that sees other columns as varying, or as integers, than its rivals were given."""
    columns = model.columns
    differ = (np.asarray(columns.kept) != split.kept) | (np.asarray(columns.integer) != split.integer)
    if differ.any():
        raise ValueError(f"isthmus and its rivals disagree on the kind of columns {np.flatnonzero(differ).tolist()}")


def scored(fitted: Fitted, split: Split) -> Record:
    """Both log-likelihoods of held-out rows, and the squared reconstruction error a row, in standardised units."""
    model, x = fitted.model, torch.from_numpy(split.held_out)
    check_columns(model, split)
    few = x[torch.from_numpy(split.scored)]
    sampled = np.asarray(model.estimate(few).value) + split.log_scale
    linearised = np.asarray(model.log_prob(x)) + split.log_scale
    residual = split.standardise(split.held_out) - split.standardise(np.asarray(model.reconstruct(x)))
    return score(sampled) | {
        "linearised": mean_and_error(linearised[split.scored])[0],
        "linearised_all": mean_and_error(linearised)[0],
        "reconstruction_mse": float(np.square(residual).sum(1).mean()),
    }


def isthmus_on_table(name: str, seed: int, _: Record) -> Record:
    """The defaults, on the raw training rows."""
    split = table(name, seed)
    fitted, record = fitted_record(split.raw, Recipe().update(seed=seed))
    return record | scored(fitted, split)


def autoencoder_on_table(name: str, seed: int, isthmus: Record, *, latent: str) -> Record:
    """A plain autoencoder of the same networks, dimension and steps, with a density on its codes afterwards."""
    split = table(name, seed)
    recipe = Recipe().update(
        seed=seed,
        flow={"latent_dim": isthmus["latent_dim"]},
        objective={"kind": "reconstruction"},
        training={"max_steps": isthmus["steps"]},
        refit={"latent": latent, "noise": "isotropic"},
    )
    fitted, record = fitted_record(split.raw, recipe)
    return record | scored(fitted, split)


def encoder_on_table(name: str, seed: int, isthmus: Record) -> Record:
    """The defaults but for the publication's surrogate, measured on the encoder alone; the same latent dimension."""
    split = table(name, seed)
    objective = {"kind": "freeform", "surrogate": "encoder"}
    recipe = Recipe().update(seed=seed, flow={"latent_dim": isthmus["latent_dim"]}, objective=objective)
    fitted, record = fitted_record(split.raw, recipe)
    return record | scored(fitted, split)


def rival_on_table(name: str, seed: int, isthmus: Record, *, method: str) -> Record:
    """A rival on standardised rows, scored on the same rows as isthmus and on all."""
    split = table(name, seed)
    start = time.perf_counter()
    if method == "nsf":
        density, record = rivals.nsf(split, seed, isthmus["training_seconds"])
    else:
        density, record = {"ppca": rivals.ppca, "gmm": rivals.gmm}[method](split, seed)
    record["seconds"] = time.perf_counter() - start
    values = density(split.standardise(split.held_out))
    return record | score(values[split.scored]) | {"log_likelihood_all": mean_and_error(values)[0]}


def tables(seeds: Sequence[int] | None) -> Iterator[Run]:
    """Ten real tables, all methods."""
    for seed in (0, 1, 2) if seeds is None else seeds:
        for name in SETS:
            yield Run("tables", name, seed, "isthmus", partial(isthmus_on_table, name, seed))
            for method in METHODS[1:]:
                if method == "encoder_surrogate":
                    measure = partial(encoder_on_table, name, seed)
                elif method in AUTOENCODERS:
                    measure = partial(autoencoder_on_table, name, seed, latent=AUTOENCODERS[method])
                else:
                    measure = partial(rival_on_table, name, seed, method=method)
                needs = None if method in ("ppca", "gmm") else "isthmus"
                yield Run("tables", name, seed, method, measure, needs)


# -- toys, beta, sabotage, timing --------------------------------------------------------------------------------------


def excess(fitted: Fitted, data: Dataset, noise: float, latent_dim: int) -> Record:
    """Held-out squared residual a row, in the user's units, over the noise off a manifold of the true dimension - 1."""
    x = data.test.double()
    error = float((x - fitted.model.reconstruct(x)).square().sum(1).mean())
    floor = noise**2 * (data.data_dim - latent_dim)
    return {"reconstruction_mse": error, "noise_floor": floor, "excess": error / floor - 1}


def toy(name: str, noise: float, seed: int, _: Record) -> Record:
    """Is the latent dimension of a toy found?"""
    own = TOYS[name] | ({"manifold_seed": seed} if name == "random_manifold" else {})
    data = DATASETS[name](noise=noise, seed=seed, **own)
    truth = int(data.latent_dim or 0)
    fitted, record = fitted_record(data.train, Recipe().update(seed=seed))
    record |= {"toy": name, "noise_level": noise, "truth": truth, "passed": record["latent_dim"] == truth}
    return record | excess(fitted, data, noise, truth)


def toys(seeds: Sequence[int] | None) -> Iterator[Run]:
    """The latent dimension of toys, found with the defaults."""
    for seed in (0,) if seeds is None else seeds:
        for levels in NOISE_ROUNDS:
            for name in TOYS:
                for noise in levels:
                    yield Run("toys", f"{name}_{noise}", seed, "isthmus", partial(toy, name, noise, seed))


def sine_floor(noise: float, seed: int, _: Record) -> Record:
    """Does the beta chosen reach the noise floor?"""
    data = DATASETS["sine"](noise=noise, seed=seed)
    fitted, record = fitted_record(data.train, Recipe().update(seed=seed, flow={"latent_dim": 1}))
    record |= {"noise_level": noise, **excess(fitted, data, noise, 1)}
    return record | {"target": LARGEST_EXCESS, "passed": abs(record["excess"]) <= LARGEST_EXCESS}


def beta(seeds: Sequence[int] | None) -> Iterator[Run]:
    """The sine's reconstruction error against its noise."""
    for seed in (0, 1, 2) if seeds is None else seeds:
        for noise in (0.1, 0.2, 0.3):
            yield Run("beta", f"sine_{noise}", seed, "isthmus", partial(sine_floor, noise, seed))


ON_MANIFOLD = {"kind": "freeform", "surrogate": "encoder_on_manifold", "beta": 1.0}
SABOTAGE: dict[str, tuple[Callable[[int], Dataset], Record, str]] = {
    "beta_too_low": (
        lambda seed: DATASETS["sine"](noise=0.1, seed=seed),
        {"flow": {"latent_dim": 1}, "objective": {"kind": "freeform", "beta": 0.01}},
        "beta",
    ),
    "latent_dim_halved": (
        lambda seed: DATASETS["random_manifold"](6, 20, noise=0.05, manifold_seed=seed, seed=seed),
        {"flow": {"latent_dim": 3}},
        "latent_dim",
    ),
    "on_manifold_surrogate": (
        lambda seed: DATASETS["gaussian"]((1.0, 0.09), seed=seed),
        {"flow": {"latent_dim": 1}, "objective": ON_MANIFOLD},
        "curvature",
    ),
}


def sabotaged(name: str, seed: int, _: Record) -> Record:
    """Is the fault that was put in the one that the verdict names?"""
    data, sections, expected = SABOTAGE[name]
    record = fitted_record(data(seed).train, Recipe().update(seed=seed, **sections))[1]
    first = (record["failing"] + record["warning"])[:1]
    return record | {"expected": expected, "passed": expected in record["failing"], "first": first == [expected]}


def sabotage(seeds: Sequence[int] | None) -> Iterator[Run]:
    """Three fits spoilt on purpose."""
    for seed in (0,) if seeds is None else seeds:
        for name in SABOTAGE:
            yield Run("sabotage", name, seed, "isthmus", partial(sabotaged, name, seed))


def timed(name: str, seed: int, _: Record) -> Record:
    """Seconds of one fit with the defaults; run it alone on the machine."""
    if name == "digits_500":
        x = torch.from_numpy(digits()[:500])
    else:
        x = DATASETS["random_manifold"](5, 20, n_train=100_000, noise=0.1, seed=seed).train
    record = fitted_record(x, Recipe().update(seed=seed))[1]
    target = LARGEST_SECONDS[name]
    return record | {"n": len(x), "target": target, "passed": record["seconds"] <= target}


def timing(seeds: Sequence[int] | None) -> Iterator[Run]:
    """Two fits against the clock."""
    for seed in (0,) if seeds is None else seeds:
        for name in LARGEST_SECONDS:
            yield Run("timing", name, seed, "isthmus", partial(timed, name, seed))


SECTIONS: dict[str, Callable[[Sequence[int] | None], Iterator[Run]]] = {
    "tables": tables,
    "toys": toys,
    "beta": beta,
    "sabotage": sabotage,
    "timing": timing,
}
