"""Systems of coordinates on known surfaces: how columns of a table become points of a sphere, a simplex or a torus.

| surface | columns | X, what the flow sees | units of the columns | units of a density, the first the usual one |
|---|---|---|---|---|
| `sphere` | latitude and longitude | unit vectors x, y, z | degrees, radians | steradian, km2 (of the Earth) |
| `sphere` | three or more: a vector | unit vectors | lengths | steradian, km2; of more than three: area |
| `simplex` | two or more parts of a whole | fractions | fractions, percentages | area, volume (of all but one) |
| `torus` | angles | cosine and sine of each | degrees, radians | radian, degree |

A further entry is a final subclass of `System`, and a line in `SYSTEMS`.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, final

import numpy as np
from jaxtyping import Float

from isthmus.data.tables.wording import quoted

__all__ = ["EARTH_RADIUS", "SYSTEMS", "DensityUnit", "Off", "System", "Values"]

EARTH_RADIUS = 6371.0072
"""Of the sphere that has the area of the Earth, in kilometres."""

_TOLERANCE = 1e-5  # of lengths and sums, relative; of numbers that were rounded when they were written
_ROUNDING = 1e-9  # of angles
_DEGREES = {"degrees": 180 / math.pi, "radians": 1.0}
_NAMED_UNITS = {
    "degrees": re.compile(r"(?:^|[^a-z])deg(?:rees?)?(?:$|[^a-z])", re.IGNORECASE),
    "radians": re.compile(r"(?:^|[^a-z])rad(?:ians?)?(?:$|[^a-z])", re.IGNORECASE),
}
_LATITUDE = re.compile(r"(?:^|[^a-z])lat(?:itude)?(?:$|[^a-z])", re.IGNORECASE)
_LONGITUDE = re.compile(r"(?:^|[^a-z])(?:lon|lng|long|longitude)(?:$|[^a-z])", re.IGNORECASE)
_ADVICE = "correct that row, or have such rows projected (--project)"
_NO_PART = (
    "give a part that was not found the least amount that could be measured, often half of the limit of detection, and "
    "scale the row to its whole; or leave the row out"
)
_FULL = 0.9  # of the range that radians have: values that fill it are radians
_SUMS = 0.05  # that the sum of parts in the middle of a table may differ from a whole, relative

Values = Float[np.ndarray, "n columns"]


class DensityUnit(NamedTuple):
    """A unit that a density on a surface is given in, and what is added to its logarithm in the usual unit, in nats."""

    phrase: str
    offset: float


class Off(NamedTuple):
    """How far rows are off a surface in one respect, and whether projecting them mends it.

    Attributes:
        name: of the column, or of several.
        expected: what is expected there.
        values: what is there, (n,), in the units of the table.
        distance: how far off, (n,), 0 on the surface.
        advice: what to do about such a row.
        mended: whether rows may be projected.
    """

    name: str
    expected: str
    values: Float[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    advice: str
    mended: bool


class System(ABC):
    """Coordinates on a surface. Values are in radians, fractions or lengths, whatever the unit of the table.

    Implementing one: set the attributes, and write the abstract methods.

    Attributes:
        surface: the support that rows lie on.
        title: what rows are.
        flow: the law that is usually learnt there.
        wanted: which columns it takes, in words.
        units: of the columns -> how many make a radian, a whole or a unit of length.
        projected: the unit of rows of any other sum, where such rows are projected.
    """

    surface: ClassVar[str]
    title: ClassVar[str]
    flow: ClassVar[str]
    wanted: ClassVar[str]
    units: ClassVar[dict[str, float]]
    projected: ClassVar[str | None] = None

    @abstractmethod
    def takes(self, count: int) -> bool:
        """Tell whether so many columns are coordinates of this kind."""

    @abstractmethod
    def densities(self, count: int) -> dict[str, DensityUnit]:
        """Return the units of a density by name, the usual one first."""

    @abstractmethod
    def features(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the columns of X."""

    @abstractmethod
    def off(self, values: Values, names: Sequence[str], scale: float) -> Iterator[Off]:
        """Yield in what respects rows may be off the surface; `scale` takes values to the units of the table."""

    @abstractmethod
    def nearest(self, values: Values) -> Values:
        """Return coordinates of the nearest points of the surface."""

    @abstractmethod
    def points(self, values: Values) -> Float[np.ndarray, "n D"]:
        """Return the points X that coordinates stand for."""

    @abstractmethod
    def coordinates(self, x: Float[np.ndarray, "n D"]) -> Values:
        """Return the coordinates of points; angles are in (-pi, pi]."""

    @abstractmethod
    def somewhere(self, count: int) -> Float[np.ndarray, " columns"]:
        """Return coordinates of any point, which stands in for a row that has none."""

    @abstractmethod
    def unit(self, values: Values, names: Sequence[str]) -> str | None:
        """Return the unit of the columns as names and values tell it; None where they do not."""

    def ordered(self, names: Sequence[str]) -> tuple[tuple[str, ...], str]:
        """Return the columns in the order that the coordinates have, and in words what is taken as what."""
        return tuple(names), quoted(*names)

    def turns(self, count: int) -> tuple[bool, ...]:
        """Tell of each column whether it is an angle that may run from 0 to a whole turn."""
        return (False,) * count

    def gist(self, values: Values) -> str:
        """Return in words what values look like, of which the unit cannot be told."""
        return f"values from {values.min():g} to {values.max():g}"


