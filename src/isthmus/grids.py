"""Grids of images from a model of images: what it draws, reconstructs and finds between, and whether it only remembers.

Images of a model are points of the manifold, without the noise off it.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from isthmus.data.tables.pictures import grey_levels, png_grid, write_png
from isthmus.disk import replacing
from isthmus.errors import InputError
from isthmus.flow import Context
from isthmus.matrices import by_rows
from isthmus.scoring import tensors
from isthmus.store import Fitted

__all__ = ["GRIDS", "draw", "write"]

Rows = Float[Tensor, "n D"]

_COLUMNS, _LINES = 10, 8
_NEAREST = 3


def draw(fitted: Fitted, frame: pd.DataFrame, *, seed: int = 0) -> dict[str, UInt8[np.ndarray, "h w channels"]]:
    """Draw the grids of a model, each one image.

    Args:
        fitted: a model of images, and its record.
        frame: images as those of the fit; best those of the fit, as the nearest are looked for among them.
        seed: of what is drawn.

    Returns:
        Those of `GRIDS`, by name.

    Raises:
        InputError: the model is none of images, or the table does not suit it.
    """
    shape = fitted.schema.image if fitted.schema else fitted.recipe.columns.image
    if shape is None:
        raise InputError("expected a model of images; got one of another table; fit it on a folder of images, or .npz")
    if shape[0] not in (1, 3):
        raise InputError(
            f"expected images that are grey or have three colours; got {shape[0]} channels; draw them apart"
        )
    x, c = tensors(fitted, frame)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lines = {name: torch.cat(list(grid(fitted, x, c))) for name, grid in GRIDS.items()}
    return {name: png_grid(_levels(fitted, rows, shape), _COLUMNS) for name, rows in lines.items()}


def write(fitted: Fitted, frame: pd.DataFrame, folder: str | Path, *, seed: int = 0) -> list[Path]:
    """Write the grids of a model as PNG files.

    Args:
        fitted: see `draw`.
        frame: see `draw`.
        folder: an existing one; files of these names in it are replaced.
        seed: see `draw`.

    Returns:
        The files: a name of `GRIDS` each, and .png.

    Raises:
        InputError: see `draw`; or a file cannot be written.
    """
    files = []
    for name, image in draw(fitted, frame, seed=seed).items():
        files.append(Path(folder) / f"{name}.png")
        try:
            with replacing(files[-1]) as file:
                write_png(image, file)
        except OSError as error:
            raise InputError(f"could not write {files[-1]}: {error.strerror}; choose another folder") from error
    return files


def _samples(fitted: Fitted, x: Rows, c: Context) -> list[Tensor]:
    """Draw ten lines of samples; of a conditional model one for each of at most 10 contexts, in the order of levels."""
    kinds = [None] * _COLUMNS if c is None else list(torch.unique(c, dim=0).flip(0)[:_COLUMNS, None])
    return [fitted.model.sample(_COLUMNS, kind, noise=False) for kind in kinds]


def _reconstructions(fitted: Fitted, x: Rows, c: Context) -> list[Tensor]:
    """Return lines of images, evenly spaced in the table, and below each line what the model makes of it."""
    lines = _evenly(x, _LINES // 2 * _COLUMNS).split(_COLUMNS)
    contexts = [None] * len(lines) if c is None else _evenly(c, _LINES // 2 * _COLUMNS).split(_COLUMNS)
    return [each for rows, c in zip(lines, contexts, strict=True) for each in (rows, fitted.model.reconstruct(rows, c))]


def _interpolations(fitted: Fitted, x: Rows, c: Context) -> list[Tensor]:
    """Interpolate along straight lines between the codes of two images; under the context of the first."""
    ends = _evenly(x, 2 * _LINES)
    context = None if c is None else _evenly(c, 2 * _LINES)
    z = fitted.model.encode(ends, context)
    t = torch.linspace(0, 1, _COLUMNS).to(z).unsqueeze(1)
    return [
        fitted.model.decode(torch.lerp(z[k], z[k + 1], t), None if context is None else context[[k] * _COLUMNS])
        for k in range(0, len(z) - 1, 2)
    ]


def _neighbours(fitted: Fitted, x: Rows, c: Context) -> list[Tensor]:
    """Draw a line of samples, and below each the images of the table that are nearest to it."""
    samples = fitted.model.sample(_COLUMNS, None if c is None else _evenly(c, _COLUMNS, exactly=True), noise=False)
    distances = torch.cat([torch.cdist(rows.to(samples), samples) for _, rows in by_rows(x)])
    nearest = distances.argsort(0)[:_NEAREST]
    return [samples, *(x[line] for line in nearest)]


GRIDS = {
    "samples": _samples,
    "reconstructions": _reconstructions,
    "interpolations": _interpolations,
    "neighbours": _neighbours,
}
"""Name of a grid -> function of model, rows and context to its images line by line."""


def _evenly(x: Tensor, n: int, *, exactly: bool = False) -> Tensor:
    """Take at most n rows, evenly spaced; exactly n, some of them again if need be."""
    return x[torch.linspace(0, len(x) - 1, n if exactly else min(n, len(x))).round().long()]


def _levels(fitted: Fitted, rows: Rows, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n channels h w"]:
    """Return rows in the user's units as bytes."""
    columns = fitted.model.columns
    x, integer = columns.round_integers(rows).numpy().reshape(-1, *shape), bool(columns.integer.all())
    low, high = float(columns.low.min()), float(columns.high.max())  # of the data, so that a faint model looks faint
    as_bytes = integer and low >= 0 and high <= np.iinfo(np.uint8).max
    return grey_levels(x.clip(low, high).astype(np.uint8 if as_bytes else np.float64), (low, high))
