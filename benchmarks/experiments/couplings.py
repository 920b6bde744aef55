"""What coupling flows can learn and what volume-preserving ones cannot; layers by moments; kernels for small tables.

Four experiments, two of them trained by `Adam` on a cosine and nothing else, so that what is compared is the flow:

* `plane`: two columns, fresh rows every step, the divergence from a law that is known, beside the smallest that a
  volume-preserving flow can reach, see `isthmus.diagnostics.universality`;
* `ring`: the iterative flow on a ring of 20 normal laws, its divergence after each number of layers;
* `by_moments`: the iterative flow as an estimator on the ten tables of `benchmarks.defaults`;
* `few_rows`: a table of 50 to 300 rows, the held-out log density at the best validation and after the last step.

References:
    Draxler, Wahl, Schnörr, Köthe (2024), arXiv 2402.06578; English, Kirchler, Lippert (2023), arXiv 2307.14839.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine, make_moons
from torch import Tensor, nn

from benchmarks.experiments.setting import Row, Spec, Value, finite
from benchmarks.sections import fitted_record, scored, table
from benchmarks.sets import SETS
from isthmus import Recipe
from isthmus.flows import CouplingFlow, IterativeFlow
from isthmus.rows import Rows

__all__ = ["TARGETS", "Mixture", "Square", "by_moments", "few_rows", "plane", "ring"]

_TEST_ROWS = 200_000
_VALIDATIONS = 40


@dataclass(frozen=True)
class Mixture:
    """Isotropic normal laws in the plane, all of equal weight: means (K, 2) and standard deviations (K,)."""

    means: Tensor
    deviations: Tensor

    def sample(self, n: int) -> Tensor:
        """Draw rows, (n, 2)."""
        which = torch.randint(len(self.means), (n,))
        return self.means[which] + self.deviations[which].unsqueeze(1) * torch.randn(n, 2).to(self.means)

    def log_density(self, x: Tensor) -> Tensor:
        """Log density of rows, (n,)."""
        squares = (x.unsqueeze(1) - self.means).square().sum(2)
        terms = -squares / (2 * self.deviations**2) - 2 * self.deviations.log() - math.log(2 * math.pi)
        return torch.logsumexp(terms, 1) - math.log(len(self.means))


@dataclass(frozen=True)
class Square:
    """The uniform law of the square from -side / 2 to side / 2."""

    side: float = 2 * 3**0.5  # deviation 1

    def sample(self, n: int) -> Tensor:
        """Draw rows, (n, 2)."""
        return self.side * (torch.rand(n, 2).double() - 0.5)

    def log_density(self, x: Tensor) -> Tensor:
        """Log density of rows, (n,)."""
        return torch.where(x.abs().amax(1) <= self.side / 2, -2 * math.log(self.side), -math.inf)


def _pair(far: float, first: float, second: float) -> Mixture:
    """Two normal laws at (-far, -far) and (far, far), of these variances."""
    means = torch.tensor([[-far, -far], [far, far]], dtype=torch.float64)
    return Mixture(means, torch.tensor([first, second], dtype=torch.float64).sqrt())


def _moons() -> Mixture:
    points = torch.from_numpy(make_moons(200, random_state=0)[0])
    return Mixture(points, torch.full((200,), 0.1, dtype=torch.float64))


def _circle() -> Mixture:
    angle = 2 * math.pi * torch.arange(20).double() / 20
    return Mixture(torch.stack([angle.cos(), angle.sin()], 1), torch.full((20,), 0.1, dtype=torch.float64))


TARGETS: dict[str, Callable[[], Mixture | Square]] = {
    "official": lambda: _pair(0.5, 0.2, 0.1),
    "unequal": lambda: _pair(0.8, 0.25, 0.01),
    "moons": _moons,
    "square": Square,
    "ring": _circle,
}


def plane(spec: Spec, seed: int) -> Iterable[Row]:
    """Train a coupling flow on fresh rows of a law in the plane.

    Args:
        spec: `target`, a name in `TARGETS`; `flow`, options of `CouplingFlow`; `loop`: `steps`, `batch_size`,
            `learning_rate`; a rate that falls by 10 at each share in `drops`, or on a cosine where there are none.
        seed: of networks and rows.

    Returns:
        One row: kl (nats) with kl_error, log_det_deviation, between (density in the middle of two modes), peak (largest
        density at test rows), seconds, parameters.
    """
    target, loop = TARGETS[spec["target"]](), spec["loop"]
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = CouplingFlow(2, 2, **{**spec["flow"], "layers": _layers(spec["flow"]["layers"])})
        flow.start(Rows(target.sample(2_000)))
        optimiser, schedule = _descent(flow, loop)
        for _ in range(loop["steps"]):
            optimiser.zero_grad()
            (-flow.log_prob(target.sample(loop["batch_size"]).float()).mean()).backward()
            optimiser.step()
            schedule.step()
        test = target.sample(spec.get("test_rows", _TEST_ROWS))
    values = _divergence(flow.double(), target, test)
    values["parameters"] = sum(parameter.numel() for parameter in flow.parameters())
    yield Row({}, {**values, "seconds": time.perf_counter() - start})


def _layers(layers: str | list[str]) -> str | tuple[str, ...]:
    return layers if isinstance(layers, str) else tuple(layers)


def _descent(flow: nn.Module, loop: Spec) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimiser = torch.optim.Adam(flow.parameters(), loop["learning_rate"])
    if "drops" in loop:
        at = [int(share * loop["steps"]) for share in loop["drops"]]
        return optimiser, torch.optim.lr_scheduler.MultiStepLR(optimiser, at)
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, loop["steps"])


@torch.no_grad()
def _divergence(flow: CouplingFlow, target: Mixture | Square, test: Tensor) -> dict[str, Value]:
    """The divergence on test rows, and what the density does at its peak and between two modes."""
    log_p, own = target.log_density(test), Rows(test).map(flow.log_prob)
    gap = log_p - own
    log_det = -Rows(test[:2_000]).map(lambda x, c: flow.volume(x, c).log_volume)
    values: dict[str, Value] = {
        "kl": finite(float(gap.mean())),
        "kl_error": float(gap.std()) / len(test) ** 0.5,
        "log_det_deviation": float(log_det.std()),
        "peak": math.exp(float(own.max())),
        "true_peak": math.exp(float(log_p.max())),
    }
    if isinstance(target, Mixture) and len(target.means) == 2:
        line = target.means[0] + torch.linspace(0, 1, 400).double().unsqueeze(1) * (target.means[1] - target.means[0])
        values["between"] = float(flow.log_prob(line).exp().min())
        values["true_between"] = float(target.log_density(line).exp().min())
    return values


def ring(spec: Spec, seed: int) -> Iterable[Row]:
    """Fit the iterative flow to a ring of 20 normal laws.

    Args:
        spec: `rows`, `flow` (options of `IterativeFlow`), `at`: numbers of layers.
        seed: of rows and directions.

    Returns:
        A row for each number of layers: kl of training rows and of fresh ones, layers in use, seconds of the fit.
    """
    target = TARGETS["ring"]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        train, test = target.sample(spec["rows"]), target.sample(_TEST_ROWS)
        flow = IterativeFlow(2, 2, **spec["flow"]).double()
        start = time.perf_counter()
        flow.start(Rows(train))
        seconds = time.perf_counter() - start
    used = int(flow.transform.used)
    for layers in spec["at"]:
        flow.transform.used.fill_(min(layers, used))
        kls = {
            name: float((target.log_density(x) - Rows(x).map(flow.log_prob)).mean())
            for name, x in (("train_kl", train), ("kl", test))
        }
        yield Row({"layers": str(layers)}, {**kls, "used": used, "seconds": seconds})


def by_moments(spec: Spec, seed: int) -> Iterable[Row]:
    """Fit the iterative flow to a table of `benchmarks.defaults`, split and scored as there.

    Args:
        spec: `table`; `flow`, options of the iterative flow; `recipe`, the other sections.
        seed: of the split and of the fit.

    Returns:
        One row: log_likelihood (nats, standardised columns, held-out rows) with standard_error, layers in use, seconds.
    """
    split = table(spec["table"], seed)
    recipe = Recipe().update(seed=seed, flow={"kind": "iterative", **spec.get("flow", {})}, **spec["recipe"])
    fitted, record = fitted_record(split.raw, recipe)
    scores = scored(fitted, split)
    values = {name: scores[name] for name in ("log_likelihood", "standard_error")}
    used = int(fitted.model.flow.transform.used)
    yield Row({}, {**values, "used": used, "latent": record["latent"]["kind"], "seconds": record["seconds"]})


# ----------------------------------------------------------------------------------------------------------- few rows


def _moons_table() -> np.ndarray:
    return make_moons(4_000, noise=0.1, random_state=0)[0]


TABLES: dict[str, Callable[[], np.ndarray]] = {
    "moons": _moons_table,
    "diabetes": lambda: load_diabetes(scaled=False).data[:, [0, *range(2, 10)]],
    "wine": lambda: load_wine().data,
    "breast_cancer": lambda: load_breast_cancer().data,
    "satimage": SETS["satimage"],
}


def few_rows(spec: Spec, seed: int) -> Iterable[Row]:
    """Train affine couplings on few rows, with a network or a kernel as conditioner.

    The first rows of a random order are trained on, a third as many validate, at most 2,000 others test. Columns are
    standardised by the training rows.

    Args:
        spec: `table` in `TABLES`, `rows`, `flow` (options of `CouplingFlow`; `match`: the width is that of the network
            with as many parameters as the kernel with so many points), `loop` as in `plane`.
        seed: of the split, the networks and the batches.

    Returns:
        One row: early (test nats at the best validation), last (after the last step), best_step, parameters, seconds.
    """
    start = time.perf_counter()
    train, validation, test = _split(spec, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = _few_flow(spec["flow"], train.shape[1])
        flow.start(Rows(train.double()))
        best, last, step = _descended(flow, spec["loop"], train, validation)
    values: dict[str, Value] = {"best_step": step, "parameters": sum(p.numel() for p in flow.parameters())}
    for name, state in (("early", best), ("last", last)):
        flow.load_state_dict(state)
        with torch.no_grad():
            values[name] = finite(float(copy.deepcopy(flow).double().log_prob(test).mean()))
    yield Row({}, {**values, "seconds": time.perf_counter() - start})


def _split(spec: Spec, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    x = TABLES[spec["table"]]()
    x = x[np.random.default_rng(seed).permutation(len(x))]
    n = spec["rows"]
    cut = n + n // 3
    if len(x) < cut + 20:
        raise ValueError(f"expected at least {cut + 20} rows of {spec['table']}; got {len(x)}; ask for fewer")
    mean, deviation = x[:n].mean(0), x[:n].std(0)
    kept = deviation > 0
    train, validation, test = (torch.from_numpy(((part - mean) / np.where(kept, deviation, 1))[:, kept])
                               for part in (x[:n], x[n:cut], x[cut : cut + 2_000]))  # fmt: skip
    return train.float(), validation.float(), test


def _few_flow(options: Spec, columns: int) -> CouplingFlow:
    options = dict(options)
    points = options.pop("match", None)
    if points is None:
        return CouplingFlow(columns, columns, **options)
    wanted = _size(CouplingFlow(columns, columns, **{**options, "conditioner": "kernel", "points": points}))
    widths = range(2, 200)
    sizes = {width: abs(_size(CouplingFlow(columns, columns, **options, width=width)) - wanted) for width in widths}
    return CouplingFlow(columns, columns, **options, width=min(sizes, key=lambda width: sizes[width]))


def _size(flow: CouplingFlow) -> int:
    return sum(parameter.numel() for parameter in flow.parameters())


def _descended(flow: CouplingFlow, loop: Spec, train: Tensor, validation: Tensor) -> tuple[Spec, Spec, int]:
    """Train, and return the state at the best validation, the last state, and the step of the former."""
    optimiser, schedule = _descent(flow, loop)
    best, state, at = -math.inf, copy.deepcopy(flow.state_dict()), 0
    every = max(1, loop["steps"] // _VALIDATIONS)
    for step in range(1, loop["steps"] + 1):
        batch = train[torch.randperm(len(train))[: loop["batch_size"]]]
        optimiser.zero_grad()
        (-flow.log_prob(batch).mean()).backward()
        optimiser.step()
        schedule.step()
        if step % every == 0:
            with torch.no_grad():
                value = float(flow.log_prob(validation).mean())
            if value > best:
                best, state, at = value, copy.deepcopy(flow.state_dict()), step
    return state, copy.deepcopy(flow.state_dict()), at
