"""The latent density and the noise, fitted to the codes and residuals of a trained flow; its networks stay as they are.

Training asks the codes to follow p_Z and they never quite do; refitting p_Z to them takes seconds: to a Gaussian
mixture of 1 .. 64 components; to one for each context, where these are few, as classes are; or to a small spline flow.
The noise off the manifold is the residuals' covariance: one sigma for all directions, or one covariance for each
component of the latent mixture, full or of low rank, drawn towards the pooled one by `shrinkage` rows, with a `floor`
below which no direction's variance falls (as a share of the mean).
Between the alternatives held-out rows decide, by their linearised ambient log density, the one value that can be
compared between all of them.

Expectation maximisation of latent and noise together under the posterior of the codes was tried and does not pay: with
2 to 16 components it changed the held-out value by -0.3 (digits) and +1.3 (texture) nats at most, 0.2 or less once the
floor was chosen as well.
"""

import copy
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from zuko.lazy import LazyDistribution

from isthmus import latents
from isthmus.deadline import Deadline
from isthmus.density import (
    NOISES,
    Density,
    IsotropicNoise,
    Noise,
    Tangent,
    density_of,
    gaussian_components,
    log_normal,
    tangent,
)
from isthmus.density.ambient import Ambient
from isthmus.flow import Context, Flow, Injection, LearnedManifold, in_double
from isthmus.mixtures import gaussian_mixture
from isthmus.recipe import Part, RefitRecipe
from isthmus.rows import Rows

__all__ = ["Refit", "fit_flow", "fit_mixture", "refit_density"]

_COMPONENTS = (1, 2, 4, 8, 16, 32, 64, 128)
_MANY, _ROWS_FOR_MANY = 64, 500  # more components than that slow every score, and are for tables with so many rows each
_ROWS_PER_COMPONENT = 4  # times d: fewer rows than that cannot carry a covariance
_MOST_CONTEXTS, _MANY_OF_EACH = 64, 32  # that have mixtures of their own; components of each
_PATIENCE = 2  # numbers of components in a row that gain nothing
_MIXTURE_ROWS = 20_000  # on which a mixture begins, and to which all rows are given in the end
_CHUNK_ROWS, _CHUNK_NUMBERS = 4_096, 4_000_000  # at once
_NOISE_ROWS = 50_000
_HELD_OUT_ROWS, _HELD_OUT_CODES = 1_000, 10_000
_LARGEST_COVARIANCE = 128  # columns; above, low rank only
_LARGEST_LOW_RANK = 512  # columns; above, isotropic unless asked for: axes of 784 columns take seconds a component
_LEAST_VARIANCE = 1e-6  # of the noise in any direction: a thousandth of a column's standard deviation
_FLOW_STEPS, _FLOW_BATCH, _FLOW_RATE = 200, 256, 4e-3
_LEAST_SCALE = 1e-6  # of codes that a flow is fitted to
_FLOW_WITHIN = 1.0  # nats that isotropic noise may be behind for a flow, which knows no other, to be tried
_REFINED = 3  # pairs of latent and noise whose numbers are tried out
_ROWS_PER_SECOND, _FEWEST_ROWS = 4_000, 2_000  # of a limited time
_GROWTH = 2.5  # how many times as long a mixture of twice as many components takes
_FLOW_SECONDS = 30.0  # of a limited time without which no spline flow is tried: it slows all that follows too

# Each kind of noise: the numbers to begin with, and the values tried for one after the other.
_SETTINGS: dict[str, tuple[dict[str, float], dict[str, tuple[float, ...]]]] = {
    "isotropic": ({"factor": 1.0}, {"factor": (0.7, 0.85, 1.0, 1.2)}),
    "component": (
        {"shrinkage": 60.0, "floor": 0.05},
        {"floor": (0.0, 0.01, 0.05, 0.2), "shrinkage": (20.0, 60.0, 200.0, 1000.0)},
    ),
    "low_rank": (
        {"rank": 3, "shrinkage": 20.0, "floor": 0.05},
        {"rank": (1, 3, 6, 12, 24), "floor": (0.0, 0.01, 0.05, 0.2), "shrinkage": (20.0, 60.0, 200.0)},
    ),
}


