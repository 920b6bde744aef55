"""The ten real tables of the benchmark of the defaults, and one split of a table with the units that all share.

Columns of integers are spread over their unit, once for the held-out rows and once for the rivals' training rows; the
mean and standard deviation of the latter are the units of every log-likelihood. isthmus is given the raw training
rows, for it prepares columns itself. Columns that are constant in the training rows are left out for all.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits

__all__ = ["SETS", "Matrix", "Split", "digits", "split_rows"]

Matrix = NDArray[np.float64]

_SCORED_ROWS = 1_000  # held-out rows for importance sampling, evenly spaced


def data_folder() -> Path:
    """`ISTHMUS_DATA`, or `../shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("ISTHMUS_DATA") or beside)


def stored(file: str, key: str = "x") -> Callable[[], Matrix]:
    """A loader of one array of a file below `data_folder()`."""

    def load() -> Matrix:
        with np.load(data_folder() / file) as arrays:
            return np.asarray(arrays[key], dtype=np.float64)

    return load


def digits() -> Matrix:
    """scikit-learn's handwritten digits, (1797, 64), integers."""
    return np.asarray(load_digits().data, dtype=np.float64)


def breast_cancer() -> Matrix:
    """scikit-learn's breast cancer, (569, 30)."""
    return np.asarray(load_breast_cancer().data, dtype=np.float64)


SETS: dict[str, Callable[[], Matrix]] = {
    "breast_cancer": breast_cancer,
    "load_curves": stored("load_curves/vic_elec_daily.npz", "demand"),
    "digits": digits,
    "penbased": stored("uci_small/penbased.npz"),
    "satimage": stored("uci_small/satimage.npz"),
    "texture": stored("uci_small/texture.npz"),
    "optdigits": stored("uci_small/optdigits.npz"),
    "magic": stored("uci_small/magic.npz"),
    "gasdrift": stored("gasdrift/gasdrift_8of10_batches.npz"),
    "esku": stored("airsea/esku_heat_budget.npz"),
}


@dataclass(frozen=True)
class Split:
    """Training and held-out rows of a table, in the user's units unless stated otherwise.

    Attributes:
        raw: training rows as they are, (n, columns), in random order.
        spread: the same with integers spread over their unit, (n, columns).
        held_out: other rows, integers spread, (m, columns): what every method is scored on.
        integer: which columns hold integers only, (columns,).
        kept: which columns vary in the training rows, (columns,).
        mean, scale: of the columns of `spread`, (columns,).
    """

    raw: Matrix
    spread: Matrix
    held_out: Matrix
    integer: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    mean: Matrix
    scale: Matrix

    def standardise(self, x: Matrix) -> Matrix:
        """Kept columns less `mean` over `scale`: (rows, columns) to (rows, D)."""
        return ((x - self.mean) / self.scale)[:, self.kept]

    @property
    def integer_step(self) -> Matrix:
        """Width of an integer in standardised units, 0 for other columns, (D,)."""
        return np.where(self.integer, 1 / self.scale, 0.0)[self.kept]

    @property
    def log_scale(self) -> float:
        """What takes a log density in the user's units to one in standardised units, in nats."""
        return float(np.log(self.scale[self.kept]).sum())

    @property
    def tenth(self) -> int:
        """How many training rows, the first ones, rivals choose by."""
        return max(1, len(self.raw) // 10)

    @property
    def scored(self) -> NDArray[np.intp]:
        """Indices of the held-out rows that the headline numbers are about: 1,000 at most, evenly spaced."""
        n = len(self.held_out)
        return np.linspace(0, n - 1, min(n, _SCORED_ROWS)).round().astype(np.intp)


def split_rows(x: Matrix, seed: int) -> Split:
    """A random third held out, the rest for training; integers spread by noise that the seed fixes."""
    order = np.random.default_rng(seed).permutation(len(x))
    third = len(x) // 3
    raw, held_out = x[order[third:]], x[order[:third]]
    kept = np.ptp(raw, axis=0) > 0
    integer = (x == x.round()).all(0) & kept
    spread = raw + integer * np.random.default_rng([seed, 1]).uniform(-0.5, 0.5, raw.shape)
    held_out = held_out + integer * np.random.default_rng([seed, 2]).uniform(-0.5, 0.5, held_out.shape)
    scale = np.where(kept, spread.std(0), 1.0)
    return Split(raw, spread, held_out, integer, kept, spread.mean(0), scale)
