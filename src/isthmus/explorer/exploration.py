"""What there is to see of a model and a table, as arrays: codes, densities, errors, neighbours, paths, outliers.

Nothing here knows of a page. Rows are counted from 0 in the order of the exploration; `numbers` has their places in the
user's table.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped, UInt8

from isthmus import scoring
from isthmus.data.tables import Column
from isthmus.data.tables.columns import Level, named
from isthmus.data.tables.wording import quoted
from isthmus.errors import InputError
from isthmus.flow import Context
from isthmus.store import Fitted

__all__ = ["BASES", "Axes", "Exploration", "Pixels", "explore"]

BASES = ("principal axes", "codes")
_ROWS = 2_000
_FEWEST_PIXELS = 64  # of a square that is taken for an image without being told


class Axes(NamedTuple):
    """Orthonormal coordinates of the codes: `u = (z - origin) directions`.

    Attributes:
        names: of the d coordinates.
        origin: (d,).
        directions: (d, d), one a column.

    Example:
        >>> axes = Axes(("up",), np.array([1.0]), np.array([[-1.0]]))
        >>> axes.coordinates(np.array([[3.0]])), axes.codes(np.array([[-2.0]]))
        (array([[-2.]]), array([[3.]]))
    """

    names: tuple[str, ...]
    origin: Float[np.ndarray, " d"]
    directions: Float[np.ndarray, "d d"]

    def coordinates(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Return the coordinates of codes."""
        return (z - self.origin) @ self.directions

    def codes(self, u: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Return the codes of coordinates."""
        return self.origin + u @ self.directions.T


class Pixels(NamedTuple):
    """How a row of features becomes an image.

    Attributes:
        shape: channels (1 or 3), height and width.
        blank: value of each pixel that is no feature, (pixels,); others are overwritten.
        features: which pixels are features, (features,), in their order.
        low: the value shown black.
        high: the value shown white.

    Example:
        >>> pixels = Pixels((1, 2, 2), np.zeros(4), np.array([0, 3]), low=0.0, high=1.0)
        >>> pixels.images(np.array([[1.0, 0.2]]))[0, :, :, 0]
        array([[255,   0],
               [  0,  51]], dtype=uint8)
    """

    shape: tuple[int, int, int]
    blank: Float[np.ndarray, " pixels"]
    features: Int[np.ndarray, " features"]
    low: float
    high: float

    def images(self, x: Float[np.ndarray, "n features"]) -> UInt8[np.ndarray, "n h w channels"]:
        """Return the images of rows of features, in the user's units."""
        sheet = np.tile(self.blank, (len(x), 1))
        sheet[:, self.features] = x
        grey = np.clip((sheet - self.low) / (self.high - self.low), 0.0, 1.0)
        return np.rint(255 * grey).astype(np.uint8).reshape(-1, *self.shape).transpose(0, 2, 3, 1)


@dataclass(frozen=True)
class Exploration:
    """A model with rows of a table, and what the model says of them.

    Attributes:
        fitted: the model and its record.
        frame: the rows, in the columns of the fit.
        numbers: place of each row in the user's table, counted from 0, (n,).
        x: features of the rows, (n, features), in the user's units.
        z: their codes, (n, d).
        log_density: linearised ambient log density, (n,) in nats, user's units.
        error: squared distance to the reconstruction, on standardised columns, (n,).
        drawn: whether the rows are samples of the model, as there was no table.
        pixels: how rows become images, or None.

    Example:
        >>> from isthmus import fit, Recipe
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> fitted = fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]], recipe=recipe)
        >>> exploration = explore(fitted, pd.DataFrame({"a": [0.5, 1.5, 9.0], "b": [0.5, 1.5, 0.0]}))
        >>> exploration.z.shape, exploration.outliers(0.3).tolist()
        ((3, 1), [2])
    """

    fitted: Fitted
    frame: pd.DataFrame
    numbers: Int[np.ndarray, " n"]
    x: Float[np.ndarray, "n features"]
    z: Float[np.ndarray, "n d"]
    log_density: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    drawn: bool
    pixels: Pixels | None

    @property
    def context(self) -> tuple[Column, ...]:
        """The columns that the model is conditioned on."""
        if self.fitted.schema is not None:
            return tuple(column for column in self.fitted.schema.columns if column.role == "context")
        names = self.frame.columns[self.x.shape[1] :]
        return tuple(Column(name=name, kind="number", role="context", dtype="float64") for name in names)

    def axes(self, basis: str) -> Axes:
        """Return coordinates of the codes.

        Args:
            basis: one of `BASES`: directions by decreasing variance of the codes, from their mean; or the codes
                themselves.

        Raises:
            InputError: it is neither.
        """
        d = self.z.shape[1]
        if basis == "codes":
            return Axes(tuple(f"z{i}" for i in range(d)), np.zeros(d), np.eye(d))
        if basis != "principal axes":
            raise InputError(f"expected one of {', '.join(BASES)}; got {basis!r}; choose one of them")
        origin = self.z.mean(0)
        directions = np.linalg.svd(self.z - origin, full_matrices=True)[2].T
        directions *= np.sign(directions[np.abs(directions).argmax(0), np.arange(d)])
        return Axes(tuple(f"axis {i + 1}" for i in range(d)), origin, directions)

    def neighbours(
        self, z: Float[np.ndarray, " d"], count: int, without: int | None = None
    ) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Return the rows whose codes are nearest to a code, and their Euclidean distances, nearest first.

        Args:
            z: a code.
            count: how many, at most.
            without: a row that is left out, such as that of the code itself.
        """
        distances = np.linalg.norm(self.z - z, axis=1)
        order = np.argsort(distances, kind="stable")
        nearest = order[order != without][:count]
        return nearest, distances[nearest]

    def path(self, start: int, end: int, steps: int) -> Float[np.ndarray, "steps d"]:
        """Interpolate codes evenly on the line from the code of one row to that of another, both ends included."""
        t = np.linspace(0.0, 1.0, steps)[:, None]
        return (1 - t) * self.z[start] + t * self.z[end]

    def cut(self, share: float) -> float:
        """Return the log density, of one of the rows, below which at most this share of them lies, 0 <= share < 1."""
        return float(np.quantile(self.log_density, share, method="higher"))

    def outliers(self, share: float) -> Int[np.ndarray, " k"]:
        """Return the rows whose log density is below the cut of this share, least likely first."""
        order = np.argsort(self.log_density, kind="stable")
        return order[self.log_density[order] < self.cut(share)]

    def outlier_table(self, share: float) -> pd.DataFrame:
        """Return outliers: `row` (place in the user's table), `log_density`, `reconstruction_error`, its columns."""
        chosen = self.outliers(share)
        scores = {
            "row": self.numbers[chosen],
            "log_density": self.log_density[chosen],
            "reconstruction_error": self.error[chosen],
        }
        return pd.concat([pd.DataFrame(scores), self.frame.iloc[chosen].reset_index(drop=True)], axis=1)

    def given(self, row: int) -> dict[str, Level | None]:
        """Return the values of the context columns of a row, None where one is missing; empty without a context."""
        return {column.name: _level(self.frame[column.name].iloc[row]) for column in self.context}

    def decode(self, z: Float[np.ndarray, "n d"], given: Mapping[str, Level | None]) -> Float[np.ndarray, "n features"]:
        """Decode codes to the features of the points of the manifold that they stand for, in the user's units.

        Args:
            z: codes.
            given: a value for each context column; empty without a context.

        Raises:
            InputError: a value is missing, or does not suit its column.
        """
        return self.fitted.model.decode(torch.from_numpy(z), self._encoded(given, len(z))).numpy()

    def table(self, z: Float[np.ndarray, "n d"], given: Mapping[str, Level | None]) -> pd.DataFrame:
        """Decode codes to rows in the user's columns, whole numbers rounded."""
        codes = pd.DataFrame(z, columns=[f"z{i}" for i in range(z.shape[1])])
        context = pd.DataFrame({name: [value] * len(z) for name, value in given.items()}, index=codes.index)
        return _by_pixel(self.fitted, scoring.decode(self.fitted, pd.concat([codes, context], axis=1)))

    def standardised(self, x: Float[np.ndarray, "n features"]) -> Float[np.ndarray, "n D"]:
        """Standardise features as the flow sees them, those that vary."""
        return self.fitted.model.columns.standardise(torch.from_numpy(x)).numpy()

    @property
    def standardised_names(self) -> list[str]:
        """Names of the standardised features."""
        kept = self.fitted.model.columns.kept.tolist()
        return [name for name, inside in zip(scoring.features(self.fitted), kept, strict=True) if inside]

    def values(self, what: str) -> Shaped[np.ndarray, " n"]:
        """Return "log density", "reconstruction error", or a column, to colour rows by; numbers, or levels as text.

        Raises:
            InputError: there is no such column.
        """
        scores = {"log density": self.log_density, "reconstruction error": self.error}
        if what in scores:
            return scores[what]
        if what not in self.frame.columns:
            raise InputError(f"expected a column of the table; got {what!r}; choose another")
        column = self.frame[what]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            return column.to_numpy(np.float64, na_value=np.nan)
        return column.astype(str).to_numpy(str)

    def _encoded(self, given: Mapping[str, Level | None], rows: int) -> Context:
        if not given:
            return None
        if self.fitted.schema is not None:
            c = self.fitted.schema.encode_context(given)
        else:
            c = np.array([list(given.values())], dtype=np.float64)
        return torch.from_numpy(c).expand(rows, -1)


def explore(
    fitted: Fitted,
    frame: pd.DataFrame | None = None,
    *,
    image: str | None = None,
    most_rows: int | None = None,
    seed: int = 0,
) -> Exploration:
    """Score and encode the rows of a table, or samples of the model where there is none.

    Args:
        fitted: the model and its record.
        frame: a table with the columns of the fit.
        image: channels x height x width, or height x width, where a row is an image, channels first. Without it an
            image is shown if the model's network has a shape, or if at least 64 numbers make a square.
        most_rows: how many rows are taken, at random if the table has more; by default 2,000, fewer of wide tables,
            whose densities take long.
        seed: of what is drawn.

    Returns:
        The exploration.

    Raises:
        InputError: the table or the image does not suit the model, or a conditional model has no table.

    Example:
        >>> from isthmus import fit, Recipe
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> exploration = explore(fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]], recipe=recipe), most_rows=9)
        >>> exploration.drawn, exploration.frame.shape
        (True, (9, 2))
    """
    most_rows = most_rows or fitted.model.injection.affordable(_ROWS, times=20)
    drawn = frame is None
    frame = _samples(fitted, most_rows, seed) if frame is None else named(frame)
    if frame.empty:
        raise InputError(f"expected a table with rows; got shape {frame.shape}; give one")
    numbers = np.arange(len(frame))
    if len(frame) > most_rows:
        numbers = np.sort(np.random.default_rng(seed).choice(len(frame), most_rows, replace=False))
    frame = frame.iloc[numbers].reset_index(drop=True)
    x, c = scoring.tensors(fitted, frame)
    pixels = _pixels(fitted, x.numpy(), image)
    scores = scoring.score(fitted, frame)
    return Exploration(
        fitted=fitted,
        frame=_by_pixel(fitted, _columns_of_fit(fitted, frame)),
        numbers=numbers,
        x=x.numpy(),
        z=fitted.model.encode(x, c).numpy(),
        log_density=scores["log_density"].to_numpy(),
        error=scores["reconstruction_error"].to_numpy(),
        drawn=drawn,
        pixels=pixels,
    )


def _samples(fitted: Fitted, n: int, seed: int) -> pd.DataFrame:
    if fitted.model.flow.context_dim:
        names = [column.name for column in fitted.schema.columns if column.role == "context"] if fitted.schema else []
        got = f"none, for a model that is conditioned on {quoted(*names) if names else 'a context'}"
        raise InputError(f"expected a table, to take the context from; got {got}; give one")
    return scoring.sample(fitted, n, seed=seed)


def _level(value: Any) -> Level | None:
    """Convert a value to plain Python, times to text."""
    if pd.isna(value):
        return None
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str) else str(value)


def _columns_of_fit(fitted: Fitted, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that the model knows, under its names; constant ones may be absent."""
    first = scoring.encode(fitted, frame.iloc[:1])
    names = list(scoring.decode(fitted, first).columns)
    if fitted.schema is None and len(names) == frame.shape[1]:
        return frame.set_axis(names, axis=1)
    return frame[[name for name in names if name in frame.columns]]


def _by_pixel(fitted: Fitted, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a column a pixel in place of a column of images."""
    for column in fitted.schema.columns if fitted.schema else ():
        if column.kind == "image":
            values = np.zeros((len(frame), len(column.features)))
            column.encode(frame[column.name], values)
            pixels = pd.DataFrame(values, columns=list(column.features), index=frame.index)
            frame = pd.concat([pixels, frame.drop(columns=column.name)], axis=1)
    return frame


def _pixels(fitted: Fitted, x: Float[np.ndarray, "n features"], image: str | None) -> Pixels | None:
    """Return how rows become images: as told, as the network has it, or as a square; None where they are none."""
    columns = [] if fitted.schema is None or fitted.schema.image else fitted.schema.columns
    columns = [column for column in columns if column.role == "data"]
    n = len(columns) or x.shape[1]
    on_surface = fitted.schema is not None and fitted.schema.coordinates is not None
    plain = not on_surface and all(c.kind in ("number", "boolean") and not c.has_missing for c in columns)
    shape = _shape(image) if image else fitted.image or ()
    if image and not (plain and math.prod(shape) == n):
        got = f"{' x '.join(map(str, shape))} = {math.prod(shape)}"
        what = f"{n} columns" + ("" if plain else ", not all of them plain numbers")
        raise InputError(f"expected an image of as many numbers as the table has, {what}; got {got}; correct it")
    side = math.isqrt(n)
    if not shape and n >= _FEWEST_PIXELS and side**2 == n:
        shape = 1, side, side
    if not plain or len(shape) != 3 or math.prod(shape) != n:
        return None
    blank = np.array([column.fill for column in columns]) if columns else np.zeros(n)
    varying = np.flatnonzero([not column.constant for column in columns]) if columns else np.arange(n)
    values = np.append(np.delete(blank, varying), x)
    low, high = float(values.min()), float(values.max())
    return Pixels((shape[0], shape[1], shape[2]), blank, varying, low, high if high > low else low + 1.0)


def _shape(image: str) -> tuple[int, int, int]:
    """Parse channels, height and width from text such as 1x28x28 or 28x28."""
    sizes = image.lower().split("x")
    if not (len(sizes) in (2, 3) and all(size.isdecimal() and int(size) for size in sizes)):
        raise InputError(f"expected channels, height and width such as 1x28x28; got {image!r}; give all three")
    channels, height, width = (int(size) for size in ["1", *sizes][-3:])
    if channels not in (1, 3):
        raise InputError(f"expected 1 or 3 channels; got {channels}; give one of them")
    return channels, height, width
