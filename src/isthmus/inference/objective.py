"""Training by a log density instead of rows: the reverse Kullback-Leibler divergence, with a temperature."""

from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.errors import InputError
from isthmus.flow import Context, Flow
from isthmus.objective import Objective, Terms, Weight
from isthmus.rows import Rows

__all__ = ["LogDensity", "ReverseKL", "conditions"]

LogDensity = Callable[[Tensor, Context], Tensor]
"""Function from points (batch, columns) and conditions (batch, C) or None to unnormalised log densities (batch,)."""

_JUDGING_DRAWS = 64  # a condition


@final
class ReverseKL(Objective):
    """The reverse Kullback-Leibler divergence from a flow to an unnormalised density: variational inference.

    `E_q [T log q(x | c) - log p(x | c)] / max(T, 1)` at draws x of the flow, with a temperature T that falls from
    `start` to `end` over the warm-up of the training: at a high one all modes of p are found, at 1 the law is p itself,
    and near 0 its highest mode. Rows of the training are conditions: they have no columns of data, see `conditions`.

    Args:
        log_density: log p up to a constant, differentiable, of points on the support of the flow.
        start: first temperature, > 0.
        end: last temperature, > 0; 1 for the law of p.
        draws: points a condition and step, >= 1.
        path: whether the gradient goes through the points alone (Roeder, Wu, Duvenaud 2017): no variance at the
            optimum, for one more evaluation of the flow's log density.

    Raises:
        InputError: a temperature is not positive; in use, a flow without differentiable draws.

    References:
        Rezende, Mohamed (2015), Variational inference with normalizing flows, arXiv 1505.05770; Roeder, Wu, Duvenaud
        (2017), Sticking the landing, arXiv 1703.09194.

    Example:
        >>> from isthmus.flows import BijectiveFlow
        >>> objective = ReverseKL(lambda x, c: -x.square().sum(1) / 2)
        >>> list(objective(BijectiveFlow(2, 2), conditions(8).x).parts)
        ['log_density', 'target']
    """

    needs = Flow
    cites = ("rezende2015",)

    def __init__(
        self, log_density: LogDensity, *, start: float = 1.0, end: float = 1.0, draws: int = 1, path: bool = False
    ) -> None:
        if min(start, end) <= 0:
            raise InputError(f"expected temperatures > 0; got {start} and {end}; 1 is the law itself")
        self.log_density, self.start, self.end, self.draws, self.path = log_density, start, end, draws, path

    @classmethod
    def serves(cls, kind: type[Flow]) -> bool:
        """Return whether flows of a kind have differentiable draws with their log density."""
        return kind.rsample_with_log_prob is not Flow.rsample_with_log_prob

    def temperature(self, weight: Weight) -> Any:
        """Return the temperature at a share of the warm-up that has passed, between the two on a logarithmic scale."""
        return self.start ** (1 - weight) * self.end**weight

    def __call__(self, flow: Flow, x: Float[Tensor, "batch 0"], c: Context = None, weight: Weight = 1.0) -> Terms:
        """Return per-condition terms at fresh draws of the flow; `x` has no columns, and says how many."""
        log_q, target = self.draw(flow, len(x), c, draws=self.draws, path=self.path)
        temperature = self.temperature(weight)
        scale = temperature if isinstance(temperature, Tensor) else torch.tensor(temperature).to(log_q)
        total = (scale * log_q - target) / scale.clamp_min(1.0)
        parts = {"log_density": log_q, "target": target}
        mean = {name: value.reshape(len(x), -1).mean(1) for name, value in parts.items()}
        return Terms(total.reshape(len(x), -1).mean(1), mean)

    def draw(self, flow: Flow, n: int, c: Context, *, draws: int, path: bool = False) -> tuple[Tensor, Tensor]:
        """Draw points for each of n conditions.

        Returns:
            The flow's and the target's log density at them, (n x draws,), those of a condition side by side.
        """
        repeated = None if c is None else c.repeat_interleave(draws, 0)
        x, log_q = flow.rsample_with_log_prob(n * draws, repeated)
        if path:
            log_q = _fixed_log_prob(flow, x, repeated)
        return log_q, self.log_density(x, repeated)

    @torch.no_grad()
    def score(self, flow: Flow, held_out: Rows) -> dict[str, float]:
        """Return the evidence lower bound at the last temperature, mean over held-out conditions, at fixed draws."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            log_q, target = self.draw(flow, len(held_out), held_out.c, draws=_JUDGING_DRAWS)
        return {"log_density": float((target - self.end * log_q).mean())}


class _LogProb(nn.Module):
    """A flow's log density as a module, whose parameters can be replaced in a call."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, c: Context) -> Tensor:
        """Return the log density, (batch,)."""
        return self.flow.log_prob(x, c)


def _fixed_log_prob(flow: Flow, x: Tensor, c: Context) -> Tensor:
    """Return the flow's log density, differentiable in x but not in its parameters."""
    fixed = {f"flow.{name}": value.detach() for name, value in flow.named_parameters()}
    return torch.func.functional_call(_LogProb(flow), fixed, (x, c))


def conditions(n: int, c: Context = None) -> Rows:
    """Return n rows without columns of data, for a training that needs none: conditions alone.

    Args:
        n: number of rows.
        c: conditions, (n, C), or None.

    Example:
        >>> conditions(3).x.shape
        torch.Size([3, 0])
    """
    return Rows(torch.empty(n, 0), c)
