"""What a run of a suite does: `measure(spec, seed)` gives rows, each some labels of its own and named values."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.experiments import EXPERIMENTS
from benchmarks.experiments.setting import Row, Spec, Value
from isthmus.ambient import Ambient
from isthmus.data import DATASETS, Dataset
from isthmus.fitting import fit, rows_again
from isthmus.metrics import c2st_auc, energy_distance, fid_like, reconstruction_mse
from isthmus.model import Model
from isthmus.recipe import DensityRecipe, Recipe
from isthmus.refit import refit_density
from isthmus.store import Fitted

__all__ = ["MEASURES", "Measure", "Row", "dataset", "fitted"]

Measure = Callable[[Spec, int], Iterable[Row]]

_SAMPLES = 250_000  # or as many as test rows; with fewer the error of moments outweighs what is measured
_SCORED_ROWS = 2_000
_SAMPLED_ROWS = 500  # scored by importance sampling
_CLASSIFIED_ROWS = 2_000


@lru_cache(maxsize=1)
def _dataset(name: str, options: tuple[tuple[str, Any], ...]) -> Dataset:
    return DATASETS[name](**dict(options))


def dataset(spec: Spec) -> Dataset:
    """The data of `{name: ..., **options}`, the last one kept; at most `train_rows` and `test_rows` of their rows."""
    options = dict(spec)
    name, train_rows, test_rows = (options.pop(key, None) for key in ("name", "train_rows", "test_rows"))
    data = _dataset(name, tuple(sorted(options.items())))
    train, test = _thinned(data.train, train_rows or len(data.train)), _thinned(data.test, test_rows or len(data.test))
    return replace(data, train=train, test=test)


def fitted(spec: Spec, seed: int) -> tuple[Dataset, Fitted]:
    """The data of a run, and its recipe fitted to their training rows."""
    data = dataset(spec["data"])
    recipe = Recipe.validated({**spec["recipe"], "seed": seed})
    return data, fit(data.train, recipe=recipe)


def measure_fit(spec: Spec, seed: int) -> Iterator[Row]:
    """Fit a recipe, and compare samples and scores with the test rows.

    `spec` holds `data`, `recipe`, and `refits`, name -> a recipe's section `density`: one row for each, all with the
    same trained networks. An empty section is the fit's own density. Values in units of the data set:

    * `fid_like`, `energy`, `c2st`: samples on the manifold against test rows; the same with `_noisy`: with the noise
      off it; `fid_like_floor`: training rows against test rows; `fid_like_reconstructed`: reconstructed test rows;
    * `reconstruction`: mean squared error of test rows; `z_std`: of their codes;
    * `manifold_nll`: exact, of test rows; `ambient_ll`: importance-sampled, with standard error; `linearised`.
    """
    data, found = fitted(spec, seed)
    shared = _shared(data, found)
    for name, density in spec.get("refits", {"own": {}}).items():
        start = time.perf_counter()
        model, kinds = _refitted(found, data.train, density, seed)
        values = {**shared, **kinds, **_sample_metrics(model, data.test, seed), **_likelihoods(model, data.test)}
        yield Row({"density": name}, {**values, "refit_seconds": time.perf_counter() - start})


def _thinned(rows: Tensor, most: int) -> Tensor:
    return rows[torch.linspace(0, len(rows) - 1, min(most, len(rows))).round().long()]


def _shared(data: Dataset, found: Fitted) -> dict[str, Value]:
    """What does not depend on the density: time, size, reconstruction."""
    figures, test, model = found.metrics, data.test.double(), found.model
    health = figures["health"]
    reconstructed = model.reconstruct(test)
    codes = model.encode(_thinned(test, _SCORED_ROWS))
    steps = max(1, figures["steps"])
    return {
        "seconds": figures["seconds"],
        "steps": figures["steps"],
        "best_step": figures["best_step"],
        "ms_per_step": 1e3 * figures["training_seconds"] / steps,
        "parameters": sum(p.numel() for p in model.flow.parameters()),
        "latent_dim": model.flow.latent_dim,
        "beta": float(figures["beta"]),
        "health": health["status"],
        "failing": ", ".join(v["name"] for v in health["verdicts"] if v["status"] == "fail"),
        "reconstruction": reconstruction_mse(test, reconstructed),
        "z_std": float(codes.std(0).mean()),
        "fid_like_reconstructed": fid_like(reconstructed, test),
        "fid_like_floor": fid_like(_thinned(data.train, len(test)), test),
    }


def _refitted(found: Fitted, X: Tensor, density: Spec, seed: int) -> tuple[Model, dict[str, Value]]:
    """The model with another density on the same networks."""
    if not density:
        return found.model, {"latent": _kind(found.latent), "noise": _kind(found.noise)}
    train, held_out = rows_again(found, X)
    refit = refit_density(found.model.flow, train, held_out, DensityRecipe(**density), seed=seed)
    model = Model(Ambient(refit.ambient.flow, refit.ambient.noise), found.model.columns)
    return model, {"latent": _kind(refit.latent), "noise": _kind(refit.noise)}


def _kind(part: Any) -> str:
    return " ".join(str(value) for value in part.model_dump().values())


def _sample_metrics(model: Model, test: Tensor, seed: int) -> dict[str, Value]:
    """Samples against test rows, on the manifold and with the noise off it."""
    values: dict[str, Value] = {}
    whole_space = model.flow.whole_space
    for suffix, noise in (("", False), ("_noisy", True)):
        if whole_space and noise:
            values |= {f"{name}_noisy": values[name] for name in ("fid_like", "energy", "c2st")}
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1_000 + seed)
            samples = model.sample(min(_SAMPLES, len(test)), noise=noise)
        finite = samples.isfinite().all(1)
        values[f"not_finite{suffix}"] = int((~finite).sum())
        samples = samples[finite]
        values[f"fid_like{suffix}"] = fid_like(samples, test)
        values[f"energy{suffix}"] = energy_distance(samples, test, max_rows=5_000)
        values[f"c2st{suffix}"] = c2st_auc(samples, test, max_rows=_CLASSIFIED_ROWS)
    return values


def _likelihoods(model: Model, test: Tensor) -> dict[str, Value]:
    """Exact manifold density and both evaluations of the ambient one, of test rows, in nats."""
    rows = _thinned(test, _SCORED_ROWS).double()
    sampled = model.importance_sampled(_thinned(test, _SAMPLED_ROWS).double())
    values = sampled.value.tolist()
    return {
        "manifold_nll": -float(model.log_prob(rows, density="manifold").mean()),
        "linearised": float(model.log_prob(rows).mean()),
        "ambient_ll": statistics.mean(values),
        "ambient_ll_error": statistics.stdev(values) / len(values) ** 0.5,
    }


MEASURES: dict[str, Measure] = {"fit": measure_fit, **EXPERIMENTS}
