"""A law on a known surface around the origin: a flow of directions, and the star map, whose volume is exact."""

from typing import Annotated, ClassVar, Literal, final

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from isthmus.bijections import Layer, layers
from isthmus.errors import InputError
from isthmus.flow import Context, Flow, check_context, check_temperature
from isthmus.supports import Ellipsoid, Radius, Sphere, StarLike, Support
from isthmus.supports.charts import chart_of

__all__ = ["HypersurfaceFlow"]


@final
class HypersurfaceFlow(Flow):
    """A law on a surface that every ray from the origin meets once: a sphere, the simplex, level sets of penalties.

    A direction n has coordinates (`isthmus.supports.charts`), which layers of splines (`isthmus.bijections`) take to
    those of a uniform direction; the star map takes n to the surface, `x = r(n) n`. With respect to the surface's area

        log p(x) = log p(n) - log_stretch(n),

    in closed form at the cost of the layers; an untrained flow has a uniform direction, and of the positive orthant a
    uniform one on the simplex. Where no axis is special, as on the sphere, fixed reflections between the layers move
    the poles of the coordinates about, and the density at poles stays finite; elsewhere the rate of every tail is
    learnt, so that no layer along a face or about a sparse vertex is out of reach.

    Rows that have no coordinates are refused: with a zero on the simplex, and on p-spheres and group lassos with zeros
    in the last two columns. A density per area is 0 at a cusp, p < 1, where a column is 0.

    Args:
        rows: the surface.
        context_dim: number of context columns, 0 for none.
        transforms: number of layers; 0 for the law of uniform directions.
        bins: of each spline.
        width: of the hidden layers of each layer's network.
        depth: number of these.
        passes: evaluations of a network that the slow way takes: as many as coordinates by default up to 64 coordinates
            (autoregressive), 2 beyond (couplings).
        fast: which way takes one evaluation: `density` to train on rows, `sampling` to train on draws.

    Raises:
        InputError: the support is no such surface.

    References:
        Negri, Arend Torres, Roth (2025), Injective flows for star-like manifolds, arXiv 2406.09116; the change of
        volume is that of `isthmus.supports.starlike`, in O(D).

    Example:
        >>> from isthmus.supports import Sphere
        >>> flow = HypersurfaceFlow(Sphere(3), width=8)
        >>> uniform = -torch.tensor(4 * torch.pi).log()  # as it is untrained
        >>> torch.allclose(flow.log_prob(flow.sample(2)), uniform, atol=1e-5)
        True
    """

    supports = ("sphere", "simplex", "lp_sphere", "ellipsoid", "group_lasso")
    cites = ("negri2025", "durkan2019", "rezende2020")
    constraints: ClassVar[dict[str, str]] = {**Flow.constraints, "*.kept": "constant", "*.moved": "constant"}
    rows: StarLike
    mirrors: Tensor | None
    origin: Tensor

    def __init__(
        self,
        rows: Support,
        context_dim: int = 0,
        *,
        transforms: Annotated[int, Ge(0)] = 4,
        bins: Annotated[int, Ge(2)] = 8,
        width: Annotated[int, Ge(1)] = 64,
        depth: Annotated[int, Ge(1)] = 2,
        passes: Annotated[int, Ge(2)] | None = None,
        fast: Literal["density", "sampling"] = "density",
    ) -> None:
        super().__init__(rows, context_dim)
        if not isinstance(rows, StarLike):
            raise InputError(
                f"expected a surface around the origin, {', '.join(self.supports)}; got {type(rows).__name__}; choose "
                "one of these"
            )
        self.chart = chart_of(rows)
        self.log_area = self.chart.surface.log_area().value
        smooth = isinstance(rows, Sphere | Ellipsoid | Radius) and not rows.orthant and rows.columns > 2
        self.register_buffer("mirrors", torch.randn(transforms, rows.columns) if smooth else None)
        options = {"transforms": transforms, "bins": bins, "width": width, "depth": depth, "passes": passes}
        sizes = (self.chart.lines, self.chart.circles, context_dim)
        self.layers = nn.ModuleList(layers(*sizes, fast=fast, straight=smooth, **options))  # type: ignore[arg-type]
        self.register_buffer("origin", torch.zeros(()), persistent=False)  # tells the type and the device
        function = getattr(rows, "function", None)
        self.function = function if isinstance(function, nn.Module) else None  # so that a learnt radius is learnt

    def log_prob(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, " batch"]:
        """Return the log density with respect to the surface's area, (batch,) in nats.

        Raises:
            InputError: a row lies where the coordinates end; see the class.
        """
        n = self.rows.direction(x)
        log_density = self._per_area(n)
        v = n if self.mirrors is not None else self.chart.coordinates(n)
        for i, layer in enumerate(self._each()):
            v = v if self.mirrors is None else self.chart.coordinates(self._mirrored(v, i))
            u, log_det = layer.to_base(v, c)
            log_density = log_density + (log_det + (self.chart.log_uniform(u) - self.chart.log_uniform(v)))
            v = u if self.mirrors is None else self.chart.directions(u)
        return log_density

    def rsample_with_log_prob(self, n: int, c: Context = None) -> tuple[Float[Tensor, "n D"], Float[Tensor, " n"]]:
        """Draw n rows with their log densities, differentiable in the parameters; see `Flow.rsample_with_log_prob`."""
        check_context(n, c)
        v = self.chart.draw(n, self.origin)
        log_density = v.new_zeros(n)
        for i, layer in reversed(list(enumerate(self._each()))):
            u = v
            v, log_det = layer.from_base(u, c)
            log_density = log_density - (log_det + (self.chart.log_uniform(v) - self.chart.log_uniform(u)))
            if self.mirrors is not None and i:
                v = self.chart.coordinates(self._mirrored(self.chart.directions(v), i))
        direction = self.chart.directions(v)
        if self.mirrors is not None and len(self.layers):
            direction = self._mirrored(direction, 0)
        x = self.rows.project(direction)
        return x, log_density + self._per_area(self.rows.direction(x))

    @torch.no_grad()
    def sample(self, n: int, c: Context = None, *, temperature: float = 1.0) -> Float[Tensor, "n D"]:
        """Draw n rows of the surface, (n, D).

        Raises:
            InputError: the context has not n rows; a temperature other than 1, since a uniform law has no colder form.
        """
        check_temperature(temperature)
        return self.rsample_with_log_prob(n, c)[0]

    def _per_area(self, n: Tensor) -> Tensor:
        """Return the log density of the untrained law at directions, with respect to area."""
        return self.chart.surface.log_stretch(n) - self.rows.log_stretch(n) - self.log_area

    def _mirrored(self, n: Tensor, i: int) -> Tensor:
        """Return directions reflected before layer i."""
        axis = normalize(self.mirrors[i], dim=0)  # type: ignore[index]
        return n - 2 * (n @ axis).unsqueeze(1) * axis

    def _each(self) -> list[Layer]:
        return list(self.layers)  # type: ignore[arg-type]
