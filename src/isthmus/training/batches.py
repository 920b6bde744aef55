"""What a training sees: its rows and those that judge, and batches of them in a random order that can be taken up."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed
from torch.utils.data import IterableDataset, get_worker_info

from isthmus.columns import Columns
from isthmus.data.tables import Stream
from isthmus.flow import Context
from isthmus.rows import Rows

Spread = Callable[[Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    """Some rows: data (batch, D), context (batch, C) or None, weights (batch,) or None."""

    x: Float[Tensor, "batch D"]
    c: Context
    w: Float[Tensor, " batch"] | None


@dataclass(frozen=True)
class LongRows:
    """Standardised training rows of a table larger than memory.

    Attributes:
        stream: the table.
        columns: the preparation of X.
        context_columns: that of C, or None.
        without: numbers of rows that are held out, rising.
    """

    stream: Stream
    columns: Columns
    context_columns: Columns | None
    without: Int[np.ndarray, " k"]

    def __len__(self) -> int:
        return len(self.stream) - len(self.without)

    def epoch(self, number: int, *, seed: int, shard: int, shards: int) -> Iterator[Rows]:
        """Yield all rows of a shard in a random order, in blocks, see `isthmus.data.tables.Stream.epoch`."""
        options = {"seed": seed, "shard": shard, "shards": shards, "without": self.without}
        for X, C in self.stream.epoch(number, **options):  # type: ignore[arg-type]
            prepared = None
            if C is not None and self.context_columns is not None:
                prepared = self.context_columns.standardise(torch.from_numpy(C))
            yield Rows(self.columns.standardise(torch.from_numpy(X)), prepared)


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
        long: the rows to train on, of which `train` is a sample; None where `train` is all there is.
    """

    train: Rows
    held_out: Rows
    drawn: Rows
    weights: Float[Tensor, " n"] | None = None
    spread: Spread | None = None
    apart: bool = True
    long: LongRows | None = None

    @property
    def count(self) -> int:
        """How many rows there are to train on."""
        return len(self.train.x) if self.long is None else len(self.long)


def mixed_seed(*numbers: int) -> int:
    """Return a seed that follows from several numbers, of 32 bits: a CPU's generator takes no notice of a larger one.

    Args:
        numbers: any, none below 0.

    Returns:
        From 0 to 2^32 - 1.

    Example:
        >>> mixed_seed(0, 1) != mixed_seed(1, 0)
        True
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Batches(IterableDataset):
    """`steps` batches of rows, in one random order an epoch; a rest shorter than a batch is left out.

    Rows are cut by index on the device that they lie on. Of several processes each has its share of every batch.

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
        rank, ranks = _place()
        generator = torch.Generator().manual_seed(self.seed)
        per_epoch = len(self.x) // self.size
        for step in range(self.steps):
            if step % per_epoch == 0:
                order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
            shape = self.size, self.x.shape[1]
            u = None if self.spread is None else torch.rand(shape, generator=generator, dtype=self.x.dtype)
            if step < self.start:
                continue
            first = step % per_epoch * self.size
            index = order[first : first + self.size][rank::ranks]
            c, w = (None if t is None else t[index] for t in (self.c, self.w))
            x = self.x[index]
            yield Batch(x if self.spread is None or u is None else self.spread(x, u[rank::ranks] - 0.5), c, w)


class LongBatches(IterableDataset):
    """`steps` batches of a table larger than memory, epoch after epoch; the last of an epoch begins the next one.

    Of several processes each has its own rows, and its share of every batch; so has every worker of a data loader.

    Args:
        rows: the table.
        size: rows a batch, over all processes.
        steps: number of batches.
        start: how many of them are left out at the beginning: the others are the same as without.
        seed: of the orders and the offsets.
        spread: see `Batches`.
        dtype: of the batches.
    """

    def __init__(
        self,
        rows: LongRows,
        *,
        size: int,
        steps: int,
        start: int = 0,
        seed: int,
        spread: Spread | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.rows, self.size, self.steps, self.start, self.seed = rows, size, steps, start, seed
        self.spread, self.dtype = spread, dtype

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        (rank, ranks), worker = _place(), get_worker_info()
        own, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        shard, shards = rank * workers + own, ranks * workers
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, shard))
        batches = self._cut(self._blocks(shard, shards), max(1, self.size // ranks))
        for step in range(own, self.steps, workers):
            x, c = next(batches)
            u = None if self.spread is None else torch.rand(x.shape, generator=generator, dtype=x.dtype)
            if step >= self.start:
                yield Batch(x if self.spread is None or u is None else self.spread(x, u - 0.5), c, None)

    def _blocks(self, shard: int, shards: int) -> Iterator[Rows]:
        for number in itertools.count():
            for rows in self.rows.epoch(number, seed=self.seed, shard=shard, shards=shards):
                yield rows.to(self.dtype)

    @staticmethod
    def _cut(blocks: Iterator[Rows], size: int) -> Iterator[tuple[Tensor, Context]]:
        """Cut blocks of any length into batches of one length."""
        rest = next(blocks)
        while True:
            while len(rest.x) < size:
                more = next(blocks)
                c = None if rest.c is None or more.c is None else torch.cat([rest.c, more.c])
                rest = Rows(torch.cat([rest.x, more.x]), c)
            full = len(rest.x) // size * size
            for start in range(0, full, size):
                yield rest.x[start : start + size], None if rest.c is None else rest.c[start : start + size]
            rest = Rows(rest.x[full:], None if rest.c is None else rest.c[full:])


def _place() -> tuple[int, int]:
    """Return which of how many processes this one is."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
