"""A long table of every kind of column, and the files that it is written to."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

SIZES = (1_000, 1_700, 533)  # rows a file


def long_table(n, seed=0):
    """A noisy curve with its row numbers, a category, a boolean, missing values and a constant."""
    rng = np.random.default_rng(seed)
    t = rng.normal(size=n)
    return pd.DataFrame(
        {
            "row": np.arange(n),
            "x": t + 0.05 * rng.normal(size=n),
            "y": np.where(rng.random(n) < 0.1, np.nan, np.sin(2 * t) + 0.05 * rng.normal(size=n)),
            "colour": np.where(t > 0.5, "red", np.where(t > -0.5, "green", "blue")),
            "up": t > 0,
            "unit": "cm",
        }
    )


def write_parts(frame, folder, sizes, **options):
    """Files 0.parquet, 1.parquet, ... of so many rows each; returns the folder."""
    stop = 0
    for part, size in enumerate(sizes):
        start, stop = stop, stop + size
        table = pa.Table.from_pandas(frame.iloc[start:stop], preserve_index=False)
        pa.parquet.write_table(table, folder / f"{part}.parquet", **options)
    return folder
