"""The record that every data set is: three fixed splits and, where it is known, the truth about them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from isthmus.errors import InputError

__all__ = ["Dataset", "LogDensity"]

LogDensity = Callable[[Tensor], Tensor]  # (n, D) -> (n,), nats


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows for training, validation and test, all float32 and (n, D), and what is known about their law.

    Attributes:
        name: Key in `DATASETS`, or what a user calls the table.
        train: Rows to fit.
        validation: Rows to choose by: early stopping, beta, d.
        test: Rows to report on.
        latent_dim: The true or usual dimension d of the manifold; None if unknown.
        log_prob: The ambient density of the rows (noise included) in R^D, (n, D) -> (n,) in nats; None if unknown.
        manifold_log_prob: The density of the noise-free law with respect to d-dimensional volume on the manifold, for
            points on the manifold, (n, D) -> (n,) in nats; None if unknown.
        train_context: One context row per row of `train`; None if unconditional. Likewise the next two.
        validation_context: See `train_context`.
        test_context: See `train_context`.
        columns: Names of the D columns; empty if they have none.
        image: Channels, height and width, where a row is an image, channels first; None if it is none.

    Raises:
        InputError: The splits differ in columns, or a context, `columns` or `image` does not fit them.

    Example:
        >>> import torch
        >>> x = torch.zeros(6, 2)
        >>> Dataset("zeros", train=x, validation=x[:2], test=x[:2], latent_dim=1).data_dim
        2
    """

    name: str
    train: Float[Tensor, "n D"]
    validation: Float[Tensor, "m D"]
    test: Float[Tensor, "k D"]
    latent_dim: int | None = None
    log_prob: LogDensity | None = None
    manifold_log_prob: LogDensity | None = None
    train_context: Float[Tensor, "n C"] | None = None
    validation_context: Float[Tensor, "m C"] | None = None
    test_context: Float[Tensor, "k C"] | None = None
    columns: tuple[str, ...] = ()
    image: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for split in ("train", "validation", "test"):
            rows, context = getattr(self, split), getattr(self, f"{split}_context")
            if rows.ndim != 2 or rows.shape[1] != self.data_dim:
                raise InputError(
                    f"expected {split} rows of shape (n, {self.data_dim}); got {tuple(rows.shape)}; mend the split"
                )
            if context is not None and len(context) != len(rows):
                raise InputError(
                    f"expected a context for each of {len(rows)} {split} rows; got {len(context)}; pair them up"
                )
        if self.columns and len(self.columns) != self.data_dim:
            raise InputError(f"expected {self.data_dim} column names; got {len(self.columns)}; name each, or none")
        if self.image and math.prod(self.image) != self.data_dim:
            raise InputError(f"expected an image of {self.data_dim} numbers; got shape {self.image}; correct it")

    @property
    def data_dim(self) -> int:
        """Number of columns D."""
        return self.train.shape[-1]

    @property
    def context_dim(self) -> int:
        """Number of context columns, 0 if unconditional."""
        return 0 if self.train_context is None else self.train_context.shape[-1]
