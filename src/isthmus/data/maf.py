"""The tables that density estimators are compared on, prepared as Papamakarios et al. (2017, MAF) did."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from isthmus.data.dataset import Dataset
from isthmus.data.fetch import find
from isthmus.errors import InputError

__all__ = ["power"]

Table = NDArray[np.float64]


def power(*, folder: str | Path | None = None, seed: int = 42) -> Dataset:
    """Electric power of a household, minute by minute (D = 6; 1,659,917 + 184,435 + 204,928 rows; usual d: 3).

    Rows are shuffled, `global_reactive_power` and `global_intensity` left out, each column but the time spread over
    the unit it is rounded to. Standardised with the mean and standard deviation of training and validation rows.

    Args:
        folder: Of the data; None: `data_folder()`. Read is `power/data.npy` of the MAF archive, or
            `power/power_uci_full.npz` with the same values as integers.
        seed: Of the shuffle and the noise; 42 gives the splits of MAF exactly.

    Returns:
        The data set.

    Raises:
        InputError: The file is missing or is another table.

    References:
        Hebrail and Berard 2006, UCI 235; Papamakarios et al. 2017, arXiv 1705.07057.

    Example:
        >>> power().data_dim  # doctest: +SKIP
        6
    """
    x = _power_rows(find(folder, "power/data.npy", "power/power_uci_full.npz"))
    random = np.random.RandomState(seed)  # the generator of the published splits
    order = np.arange(len(x))
    random.shuffle(order)
    x = np.ascontiguousarray(x[order][:, [0, 2, 4, 5, 6, 7]])  # the last bit of the mean depends on the layout
    voltage, active = 0.01 * random.rand(len(x), 1), 0.001 * random.rand(len(x), 1)
    x += np.hstack([active, voltage, random.rand(len(x), 3), np.zeros((len(x), 1))])
    rest, test = _tenth(x)
    train, validation = _tenth(rest)
    mean, scale = rest.mean(0), rest.std(0)
    train, validation, test = ((rows - mean) / scale for rows in (train, validation, test))
    names = ("global_active_power", "voltage", "sub_metering_1", "sub_metering_2", "sub_metering_3", "minute_of_day")
    return Dataset("power", _tensor(train), _tensor(validation), _tensor(test), latent_dim=3, columns=names)


def _power_rows(path: Path) -> Table:
    """Active and reactive power, voltage, intensity, three sub-meterings, minute of the day: (n, 8)."""
    if path.suffix == ".npy":
        x = np.load(path, allow_pickle=False)
    else:
        with np.load(path, allow_pickle=False) as z:
            scaled = [z["gap_x1000"] / 1000, z["grp_x1000"] / 1000, z["voltage_x100"] / 100, z["gi_x10"] / 10]
            x = np.column_stack([*scaled, z["sm"], z["minute_of_day"]])
    if x.ndim != 2 or x.shape[1] != 8:
        raise InputError(f"expected a table of 8 columns in {path}; got shape {x.shape}; put the original file there")
    return x.astype(np.float64)


def _tenth(x: Table) -> tuple[Table, Table]:
    """All but the last tenth of the rows, and that tenth."""
    kept = len(x) - int(0.1 * len(x))
    return x[:kept], x[kept:]


def _tensor(x: Table) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
