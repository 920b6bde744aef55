"""A law of angles, without a seam."""

import math
from typing import Annotated, ClassVar, Literal, final

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.bijections import Layer, layers
from isthmus.errors import InputError
from isthmus.flow import Context, Flow, check_context, check_temperature
from isthmus.supports import Support, Torus

__all__ = ["TorusFlow"]


@final
class TorusFlow(Flow):
    """A law of angles, each as its cosine and its sine: circular splines, each told of the cosines and sines of others.

    Its log density, in nats per radian of each angle, is continuous across every seam: the layers of
    `isthmus.bijections` take angles to uniform ones, and never see the number that stands for an angle.

    Args:
        rows: a torus.
        context_dim: number of context columns, 0 for none.
        transforms: number of layers; 0 for the uniform law.
        bins: of each spline.
        width: of the hidden layers of each layer's network.
        depth: number of these.
        passes: evaluations of a network that the slow way takes: as many as angles by default up to 64 angles
            (autoregressive), 2 beyond (couplings).
        fast: which way takes one evaluation: `density` to train on rows, `sampling` to train on draws.

    Raises:
        InputError: the support is no torus.

    References:
        Rezende, Papamakarios, Racaniere, Albergo, Kanwar, Shanahan, Cranmer (2020), Normalizing flows on tori and
        spheres, arXiv 2002.02428.

    Example:
        >>> flow = TorusFlow(Torus(4), width=8)
        >>> uniform = -2 * torch.tensor(2 * math.pi).log()  # as it is untrained
        >>> torch.allclose(flow.log_prob(flow.sample(2)), uniform, atol=1e-5)
        True
    """

    supports = ("torus",)
    cites = ("rezende2020", "durkan2019")
    constraints: ClassVar[dict[str, str]] = {**Flow.constraints, "*.kept": "constant", "*.moved": "constant"}
    rows: Torus
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
        if not isinstance(rows, Torus):
            raise InputError(f"expected a torus; got {type(rows).__name__}; give angles as cosines and sines")
        options = {"transforms": transforms, "bins": bins, "width": width, "depth": depth, "passes": passes}
        self.layers = nn.ModuleList(layers(0, rows.dim, context_dim, fast=fast, straight=True, **options))  # type: ignore[arg-type]
        self.register_buffer("origin", torch.zeros(()), persistent=False)  # tells the type and the device

    def log_prob(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, " batch"]:
        """Return the log density per radian of each angle, (batch,) in nats."""
        angles = self.rows.angles(x)
        log_density = x.new_full((len(x),), -self.rows.dim * math.log(2 * math.pi))
        for layer in self._each():
            angles, log_det = layer.to_base(angles, c)
            log_density = log_density + log_det
        return log_density

    def rsample_with_log_prob(self, n: int, c: Context = None) -> tuple[Float[Tensor, "n D"], Float[Tensor, " n"]]:
        """Draw n rows with their log densities, differentiable in the parameters; see `Flow.rsample_with_log_prob`."""
        check_context(n, c)
        angles = (2 * math.pi) * torch.rand(n, self.rows.dim).to(self.origin) - math.pi
        log_density = angles.new_full((n,), -self.rows.dim * math.log(2 * math.pi))
        for layer in reversed(self._each()):
            angles, log_det = layer.from_base(angles, c)
            log_density = log_density - log_det
        return self.rows.rows(angles), log_density

    @torch.no_grad()
    def sample(self, n: int, c: Context = None, *, temperature: float = 1.0) -> Float[Tensor, "n D"]:
        """Draw n rows of cosines and sines, (n, D).

        Raises:
            InputError: the context has not n rows; a temperature other than 1, since a uniform law has no colder form.
        """
        check_temperature(temperature)
        return self.rsample_with_log_prob(n, c)[0]

    def _each(self) -> list[Layer]:
        return list(self.layers)  # type: ignore[arg-type]
