"""The folder of a fit while it goes on, from which it is taken up after a crash.

    run.json         what it is a run of: versions, recipe, digests of data and flow; and the command, if there was one
    recipe.yaml      the command's recipe; beside it table.csv, where the table came on standard input
    decisions.json   what short trainings decided so far
    checkpoint.ckpt  the training as it was at a step, see `isthmus.training`
    log.csv          one line a validation; beside it events for TensorBoard where that is installed

Every file but the log is written under another name, flushed to the disk and renamed, so that one is always whole.
"""

import hashlib
import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor, nn

from isthmus.disk import write_durably
from isthmus.errors import InputError

__all__ = [
    "CHECKPOINT",
    "digest",
    "finish_run",
    "open_run",
    "read_record",
    "remembered",
    "weights_of",
    "writing",
]

CHECKPOINT = "checkpoint.ckpt"
_RECORD, _DECISIONS, _LOCK = "run.json", "decisions.json", "lock"
_SUFFIX = ".run"


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
            f"expected to write to {folder}; got {error.strerror or error}; make room or put it right; what was saved "
            "before is kept"
        ) from error


def digest(*parts: object) -> str:
    """Tells values from others without keeping them.

    Args:
        parts: tensors, by shape and content; anything else by its `repr`.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> digest(1, "a") == digest(1, "a"), digest(1, "a") == digest(1, "b")
        (True, False)
    """
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(repr((tuple(part.shape), part.dtype)).encode())
            found.update(part.detach().cpu().contiguous().numpy().data)
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
    note(run_dir, finished=True)


def note(run_dir: Path, **entries: Any) -> None:
    """Add entries to `run.json`.

    Args:
        run_dir: the run's folder.
        entries: values of JSON by name.

    Raises:
        InputError: it cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> note(folder, saving=True)
        >>> read_record(folder)
        {'saving': True}
    """
    with writing(run_dir):
        _write(run_dir / _RECORD, {**read_record(run_dir), **entries})


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


def beside(model: Path) -> Path:
    """The folder of the run that is to write a model.

    Args:
        model: the model's folder.

    Example:
        >>> beside(Path("iris")).name
        'iris.run'
    """
    return model.with_name(f"{model.name}{_SUFFIX}")


def model_of(run_dir: Path) -> Path:
    """The folder of the model that a run is to write; `beside` the other way round.

    Args:
        run_dir: the run's folder.

    Raises:
        InputError: no command began a run there.

    Example:
        >>> model_of(Path("iris"))
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected a folder MODEL.run that `isthmus fit` left; got iris; check the path
    """
    if run_dir.name.removesuffix(_SUFFIX) in ("", run_dir.name) or "command" not in read_record(run_dir):
        raise InputError(f"expected a folder MODEL{_SUFFIX} that `isthmus fit` left; got {run_dir}; check the path")
    return run_dir.with_name(run_dir.name.removesuffix(_SUFFIX))


def begin(run_dir: Path, command: Mapping[str, Any], files: Mapping[str, bytes], *, force: bool = False) -> None:
    """Make the folder of a command's run; it is there as a whole or not at all.

    Args:
        run_dir: the folder.
        command: what the command is to do, values of JSON by name.
        files: their content by name.
        force: whether an unfinished run that is there is given up.

    Raises:
        InputError: there is an unfinished run, or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "iris.run"
        >>> begin(folder, {"table": "iris.csv"}, {"recipe.yaml": b""})
        >>> read_record(folder)
        {'command': {'table': 'iris.csv'}}
    """
    with writing(run_dir.parent):
        if run_dir.exists():
            if not force:
                raise InputError(
                    f"expected no unfinished fit; got {run_dir}; {_way_on(run_dir)} goes on, --force starts over"
                )
            model_of(run_dir)
            with _locked(run_dir):
                end(run_dir)
        new = run_dir.with_name(f".{run_dir.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for name, content in files.items():
            write_durably(new / name, content)
        _write(new / _RECORD, {"command": dict(command)})
        new.rename(run_dir)


@contextmanager
def going_on(run_dir: Path, *, new: bool) -> Iterator[None]:
    """One process at a time works on a command's run; where it is stopped, it is said how to go on.

    Args:
        run_dir: the folder.
        new: whether it was just begun: then it is removed where it is stopped before anything was saved.

    Raises:
        InputError: another process works on it; or what was raised, and how to go on.
        KeyboardInterrupt: if it is raised, with how to go on as its message.
    """
    with _locked(run_dir):
        try:
            yield
        except InputError as error:
            if new and _is_bare(run_dir):
                raise
            raise InputError(f"{error}; {_way_on(run_dir)} goes on") from error
        except KeyboardInterrupt:
            if new and _is_bare(run_dir):
                raise
            raise KeyboardInterrupt(f"{_way_on(run_dir)} goes on") from None
        finally:
            if new and _is_bare(run_dir):
                end(run_dir)


def _is_bare(run_dir: Path) -> bool:
    """Whether nothing was saved there that took time to find."""
    return not (run_dir / _DECISIONS).exists() and not any(run_dir.rglob(CHECKPOINT))


def end(run_dir: Path) -> None:
    """Remove the folder of a run: it is there as a whole or not at all.

    Args:
        run_dir: the folder.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> end(folder)
        >>> folder.exists()
        False
    """
    if run_dir.exists():
        aside = run_dir.with_name(f".{run_dir.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        run_dir.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    try:
        with FileLock(run_dir / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"expected a fit that was interrupted; got {run_dir}, which another process works on; wait for it"
        ) from error


def _way_on(run_dir: Path) -> str:
    return f"`isthmus fit --resume {shlex.quote(str(run_dir))}`"
