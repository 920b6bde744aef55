"""Grey levels as real numbers that have a density, and what that density says in bits.

    y = (x + u) / L,    v = logit(a + (1 - 2a) y),    log|dv/dx| = log(1 - 2a) - log s(v) - log s(-v) - log L

with x one of L levels 0 .. L-1, u uniform in [0, 1), s the logistic function. Without the logit v = y, and
log|dv/dx| = -log L. The mean of log p(v) + log|dv/dx| over u is a lower bound of the log probability of x.

References:
    Uria, Murray, Larochelle (2013), RNADE, arXiv 1306.0186 (uniform noise); Dinh, Sohl-Dickstein, Bengio (2017),
    Density estimation using Real NVP, arXiv 1605.08803 (logit, a = 0.05); Theis, van den Oord, Bethge (2016), A note on
    the evaluation of generative models, arXiv 1511.01844 (bits per dimension and its bound).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn.functional import logsigmoid

from isthmus.errors import InputError

__all__ = ["Pixels"]


@dataclass(frozen=True)
class Pixels:
    """The map between grey levels and real numbers, with its log-determinant.

    Args:
        levels: L >= 2.
        logit: a in (0, 1/2) of the logit, or None for none.

    Raises:
        InputError: a number is out of its range.

    Example:
        >>> pixels = Pixels(logit=0.05)
        >>> x = torch.tensor([[0, 7, 255]])
        >>> v = pixels.spread(x, torch.Generator().manual_seed(0))
        >>> pixels.restore(v).tolist()
        [[0.0, 7.0, 255.0]]
        >>> float(Pixels().bits_per_dimension(torch.zeros(1), torch.rand(1, 3)))  # a uniform density knows nothing
        8.0
    """

    levels: int = 256
    logit: float | None = None

    def __post_init__(self) -> None:
        if self.levels < 2 or not (self.logit is None or 0 < self.logit < 0.5):
            raise InputError(
                f"expected levels >= 2, and a logit between 0 and 1/2 or none; got {self.levels} and {self.logit}; "
                "use for example 256 and 0.05"
            )

    def spread(self, x: Num[Tensor, "n D"], generator: torch.Generator | None = None) -> Float[Tensor, "n D"]:
        """Dequantise levels (n, D) to real numbers `v`, float64, each spread evenly over its unit."""
        y = (x + torch.rand(x.shape, generator=generator, dtype=torch.float64)) / self.levels
        return y if self.logit is None else (self.logit + (1 - 2 * self.logit) * y).logit()

    def restore(self, v: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """Return the levels that real numbers stand for, (n, D); the nearest one for numbers beyond them."""
        y = v if self.logit is None else (v.sigmoid() - self.logit) / (1 - 2 * self.logit)
        return (y * self.levels).floor().clamp(0, self.levels - 1)

    def log_det(self, v: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        """Return `log|dv/dx|` of each row, (n,) in nats: to be added to a log density of v."""
        constant = -math.log(self.levels) + (0.0 if self.logit is None else math.log(1 - 2 * self.logit))
        slope = torch.zeros_like(v) if self.logit is None else -logsigmoid(v) - logsigmoid(-v)
        return (slope + constant).sum(1)

    def bits_per_dimension(self, log_prob: Float[Tensor, " n"], v: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        """Return an upper bound, in the mean, of the bits per dimension `-log2 P(x) / D`.

        Args:
            log_prob: log density of the rows v, (n,) in nats.
            v: (n, D), from `spread`.

        Returns:
            (n,) in bits; 8 for 256 levels and a uniform density.
        """
        return -(log_prob + self.log_det(v)) / (v.shape[1] * math.log(2))
