"""Closed manifolds that are no surface around the origin: the torus."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from isthmus.errors import InputError
from isthmus.supports.contract import Area, Support

__all__ = ["Torus"]


@final
@dataclass(frozen=True)
class Torus(Support):
    """Angles, each as two columns, its cosine and its sine: `cos a, sin a, cos b, sin b, ...`; a product of circles.

    Args:
        columns: twice the number of angles.

    Raises:
        InputError: the number of columns is odd or below 2.

    Example:
        >>> torus = Torus(4)
        >>> x = torus.rows(torch.tensor([[0.5, 3.0]]))
        >>> torus.check(x)
        >>> torus.angles(x)
        tensor([[0.5000, 3.0000]])
    """

    columns: int

    def __post_init__(self) -> None:
        if self.columns < 2 or self.columns % 2:
            raise InputError(
                f"expected two columns for each angle, its cosine and its sine; got {self.columns} columns; give both"
            )

    @property
    def dim(self) -> int:
        """The number of angles."""
        return self.columns // 2

    @property
    def measure(self) -> str:
        """Radians of each angle."""
        return "angle"

    @staticmethod
    def angles(x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch dim"]:
        """Return the angles of rows in radians, in (-pi, pi]."""
        return torch.atan2(x[:, 1::2], x[:, ::2])

    @staticmethod
    def rows(angles: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch columns"]:
        """Return the rows of angles in radians."""
        return torch.stack([angles.cos(), angles.sin()], 2).flatten(1)

    def log_area(self, n_points: int = 10_000, seed: int = 0) -> Area:
        """Return `dim log(2 pi)`."""
        return Area(self.dim * math.log(2 * math.pi), 0.0)

    def distance(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return the root of the summed squares of the circles' distances."""
        return (x.unflatten(1, (self.dim, 2)).norm(dim=2) - 1).norm(dim=1)

    def project(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return the nearest point of every circle."""
        return normalize(x.unflatten(1, (self.dim, 2)), dim=2).flatten(1)

    def uniform(self, n: int) -> Float[Tensor, "n columns"]:
        """Draw every angle uniformly."""
        return self.rows(2 * math.pi * torch.rand(n, self.dim))

    def frame(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns dim"]:
        """Return the direction of each growing angle, `(-sin, cos)`, in the rows of its two columns."""
        cosine, sine = x[:, ::2], x[:, 1::2]
        each = torch.stack([torch.diag_embed(-sine), torch.diag_embed(cosine)], 2)  # (batch, dim, 2, dim)
        return each.flatten(1, 2)
