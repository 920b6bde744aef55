"""What a run of a suite does: `measure(spec, seed)` gives rows, each some labels of its own and named values."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from benchmarks.experiments import EXPERIMENTS
from benchmarks.experiments.setting import Row, Spec, Value
from benchmarks.fits import cost, dataset, fitted, refitted, thinned
from benchmarks.images import measure_anomaly, measure_images
from isthmus.data import Dataset
from isthmus.density import Ambient
from isthmus.metrics import c2st_auc, energy_distance, fid_like, reconstruction_mse
from isthmus.model import Model
from isthmus.store import Fitted

__all__ = ["MEASURES", "Measure", "Row", "dataset", "fitted"]

Measure = Callable[[Spec, int], Iterable[Row]]

_SAMPLES = 250_000  # or as many as test rows; with fewer the error of moments outweighs what is measured
_SCORED_ROWS = 2_000
_SAMPLED_ROWS = 500  # scored by importance sampling
_CLASSIFIED_ROWS = 2_000


def measure_fit(spec: Spec, seed: int) -> Iterator[Row]:
    """Fit a recipe, and compare samples and scores with the test rows.

    `spec` holds `data`, `recipe`, and `refits`, name -> a recipe's section `refit`: one row for each, all with the
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
        model, kinds = refitted(found, data.train, None, density, seed)
        values = {**shared, **kinds, **_sample_metrics(model, data.test, seed), **_likelihoods(model, data.test)}
        yield Row({"density": name}, {**values, "refit_seconds": time.perf_counter() - start})


def _shared(data: Dataset, found: Fitted) -> dict[str, Value]:
    """What does not depend on the density: time, size, reconstruction."""
    test, model = data.test.double(), found.model
    reconstructed = model.reconstruct(test)
    codes = model.encode(thinned(test, _SCORED_ROWS))
    return {
        **cost(found),
        "reconstruction": reconstruction_mse(test, reconstructed),
        "z_std": float(codes.std(0).mean()),
        "fid_like_reconstructed": fid_like(reconstructed, test),
        "fid_like_floor": fid_like(thinned(data.train, len(test)), test),
    }


def _sample_metrics(model: Model, test: Tensor, seed: int) -> dict[str, Value]:
    """Samples against test rows, on the manifold and with the noise off it."""
    values: dict[str, Value] = {}
    off = isinstance(model.density, Ambient)
    for suffix, noise in (("", False), ("_noisy", True)):
        if noise and not off:
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
    """Return the mean log density of test rows in nats by every evaluation; of a law of rows it is its own."""
    rows = thinned(test, _SCORED_ROWS).double()
    manifold = "manifold" if "manifold" in model.density.names else None
    sampled = model.estimate(thinned(test, _SAMPLED_ROWS).double())
    values = sampled.value.tolist()
    return {
        "manifold_nll": -float(model.log_prob(rows, density=manifold).mean()),
        "linearised": float(model.log_prob(rows).mean()),
        "ambient_ll": statistics.mean(values),
        "ambient_ll_error": statistics.stdev(values) / len(values) ** 0.5,
    }


MEASURES: dict[str, Measure] = {
    "fit": measure_fit,
    "images": measure_images,
    "anomaly": measure_anomaly,
    **EXPERIMENTS,
}
