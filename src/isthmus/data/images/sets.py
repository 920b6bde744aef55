"""Sets of images by name, an entry each in `IMAGES`.

Each is a function of these keywords:

* `folder`: of the data files; None: `isthmus.data.fetch.data_folder()`. Files are looked for where they are downloaded
  to, and where torchvision keeps them. What is missing is downloaded when it is first needed, from the addresses and
  with the checksums that torchvision has; CelebA by torchvision itself, where that is installed.
* `seed`: of the noise of `dequantise`, and of the split where there is no official one. Equal options give equal rows.
* `dequantise`: `(x + u) / 256` with u uniform in [0, 1), so that rows have a density; else `x / 255`. See
  `isthmus.data.images.Pixels`, which gives bits per dimension.
* `logit`: the a of `logit(a + (1 - 2a) y)`, or None; needs `dequantise`.
* `labels`: whether the class of each image is its context, one-hot.

Test images are the official ones; of MNIST, Fashion-MNIST and CIFAR-10 the last 10,000 training images are for
validation, as in Sorrenson et al. (2024), arXiv 2306.01843. Where there is no official split, a tenth of the images,
drawn by `seed`, is for validation and a tenth for testing. They return a `Dataset` whose `image` is the shape.
"""

import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from isthmus.data.dataset import Dataset
from isthmus.data.fetch import data_folder, find, read_arrays, reading
from isthmus.data.frames import read_pickled
from isthmus.data.images.pixels import Pixels
from isthmus.errors import InputError

__all__ = ["IMAGES"]

_VALIDATION = 10_000
_CROP, _SIDE = 140, 64  # of CelebA
_CELEBA = ("train", "validation", "test")

Images = UInt8[np.ndarray, "n channels h w"]
Folder = str | Path | None


class _Split(NamedTuple):
    """Images, and the class of each; None where there are none."""

    x: Images
    label: UInt8[np.ndarray, " n"] | None = None

    def at(self, index: Any) -> "_Split":
        """Return the images at these indices, or of a slice, with their classes."""
        return _Split(self.x[index], None if self.label is None else self.label[index])


_Splits = tuple[_Split, _Split, _Split]
_Reader = Callable[[Folder, int], _Splits]


def _set(name: str, summary: str, read: _Reader, latent_dim: int | None = None) -> tuple[str, Callable[..., Dataset]]:
    def load(
        *,
        folder: Folder = None,
        seed: int = 0,
        dequantise: bool = True,
        logit: float | None = None,
        labels: bool = False,
    ) -> Dataset:
        """Read, split and prepare; replaced below by the words of the set."""
        if logit is not None and not dequantise:
            raise InputError(f"expected dequantise beside logit; got logit {logit} alone; leave one of them out")
        splits, generator = read(folder, seed), torch.Generator().manual_seed(seed)
        if labels and splits[0].label is None:
            raise InputError(f"expected a set with classes for labels; got {name}; leave labels out")
        pixels = Pixels(logit=logit)

        def rows(split: _Split) -> torch.Tensor:
            """Return the images as flat rows of float32, converted some at a time."""
            parts = torch.from_numpy(split.x.reshape(len(split.x), -1)).split(_VALIDATION)
            return torch.cat([(pixels.spread(p, generator) if dequantise else p / 255).float() for p in parts])

        train, validation, test = (rows(split) for split in splits)
        contexts = [_one_hot(split, splits) if labels else None for split in splits]
        _, channels, height, width = splits[0].x.shape
        return Dataset(
            name,
            train,
            validation,
            test,
            latent_dim,
            train_context=contexts[0],
            validation_context=contexts[1],
            test_context=contexts[2],
            image=(channels, height, width),
        )

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"{summary}\n\nThe keywords are those of `{__name__}`."
    return name, load


def _one_hot(split: _Split, splits: _Splits) -> torch.Tensor:
    classes = 1 + max(int(np.max(s.label)) for s in splits if s.label is not None)
    return torch.eye(classes)[torch.from_numpy(np.asarray(split.label, dtype=np.int64))]


def _official(train: _Split, test: _Split, validation: int = _VALIDATION) -> _Splits:
    return train.at(slice(-validation)), train.at(slice(-validation, None)), test


