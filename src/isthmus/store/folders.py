"""Files that are read in bounded memory, and folders that appear complete or not at all."""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from isthmus.errors import InputError

__all__ = ["CHECKSUMS", "LARGEST", "read_bytes", "regular", "restore", "sign", "sync", "verify", "write_folder"]

LARGEST = 50_000_000
"""Bytes of a text file that is read."""

CHECKSUMS = "SHA256SUMS"
"""Name of the file that `sha256sum --check` understands."""


def regular(path: Path) -> Path:
    """The path itself, of a file or of a link to one: not of a folder, nor of a pipe, which would be waited for.

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
    """What is in a file of at most `LARGEST` bytes.

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


def restore(folder: Path) -> None:
    """Bring back a folder that a crash left between the two renames of `write_folder`.

    Raises:
        InputError: it is there, but cannot be moved.

    Example:
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     (Path(parent) / ".model.replaced").mkdir()
        ...     restore(Path(parent) / "model")
        ...     os.listdir(parent)
        ['model']
    """
    folder = _target(folder)
    aside = _aside(folder)
    if not os.path.lexists(folder) and os.path.isdir(aside):
        try:
            aside.rename(folder)
        except FileNotFoundError:
            pass  # a save that is still at work has finished
        except OSError as error:
            raise InputError(f"expected to rename {aside} to {folder}; got {error.strerror}; rename it") from error


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder under another name, then rename it, and away with what stood there.

    Files, folder and its parent are on the disk before the old folder is removed. Whatever happens, the old or the new
    folder stands complete: under its name, or for the instant between two renames under one where `restore` finds it.

    Args:
        folder: where to; a link to a folder stays one.
        fill: writes the files.

    Raises:
        OSError: it could not be written; what stood there is left as it was.

    Example:
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     write_folder(Path(parent) / "a", lambda folder: (folder / "b").touch())
        ...     os.listdir(Path(parent) / "a")
        ['b']
    """
    folder = _target(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, folder: Path) -> None:
    """Rename; an existing folder takes the temporary name in the end."""
    aside, replaced = _aside(folder), folder.exists()
    if replaced:
        if aside.exists():
            shutil.rmtree(aside)  # of a save that a crash ended after the new folder stood
        folder.rename(aside)
    try:
        temporary.rename(folder)
    finally:
        restore(folder)
    sync(folder.parent)
    if replaced:
        with contextlib.suppress(OSError):  # the new folder stands; the next save removes the old one
            aside.rename(temporary)


def _target(folder: Path) -> Path:
    return folder.resolve() if os.path.islink(folder) else folder.absolute()  # False for an impossible name


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in {errno.EINVAL, errno.ENOTSUP}):  # some file systems know no such thing
            raise
    finally:
        os.close(descriptor)
