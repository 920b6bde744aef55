"""The tables that density estimators are compared on, prepared as Papamakarios et al. did for MAF, oddities included.

In the published order the last tenth of the rows is for testing and the last tenth of the others for validation (GAS,
MINIBOONE, and POWER after a shuffle); HEPMASS has test rows of its own. Log densities in the literature are of the
standardised columns, in nats, as here. The files are those of the archive of the MAF authors (zenodo 1161203); what
is missing is downloaded from there, see `isthmus.data.fetch`. d is that of Sorrenson et al.

References:
    Papamakarios, Pavlakou and Murray 2017, arXiv 1705.07057 (appendix D); Sorrenson et al. 2024, arXiv 2306.01843.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isthmus.data.dataset import Dataset
from isthmus.data.fetch import find, read_arrays, reading
from isthmus.data.frames import read_frame
from isthmus.errors import InputError

__all__ = ["gas", "hepmass", "miniboone", "power"]

Table = NDArray[np.float64]


def power(*, folder: str | Path | None = None, seed: int = 42) -> Dataset:
    """Read electric power of a household, minute by minute (D = 6, usual d = 3; 1,659,917 + 184,435 + 204,928 rows).

    Rows are shuffled, reactive power and intensity left out, each column but the time spread over the unit it was
    rounded to. Standardised by training and validation rows.

    Args:
        folder: Of the data; None: `data_folder()`. Read is `power/data.npy`, or else `power/power_uci_full.npz`, the
            same table as integers.
        seed: Of the shuffle and the noise; 42 gives the published splits.

    Returns:
        The data set.

    Raises:
        InputError: The file cannot be had, or is another table.

    References:
        Hebrail and Berard 2006, UCI data set 235.

    Example:
        >>> power(folder="tests/fixtures/tabular").columns[:2]
        ('global_active_power', 'voltage')
    """
    path = find(folder, "power/data.npy", "power/power_uci_full.npz")
    x = _checked(_power_rows(path), 8, path)
    random = np.random.RandomState(seed)  # the generator of the published splits, and below their order of draws
    order = np.arange(len(x))
    random.shuffle(order)
    x = np.ascontiguousarray(x[order][:, [0, 2, 4, 5, 6, 7]])  # the last bit of the mean depends on the layout
    voltage, active = 0.01 * random.rand(len(x), 1), 0.001 * random.rand(len(x), 1)
    x += np.hstack([active, voltage, random.rand(len(x), 3), np.zeros((len(x), 1))])
    rest, test = _tenth(x)
    names = ("global_active_power", "voltage", "sub_metering_1", "sub_metering_2", "sub_metering_3", "minute_of_day")
    return _dataset("power", rest, test, latent_dim=3, columns=names)


def gas(*, folder: str | Path | None = None) -> Dataset:
    """Read sixteen gas sensors in a mixture of ethylene and CO (D = 8, usual d = 2; 852,174 + 94,685 + 105,206 rows).

    Of sensors that correlate by more than 0.98 the later ones are kept. As published, the columns are standardised by
    all rows, test rows included, and the rows, a random quarter of UCI's, are not shuffled again.

    Args:
        folder: Of the data; None: `data_folder()`. Read is `gas/ethylene_CO.pickle`, safely: see `read_frame`.

    Returns:
        The data set.

    Raises:
        InputError: The file cannot be had, or is another table.

    References:
        Fonollosa et al. 2015, UCI data set 322.

    Example:
        >>> gas(folder="tests/fixtures/tabular").data_dim
        8
    """
    names, x = read_frame(find(folder, "gas/ethylene_CO.pickle"))
    sensors = [i for i, name in enumerate(names) if name not in ("Time", "Meth", "Eth")]
    alike = np.greater(np.corrcoef(x[:, sensors].T), 0.98)
    kept = list(range(len(sensors)))
    while (crowded := alike[np.ix_(kept, kept)].sum(1) > 1).any():
        del kept[crowded.argmax()]
    columns = [sensors[i] for i in kept]
    x = x[:, columns]
    rest, test = _tenth((x - x.mean(0)) / x.std(0, ddof=1))
    return _dataset("gas", rest, test, latent_dim=2, columns=tuple(names[i] for i in columns), standardise=False)


def hepmass(*, folder: str | Path | None = None) -> Dataset:
    """Read simulated particle collisions with the new particle (D = 21, usual d = 10; 315,123 + 35,013 + 174,987).

    Features whose smallest value occurs more than five times are left out. Standardised by training and validation
    rows (variance over n - 1).

    Args:
        folder: Of the data; None: `data_folder()`. Read are `hepmass/1000_train.csv` and `hepmass/1000_test.csv`, the
            label first; the latter has one column more, which is left out.

    Returns:
        The data set.

    Raises:
        InputError: A file cannot be had, or is another table.

    References:
        Baldi et al. 2016, arXiv 1601.07913; UCI data set 347.

    Example:
        >>> hepmass(folder="tests/fixtures/tabular").data_dim
        21
    """
    (names, x), (_, test) = (_signal(find(folder, f"hepmass/1000_{split}.csv")) for split in ("train", "test"))
    test = _checked(test[:, : x.shape[1]], x.shape[1], "hepmass/1000_test.csv")
    mean, scale = x.mean(0), x.std(0, ddof=1)
    kept = (x == x.min(0)).sum(0) <= 5
    x, test = ((rows - mean)[:, kept] / scale[kept] for rows in (x, test))
    columns = tuple(np.array(names)[kept].tolist())
    return _dataset("hepmass", x, test, latent_dim=10, columns=columns, standardise=False)


def miniboone(*, folder: str | Path | None = None) -> Dataset:
    """Read electron neutrinos seen by a detector (D = 43, usual d = 21; 29,556 + 3,284 + 3,648 rows).

    Standardised by training and validation rows.

    Where `miniboone/data.npy` is missing but the published validation and test rows alone are there
    (`miniboone_maf_val_standardised_f8.npy`, `miniboone_maf_test_standardised_f8.npy`), the former, less their last
    tenth for validation, are for training: 2,956 + 328 + 3,648 rows, no figures to compare with published ones, and the
    name `miniboone_part`.

    Args:
        folder: Of the data; None: `data_folder()`.

    Returns:
        The data set.

    Raises:
        InputError: The files cannot be had, or are another table.

    References:
        Roe et al. 2005, arXiv physics/0408124; UCI data set 199.

    Example:
        >>> miniboone(folder="tests/fixtures/tabular").data_dim
        43
    """
    path = find(folder, "miniboone/data.npy", "miniboone/miniboone_maf_val_standardised_f8.npy")
    x = _checked(read_arrays(path)[0], 43, path)
    if path.name == "data.npy":
        return _dataset("miniboone", *_tenth(x), latent_dim=21)
    path = find(folder, "miniboone/miniboone_maf_test_standardised_f8.npy")
    test = _checked(read_arrays(path)[0], 43, path)
    return _dataset("miniboone_part", x, test, latent_dim=21, standardise=False)


def _power_rows(path: Path) -> NDArray[Any]:
    """Read active and reactive power, voltage, intensity, three sub-meterings, minute of the day."""
    if path.suffix == ".npy":
        return read_arrays(path)[0]
    keys = ("gap_x1000", "grp_x1000", "voltage_x100", "gi_x10", "sm", "minute_of_day")
    active, reactive, voltage, intensity, sub_meterings, minute = read_arrays(path, *keys)
    return np.column_stack([active / 1000, reactive / 1000, voltage / 100, intensity / 10, sub_meterings, minute])


def _signal(path: Path) -> tuple[list[str], Table]:
    """Read the rows of label 1 of a table whose first column is the label, and the names of the others."""
    import pandas as pd

    with reading(path, "a table with a header"):
        frame = pd.read_csv(path, index_col=False)
        frame = frame[frame.iloc[:, 0] == 1].iloc[:, 1:]
        return list(frame.columns), frame.to_numpy(np.float64)


def _checked(x: NDArray[Any], columns: int, path: str | Path) -> Table:
    if x.ndim != 2 or x.shape[1] != columns:
        raise InputError(
            f"expected a table of {columns} columns in {path}; got shape {x.shape}; put the original there"
        )
    return x.astype(np.float64)


def _tenth(x: Table) -> tuple[Table, Table]:
    """Split off the last tenth: return all rows before it, and that tenth."""
    kept = len(x) - int(0.1 * len(x))
    return x[:kept], x[kept:]


def _dataset(
    name: str, rest: Table, test: Table, *, latent_dim: int, columns: tuple[str, ...] = (), standardise: bool = True
) -> Dataset:
    """Split `rest` into rows for training and validation, and standardise by both."""
    mean, scale = (rest.mean(0), rest.std(0)) if standardise else (0.0, 1.0)
    train, validation, test = ((rows - mean) / scale for rows in (*_tenth(rest), test))
    return Dataset(name, _tensor(train), _tensor(validation), _tensor(test), latent_dim=latent_dim, columns=columns)


def _tensor(x: Table) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