@final
class Places(System):
    """Latitude and longitude.

    Example:
        >>> Places().points(np.array([[0.0, np.pi / 2]])).round(9)
        array([[0., 1., 0.]])
    """

    surface, flow, units, title = "sphere", "hypersurface", _DEGREES, "Places on the sphere"
    wanted = "latitude and longitude, or the three or more columns of a vector"

    def takes(self, count: int) -> bool:
        """Two."""
        return count == 2

    def densities(self, count: int) -> dict[str, DensityUnit]:
        """Steradians, or square kilometres of the Earth."""
        return _on_sphere(3)

    def features(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return x, y and z: from the centre to latitude and longitude 0, to longitude 90 degrees, and to the pole."""
        return ("x", "y", "z")

    def ordered(self, names: Sequence[str]) -> tuple[tuple[str, ...], str]:
        """Return latitude before longitude: by their names where these tell, else as they were named."""
        first, second = (bool(_LATITUDE.search(n)) - bool(_LONGITUDE.search(n)) for n in names)
        names = tuple(names) if first >= second else (names[1], names[0])
        how = "by their names" if first != second else "in the order in which they were named"
        return names, f"latitude {quoted(names[0])} and longitude {quoted(names[1])}, {how}"

    def off(self, values: Values, names: Sequence[str], scale: float) -> Iterator[Off]:
        """Yield latitudes beyond a pole, and longitudes beyond a turn."""
        limits = {"latitude": math.pi / 2, "longitude": 2 * math.pi}
        for column, (what, limit) in enumerate(limits.items()):
            advice = f"name latitude before longitude, {_ADVICE}"
            yield _beyond(values[:, column], names[column], f"a {what}", limit, scale, advice)

    def nearest(self, values: Values) -> Values:
        """Return the pole for a latitude beyond it."""
        return np.stack([values[:, 0].clip(-math.pi / 2, math.pi / 2), values[:, 1]], 1)

    def points(self, values: Values) -> Float[np.ndarray, "n D"]:
        """Return unit vectors."""
        latitude, longitude = values.T
        across = np.cos(latitude)
        return np.stack([across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], 1)

    def coordinates(self, x: Float[np.ndarray, "n D"]) -> Values:
        """Return latitude and longitude."""
        return np.stack([np.arctan2(x[:, 2], np.hypot(x[:, 0], x[:, 1])), np.arctan2(x[:, 1], x[:, 0])], 1)

    def somewhere(self, count: int) -> Float[np.ndarray, " columns"]:
        """Return a place."""
        return np.array([0.3, 0.7])

    def unit(self, values: Values, names: Sequence[str]) -> str | None:
        """Degrees where a value is no radian, radians where both columns fill their range."""
        limits = np.array([math.pi / 2, 2 * math.pi])
        ranges = np.array([math.pi / 2, _FULL * 2 * math.pi])
        return _angular(values, names, limits, filled=bool((np.ptp(values, 0) >= ranges).all()))

    def turns(self, count: int) -> tuple[bool, ...]:
        """The longitude."""
        return (False, True)


@final
class Vectors(System):
    """Vectors of length one.

    Example:
        >>> Vectors().nearest(np.array([[0.0, 3.0, 4.0]]))
        array([[0. , 0.6, 0.8]])
    """

    surface, flow, units, title = "sphere", "hypersurface", {"lengths": 1.0}, "Directions"
    wanted = Places.wanted

    def takes(self, count: int) -> bool:
        """Three or more."""
        return count >= 3

    def densities(self, count: int) -> dict[str, DensityUnit]:
        """Steradians or square kilometres of the Earth; in more dimensions units of area."""
        return _on_sphere(count)

    def features(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(names)

    def off(self, values: Values, names: Sequence[str], scale: float) -> Iterator[Off]:
        """Yield lengths that are not one; a vector of length 0 has no direction."""
        length = np.linalg.norm(values, axis=1)
        distance = np.where(np.abs(length - 1) > _TOLERANCE, np.abs(length - 1), 0.0)
        name, none = ", ".join(names), np.where(length == 0, 1.0, 0.0)
        yield Off(name, "vectors with a direction", length, none, "leave that row out", mended=False)
        yield Off(name, "vectors of length 1", length, distance, _ADVICE, mended=True)

    def nearest(self, values: Values) -> Values:
        """Return the vectors divided by their lengths."""
        length = np.linalg.norm(values, axis=1, keepdims=True)
        return values / np.where(length == 0, 1.0, length)

    def points(self, values: Values) -> Float[np.ndarray, "n D"]:
        """Return the vectors."""
        return values

    def coordinates(self, x: Float[np.ndarray, "n D"]) -> Values:
        """Return the vectors."""
        return x

    def somewhere(self, count: int) -> Float[np.ndarray, " columns"]:
        """Return the diagonal."""
        return np.full(count, count**-0.5)

    def unit(self, values: Values, names: Sequence[str]) -> str | None:
        """Lengths."""
        return "lengths"


@final
class Parts(System):
    """Parts of a whole, all of them above 0.

    Example:
        >>> Parts().nearest(np.array([[0.2, 0.2]]))
        array([[0.5, 0.5]])
    """

    surface, flow, units = "simplex", "hypersurface", {"fractions": 1.0, "percentages": 100.0}
    title, wanted, projected = "Parts of a whole", "two or more parts of a whole", "fractions"

    def takes(self, count: int) -> bool:
        """Two or more."""
        return count >= 2

    def densities(self, count: int) -> dict[str, DensityUnit]:
        """Units of area, or as Dirichlet laws have it of volume of all fractions but one."""
        return {
            "area": DensityUnit("per unit of area of the simplex of fractions", 0.0),
            "volume": DensityUnit(f"per unit of volume of {count - 1} of {count} fractions", 0.5 * math.log(count)),
        }

    def features(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(names)

    def off(self, values: Values, names: Sequence[str], scale: float) -> Iterator[Off]:
        """Yield parts that are not above 0, and sums that are no whole."""
        for column, name in enumerate(names):
            part = values[:, column]
            distance = np.where(part > 0, 0.0, np.maximum(-part, np.finfo(float).tiny))
            yield Off(name, "parts above 0", scale * part, scale * distance, _NO_PART, mended=False)
        total = values.sum(1)
        distance = np.where(np.abs(total - 1) > _TOLERANCE, np.abs(total - 1), 0.0)
        whole = f"parts that sum to {scale:g}"
        yield Off(" + ".join(names), whole, scale * total, scale * distance, _ADVICE, mended=True)

    def nearest(self, values: Values) -> Values:
        """Return the parts divided by their sum."""
        total = values.sum(1, keepdims=True)
        return values / np.where(total > 0, total, 1.0)

    def points(self, values: Values) -> Float[np.ndarray, "n D"]:
        """Return the fractions."""
        return values

    def coordinates(self, x: Float[np.ndarray, "n D"]) -> Values:
        """Return the fractions."""
        return x

    def somewhere(self, count: int) -> Float[np.ndarray, " columns"]:
        """Return equal parts."""
        return np.full(count, 1 / count)

    def unit(self, values: Values, names: Sequence[str]) -> str | None:
        """Return that whose whole the rows sum to, but for a twentieth, in the middle of the table."""
        middle = float(np.median(values.sum(1)))
        return next((unit for unit, whole in self.units.items() if abs(middle / whole - 1) < _SUMS), None)

    def gist(self, values: Values) -> str:
        """Return the sum in the middle."""
        return f"rows that sum to {np.median(values.sum(1)):g} in the middle of the table"


@final
class Angles(System):
    """Angles.

    Example:
        >>> Angles().coordinates(Angles().points(np.array([[0.5, 3.0]]))).round(9)
        array([[0.5, 3. ]])
    """

    surface, flow, units, title, wanted = "torus", "torus", _DEGREES, "Angles", "one or more angles"

    def takes(self, count: int) -> bool:
        """One or more."""
        return count >= 1

    def densities(self, count: int) -> dict[str, DensityUnit]:
        """Radians, or degrees."""
        each = "" if count == 1 else " of each angle"
        return {
            "radian": DensityUnit(f"per radian{each}", 0.0),
            "degree": DensityUnit(f"per degree{each}", count * math.log(math.pi / 180)),
        }

    def features(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return cosine and sine of each angle."""
        return tuple(f"{function} {name}" for name in names for function in ("cos", "sin"))

    def off(self, values: Values, names: Sequence[str], scale: float) -> Iterator[Off]:
        """Yield angles beyond a turn, which may stand for something else."""
        for column, name in enumerate(names):
            yield _beyond(values[:, column], name, "an angle", 2 * math.pi, scale, _ADVICE)

    def nearest(self, values: Values) -> Values:
        """Return the angles: the points of any angle lie on the torus."""
        return values

    def points(self, values: Values) -> Float[np.ndarray, "n D"]:
        """Return cosines and sines."""
        return np.stack([np.cos(values), np.sin(values)], 2).reshape(len(values), -1)

    def coordinates(self, x: Float[np.ndarray, "n D"]) -> Values:
        """Return the angles."""
        return np.arctan2(x[:, 1::2], x[:, ::2])

    def somewhere(self, count: int) -> Float[np.ndarray, " columns"]:
        """Return angles of 0."""
        return np.zeros(count)

    def unit(self, values: Values, names: Sequence[str]) -> str | None:
        """Degrees where a value is no radian, radians where a column fills a turn."""
        ends = (values.max(0) <= math.pi + _TOLERANCE) | (values.min(0) >= -_TOLERANCE)
        filled = bool((ends & (np.ptp(values, 0) >= _FULL * 2 * math.pi)).any())
        return _angular(values, names, np.full(len(names), 2 * math.pi), filled=filled)

    def turns(self, count: int) -> tuple[bool, ...]:
        """All."""
        return (True,) * count


SYSTEMS: dict[str, System] = {"places": Places(), "vectors": Vectors(), "parts": Parts(), "angles": Angles()}
"""Name -> coordinates on a surface; of several of a surface the number of columns tells."""


def _angular(
    values: Values, names: Sequence[str], limits: Float[np.ndarray, " columns"], *, filled: bool
) -> str | None:
    """Return the unit of angles: that in their names, degrees beyond the limits of radians, radians if `filled`."""
    named = {unit for unit, pattern in _NAMED_UNITS.items() for name in names if pattern.search(name)}
    if len(named) == 1:
        return named.pop()
    if bool((np.abs(values).max(0) > limits + _TOLERANCE).any()):
        return "degrees"
    return "radians" if filled else None


def _beyond(values: Float[np.ndarray, " n"], name: str, what: str, limit: float, scale: float, advice: str) -> Off:
    """Return how far angles in radians are beyond a limit to either side."""
    distance = (np.abs(values) - limit - _ROUNDING).clip(0) * scale
    ends = f"{what} from {-limit * scale:g} to {limit * scale:g}"
    return Off(name, ends, scale * values, distance, advice, mended=True)


def _on_sphere(count: int) -> dict[str, DensityUnit]:
    """Return the units of a density on the unit sphere of so many columns."""
    if count != 3:
        return {"area": DensityUnit("per unit of area of the unit sphere", 0.0)}
    earth = f"per square kilometre of the Earth, a sphere of radius {EARTH_RADIUS:,} km"
    return {"steradian": DensityUnit("per steradian", 0.0), "km2": DensityUnit(earth, -2 * math.log(EARTH_RADIUS))}
