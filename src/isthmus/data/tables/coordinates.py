"""The columns of a table that say where on a known surface a row is: what a user asks for, and what a fit decided.

How columns become points of the surface is said by a `System`, of which `SYSTEMS` has one for each surface and kind of
columns. What a fit decided, `Coordinates`, is part of the table's `Schema`, so that every verb reads later tables, and
writes rows, as the fit did.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from isthmus.data.tables.columns import Column
from isthmus.data.tables.systems import SYSTEMS, DensityUnit, Off, System, Values
from isthmus.data.tables.wording import Report, check_known, quoted, reject
from isthmus.errors import InputError

__all__ = ["Coordinates", "number_column"]


class Coordinates(BaseModel):
    """The columns of a table that say where on a surface a row is: as a user asks for them, or as a fit reads them.

    Attributes:
        surface: `sphere`, `simplex` or `torus`.
        columns: their names, latitude before longitude; none: all that are not conditioned on.
        unit: of the columns, see the module; None where names and values are to tell.
        project: whether rows off the surface are projected on it; if not, they are refused.
        positive: of each column, whether it is an angle from 0 to a turn, and not between minus and plus half a turn.

    Example:
        >>> frame = pd.DataFrame({"lon": [10.0, 190.0], "lat": [45.0, -30.0]})
        >>> places, notes = Coordinates.learn(frame, Coordinates(surface="sphere"))
        >>> places.columns, places.unit, notes[0]
        (('lat', 'lon'), 'degrees', "Places on the sphere: latitude 'lat' and longitude 'lon', by their names, in
        degrees.")
        >>> x = places.encode(np.array([[45.0, 190.0]]))
        >>> places.decode(x).round(6).tolist()
        [[45.0, 190.0]]
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    surface: Literal["sphere", "simplex", "torus"]
    columns: tuple[str, ...] = ()
    unit: str | None = None
    project: bool = False
    positive: tuple[bool, ...] = ()

    @classmethod
    def asked(
        cls,
        surface: "str | Coordinates | None",
        columns: Sequence[str] = (),
        unit: str | None = None,
        *,
        project: bool = False,
    ) -> "Coordinates | None":
        """Check what a user asks for.

        Args:
            surface: its name, or None; or the whole of it.
            columns: names of the columns.
            unit: of the columns.
            project: whether rows are to be projected.

        Raises:
            InputError: there is no such surface, or something is asked of none.

        Example:
            >>> Coordinates.asked("torus", ["alpha"]).columns
            ('alpha',)
        """
        extra = [name for name, value in (("columns", columns), ("unit", unit), ("project", project)) if value]
        if surface is None or isinstance(surface, Coordinates):
            if extra:
                beside = "a surface" if surface is None else "a record of coordinates alone"
                got = f"{', '.join(extra)} {'without it' if surface is None else 'beside it'}"
                raise InputError(
                    f"expected {beside}; got {got}; name one of {_surfaces()} (--surface), or leave it out"
                )
            return surface
        if surface not in {system.surface for system in SYSTEMS.values()}:
            raise InputError(f"expected a surface among {_surfaces()}; got {surface!r}; choose one of them")
        return cls(surface=surface, columns=tuple(columns), unit=unit, project=project)

    @classmethod
    def learn(
        cls, frame: pd.DataFrame, asked: "Coordinates", given: Sequence[str] = ()
    ) -> tuple["Coordinates", list[str]]:
        """Read off a table what was not asked for in full: order, unit and ranges of the columns.

        Args:
            frame: the training table.
            asked: what is known.
            given: columns that are conditioned on.

        Returns:
            The coordinates, and what was decided in sentences for the user.

        Raises:
            InputError: a column is not there, has a gap, or is none of numbers; the unit cannot be told; a row lies off
                the surface.
        """
        names = _named(frame, asked, given)
        system = _system(asked.surface, len(names))
        names, told = system.ordered(names)
        values = _numbers(frame, names)
        unit = _unit(system, asked, values, names)
        half = math.pi * system.units[unit]
        positive = tuple(
            turns and bool(column.min() >= 0 and column.max() > half)
            for turns, column in zip(system.turns(len(names)), values.T, strict=True)
        )
        learnt = cls(surface=asked.surface, columns=names, unit=unit, project=asked.project, positive=positive)
        learnt.encode(values)
        notes = [f"{system.title}: {told}, in {unit}."]
        if moved := learnt.projected(values):
            notes.append(f"Rows off the {asked.surface} are projected on it ({moved:,}).")
        return learnt, notes

    def check(self, names: Sequence[str]) -> None:
        """Raise `ValueError` where these are not the columns, or unit and ranges are missing: of a damaged file."""
        try:
            whole = len(self.positive) == len(self.columns) and self.unit in self.system.units
        except InputError as error:
            raise ValueError(str(error)) from error
        if not whole or sorted(names) != sorted(self.columns):
            raise ValueError(f"no coordinates on the {self.surface} of the columns {quoted(*names)}")

    @property
    def system(self) -> System:
        """The kind of coordinates, by surface and number of columns.

        Raises:
            InputError: there is none.
        """
        return _system(self.surface, len(self.columns))

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of X."""
        return self.system.features(self.columns)

    def density_unit(self, name: str | None = None) -> DensityUnit:
        """Return a unit of a density on the surface.

        Args:
            name: of the unit; the usual one by default.

        Raises:
            InputError: there is none of this name.
        """
        units = self.system.densities(len(self.columns))
        if name is not None and name not in units:
            raise InputError(f"expected a unit of the density among {', '.join(units)}; got {name!r}; choose one")
        return units[name] if name else next(iter(units.values()))

    def encode(self, values: Values, report: Report = reject) -> Float[np.ndarray, "n D"]:
        """Return the points X of a surface that rows of the table stand for.

        Args:
            values: (n, columns) in the unit of the table; NaN where a value was reported already.
            report: what to do about rows off the surface, see `isthmus.data.tables.wording`.

        Returns:
            (n, D), on the surface; of rows that are reported any point of it.
        """
        system, scale = self.system, self._scale
        values = values / scale
        odd = ~np.isfinite(values).all(1)
        values[odd] = system.somewhere(len(self.columns))
        for off in system.off(values, self.columns, scale):
            if not (off.mended and self.project):
                bad = (off.distance > 0) & ~odd
                report(bad, _shown(off, bad), off.expected, off.advice)
                odd |= bad
        values = system.nearest(values)
        values[odd] = system.somewhere(len(self.columns))
        return system.points(values)

    def decode(self, x: Float[np.ndarray, "n D"]) -> Values:
        """Return the values of the table, (n, columns) in its unit, that points X of the surface stand for."""
        values = self.system.coordinates(x)
        turned = np.array(self.positive or (False,) * len(self.columns)) & (values < 0)
        return (values + 2 * math.pi * turned) * self._scale

    def projected(self, values: Values) -> int:
        """Count the rows that `encode` projects, of values (n, columns) in the unit of the table."""
        off = self.system.off(values / self._scale, self.columns, self._scale)
        moved = [one.distance > 0 for one in off if one.mended and self.project]
        return int(np.logical_or.reduce(moved).sum()) if moved else 0

    @property
    def _scale(self) -> float:
        return self.system.units[self.unit or ""]


def _surfaces() -> str:
    return ", ".join(dict.fromkeys(system.surface for system in SYSTEMS.values()))


def _system(surface: str, count: int) -> System:
    kinds = [system for system in SYSTEMS.values() if system.surface == surface]
    system = next((system for system in kinds if system.takes(count)), None)
    if system is None:
        raise InputError(
            f"expected {kinds[0].wanted} as columns of the {surface}; got {count} columns; name them (--columns), and "
            "condition on others (--given)"
        )
    return system


def _named(frame: pd.DataFrame, asked: Coordinates, given: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns that are coordinates, those asked for or all that are not conditioned on."""
    names = asked.columns or tuple(name for name in frame.columns if name not in given)
    for name in names:
        check_known(name, list(frame.columns), f"a column of the {asked.surface}")
    twice = [name for name in names if names.count(name) > 1 or name in given]
    if twice:
        raise InputError(
            f"expected columns of the {asked.surface} that differ, and are not conditioned on; got {quoted(*twice)} "
            "twice; name each once"
        )
    return names


def _numbers(frame: pd.DataFrame, names: Sequence[str]) -> Values:
    """Return columns as numbers, none of them missing."""
    values = np.zeros((len(frame), len(names)))
    for j, name in enumerate(names):
        series = frame[name].reset_index(drop=True)
        reject(series.isna().to_numpy(), series, "a value", "a row with a gap is nowhere: leave it out")
        number_column(name).encode(series, values[:, j : j + 1])
    return values


def number_column(name: str, dtype: str = "float64") -> Column:
    """Return a column of plain numbers, which is neither rounded nor left out.

    Args:
        name: of the column.
        dtype: that `decode` restores.

    Example:
        >>> number_column("latitude").features
        ('latitude',)
    """
    return Column(name=name, kind="number", dtype=dtype)


def _unit(system: System, asked: Coordinates, values: Values, names: Sequence[str]) -> str:
    units = ", ".join(system.units)
    if asked.unit is not None and asked.unit not in system.units:
        raise InputError(f"expected a unit of the columns among {units}; got {asked.unit!r}; choose one (--unit)")
    unit = asked.unit or system.unit(values, names) or (system.projected if asked.project else None)
    if unit is None:
        advice = "name it (--unit)" if system.projected is None else "correct them, or have rows projected (--project)"
        raise InputError(
            f"expected columns {quoted(*names)} whose values tell their unit, {units}; got {system.gist(values)}; "
            f"{advice}"
        )
    return unit


def _shown(off: Off, bad: np.ndarray) -> pd.Series:
    """Return the values of rows off a surface as a message has them, with how far off; empty text elsewhere."""
    texts = np.full(len(bad), "", dtype=object)
    for row in np.flatnonzero(bad):
        far = f", off by {off.distance[row]:.3g}" if off.distance[row] > np.finfo(float).tiny else ""
        texts[row] = f"{off.values[row]:.6g}{far}"
    return pd.Series(texts, name=off.name)
