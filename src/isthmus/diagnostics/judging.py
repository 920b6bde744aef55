"""What is a healthy value? Measurements held against limits, with one sentence on what is wrong and what to do.

The limits stand in one table, with the reason of each: what was measured on 73 fits. "Healthy" are the default recipe
on sine, sphere and random manifolds of 3, 4 and 6 dimensions with noise 0.01 to 0.3, on scikit-learn's digits (d = 10),
iris and breast cancer, on penbased (12), satimage (10), texture (20) and magic (6), up to three seeds each, and the
publication's Gaussian in the plane, N(0, diag(1, 0.09)), with the off-manifold surrogate at beta 1 and 10. "The
pathology" is that Gaussian with the on-manifold surrogate at beta 1 and 5.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from isthmus.density import Ambient, Density
from isthmus.diagnostics.health import STATUSES, Health, Status, Verdict
from isthmus.diagnostics.likelihood import (
    Generalisation,
    GradientQuality,
    TwoSample,
)
from isthmus.diagnostics.measuring import Measurements
from isthmus.flow import Flow, Injection, LearnedManifold, in_double
from isthmus.rows import Rows

__all__ = ["CHECKS", "LIMITS", "Check", "Limits", "examine", "judge", "steadiness"]

_FEWEST_ROWS = 5  # held out; with fewer nothing is said
_FEW_ROWS = 50  # held out; with fewer, tests between samples only warn
_P_VALUE = 0.01
_GAIN = 1.25  # how many times the floor of pieces of twice the dimension the residual must be for d to be too small
_ON_MANIFOLD = "encoder_on_manifold"
_MORE_ROWS = "give more rows, narrower networks or more weight decay"
_DECODER_SIDE = ("decoder", "conjugate_gradient")


class Limits(NamedTuple):
    """Where a value warns and where it fails; large values are bad if `fail` is above `warn`, else small ones."""

    warn: float
    fail: float

    def status(self, value: float) -> Status:
        """Return the status that a value deserves; one that is not finite fails."""
        if not math.isfinite(value):
            return "fail"
        sign = 1 if self.fail > self.warn else -1
        return "fail" if sign * (value - self.fail) >= 0 else "warn" if sign * (value - self.warn) >= 0 else "ok"


LIMITS: dict[str, Limits] = {
    # Share of the steps that were left out, their gradient not being finite. Healthy 0; one retreat is 3 in 2,000.
    "training": Limits(0.001, 0.05),
    # Correlation dimension / d. Right d: 0.2 .. 1.3. Half or less of the right d: 1.56 (3 of 6) .. 3.0 (1 of 3). Blind
    # where the true d is above 6 or so: that many dimensions cannot be counted with 10,000 rows.
    "latent_dim": Limits(1.4, 1.5),
    # Curvature x sigma. Healthy 0.001 .. 0.18; the pathology 0.39 and 0.57, beta too low on the same data up to 1.5.
    "curvature": Limits(0.25, 0.38),
    # 2 beta sigma^2, sigma^2 the noise floor. At 1 there is no incentive to reconstruct worse than the floor (Sorrenson
    # et al. 2024, appendix): sufficient, not necessary. Gaussian: 0.19 healthy; 0.057, 0.019 and 0.002 not.
    "beta": Limits(0.5, 0.1),
    # Residual / floor, two standard errors deducted. Healthy 0.01 .. 1.26; beta too low 2.07 .. 10, the pathology 2.2
    # .. 3.8, torus and swiss roll that one Gaussian chart does not cover 1.9 .. 77.
    "reconstruction": Limits(1.5, 2.0),
    # |f' - g'^+| / |g'^+|. Healthy 0.01 .. 1.1; d too small up to 1.5, the pathology 1.6 .. 3.9.
    "pseudo_inverse": Limits(1.2, 2.5),
    # Cosine of the surrogate's gradient with the exact one. Healthy 0.95 .. 1; the pathology -0.1 .. 0.56. For
    # `conditional`, against the nearest sum of both exact ones, 0.92 .. 0.95 on digits, texture and penbased.
    "gradient": Limits(0.85, 0.6),
    # Share of the latent directions below the noise. Healthy 0 .. 0.05. A surplus direction learns the noise itself and
    # stands just above it, so a d that is a little too large is not seen here.
    "spectrum": Limits(0.25, math.inf),
    # Energy distance as a share of its maximum. Simulated, 1 to 60 dimensions: a scale wrong by a quarter 0.006, a
    # shift by a quarter of a standard deviation in every direction 0.015, by half of one 0.06. Healthy 0 .. 0.007.
    "codes": Limits(0.01, 0.03),
    # |log| of the codes' over the latent's standard deviation. Healthy 0.01 .. 0.37; the pathology up to 1.6.
    "code_scale": Limits(0.4, math.inf),
    "samples": Limits(0.01, 0.03),
    # Distance of samples to the nearest training row / that of held-out rows. Healthy 0.94 .. 1.3; blurred up to 2.8.
    "nearest": Limits(1.5, 2.0),
    # Nats per column by which training rows are above held-out rows, less three standard errors. Healthy up to 0.14.
    "generalisation": Limits(0.25, 1.0),
    # Training residual / held-out residual. Healthy 0.67 and more; breast cancer with its 512 rows 0.2.
    "residuals": Limits(0.5, 0.0),
    # Mean |linearised - importance-sampled| / d in nats. Healthy 0 .. 0.07; d too small 0.21 .. 1, the pathology 0.28
    # .. 0.8.
    "density": Limits(0.15, 0.25),
}


def examine(
    density: Density,
    train: Rows,
    held_out: Rows,
    *,
    beta: float | None,
    surrogate: str | None,
    seed: int = 0,
) -> Health:
    """Measure everything on at most 1,000 rows of each kind, and judge it.

    Args:
        density: of prepared rows; a float64 copy is used.
        train: the rows that it was fitted to, as they were trained on: integer columns spread.
        held_out: other rows, likewise.
        beta: weight of the squared reconstruction error at the end of training, None if there was none.
        surrogate: a key of `isthmus.volume.ESTIMATORS`, None if no surrogate was used.
        seed: of everything that is drawn; the global random state is left as it was.

    Returns:
        The verdicts.

    Example:
        >>> from isthmus.density import IsotropicNoise
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import mlp_pair
        >>> ambient = Ambient(FreeFormFlow(*mlp_pair(3, 1, width=8), 3, 1), IsotropicNoise(3, 0.1))
        >>> rows = Rows(torch.randn(200, 3) * torch.tensor([1.0, 0.1, 0.1]))
        >>> health = examine(ambient, rows, rows, beta=10.0, surrogate="encoder")  # networks as they were drawn
        >>> health.status, "reconstruction" in [verdict.name for verdict in health.failing]
        ('fail', True)
    """
    density = in_double(copy.deepcopy(density)).eval().requires_grad_(requires_grad=False)
    n = min(len(train), len(held_out))
    if n < _FEWEST_ROWS:
        return Health((Verdict("rows", "warn", n, _FEWEST_ROWS, f"{n} rows are too few to say anything; give more"),))
    found = Measurements(density, train, held_out, beta, surrogate, seed)
    if bad := _not_finite(density, found.outside):
        return Health((bad,))
    return Health(judge(found))


@torch.no_grad()
def _not_finite(density: Density, rows: Rows) -> Verdict | None:
    """Return the verdict on a flow that gives rows no finite reconstruction, or none of them a density; else None."""
    flow = density.flow
    if isinstance(flow, Injection):
        good, what = flow.reconstruct(rows.x, rows.c).isfinite().all(1), "have no finite reconstruction"
    else:
        good, what = ~density.log_prob(rows.x, rows.c).isnan(), "have no log density"
    bad = float((~good).double().mean())
    sentence = f"{bad:.0%} of the held-out rows {what}; lower the learning rate"
    return Verdict("finite", "fail", bad, 0.0, sentence) if bad else None


def steadiness(steps: int, skipped: int, retreats: int) -> Verdict:
    """Judge whether training was steady: how many of its steps were left out.

    Args:
        steps: number of steps made.
        skipped: how many of them were left out, their gradient not being finite.
        retreats: how often training went back to earlier weights and halved the learning rate.

    Returns:
        The verdict `training`.

    Example:
        >>> steadiness(2000, 0, 0).status, steadiness(40, 27, 9).status
        ('ok', 'fail')
    """
    finding = (
        f"{skipped:,} of {steps:,} steps were left out, their gradient not finite, and the learning rate halved "
        f"{retreats} times"
        if skipped
        else "every step had a finite gradient"
    )
    advice = "lower the learning rate, or look for extreme values in the data"
    return _verdict("training", finding, advice, (skipped / max(1, steps), LIMITS["training"]))


def judge(found: Measurements) -> tuple[Verdict, ...]:
    """Hold measurements against `LIMITS`, causes before symptoms, as far as `CHECKS` apply.

    Args:
        found: of a fit.

    Returns:
        The verdicts.
    """
    kinds = found.density, found.flow
    judged = (check.judge(found) for check in CHECKS.values() if any(isinstance(kind, check.needs) for kind in kinds))
    return tuple(verdict for verdict in judged if verdict is not None)


def _safe_beta(found: Measurements) -> float:
    """Return 1/(2 sigma^2), above which nothing is gained by reconstructing worse than the noise floor.

    Where d is too small the noise floor of flat pieces is not the noise: the model's own residual is taken.
    """
    dimension = _latent_dim(found)
    wrong = dimension is not None and dimension.status == "fail"
    return 0.5 / (found.reconstruction.held_out if wrong else found.reconstruction.floor)


def _latent_dim(found: Measurements) -> Verdict | None:
    d = found.flow.latent_dim
    if math.isnan(found.dimension):
        return None
    gain = found.reconstruction.held_out > _GAIN * found.noise
    finding = f"beyond the noise the data have about {found.dimension:.1f} dimensions, latent_dim is {d}"
    advice = f"raise it to {max(d + 1, round(found.dimension))}"
    measured = (found.dimension / d, LIMITS["latent_dim"])
    return _verdict("latent_dim", finding, advice, measured, most="fail" if gain else "warn")


def _beta(found: Measurements) -> Verdict | None:
    if found.beta is None:
        return None
    safe = _safe_beta(found)
    share, limits = found.beta / safe, LIMITS["beta"]
    finding = f"beta is {found.beta:.3g}, {share:.2g} times the noise floor's 1/(2 sigma^2)"
    if _blurred(found):
        limits = Limits(limits.warn, limits.warn)
    return _verdict("beta", finding, f"raise it to about {safe:.2g}", (share, limits))


def _curvature(found: Measurements) -> Verdict:
    curved, safe = found.curvature, _safe_beta(found)
    share = 0.0 if found.beta is None else found.beta / safe
    if found.surrogate == _ON_MANIFOLD and (share < 1 or _blurred(found)):
        finding = "the on-manifold surrogate pays for curvature without bound, until the data project onto few points"
        advice = f"use surrogate 'encoder', or beta above {safe:.2g}"
        measured = (share, Limits(1, 1)) if share < 1 else (_excess(found), LIMITS["reconstruction"])
        return _verdict("curvature", finding, advice, measured)
    finding = (
        f"the manifold turns by {curved.per_length:.2g} rad per unit of length, by {curved.times_noise:.2g} within one "
        "standard deviation of the noise"
    )
    advice = "points have no clear place on it: raise beta, or lower latent_dim"
    measured = (curved.times_noise, LIMITS["curvature"])
    # a residual far above the noise makes any manifold look curved: then that is what is wrong
    return _verdict("curvature", finding, advice, measured, most="warn" if _blurred(found) else "fail")


def _excess(found: Measurements) -> float:
    return found.reconstruction.excess - 2 * found.reconstruction.standard_error


def _blurred(found: Measurements) -> bool:
    return LIMITS["reconstruction"].status(_excess(found)) == "fail"


def _reconstruction(found: Measurements) -> Verdict:
    fit, causes = found.reconstruction, (_latent_dim(found), _curvature(found), _beta(found))
    explained = any(verdict is not None and verdict.status == "fail" for verdict in causes)
    finding = f"held-out residuals are {fit.excess:.2g} times the noise floor, {fit.unexplained:.2g} of the variance"
    advice = "follow the advice above" if explained else "train longer or with wider networks, or raise latent_dim"
    return _verdict("reconstruction", finding, advice, (_excess(found), LIMITS["reconstruction"]))


def _pseudo_inverse(found: Measurements) -> Verdict:
    pair = found.pseudo_inverse
    finding = f"the encoder is off the decoder's pseudo-inverse by {pair.gap:.0%}, tr(f'g')/d is {pair.trace:.2f}"
    return _verdict("pseudo_inverse", finding, "raise beta or train longer", (pair.gap, LIMITS["pseudo_inverse"]))


def _gradient(found: Measurements) -> Verdict | None:
    if found.surrogate is None:
        return None
    cosine = _cosine(found.gradient, found.surrogate)
    finding = f"the surrogate's gradient has cosine {cosine:.2f} with the exact one"
    return _verdict("gradient", finding, "it does not follow the likelihood: raise beta", (cosine, LIMITS["gradient"]))


def _spectrum(found: Measurements) -> Verdict:
    above, d = found.spectrum.above_noise, found.flow.latent_dim
    finding = f"{above:.3g} of {d} latent directions stand out of the noise"
    advice = f"lower latent_dim to about {max(1, round(above))}"
    return _verdict("spectrum", finding, advice, (1 - above / d, LIMITS["spectrum"]))


def _cosine(quality: GradientQuality, surrogate: str | None) -> float:
    """Return the cosine with the gradient that the surrogate stands for; `conditional` stands for either, by probe."""
    if surrogate == "conditional":
        return quality.either
    return quality.decoder if surrogate in _DECODER_SIDE else quality.encoder


def _density(found: Measurements) -> Verdict:
    density = found.agreement
    finding = f"linearised and importance-sampled log densities differ by {density.spread:.2g} nats a row"
    advice = f"report the importance-sampled one; the linearised is off by {density.bias:+.2g}"
    return _verdict("density", finding, advice, (density.spread / found.flow.latent_dim, LIMITS["density"]))


def _generalisation(found: Measurements) -> Verdict:
    finding, excess = _gap(found.generalisation, found.flow.data_dim)
    measured = [(excess, LIMITS["generalisation"])]
    if isinstance(found.flow, LearnedManifold):
        fit = found.reconstruction
        ratio = fit.train / max(fit.held_out, 1e-300)
        finding = f"{finding}, their residuals {ratio:.2g} times as large"
        measured.append((ratio, LIMITS["residuals"]))
    return _verdict("generalisation", finding, _MORE_ROWS, *measured)


def _gap(found: Generalisation, data_dim: int) -> tuple[str, float]:
    """Return how far training rows are above held-out rows: in words, and in nats a column past 3 standard errors."""
    finding = f"training rows are {found.gap:.2g} nats above held-out rows in log density"
    return finding, (found.gap - 3 * found.standard_error) / data_dim


def _significant(test: TwoSample) -> float:
    return test.share if test.p_value <= _P_VALUE else 0.0


def _at_worst(found: Measurements) -> Status:
    """Return how bad a test between samples may be called: with few rows it only warns."""
    return "warn" if len(found.outside) < _FEW_ROWS else "fail"


def _codes(found: Measurements) -> Verdict:
    law = found.codes
    finding = f"codes are off the latent density by {max(0.0, law.energy.share):.1%} in energy distance"
    measured = (_significant(law.energy), LIMITS["codes"]), (law.scale, LIMITS["code_scale"])
    return _verdict("codes", finding, "refit the latent density", *measured, most=_at_worst(found))


def _samples(found: Measurements) -> Verdict:
    law = found.samples
    finding = (
        f"samples are off held-out rows by {max(0.0, law.energy.share):.1%} in energy distance, and {law.nearest:.2f} "
        "times as far from training rows"
    )
    nearest = 1.0 if math.isnan(law.nearest) else law.nearest
    limits, advice = LIMITS["nearest"], "look at reconstruction and latent_dim before using them"
    if not isinstance(found.flow, Injection):  # its likelihood sees a blur too, but not that rows repeat, as places do
        limits, advice = limits._replace(fail=math.inf), "train it for longer, or give it more transforms or bins"
    measured = (_significant(law.energy), LIMITS["samples"]), (nearest, limits)
    return _verdict("samples", finding, advice, *measured, most=_at_worst(found))


def _verdict(name: str, finding: str, advice: str, *measured: tuple[float, Limits], most: Status = "fail") -> Verdict:
    """Return the worst of some values, each with its limits, as a verdict; at most as bad as `most`."""
    value, limits = max(measured, key=lambda pair: STATUSES.index(pair[1].status(pair[0])))
    reached = limits.status(value)
    status = min(reached, most, key=STATUSES.index)
    sentence = finding if status == "ok" else f"{finding}; {advice}"
    return Verdict(name, status, value, limits.fail if reached == "fail" else limits.warn, sentence)


class Check(NamedTuple):
    """A diagnostic, and what it asks for: a kind of density or of flow."""

    needs: type[Density] | type[Flow]
    judge: Callable[[Measurements], Verdict | None]


CHECKS: dict[str, Check] = {
    "latent_dim": Check(Ambient, _latent_dim),
    "curvature": Check(Ambient, _curvature),
    "beta": Check(Ambient, _beta),
    "reconstruction": Check(Ambient, _reconstruction),
    "pseudo_inverse": Check(Ambient, _pseudo_inverse),
    "gradient": Check(Ambient, _gradient),
    "spectrum": Check(Ambient, _spectrum),
    "codes": Check(Injection, _codes),
    "samples": Check(Flow, _samples),
    "generalisation": Check(Flow, _generalisation),
    "density": Check(Ambient, _density),
}
"""Name -> check, causes before symptoms."""
