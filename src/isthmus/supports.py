"""Where rows and codes live: the support of a law, and the measure that its density is with respect to.

A density is a density *of something*: of R^n with respect to volume, of a sphere with respect to its own surface area,
of categories with respect to counting, where it is a probability. A `Support` says which values a row may take, how far
a row is off them, and what a tangent vector is: the d columns of `frame(x)` are an orthonormal basis of the directions
in which a row can move, so that changes of volume and probes are taken in these.

| support | rows | dim | measure |
|---|---|---|---|
| `Euclidean` | any finite numbers | n | volume |
| `Sphere` | unit vectors | n - 1 | surface area |
| `Categories` | whole numbers 0, 1, ..., fewer than the levels of their column | 0 | counting |
| `Product` | columns of several supports side by side | the sum | the product |
| `Learned` | points of a manifold that no formula gives: that of a decoder | d | volume on the manifold |

Values are in nats; `measured` is the phrase that is printed beside every one of them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from isthmus.errors import InputError

__all__ = ["MEASURES", "SUPPORTS", "Categories", "Euclidean", "Learned", "Product", "Sphere", "Support"]

_TOLERANCE = 1e-6  # of a distance from a support; of rows as tables hold them

MEASURES: dict[str, str] = {
    "volume": "per unit of volume in the units of the columns",
    "surface area": "per unit of area of the surface",
    "counting": "of a probability: the measure counts rows",
    "manifold": "per unit of d-dimensional volume on the learned manifold",
}
"""Name of a measure -> the phrase printed beside a log density, after "nats"."""


class Support(ABC):
    """A set of rows with a measure on it.

    Implementing one:

    * a frozen dataclass whose fields are its options, `columns` the first;
    * write `distance`, `project`, `uniform` and `frame`, and the attributes `dim` and `measure`;
    * write `learn` where an option can be read off the rows, as the numbers of levels can;
    * add the class to `SUPPORTS`; the property tests then run on it.

    Attributes:
        columns: number of columns of a row.
        dim: number of directions in which a row can move.
        measure: a key of `MEASURES`, or several of them joined by " x ".
    """

    columns: int

    @property
    @abstractmethod
    def dim(self) -> int:
        """The number of directions in which a row can move."""

    @property
    @abstractmethod
    def measure(self) -> str:
        """The measure that densities are with respect to, a key of `MEASURES`."""

    @property
    def measured(self) -> str:
        """The phrase that is printed beside a log density: `nats a row, per unit of ...`."""
        phrases = [MEASURES[name] for name in dict.fromkeys(self.measure.split(" x "))]
        return f"nats a row, {', and '.join(phrases)}"

    @classmethod
    def learn(cls, x: Float[Tensor, "n columns"]) -> dict[str, Any]:
        """Return the options that rows decide, (n, columns); none by default."""
        return {}

    @abstractmethod
    def distance(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return how far each row is from the support, (batch,), 0 on it."""

    @abstractmethod
    def project(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return the nearest point of the support for each row."""

    @abstractmethod
    def uniform(self, n: int) -> Float[Tensor, "n columns"]:
        """Draw rows from the uniform law on the support.

        Raises:
            InputError: there is none, as the support has infinite volume.
        """

    def frame(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns dim"] | None:
        """Return an orthonormal basis of the tangent space at each row; None where that is the identity."""
        return None

    def check(self, x: Float[Tensor, "batch columns"], what: str = "X") -> None:
        """Refuse rows that do not lie on the support.

        Args:
            x: rows, (batch, columns).
            what: what to call them in the message.

        Raises:
            InputError: which row, and how far off.
        """
        if x.shape[1] != self.columns:
            raise InputError(f"expected {what} of {self.columns} columns; got {x.shape[1]}; give as many")
        off = self.distance(x)
        row = int(off.argmax()) if len(off) else 0
        if len(off) and float(off[row]) > _TOLERANCE:
            raise InputError(
                f"expected rows of {what} on the {type(self).__name__.lower()}; got row {row} (counted from 0), off by "
                f"{float(off[row]):.3g}; correct it, or project the rows first"
            )


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


SUPPORTS: dict[str, type[Support]] = {
    "euclidean": Euclidean,
    "sphere": Sphere,
    "categories": Categories,
}
"""Name in a recipe -> support of all columns of a table."""
