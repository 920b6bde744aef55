"""The numbers of a training: what `auto` stands for, and the learning rate over its course.

Rules behind `auto`, from the number of rows n and columns D:

* steps: 30 sqrt(n), kept within 2,000 .. 10,000;
* rows a step: n / 8 within 32 .. 256;
* highest learning rate: 2e-3, for fewer than 3,000 rows 1e-3;
* input noise: half the held-out residual's standard deviation per direction off a learned manifold, followed as it
  falls; none for a law of rows, which has no residual;
* beta: 1/(2 sigma^2), sigma the smallest residual's standard deviation seen so far per direction off the manifold; a
  first phase trains reconstruction alone, so that beta starts from the noise floor;
* beta of a law of rows, whose encoder and decoder are only to be inverse to one another: 100 nats per squared unit;
* compile: where steps, rows and parameters let it save more time than it takes. Numbers decide and not the clock, so
  that a training that is taken up, or done again, computes the same bits.
"""

import math
from dataclasses import dataclass

from isthmus.recipe import TrainingRecipe

KNOWN_BETA = 100.0  # with 1,000 a flow on the sphere needs three times the steps, with 10 its density is biased
_FEW_ROWS = 3_000  # with fewer, half the learning rate generalises better (digits, breast cancer; above it penbased)

# What torch.compile costs and saves, of the default objective on one core; the measurements are in docs/speed.md.
_COMPILE_SECONDS = 20.0  # with an empty cache; a second training of the same sizes takes a quarter of that
_SAVED_PER_STEP = 2e-3  # seconds, whatever the size
_SAVED_PER_PRODUCT = 6e-11  # seconds per parameter and row of a batch; of convolutions more
_SAVED_SHARE = 0.3  # of the time


def one_cycle(progress: float) -> float:
    """Return the share of the highest learning rate: up over the first tenth, then down a cosine to a thousandth."""
    if progress < 0.1:
        return 0.04 + 0.96 * progress / 0.1
    return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - 0.1) / 0.9)))


@dataclass(frozen=True)
class Plan:
    """The numbers that `auto` stands for in one training; of a range of noise the lowest, at which it is scored."""

    max_steps: int
    batch_size: int
    learning_rate: float
    validate_every: int
    noise: float
    noise_follows: bool
    compile: bool

    @classmethod
    def of(cls, settings: TrainingRecipe, n: int, parameters: int, *, learned: bool = True) -> "Plan":
        """Resolve the settings for n training rows.

        Args:
            settings: the recipe's section.
            n: number of training rows.
            parameters: of the flow.
            learned: whether the flow is a learned manifold; a law of rows has no residual for the noise to follow.

        Returns:
            The plan.

        Example:
            >>> Plan.of(TrainingRecipe(), 1000, parameters=140_000).max_steps
            2000
        """
        steps = min(10_000, max(2_000, int(30 * n**0.5))) if settings.max_steps == "auto" else settings.max_steps
        size = min(256, max(32, n // 8)) if settings.batch_size == "auto" else settings.batch_size
        auto_rate = 1e-3 if n < _FEW_ROWS else 2e-3
        rate = auto_rate if settings.learning_rate == "auto" else settings.learning_rate
        follows = settings.noise == "auto" and learned
        noise = (0.1 if learned else 0.0) if settings.noise == "auto" else settings.noise
        noise = noise[0] if isinstance(noise, tuple) else noise
        compiled = settings.compile
        if compiled == "auto":
            compiled = _saved(steps, size * parameters, settings.max_time) > _COMPILE_SECONDS
        every = max(1, steps // settings.validations)
        return cls(steps, size, rate, every, noise, follows, compiled)


def _saved(steps: int, products: int, max_time: float | None) -> float:
    """Return the seconds that compiling is expected to save, of what the steps or the clock allow."""
    saved = steps * (_SAVED_PER_STEP + _SAVED_PER_PRODUCT * products)
    return saved if max_time is None else min(saved, _SAVED_SHARE * max_time)
