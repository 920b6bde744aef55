"""Rows as flows see them: standardised data, and the context beside them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Context", "Rows"]

_ROWS_AT_ONCE, _NUMBERS_AT_ONCE = 4_096, 4_000_000

Context = Float[Tensor, "batch C"] | None


@dataclass(frozen=True)
class Rows:
    """Standardised data (n, D), and context (n, C) or None.

    Example:
        >>> len(Rows(torch.zeros(10, 2)).thinned(5))
        5
    """

    x: Float[Tensor, "n D"]
    c: Context = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: Tensor | slice) -> "Rows":
        return Rows(self.x[index], None if self.c is None else self.c[index])

    def to(self, target: torch.device | torch.dtype) -> "Rows":
        """Return the rows on another device or in another precision."""
        return Rows(self.x.to(target), None if self.c is None else self.c.to(target))

    def thinned(self, most: int) -> "Rows":
        """Return at most `most` of the rows, evenly spaced."""
        return self[:: self.spacing(most)]

    def spacing(self, most: int) -> int:
        """Return how far apart those are that `thinned` takes."""
        return max(1, math.ceil(len(self) / most))

    def split(self, size: int) -> "list[Rows]":
        """Return the rows in blocks of `size`, the last one shorter."""
        return [self[start : start + size] for start in range(0, max(1, len(self)), size)]

    def map(self, function: Callable[[Tensor, Context], Tensor]) -> Tensor:
        """Return what a function makes of the rows, some at a time.

        Args:
            function: from data (batch, D) and context (batch, C) or None to (batch, ...).

        Returns:
            (n, ...).
        """
        at_once = min(_ROWS_AT_ONCE, max(1, _NUMBERS_AT_ONCE // max(1, self.x.shape[1])))
        return torch.cat([function(block.x, block.c) for block in self.split(at_once)])
