"""The contract of a support, and the measures that densities are with respect to."""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from isthmus.errors import InputError

__all__ = ["MEASURES", "Area", "Support"]

_TOLERANCE = 1e-6  # of a distance from a support; of rows as tables hold them

MEASURES: dict[str, str] = {
    "volume": "per unit of volume in the units of the columns",
    "surface area": "per unit of area of the surface",
    "angle": "per radian of each angle",
    "rotation": "per unit of volume of rotations, 8 pi^2 in all: lengths are angles in radians",
    "counting": "of a probability: the measure counts rows",
    "manifold": "per unit of d-dimensional volume on the learned manifold",
}
"""Name of a measure -> the phrase printed beside a log density, after "nats"."""


class Area(NamedTuple):
    """The measure of a whole support, or its logarithm, and its standard error, which is 0 where the value is exact."""

    value: float
    standard_error: float


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

    def log_area(self, n_points: int = 10_000, seed: int = 0) -> Area:
        """Return the log measure of the whole support in nats, with the standard error of an estimate, 0 if exact.

        Infinity unless a support says otherwise.

        Args:
            n_points: draws, where it is estimated.
            seed: of these.
        """
        return Area(math.inf, 0.0)

    def area(self, n_points: int = 10_000, seed: int = 0) -> Area:
        """Return the measure of the whole support with the standard error of an estimate, 0 where it is exact.

        Args:
            n_points: draws, where it is estimated.
            seed: of these.

        Example:
            >>> from isthmus.supports import Sphere
            >>> Sphere(3).area()
            Area(value=12.566..., standard_error=0.0)
        """
        log_area, error = self.log_area(n_points, seed)
        return Area(math.exp(log_area), math.exp(log_area) * error)

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
        off = self.distance(x).detach()
        row = int(off.argmax()) if len(off) else 0
        if len(off) and not float(off[row]) <= _TOLERANCE:
            raise InputError(
                f"expected rows of {what} on the {type(self).__name__.lower()}; got row {row} (counted from 0), off by "
                f"{float(off[row]):.3g}; correct it, or project the rows first"
            )
