"""Data sets by name: functions of keyword options that return the record `Dataset`; importing this loads no data.

A new one is a function `(**options) -> Dataset` with fixed splits by `seed`, and one line in `DATASETS`.
"""

from collections.abc import Callable

from isthmus.data.dataset import Dataset, LogDensity
from isthmus.data.images import IMAGES
from isthmus.data.maf import gas, hepmass, miniboone, power
from isthmus.data.tabular import TABLES
from isthmus.data.toy import (
    gaussian,
    random_manifold,
    sine,
    sphere,
    spiral,
    swiss_roll,
    torus,
    two_moons,
)

__all__ = ["DATASETS", "Dataset", "LogDensity"]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "sine": sine,
    "two_moons": two_moons,
    "spiral": spiral,
    "swiss_roll": swiss_roll,
    "sphere": sphere,
    "torus": torus,
    "random_manifold": random_manifold,
    "gaussian": gaussian,
    "power": power,
    "gas": gas,
    "hepmass": hepmass,
    "miniboone": miniboone,
    **TABLES,
    **IMAGES,
}
