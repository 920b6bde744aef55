"""The contract of a density of prepared rows, and the simplest one: the flow's own law."""

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from isthmus.errors import InputError
from isthmus.flow import Context, Estimate, Flow, Injection
from isthmus.rows import Rows
from isthmus.supports import Support

__all__ = ["Density", "Own", "likely"]

CANDIDATES = 16  # draws a row where only likely ones are kept


class Density(nn.Module, ABC):
    """The probability density of a prepared row, given a flow.

    Implementing one: name its evaluations in `names`, the usual one first, and write the abstract methods.

    Attributes:
        names: of the ways to evaluate it; `own` where there is one alone.
        flow: the flow.
    """

    names: ClassVar[tuple[str, ...]]
    flow: Flow

    @property
    @abstractmethod
    def rows(self) -> Support:
        """The support that rows lie on, whose measure the density is with respect to."""

    @abstractmethod
    def log_prob(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, " batch"]:
        """Return the log density at x by the usual evaluation, (batch,) in nats."""

    @abstractmethod
    def estimate(
        self, x: Float[Tensor, "batch D"], c: Context = None, *, n_points: int = 128, seed: int = 0
    ) -> Estimate:
        """Return the log density at x, the most faithful there is, with its standard error, (batch,) in nats."""

    @abstractmethod
    def sample(
        self, n: int, c: Context = None, *, noise: bool = True, temperature: float = 1.0, truncation: float = 1.0
    ) -> Float[Tensor, "n D"]:
        """Draw rows, (n, D), with a context one for each of its rows.

        Args:
            n: number of rows.
            c: context, one row for each of the n, or None.
            noise: whether rows lie off a learned manifold; without effect where there is none.
            temperature: scale >= 0 of codes about their modes, and of the noise; colder rows are more typical.
            truncation: share in (0, 1] of the draws to keep, the likeliest ones; see `likely`.
        """

    @abstractmethod
    def score(self, rows: Rows) -> dict[str, float]:
        """Return what held-out rows say in training: `log_density`, their mean in nats, and other figures."""


@final
class Own(Density):
    """The flow's own law, where that is a law of rows: on R^n, on a known surface, of categories.

    Args:
        flow: any flow that is no learned manifold.

    Example:
        >>> from isthmus.flows import BijectiveFlow
        >>> own = Own(BijectiveFlow(2, 2, width=8))
        >>> own.log_prob(torch.zeros(3, 2)).shape, own.rows.measure
        (torch.Size([3]), 'volume')
    """

    names = ("own",)

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    @property
    def rows(self) -> Support:
        """The support of the flow."""
        return self.flow.rows

    @torch.no_grad()
    def log_prob(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, " batch"]:
        """Return the log density of the law, an estimate where it has no closed form, (batch,) in nats."""
        return self.flow.log_prob(x, c) if self.flow.exact else self.flow.estimate(x, c).value

    @torch.no_grad()
    def estimate(
        self, x: Float[Tensor, "batch D"], c: Context = None, *, n_points: int = 128, seed: int = 0
    ) -> Estimate:
        """Return the flow's own estimate, (batch,) in nats."""
        return self.flow.estimate(x, c, n_points=n_points, seed=seed)

    @torch.no_grad()
    def sample(
        self, n: int, c: Context = None, *, noise: bool = True, temperature: float = 1.0, truncation: float = 1.0
    ) -> Float[Tensor, "n D"]:
        """Draw rows of the law, (n, D); see `Density.sample`."""
        if truncation == 1:
            return self.flow.sample(n, c, temperature=temperature)
        many, repeated = n * CANDIDATES, None if c is None else c.repeat_interleave(CANDIDATES, 0)
        if isinstance(self.flow, Injection) and self.flow.refits:  # by the density of codes, as for learned manifolds
            z = self.flow.draw(many, repeated, temperature=temperature)
            kept = likely(self.flow.base(repeated).log_prob(z).reshape(n, CANDIDATES), truncation)
            return self.flow.decode(z[kept], c)
        x = self.flow.sample(many, repeated, temperature=temperature)
        return x[likely(self.log_prob(x, repeated).reshape(n, CANDIDATES), truncation)]

    @torch.no_grad()
    def score(self, rows: Rows) -> dict[str, float]:
        """Return the mean log density of held-out rows, and the squared error where the decoder is no inverse."""
        figures = {"log_density": float(self.log_prob(rows.x, rows.c).mean())}
        if isinstance(self.flow, Injection) and not self.flow.exact:
            error = (rows.x - rows.map(self.flow.reconstruct)).square().sum(1).mean()
            figures["reconstruction"] = float(error)
        return figures


def likely(log_prob: Float[Tensor, "n m"], share: float) -> Int[Tensor, " n"]:
    """Choose one of m candidates in each of n rows: any of the likeliest `share`, a whole number and one at least.

    Args:
        log_prob: log density of each candidate, (n, m).
        share: in (0, 1].

    Returns:
        The number of the candidate among all n m of them, (n,).

    Raises:
        InputError: the share is not in (0, 1].

    Example:
        >>> likely(torch.tensor([[-3.0, -1.0, -2.0], [-1.0, -2.0, -3.0]]), 0.3)
        tensor([1, 3])
    """
    if not 0 < share <= 1:
        raise InputError(f"expected a share of the codes in (0, 1] to draw from; got {share}; 1 leaves none out")
    n, m = log_prob.shape
    order = log_prob.argsort(1, descending=True)
    chosen = torch.randint(max(1, round(share * m)), (n, 1), device=log_prob.device)
    return order.gather(1, chosen).squeeze(1) + torch.arange(0, n * m, m, device=log_prob.device)
