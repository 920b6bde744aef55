"""Conditional means and deviations by bins: what one affine coupling can gain, and a coupling that needs no gradient.

Rows z are reflected so that a direction becomes the first axis, b is the first column and a are the others. Of all maps
`a_i -> s_i(b) a_i + t_i(b)` the one with `s_i = 1 / sigma_i(b)` and `t_i = -m_i(b) / sigma_i(b)` lowers the divergence
from the normal law most, by

    Delta = E_b sum_i 1/2 (m_i^2 + sigma_i^2 - 1 - log sigma_i^2),

m and sigma the conditional mean and standard deviation. They are estimated in bins of b with equally many rows, and
interpolated linearly between the bins' centres. The gain is cross-fitted: rows are scored by moments of other rows, so
that moments of noise gain nothing.

References:
    Draxler, Wahl, Schnörr, Köthe (2024), arXiv 2402.06578; Draxler, Schnörr, Köthe (2022), arXiv 2210.14032.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Transform, constraints

from isthmus.bijections.contract import Bijection, Context

__all__ = [
    "MomentCoupling",
    "Moments",
    "Whitening",
    "conditional_moments",
    "cross_fitted_gain",
    "reflected",
    "reflector",
]

_LEAST_DEVIATION = 1e-3
_RIDGE = 1e-6  # share of the mean variance


class Moments(NamedTuple):
    """Conditional means and deviations of active columns at knots of the passive number."""

    knots: Float[Tensor, " bins"]
    mean: Float[Tensor, "bins active"]
    deviation: Float[Tensor, "bins active"]

    def at(self, b: Float[Tensor, " n"]) -> tuple[Float[Tensor, "n active"], Float[Tensor, "n active"]]:
        """Return mean and deviation at passive numbers, linear between knots and constant beyond."""
        return interpolated(self.knots, self.mean, b), interpolated(self.knots, self.deviation, b)


def interpolated(knots: Float[Tensor, " bins"], values: Tensor, b: Float[Tensor, " n"]) -> Tensor:
    """Return values between knots, linear, and constant beyond the outermost.

    Args:
        knots: in increasing order, (bins,).
        values: at these, (bins, active).
        b: where, (n,).

    Example:
        >>> interpolated(torch.tensor([0.0, 1.0]), torch.tensor([[0.0], [2.0]]), torch.tensor([0.5, 3.0])).squeeze(1)
        tensor([1., 2.])
    """
    if len(knots) == 1:
        return values.expand(len(b), -1)
    right = torch.searchsorted(knots, b.contiguous()).clamp(1, len(knots) - 1)
    left = right - 1
    share = ((b - knots[left]) / (knots[right] - knots[left]).clamp_min(1e-12)).clamp(0, 1).unsqueeze(1)
    return values[left] + share * (values[right] - values[left])


def conditional_moments(b: Float[Tensor, " n"], a: Float[Tensor, "n active"], bins: int) -> Moments:
    """Return mean and standard deviation of active columns in bins of equally many rows.

    Args:
        b: passive numbers, (n,).
        a: active columns, (n, active).
        bins: number of bins, 1 <= bins <= n.

    Example:
        >>> b = torch.linspace(-1, 1, 1000)
        >>> conditional_moments(b, (2 * b).unsqueeze(1), 2).mean.squeeze(1).round(decimals=2)
        tensor([-1.,  1.])
    """
    n = len(b)
    rank = torch.empty(n, dtype=torch.long, device=b.device)
    rank[b.argsort(stable=True)] = torch.arange(n, device=b.device)
    number = rank * bins // n
    count = torch.bincount(number, minlength=bins).to(b).unsqueeze(1)

    def mean(values: Tensor) -> Tensor:
        return values.new_zeros(bins, values.shape[1]).index_add_(0, number, values) / count

    centre = mean(a)
    variance = mean((a - centre[number]).square()) * count / (count - 1).clamp_min(1)
    return Moments(mean(b.unsqueeze(1)).squeeze(1), centre, variance.sqrt().clamp_min(_LEAST_DEVIATION))


def cross_fitted_gain(b: Float[Tensor, " n"], a: Float[Tensor, "n active"], bins: int) -> Float[Tensor, "n active"]:
    """Return what the best affine coupling gains at each row and active column, in nats, by moments of other rows.

    Args:
        b: passive numbers, (n,).
        a: active columns, (n, active).
        bins: number of bins of either half of the rows; n >= 4 bins.

    Returns:
        Its mean over rows is an estimate of Delta, from below on average.

    Example:
        >>> b = torch.randn(4000)
        >>> a = 0.5 * torch.randn(4000) + b
        >>> gain = cross_fitted_gain(b, a.unsqueeze(1), 20).mean()  # 1/2 (1 + 0.25 - 1 - log 0.25) = 0.82
        >>> bool((gain - 0.82).abs() < 0.1)
        True
    """
    gain = torch.empty_like(a)
    even = torch.arange(len(b), device=b.device) % 2 == 0
    for half in (even, ~even):
        m, deviation = conditional_moments(b[half], a[half], bins).at(b[~half])
        rest = a[~half]
        gain[~half] = 0.5 * (rest.square() - ((rest - m) / deviation).square()) - deviation.log()
    return gain


def reflector(direction: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Return the unit vector v (or 0) by which `reflected` takes a direction to the first axis.

    Args:
        direction: a unit vector, (D,).

    Example:
        >>> direction = torch.tensor([0.6, 0.8])
        >>> reflected(direction.unsqueeze(0), reflector(direction)).round(decimals=4).abs()
        tensor([[1., 0.]])
    """
    axis = torch.zeros_like(direction)
    axis[0] = 1
    v = direction - axis
    length = v.norm()
    return v / length if length > 1e-9 else torch.zeros_like(v)


