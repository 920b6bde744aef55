"""Coordinates of directions in which flows can work: without edges, exact near poles and faces, in O(D).

A chart takes the D columns of a row to D - 1 coordinates, one after another: where a column stands beside the columns
that come after it. `m_i = D - i` of these there are after the i-th, i = 1, ..., so that under the uniform law

* on the sphere `y_i = asinh(x_i / |x_{i+1:}|)` has a density proportional to `sech(y)^m`: `tanh y_i` is the cosine
  of the i-th angle, and the area element is the product of `sech(y_i)^m_i dy_i` and `d phi`; the last two columns are
  told by the angle phi, the only coordinate that is periodic;
* on the simplex `y_i = log(x_i / sum of x_{i+1:})` has a density proportional to `sigmoid(y) sigmoid(-y)^m`, and the
  area element is the product of these times `sqrt(D)`; under any Dirichlet law the coordinates are independent.

What a flow sees is `sqrt(m) y`, or `y + log m`, of about unit scale however many columns there are. Rows of any length
have the coordinates of their direction. Inside, numbers are in double precision, so that squares of single precision
cannot underflow.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from isthmus.errors import InputError
from isthmus.supports.starlike import StarLike
from isthmus.supports.surfaces import Simplex, Sphere

__all__ = ["Chart", "SimplexChart", "SphereChart", "chart_of"]


class Chart(ABC):
    """Coordinates of directions: `lines` numbers on lines, then `circles` angles.

    Args:
        columns: D >= 2.

    Attributes:
        surface: what the uniform law is uniform on.
    """

    surface: StarLike
    lines: int
    circles: int
    faces: str

    def __init__(self, columns: int) -> None:
        self.columns = columns

    @abstractmethod
    def coordinates(self, x: Float[Tensor, "batch D"]) -> Float[Tensor, "batch coordinates"]:
        """Return the coordinates of rows of any length, (batch, D - 1).

        Raises:
            InputError: a row has none: it is a pole, or lies on a face.
        """

    @abstractmethod
    def directions(self, v: Float[Tensor, "batch coordinates"]) -> Float[Tensor, "batch D"]:
        """Return the rows on `surface` whose coordinates are given, (batch, D)."""

    @abstractmethod
    def log_uniform(self, v: Float[Tensor, "batch coordinates"]) -> Float[Tensor, " batch"]:
        """Return the log density of the uniform law in these coordinates, up to a constant, (batch,)."""

    @abstractmethod
    def draw(self, n: int, like: Tensor) -> Float[Tensor, "n coordinates"]:
        """Draw coordinates of the uniform law, with the type and device of a tensor."""

    def _after(self, like: Tensor) -> Tensor:
        """Return m, the number of columns after each that has a coordinate on a line, in double precision."""
        after = torch.arange(self.columns - 1, self.columns - 1 - self.lines, -1, device=like.device)
        return after.double()

    def _checked(self, coordinates: Tensor, x: Tensor) -> Tensor:
        finite = coordinates.isfinite().all(1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise InputError(
                f"expected rows {self.faces}; got row {row} (counted from 0), {_shown(x[row])}; move it a little, or "
                "leave it out"
            )
        return coordinates.to(x)


class SphereChart(Chart):
    """Coordinates of directions in all of R^D.

    Example:
        >>> chart = SphereChart(4)
        >>> x = torch.randn(5, 4)
        >>> torch.allclose(chart.directions(chart.coordinates(x)), x / x.norm(dim=1, keepdim=True), atol=1e-6)
        True
    """

    circles, faces = 1, "whose last two columns are not both 0"

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        self.surface, self.lines = Sphere(columns), columns - 2

    def coordinates(self, x: Float[Tensor, "batch D"]) -> Float[Tensor, "batch coordinates"]:
        """Return `sqrt(m) asinh(x_i / |x_{i+1:}|)`, and the angle of the last two columns."""
        wide = x.double()
        tails = wide.square().flip(1).cumsum(1).flip(1)[:, 1:-1].sqrt()
        y = (wide[:, :-2] / tails).asinh() * self._after(x).sqrt()
        angle = torch.atan2(wide[:, -1:], wide[:, -2:-1])
        known = torch.where((wide[:, -2:] == 0).all(1, keepdim=True), torch.nan, angle)
        return self._checked(torch.cat([y, known], 1), x)

    def directions(self, v: Float[Tensor, "batch coordinates"]) -> Float[Tensor, "batch D"]:
        """Return unit vectors: `tanh y_i` times the product of the earlier `sech y_j`."""
        y, angle = v[:, :-1].double() / self._after(v).sqrt(), v[:, -1:].double()
        log_sech = _log_sech(y)
        before = (log_sech.cumsum(1) - log_sech).exp()
        rest = log_sech.sum(1, keepdim=True).exp()
        return torch.cat([before * y.tanh(), rest * angle.cos(), rest * angle.sin()], 1).to(v)

    def log_uniform(self, v: Float[Tensor, "batch coordinates"]) -> Float[Tensor, " batch"]:
        """Return the sum of `m log sech y`."""
        m = self._after(v)
        return (m * _log_sech(v[:, :-1].double() / m.sqrt())).sum(1).to(v)

    def draw(self, n: int, like: Tensor) -> Float[Tensor, "n coordinates"]:
        """Draw `y = 1/2 logit B`, `B ~ Beta(m/2, m/2)`, and a uniform angle."""
        m = self._after(like)
        first, second = (torch._standard_gamma((m / 2).expand(n, -1)).log() for _ in range(2))
        angle = 2 * math.pi * torch.rand(n, 1, device=like.device, dtype=torch.float64) - math.pi
        return torch.cat([(first - second) / 2 * m.sqrt(), angle], 1).to(like)


class SimplexChart(Chart):
    """Coordinates of directions in the positive orthant, by way of the simplex.

    Example:
        >>> chart = SimplexChart(4)
        >>> x = Simplex(4).uniform(5)
        >>> torch.allclose(chart.directions(chart.coordinates(x)), x, atol=1e-6)
        True
    """

    circles, faces = 0, "without zeros, which lie on a face"

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        self.surface, self.lines = Simplex(columns), columns - 1

    def coordinates(self, x: Float[Tensor, "batch D"]) -> Float[Tensor, "batch coordinates"]:
        """Return `log(m x_i / sum of x_{i+1:})`."""
        wide = x.double()
        tails = wide.flip(1).cumsum(1).flip(1)[:, 1:]
        return self._checked(wide[:, :-1].log() - tails.log() + self._after(x).log(), x)

    def directions(self, v: Float[Tensor, "batch coordinates"]) -> Float[Tensor, "batch D"]:
        """Return parts of a whole: `sigmoid(y_i)` times the product of the earlier `sigmoid(-y_j)`."""
        y = v.double() - self._after(v).log()
        log_rest = logsigmoid(-y).cumsum(1)
        before = torch.cat([torch.zeros_like(y[:, :1]), log_rest[:, :-1]], 1)
        return torch.cat([before + logsigmoid(y), log_rest[:, -1:]], 1).exp().to(v)

    def log_uniform(self, v: Float[Tensor, "batch coordinates"]) -> Float[Tensor, " batch"]:
        """Return the sum of `log sigmoid(y) + m log sigmoid(-y)`."""
        m = self._after(v)
        y = v.double() - m.log()
        return (logsigmoid(y) + m * logsigmoid(-y)).sum(1).to(v)

    def draw(self, n: int, like: Tensor) -> Float[Tensor, "n coordinates"]:
        """Draw `y = logit B`, `B ~ Beta(1, m)`."""
        m = self._after(like).expand(n, -1)
        y = torch._standard_gamma(torch.ones_like(m)).log() - torch._standard_gamma(m).log()
        return (y + m.log()).to(like)


def chart_of(surface: StarLike) -> Chart:
    """Return the chart of the directions that meet a surface.

    Args:
        surface: any star-like one of two columns or more.

    Raises:
        InputError: it has a single column.

    Example:
        >>> chart_of(Sphere(5)).lines
        3
    """
    if surface.columns < 2:
        raise InputError(f"expected a surface of 2 columns or more; got {surface.columns}; a point has no law")
    return SimplexChart(surface.columns) if surface.orthant else SphereChart(surface.columns)


def _log_sech(y: Tensor) -> Tensor:
    size = y.abs()
    return math.log(2) - size - (-2 * size).exp().log1p()


def _shown(row: Tensor) -> str:
    """Return the beginning of a row as text."""
    shown = ", ".join(f"{value:.4g}" for value in row[:4].tolist())
    return f"({shown}{', ...' if len(row) > 4 else ''})"
