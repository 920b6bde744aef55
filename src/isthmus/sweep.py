"""Which latent dimension? Short trainings, decided by held-out ambient log density.

The ambient density is normalised on R^D whatever d is, so its held-out mean can be compared across d. The search starts
at the estimate from near neighbours (`intrinsic_dimension`) and goes by factors of 1.6: up, as long as held-out rows
gain more than one standard error of the difference, then down, as long as they lose no more; then it tries the middles
on both sides. So dimensions that gain nothing are not taken up (the one-standard-error rule of Breiman, Friedman,
Olshen, Stone 1984). Each trial is a short training from the principal components and a refit of the density.

In a limited time it ends at its share of that, wherever it is; where not even one trial fits into it, the estimate
stands.

At most D - 1 dimensions are considered, at most 64, and no direction in which standardised columns vary by less than
0.3 % of a standard deviation: that is a linear constraint between columns, not a dimension.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.deadline import SEARCH, Deadline
from isthmus.density import Density
from isthmus.diagnostics import intrinsic_dimension
from isthmus.flow import Flow, Injection
from isthmus.recipe import Recipe, RefitRecipe
from isthmus.refit import refit_density
from isthmus.rows import Rows
from isthmus.runs import remembered
from isthmus.training import Split, single_thread, train

__all__ = ["Sweep", "judges", "short_fit", "start_latent_dim", "sweep_latent_dim"]

_RATIO = 1.6
_STEPS, _VALIDATIONS = 600, 6
_SHARE_OF_TIME, _SHARE_OF_REFIT = 1 / 20, 1 / 40  # of a given time, for one trial
_SHORTEST_TRIAL = 2.0  # seconds of training; a shorter one tells nothing
_ROWS = 4_000
_HELD_OUT_ROWS = 500
_LARGEST = 64
_COVARIANCE_ROWS = 250_000
_CONSTRAINT = 1e-5  # of a variance


@dataclass(frozen=True)
class Sweep:
    """The chosen latent dimension, and the held-out log density of every one that was tried.

    Attributes:
        chosen: d.
        curve: for each d tried `latent_dim`, the held-out mean `log_likelihood` in nats per row of standardised
            columns, and the `standard_error` of its difference from the chosen one.
    """

    chosen: int
    curve: tuple[dict[str, float], ...]


def sweep_latent_dim(
    build: Callable[[int], Flow],
    recipe: Recipe,
    data: Split,
    *,
    run_dir: Path | None = None,
    deadline: Deadline | None = None,
) -> Sweep:
    """Train a flow of each of some latent dimensions for a short while, and let held-out rows choose.

    Args:
        build: the untrained flow of a latent dimension.
        recipe: the run's recipe; its objective, training and seed are used.
        data: the rows; at most 4,000 are used in the refit, and 500 decide.
        run_dir: where what was found is kept; a search that is found there goes on.
        deadline: of the whole fit; the search ends at its share of it.

    Returns:
        The chosen dimension and the curve.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import skip_pair
        >>> from isthmus.rows import Rows
        >>> x = (torch.randn(120, 4) * torch.tensor([1.0, 1.0, 0.02, 0.02])).double()
        >>> build = lambda d: FreeFormFlow(*skip_pair(4, d, width=8), 4, d)
        >>> sweep = sweep_latent_dim(build, Recipe.parse("training: {max_steps: 20}"), Split(Rows(x), Rows(x), Rows(x)))
        >>> sweep.chosen in [record["latent_dim"] for record in sweep.curve]
        True
    """

    def score(d: int) -> Tensor:
        """Return the log density of each held-out row, after a short training."""

        def measure(folder: Path | None) -> list[float]:
            """Return the log densities as a list, to be kept."""
            return short_fit(build(d), recipe, data, run_dir=folder).log_prob(rows.x, rows.c).tolist()

        return torch.tensor(remembered(run_dir, f"latent_dim_{d}", measure), dtype=torch.float64)

    rows = judges(data)
    search = _Search(score, deadline or Deadline())
    search.run(start_latent_dim(data.train.x), _most(data.train.x))
    return search.sweep()


class _Search:
    """A walk over latent dimensions by the held-out log density of each, (m,) in nats."""

    def __init__(self, score: Callable[[int], Float[Tensor, " m"]], deadline: Deadline) -> None:
        self.score, self.deadline = score, deadline
        self.longest = 0.0  # seconds of a trial
        self.scores: dict[int, Tensor] = {}
        self.chosen = 0

    def run(self, start: int, most: int) -> None:
        """Walk up, else down, then to the middles on both sides of where that ends."""
        self.chosen = start
        if not self._try(start):
            return
        for up in (True, False):
            while (rung := _rung(self.chosen, most, up=up)) not in self.scores and self._takes(rung):
                pass
        ordered = sorted(self.scores)
        place = ordered.index(self.chosen)
        for neighbour in ordered[max(0, place - 1) : place + 2]:
            middle = (ordered[place] + neighbour) // 2
            if middle not in self.scores:
                self._takes(middle)

    def sweep(self) -> Sweep:
        """Return the record of what was found."""
        curve = []
        for d, score in sorted(self.scores.items()):
            record = {"latent_dim": d, "log_likelihood": float(score.mean())}
            curve.append({**record, "standard_error": self._gain(d, self.chosen)[1]})
        return Sweep(self.chosen, tuple(curve))

    def _takes(self, d: int) -> bool:
        """Try d; take a larger one if it gains more than a standard error, a smaller one if it loses no more."""
        if not self._try(d):
            return False
        gain, error = self._gain(d, self.chosen)
        taken = gain > error if d > self.chosen else gain >= -error
        if taken:
            self.chosen = d
        return taken

    def _try(self, d: int) -> bool:
        """Score d; return False where there is no time for it."""
        limit = self.deadline
        expected = max(self.longest, (_SHARE_OF_TIME + _SHARE_OF_REFIT) * limit.seconds if limit.seconds else 0.0)
        if not limit.allows(_SHORTEST_TRIAL / _SHARE_OF_TIME) or limit.left(SEARCH) < expected:
            return False
        began = time.monotonic()
        self.scores[d] = self.score(d)
        self.longest = max(self.longest, time.monotonic() - began)
        return True

    def _gain(self, d: int, other: int) -> tuple[float, float]:
        """Return the mean gain of d over another, and its standard error."""
        gain = self.scores[d] - self.scores[other]
        return float(gain.mean()), float(gain.std(correction=0)) / len(gain) ** 0.5


def start_latent_dim(x: Float[Tensor, "n D"]) -> int:
    """Return where the search starts: the estimate from near neighbours, within what is considered.

    Args:
        x: standardised rows, (n, D).

    Returns:
        d >= 1.

    Example:
        >>> x = torch.randn(300, 2, dtype=torch.float64)
        >>> start_latent_dim(torch.cat([x, x.sin(), 0.1 * x.square()], 1))
        2
    """
    return min(_most(x), max(1, round(intrinsic_dimension(x))))


def _most(x: Float[Tensor, "n D"]) -> int:
    """Return the largest latent dimension that is considered."""
    n, D = x.shape
    x = x[:: max(1, math.ceil(n / _COVARIANCE_ROWS))].to(torch.float64)
    if n < D:  # the covariance of few rows has the eigenvalues of their products, and else zeros
        centred = (x - x.mean(0)) / n**0.5
        variances = torch.linalg.eigvalsh(centred @ centred.mT)
    else:
        variances = torch.linalg.eigvalsh(x.mT.cov(correction=0).reshape(D, D))
    directions = int((variances > _CONSTRAINT * variances.sum() / D).sum())
    return max(1, min(D - 1, directions, n // 2, _LARGEST))


def _rung(d: int, most: int, *, up: bool) -> int:
    return min(most, max(d + 1, round(_RATIO * d))) if up else max(1, min(d - 1, round(d / _RATIO)))


def short_fit(flow: Flow, recipe: Recipe, data: Split, *, steps: int = _STEPS, run_dir: Path | None = None) -> Density:
    """Train for a short while, and refit.

    Args:
        flow: an untrained flow; changed in place.
        recipe: the run's recipe; its objective, training and seed are used.
        data: the rows.
        steps: how long; a quarter of the recipe's own steps at most.
        run_dir: as in `train`.

    Returns:
        The density of standardised rows.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import skip_pair
        >>> from isthmus.rows import Rows
        >>> data = Split(*3 * [Rows(torch.randn(60, 3).double())])
        >>> recipe = Recipe.parse("training: {max_steps: 20}")
        >>> short_fit(FreeFormFlow(*skip_pair(3, 1, width=8), 3, 1), recipe, data).sample(2).shape
        torch.Size([2, 3])
    """
    held_out = judges(data)
    asked, seconds = recipe.training.max_steps, recipe.training.max_time
    short = {
        "max_steps": steps if asked == "auto" else min(steps, math.ceil(asked / 4)),
        "max_time": None if seconds is None else seconds * _SHARE_OF_TIME,
        "validations": _VALIDATIONS,
        "devices": 1,
    }
    train(
        flow,
        recipe.build_objective(),
        data.train,
        held_out,
        settings=recipe.training.model_copy(update=short),
        weights=data.weights,
        spread=data.spread,
        seed=recipe.seed,
        run_dir=run_dir,
    )
    choice = RefitRecipe(latent="mixture" if isinstance(flow, Injection) else "auto")
    with single_thread(flow):
        limit = Deadline(None if seconds is None else seconds * _SHARE_OF_REFIT)
        rows = data.drawn.thinned(_ROWS)
        return refit_density(flow, rows, held_out, choice, seed=recipe.seed, deadline=limit).density


def judges(data: Split) -> Rows:
    """Return the held-out rows that decide between short trainings.

    Args:
        data: the rows of a fit.

    Returns:
        At most 500 of those held out, evenly spaced.

    Example:
        >>> len(judges(Split(*3 * [Rows(torch.zeros(1200, 2))])).x)
        400
    """
    return data.held_out.thinned(_HELD_OUT_ROWS)
