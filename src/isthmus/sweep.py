"""Which latent dimension? A ladder of short trainings, decided by held-out ambient log density.

The ambient density is normalised on R^D whatever d is, so its held-out mean can be compared across d. A start comes
from distances alone: the number of dimensions that the data show beyond their noise (`correlation_dimension`, at the
noise that flat pieces of so many dimensions leave), or the estimate from near neighbours where that is smaller. From
one rung below the start the ladder climbs by a factor of 1.6, each rung a short training from the principal components
and a refit of the density, until two rungs in a row gain nothing. The smallest d within two standard errors of the best
is taken, so that dimensions that gain nothing are not taken up.

At most D - 1 dimensions are considered, at most 64, and no direction in which standardised columns vary by less than
0.3 % of a standard deviation: that is a linear constraint between columns, not a dimension.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.diagnostics import correlation_dimension, flat_pieces, intrinsic_dimension
from isthmus.flow import Flow
from isthmus.recipe import DensityRecipe, Recipe
from isthmus.refit import Rows, refit_density
from isthmus.training import Spread, train

__all__ = ["Sweep", "latent_dim_start", "sweep_latent_dim"]

_RATIO = 1.6
_PATIENCE = 2
_STANDARD_ERRORS = 2.0
_STEPS = 600
_ROWS = 4_000
_HELD_OUT_ROWS = 500
_LARGEST_START = 24
_LARGEST = 64
_CONSTRAINT = 1e-5  # of a variance


@dataclass(frozen=True)
class Sweep:
    """The chosen latent dimension, and the held-out log density of every one that was tried.

    Attributes:
        chosen: d.
        curve: for each d tried `latent_dim`, the held-out mean `log_likelihood` in nats per row of standardised
            columns, and the `standard_error` of its difference from the best.
    """

    chosen: int
    curve: tuple[dict[str, float], ...]


def latent_dim_start(x: Float[Tensor, "n D"]) -> int:
    """A first guess at the latent dimension, from distances between rows alone.

    The smallest d at which the correlation dimension, at distances beyond the noise that flat pieces of d dimensions
    leave, is no more than d; the estimate from near neighbours where that is smaller (noise raises that one).

    Args:
        x: standardised data, (n, D), n >= 3.

    Returns:
        A number in 1 .. D.

    Example:
        >>> plane = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 9)
        >>> latent_dim_start(plane)
        2
    """
    near = max(1, round(intrinsic_dimension(x)))
    tenth = max(1, len(x) // 10)
    most = min(near, _LARGEST_START)
    pieces = flat_pieces(x[tenth:], x[:tenth], most)
    for d in range(1, most):
        seen = correlation_dimension(x, pieces.variance(d))
        if round(seen if seen == seen else near) <= d:
            return d
    return near


def sweep_latent_dim(
    build: Callable[[int], Flow], recipe: Recipe, rows: Rows, drawn: Rows, held_out: Rows, spread: Spread | None = None
) -> Sweep:
    """Train a flow of each of some latent dimensions for a short while, and let held-out rows choose.

    Args:
        build: the untrained flow of a latent dimension.
        recipe: the run's recipe; its objective, training, density and seed are used.
        rows: standardised training rows.
        drawn: the same as single draws, for the refit: weights and integer columns spread; at most 4,000 are used.
        held_out: standardised rows that decide, integer columns spread; at most 500 are used.
        spread: what training spreads integer columns by, see `train`.

    Returns:
        The chosen dimension and the curve.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import skip_pair
        >>> x = torch.randn(120, 4) * torch.tensor([1.0, 1.0, 0.02, 0.02])
        >>> build = lambda d: FreeFormFlow(*skip_pair(4, d, width=8), 4, d)
        >>> sweep = sweep_latent_dim(build, Recipe.parse("training: {max_steps: 20}"), Rows(x), Rows(x), Rows(x))
        >>> sweep.chosen in [record["latent_dim"] for record in sweep.curve]
        True
    """
    some = held_out.thinned(_HELD_OUT_ROWS)
    scores: dict[int, Tensor] = {}
    best, without = -float("inf"), 0
    for d in _ladder(rows.x):
        scores[d] = _score(build(d), recipe, (rows, drawn.thinned(_ROWS), some), spread)
        value = float(scores[d].mean())
        best, without = max(best, value), 0 if value > best else without + 1
        if without == _PATIENCE:
            break
    top = max(scores, key=lambda d: float(scores[d].mean()))
    curve, chosen = [], top
    for d, score in sorted(scores.items()):
        loss = scores[top] - score
        error = float(loss.std(correction=0)) / len(loss) ** 0.5
        curve.append({"latent_dim": d, "log_likelihood": float(score.mean()), "standard_error": error})
        if d < chosen and float(loss.mean()) <= _STANDARD_ERRORS * error:
            chosen = d
    return Sweep(chosen, tuple(curve))


def _ladder(x: Float[Tensor, "n D"]) -> Iterator[int]:
    n, D = x.shape
    variances = torch.linalg.eigvalsh(x.mT.cov(correction=0).reshape(D, D))
    top = max(1, min(D - 1, int((variances > _CONSTRAINT * variances.mean()).sum()), n // 2, _LARGEST))
    d = min(top, max(1, round(latent_dim_start(x) / _RATIO)))
    yield d
    while d < top:
        d = min(top, max(d + 1, round(_RATIO * d)))
        yield d


def _score(flow: Flow, recipe: Recipe, data: tuple[Rows, Rows, Rows], spread: Spread | None) -> Float[Tensor, " m"]:
    """Held-out log density of each row after a short training and a refit."""
    rows, drawn, held_out = data
    steps = recipe.training.max_steps
    short = {"max_steps": _STEPS if steps == "auto" else max(1, min(_STEPS, steps // 4)), "validations": 6}
    train(
        flow,
        recipe.build_objective(),
        rows,
        held_out,
        settings=recipe.training.model_copy(update=short),
        spread=spread,
        seed=recipe.seed,
    )
    choice = DensityRecipe(latent="mixture")
    ambient = refit_density(flow, drawn, held_out, choice, seed=recipe.seed).ambient
    return ambient.linearised(held_out.x, held_out.c)
