"""Bijections of coordinates that are numbers on lines or angles on circles: what flows on known surfaces are made of.

A layer bends every coordinate by a monotone function of its own, whose parameters a network computes from the others.
The network sees an angle as its cosine and sine, so nothing it says changes at the seam between -pi and pi; zuko's own
circular layers show it the number, and then one point of a torus has two densities.

* On a line the function is a rational-quadratic spline of [-5, 5] and the *sinh-arcsinh* function

      u = sinh(asinh((x - m) / s) - e),

  which is affine at both ends, of slope `exp(-e) / s` on the right and `exp(e) / s` on the left. A spline is the
  identity beyond its ends and leaves the tails of a law as they are; these two slopes set the rate of either tail.
  Where tails are to stay as they are (`straight`), as those at the poles of a sphere, the function is `x - m`.
* On a circle it is a shift and a spline of [-pi, pi] whose slope is 1 at both ends, so that it closes smoothly.

References:
    Durkan, Bekasov, Murray, Papamakarios (2019), arXiv 1906.04032; Rezende et al. (2020), arXiv 2002.02428; Jones,
    Pewsey (2009), Sinh-arcsinh distributions.
"""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from zuko.nn import MLP, MaskedMLP
from zuko.transforms import MonotonicRQSTransform

__all__ = ["Bend", "Layer", "layers"]

_BOUND = 5.0  # of splines on lines
_LIMIT = math.log(1e3)  # of log slopes
_AUTOREGRESSIVE = 64  # coordinates up to which a layer is autoregressive unless it is told otherwise


