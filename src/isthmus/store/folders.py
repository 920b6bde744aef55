"""The files of a model: read in bounded memory, and all replaced or none."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isthmus.data.tables.wording import one_line
from isthmus.disk import is_plain, sync
from isthmus.errors import InputError
from isthmus.store.pages import own_pages

__all__ = [
    "CHECKSUMS",
    "FILES",
    "LARGEST",
    "explained",
    "finish",
    "read_bytes",
    "read_json",
    "regular",
    "sign",
    "verify",
    "write_folder",
]

LARGEST = 50_000_000
"""Bytes of a text file that is read."""

CHECKSUMS = "SHA256SUMS"
"""Name of the file that `sha256sum --check` understands."""

FILES = ("config.json", "model.safetensors", "metrics.json", "recipe.yaml", "log.csv", CHECKSUMS)
"""Names of a model's files, in the order in which they are replaced."""

_PREFIX = ".isthmus-"
_NEW = f"{_PREFIX}replacing"


def regular(path: Path) -> Path:
    """Return the path itself, of a file or of a link to one: not of a folder, nor of a pipe, which would be waited for.

    Raises:
        InputError: there is no such file.

    Example:
        >>> regular(Path("."))
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected a file of a model; got .: no regular file; check the path
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"expected a model folder; got {path}: {reason}; check the path") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"expected a file of a model; got {path}: no regular file; check the path")
    return path


def read_bytes(path: Path) -> bytes:
    """Read a file of at most `LARGEST` bytes.

    Raises:
        InputError: there is no such file, it cannot be read, or is larger.

    Example:
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     read_bytes(Path(file.name))
        b''
    """
    try:
        with regular(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"expected a model folder; got {path}: {error.strerror}; check the path") from error
    if len(content) > LARGEST:
        raise InputError(f"expected at most {LARGEST} bytes in {path}; got more; the model is damaged")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Read the names and values in a JSON file of bounded size.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        record = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"expected JSON in {path}; got {one_line(error)}; the model is damaged, fit it again"
        ) from error
    if not isinstance(record, dict):
        raise InputError(f"expected names and values in {path}; got something else; the model is damaged")
    return record


def explained(error: ValidationError) -> str:
    """Return the first fault that pydantic found, in a line."""
    first = error.errors()[0]
    return one_line(": ".join(text for text in (".".join(map(str, first["loc"])), first["msg"]) if text))


def sign(folder: Path, names: Sequence[str]) -> None:
    """Write the SHA-256 of files beside them.

    Example:
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     _ = (folder / "a").write_text("a")
        ...     sign(folder, ["a"])
        ...     verify(folder, ["a"])
    """
    (folder / CHECKSUMS).write_text("".join(f"{_digest(folder / name)}  {name}\n" for name in names))


def verify(folder: Path, names: Sequence[str]) -> None:
    """Compare files with their SHA-256.

    Raises:
        InputError: one has been changed since, or has no checksum.
    """
    lines = read_bytes(folder / CHECKSUMS).decode(errors="replace").splitlines()
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in names:
        if known.get(name) != _digest(regular(folder / name)):
            raise InputError(
                f"expected {folder / name} as it was written; got another checksum than in {CHECKSUMS}; "
                "the model is damaged, fit it again"
            )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"expected a model folder; got {path}: {error.strerror}; check the path") from error


def finish(folder: Path) -> None:
    """Bring to its end the replacement of a model's files that a crash stopped, if there is one.

    Args:
        folder: of the model.

    Raises:
        InputError: there is one, but files cannot be renamed.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     new = Path(folder, ".isthmus-replacing")
        ...     new.mkdir()
        ...     _ = (new / CHECKSUMS).write_text("")
        ...     finish(Path(folder))
        ...     os.listdir(folder)
        ['SHA256SUMS']
    """
    new = folder / _NEW
    if os.path.islink(new) or not os.path.isdir(new):  # False for an impossible name
        return
    try:
        if is_plain(new / CHECKSUMS):  # the last to be renamed
            for page in own_pages(folder):
                page.unlink(missing_ok=True)  # of the model that was there before
            for name in FILES:
                if is_plain(new / name):
                    with contextlib.suppress(FileNotFoundError):  # another process is about the same
                        os.replace(new / name, folder / name)
        with contextlib.suppress(FileNotFoundError):
            new.rmdir()
        sync(folder)
    except OSError as error:
        raise InputError(
            f"expected to rename the files in {new}, a whole model, to {folder}; got {error.strerror}; load it again, "
            "which goes on"
        ) from error


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Write the files of a model to a new folder, or in the place of those of another model.

    A new folder is filled under another name, then renamed. In a folder that is there the new `FILES` are written to a
    folder inside; that gets a name that `finish` knows, which is the moment when the model is another, and then they
    are renamed one by one. What else is in the folder stays as it is, and so does the folder itself. All is on the disk
    before that moment: whenever the machine stops, the old or the new model is there.

    Args:
        folder: where to; a link to a folder stays one.
        fill: writes the files.

    Raises:
        OSError: it could not be written; what stood there is left as it was.
        InputError: see `finish`.

    Example:
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     write_folder(Path(parent) / "a", lambda folder: (folder / CHECKSUMS).touch())
        ...     os.listdir(Path(parent) / "a")
        ['SHA256SUMS']
    """
    exists = folder.exists()
    where, name = (folder, _NEW) if exists else (folder.parent, folder.name)
    temporary = Path(tempfile.mkdtemp(prefix=_PREFIX if exists else f".{folder.name}.", dir=where))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        _commit(temporary, where / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if exists:
        finish(folder)


def _commit(temporary: Path, target: Path) -> None:
    temporary.rename(target)
    sync(target.parent)
