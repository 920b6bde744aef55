"""Write POWER as two tables: `python docs/power.py FOLDER` makes train.parquet and test.parquet there.

The report that these pages link to, `docs/power.html`, was made from them by

    python docs/power.py build/power
    isthmus fit build/power/train.parquet -o build/power/model
    mv build/power/model build/household_power
    isthmus report build/household_power build/power/test.parquet -o docs/power.html

the last with `--force` where the page is there already. It takes 10,000 steps, some five minutes on one core, and the
data (`isthmus.data.maf` says from where). It is kept, as the pages are also built where those data are not.
"""

import sys
from pathlib import Path

import pandas as pd
import torch

from isthmus.data import DATASETS
from isthmus.data.tables import write_table


def main(folder: Path) -> None:
    """Write the rows to learn from, in the published order, and those to judge on."""
    data = DATASETS["power"]()
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"train": torch.cat([data.train, data.validation]), "test": data.test}.items():
        write_table(pd.DataFrame(rows.numpy(), columns=list(data.columns)), f"{folder / name}.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
