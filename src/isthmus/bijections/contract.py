"""The contract of a bijection of rows of R^D: a zuko lazy transform that training rows can start."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from zuko.lazy import LazyTransform

__all__ = ["Bijection"]

Context = Float[Tensor, "batch C"] | None


class Bijection(LazyTransform):
    """A lazy transform of rows, (batch, D) to (batch, D), whose log determinants are (batch,).

    Implementing one: write `forward(c)`, which returns a torch transform of vectors from the data towards the latent
    space; where rows set parameters before training, write `start` too.

    Attributes:
        constant: whether its log determinant is the same at every row: a volume-preserving map, up to one scale.
    """

    constant: ClassVar[bool] = False

    def start(self, x: Float[Tensor, "batch D"], c: Context = None) -> None:
        """Set parameters from rows before training; nothing here. No gradients are recorded while it runs.

        Args:
            x: rows as they reach this bijection, (batch, D).
            c: context, (batch, C), or None.
        """
