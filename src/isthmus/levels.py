"""Levels: settings of a training that are drawn afresh for every row, and that the networks are told.

Where the input noise or beta is given as a range, each training row has a value of its own, log-uniform in that range,
and the networks are told its *level*, the logarithm mapped to [-1, 1], beside the context of the data. One training so
gives the models of all values: of the noise from coarse to fine, of beta along the whole trade between reconstruction
and density. A model is used at the lowest noise and the highest beta unless another level is set
(`isthmus.model.Model.at`).

References:
    Kim, Lee, Kang, Lee, Kim (2020), SoftFlow: Probabilistic Framework for Normalizing Flow on Manifolds, arXiv
    2006.04604, for the noise; Dosovitskiy, Djolonga (2020), You Only Train Once: Loss-Conditional Training of Deep
    Networks, ICLR, for the weights of a loss; both so in the code that Sorrenson et al. (2024), arXiv 2306.01843, came
    with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.errors import InputError

__all__ = ["Levels", "Range"]


@dataclass(frozen=True)
class Range:
    """Values that are drawn log-uniformly, and their levels in [-1, 1].

    Args:
        low: > 0.
        high: > low.

    Raises:
        InputError: these are no bounds of positive numbers.

    Example:
        >>> Range(1.0, 100.0).level(10.0), Range(1.0, 100.0).value(torch.tensor([-1.0, 0.0, 1.0])).round()
        (0.0, tensor([  1.,  10., 100.]))
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise InputError(
                f"expected a range [low, high] with 0 < low < high; got [{self.low}, {self.high}]; give one number to "
                "have no range"
            )

    def level(self, value: float) -> float:
        """Return the level of a value, `2 log(value / low) / log(high / low) - 1`.

        Raises:
            InputError: the value is not within the range, where nothing was learnt.
        """
        if not self.low <= value <= self.high:
            raise InputError(
                f"expected a value from {self.low} to {self.high}, as in training; got {value}; choose one"
            )
        return 2 * math.log(value / self.low) / math.log(self.high / self.low) - 1

    def value(self, level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the values of levels."""
        return self.low * (self.high / self.low) ** ((level + 1) / 2)


@dataclass(frozen=True)
class Levels:
    """The ranges of one training; the columns of its levels stand in the order of these attributes.

    Attributes:
        noise: of the standard deviation of the input noise, on standardised columns; None where it has no range.
        beta: of the weight of the squared reconstruction error, in nats per squared unit of standardised columns.

    Example:
        >>> levels = Levels(noise=Range(0.01, 1.0), beta=Range(1.0, 100.0))
        >>> levels.start, levels.changed(levels.start, noise=0.1)
        ((-1.0, 1.0), (0.0, 1.0))
    """

    noise: Range | None = None
    beta: Range | None = None

    @property
    def ranges(self) -> dict[str, Range]:
        """The ranges that are set, by name."""
        both = {"noise": self.noise, "beta": self.beta}
        return {name: given for name, given in both.items() if given is not None}

    @property
    def start(self) -> tuple[float, ...]:
        """The levels that a flow is used at unless others are set: the lowest noise, the highest beta."""
        return tuple({"noise": -1.0, "beta": 1.0}[name] for name in self.ranges)

    def __len__(self) -> int:
        return len(self.ranges)

    def changed(self, levels: Sequence[float], **values: float | None) -> tuple[float, ...]:
        """Return levels, some of them at other values.

        Args:
            levels: one a range.
            values: by the names of the ranges, in the unit of training; None keeps a level.

        Raises:
            InputError: there is no such range, or the value is not within it.
        """
        asked = {name: value for name, value in values.items() if value is not None}
        unknown = [name for name in asked if name not in self.ranges]
        if unknown:
            there = " and ".join(self.ranges) or "nothing"
            raise InputError(
                f"expected a level of what training drew from a range, {there}; got {unknown[0]}; give the fit a range "
                "[low, high] of it"
            )
        pairs = zip(self.ranges.items(), levels, strict=True)
        return tuple(given.level(asked[name]) if name in asked else level for (name, given), level in pairs)

    def values(self, levels: Sequence[float]) -> dict[str, float]:
        """Return what levels stand for, by the names of the ranges.

        Example:
            >>> Levels(beta=Range(1.0, 100.0)).values([1.0])
            {'beta': 100.0}
        """
        pairs = zip(self.ranges.items(), torch.tensor(levels, dtype=torch.float64), strict=True)
        return {name: float(given.value(level)) for (name, given), level in pairs}

    def draw(self, rows: Float[Tensor, "batch D"]) -> Float[Tensor, "batch L"]:
        """Draw levels for a batch, uniform in [-1, 1]: their values are log-uniform."""
        return 2 * torch.rand(rows.shape[0], len(self), dtype=rows.dtype, device=rows.device) - 1
