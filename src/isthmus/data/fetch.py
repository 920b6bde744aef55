"""Where data files are."""

import os
from pathlib import Path

from isthmus.errors import InputError

__all__ = ["data_folder", "find"]

_BESIDE_CHECKOUT = Path(__file__).resolve().parents[4] / "shared" / "data"


def data_folder() -> Path:
    """The folder of the data files: `ISTHMUS_DATA`, or `../shared/data` of a checkout, or the user's cache folder.

    Returns:
        The first of the three that is set or exists; the last need not exist.

    Example:
        >>> data_folder().is_absolute()
        True
    """
    import pooch

    if "ISTHMUS_DATA" in os.environ:
        return Path(os.environ["ISTHMUS_DATA"]).expanduser().absolute()
    return _BESIDE_CHECKOUT if _BESIDE_CHECKOUT.is_dir() else Path(pooch.os_cache("isthmus"))


def find(folder: str | Path | None, *files: str) -> Path:
    """The first of `files` that exists.

    Args:
        folder: Where to look; None: `data_folder()`.
        files: Paths relative to the folder, the preferred one first.

    Returns:
        Its path.

    Raises:
        InputError: None is there.

    Example:
        >>> find("/", "usr").name
        'usr'
    """
    root = data_folder() if folder is None else Path(folder)
    for file in files:
        if (root / file).exists():
            return root / file
    raise InputError(f"expected the file {' or '.join(files)} in {root}; it is not there; put it there")
