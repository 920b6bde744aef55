"""Where data files are, and how those that are public get there: on the first use, and never on import."""

import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isthmus.disk import appending, move, replacing
from isthmus.errors import InputError

__all__ = ["PUBLIC", "data_folder", "find", "read_arrays", "reading"]

_MAF = ("https://zenodo.org/record/1161203/files/data.tar.gz", "md5:9b9c9b0375315ad270eba4ce80c093ab")  # 857 MB

_CIFAR = ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a")  # 170 MB
_MNIST = {  # of torchvision, as those of Fashion-MNIST and CIFAR-10
    "train-images-idx3": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    "train-labels-idx1": ("d53e105ee54ea40749a09fcbcd1e9432", "25c81989df183df01b3e8a0aad5dffbe"),
    "t10k-images-idx3": ("9fb629c4189551a2d022fa330f9573f3", "bef4ecab320f06d8554ea6380940ec79"),
    "t10k-labels-idx1": ("ec29112dd5afa0611ce80d1b7f02629c", "bb300cfdad3c16e7a12a480ee83cd310"),
}
_EARTH = {
    "volerup": "sha256:f7bbaf32a412f5fe82350f48e0c55100be260803969c16557343f687fd0593fc",
    "quakes_all": "sha256:3e5e1a10fb2faf1899106264289334037d039f00f5265d13dad388a93d8ff2f7",
    "flood": "sha256:ffb1e3182c3053afcdeceec4727c262a29da10255d20747c08144da5b0963486",
    "fire": "sha256:c5c6c9490b1d8c58ba9eb78d9e2f82d1c1e62694ca5cff917c54600d3d83f459",
}
_ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"

