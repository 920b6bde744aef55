"""Image files: folders of PNG and JPEG, one sub-folder a class, idx files as those of MNIST, and grids as PNG."""

import gzip
import io
import math
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8
from numpy.typing import NDArray

from isthmus.data.tables.sizes import check_unpacked, read_unpacked
from isthmus.data.tables.wording import one_line
from isthmus.errors import InputError

__all__ = [
    "MOST_PIXELS",
    "SUFFIXES",
    "grey_levels",
    "holds_images",
    "image_files",
    "is_idx",
    "png_grid",
    "read_idx",
    "read_image",
    "read_images",
    "write_png",
]

SUFFIXES = (".png", ".jpg", ".jpeg")
"""Of the image files that are read."""

MOST_PIXELS = 1 << 22
"""Numbers of one image, all channels; a file that claims more is refused."""

_GREY, _COLOUR = ("1", "L"), ("P", "RGB", "RGBA", "LA", "CMYK", "YCbCr")
_IDX = ("-ubyte", "-ubyte.gz", ".idx", ".idx.gz")


def holds_images(path: str | Path) -> bool:
    """Tell whether a path is a folder with an image file in it or in a sub-folder of it, and without a Parquet file.

    Example:
        >>> holds_images(".")
        False
    """
    if not os.path.isdir(path):
        return False
    with os.scandir(path) as entries:
        names = sorted((entry.name, entry.is_dir()) for entry in entries if not _is_hidden(entry.name))
    if any(name.lower().endswith(".parquet") for name, _ in names):
        return False
    return any(_is_image(name) for name, _ in names) or any(
        _is_image(name) for folder, inside in names if inside for name in os.listdir(Path(path, folder))
    )


def is_idx(path: str | Path) -> bool:
    """Tell whether a name ends as those of idx files do.

    Example:
        >>> is_idx("train-images-idx3-ubyte.gz"), is_idx("train.csv")
        (True, False)
    """
    return str(path).lower().endswith(_IDX)


def image_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """List the images of a folder in the order of their names, and the class of each: its sub-folder, else nothing.

    What is hidden, and what archives of a Mac hold beside the files (`__MACOSX`), is left out.

    Example:
        >>> list(image_files(Path("tests/models")))
        []
    """
    for path in sorted(folder.iterdir()):
        if path.is_file() and _is_image(path.name):
            yield path, ""
    for inside in sorted(folder.iterdir()):
        if inside.is_dir() and not _is_hidden(inside.name):
            yield from (
                (path, inside.name) for path in sorted(inside.iterdir()) if path.is_file() and _is_image(path.name)
            )


def read_images(folder: Path) -> tuple[UInt8[np.ndarray, "n channels h w"], list[str]]:
    """Read the images of a folder, and their classes.

    All are grey, or if one has colours, all red, green and blue; transparency is left out.

    Args:
        folder: with images, or with one sub-folder of images a class, or both.

    Returns:
        (n, channels, height, width), and the name of each image's sub-folder, nothing where it has none.

    Raises:
        InputError: a file is no image of 8 bits, or of another size than the first; or all unpack to too much.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "seven").mkdir()
        ...     write_png(np.zeros((28, 20), np.uint8), Path(folder, "seven", "a.png"))
        ...     images, classes = read_images(Path(folder))
        >>> images.shape, classes
        ((1, 1, 28, 20), ['seven'])
    """
    files = list(image_files(folder))
    if not files:
        raise InputError(f"expected images ({', '.join(SUFFIXES)}) in {folder}; got none; check the path")
    images, unpacked = [], 0
    for path, _ in files:
        images.append(read_image(path))
        unpacked += images[-1].nbytes
        check_unpacked(unpacked, folder)
    first = images[0].shape[:2]
    for (path, _), image in zip(files, images, strict=True):
        if image.shape[:2] != first:
            size, other = (f"{h} x {w}" for h, w in (first, image.shape[:2]))
            raise InputError(f"expected images of one size, {size}, in {folder}; got {other} in {path}; resize them")
    channels = max(image.shape[2] for image in images)
    stack = np.stack([np.broadcast_to(image, (*first, channels)) for image in images])
    return np.ascontiguousarray(stack.transpose(0, 3, 1, 2)), [label for _, label in files]


