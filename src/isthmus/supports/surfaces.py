"""Surfaces around the origin: spheres of any norm, the simplex, ellipsoids, level sets of penalties, learned radii.

| surface | of | length of the gradient of g |
|---|---|---|
| `Sphere` | unit vectors | 1 |
| `Simplex` | parts of a whole, g their sum | `sqrt(D)` |
| `LpSphere` | the p-norm g, any p > 0 | varies unless p is 1 or 2 |
| `Ellipsoid` | the norm g of `x / axes` | varies |
| `GroupLasso` | g the sum over groups of w times the norm in the group | `sqrt(sum of w^2)` |
| `Gauge` | any positively homogeneous function g | by autograd |
| `Radius` | any function log r of directions, also a network | by autograd |
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from isthmus.errors import InputError
from isthmus.supports.starlike import LevelSet, Proposal, StarLike, log_sphere

__all__ = ["Ellipsoid", "Gauge", "GroupLasso", "LpSphere", "Radius", "Simplex", "Sphere"]


def _log_abs(x: Tensor) -> Tensor:
    """Return `log |x|`, -inf at zeros, where its gradient is taken as 0."""
    zero = x == 0
    return torch.where(zero, -torch.inf, torch.where(zero, 1.0, x.abs()).log())


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"expected {name} to be positive and finite; got {value}; choose another")


@final
@dataclass(frozen=True)
class Sphere(StarLike):
    """The unit vectors of R^n, with surface area; the circle for n = 2.

    Example:
        >>> sphere = Sphere(3)
        >>> x = sphere.uniform(5)
        >>> sphere.check(x)
        >>> bool((sphere.frame(x).mT @ x.unsqueeze(2)).abs().max() < 1e-6)
        True
    """

    columns: int

    def log_radius(self, n: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return zeros."""
        return n.new_zeros(len(n))

    def log_stretch(self, n: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return zeros."""
        return n.new_zeros(len(n))

    def normal(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return the rows' own directions."""
        return self.direction(x)

    def propose(self, n: int) -> Proposal:
        """Draw normalised Gaussian vectors, which are uniform."""
        x = normalize(torch.randn(n, self.columns), dim=1)
        return Proposal(x, x.new_zeros(n), log_sphere(self.columns), bounded=True, even=True)


@final
@dataclass(frozen=True)
class Simplex(LevelSet):
    """Parts of a whole: rows of numbers >= 0 that sum to 1, with surface area.

    The densities of torch's and scipy's Dirichlet laws are with respect to volume of all columns but one, which is
    smaller than area by the factor sqrt(n): subtract 1/2 log n of their logarithm.

    Example:
        >>> Simplex(3).area()  # sqrt(3) / 2
        Area(value=0.866..., standard_error=0.0)
    """

    columns: int

    @property
    def orthant(self) -> bool:
        """True."""
        return True

    def log_gauge(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return the log of the sum."""
        return x.sum(1).log()

    def log_slope(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return `1/2 log n`."""
        return x.new_full((len(x),), 0.5 * math.log(self.columns))

    def distance(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return how far the sum is from 1, or the lowest number below 0, whichever is more."""
        return torch.maximum((x.sum(1) - 1).abs(), -x.amin(1))

    def normal(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return the diagonal, everywhere."""
        return torch.full_like(x, self.columns**-0.5)

    def propose(self, n: int) -> Proposal:
        """Draw exponential numbers over their sum, which are uniform."""
        x = normalize(torch.empty(n, self.columns).exponential_(), p=1, dim=1)
        log_area = 0.5 * math.log(self.columns) - math.lgamma(self.columns)
        return Proposal(x, x.new_zeros(n), log_area, bounded=True, even=True)


@final
@dataclass(frozen=True)
class LpSphere(LevelSet):
    """The sphere of an L^p norm, `(sum of |x_k|^p)^(1/p) = radius`, for any p > 0, with surface area.

    Below p = 1 the surface has cusps where a coordinate is 0: its area is finite, but `log_stretch` is infinite at
    exact zeros, so a density that is finite per direction is 0 per area there, and there is no normal: `normal` and
    `frame` refuse. Near zeros, however near, all is finite. At p = 1 there are edges there, of no area; the normal at
    an exact zero is the mean of those on both sides.

    Args:
        columns: number of columns.
        p: exponent, > 0.
        radius: t > 0.

    Raises:
        InputError: p or the radius is not positive and finite.

    Example:
        >>> LpSphere(3, p=1.0).area()  # an octahedron: 4 sqrt(3)
        Area(value=6.928..., standard_error=0.0)
    """

    columns: int
    p: float = 1.0
    radius: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("p", self.p)
        _check_positive("the radius", self.radius)

    @property
    def level(self) -> float:
        """The radius."""
        return self.radius

    def log_gauge(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return the log of the norm, `1/p log(sum of exp(p log |x_k|))`."""
        return (self.p * _log_abs(x)).logsumexp(1) / self.p

    def log_slope(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return `1/2 log(sum of exp(2 (p - 1) log |x_k| / g))`; infinite at zeros for p < 1."""
        return self._log_slope(_log_abs(x) - self.log_gauge(x).unsqueeze(1))

    def normal(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return the unit normal of the surface at each row, outwards.

        Raises:
            InputError: p < 1 and a coordinate is 0, where there is none.
        """
        if self.p < 1 and bool((x == 0).any()):
            row = int((x == 0).any(1).nonzero()[0])
            raise InputError(
                f"expected rows without zeros, where the sphere of p = {self.p} has no tangent plane; got row {row} "
                "(counted from 0); leave it out, or take p >= 1"
            )
        return super().normal(x)

    def propose(self, n: int) -> Proposal:
        """Draw from the cone measure (p >= 1), or from it tilted by `sum of u_k^(p - 1)` (p < 1).

        Numbers `|y_k| = Gamma(1/p)^(1/p)` over their norm have the cone measure, `area / |grad g|`. The tilted law
        draws one of them, any, as `Exp(1)^(1/p)` instead: `|grad g|` over the tilt is within `[1/sqrt(n), 1]` however
        near a row is to a cusp. For p >= 1 `|grad g|` itself is at most `max(1, n^(1/p - 1/2))`.

        References:
            Schechtman, Zinn (1990), On the volume of the intersection of two L_p^n balls, for the cone measure.
        """
        d, p = self.columns, self.p
        root = torch._standard_gamma(torch.full((n, d), 1 + 1 / p)).log() / p
        log_y = root - torch.empty(n, d).exponential_()  # Gamma(a) = Gamma(1 + a) U^(1/a), without underflow
        log_total = math.log(d) + d * (math.log(2) + math.lgamma(1 + 1 / p)) - math.lgamma(1 + d / p)
        if p < 1:
            log_y[torch.arange(n), torch.randint(d, (n,))] = torch.empty(n).exponential_().log() / p
            log_total += math.log(d) + math.lgamma(d / p) - math.lgamma((d - 1) / p + 1) - math.lgamma(1 / p)
        log_u = log_y - (p * log_y).logsumexp(1, keepdim=True) / p
        log_weight = self._log_slope(log_u)
        if p < 1:
            log_weight -= ((p - 1) * log_u).logsumexp(1)
        else:
            bound = max(0.0, (1 / p - 0.5) * math.log(d))
            log_weight, log_total = log_weight - bound, log_total + bound
        x = self.radius * log_u.exp() * torch.randint(0, 2, (n, d)).mul_(2).sub_(1)
        log_total += (d - 1) * math.log(self.radius)
        return Proposal(x, log_weight, log_total, bounded=True, even=p in (1.0, 2.0))

    def _log_slope(self, log_u: Tensor) -> Tensor:
        """Return the log slope from the logarithms of |x_k| / g."""
        if self.p in (1.0, 2.0):  # the same everywhere
            return log_u.new_full((len(log_u),), (1 / self.p - 0.5) * math.log(self.columns))
        return 0.5 * (2 * (self.p - 1) * log_u).logsumexp(1)


@final
@dataclass(frozen=True)
class Ellipsoid(LevelSet):
    """The ellipsoid `|x / axes| = 1`, with surface area.

    Args:
        columns: number of columns.
        axes: half the length of each axis, > 0, one a column.

    Raises:
        InputError: not one positive axis a column.

    Example:
        >>> Ellipsoid(2, (3.0, 1.0)).distance(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        tensor([0., 1.])
    """

    columns: int
    axes: Sequence[float] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", tuple(self.axes))
        if len(self.axes) != self.columns:
            raise InputError(f"expected an axis for each of {self.columns} columns; got {self.axes}; give them")
        for axis in self.axes:
            _check_positive("every axis", axis)

    def log_gauge(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return `log |x / axes|`."""
        return 0.5 * (2 * (_log_abs(x) - x.new_tensor(self.axes).log())).logsumexp(1)

    def log_slope(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return `log |x / axes^2| - log g(x)`."""
        return 0.5 * (2 * (_log_abs(x) - 2 * x.new_tensor(self.axes).log())).logsumexp(1) - self.log_gauge(x)

    def propose(self, n: int) -> Proposal:
        """Draw `axes * u`, u uniform on the sphere: its stretch is `|u / axes|` times the product of the axes."""
        axes = torch.tensor(self.axes)
        u = normalize(torch.randn(n, self.columns), dim=1)
        shortest = min(self.axes)
        log_total = log_sphere(self.columns) + sum(map(math.log, self.axes)) - math.log(shortest)
        return Proposal(axes * u, (u * shortest / axes).norm(dim=1).log(), log_total, bounded=True)


@final
@dataclass(frozen=True)
class GroupLasso(LevelSet):
    """Level sets of the group lasso's penalty, `sum over groups of w |x_group| = radius`, with surface area.

    Args:
        columns: number of columns.
        groups: the group of each column, a whole number from 0 on.
        weights: w > 0 of each group; the root of its size by default.
        radius: t > 0.

    Raises:
        InputError: not one group a column, a group without columns, or not one positive weight a group.

    References:
        Yuan, Lin (2006), Model selection and estimation in regression with grouped variables.

    Example:
        >>> GroupLasso(3, (0, 0, 1), (1.0, 1.0)).project(torch.tensor([[3.0, 4.0, 5.0]]))
        tensor([[0.3000, 0.4000, 0.5000]])
    """

    columns: int
    groups: Sequence[int] = ()
    weights: Sequence[float] = ()
    radius: float = 1.0

    def __post_init__(self) -> None:
        groups = tuple(self.groups)
        if len(groups) != self.columns or set(groups) != set(range(max(groups, default=0) + 1)):
            raise InputError(
                f"expected a group, 0, 1, ..., for each of {self.columns} columns, and a column for each group; got "
                f"{groups}; give them"
            )
        sizes = [groups.count(group) for group in range(max(groups) + 1)]
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "weights", tuple(self.weights) or tuple(math.sqrt(size) for size in sizes))
        if len(self.weights) != len(sizes):
            raise InputError(f"expected a weight for each of {len(sizes)} groups; got {self.weights}; give them")
        for weight in self.weights:
            _check_positive("every weight", weight)
        _check_positive("the radius", self.radius)

    @property
    def level(self) -> float:
        """The radius."""
        return self.radius

    def log_gauge(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return the log of the penalty."""
        index = torch.tensor(self.groups, device=x.device)
        squares = x.new_zeros(len(x), len(self.weights)).index_add(1, index, x.square())
        zero = squares == 0
        norms = torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())
        return (norms * x.new_tensor(self.weights)).sum(1).log()

    def log_slope(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return `1/2 log(sum of w^2)`."""
        return x.new_full((len(x),), 0.5 * math.log(math.fsum(weight**2 for weight in self.weights)))

    def propose(self, n: int) -> Proposal:
        """Draw groups of Gamma(size)-distributed length over w in uniform directions, over their gauge: uniform."""
        blocks, log_ball = [], -math.lgamma(self.columns + 1)
        for group, weight in enumerate(self.weights):
            size = self.groups.count(group)
            length = torch._standard_gamma(torch.full((n, 1), float(size)))
            blocks.append(length / weight * normalize(torch.randn(n, size), dim=1))
            log_ball += log_sphere(size) + math.lgamma(size) - size * math.log(weight)
        order = torch.tensor(self.groups).argsort(stable=True)
        x = torch.empty(n, self.columns)
        x[:, order] = torch.cat(blocks, 1)
        x = self.radius * x / self.log_gauge(x).exp().unsqueeze(1)
        log_area = math.log(self.columns) + float(self.log_slope(x[:1])[0]) + log_ball
        log_area += (self.columns - 1) * math.log(self.radius)
        return Proposal(x, x.new_zeros(n), log_area, bounded=True, even=True)


@final
@dataclass(frozen=True)
class Gauge(LevelSet):
    """The level set `{g(x) = 1}` of any positively homogeneous function: elastic-net-like gauges, polytopes.

    Args:
        columns: number of columns.
        function: g, a differentiable function of rows, (batch, columns) -> (batch,), positive, `g(s x) = s g(x)`.
        positive: whether rows lie in the positive orthant.

    Example:
        >>> cube = Gauge(3, lambda x: x.abs().amax(1))
        >>> cube.project(torch.tensor([[4.0, 1.0, -2.0]]))
        tensor([[ 1.0000,  0.2500, -0.5000]])
    """

    columns: int
    function: Callable[[Tensor], Tensor]
    positive: bool = False

    @property
    def orthant(self) -> bool:
        """Whether rows lie in the positive orthant."""
        return self.positive

    def log_gauge(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return the log of the function."""
        return self.function(x).reshape(len(x)).log()


@final
@dataclass(frozen=True)
class Radius(StarLike):
    """The star-like surface of any log radius, which may be learnt: `{exp(function(n)) n}`.

    Args:
        columns: number of columns.
        function: log r, a differentiable function of unit vectors, (batch, columns) -> (batch,); or a module.
        positive: whether rows lie in the positive orthant.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> Radius(3, network).log_stretch(torch.eye(3)).shape
        torch.Size([3])
    """

    columns: int
    function: Callable[[Tensor], Tensor]
    positive: bool = False

    @property
    def orthant(self) -> bool:
        """Whether rows lie in the positive orthant."""
        return self.positive

    def log_radius(self, n: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return the function's own value."""
        return self.function(n).reshape(len(n))
