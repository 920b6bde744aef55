"""Laws from a log density on known surfaces, against targets whose evidence and moments are known in closed form.

With log weights `l = log p - log q` at draws of the law q that was learnt, and the log evidence `log Z` of p known,

    KL(q | p) = log Z - mean l,        log mean weight = log mean exp(l) - log Z,

the second 0 where q leaves no part of p out, whatever the effective sample size says. Moments are those of the draws
themselves, without the weights, so that they judge the law and not the correction.

* `dirichlet`: Dirichlet(alpha) on the simplex;
* `multinomial`: the posterior of the probabilities of d outcomes, some seen a few times and most never, by
  `MixtureWeights`: Dirichlet(alpha + counts);
* `spiral`, `opposite`: mixtures of von Mises-Fisher laws on the sphere, 50 along four turns, and two far apart.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Dirichlet

from benchmarks.experiments.earth import Mixture
from benchmarks.experiments.setting import Row, Spec, Value, finite
from isthmus.inference import Inference, LogDensity, MixtureWeights, Weights, infer
from isthmus.supports import Simplex, Sphere, StarLike

__all__ = ["TARGETS", "Target", "inference"]

_AT_ONCE = 20_000  # draws


class Target(NamedTuple):
    """A density with its answer.

    Attributes:
        learn: from a spec with options of training and flow, and a seed, to the law.
        log_evidence: of the unnormalised density, in nats.
        mean: (d,).
        variance: (d,), or None where only the mean is compared.
    """

    learn: Callable[[Spec, int], Inference]
    log_evidence: float
    mean: Tensor
    variance: Tensor | None


def _inferred(log_density: LogDensity, support: StarLike) -> Callable[[Spec, int], Inference]:
    """Return what learns a law of a density on a surface."""

    def learn(spec: Spec, seed: int) -> Inference:
        options = {"training": spec["training"], "flow": spec.get("flow"), "path": spec.get("path", False)}
        return infer(log_density, support, **options, restarts=0, seed=seed)

    return learn


def dirichlet(d: int, alpha: float | list[float]) -> Target:
    """Return Dirichlet(alpha) on the simplex of d parts; its density per area has a factor `1 / sqrt(d)`."""
    law = Dirichlet(torch.as_tensor(alpha).double().expand(d), validate_args=False)
    learn = _inferred(lambda x, c: law.log_prob(x) - 0.5 * math.log(d), Simplex(d))
    return Target(learn, 0.0, law.mean, law.variance)


def multinomial(d: int, alpha: float, draws: int, seed: int = 0) -> Target:
    """Return the posterior of d probabilities after some draws of them, the same for every seed of a run."""
    generator = np.random.default_rng(seed)
    outcomes = generator.choice(d, draws, p=generator.dirichlet(np.full(d, alpha)))
    rows = np.where(outcomes[:, None] == np.arange(d), 0.0, -700.0)

    def learn(spec: Spec, seed: int) -> Inference:
        options = {"training": spec["training"], "flow": spec.get("flow")}
        return MixtureWeights(alpha, **options, random_state=seed).fit(rows).inference_

    prior = torch.full((d,), alpha).double()
    posterior = prior + torch.tensor(np.bincount(outcomes, minlength=d))
    law = Dirichlet(posterior)
    total = posterior.lgamma().sum() - posterior.sum().lgamma() - prior.lgamma().sum() + prior.sum().lgamma()
    return Target(learn, float(total), law.mean, law.variance)


def _on_the_sphere(shares: Tensor, means: Tensor, concentration: float) -> Target:
    concentrations = torch.full_like(shares, concentration)
    mixture = Mixture(shares.log(), means, concentrations)
    length = 1 / math.tanh(concentration) - 1 / concentration
    return Target(_inferred(lambda x, c: mixture.log_prob(x), Sphere(3)), 0.0, length * shares @ means, None)


def spiral(count: int = 50, turns: float = 4.0, concentration: float = 50.0) -> Target:
    """Return equal shares along a spiral from pole to pole."""
    height = torch.linspace(0.95, -0.95, count).double()
    angle, across = 2 * math.pi * turns * torch.linspace(0, 1, count).double(), (1 - height.square()).sqrt()
    means = torch.stack([across * angle.cos(), across * angle.sin(), height], 1)
    return _on_the_sphere(torch.full((count,), 1 / count).double(), means, concentration)


def opposite(share: float = 0.3, concentration: float = 30.0) -> Target:
    """Return two laws at opposite places, of unequal shares."""
    means = torch.tensor([[0.6, 0.0, 0.8], [-0.6, 0.0, -0.8]]).double()
    return _on_the_sphere(torch.tensor([share, 1 - share]).double(), means, concentration)


TARGETS: dict[str, Callable[..., Target]] = {
    "dirichlet": dirichlet,
    "multinomial": multinomial,
    "opposite": opposite,
    "spiral": spiral,
}


def _judged(law: Inference, n: int) -> Weights:
    """Return weights of n draws, made some at a time."""
    pieces = [law.judge(n=min(_AT_ONCE, n - begun), seed=1 + begun) for begun in range(0, n, _AT_ONCE)]
    return Weights(*(torch.cat(parts) for parts in zip(*((w.log_p, w.log_q, w.x) for w in pieces), strict=True)))


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _moments(x: Tensor, target: Target) -> dict[str, Value]:
    """Errors of the moments of draws, and what errors as many draws of the target itself would have."""
    n, mean = len(x), x.mean(0)
    if target.variance is None:
        noise = float((x.var(0).sum() / n).sqrt())
        return {"mean_error": float((mean - target.mean).norm()), "mean_noise": noise}
    squares = (x - mean).square()
    return {
        "mean_error": _root_mean_square(mean / target.mean - 1),
        "mean_noise": _root_mean_square(x.std(0) / target.mean) / math.sqrt(n),
        "variance_error": _root_mean_square(squares.mean(0) / target.variance - 1),
        "variance_noise": _root_mean_square(squares.std(0) / target.variance) / math.sqrt(n),
    }


def inference(spec: Spec, seed: int) -> Iterable[Row]:
    """Learn one law from its log density, and compare it with the answer.

    Args:
        spec: `target`, a `kind` in `TARGETS` with its options; `training`, `flow` and `path`, options of `infer`;
            `draws` by which the law is judged.
        seed: of the law.

    Returns:
        One row: `kl` and `log_weight` in nats, `effective`, the effective sample size as a share of the draws, `k`, the
        Pareto shape; `mean_error` and `variance_error`, relative, root mean squares over columns (on the sphere the
        length of the difference of the means), each with its `_noise`, that of as many exact draws; `health`, the
        verdict; `seconds` of the learning.
    """
    options = dict(spec["target"])
    target = TARGETS[options.pop("kind")](**options)
    begun = time.perf_counter()
    law = target.learn(spec, seed)
    seconds = time.perf_counter() - begun
    weights = _judged(law, spec["draws"])
    figures: dict[str, Value] = {
        "kl": finite(target.log_evidence - weights.elbo),
        "log_weight": finite(weights.log_evidence - target.log_evidence),
        "effective": weights.effective,
        "k": finite(weights.k),
        **_moments(weights.x, target),
        "health": law.health.status,
        "seconds": seconds,
    }
    yield Row({}, figures)