def read_image(
    file: Path | io.BytesIO, change: Callable[[Any], Any] = lambda image: image
) -> UInt8[np.ndarray, "h w channels"]:
    """Read an image of 8 bits, (height, width, 1) or (height, width, 3).

    Args:
        file: PNG or JPEG.
        change: what to do with the image of pillow before it becomes an array.

    Raises:
        InputError: it is no such image, or larger than `MOST_PIXELS`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    bombs = (Image.DecompressionBombWarning, Image.DecompressionBombError)
    try:
        with warnings.catch_warnings(action="error", category=bombs[0]), Image.open(file) as image:
            channels = {**dict.fromkeys(_GREY, 1), **dict.fromkeys(_COLOUR, 3)}.get(image.mode)
            if channels is None or math.prod(image.size) * channels > MOST_PIXELS:
                allowed = f"8 bits a colour and at most {MOST_PIXELS:,} numbers"
                raise ValueError(f"one of mode {image.mode} and size {image.size}, where {allowed} are taken")
            upright = ImageOps.exif_transpose(image)  # as the camera was held
            pixels = np.asarray(change(upright.convert("L" if channels == 1 else "RGB")))
    except (OSError, ValueError, SyntaxError, EOFError, UnidentifiedImageError, zlib.error, *bombs) as error:
        raise InputError(f"expected an image in {file}; got {one_line(error)}; convert, shrink or remove it") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read the array of bytes in an idx file, compressed by gzip or not.

    Args:
        path: such as train-images-idx3-ubyte.gz.

    Returns:
        Of the shape that the file says.

    Raises:
        InputError: it is no such file, of another type than bytes, or of another length than it says; or it unpacks to
            too much.

    References:
        Y. LeCun, The MNIST database of handwritten digits, "file formats".

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels-idx1-ubyte")
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 1, 2]))
        ...     read_idx(path).tolist()
        [7, 1, 2]
    """
    advice = "put the original there"
    try:
        if path.name.lower().endswith(".gz"):
            with gzip.open(path) as stream:
                content = read_unpacked(stream, path)
        else:
            content = path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"expected an idx file in {path}; got {one_line(error)}; {advice}") from error
    dimensions = content[3] if len(content) > 3 and content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:start], ">u4", len(content[4:start]) // 4).tolist())
    if not dimensions or len(shape) != dimensions or math.prod(shape) != len(content) - start:
        got = f"{len(content)} bytes that begin with {content[:4].hex(' ')}"
        raise InputError(f"expected an idx file of bytes in {path}; got {got}; {advice}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def grey_levels(images: Num[np.ndarray, "..."], span: tuple[float, float] | None = None) -> UInt8[np.ndarray, "..."]:
    """Scale images to bytes from black to white; bytes that use the upper half of their range stay as they are.

    Black is 0, or the smallest number if that is negative; white is the largest, or 1 where no real number exceeds it.

    Args:
        images: numbers.
        span: the smallest and the largest number that they may have; by default those of the images.

    Example:
        >>> grey_levels(np.array([[[0.0, 0.6]]])).tolist(), grey_levels(np.array([[[0, 16]]], np.uint8)).tolist()
        ([[[0, 153]]], [[[0, 255]]])
    """
    low, high = span or (float(images.min()), float(images.max()))
    low, most = min(0.0, low), np.iinfo(np.uint8).max
    if images.dtype == np.uint8 and high > most // 2:
        return images
    if images.dtype.kind == "f" and low == 0.0 and high <= 1.0:
        high = 1.0
    share = (images.astype(np.float64) - low) / max(high - low, 1e-300)
    return np.rint(most * share.clip(0, 1)).astype(np.uint8)


def png_grid(
    images: UInt8[np.ndarray, "n channels h w"], columns: int, *, gap: int = 2
) -> UInt8[np.ndarray, "height width channels"]:
    """Tile images into a grid on white, row by row, small ones enlarged by whole pixels.

    Args:
        images: grey (one channel) or red, green, blue.
        columns: images a row, >= 1.
        gap: white pixels between them.

    Returns:
        The grid as one image.

    Example:
        >>> png_grid(np.zeros((3, 1, 28, 28), np.uint8), 2).shape
        (118, 118, 1)
    """
    n, channels, h, w = images.shape
    enlarged = max(1, 56 // max(h, w))
    h, w, rows = h * enlarged, w * enlarged, -(-n // columns)
    grid = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, channels), 255, np.uint8)
    for k, image in enumerate(images):
        top, left = (k // columns) * (h + gap) + gap, (k % columns) * (w + gap) + gap
        large = image.repeat(enlarged, 1).repeat(enlarged, 2)
        grid[top : top + h, left : left + w] = large.transpose(1, 2, 0)
    return grid


def write_png(image: UInt8[np.ndarray, "h w *channels"], file: Any) -> None:
    """Write an image, (height, width) or (height, width, 1 or 3), to a file in PNG.

    Args:
        image: grey, or red, green and blue.
        file: a path, or a stream.
    """
    from PIL import Image, PngImagePlugin

    grey, maker = image.ndim == 3 and image.shape[2] == 1, PngImagePlugin.PngInfo()
    maker.add_text("Software", "isthmus")
    Image.fromarray(image[:, :, 0] if grey else image).save(file, "PNG", pnginfo=maker)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