PUBLIC: dict[str, tuple[str, str]] = {
    "power/data.npy": _MAF,
    "gas/ethylene_CO.pickle": _MAF,
    "hepmass/1000_train.csv": _MAF,
    "hepmass/1000_test.csv": _MAF,
    "miniboone/data.npy": _MAF,
    "torus/rna.tsv": (
        "https://raw.githubusercontent.com/vislearn/FFF/main/fff/data/raw_data/torus/rna.tsv",
        "sha256:189183ca25bd45c8a7578d3c1cd8a555b5139bb1ab0ac1a0bd25672be19badf7",
    ),
    **{
        f"earth/{file}.csv": (
            f"https://raw.githubusercontent.com/oxcsml/riemannian-score-sde/main/data/{file}.csv",
            sha,
        )
        for file, sha in _EARTH.items()
    },
    **{f"cifar-10-batches-py/{batch}": _CIFAR for batch in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")},
    **{
        f"mnist/{file}-ubyte.gz": (f"https://ossci-datasets.s3.amazonaws.com/mnist/{file}-ubyte.gz", f"md5:{md5}")
        for file, (md5, _) in _MNIST.items()
    },
    **{
        f"fashion_mnist/{file}-ubyte.gz": (f"{_ZALANDO}/{file}-ubyte.gz", f"md5:{md5}")
        for file, (_, md5) in _MNIST.items()
    },
}
"""File in the data folder -> the address and checksum of itself, or of the .tar.gz that has it."""

_BESIDE_CHECKOUT = (Path(__file__).parent / "../../../../shared/data").resolve()
_BLOCK = 1 << 16  # bytes; of a connection that breaks off, at most so many are lost
_DAMAGE = (
    ValueError,
    EOFError,
    TypeError,
    AttributeError,
    LookupError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def data_folder() -> Path:
    """Return the folder of the data files: `ISTHMUS_DATA`, `../shared/data` of a checkout, or the user's cache folder.

    Returns:
        The first of the three that is set or exists; the last need not exist.

    Example:
        >>> data_folder().is_absolute()
        True
    """
    import pooch

    if os.environ.get("ISTHMUS_DATA"):
        return Path(os.environ["ISTHMUS_DATA"]).expanduser().absolute()
    return _BESIDE_CHECKOUT if _BESIDE_CHECKOUT.is_dir() else Path(pooch.os_cache("isthmus"))


def find(folder: str | Path | None, *files: str) -> Path:
    """Return the first of `files` that exists; if none does and the first is `PUBLIC`, download and check it.

    A download that breaks off goes on where it stopped at the next call. An archive stays in the folder, since it has
    the files of other sets, and may be deleted.

    Args:
        folder: Where to look; None: `data_folder()`.
        files: Paths relative to the folder, the preferred one first.

    Returns:
        Its path.

    Raises:
        InputError: None is there, and the first is not public or could not be downloaded.

    Example:
        >>> find("tests", "nowhere.npy", "test_tabular.py").name
        'test_tabular.py'
    """
    root = data_folder() if folder is None else Path(folder)
    for file in files:
        if (root / file).is_file():
            return root / file
    if files[0] not in PUBLIC:
        raise InputError(
            f"expected the file {' or '.join(files)} in {root}; got none; put it there, or set ISTHMUS_DATA to the "
            "folder that has it"
        )
    return _fetch(files[0], root)


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn an error in the content of a file into an `InputError` of one sentence.

    Args:
        path: The file.
        what: It is expected to be.

    Raises:
        InputError: The file is damaged or something else.

    Example:
        >>> with reading(Path("x.txt"), "a number"):
        ...     float("abc")
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected a number in x.txt; got could not convert string to float: 'abc'; ...
    """
    try:
        yield
    except _DAMAGE as error:
        raise InputError(f"expected {what} in {path}; got {error}; put the original there") from error


def read_arrays(path: Path, *keys: str) -> list[NDArray[Any]]:
    """Read the arrays `keys` of an .npz file, or the one array of an .npy file.

    Args:
        path: The file.
        keys: Of an .npz file.

    Returns:
        One array a key.

    Raises:
        InputError: The file is damaged, is no such file, or has no such array.

    Example:
        >>> read_arrays(Path("tests/fixtures/tabular/miniboone/data.npy"))[0].shape[1]
        43
    """
    with reading(path, "arrays of numbers"), path.open("rb") as file:
        stored = np.load(file)
        return [stored] if isinstance(stored, np.ndarray) else [stored[key] for key in keys]


def _fetch(file: str, root: Path) -> Path:
    import pooch

    url, checksum = PUBLIC[file]
    packed = url.endswith(".tar.gz")
    target = root / (Path(url).name if packed else file)
    try:
        pooch.retrieve(url, checksum, target.name, target.parent, downloader=partial(_resume, part=_part(target)))
        if packed:
            _extract(target, file, root / file)
    except (OSError, ValueError, LookupError) as error:
        raise InputError(
            f"expected to download {file} from {url} to {root}; got {type(error).__name__}: {error}; call again, which "
            f"goes on where it stopped, or put {target.relative_to(root)} or {file} there by hand"
        ) from error
    return root / file


def _resume(url: str, output_file: str, _: object, *, part: Path) -> None:
    """Download a file for pooch: keep what has come in `part`, and resume from there after an interrupt."""
    import requests

    start = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
        if answer.status_code != requests.codes.requested_range_not_satisfiable:  # all had come already
            answer.raise_for_status()
            resumed = answer.status_code == requests.codes.partial_content
            with appending(part) as file:
                file.truncate(start if resumed else 0)
                file.writelines(answer.iter_content(_BLOCK))
    move(part, Path(output_file))


def _extract(archive: Path, file: str, target: Path) -> None:
    """Write the member of a .tar.gz whose path ends with `file`."""
    with tarfile.open(archive) as members:
        member = next((m for m in members if m.isfile() and f"/{m.name}".endswith(f"/{file}")), None)
        content = member and members.extractfile(member)
        if not content:
            raise LookupError(f"no {file} in {archive}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as copy:
            shutil.copyfileobj(content, copy, _BLOCK)


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")
