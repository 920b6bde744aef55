"""What a training sees: its rows and those that judge, and batches of them in a random order that can be taken up."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset

from isthmus.flow import Context
from isthmus.refit import Rows

Spread = Callable[[Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    """Some rows: data (batch, D), context (batch, C) or None, weights (batch,) or None."""

    x: Float[Tensor, "batch D"]
    c: Context
    w: Float[Tensor, " batch"] | None


@dataclass(frozen=True)
class Split:
    """What a fit learns from and what it is judged by, on standardised columns.

    Attributes:
        train: rows to train on.
        held_out: rows that decide, integer columns spread.
        drawn: the training rows as single draws, for what knows no weights: drawn by weight, integer columns spread.
        weights: one weight a training row, (n,), mean 1, or None.
        spread: how training spreads integer columns, see `train`.
        apart: whether held-out rows are other rows than those trained on.
    """

    train: Rows
    held_out: Rows
    drawn: Rows
    weights: Float[Tensor, " n"] | None = None
    spread: Spread | None = None
    apart: bool = True


class Batches(IterableDataset):
    """`steps` batches of rows, in one random order an epoch; a rest shorter than a batch is left out.

    Args:
        x: data, (n, D).
        c: context, (n, C), or None.
        w: weights, (n,), or None.
        size: rows a batch; all rows if there are fewer.
        steps: number of batches.
        start: how many of them are left out at the beginning: the others are the same as without.
        seed: of the order and the offsets.
        spread: how rows are moved by offsets in [-1/2, 1/2), drawn afresh for every batch; not at all by default.
    """

    def __init__(
        self,
        x: Tensor,
        c: Context,
        w: Tensor | None,
        *,
        size: int,
        steps: int,
        start: int = 0,
        seed: int,
        spread: Spread | None = None,
    ) -> None:
        self.x, self.c, self.w, self.spread = x, c, w, spread
        self.steps, self.start, self.seed = steps, start, seed
        self.size = min(size, x.shape[0])

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed)
        per_epoch = len(self.x) // self.size
        for step in range(self.steps):
            if step % per_epoch == 0:
                order = torch.randperm(len(self.x), generator=generator)
            shape = self.size, self.x.shape[1]
            u = None if self.spread is None else torch.rand(shape, generator=generator, dtype=self.x.dtype)
            if step < self.start:
                continue
            first = step % per_epoch * self.size
            index = order[first : first + self.size]
            c, w = (None if t is None else t[index] for t in (self.c, self.w))
            x = self.x[index]
            yield Batch(x if self.spread is None or u is None else self.spread(x, u - 0.5), c, w)