@dataclass(frozen=True)
class Refit:
    """The chosen density, the names of its parts, and every alternative with its held-out mean log density in nats.

    Of a law without codes the latent is "as trained", and of one that is no learned manifold the noise is None.
    """

    density: Density
    latent: Part
    noise: Part | None
    candidates: tuple[dict[str, Any], ...]


def fit_mixture(z: Float[Tensor, "n d"], components: int, *, seed: int = 0) -> LazyDistribution:
    """Fit a Gaussian mixture with full covariances to codes by expectation maximisation (scikit-learn).

    Args:
        z: codes, (n, d), n >= components; the mixture begins on 20,000 evenly spaced ones and ends on all of them.
        components: number of Gaussians, >= 1.
        seed: of the initialisation.

    Returns:
        A `isthmus.latents.mixture` with its buffers set, in float64.

    Raises:
        InputError: fewer rows than components.

    Example:
        >>> fit_mixture(torch.randn(100, 2), 2)().event_shape
        torch.Size([2])
    """
    z = z.detach().to(torch.float64)
    ridge = 1e-3 * float(Rows(z).thinned(_MIXTURE_ROWS).x.var(0, correction=0).mean())
    fitted = gaussian_mixture(z, components, ridge=ridge, begin_with=_MIXTURE_ROWS, seed=seed)
    lazy = latents.mixture(z.shape[1], components=components).to(z)
    # copies, since NumPy aligns memory by chance, and the last bit of a product depends on that
    weights, means, covariances = (torch.tensor(v) for v in (fitted.weights_, fitted.means_, fitted.covariances_))
    lazy.logits, lazy.means = weights.log().to(z), means.to(z)
    lazy.scale_tril = torch.linalg.cholesky(covariances).to(z)
    return lazy


