"""A user's table as a fit takes it: numbers, checked, equal rows merged; of a frame with the schema that made them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from isthmus.data.tables import Coordinates, Schema, Stream, as_frame
from isthmus.errors import NOTICE, InputError
from isthmus.matrices import fingerprint, matrix, row_weights

__all__ = ["LARGEST_MERGE", "Table", "encoded", "streamed"]

_log = logging.getLogger(__name__)

LARGEST_MERGE = 100_000
"""Rows; sorting more of them to find equal ones costs more than it is worth."""


def encoded(
    X: Any, context: Any, given: Sequence[str], coordinates: Coordinates | None = None
) -> tuple[Any, Any, Schema | None]:
    """Return rows and context as numbers where a table has names, and the schema that made them; else as they are."""
    if isinstance(X, Stream):
        if coordinates is not None:
            raise InputError("expected a stream alone; got a surface beside it; name it in Stream.learn")
        return X, context, X.schema
    frame = as_frame(X) if context is None else None
    if frame is None:
        if given:
            raise InputError("expected a frame with named columns beside `given`; got numbers; pass `context` instead")
        if coordinates is not None:
            raise InputError(
                "expected a frame with named columns beside `surface`, and no `context`; got others; name all columns, "
                "and condition on some of them by `given`"
            )
        return X, context, None
    schema, notes = Schema.learn(frame, given, coordinates)
    for sentence in notes:
        _log.log(NOTICE, sentence)
    return *schema.encode(frame), schema


@dataclass(frozen=True)
class Table:
    """A user's rows: data, context, and weights of mean 1 (None where all are equal); and the tables as given.

    Of a stream they are its sample.
    """

    x: Tensor
    c: Tensor | None
    w: Tensor | None
    given: tuple[Tensor, Tensor | None]
    stream: Stream | None = None

    @classmethod
    def of(
        cls,
        X: ArrayLike | Tensor,
        context: ArrayLike | Tensor | None,
        sample_weight: ArrayLike | Tensor | None,
        *,
        merge: bool = True,
    ) -> "Table":
        """Check the arrays, drop rows of weight 0, and merge equal rows, so that a weight is a repetition."""
        x, c = matrix(X, "X"), None if context is None else matrix(context, "context")
        if c is not None and len(c) != len(x):
            raise InputError(f"expected one context row for each of {len(x)} rows; got {len(c)}; give as many")
        w = row_weights(sample_weight, len(x))
        if w is None and (len(x) > LARGEST_MERGE or not merge):
            return cls(x, c, None, (x, c))
        D, rows = x.shape[1], x if c is None else torch.cat([x, c], 1)
        w = torch.ones(len(x), dtype=torch.float64) if w is None else w
        rows, w = rows[w > 0], w[w > 0]
        unique, inverse = torch.unique(rows, dim=0, return_inverse=True)
        if len(unique) == len(rows) and bool((w == w[0]).all()):
            return cls(rows[:, :D], None if c is None else rows[:, D:], None, (x, c))
        total = torch.zeros(len(unique), dtype=torch.float64).index_add(0, inverse, w)
        merged = total * len(unique) / total.sum()
        return cls(unique[:, :D], None if c is None else unique[:, D:], merged, (x, c))

    def figures(self, *, weighted: bool) -> dict[str, Any]:
        """Return what tells this table from others, which weights forbid, and the sizes of a long one."""
        told: dict[str, Any] = {} if weighted else {"table": fingerprint(*self.given)}
        if self.stream is not None:
            files = len(self.stream.table.files)
            told["stream"] = {"rows": len(self.stream), "sampled": len(self.x), "files": files}
        return told


def streamed(stream: Stream, context: object, sample_weight: object) -> Table:
    """Return the sample of a stream, none of its rows merged: their numbers tell which rows are held out."""
    if context is not None or sample_weight is not None:
        raise InputError("expected a stream alone; got context or weights beside it; name its context as target")
    x, c = torch.from_numpy(stream.X), None if stream.C is None else torch.from_numpy(stream.C)
    return Table(x, c, None, (x, c), stream)
