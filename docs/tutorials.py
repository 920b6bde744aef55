"""The tutorials: scripts that the gallery runs and makes pages of, each from one start, in a folder to write to."""

import shutil
from pathlib import Path
from typing import Any

import torch

from isthmus.data import DATASETS
from isthmus.flows import FLOWS
from isthmus.latents import LATENTS
from isthmus.metrics import METRICS
from isthmus.networks import NETWORKS
from isthmus.objective import OBJECTIVES

__all__ = ["CATALOGUES", "FOLDERS", "REPORT", "copy", "reset"]

FOLDERS = ("start", "extending")
REPORT = Path("start/report.html")  # which a tutorial writes, and pages link to
CATALOGUES: dict[str, dict[str, Any]] = {
    "FLOWS": FLOWS,
    "OBJECTIVES": OBJECTIVES,
    "NETWORKS": NETWORKS,
    "LATENTS": LATENTS,
    "DATASETS": DATASETS,
    "METRICS": METRICS,
}
_COMPLETE = {name: dict(catalogue) for name, catalogue in CATALOGUES.items()}


def copy(source: Path, target: Path) -> None:
    """Copy the scripts, since the gallery runs each in the folder where it lies, and some of them write files.

    Args:
        source: the folder that holds `FOLDERS`.
        target: where to.
    """
    for folder in FOLDERS:
        (target / folder).mkdir(parents=True, exist_ok=True)
        (target / folder / "GALLERY_HEADER.rst").write_text("Tutorials\n=========\n")  # the gallery wants one
        for file in (target / folder).glob("*.py"):
            file.unlink()
        for file in (source / folder).iterdir():
            shutil.copy(file, target / folder)
    (target / REPORT).touch()


def reset(_: dict[str, Any], __: str) -> None:
    """Undo what the tutorial before has added to the catalogues, and seed; the gallery calls this before each."""
    for name, catalogue in CATALOGUES.items():
        catalogue.clear()
        catalogue.update(_COMPLETE[name])
    torch.manual_seed(0)
