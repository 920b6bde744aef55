"""Couplings: some columns stay, and decide the functions by which the others are moved, one function a column.

With passive columns b and active columns a the Jacobian is triangular, and

    a_i -> f_i(a_i; b),   log |det| = sum_i log f_i'(a_i; b),

the inverse as cheap as the map. What f is, and whether the map keeps volumes:

| function | f(a) | log determinant |
|---|---|---|
| `affine` | `exp(s) a + t`, abs(s) below an explicit bound | sum of s |
| `additive` | `a + t` | 0 |
| `gin` | `exp(s - mean(s)) a + t`, the mean over active columns | 0 |
| `spline` | a monotone rational-quadratic spline of [-5, 5] | of its slopes |

References:
    Dinh, Krueger, Bengio (2014), NICE, arXiv 1410.8516; Dinh, Sohl-Dickstein, Bengio (2017), Real NVP, arXiv
    1605.08803; Sorrenson, Rother, Köthe (2020), GIN, arXiv 2001.04872; Durkan, Bekasov, Murray, Papamakarios (2019),
    Neural spline flows, arXiv 1906.04032.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Transform
from zuko.nn import MLP
from zuko.transforms import (
    AdditiveTransform,
    CouplingTransform,
    DependentTransform,
    MonotonicAffineTransform,
    MonotonicRQSTransform,
)

from isthmus.bijections.contract import Bijection, Context
from isthmus.bijections.kernels import KernelConditioner

__all__ = ["FUNCTIONS", "Coupling"]

_SPLINE_BOUND = 5.0


class _GINTransform(MonotonicAffineTransform):
    """An affine transform whose log scales have mean 0 over the columns, so that volumes stay as they are."""

    log_scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor, slope: float) -> None:
        super().__init__(shift, scale, slope)
        self.log_scale = self.log_scale - self.log_scale.mean(-1, keepdim=True)
        self.scale = self.log_scale.exp()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x)


class _Function(NamedTuple):
    """A function a column: the sizes of its parameters, how it is made of them, whether it keeps volumes."""

    sizes: tuple[int, ...]
    of: Callable[..., Transform]
    constant: bool = False


def _affine(kind: type[MonotonicAffineTransform], bound: float, bins: int) -> _Function:
    constant = kind is _GINTransform
    return _Function((1, 1), lambda t, s: kind(t.squeeze(-1), s.squeeze(-1), slope=math.exp(-bound)), constant)


def _additive(bound: float, bins: int) -> _Function:
    return _Function((1,), lambda t: AdditiveTransform(t.squeeze(-1)), constant=True)


def _spline(bound: float, bins: int) -> _Function:
    return _Function((bins, bins, bins - 1), partial(MonotonicRQSTransform, bound=_SPLINE_BOUND))


FUNCTIONS: dict[str, Callable[[float, int], _Function]] = {
    "affine": partial(_affine, MonotonicAffineTransform),
    "additive": _additive,
    "gin": partial(_affine, _GINTransform),
    "spline": _spline,
}
"""Name -> function a column, of the bound on log scales and the number of bins."""


class _Constant(nn.Module):
    """What decides the functions where there is neither a passive column nor a context: parameters, the same always."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(outputs))

    def forward(self, u: Tensor) -> Tensor:
        return self.values.expand(*u.shape[:-1], -1)


class Coupling(Bijection):
    """Move half of the columns by functions that the other half and the context decide; the identity untrained.

    Couplings of consecutive numbers take either half in turn, of three columns and more another split for each pair;
    the one column of a table is moved by a function of the context alone.

    Args:
        columns: D >= 1.
        context_dim: number of context columns C.
        function: a name in `FUNCTIONS`; of one active column `gin` is `additive`.
        number: of the coupling in its flow, from 0: which columns are active.
        bound: log scales stay within it, > 0: a bounded map is well conditioned in both directions.
        bins: of splines.
        conditioner: what decides the functions: `mlp`, a network, or `kernel`, see `isthmus.bijections.kernels`.
        options: of the conditioner: `width` and `depth`, or `points` and `kernel`.

    Example:
        >>> coupling, x = Coupling(3, function="spline"), torch.randn(4, 3)
        >>> torch.allclose(coupling()(x), x, atol=1e-6)
        True
    """

    mask: Tensor

    def __init__(
        self,
        columns: int,
        context_dim: int = 0,
        *,
        function: Literal["affine", "additive", "gin", "spline"] = "affine",
        number: int = 0,
        bound: float = 5.0,
        bins: int = 8,
        conditioner: Literal["mlp", "kernel"] = "mlp",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("mask", _passive(columns, number))
        self.function = FUNCTIONS[function](bound, bins)
        passive = int(self.mask.sum())
        sizes = passive + context_dim, (columns - passive) * sum(self.function.sizes)
        self.conditioner = _conditioner(*sizes, conditioner, **(options or {}))

    @property
    def constant(self) -> bool:  # type: ignore[override]
        """Whether its log determinant is the same at every row."""
        return self.function.constant

    @torch.no_grad()
    def start(self, x: Float[Tensor, "batch D"], c: Context = None) -> None:
        """Set the points of a kernel from rows; nothing of a network."""
        if isinstance(self.conditioner, KernelConditioner):
            self.conditioner.start(_inputs(c, x[:, self.mask]))

    def forward(self, c: Context = None) -> Transform:
        """Return the transform given the context."""
        return CouplingTransform(partial(self._functions, c), self.mask)

    def _functions(self, c: Context, passive: Tensor) -> Transform:
        """Return the functions of active columns, given the passive ones."""
        parameters = self.conditioner(_inputs(c, passive)).unflatten(-1, (-1, sum(self.function.sizes)))
        return DependentTransform(self.function.of(*parameters.split(self.function.sizes, -1)), 1)


def _inputs(c: Context, passive: Tensor) -> Tensor:
    return passive if c is None else torch.cat([passive, c.to(passive)], -1)


def _passive(columns: int, number: int) -> Bool[Tensor, " columns"]:
    """Return which columns a coupling leaves alone; the same for the same number, so that a file need not say it."""
    pair, second = divmod(number, 2)
    order = torch.arange(columns)
    if pair and columns > 2:  # of two columns a second split would only repeat one of the two couplings
        order = torch.randperm(columns, generator=torch.Generator().manual_seed(pair))
    return torch.zeros(1, dtype=torch.bool) if columns == 1 else order % 2 == second


def _conditioner(inputs: int, outputs: int, kind: str, **options: Any) -> nn.Module:
    if inputs == 0:
        return _Constant(outputs)
    if kind == "kernel":
        return KernelConditioner(inputs, outputs, **options)
    network = MLP(inputs, outputs, _hidden(**options), activation=nn.SiLU)
    for parameter in network[-1].parameters():
        nn.init.zeros_(parameter)
    return network


def _hidden(width: int = 64, depth: int = 2) -> Sequence[int]:
    return (width,) * depth
