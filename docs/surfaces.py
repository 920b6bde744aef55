"""Draw the pictures of the page on surfaces: `ISTHMUS_DATA=folder python docs/surfaces.py`, minutes on one core.

Earthquakes (NOAA) and torsion angles of RNA (Murray et al. 2003) are data sets of the library; the soils are simulated.
The tables stand in the folder that the script is run in, as `quakes.csv`, `soils.csv` and `torsions.csv`.
"""

from pathlib import Path

import numpy as np
import pandas as pd

import isthmus
from isthmus.data import DATASETS
from isthmus.report.evidence import gather
from isthmus.report.places import place_figures
from isthmus.scoring import evaluate

FOLDER = Path(__file__).parent / "_static"


def quakes() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return latitudes and longitudes in degrees, of training and of test rows."""
    data = DATASETS["earthquakes"](standardise=False, dequantise=False)

    def table(rows: np.ndarray) -> pd.DataFrame:
        x, y, z = rows.T
        degrees = np.degrees(np.arctan2(z, np.hypot(x, y))), np.degrees(np.arctan2(y, x))
        return pd.DataFrame(dict(zip(("latitude", "longitude"), degrees, strict=True))).round(3)

    return table(np.concatenate([data.train, data.validation])), table(np.asarray(data.test))


def soils() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return simulated percentages of two kinds of soil, rounded to a tenth, of training and of test rows."""
    rng = np.random.default_rng(0)
    parts = np.concatenate([rng.dirichlet(alpha, 600) for alpha in ([12, 5, 3], [2, 6, 7])])
    table = pd.DataFrame(100 * parts, columns=["sand", "silt", "clay"]).sample(frac=1, random_state=0).round(1)
    table = table[(table > 0).all(axis=1)]
    return table[:1000], table[1000:]


def torsions() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return two of the seven torsion angles in degrees, of training and of test rows."""
    data = DATASETS["rna"](standardise=False, dequantise=False)

    def table(rows: np.ndarray) -> pd.DataFrame:
        angles = np.degrees(np.arctan2(rows[:, 1::2], rows[:, ::2]))
        return pd.DataFrame({"delta": angles[:, 3], "chi": angles[:, 6]}).round(1)

    return table(np.concatenate([data.train, data.validation])), table(np.asarray(data.test))


def main() -> None:
    """Write tables, fit models, and save a picture of each."""
    cases = {
        "quakes": (quakes(), isthmus.Coordinates(surface="sphere")),
        "soils": (soils(), isthmus.Coordinates(surface="simplex", project=True)),
        "torsions": (torsions(), isthmus.Coordinates(surface="torus")),
    }
    for name, ((train, test), surface) in cases.items():
        train.to_csv(f"{name}.csv", index=False)
        test.to_csv(f"{name}_test.csv", index=False)
        fitted = isthmus.fit(train, surface=surface, recipe={"training": {"max_time": 120}})
        (figure,) = place_figures(fitted, gather(fitted, test))
        (FOLDER / f"{name}.png").write_bytes(figure.picture.png())
        print(name, len(train), evaluate(fitted, test)["log_density"], fitted.measured, figure.picture.alt)


if __name__ == "__main__":
    main()
