"""Surfaces that every ray from the origin meets once: the sphere."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from isthmus.supports.contract import Support

__all__ = ["Sphere"]


@final
@dataclass(frozen=True)
class Sphere(Support):
    """The unit vectors of R^n, with surface area; the circle for n = 2.

    Example:
        >>> sphere = Sphere(3)
        >>> x = sphere.uniform(5)
        >>> sphere.check(x)
        >>> bool((sphere.frame(x).mT @ x.unsqueeze(2)).abs().max() < 1e-6)
        True
    """

    columns: int

    @property
    def dim(self) -> int:
        """One fewer than columns."""
        return self.columns - 1

    @property
    def measure(self) -> str:
        """Surface area."""
        return "surface area"

    @property
    def area(self) -> float:
        """The area of the whole sphere, `2 pi^(n/2) / Gamma(n/2)`."""
        return 2 * math.pi ** (self.columns / 2) / math.gamma(self.columns / 2)

    def distance(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return `| |x| - 1 |`."""
        return (x.norm(dim=1) - 1).abs()

    def project(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return `x / |x|`."""
        return normalize(x, dim=1)

    def uniform(self, n: int) -> Float[Tensor, "n columns"]:
        """Draw normalised Gaussian vectors."""
        return self.project(torch.randn(n, self.columns))

    def frame(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns dim"]:
        """Return the columns of the Householder reflection that takes an axis to x, but for x itself.

        The axis is the one on which x has its smallest entry in size, so that the reflection is never near 0/0.
        """
        axis = x.abs().argmin(1)
        v = x.clone()
        v[torch.arange(len(x), device=x.device), axis] -= 1.0
        reflection = torch.eye(self.columns).to(x) - 2 * v.unsqueeze(2) * v.unsqueeze(1) / v.square().sum(1).reshape(
            -1, 1, 1
        )
        kept = torch.arange(self.columns, device=x.device).expand(len(x), -1) != axis.unsqueeze(1)
        return reflection.mT[kept].unflatten(0, (len(x), self.dim)).mT
