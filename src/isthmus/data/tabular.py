"""Small real tables, an entry each in `TABLES`.

Each is a function of these keywords:

* `folder`: of the data files; None: `isthmus.data.fetch.data_folder()`. A file that is public is downloaded when it is
  first needed.
* `seed`: of the random split (four fifths of the rows for training, a tenth for validation, a tenth for testing) and of
  the noise of `dequantise`. Equal options give equal rows.
* `dequantise`: spread columns that hold integers only over their unit, by uniform noise from -1/2 to 1/2. Without it no
  density has a bound on them.
* `standardise`: subtract the mean of training and validation rows, and divide by their standard deviation.

They return a `Dataset` of the columns that are not constant in the training rows. The dimension of the manifold is not
known: `latent_dim` is None. They raise `InputError` where the file cannot be had.

Example:
    >>> from isthmus.data import DATASETS
    >>> DATASETS["digits"](seed=1).test.shape  # 64 pixels, 3 of them constant
    torch.Size([179, 61])
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from isthmus.data.dataset import Dataset
from isthmus.data.fetch import find, read_arrays, reading

__all__ = ["TABLES"]

Table = NDArray[np.float64]
Reader = Callable[[str | Path | None], Table]

_ANGLES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "chi")


def _table(name: str, summary: str, read: Reader, columns: tuple[str, ...] = ()) -> tuple[str, Callable[..., Dataset]]:
    def load(
        *, folder: str | Path | None = None, seed: int = 0, standardise: bool = True, dequantise: bool = True
    ) -> Dataset:
        """Read, shuffle, split, and prepare; replaced below by the table's own words."""
        x = read(folder)
        order = np.random.default_rng(seed).permutation(len(x))
        test, validation, train = np.split(order, [len(x) // 10, 2 * (len(x) // 10)])
        kept = np.ptp(x[train], axis=0) > 0
        names = tuple(np.array(columns)[kept].tolist()) if columns else ()
        x = x[:, kept]
        if dequantise:
            x += (x == x.round()).all(0) * np.random.default_rng([seed, 1]).uniform(-0.5, 0.5, x.shape)
        if standardise:
            rest = x[np.concatenate([train, validation])]
            x = (x - rest.mean(0)) / rest.std(0)
        rows = torch.from_numpy(x.astype(np.float32))
        return Dataset(name, rows[train], rows[validation], rows[test], columns=names)

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"{summary}\n\nThe keywords are those of `{__name__}`."
    return name, load


def _stored(file: str, key: str = "x") -> Reader:
    """Return a reader of one array of an .npz file."""
    return lambda folder: read_arrays(find(folder, file), key)[0].astype(np.float64)


def _circles(folder: str | Path | None) -> Table:
    """Read angles, and return the cosine and sine of each."""
    path = find(folder, "torus/rna.tsv")
    with reading(path, "a structure, a base and seven angles in degrees a row"):
        radians = np.deg2rad(np.loadtxt(path, delimiter="\t", usecols=range(2, 9)))
    return np.stack([np.cos(radians), np.sin(radians)], 2).reshape(len(radians), -1)


def _places(file: str) -> Reader:
    """Return a reader of latitudes and longitudes in degrees, as unit vectors."""

    def read(folder: str | Path | None) -> Table:
        """Read comments and names, which are left out, and places."""
        path = find(folder, f"earth/{file}.csv")
        with reading(path, "a latitude and a longitude in degrees a row"), path.open(encoding="utf-8") as lines:
            numbers = (line for line in lines if line.lstrip("-")[:1].isdigit())
            latitude, longitude = np.deg2rad(np.loadtxt(numbers, delimiter=",", usecols=(0, 1), ndmin=2)).T
        across = np.cos(latitude)
        return np.stack([across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], 1)

    return read


def _bundled(name: str) -> Reader:
    """Return a reader of a table that comes with scikit-learn."""

    def read(_: str | Path | None) -> Table:
        """Read its rows."""
        from sklearn import datasets

        return np.array(getattr(datasets, f"load_{name}")().data, dtype=np.float64)

    return read


TABLES: dict[str, Callable[..., Dataset]] = dict(
    [
        _table(
            "satimage",
            "Landsat pixels with their eight neighbours, four bands each (6,435 x 36 integers; UCI 146).",
            _stored("uci_small/satimage.npz"),
        ),
        _table(
            "texture",
            "Fourth-order moments of image patches of eleven textures (5,500 x 40; ELENA project 1995).",
            _stored("uci_small/texture.npz"),
        ),
        _table(
            "penbased",
            "Handwritten digits as eight points along the stroke (10,992 x 16 integers; Alimoglu 1996, UCI 81).",
            _stored("uci_small/penbased.npz"),
            tuple(f"{axis}{point}" for point in range(1, 9) for axis in "xy"),
        ),
        _table(
            "optdigits",
            "Handwritten digits as 8 x 8 counts of ink (5,620 x 64 integers; Alpaydin and Kaynak 1998, UCI 80).",
            _stored("uci_small/optdigits.npz"),
        ),
        _table(
            "magic",
            "Images of air showers of a gamma-ray telescope, ten shape parameters (19,020 x 10; Bock 2007, UCI 159).",
            _stored("uci_small/magic.npz"),
            ("length", "width", "size", "conc", "conc1", "asym", "m3long", "m3trans", "alpha", "dist"),
        ),
        _table(
            "gasdrift",
            "Sixteen gas sensors, eight features each, heavy-tailed (6,697 x 128; 8 of the 10 batches of UCI 270).",
            _stored("gasdrift/gasdrift_8of10_batches.npz"),
        ),
        _table(
            "airsea",
            "Heat budget of the oceans by month and place (19,985 x 14; Esbensen and Kushnir 1981).\n\n"
            "Three exact relations leave a dimension of 11 at most: SAT = SST - AT, FDR = FSR - FUL and "
            "FDH = FDR - FLH - FSH, to 0.01.",
            _stored("airsea/esku_heat_budget.npz"),
            ("SPD", "SST", "SAT", "AT", "AH", "SAH", "CLD", "SLP", "FSR", "FUL", "FDR", "FLH", "FSH", "FDH"),
        ),
        _table(
            "rna",
            "Seven torsion angles of RNA as cosine and sine (9,478 x 14; Murray et al. 2003).\n\n"
            "The dimension is 7 at most. `standardise=False` leaves each pair on the unit circle.",
            _circles,
            tuple(f"{function}_{angle}" for angle in _ANGLES for function in ("cos", "sin")),
        ),
        *(
            _table(
                name,
                f"Places of {events} on the Earth as unit vectors ({rows:,} x 3; {source}).\n\n"
                "`standardise=False` and `dequantise=False` leave them on the unit sphere.",
                _places(file),
                ("x", "y", "z"),
            )
            for name, file, events, rows, source in (
                ("volcanoes", "volerup", "volcanic eruptions", 827, "NOAA"),
                ("earthquakes", "quakes_all", "significant earthquakes", 6120, "NOAA"),
                ("floods", "flood", "large floods", 4875, "Dartmouth Flood Observatory"),
                ("fires", "fire", "fires seen by satellite", 12809, "NASA FIRMS"),
            )
        ),
        _table(
            "load_curves",
            "Electricity demand of Victoria, half-hours of a day (1,090 x 48, 2012 to 2014; AEMO).",
            _stored("load_curves/vic_elec_daily.npz", "demand"),
        ),
        _table(
            "digits", "Handwritten digits, 8 x 8 pixels, with scikit-learn (1,797 x 64 integers).", _bundled("digits")
        ),
        _table(
            "breast_cancer",
            "Cell nuclei in images of breast masses, with scikit-learn (569 x 30; Wolberg et al. 1995, UCI 17).",
            _bundled("breast_cancer"),
        ),
    ]
)
