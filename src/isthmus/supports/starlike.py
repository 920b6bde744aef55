"""What surfaces share that every ray from the origin meets once: the star map and its change of area.

`n` is a direction, a unit vector of R^D (D columns), and `r(n)` the distance at which its ray meets the surface, so
that the *star map* `n -> r(n) n` takes the sphere to the surface. Its change of area needs no chart and costs O(D),

    F2   log_stretch = (D - 1) log r + 1/2 log(1 + |grad_S log r|^2),   grad_S the gradient along the sphere,
    F3   log_stretch = D log r + log |grad g| - log t                   on a level set {g = t}, g(s x) = s g(x).

F2 is the Gram determinant of a rank-one update, `r^2 (I + grad_S log r grad_S log r^T)` in any orthonormal basis of
tangents; F3 follows from F2 by `grad g . n = g(n)`. Neither divides by the sine of an angle, so poles are points like
any other, and F3 takes no second derivative when it is trained. All is computed as logarithms.

References:
    Negri, Arend Torres, Roth (2025), arXiv 2406.09116, where the determinant takes O(D^2).
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from isthmus.errors import InputError
from isthmus.supports.contract import Area, Support

__all__ = ["LevelSet", "Proposal", "StarLike", "log_sphere"]

_ENTRIES = 2**22  # of a batch of proposals
_CANDIDATES = 64  # directions from which a row is chosen, where no bound of the stretch is known


class Proposal(NamedTuple):
    """Rows of a law on a surface from which the uniform one is drawn.

    Attributes:
        x: rows on the surface, (n, columns).
        log_weight: log density of the uniform law with respect to theirs, up to a constant, (n,).
        log_total: that constant: the area is `exp(log_total)` times the mean of `exp(log_weight)`.
        bounded: whether no log weight is above 0, so that rejection is exact.
        even: whether the law is the uniform one, so that all log weights are 0.
    """

    x: Tensor
    log_weight: Tensor
    log_total: float
    bounded: bool
    even: bool = False


def log_sphere(columns: int) -> float:
    """Return the log area of the unit sphere of R^columns, `2 pi^(n/2) / Gamma(n/2)`.

    Args:
        columns: n >= 1.

    Example:
        >>> round(math.exp(log_sphere(3)) / math.pi, 6)
        4.0
    """
    return math.log(2) + columns / 2 * math.log(math.pi) - math.lgamma(columns / 2)


def _value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a function's values and gradients, (n,) and (n, columns), differentiable where gradients are recorded."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if x.requires_grad else x.detach().requires_grad_()
        value = function(at).reshape(len(x))
        (gradient,) = torch.autograd.grad((value + 0 * at.sum(1)).sum(), at, create_graph=recorded)
    return (value, gradient) if recorded else (value.detach(), gradient)


class StarLike(Support):
    """A surface that every ray from the origin meets once, or every ray of the positive orthant.

    Implementing one: write `log_radius(n)`, and `log_stretch(n)` where a formula beats autograd; write `propose(n)`
    where the uniform law can be drawn exactly.
    """

    @property
    def orthant(self) -> bool:
        """Whether only rays of positive coordinates meet it."""
        return False

    @property
    def level(self) -> float:
        """The value t of the gauge on the surface; 1 unless the surface has a size of its own."""
        return 1.0

    @property
    def dim(self) -> int:
        """One fewer than columns."""
        return self.columns - 1

    @property
    def measure(self) -> str:
        """Surface area."""
        return "surface area"

    @abstractmethod
    def log_radius(self, n: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return `log r(n)` of unit vectors, (batch,)."""

    def log_stretch(self, n: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return the log change of area of the star map at unit vectors, (batch,): area of the surface per solid angle.

        Args:
            n: directions, unit vectors, (batch, columns).
        """
        log_radius, along = self._slope_of_radius(n)
        return (self.columns - 1) * log_radius + 0.5 * along.square().sum(1).log1p()

    def normal(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return the unit normal of the surface at each row, outwards: `n - grad_S log r`, scaled."""
        n = self.direction(x)
        return normalize(n - self._slope_of_radius(n)[1], dim=1)

    def _slope_of_radius(self, n: Tensor) -> tuple[Tensor, Tensor]:
        """Return log r and its gradient along the sphere."""
        log_radius, gradient = _value_and_gradient(self.log_radius, n)
        return log_radius, gradient - (gradient * n).sum(1, keepdim=True) * n

    def direction(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return the direction of each row, `x / |x|`; zeros of a row of zeros."""
        return normalize(x, dim=1)

    def distance(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return how far each row is from where its ray meets the surface, in units of that radius: `| |x|/r - 1 |`.

        On an orthant also how far the direction is outside, whichever is more.
        """
        n = self.direction(x)
        off = (x.norm(dim=1).log() - self.log_radius(n)).expm1().abs()
        return torch.maximum(off, -n.amin(1)) if self.orthant else off

    def project(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return where the ray of each row meets the surface, `r(n) n`.

        This is the radial projection: the direction is kept, and the point is not the nearest one in general. On an
        orthant negative coordinates become 0 first. A row of zeros has no direction and stays.
        """
        n = self.direction(x.clamp_min(0) if self.orthant else x)
        return torch.where(n.any(1, keepdim=True), n * self.log_radius(n).exp().unsqueeze(1), n)

    def frame(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns dim"]:
        """Return the columns of the Householder reflection that takes an axis to the normal, but for the normal itself.

        The axis is the one on which the normal has its smallest entry in size, so that the reflection is never near
        0/0.
        """
        normal = self.normal(x)
        axis = normal.abs().argmin(1)
        v = normal.clone()
        v[torch.arange(len(x), device=x.device), axis] -= 1.0
        reflection = torch.eye(self.columns).to(x) - 2 * v.unsqueeze(2) * v.unsqueeze(1) / v.square().sum(1).reshape(
            -1, 1, 1
        )
        kept = torch.arange(self.columns, device=x.device).expand(len(x), -1) != axis.unsqueeze(1)
        return reflection.mT[kept].unflatten(0, (len(x), self.dim)).mT

    def log_measure(self, x: Float[Tensor, "batch columns"], measure: str) -> Float[Tensor, " batch"]:
        """Return the log density of a measure with respect to surface area, (batch,): which law is called uniform?

        * `surface`: area itself, 0.
        * `cone`: the volume of the cone from the origin over a patch, `h / D`, with h the distance of the tangent plane
          from the origin. Generalised Gaussian vectors divided by their norm have this law.
        * `coarea`: what a law of R^D that depends on the gauge alone leaves on the surface when the gauge is known,
          `1 / |grad g|`.

        As g is homogeneous, `h = t / |grad g|`: the last two differ by the constant factor `t / D` and give the same
        law. All three give one law where `|grad g|` is constant, as on p-spheres for p = 1 and 2.

        Args:
            x: rows on the surface, (batch, columns).
            measure: `surface`, `cone` or `coarea`.

        Raises:
            InputError: no such measure.

        Example:
            >>> from isthmus.supports import Sphere
            >>> Sphere(3).log_measure(torch.eye(3), "cone").exp()
            tensor([0.3333, 0.3333, 0.3333])
        """
        if measure == "surface":
            return x.new_zeros(len(x))
        n = self.direction(x)
        log_height = self.columns * self.log_radius(n) - self.log_stretch(n)
        constants = {"cone": self.columns, "coarea": self.level}
        if measure not in constants:
            raise InputError(f"expected the measure 'surface', 'cone' or 'coarea'; got {measure!r}; choose one")
        return log_height - math.log(constants[measure])

    def propose(self, n: int) -> Proposal:
        """Draw rows in uniform directions, weighted by the stretch, of which no bound is known."""
        v = normalize(torch.randn(n, self.columns), dim=1)
        v, fewer = (v.abs(), self.columns * math.log(2)) if self.orthant else (v, 0.0)
        with torch.no_grad():
            x, log_stretch = self.project(v), self.log_stretch(v)
        return Proposal(x, log_stretch, log_sphere(self.columns) - fewer, bounded=False)

    def uniform(self, n: int) -> Float[Tensor, "n columns"]:
        """Draw rows uniformly with respect to area.

        Exact, by rejection, for every surface here but `Gauge` and `Radius`: their rows are chosen from many more
        uniform directions with probability in proportion to the stretch, which is only approximate, the more so the
        more the stretch varies.
        """
        pool = self.propose(_CANDIDATES)
        if not pool.bounded:
            pool = self.propose(_CANDIDATES * max(n, 1))
            chosen = torch.multinomial((pool.log_weight - pool.log_weight.amax()).exp(), max(n, 1), replacement=True)
            return pool.x[chosen[:n]]
        rows, most = pool.x[:0], max(1, _ENTRIES // self.columns)
        share = max(float(pool.log_weight.exp().mean()), 1e-3)
        while len(rows) < n:
            pool = self.propose(min(most, math.ceil(1.1 * (n - len(rows)) / share) + 8))
            rows = torch.cat([rows, pool.x[torch.rand(len(pool.x)).log() <= pool.log_weight]])
        return rows[:n]

    def log_area(self, n_points: int = 10_000, seed: int = 0) -> Area:
        """Return the log area of the surface in nats, with the standard error of an estimate, 0 where it is exact.

        Args:
            n_points: draws of `propose`.
            seed: of these.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            first = self.propose(1)
            if first.even:
                return Area(first.log_total, 0.0)
            _, log_weight, log_total, _, _ = self.propose(n_points)
        weight = (log_weight.double() - log_weight.amax()).exp()
        error = float(weight.std() / weight.mean()) / math.sqrt(n_points)
        return Area(log_total + float(log_weight.amax()) + math.log(float(weight.mean())), error)


class LevelSet(StarLike):
    """The level set `{g(x) = t}` of a positively homogeneous function g, a gauge: `g(s x) = s g(x)` for s > 0.

    Implementing one: write `log_gauge(x)`, and `log_slope(x)`, the log length of the gradient of g, where a formula
    beats autograd.
    """

    @abstractmethod
    def log_gauge(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return `log g(x)` of any rows, (batch,)."""

    def log_slope(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return `log |grad g(x)|`, (batch,), the same all along a ray."""
        log_gauge, gradient = _value_and_gradient(self.log_gauge, x)
        return log_gauge + gradient.norm(dim=1).log()

    def log_radius(self, n: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return `log t - log g(n)`."""
        return math.log(self.level) - self.log_gauge(n)

    def log_stretch(self, n: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return the log change of area of the star map by F3, (batch,)."""
        return self.columns * self.log_radius(n) + self.log_slope(n) - math.log(self.level)