def reflected(x: Float[Tensor, "batch D"], v: Float[Tensor, " D"]) -> Float[Tensor, "batch D"]:
    """Return rows reflected by the plane across v, `x - 2 v (v x)`, (batch, D); its own inverse.

    Args:
        x: rows, (batch, D).
        v: a unit vector, (D,), or 0 for none.
    """
    return x - 2 * (x @ v).unsqueeze(-1) * v


class Whitening(Bijection):
    """A shift and a triangular matrix that give rows mean 0 and covariance I: what any stack of couplings begins with.

    Args:
        columns: D.

    Example:
        >>> layer, x = Whitening(2), torch.randn(500, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.1]])
        >>> layer.start(x)
        >>> torch.allclose(torch.cov(layer()(x).T), torch.eye(2), atol=1e-2)
        True
    """

    constant = True
    constraints = {"cholesky": "cholesky"}  # noqa: RUF012 (read by `isthmus.store.tensors`)
    mean: Tensor
    cholesky: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("cholesky", torch.eye(columns))

    @torch.no_grad()
    def start(self, x: Float[Tensor, "batch D"], c: Context = None) -> None:
        """Set mean and covariance from rows."""
        centred = x - x.mean(0)
        covariance = centred.T @ centred / max(1, len(x) - 1)
        ridge = _RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
        self.mean.copy_(x.mean(0))
        self.cholesky.copy_(torch.linalg.cholesky(covariance + ridge * torch.eye(x.shape[1]).to(x)))

    def forward(self, c: Context = None) -> Transform:
        """Return the transform."""
        return _Whitened(self.mean, self.cholesky)


class _Whitened(Transform):
    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, mean: Tensor, cholesky: Tensor) -> None:
        super().__init__()
        self.mean, self.cholesky = mean, cholesky

    def _call(self, x: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.cholesky, (x - self.mean).mT, upper=False).mT

    def _inverse(self, y: Tensor) -> Tensor:
        return y @ self.cholesky.T + self.mean

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -self.cholesky.diagonal().log().sum().expand(x.shape[:-1])


