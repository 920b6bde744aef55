"""What isthmus shows of a model, beside it in its folder: a report, and of images grids; nothing reads them back.

They may be written again without asking where isthmus wrote what is there, which every one of them says in itself.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from isthmus.disk import read_plain

__all__ = ["GRID_NAMES", "REPORT", "foreign_pages", "is_own", "own_pages"]

REPORT = "report.html"
"""Name of the report."""

GRID_NAMES = ("samples", "reconstructions", "interpolations", "neighbours")
"""Names of the grids; each is a PNG file."""

_MARKS = {".html": b"<footer>Written by isthmus ", ".png": b"Software\0isthmus"}
_LARGEST = 200_000_000  # bytes


def is_own(path: Path) -> bool:
    """Tell whether isthmus wrote a report or a grid.

    Args:
        path: of the file.

    Example:
        >>> is_own(Path("no such report.html"))
        False
    """
    try:
        return _MARKS[path.suffix] in read_plain(path, _LARGEST)
    except (OSError, ValueError, KeyError):
        return False


def own_pages(folder: Path) -> Iterator[Path]:
    """Find the report and the grids that isthmus wrote into a folder.

    Args:
        folder: of a model.

    Example:
        >>> list(own_pages(Path("no such folder")))
        []
    """
    return (path for path in _pages(folder) if is_own(path))


def foreign_pages(folder: Path) -> list[Path]:
    """Find what stands where a report or a grid would be written, and is none that isthmus wrote.

    Args:
        folder: of a model.

    Example:
        >>> foreign_pages(Path("no such folder"))
        []
    """
    return [path for path in _pages(folder) if os.path.lexists(path) and not is_own(path)]


def _pages(folder: Path) -> list[Path]:
    return [folder / name for name in (REPORT, *(f"{name}.png" for name in GRID_NAMES))]
