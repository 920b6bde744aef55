"""Laws of places on the Earth: flows on the sphere beside mixtures and kernels of von Mises-Fisher laws.

With `norm(k) = k / (2 pi (1 - exp(-2 k)))` the von Mises-Fisher law around the unit vector m with concentration k has
the density `norm(k) exp(k (m . x - 1))` per unit of area of the unit sphere. A mixture of them is fitted by expectation
and maximisation, its number of components and its largest concentration chosen on validation rows; the kernel density
has one around every training row, its concentration chosen likewise. Flows are fitted by a recipe to the same training
rows and see the validation rows only where they decide when to stop.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.experiments.setting import Row, Spec, Value, finite
from isthmus.data import DATASETS, Dataset
from isthmus.data.tabular import TABLES
from isthmus.density import Own
from isthmus.flows import ManifoldFlow
from isthmus.recipe import Recipe
from isthmus.rows import Rows
from isthmus.supports import Sphere
from isthmus.training import train

__all__ = ["Mixture", "fit_mixture", "places"]

_CHUNK = 2**22  # numbers of a matrix of rows by means


@dataclass(frozen=True)
class Mixture:
    """A mixture of von Mises-Fisher laws: log weights (K,), means (K, 3) and concentrations (K,)."""

    log_weights: Tensor
    means: Tensor
    concentrations: Tensor

    def joint(self, x: Tensor) -> Tensor:
        """Log weight plus log density of each component at each row, (n, K)."""
        k = self.concentrations
        norm = k.log() - math.log(2 * math.pi) - torch.log1p(-(-2 * k).exp())
        return self.log_weights + norm + k * (x @ self.means.mT - 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of rows, (n,), in nats per unit of area."""
        some = max(1, _CHUNK // len(self.means))
        return torch.cat([self.joint(part).logsumexp(1) for part in x.split(some)])


def fit_mixture(x: Tensor, components: int, largest: float, *, iterations: int = 100) -> Mixture:
    """Expectation and maximisation from random rows as means.

    The concentration that maximises the likelihood solves `coth k - 1/k = r`, r the length of the mean row; two Newton
    steps from `r (3 - r^2) / (1 - r^2)` solve it.

    Args:
        x: unit vectors, (n, 3).
        components: number of components.
        largest: no concentration is larger: around rows that occur twice the likelihood has no bound.
        iterations: of the two steps.

    Example:
        >>> x = normalize(torch.randn(500, 3) + torch.tensor([9.0, 0.0, 0.0]), dim=1)
        >>> fit_mixture(x, 1, 1e4).means[0].round().abs().tolist()
        [1.0, 0.0, 0.0]
    """
    means = x[torch.randperm(len(x))[:components]]
    even = torch.full((len(means),), -math.log(len(means)), dtype=x.dtype)
    found = Mixture(even, means, torch.full_like(even, min(largest, 5.0 * len(means))))
    for _ in range(iterations):
        shares = found.joint(x).softmax(1)
        counts = shares.sum(0).clamp_min(1e-9)
        mean = shares.mT @ x / counts.unsqueeze(1)
        r = mean.norm(dim=1).clamp(1e-6, 1 - 1e-9)
        k = (r * (3 - r.square()) / (1 - r.square())).clamp(1e-3, largest)
        for _ in range(2):
            ratio = 1 / k.tanh() - 1 / k
            k = (k - (ratio - r) / (1 - ratio.square() - 2 * ratio / k).clamp_min(1e-12)).clamp(1e-3, largest)
        found = Mixture((counts / counts.sum()).log(), normalize(mean, dim=1), k)
    return found


def _best_mixture(data: Dataset, spec: Spec) -> tuple[Tensor, dict[str, Value]]:
    """Log density of test rows by the mixture that validation rows choose, and what they chose."""
    x, validation, test = (rows.double() for rows in (data.train, data.validation, data.test))
    tried = [
        (float(mixture.log_prob(validation).mean()), mixture, largest)
        for components in spec["components"]
        for largest in spec["largest"]
        for mixture in [fit_mixture(x, components, largest)]
    ]
    _, best, largest = max(tried, key=lambda trial: trial[0])
    return best.log_prob(test), {"components": len(best.means), "concentration": largest}


def _best_kernel(data: Dataset, spec: Spec) -> tuple[Tensor, dict[str, Value]]:
    """Log density of test rows by a kernel around each training row, as concentrated as validation rows choose."""
    x, validation, test = (rows.double() for rows in (data.train, data.validation, data.test))
    even = torch.full((len(x),), -math.log(len(x)), dtype=x.dtype)
    low, high, count = spec["concentrations"]
    kernels = [Mixture(even, x, torch.full_like(even, k)) for k in torch.logspace(low, high, count).tolist()]
    best = max(kernels, key=lambda kernel: float(kernel.log_prob(validation).mean()))
    return best.log_prob(test), {"concentration": float(best.concentrations[0])}


def _flow(data: Dataset, spec: Spec, seed: int) -> tuple[Tensor, dict[str, Value]]:
    """Log density of test rows by the flow of a recipe, with what only a decoder that is inverted can lose."""
    recipe = Recipe.validated({**spec["recipe"], "seed": seed})
    training, held_out = (Rows(Sphere(3).project(rows.double())) for rows in (data.train, data.validation))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        flow = recipe.build_flow(3, 3)
        flow.start(training)
    single = Rows(training.x.float())
    history = train(flow, recipe.build_objective(), single, held_out, settings=recipe.training, seed=seed)
    flow = flow.double().eval()
    values = Own(flow).log_prob(Sphere(3).project(data.test.double()))
    chosen: dict[str, Value] = {"steps": history.steps}
    if isinstance(flow, ManifoldFlow):
        chosen |= {"recovered": flow.recovered(spec["draws"]), "without_code": float(values.isneginf().double().mean())}
    return values, chosen


def places(spec: Spec, seed: int) -> Iterable[Row]:
    """Fit one law to places on the Earth, and score held-out ones.

    Args:
        spec: `data`, a name in `DATASETS` with its options; `law`: `mixture` with `components` and `largest` to try,
            `kernel` with the decimal logarithms `concentrations: [low, high, count]`, or `flow` with a `recipe` and the
            `draws` by which it is measured what its density integrates to.
        seed: of the split and of the fit.

    Returns:
        One row: `log_density`, mean over test rows in nats per unit of area of the unit sphere (steradian), its
        `standard_error`, `seconds`, and what was chosen or lost.
    """
    options = dict(spec["data"])
    name = options.pop("name")
    as_they_are = {"standardise": False, "dequantise": False} if name in TABLES else {}
    data = DATASETS[name](**options, **as_they_are, seed=seed)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        laws = {"mixture": _best_mixture, "kernel": _best_kernel}
        law = spec["law"]
        values, chosen = laws[law](data, spec) if law in laws else _flow(data, spec, seed)
    error = float(values.std()) / len(values) ** 0.5
    scored = {"log_density": finite(float(values.mean())), "standard_error": finite(error)}
    yield Row({}, {**scored, **chosen, "seconds": time.perf_counter() - start})