def _by_seed(images: _Split, seed: int) -> _Splits:
    order = np.random.default_rng(seed).permutation(len(images.x))
    test, validation, train = np.split(order, [len(order) // 10, 2 * (len(order) // 10)])
    return images.at(train), images.at(validation), images.at(test)


def _idx(name: str, torchvision: str) -> _Reader:
    """Return a reader of four idx files in a folder of this name, or where torchvision unpacks them."""

    def read(folder: Folder, _: int) -> _Splits:
        """Read all four files."""
        from isthmus.data.tables.pictures import read_idx

        def part(of: str) -> _Split:
            """Read the images and labels of `train` or `t10k`."""
            files = [f"{of}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
            x, label = (
                read_idx(find(folder, f"{name}/{file}.gz", f"{name}/{file}", f"{torchvision}/raw/{file}"))
                for file in files
            )
            if x.ndim != 3 or label.shape != x.shape[:1]:
                got = f"shapes {x.shape} and {label.shape}"
                raise InputError(f"expected images and labels in {files[0]}.gz; got {got}; put the originals there")
            return _Split(x[:, None], label)

        train = part("train")
        return _official(train, part("t10k"), min(_VALIDATION, len(train.x) // 6))

    return read


def _cifar10(folder: Folder, _: int) -> _Splits:
    """Read the batches for Python, which are pickles, without running what they say."""

    def batch(name: str) -> _Split:
        """Read a batch of ten thousand images."""
        path = find(folder, f"cifar-10-batches-py/{name}")
        stored = read_pickled(path)
        with reading(path, "a batch of CIFAR-10"):
            x, label = np.array(stored["data"], np.uint8), np.array(stored["labels"], np.uint8)
            return _Split(x.reshape(len(label), 3, 32, 32), label)

    batches = [batch(f"data_batch_{k}") for k in range(1, 6)]
    train = _Split(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))
    return _official(train, batch("test_batch"), len(train.x) // 5)


def _cifar10_jpeg(folder: Folder, seed: int) -> _Splits:
    """Read JPEG files one after the other; they stand in the order of their classes, so that validation is drawn."""
    from isthmus.data.tables.pictures import read_image

    def part(of: str) -> _Split:
        """Read the images and labels of `train` or `test`."""
        path = find(folder, f"cifar10_jpeg/cifar10_{of}_jpegbytes.npz.xz")
        with reading(path, "JPEG files"), lzma.open(path) as file:
            stored = np.load(io.BytesIO(file.read()))
            content, ends = stored["bytes"].tobytes(), stored["lengths"].astype(np.int64).cumsum()
            label = stored["labels"]
        starts = np.append(0, ends[:-1])
        x = np.stack([read_image(io.BytesIO(content[a:b])) for a, b in zip(starts, ends, strict=True)])
        return _Split(x.transpose(0, 3, 1, 2), label)

    train = part("train")
    shuffled = train.at(np.random.default_rng(seed).permutation(len(train.x)))
    return _official(shuffled, part("test"), len(train.x) // 5)


def _celeba(folder: Folder, _: int) -> _Splits:
    """Read the images centre-cropped to 140 and resized to 64, bilinearly."""
    from isthmus.data.tables.pictures import read_image

    root = Path(data_folder() if folder is None else folder)
    if not (root / "celeba" / "img_align_celeba").is_dir():
        _download_celeba(root)
    path = find(root, "celeba/list_eval_partition.txt")
    with reading(path, "names of images and the numbers of their split"):
        names, numbers = zip(*(line.split() for line in path.read_text().splitlines() if line), strict=True)
        split = np.array(numbers, dtype=int)
    files = np.array([path.parent / "img_align_celeba" / name for name in names], dtype=object)
    parts = [[read_image(file, _cropped) for file in files[split == k]] for k in range(len(_CELEBA))]
    if not all(parts):
        raise InputError(f"expected training, validation and test images in {path}; got none of one; mend it")
    train, validation, test = (_Split(np.stack(part).transpose(0, 3, 1, 2)) for part in parts)
    return train, validation, test


def _cropped(image: Any) -> Any:
    from PIL.Image import Resampling

    left, top = (round((side - _CROP) / 2) for side in image.size)
    return image.crop((left, top, left + _CROP, top + _CROP)).resize((_SIDE, _SIDE), Resampling.BILINEAR)


def _download_celeba(root: Path) -> None:
    wanted = f"CelebA in {root / 'celeba'} (img_align_celeba/*.jpg, list_eval_partition.txt)"
    try:
        from torchvision.datasets import CelebA
    except ImportError as error:
        advice = "put it there from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or pip install torchvision"
        raise InputError(f"expected {wanted}; got none, and no torchvision to download it; {advice}") from error
    try:
        CelebA(str(root), download=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"expected to download {wanted}; got {error}; put it there by hand") from error


def _arrays(file: str, *keys: str) -> _Reader:
    """Return a reader of the grey images in an .npz file, and of their classes where a key names them."""

    def read(folder: Folder, seed: int) -> _Splits:
        """Read the images, a tenth each for validation and testing."""
        x, *label = read_arrays(find(folder, file), "images", *keys)
        return _by_seed(_Split(x[:, None], label[0] if label else None), seed)

    return read


IMAGES: dict[str, Callable[..., Dataset]] = dict(
    [
        _set(
            "mnist",
            "Handwritten digits (70,000 of 1 x 28 x 28; LeCun, Cortes, Burges 1998).",
            _idx("mnist", "MNIST"),
            16,
        ),
        _set(
            "fashion_mnist",
            "Articles of clothing (70,000 of 1 x 28 x 28; Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747).",
            _idx("fashion_mnist", "FashionMNIST"),
            16,
        ),
        _set("cifar10", "Ten kinds of things (60,000 of 3 x 32 x 32; Krizhevsky 2009).", _cifar10, 64),
        _set(
            "cifar10_jpeg",
            "CIFAR-10 as JPEG files: slightly smoothed, not to be compared with published figures.",
            _cifar10_jpeg,
            64,
        ),
        _set(
            "celeba",
            "Faces of the famous, cropped and resized (202,599 of 3 x 64 x 64; Liu, Luo, Wang, Tang 2015).",
            _celeba,
            64,
        ),
        _set(
            "frey", "One face in a video (1,965 of 1 x 28 x 20; Roweis, Saul, Hinton 2002).", _arrays("faces/frey.npz")
        ),
        _set(
            "olivetti",
            "Ten pictures each of forty faces (400 of 1 x 64 x 64; AT&T Laboratories Cambridge).",
            _arrays("faces/olivetti.npz", "person"),
        ),
    ]
)