def fit_flow(
    z: Float[Tensor, "n d"],
    c: Context = None,
    *,
    transforms: int = 3,
    width: int = 64,
    steps: int = _FLOW_STEPS,
    seed: int = 0,
) -> LazyDistribution:
    """Fit a neural spline flow (zuko) to codes by maximum likelihood, conditional where c is given.

    Args:
        z: codes, (n, d), in any units.
        c: context, (n, C), or None.
        transforms: number of spline layers.
        width: width of their hidden layers.
        steps: optimiser steps of 256 rows.
        seed: of the initialisation and the batches; the global random state is left as it was.

    Returns:
        A `isthmus.latents.flow`, `scaled` so that its splines reach the farthest code, in the precision of z.

    Example:
        >>> fit_flow(torch.randn(64, 2), transforms=1, width=8)().log_prob(torch.zeros(2)).shape
        torch.Size([])
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        rows, context = z.float(), None if c is None else c.float()
        size = z.shape[1], 0 if c is None else c.shape[1]
        lazy = latents.flow(*size, transforms=transforms, width=width, scaled=True)
        _reach(lazy, z)
        optimizer = torch.optim.Adam(lazy.parameters(), _FLOW_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            index = torch.randint(len(rows), (min(_FLOW_BATCH, len(rows)),))
            loss = -lazy(None if context is None else context[index]).log_prob(rows[index]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(lazy.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return lazy.to(z.dtype).requires_grad_(requires_grad=False)


def _reach(lazy: Any, z: Float[Tensor, "n d"]) -> None:
    """Let splines, which bend [-5, 5] alone, bend wherever there are codes, and begin with codes of unit variance."""
    centre = z.mean(0)
    scale = torch.maximum(z.std(0, correction=0), (z - centre).abs().amax(0) / 5)
    first = lazy.transform.transforms[0]
    first.centre.copy_(centre)
    first.scale.copy_(scale.clamp_min(_LEAST_SCALE))


def refit_density(
    flow: Flow,
    train: Rows,
    held_out: Rows,
    choice: RefitRecipe,
    *,
    seed: int = 0,
    deadline: Deadline | None = None,
) -> Refit:
    """Fit latent density and noise to a trained flow; where the recipe says `auto`, held-out rows choose.

    Args:
        flow: a trained flow; a float64 copy of it is used.
        train: the rows it was trained on.
        held_out: other rows.
        choice: which kinds of latent and noise are allowed.
        seed: of the mixtures' initialisation.
        deadline: in a limited time fewer rows are used and fewer alternatives tried.

    Returns:
        The best alternative, and the list of all.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import mlp_pair
        >>> flow = FreeFormFlow(*mlp_pair(3, 1), data_dim=3, latent_dim=1)
        >>> rows = Rows(torch.randn(200, 3).double())
        >>> refit_density(flow, rows, rows, RefitRecipe(latent="as trained", noise="isotropic")).noise.kind
        'isotropic'
    """
    flow, limit = in_double(copy.deepcopy(flow)).eval(), deadline or Deadline()
    if not isinstance(flow, Injection) or not flow.refits:
        return Refit(density_of(flow, None), Part(kind="as trained"), None, ())
    train = train.thinned(limit.rows(_ROWS_PER_SECOND, _FEWEST_ROWS) or len(train.x))
    trial = _Trial.of(flow, train, held_out)
    tried: list[_Candidate] = []
    for latent, lazy in _latent_candidates(trial, choice, train.c, seed, limit):
        tried += trial.of_latent(latent, lazy, choice)
    affordable_flow = choice.latent == "auto" and limit.left() > _FLOW_SECONDS
    if choice.latent == "flow" or (affordable_flow and _isotropic_suffices(tried)):
        lazy = fit_flow(trial.z, train.c, steps=choice.flow_steps, seed=seed)
        tried += trial.of_latent(Part(kind="flow", scaled=True), lazy, choice)
    for candidate in sorted(tried, key=lambda c: -c.value)[:_REFINED]:
        for refined in trial.refine(candidate) if limit.left() > 0 else ():
            tried.append(refined)
            if limit.left() < 0:
                break
    best = max(tried, key=lambda c: c.value)
    flow.latent = best.lazy
    return Refit(density_of(flow, best.noise), best.latent, best.part, tuple(c.record for c in tried))


_Scatter = tuple[Tensor, Tensor]  # number (K,) and sum of outer products (K, D, D) of each component's residuals


@dataclass(frozen=True)
class _Candidate:
    """A latent density, the noise off a learned manifold, and the held-out mean log density that they reach."""

    latent: Part
    lazy: LazyDistribution
    part: Part | None
    noise: Noise | None
    settings: dict[str, float]
    value: float

    @property
    def record(self) -> dict[str, Any]:
        """Return plain values for the figures of a fit."""
        noise = None if self.part is None else {**self.part.model_dump(), **self.settings}
        return {"latent": self.latent.model_dump(), "noise": noise, "log_likelihood": self.value}


@dataclass(frozen=True)
class _Trial:
    """Codes and residuals of a trained flow, and the rows that decide."""

    flow: Injection
    held_out: Rows
    at: Tangent | None  # of the held-out rows, where the manifold is learned
    held_out_codes: Float[Tensor, "k d"]
    held_out_context: Context  # of these codes
    z: Float[Tensor, "n d"]
    residuals: Float[Tensor, "m D"]  # of the evenly spaced rows that `noise_codes` are the codes of
    sigma: float
    scatters: dict[LazyDistribution, _Scatter] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def of(cls, flow: Injection, train: Rows, held_out: Rows) -> "_Trial":
        """Encode rows, and measure what their reconstructions leave."""
        some, codes = train.thinned(_NOISE_ROWS), held_out.thinned(_HELD_OUT_CODES)
        judges = held_out.thinned(flow.affordable(_HELD_OUT_ROWS, times=40, least=100))
        z, held_out_codes = train.map(flow.encode), codes.map(flow.encode)
        if not isinstance(flow, LearnedManifold):
            return cls(flow, judges, None, held_out_codes, codes.c, z, some.x[:0], 0.0)
        at, residuals = tangent(flow, judges.x, judges.c), some.x - some.map(flow.reconstruct)
        sigma = flow.sigma(float((judges.x - at.x_hat).square().sum(1).mean()))
        return cls(flow, judges, at, held_out_codes, codes.c, z, residuals, sigma)

    @property
    def noise_codes(self) -> Float[Tensor, "m d"]:
        """The codes of the rows that have residuals."""
        return self.z[:: math.ceil(len(self.z) / len(self.residuals))]

    def noises(self, lazy: LazyDistribution, choice: str) -> list[str]:
        """Return the kinds of noise that are allowed and can stand beside a latent density."""
        D, gaussians = self.residuals.shape[1], gaussian_components(self._base(lazy)) is not None
        few = D <= _LARGEST_LOW_RANK or choice == "low_rank"
        possible = ["isotropic", *(["low_rank"] * (gaussians and few and _SETTINGS["low_rank"][0]["rank"] < D))]
        possible += ["component"] * (gaussians and D <= _LARGEST_COVARIANCE)
        return [kind for kind in possible if choice in ("auto", kind)] or possible[-1:]

    def of_latent(self, latent: Part, lazy: LazyDistribution, choice: RefitRecipe) -> list[_Candidate]:
        """Fit every kind of noise beside a latent density, each with the numbers to begin with."""
        if self.at is None:
            return [self._scored(latent, lazy, None, None, {})]
        return [self.of_noise(latent, lazy, kind, _SETTINGS[kind][0]) for kind in self.noises(lazy, choice.noise)]

    @torch.no_grad()
    def of_noise(self, latent: Part, lazy: LazyDistribution, kind: str, settings: dict[str, float]) -> _Candidate:
        """Fit a noise beside a latent density, and score both."""
        part, noise = self._noise(lazy, kind, settings)
        return self._scored(latent, lazy, part, noise, settings)

    @torch.no_grad()
    def _scored(
        self, latent: Part, lazy: LazyDistribution, part: Part | None, noise: Noise | None, settings: dict[str, float]
    ) -> _Candidate:
        self.flow.latent = lazy
        density, rows = density_of(self.flow, noise), self.held_out
        log_prob = density.linearised(rows.x, rows.c, at=self.at) if isinstance(density, Ambient) else None
        value = float((density.log_prob(rows.x, rows.c) if log_prob is None else log_prob).mean())
        return _Candidate(latent, lazy, part, noise, settings, value if math.isfinite(value) else -math.inf)

    def refine(self, candidate: _Candidate) -> Iterable[_Candidate]:
        """Try out the numbers of a noise, one after the other."""
        best = candidate
        if candidate.part is None:
            return
        for name, values in _SETTINGS[candidate.part.kind][1].items():
            for value in values:
                if value != best.settings[name] and (name != "rank" or value < self.residuals.shape[1]):
                    settings = {**best.settings, name: value}
                    found = self.of_noise(candidate.latent, candidate.lazy, candidate.part.kind, settings)
                    yield found
                    best = max(best, found, key=lambda c: c.value)

    def _base(self, lazy: LazyDistribution) -> Distribution:
        c = self.held_out.c
        return lazy(None if c is None else c[:1])

    def _noise(self, lazy: LazyDistribution, kind: str, settings: dict[str, float]) -> tuple[Part, Noise]:
        D, total = self.residuals.shape[1], self.sigma**2 * max(1, self.flow.data_dim - self.flow.latent_dim)
        components = gaussian_components(self._base(lazy))
        if kind == "isotropic" or components is None:
            return Part(kind="isotropic"), IsotropicNoise(D, settings["factor"] * self.sigma).double()
        counts, scatter = self._scatter(lazy, components)
        floor = settings["floor"] * total / D + _LEAST_VARIANCE
        covariances = self._covariances(counts, scatter, settings["shrinkage"], total)
        covariances = covariances + floor * torch.eye(D).to(covariances)
        size: dict[str, Any] = {"components": len(counts)}
        if kind == "low_rank":
            size["rank"] = min(int(settings["rank"]), D)
        part = Part(kind=kind, **size)
        noise = part.build(NOISES, D).to(covariances)
        noise.set_covariances(covariances)
        return part, noise

    def _scatter(self, lazy: LazyDistribution, components: tuple[Tensor, Tensor, Tensor]) -> _Scatter:
        """Count the residuals of each component, and sum their outer products; once for a latent density."""
        if lazy not in self.scatters:
            log_weights, means, tril = components
            some = max(1, _CHUNK_NUMBERS // means.numel())
            parts = (log_weights + log_normal(z.unsqueeze(1) - means, tril) for z in self.noise_codes.split(some))
            shares = torch.cat([part.softmax(1) for part in parts])
            r = self.residuals
            scatter = torch.stack([(r * share.unsqueeze(1)).mT @ r for share in shares.unbind(1)])
            self.scatters[lazy] = shares.sum(0), scatter
        return self.scatters[lazy]

    def _covariances(
        self, counts: Float[Tensor, " K"], scatter: Float[Tensor, "K D D"], shrinkage: float, total: float
    ) -> Float[Tensor, "K D D"]:
        """Return covariances of the components' residuals, drawn to the pooled one, the sum raised to that held out."""
        r, counts = self.residuals, counts.reshape(-1, 1, 1)
        pooled = r.mT @ r / r.shape[0]
        return total / float(pooled.trace()) * (scatter + shrinkage * pooled) / (counts + shrinkage)


