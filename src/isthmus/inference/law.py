"""`infer`: a law on a support from its unnormalised log density, and the verdict on it."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from isthmus.diagnostics import Health, Limits, Verdict, steadiness
from isthmus.errors import InputError
from isthmus.flow import Context, Estimate, Flow
from isthmus.flows import FLOWS
from isthmus.inference.objective import LogDensity, ReverseKL, conditions
from isthmus.inference.weights import Weights
from isthmus.matrices import matrix
from isthmus.recipe import Part, TrainingRecipe
from isthmus.rows import Rows
from isthmus.supports import SUPPORTS, StarLike, Support
from isthmus.training import History, train

__all__ = ["LIMITS", "Inference", "infer"]

_JUDGED, _DRAWS = 5, 4_000  # conditions that are judged, and draws for each
_HOTTEST = 1e4
_STANDS_IN = 256  # rows of a training without conditions: as many points a step

LIMITS: dict[str, Limits] = {
    # Effective sample size as a share of the draws. 1 where the law is that of the density.
    "weights": Limits(0.5, 0.1),
    # Pareto k of the largest weights: no variance above 0.5, of no use above 0.7 (Vehtari et al. 2024).
    "tails": Limits(0.5, 0.7),
    # Share of the mass that laws from other starts find and this one does not, two standard errors deducted.
    "coverage": Limits(0.01, 0.05),
}


@dataclass(frozen=True)
class Inference:
    """A law that was learnt from a log density.

    Attributes:
        flow: the law, of standardised conditions.
        log_density: what it was learnt from.
        centre: what conditions are moved by, (1, C), or None without conditions.
        scale: what they are divided by, (1, C).
        history: of the training.
        weights: importance weights at the conditions that were judged.
        health: the verdicts.
    """

    flow: Flow
    log_density: LogDensity
    centre: Tensor | None
    scale: Tensor | None
    history: History
    weights: tuple[Weights, ...]
    health: Health

    @property
    def measured(self) -> str:
        """The unit and measure of log densities."""
        return self.flow.rows.measured

    def _told(self, given: ArrayLike | Tensor | None, n: int) -> tuple[Context, Context]:
        """Return conditions as they are and standardised, one for each of n points."""
        if self.centre is None or self.scale is None:
            if given is not None:
                raise InputError("expected no conditions, as none were given to `infer`; got some; leave them out")
            return None, None
        if given is None:
            raise InputError(f"expected {self.centre.shape[1]} conditions, as in `infer`; got none; give them")
        c = matrix(torch.atleast_2d(torch.as_tensor(given, dtype=torch.float64)), "given").double()
        c = c.expand(n, -1) if len(c) == 1 else c
        if c.shape != (n, self.centre.shape[1]):
            raise InputError(
                f"expected given of shape (1 or {n}, {self.centre.shape[1]}); got {tuple(c.shape)}; give as many"
            )
        return c, (c - self.centre) / self.scale

    @torch.no_grad()
    def sample(self, n: int, given: ArrayLike | Tensor | None = None, *, seed: int = 0) -> Float[Tensor, "n columns"]:
        """Draw points.

        Args:
            n: number of points.
            given: conditions, (1, C) or one for each point (n, C); none where none were given to `infer`.
            seed: of the draws; the global random state is left as it was.

        Returns:
            (n, columns) on the support.
        """
        _, c = self._told(given, n)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.flow.sample(n, c)

    @torch.no_grad()
    def log_prob(self, x: ArrayLike | Tensor, given: ArrayLike | Tensor | None = None) -> Float[Tensor, " n"]:
        """Return the normalised log density of the law at points, in nats, with respect to the measure of the support.

        Args:
            x: points, (n, columns).
            given: conditions, (1, C) or (n, C).

        Raises:
            InputError: a point is not on the support.
        """
        points = matrix(x, "x").double()
        self.flow.rows.check(points, "x")
        return self.flow.log_prob(points, self._told(given, len(points))[1])

    @torch.no_grad()
    def judge(self, given: ArrayLike | Tensor | None = None, *, n: int = _DRAWS, seed: int = 0) -> Weights:
        """Return the importance weights of n draws at one condition.

        Args:
            given: the condition, (1, C).
            n: number of draws.
            seed: of the draws.
        """
        raw, c = self._told(given, n)
        return _weigh(self.flow, self.log_density, n, raw, c, seed)

    def log_evidence(self, given: ArrayLike | Tensor | None = None, *, n: int = _DRAWS, seed: int = 0) -> Estimate:
        """Estimate the log of the integral of the density over the support, with its standard error, in nats.

        Args:
            given: the condition, (1, C).
            n: number of draws.
            seed: of the draws.
        """
        weights = self.judge(given, n=n, seed=seed)
        return Estimate(torch.tensor([weights.log_evidence]), torch.tensor([weights.standard_error]))


@torch.no_grad()
def _weigh(flow: Flow, log_density: LogDensity, n: int, raw: Context, c: Context, seed: int) -> Weights:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x, log_q = flow.rsample_with_log_prob(n, c)
    return Weights(log_density(x, raw), log_q, x)


def infer(
    log_density: LogDensity,
    support: Support | str,
    *,
    given: ArrayLike | Tensor | None = None,
    flow: Flow | Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    start: float | Literal["auto"] = "auto",
    end: float = 1.0,
    draws: int = 1,
    path: bool = False,
    restarts: int = 1,
    seed: int = 0,
    **options: Any,
) -> Inference:
    """Learn the law whose unnormalised log density is given: variational inference on a known support.

    Args:
        log_density: log p(x | c) up to a constant, with respect to the measure of the support: a differentiable
            function of points (batch, columns), float64, and conditions (batch, C) or None.
        support: a support, or its name in `SUPPORTS`, then with its options.
        given: conditions that the law shall serve, (n, C): a law for each of them, by one network.
        flow: a flow on this support, or options of the one that is taken by default.
        training: options of a recipe's section `training`.
        start: first temperature; `auto` from the spread of the log density over the untrained flow.
        end: last temperature: 1 for the law, near 0 for its mode.
        draws: points a condition and step.
        path: whether gradients go through the points alone, see `ReverseKL`.
        restarts: laws that are trained from other starts, to see what this one leaves out.
        seed: of everything that is drawn.
        options: of the support, where that is a name.

    Returns:
        The law with its verdicts.

    Raises:
        InputError: no flow has differentiable draws on this support; the log density is not finite at its draws.

    References:
        Negri, Arend Torres, Roth (2025), Injective flows for star-like manifolds, arXiv 2406.09116.

    Example:
        >>> found = infer(lambda x, c: -(x - 1).square().sum(1) / 2, "euclidean", columns=2, training={"max_steps": 10})
        >>> found.sample(3).shape, round(found.log_prob(found.sample(3)).shape[0])
        (torch.Size([3, 2]), 3)
    """
    rows = SUPPORTS[support](**options) if isinstance(support, str) else support
    c = None if given is None else matrix(given, "given").double()
    centre = None if c is None else c.mean(0, keepdim=True)
    scale = None if c is None else _spread(c)

    def target(x: Tensor, told: Context) -> Tensor:
        """Return the log density at standardised conditions."""
        return log_density(x, told if told is None or scale is None or centre is None else told * scale + centre)

    told = None if c is None or centre is None or scale is None else (c - centre) / scale
    every = conditions(_STANDS_IN if told is None else len(told), told)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        laws = [_built(rows, 0 if c is None else c.shape[1], flow).double()]
        laws += [_built(rows, laws[0].context_dim, _again(flow)).double() for _ in range(restarts)]
    first = _temperature(laws[0], target, every, seed) if start == "auto" else start
    objective = ReverseKL(target, start=first, end=end, draws=draws, path=path)
    settings = _settings(training)
    histories = [
        train(law, objective, every, every.thinned(_JUDGED * 20), settings=settings, seed=seed + i)
        for i, law in enumerate(laws)
    ]
    judged = [None] if c is None else list(Rows(c).thinned(_JUDGED).x.split(1))
    found = Inference(laws[0], log_density, centre, scale, histories[0], (), Health(()))
    weights = tuple(found.judge(condition, seed=seed) for condition in judged)
    missing = [_missing(found, laws, condition, seed) for condition in judged] if restarts and end == 1 else []
    tempered = tuple(Weights(w.log_p / end, w.log_q, w.x) for w in weights)  # what the law was trained for
    health = Health(_verdicts(histories[0], tempered, missing))
    return Inference(laws[0], log_density, centre, scale, histories[0], weights, health)


def _spread(c: Tensor) -> Tensor:
    """Return the standard deviation of each condition; 1 where it is constant."""
    scale = c.std(0, correction=0, keepdim=True)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _settings(training: Mapping[str, Any] | None) -> TrainingRecipe:
    usual = {"max_steps": 2_000, "batch_size": 256, "weight_decay": 0.0, "warm_up": 0.6, "precision": "64-true"}
    usual |= {"noise": 0.0, "patience": 1_000, "learning_rate": 2e-3, "compile": False}
    return TrainingRecipe.model_validate(usual | dict(training or {}))


def _again(flow: Flow | Mapping[str, Any] | None) -> Flow | Mapping[str, Any] | None:
    """Return what a flow is built of again: another one of the same kind starts with parameters of its own."""
    if not isinstance(flow, Flow):
        return flow
    raise InputError("expected options of a flow where `restarts` builds it again; got a flow; give restarts=0")


def _built(rows: Support, context_dim: int, flow: Flow | Mapping[str, Any] | None) -> Flow:
    if isinstance(flow, Flow):
        return flow
    kinds = [name for name, kind in FLOWS.items() if ReverseKL.serves(kind) and kind.exact and _lives_on(kind, rows)]
    if not kinds:
        raise InputError(
            f"expected a support with a flow that draws differentiably; got {type(rows).__name__}; give `flow`"
        )
    takes = inspect.signature(FLOWS[kinds[0]]).parameters
    given = {"rows": rows, "data_dim": rows.columns, "latent_dim": rows.dim, "context_dim": context_dim}
    options = {"fast": "sampling"} | dict(flow or {}) if "fast" in takes else dict(flow or {})
    part = Part.model_validate({"kind": kinds[0], **options})
    return part.build(FLOWS, **{name: value for name, value in given.items() if name in takes})


def _lives_on(kind: type[Flow], rows: Support) -> bool:
    """Return whether flows of a kind have a support: by its name, or as one more star-like surface."""
    named = [SUPPORTS[name] for name in kind.supports]
    surfaces = all(issubclass(support, StarLike) for support in named)
    return isinstance(rows, StarLike if surfaces else tuple(named))


def _temperature(flow: Flow, target: LogDensity, every: Rows, seed: int) -> float:
    """Return the spread of the log density over the untrained flow: there it is about as flat as the flow."""
    c = every.c
    weights = _weigh(flow, target, len(every), c, c, seed)
    if not weights.log_p.isfinite().all():
        bad = float((~weights.log_p.isfinite()).double().mean())
        raise InputError(
            f"expected a finite log density on the support; got {bad:.0%} of the draws not finite; restrict "
            "the support or the density"
        )
    return min(_HOTTEST, max(1.0, float(weights.log_p.std())))


def _missing(found: Inference, laws: list[Flow], condition: Context, seed: int) -> float:
    """Return the share of the mass that the laws find together, and the first one does not."""
    raw, c = found._told(condition, _DRAWS)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        n = _DRAWS // len(laws)
        x = torch.cat([law.rsample_with_log_prob(n, None if c is None else c[:n])[0] for law in laws])
        told, c = (None if t is None else t[: len(x)] for t in (raw, c))
        log_q = torch.stack([law.log_prob(x, c) for law in laws]).logsumexp(0) - math.log(len(laws))
        both = Weights(found.log_density(x, told), log_q, x)
    alone = found.judge(condition, seed=seed)
    error = math.hypot(alone.standard_error, both.standard_error)
    return 1 - math.exp(min(0.0, alone.log_evidence - both.log_evidence + 2 * error))


def _verdicts(history: History, weights: tuple[Weights, ...], missing: list[float]) -> tuple[Verdict, ...]:
    effective, k = min(w.effective for w in weights), max((w.k for w in weights), key=lambda k: (math.isnan(k), k))
    found = [
        _verdict("weights", effective, f"the effective sample size is {effective:.0%} of the draws", "train longer"),
        _verdict("tails", k, f"the largest importance weights have a Pareto k of {k:.2g}", "train longer"),
    ]
    if missing:
        share = max(missing)
        finding = f"laws from other starts find {max(0.0, share):.1%} of the mass that this one leaves out"
        found.append(_verdict("coverage", share, finding, "raise start, the first temperature"))
    return (steadiness(history.steps, history.skipped, history.retreats), *found)


def _verdict(name: str, value: float, finding: str, advice: str) -> Verdict:
    limits = LIMITS[name]
    status = "ok" if value == -math.inf else limits.status(value)
    sentence = finding if status == "ok" else f"{finding}; {advice}"
    return Verdict(name, status, value, limits.fail if status == "fail" else limits.warn, sentence)
