"""What a user would take instead: probabilistic PCA, a Gaussian mixture, a neural spline flow.

Each is trained on standardised rows, integers spread, and returns a log density of standardised rows with what is worth
knowing about it. Rivals choose their size or their best state by the first tenth of the training rows, or by BIC.
"""

import copy
import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from zuko.flows import MAF, NSF, Flow

from benchmarks.sets import Matrix, Split

__all__ = ["LogDensity", "gmm", "maf", "nsf", "ppca"]

LogDensity = Callable[[Matrix], Matrix]  # (rows, D) standardised to (rows,), nats
Rival = tuple[LogDensity, dict[str, Any]]

_MOST_COMPONENTS = 20
_CHECKS = 20  # of the spline flow on the rows kept apart
_ROWS = 1_000  # scored at once
_LEAST_VARIANCE = 1e-6  # of the noise, as the Gaussian mixture has it: exact constraints between columns leave none


def ppca(split: Split, seed: int) -> Rival:
    """Probabilistic PCA; the number of dimensions by the likelihood of a tenth, then fitted to all rows."""
    x = split.standardise(split.spread)
    D, chosen_by = x.shape[1], x[: split.tenth]
    sizes = range(1, min(D, len(x) - split.tenth))

    def fitted(d: int, rows: Matrix) -> PCA:
        return PCA(d, svd_solver="full", random_state=seed).fit(rows)

    def held_out(d: int) -> float:
        model = fitted(d, x[split.tenth :])
        return float(model.score(chosen_by)) if model.noise_variance_ > _LEAST_VARIANCE else -math.inf

    found = {d: held_out(d) for d in sizes}
    d = max((d for d in found if math.isfinite(found[d])), key=lambda d: found[d])
    skipped = [d for d in found if not math.isfinite(found[d])]
    parameters = D + 1 + D * d - d * (d - 1) // 2
    return fitted(d, x).score_samples, {"latent_dim": d, "parameters": parameters, "skipped": skipped}


def gmm(split: Split, seed: int) -> Rival:
    """A Gaussian mixture with full covariances, 1 to 20 components, by the lowest BIC on the training rows."""
    x = split.standardise(split.spread)
    D = x.shape[1]
    found: dict[int, tuple[float, GaussianMixture]] = {}
    skipped, unconverged = {}, []
    for K in range(1, _MOST_COMPONENTS + 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `unconverged`
                mixture = GaussianMixture(K, reg_covar=1e-6, random_state=seed).fit(x)
        except ValueError as error:
            skipped[K] = f"{type(error).__name__}: {error}"
            continue
        found[K] = (float(mixture.bic(x)), mixture)
        if not mixture.converged_:
            unconverged.append(K)
    best = min(found, key=lambda K: found[K][0])
    parameters = best - 1 + best * (D + D * (D + 1) // 2)
    record = {"components": best, "parameters": parameters, "skipped": skipped, "unconverged": unconverged}
    return found[best][1].score_samples, record


def nsf(split: Split, seed: int, budget: float) -> Rival:
    """A neural spline flow (Durkan et al. 2019, arXiv 1906.04032) trained for `budget` seconds.

    Three autoregressive transforms with two hidden layers of 128; Adam, its rate on a cosine from 1e-3 to 0 over the
    time; integers spread anew in every batch; the weights kept are the best of about 20 checks on a tenth of the rows.
    """
    return _trained(partial(NSF, transforms=3, hidden_features=(128, 128), activation=nn.SiLU), split, seed, budget)


def maf(split: Split, seed: int, budget: float) -> Rival:
    """A masked autoregressive flow (Papamakarios et al. 2017, arXiv 1705.07057), trained as the spline flow.

    Five affine transforms with two hidden layers of 512: for many columns, where splines cost too much.
    """
    return _trained(partial(MAF, transforms=5, hidden_features=(512, 512), activation=nn.SiLU), split, seed, budget)


def _trained(build: Callable[[int], Flow], split: Split, seed: int, budget: float) -> Rival:
    torch.manual_seed(seed)
    flow = build(int(split.kept.sum()))
    record = train_flow(flow, split, seed, budget)
    record["parameters"] = sum(parameter.numel() for parameter in flow.parameters())
    flow.double()

    def log_density(u: Matrix) -> Matrix:
        with torch.no_grad():
            values = [flow().log_prob(rows) for rows in torch.from_numpy(u).split(_ROWS)]
        return np.asarray(torch.cat(values))

    return log_density, record


def train_flow(flow: Flow, split: Split, seed: int, budget: float) -> dict[str, Any]:
    """Train in place until the time is over, then put the best weights back."""
    start = time.perf_counter()
    rows, step = (torch.from_numpy(values).float() for values in (split.standardise(split.raw), split.integer_step))
    kept_apart = torch.from_numpy(split.standardise(split.spread[: split.tenth])).float()
    rows, generator = rows[split.tenth :], torch.Generator().manual_seed(seed)
    batch = min(len(rows), max(32, min(512, len(rows) // 8)))
    optimiser = torch.optim.Adam(flow.parameters(), 1e-3)
    best, weights = -math.inf, copy.deepcopy(flow.state_dict())
    steps = skipped = checks = 0
    due = 1  # in units of 1 / _CHECKS of the time
    while (share := (time.perf_counter() - start) / budget) < 1:
        optimiser.param_groups[0]["lr"] = 0.5e-3 * (1 + math.cos(math.pi * share))
        x = rows[torch.randint(len(rows), (batch,), generator=generator)]
        taken = flow_step(flow, optimiser, x + step * (torch.rand(x.shape, generator=generator) - 0.5))
        steps, skipped = steps + 1, skipped + (not taken)
        share = (time.perf_counter() - start) / budget
        if share * _CHECKS >= due:
            checks, due = checks + 1, int(share * _CHECKS) + 1
            with torch.no_grad():
                value = float(flow().log_prob(kept_apart).mean())
            if value > best:
                best, weights = value, copy.deepcopy(flow.state_dict())
    if not math.isfinite(best):
        raise ArithmeticError("the spline flow never had a finite log-likelihood")
    flow.load_state_dict(weights)
    return {"budget": budget, "steps": steps, "skipped_steps": skipped, "checks": checks, "batch_size": batch}


def flow_step(flow: Flow, optimiser: torch.optim.Optimizer, x: Tensor) -> bool:
    """One step of maximum likelihood; False if its gradient was not finite and no step was taken."""
    optimiser.zero_grad()
    (-flow().log_prob(x).mean()).backward()
    norm = nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
    if not bool(norm.isfinite()):
        return False
    optimiser.step()
    return True