def _isotropic_suffices(tried: list[_Candidate]) -> bool:
    """Tell whether isotropic noise, the only one that a flow goes with, is nearly as good as the best."""
    best = max(c.value for c in tried)
    return any(c.value > best - _FLOW_WITHIN for c in tried if c.part is not None and c.part.kind == "isotropic")


_Latents = Iterator[tuple[Part, LazyDistribution]]


def _latent_candidates(trial: _Trial, choice: RefitRecipe, c: Context, seed: int, limit: Deadline) -> _Latents:
    if choice.latent in ("auto", "as trained"):
        yield Part(kind="as trained"), trial.flow.latent
    if choice.latent not in ("as trained", "flow"):
        counts = _COMPONENTS[:1] if choice.latent == "gaussian" else _COMPONENTS
        yield from _while_better(trial, _in_time(_of_all(trial.z, counts, seed), limit))
        if c is not None:
            yield from _while_better(trial, _in_time(_of_each(trial.z, c, counts, seed), limit))


def _in_time(candidates: _Latents, limit: Deadline) -> _Latents:
    """Yield candidates, the first in any case, as long as one of twice the size would be ready and judged in time."""
    began = time.monotonic()
    for candidate in candidates:
        yield candidate
        took = time.monotonic() - began
        if limit.left() < _GROWTH * took:
            break
        began = time.monotonic()


