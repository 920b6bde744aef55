"""The 8 x 8 digits of scikit-learn as tables of 64 pixel columns, and back from a table to a picture.

`digits_table.py write FOLDER` writes digits_train.csv, and digits_test.csv with every third digit;
`digits_table.py show TABLE` prints the first rows of a table as pictures.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

SHADES = " .:-=+*#%@"


def write(folder: Path) -> None:
    """Write the two tables."""
    from sklearn.datasets import load_digits

    folder.mkdir(parents=True, exist_ok=True)
    columns = [f"pixel_{row}{column}" for row in range(8) for column in range(8)]
    frame = pd.DataFrame(load_digits().data.astype(int), columns=columns)
    held_out = np.arange(len(frame)) % 3 == 2
    frame[~held_out].to_csv(folder / "digits_train.csv", index=False)
    frame[held_out].to_csv(folder / "digits_test.csv", index=False)


def show(table: Path, count: int = 6) -> None:
    """Print the first digits of a table side by side."""
    pixels = pd.read_csv(table).to_numpy()[:count].reshape(-1, 8, 8)
    shades = np.array(list(SHADES))[np.clip(pixels * len(SHADES) // 17, 0, len(SHADES) - 1)]
    for row in range(8):
        sys.stdout.write("   ".join("".join(np.repeat(digit[row], 2)) for digit in shades).rstrip() + "\n")


if __name__ == "__main__":
    {"write": write, "show": show}[sys.argv[1]](Path(sys.argv[2]))