class MomentCoupling(Bijection):
    """A reflection, then the affine coupling of conditional moments, damped; the identity until `set`.

    `s = 1 + step (1 / sigma - 1)` and `t = -step m / sigma`, linear between knots of `b = w_0 z_1 + w c`.

    Args:
        columns: D >= 2.
        context_dim: number of context columns C.
        bins: number of knots.

    Example:
        >>> layer, x = MomentCoupling(2, bins=8), torch.randn(400, 2)
        >>> x[:, 1] += x[:, 0].square()
        >>> layer.set(torch.tensor([1.0, 0.0]), torch.ones(1), conditional_moments(x[:, 0], x[:, 1:], 8), step=1.0)
        >>> bool(layer()(x).var(0)[1] < 1.3 < x.var(0)[1])
        True
    """

    constraints = {"scale": "positive", "knots": "finite"}  # noqa: RUF012 (read by `isthmus.store.tensors`)
    axis: Tensor
    weights: Tensor
    knots: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, columns: int, context_dim: int = 0, *, bins: int = 32) -> None:
        super().__init__()
        self.register_buffer("axis", torch.zeros(columns))
        self.register_buffer("weights", torch.zeros(1 + context_dim))
        self.register_buffer("knots", torch.arange(bins, dtype=torch.get_default_dtype()))
        self.register_buffer("scale", torch.ones(bins, columns - 1))
        self.register_buffer("shift", torch.zeros(bins, columns - 1))

    @torch.no_grad()
    def set(
        self,
        direction: Float[Tensor, " D"],
        weights: Float[Tensor, " n_weights"],
        moments: Moments,
        *,
        step: float = 0.5,
        active: Tensor | None = None,
    ) -> None:
        """Set the layer to a damped step by conditional moments.

        Args:
            direction: unit vector that becomes the first axis, (D,).
            weights: w_0 and w of the passive number, (1 + C,).
            moments: of the other columns, in at most as many bins as the layer has knots.
            step: share of the best step, in (0, 1].
            active: which of the other columns are moved, (D - 1,); all by default.
        """
        scale, shift = 1 + step * (1 / moments.deviation - 1), -step * moments.mean / moments.deviation
        if active is not None:
            scale, shift = scale.where(active, torch.ones(()).to(scale)), shift * active
        more = len(self.knots) - len(moments.knots)  # knots beyond the last, where everything is constant
        beyond = moments.knots[-1] + torch.arange(1, more + 1).to(moments.knots)
        self.axis.copy_(reflector(direction))
        self.weights.copy_(weights)
        self.knots.copy_(torch.cat([moments.knots, beyond]))
        self.scale.copy_(torch.cat([scale, scale[-1:].expand(more, -1)]))
        self.shift.copy_(torch.cat([shift, shift[-1:].expand(more, -1)]))

    def forward(self, c: Context = None) -> Transform:
        """Return the transform given the context."""
        return _Coupled(self, c)


class _Coupled(Transform):
    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, layer: MomentCoupling, c: Context) -> None:
        super().__init__()
        self.layer, self.offset = layer, 0.0 if c is None else c.to(layer.weights) @ layer.weights[1:]

    def _functions(self, z: Tensor) -> tuple[Tensor, Tensor]:
        b = z[:, 0] * self.layer.weights[0] + self.offset
        values = torch.cat([self.layer.scale, self.layer.shift], 1)
        return interpolated(self.layer.knots, values, b).chunk(2, 1)  # type: ignore[return-value]

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = reflected(x, self.layer.axis)
        scale, shift = self._functions(z)
        return torch.cat([z[:, :1], z[:, 1:] * scale + shift], 1), scale.log().sum(1)

    def _inverse(self, y: Tensor) -> Tensor:
        scale, shift = self._functions(y)
        return reflected(torch.cat([y[:, :1], (y[:, 1:] - shift) / scale], 1), self.layer.axis)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]


def bins_for(rows: int, most: int, rows_each: int) -> int:
    """Return how many bins rows fill: at most `most`, with `rows_each` rows or more in each, and one at least.

    Example:
        >>> bins_for(1000, 64, 50), bins_for(20, 64, 50)
        (20, 1)
    """
    return max(1, min(most, math.floor(rows / rows_each)))
