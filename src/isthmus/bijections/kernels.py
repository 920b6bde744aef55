"""Kernel expansions in place of networks: smooth functions of few parameters, for tables of few rows."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.errors import InputError

__all__ = ["KERNELS", "KernelConditioner"]

_MOST_ROWS = 1_000  # whose distances give the first length
_JITTER = 0.1  # standard deviations, of points that stand for a row once more


def _squared_exponential(squares: Tensor) -> Tensor:
    return (-squares / 2).exp()


def _matern(squares: Tensor) -> Tensor:
    r = (5 * squares).clamp_min(1e-20).sqrt()  # the slope in `squares` is finite at 0, that of the root is not
    return (1 + r + r.square() / 3) * (-r).exp()


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"squared_exponential": _squared_exponential, "matern": _matern}
"""Name -> kernel, a function of the squared distance in lengths; `matern` is Matern-5/2, twice differentiable."""


class KernelConditioner(nn.Module):
    """A function of inputs as a sum of kernels around N points: `f(u) = sum_i k(u, u_i) A_i`.

    Points `u_i`, a length for each input and the weights `A_i` are learnt. `A = 0` untrained, so that f is 0; rows that
    start it lend their inputs as points, and the median of their distances as the length. Far from all points f is 0:
    tails stay as they are.

    Args:
        inputs: number of inputs, >= 1.
        outputs: number of outputs.
        points: N >= 1.
        kernel: a name in `KERNELS`.

    Raises:
        InputError: there is no input.

    References:
        English, Kirchler, Lippert (2023), Kernelised Normalising Flows, arXiv 2307.14839.

    Example:
        >>> conditioner, u = KernelConditioner(2, 3, points=5), torch.randn(50, 2)
        >>> conditioner.start(u)
        >>> conditioner(u).abs().sum()
        tensor(0., grad_fn=<SumBackward0>)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        points: int = 50,
        kernel: Literal["squared_exponential", "matern"] = "squared_exponential",
    ) -> None:
        super().__init__()
        if inputs < 1:
            raise InputError(f"expected at least 1 input of a kernel; got {inputs}; use a network")
        self.kernel = KERNELS[kernel]
        self.points = nn.Parameter(torch.randn(points, inputs))
        self.log_lengths = nn.Parameter(torch.full((inputs,), 0.5 * math.log(inputs)))
        self.weights = nn.Parameter(torch.zeros(points, outputs))

    @torch.no_grad()
    def start(self, u: Float[Tensor, "batch inputs"]) -> None:
        """Set points and lengths from the inputs of rows: as many of these, and the median of their distances.

        Args:
            u: inputs, (batch, inputs).
        """
        n = len(self.points)
        index = torch.cat([torch.randperm(len(u), device=u.device) for _ in range(math.ceil(n / len(u)))])[:n]
        again = (torch.arange(n, device=u.device) >= len(u)).unsqueeze(1)
        self.points.copy_(u[index] + again * _JITTER * u.std(0, correction=0) * torch.randn_like(u[index]))
        some = u[:: max(1, math.ceil(len(u) / _MOST_ROWS))]
        distances = torch.pdist(some)
        distances = distances[distances > 0]
        if len(distances):
            self.log_lengths.fill_(float(distances.median().log()))

    def forward(self, u: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """Return the function at inputs, (batch, outputs)."""
        lengths = self.log_lengths.exp()
        squares = (u.unsqueeze(-2) / lengths - self.points / lengths).square().sum(-1)  # exact where two points meet
        return self.kernel(squares) @ self.weights