def _while_better(trial: _Trial, candidates: _Latents) -> _Latents:
    """Yield candidates until some in a row are no better for held-out codes."""
    best, without = -math.inf, 0
    for part, lazy in candidates:
        yield part, lazy
        value = float(lazy(trial.held_out_context).log_prob(trial.held_out_codes).detach().mean())
        best, without = max(best, value), 0 if value > best else without + 1
        if without == _PATIENCE:
            break


def _of_all(z: Float[Tensor, "n d"], counts: Sequence[int], seed: int) -> _Latents:
    """Yield mixtures of more and more components."""
    most = max(1, z.shape[0] // (_ROWS_PER_COMPONENT * z.shape[1]))
    most = min(most, max(_MANY, z.shape[0] // _ROWS_FOR_MANY))
    for components in (k for k in counts if k <= most):
        yield Part(kind="mixture", components=components), fit_mixture(z, components, seed=seed)


def _of_each(z: Float[Tensor, "n d"], c: Float[Tensor, "n C"], counts: Sequence[int], seed: int) -> _Latents:
    """Yield mixtures of more and more components for each context, where these are few and each has rows enough."""
    contexts, which = torch.unique(c, dim=0, return_inverse=True)
    most = min(_MANY_OF_EACH, int(which.bincount().min()) // (_ROWS_PER_COMPONENT * z.shape[1]))
    if not 1 < len(contexts) <= _MOST_CONTEXTS:
        return
    for components in (k for k in counts if k <= most):
        size = {"contexts": len(contexts), "components": components}
        lazy = latents.Mixtures(z.shape[1], c.shape[1], **size).to(z)
        lazy.contexts = contexts.to(z)
        each = [fit_mixture(z[which == k], components, seed=seed) for k in range(len(contexts))]
        for name in ("logits", "means", "scale_tril"):
            setattr(lazy, name, torch.stack([getattr(found, name) for found in each]))
        yield Part(kind="mixtures", **size), lazy
