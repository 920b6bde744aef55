"""The folder of a fit while it goes on, from which it is taken up after a crash.

    run.json         what it is a run of: versions, recipe, digests of data and flow; and the command, if there was one
    decisions.json   what short trainings decided so far
    checkpoint.ckpt  the training as it was at a step, see `isthmus.training`
    log.csv          one line a validation; beside it events for TensorBoard where that is installed

Every file but the log is written under another name, flushed to the disk and renamed, so that one is always whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from isthmus.errors import InputError

__all__ = [
    "CHECKPOINT",
    "digest",
    "finish_run",
    "open_run",
    "read_record",
    "remembered",
    "weights_of",
    "write_durably",
    "writing",
]

CHECKPOINT = "checkpoint.ckpt"
_RECORD, _DECISIONS = "run.json", "decisions.json"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A disk that is full, or a folder that is gone or read-only, as one sentence.

    Args:
        folder: what is written to.

    Raises:
        InputError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"expected to write to {folder}; got {error.strerror or error}; what was saved before is kept, make room "
            "and go on from it"
        ) from error


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Replace a file at once: whenever the machine stops, the old content is there or the new one.

    Args:
        path: the file; its folder must exist.
        content: all of it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_durably(Path(folder, "a"), b"1")
        ...     [entry.name for entry in Path(folder).iterdir()]
        ['a']
    """
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def digest(*parts: object) -> str:
    """Tells values from others without keeping them.

    Args:
        parts: tensors, by shape and content; anything else by its `repr`.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> digest(1, "a")[:8]
        'bbc87fb2'
    """
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(repr((tuple(part.shape), part.dtype)).encode())
            found.update(part.detach().cpu().contiguous().numpy().tobytes())
        else:
            found.update(repr(part).encode() + b"\0")
    return found.hexdigest()


def weights_of(module: nn.Module) -> list[object]:
    """Names and values of parameters and buffers, one after the other, for `digest`; the same in any precision.

    Args:
        module: any module.

    Example:
        >>> digest(*weights_of(nn.Linear(1, 1).half().double())) == digest(*weights_of(nn.Linear(1, 1)))
        False
    """
    return [part for name, value in module.state_dict().items() for part in (name, value.double())]


def read_record(run_dir: Path) -> dict[str, Any]:
    """What `run.json` says; nothing where there is none.

    Args:
        run_dir: the run's folder.

    Raises:
        InputError: it is damaged.

    Example:
        >>> read_record(Path("no-such-folder"))
        {}
    """
    return _read(run_dir / _RECORD)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"expected JSON in {path}; got {error}; remove {path.parent} to start over") from error
    if not isinstance(record, dict):
        raise InputError(f"expected names and values in {path}; got others; remove {path.parent} to start over")
    return record


def _write(path: Path, record: Mapping[str, Any]) -> None:
    write_durably(path, json.dumps(record, indent=1).encode())


def open_run(run_dir: Path, of: Mapping[str, Any]) -> None:
    """Take up the unfinished run in a folder, or begin one.

    Args:
        run_dir: made if need be.
        of: what makes it this run and no other, values of JSON by name.

    Raises:
        InputError: an unfinished run of something else is in the folder, or it cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> open_run(folder, {"data": 1})
        >>> open_run(folder, {"data": 1})
        >>> open_run(folder, {"data": 2})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected the data that the unfinished run in ... began with; got another; ...
    """
    record = read_record(run_dir)
    before = record.get("of", of)
    other = [name for name in of if before.get(name) != of[name]]
    if other and not record.get("finished"):
        raise InputError(
            f"expected the {' and '.join(other)} that the unfinished run in {run_dir} began with; got another; go on "
            "with the same, or remove that folder to start over"
        )
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        if other:
            for name in (_DECISIONS, CHECKPOINT):
                (run_dir / name).unlink(missing_ok=True)
        _write(run_dir / _RECORD, {**record, "of": dict(of), "finished": False})


def finish_run(run_dir: Path) -> None:
    """Note that a run came to its end, so that another may begin in its folder.

    Args:
        run_dir: a folder that `open_run` has opened.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> open_run(folder, {"data": 1})
        >>> finish_run(folder)
        >>> open_run(folder, {"data": 2})
    """
    with writing(run_dir):
        _write(run_dir / _RECORD, {**read_record(run_dir), "finished": True})


def remembered(run_dir: Path | None, name: str, compute: Callable[[Path | None], Any]) -> Any:
    """What this run computed before, else computed now and kept.

    Args:
        run_dir: the run's folder; None keeps nothing.
        name: of the value, also the name of a folder.
        compute: gives values of JSON; is passed a folder of its own to be taken up from, removed when done, or None.

    Returns:
        The value.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> remembered(folder, "answer", lambda _: 42), remembered(folder, "answer", lambda _: 43)
        (42, 42)
    """
    if run_dir is None:
        return compute(None)
    known = _read(run_dir / _DECISIONS)
    if name not in known:
        known[name] = compute(run_dir / name)
        with writing(run_dir):
            _write(run_dir / _DECISIONS, known)
    shutil.rmtree(run_dir / name, ignore_errors=True)
    return known[name]
