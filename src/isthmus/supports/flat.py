"""Numbers, levels, products of supports, and the manifold that a decoder learns: supports without a curved formula."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.errors import InputError
from isthmus.supports.contract import Area, Support

__all__ = ["Categories", "Euclidean", "Learned", "Product"]


@final
@dataclass(frozen=True)
class Euclidean(Support):
    """The whole of R^n, with volume.

    Example:
        >>> Euclidean(3).dim, Euclidean(3).measure
        (3, 'volume')
    """

    columns: int

    @property
    def dim(self) -> int:
        """As many as columns."""
        return self.columns

    @property
    def measure(self) -> str:
        """Volume, the Lebesgue measure."""
        return "volume"

    def distance(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return zeros: every row is on it."""
        return x.new_zeros(x.shape[0])

    def project(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return the rows themselves."""
        return x

    def uniform(self, n: int) -> Float[Tensor, "n columns"]:
        """Refuse: R^n has infinite volume."""
        raise InputError("expected a support of finite volume to draw from; got R^n; draw from a flow instead")


@final
@dataclass(frozen=True)
class Categories(Support):
    """Whole numbers 0, 1, ... that stand for levels, with counting: a density is a probability.

    Args:
        columns: number of columns.
        n_levels: number of levels of each column, >= 1.

    Raises:
        InputError: not one number of levels a column.

    Example:
        >>> Categories(2, (3, 2)).project(torch.tensor([[0.2, 4.0]]))
        tensor([[0., 1.]])
    """

    columns: int
    n_levels: Sequence[int] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_levels", tuple(self.n_levels))
        if len(self.n_levels) != self.columns or min(self.n_levels, default=1) < 1:
            raise InputError(
                f"expected the number of levels of each of {self.columns} columns; got {self.n_levels}; give it"
            )

    @property
    def dim(self) -> int:
        """Zero: a level cannot be moved a little."""
        return 0

    @property
    def measure(self) -> str:
        """Counting."""
        return "counting"

    def log_area(self, n_points: int = 10_000, seed: int = 0) -> Area:
        """Return the logarithm of the number of all combinations of levels."""
        return Area(sum(map(math.log, self.n_levels)), 0.0)

    @classmethod
    def learn(cls, x: Float[Tensor, "n columns"]) -> dict[str, Any]:
        """Return the numbers of levels, one more than the largest value of each column."""
        return {"n_levels": tuple(int(v) + 1 for v in x.amax(0).clamp_min(0).tolist())}

    def distance(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return the largest distance of a value from the nearest level."""
        return (x - self.project(x)).abs().amax(1)

    def project(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return the nearest levels."""
        return x.round().clamp_min(0).minimum(x.new_tensor(self.n_levels) - 1)

    def uniform(self, n: int) -> Float[Tensor, "n columns"]:
        """Draw every level of a column as often."""
        return (torch.rand(n, self.columns) * torch.tensor(self.n_levels)).floor()


@final
@dataclass(frozen=True)
class Product(Support):
    """Columns of several supports side by side, with the product of their measures.

    Args:
        parts: the supports, in the order of their columns, one at least.

    Example:
        >>> from isthmus.supports import Sphere
        >>> both = Product((Sphere(2), Euclidean(1)))
        >>> both.columns, both.dim, both.measure
        (3, 2, 'surface area x volume')
    """

    parts: tuple[Support, ...]

    @property
    def columns(self) -> int:  # type: ignore[override]
        """The number of columns of all parts."""
        return sum(part.columns for part in self.parts)

    @property
    def dim(self) -> int:
        """That of all parts."""
        return sum(part.dim for part in self.parts)

    @property
    def measure(self) -> str:
        """The measures of the parts, each named once."""
        return " x ".join(dict.fromkeys(part.measure for part in self.parts))

    def log_area(self, n_points: int = 10_000, seed: int = 0) -> Area:
        """Return the sum of the parts' logarithms, and the root of their summed squared errors."""
        areas = [part.log_area(n_points, seed) for part in self.parts]
        return Area(sum(area.value for area in areas), math.hypot(*(area.standard_error for area in areas)))

    def _split(self, x: Tensor) -> list[tuple[Support, Tensor]]:
        return list(zip(self.parts, x.split([part.columns for part in self.parts], dim=1), strict=True))

    def distance(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return the root of the summed squares of the parts' distances."""
        return torch.stack([part.distance(block) for part, block in self._split(x)]).norm(dim=0)

    def project(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Project every part."""
        return torch.cat([part.project(block) for part, block in self._split(x)], 1)

    def uniform(self, n: int) -> Float[Tensor, "n columns"]:
        """Draw every part on its own."""
        return torch.cat([part.uniform(n) for part in self.parts], 1)

    def frame(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns dim"] | None:
        """Return the parts' frames as blocks."""
        frames = [(part, block, part.frame(block)) for part, block in self._split(x)]
        if all(frame is None and part.dim == part.columns for part, _, frame in frames):
            return None
        out, row, column = x.new_zeros(len(x), self.columns, self.dim), 0, 0
        for part, block, frame in frames:
            if part.dim:
                own = torch.eye(part.columns).to(x).expand(len(block), -1, -1) if frame is None else frame
                out[:, row : row + part.columns, column : column + part.dim] = own
            row, column = row + part.columns, column + part.dim
        return out


@final
@dataclass(frozen=True)
class Learned(Support):
    """The manifold of a decoder: rows lie near it, not on it, and no formula says how far.

    Args:
        columns: D.
        dim: d.

    Example:
        >>> Learned(5, 2).measure
        'manifold'
    """

    columns: int
    dim: int = 0

    @property
    def measure(self) -> str:
        """Volume on the manifold."""
        return "manifold"

    def distance(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Refuse: only the flow knows its manifold."""
        raise InputError("expected a known surface to measure distances from; got a learned one; use flow.reconstruct")

    def project(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Refuse: only the flow knows its manifold."""
        raise InputError("expected a known surface to project to; got a learned one; use flow.reconstruct")

    def uniform(self, n: int) -> Float[Tensor, "n columns"]:
        """Refuse: only the flow knows its manifold."""
        raise InputError("expected a known surface to draw from; got a learned one; use flow.sample")