class Bend:
    """A monotone function of every coordinate; the first ones lie on lines, the others on circles.

    Args:
        parameters: of the functions, in any range, all 0 for the identity: (batch, coordinates, 3 bins + 2), or 3 bins
            where tails are straight.
        bins: of each spline.
        lines: number of coordinates on lines.
        tails_last: whether sinh-arcsinh, or the shift of an angle, comes after the spline instead of before it.

    Example:
        >>> bend = Bend(torch.randn(5, 3, 14), bins=4, lines=2)
        >>> x = torch.randn(5, 3)
        >>> torch.allclose(bend.inverse(bend(x)[0]), x, atol=1e-4)
        True
    """

    def __init__(
        self, parameters: Float[Tensor, "batch coordinates n"], bins: int, lines: int, *, tails_last: bool = False
    ) -> None:
        knots, location, slopes = parameters.tensor_split([3 * bins - 1, 3 * bins], 2)
        shapes = [bins, bins, bins - 1]
        self.lines, self.tails_last = lines, tails_last
        self.line = MonotonicRQSTransform(*knots[:, :lines].split(shapes, 2), bound=_BOUND)
        self.circle = MonotonicRQSTransform(*knots[:, lines:].split(shapes, 2), bound=math.pi)
        self.location, self.shift = location[:, :lines, 0], location[:, lines:, 0]
        self.straight = slopes.shape[2] == 0
        if not self.straight:
            self.log_scale = _softened(slopes[:, :lines, 0], _LIMIT)
            self.skew = _softened(slopes[:, :lines, 1], _LIMIT / 2)

    def __call__(
        self, x: Float[Tensor, "batch coordinates"]
    ) -> tuple[Float[Tensor, "batch coordinates"], Float[Tensor, " batch"]]:
        """Return the images of coordinates, (batch, coordinates), and the log determinant, (batch,)."""
        x, angle = x[:, : self.lines], x[:, self.lines :]
        steps = (self.line.call_and_ladj, self._tails) if self.tails_last else (self._tails, self.line.call_and_ladj)
        x, first = steps[0](x)
        x, second = steps[1](x)
        angle, third = self.circle.call_and_ladj(_wrapped(angle if self.tails_last else angle - self.shift))
        angle = _wrapped(angle - self.shift) if self.tails_last else angle
        return torch.cat([x, angle], 1), (first + second).sum(1) + third.sum(1)

    def inverse(self, y: Float[Tensor, "batch coordinates"]) -> Float[Tensor, "batch coordinates"]:
        """Return the coordinates whose images are given, (batch, coordinates)."""
        y, angle = y[:, : self.lines], y[:, self.lines :]
        y = self.line.inv(self._tails_inverse(y)) if self.tails_last else self._tails_inverse(self.line.inv(y))
        angle = self.circle.inv(_wrapped(angle + self.shift if self.tails_last else angle))
        return torch.cat([y, angle if self.tails_last else _wrapped(angle + self.shift)], 1)

    def _tails(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return sinh-arcsinh of coordinates, and its log derivative."""
        if self.straight:
            return x - self.location, torch.zeros_like(x)
        w = (x - self.location) * (-self.log_scale).exp()
        u = (w.asinh() - self.skew).sinh()
        return u, 0.5 * (u.square().log1p() - w.square().log1p()) - self.log_scale

    def _tails_inverse(self, u: Tensor) -> Tensor:
        if self.straight:
            return u + self.location
        return self.location + self.log_scale.exp() * (u.asinh() + self.skew).sinh()


def _softened(x: Tensor, limit: float) -> Tensor:
    """Return numbers within a limit, with slope 1 at 0."""
    return x / (1 + (x / limit).abs())


def _wrapped(angle: Tensor) -> Tensor:
    """Return angles in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


class Layer(nn.Module):
    """Bend coordinates by functions that depend on the other coordinates and on the context; the identity untrained.

    Args:
        lines: number of coordinates on lines; they come first.
        circles: number of coordinates on circles.
        context_dim: number of context columns.
        bins: of each spline.
        width: of the network's hidden layers.
        depth: number of these.
        passes: evaluations of the network that the inverse takes: as many as coordinates (None, up to 64 coordinates)
            in an autoregressive layer, where each coordinate depends on all before it; 2 in a coupling, where half of
            them depend on the other half; a coupling needs no table of coordinates by coordinates.
        reverse: whether the last coordinate comes first.
        fast: the way that takes one evaluation of the network, to the base (`density`) or from it (`sampling`); the
            other takes `passes`.
        straight: whether functions of lines have slope 1 at both ends.

    Example:
        >>> layer = Layer(2, 1)
        >>> x = torch.randn(5, 3)
        >>> torch.allclose(layer(x)[0], x, atol=1e-5)
        True
    """

    kept: Tensor
    moved: Tensor

    def __init__(
        self,
        lines: int,
        circles: int,
        context_dim: int = 0,
        *,
        bins: int = 8,
        width: int = 64,
        depth: int = 2,
        passes: int | None = None,
        reverse: bool = False,
        fast: Literal["density", "sampling"] = "density",
        straight: bool = False,
    ) -> None:
        super().__init__()
        n = lines + circles
        coupling = n > 1 and (n > _AUTOREGRESSIVE if passes is None else passes == 2)
        passes = 2 if coupling else min(n, passes or n)
        order = torch.arange(n).flip(0) if reverse else torch.arange(n)
        order = order // math.ceil(n / passes)
        self.fast, self.passes = fast, 1 if coupling else passes
        self.bins, self.total = bins, 3 * bins if straight else 3 * bins + 2
        self.register_buffer("kept", (order == 0).nonzero().squeeze(1) if coupling else torch.arange(n))
        self.register_buffer("moved", (order == 1).nonzero().squeeze(1) if coupling else torch.arange(n))
        self.lines_kept, self.lines_moved = (int((index < lines).sum()) for index in (self.kept, self.moved))
        inputs = torch.cat([self.kept, self.kept[self.lines_kept :]])  # the coordinate that each input tells of
        options = {"hidden_features": (width,) * depth, "activation": nn.SiLU}
        if coupling:
            self.network = MLP(len(inputs) + context_dim + 1, len(self.moved) * self.total, **options)
        else:
            sees = torch.cat([order[:, None] > order[inputs], torch.ones(n, context_dim + 1, dtype=torch.bool)], 1)
            self.network = MaskedMLP(sees.repeat_interleave(self.total, 0), **options)
        for parameter in self.network[-1].parameters():
            nn.init.zeros_(parameter)

    def to_base(
        self, v: Float[Tensor, "batch coordinates"], c: Float[Tensor, "batch C"] | None = None
    ) -> tuple[Float[Tensor, "batch coordinates"], Float[Tensor, " batch"]]:
        """Return the images u of coordinates v, nearer to the base, and `log |du/dv|`, (batch,)."""
        return self.forward(v, c) if self.fast == "density" else self.inverse(v, c)

    def from_base(
        self, u: Float[Tensor, "batch coordinates"], c: Float[Tensor, "batch C"] | None = None
    ) -> tuple[Float[Tensor, "batch coordinates"], Float[Tensor, " batch"]]:
        """Return the coordinates v whose images are given, and `log |dv/du|`, (batch,)."""
        return self.inverse(u, c) if self.fast == "density" else self.forward(u, c)

    def forward(
        self, x: Float[Tensor, "batch coordinates"], c: Float[Tensor, "batch C"] | None = None
    ) -> tuple[Float[Tensor, "batch coordinates"], Float[Tensor, " batch"]]:
        """Return the images of coordinates by one evaluation of the network, and the log determinant, (batch,)."""
        y, log_det = self._bend(x, c)(x[:, self.moved])
        return x.index_copy(1, self.moved, y), log_det

    def inverse(
        self, y: Float[Tensor, "batch coordinates"], c: Float[Tensor, "batch C"] | None = None
    ) -> tuple[Float[Tensor, "batch coordinates"], Float[Tensor, " batch"]]:
        """Return the coordinates whose images by `forward` are given, and the log determinant of this, (batch,)."""
        x = y
        for _ in range(self.passes):
            bend = self._bend(x, c)
            moved = bend.inverse(y[:, self.moved])
            x = y.index_copy(1, self.moved, moved)
        return x, -bend(moved)[1]

    def _bend(self, x: Tensor, c: Tensor | None) -> Bend:
        """Return the functions, which depend on the coordinates that are kept, or that come before."""
        line, angle = x[:, self.kept].split([self.lines_kept, len(self.kept) - self.lines_kept], 1)
        told = [line.asinh(), angle.cos(), angle.sin(), *([] if c is None else [c.to(x)]), x.new_ones(len(x), 1)]
        parameters = self.network(torch.cat(told, 1)).unflatten(1, (-1, self.total))
        return Bend(parameters, self.bins, self.lines_moved, tails_last=self.fast == "sampling")


def layers(
    lines: int,
    circles: int,
    context_dim: int = 0,
    *,
    transforms: Annotated[int, Ge(0)] = 3,
    bins: Annotated[int, Ge(2)] = 8,
    width: Annotated[int, Ge(1)] = 64,
    depth: Annotated[int, Ge(1)] = 2,
    passes: Annotated[int, Ge(2)] | None = None,
    fast: Literal["density", "sampling"] = "density",
    straight: bool = False,
) -> list[Layer]:
    """Return layers in alternating order, the one next to the data first; see `Layer`.

    Args:
        lines: number of coordinates on lines.
        circles: number of coordinates on circles.
        context_dim: number of context columns.
        transforms: number of layers.
        bins: of each spline.
        width: of the hidden layers of each network.
        depth: number of these.
        passes: see `Layer`.
        fast: see `Layer`: `density` to train on rows, `sampling` to train on draws.
        straight: see `Layer`.

    Example:
        >>> len(layers(2, 1, transforms=4))
        4
    """
    options = {"bins": bins, "width": width, "depth": depth, "passes": passes, "fast": fast, "straight": straight}
    return [
        Layer(lines, circles, context_dim, reverse=bool(i % 2), **options)  # type: ignore[arg-type]
        for i in range(transforms)
    ]
