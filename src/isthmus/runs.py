"""The folder of a fit while it goes on, from which it is taken up after a crash.

    run.json         what it is a run of: versions, recipe, digests of data and flow; and the command, if there was one
    recipe.yaml      the command's recipe; beside it table.csv, where the table came on standard input
    decisions.json   what short trainings decided so far
    checkpoint.ckpt  the training as it was at a step, see `isthmus.training`
    log.csv          one line a validation; beside it events for TensorBoard where that is installed

Every file but the log is whole at any time, see `isthmus.disk`. Under these names there are nothing but files, and the
folders of short trainings: a link or a pipe is refused, lest something outside is written to. What else a user keeps in
the folder is left alone. What `run.json` says never replaces a model; only a command line does.
"""

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from isthmus.data.tables.wording import one_line
from isthmus.disk import is_unfinished, read_plain, sweep, write_durably
from isthmus.errors import InputError

__all__ = [
    "CHECKPOINT",
    "Command",
    "Record",
    "check_run",
    "digest",
    "finish_run",
    "note_spent",
    "open_run",
    "read_record",
    "remembered",
    "spent_before",
    "weights_of",
    "writing",
]

CHECKPOINT = "checkpoint.ckpt"
_RECORD, _DECISIONS, _LOCK = "run.json", "decisions.json", "lock"
_SUFFIX = ".run"
_LARGEST = 50_000_000  # bytes of a record

_BEGUN = {_RECORD, _LOCK, "recipe.yaml", "table.csv"}  # what a command begins with
_FILES = re.compile("|".join(map(re.escape, (*_BEGUN, _DECISIONS, CHECKPOINT, "log.csv", "hparams.yaml"))))
_EVENTS = re.compile(r"events\.out\.tfevents\..*")  # of TensorBoard
_FOLDERS = re.compile(r"curved|straight|latent_dim_\d+")


class Command(BaseModel):
    """What the command line asked for."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    arguments: list[str]
    table: str | list[str] | None
    sha256: str | None
    given: list[str]
    force: bool
    report: bool
    max_unpacked: int | None = None
    missing: list[str] = []
    decimal: Literal["", ".", ","] = ""
    surface: str | None = None
    columns: list[str] = []
    unit: str | None = None
    project: bool = False


class Record(BaseModel):
    """What a run is, `run.json`.

    Attributes:
        command: what the command line asked for; None where a function was called.
        of: what makes it this run and no other, values of JSON by name.
        finished: whether it came to its end.
        saving: whether the model was about to be written.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    command: Command | None = None
    of: dict[str, Any] | None = None
    finished: bool = False
    saving: bool = False


_SPENT = "seconds spent"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Report a disk that is full, or a folder that is gone or read-only, in one sentence.

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
    """Hash values, to tell them from others without keeping them.

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
    """Return names and values of parameters and buffers, one after the other, for `digest`; the same in any precision.

    Args:
        module: any module.

    Example:
        >>> digest(*weights_of(nn.Linear(1, 1).half().double())) == digest(*weights_of(nn.Linear(1, 1)))
        False
    """
    return [part for name, value in module.state_dict().items() for part in (name, value.double())]


def check_run(run_dir: Path) -> None:
    """Refuse the folder of a run where something else than a file or a folder has a name that a run writes to.

    Args:
        run_dir: the run's folder; it need not be there.

    Raises:
        InputError: something else is there, a link or a pipe for example.

    Example:
        >>> check_run(Path("no-such-folder"))
    """
    for entry in _entries(run_dir):
        is_folder = bool(_FOLDERS.fullmatch(entry.name))
        if not (is_folder or _is_file(entry.name)):
            continue
        mode = entry.stat(follow_symlinks=False).st_mode
        if not (stat.S_ISDIR(mode) if is_folder else stat.S_ISREG(mode)):
            expected = "folder" if is_folder else "file"
            raise InputError(f"expected a {expected} {entry.path}; got a link, pipe or something else; remove it")
        if is_folder:
            check_run(Path(entry.path))


def _is_file(name: str) -> bool:
    return bool(_FILES.fullmatch(name) or _EVENTS.fullmatch(name)) or is_unfinished(name)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise InputError(f"expected the folder of a fit in {folder}; got {error}; choose another") from error


def read_record(run_dir: Path) -> Record:
    """Read `run.json`; an empty record where there is none.

    Args:
        run_dir: the run's folder.

    Raises:
        InputError: it is damaged, or of another version.

    Example:
        >>> read_record(Path("no-such-folder")).command
    """
    path = run_dir / _RECORD
    try:
        return Record.model_validate(_read(path))
    except ValidationError as error:
        first = error.errors()[0]
        got = one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        raise InputError(
            f"expected a run of this version of isthmus in {path}; got {got}; remove {run_dir} to start over"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(read_plain(path, _LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        got = one_line(error)
        raise InputError(f"expected JSON in {path}; got {got}; remove {path.parent} to start over") from error
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
    check_run(run_dir)
    record = read_record(run_dir)
    if record == Record():
        _check_unused(run_dir)
    before = of if record.of is None else record.of
    other = [name for name in of if before.get(name) != of[name]]
    if other and not record.finished:
        raise InputError(
            f"expected the {' and '.join(other)} that the unfinished run in {run_dir} began with; got another; go on "
            "with the same, or remove that folder to start over"
        )
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        sweep(run_dir)
        if other:
            for name in (_DECISIONS, CHECKPOINT):
                (run_dir / name).unlink(missing_ok=True)
        _write(run_dir / _RECORD, record.model_copy(update={"of": dict(of), "finished": False}).model_dump())


def _check_unused(run_dir: Path) -> None:
    """Refuse a folder without `run.json` where a run would replace a user's files."""
    names = [entry.name for entry in _entries(run_dir) if entry.name not in _BEGUN]
    taken = [name for name in names if _is_file(name) or _FOLDERS.fullmatch(name)]
    if taken:
        got = f"one that has {taken[0]} and no {_RECORD}"
        raise InputError(f"expected a folder for a new run in {run_dir}; got {got}; choose another")


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
        entries: fields of a `Record` by name.

    Raises:
        InputError: it cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> note(folder, saving=True)
        >>> read_record(folder).saving
        True
    """
    record = Record.model_validate(dict(read_record(run_dir)) | entries)
    with writing(run_dir):
        _write(run_dir / _RECORD, record.model_dump())


def remembered(run_dir: Path | None, name: str, compute: Callable[[Path | None], Any]) -> Any:
    """Return what this run computed before, else compute it now and keep it.

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
    _remove(run_dir / name)
    return known[name]


def note_spent(run_dir: Path, seconds: float) -> None:
    """Keep how long a run has taken up to now, so that one with a limit knows it after an interruption.

    Args:
        run_dir: the run's folder.
        seconds: those before an interruption included.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> note_spent(folder, 2.5)
        >>> spent_before(folder)
        2.5
    """
    with writing(run_dir):
        _write(run_dir / _DECISIONS, {**_read(run_dir / _DECISIONS), _SPENT: seconds})


def spent_before(run_dir: Path) -> float:
    """Return the seconds that `note_spent` kept, 0 if none.

    Args:
        run_dir: the run's folder.

    Raises:
        InputError: what is kept is no such number.

    Example:
        >>> spent_before(Path("no-such-folder"))
        0.0
    """
    seconds = _read(run_dir / _DECISIONS).get(_SPENT, 0.0)
    if not isinstance(seconds, float) or not 0 <= seconds < math.inf:
        raise InputError(f"expected seconds in {run_dir / _DECISIONS}; got {seconds!r}; remove {run_dir} to start over")
    return seconds


def beside(model: Path) -> Path:
    """Return the folder of the run that is to write a model.

    Args:
        model: the model's folder.

    Example:
        >>> beside(Path("iris")).name
        'iris.run'
    """
    return model.with_name(f"{model.name}{_SUFFIX}")


def model_of(run_dir: Path) -> Path:
    """Return the folder of the model that a run is to write; `beside` the other way round.

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
    command_of(run_dir)
    return run_dir.with_name(run_dir.name.removesuffix(_SUFFIX))


def command_of(run_dir: Path) -> Command:
    """Read what the command line asked for that began a run.

    Args:
        run_dir: the run's folder.

    Raises:
        InputError: no command began a run there.

    Example:
        >>> command_of(Path("iris"))
        Traceback (most recent call last):
        ...
        isthmus.errors.InputError: expected a folder MODEL.run that `isthmus fit` left; got iris; check the path
    """
    named, link = run_dir.name.removesuffix(_SUFFIX) not in ("", run_dir.name), os.path.islink(run_dir)
    if named and not link:
        check_run(run_dir)
    command = read_record(run_dir).command if named and not link else None
    if command is None:
        got = f"{run_dir}, a link" if link else run_dir
        raise InputError(f"expected a folder MODEL{_SUFFIX} that `isthmus fit` left; got {got}; check the path")
    return command


def begin(run_dir: Path, command: Command, files: Mapping[str, bytes]) -> None:
    """Make the folder of a command's run; it is there as a whole or not at all.

    Args:
        run_dir: the folder.
        command: what is asked for; with `force` an unfinished run that is there is given up.
        files: their content by name.

    Raises:
        InputError: there is an unfinished run, or something else, or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "iris.run"
        >>> command = Command(
        ...     arguments=[], table="a.csv", sha256=None, given=[], force=False, report=True
        ... )
        >>> begin(folder, command, {"recipe.yaml": b""})
        >>> command_of(folder).table
        'a.csv'
    """
    with writing(run_dir.parent):
        if os.path.lexists(run_dir):
            _give_up(run_dir, force=command.force)
        new = Path(tempfile.mkdtemp(prefix=f".{run_dir.name}.", dir=run_dir.parent))
        try:
            for name, content in files.items():
                write_durably(new / name, content)
            _write(new / _RECORD, Record(command=command).model_dump())
            new.chmod(0o755)
            new.rename(run_dir)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _give_up(run_dir: Path, *, force: bool) -> None:
    """Remove an unfinished run, if it is to be; refuse to where the folder has anything else."""
    before = command_of(run_dir)
    if not force:
        way_on = _way_on(run_dir, force=before.force)
        raise InputError(f"expected no unfinished fit; got {run_dir}; {way_on} goes on, --force starts over")
    with _locked(run_dir):
        if others := _others(run_dir):
            raise InputError(f"expected nothing but an unfinished fit in {run_dir}; got {others[0]}; move it elsewhere")
        end(run_dir)


def _others(folder: Path) -> list[str]:
    """Find what is in the folder of a run and was not written by it."""
    others = []
    for entry in _entries(folder):
        if _FOLDERS.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            others += _others(Path(entry.path))
        elif not (_is_file(entry.name) and entry.is_file(follow_symlinks=False)):
            others.append(entry.path)
    return others


@contextmanager
def going_on(run_dir: Path, *, new: bool, force: bool = False) -> Iterator[None]:
    """Lock a command's run, so that one process at a time works on it; where it is stopped, say how to go on.

    Args:
        run_dir: the folder.
        new: whether it was just begun: then it is removed where it is stopped before anything was saved.
        force: whether it is to replace a model, which is to be said again.

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
            raise InputError(f"{error}; {_way_on(run_dir, force=force)} goes on") from error
        except KeyboardInterrupt:
            if new and _is_bare(run_dir):
                raise
            raise KeyboardInterrupt(f"{_way_on(run_dir, force=force)} goes on") from None
        finally:
            if new and _is_bare(run_dir):
                end(run_dir)


def _is_bare(run_dir: Path) -> bool:
    """Tell whether nothing was saved there that took time to find."""
    return not (run_dir / _DECISIONS).exists() and not any(run_dir.rglob(CHECKPOINT))


def end(run_dir: Path) -> None:
    """Remove the folder of a run: it is there as a whole or not at all. Where a user keeps files in it, these stay.

    Args:
        run_dir: the folder.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> end(folder)
        >>> folder.exists()
        False
    """
    if _others(run_dir):
        _remove(run_dir)
    elif run_dir.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{run_dir.name}.", dir=run_dir.parent))
        run_dir.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Remove what a run wrote to its folder, and the folder if nothing else is in it."""
    with suppress(OSError):
        for entry in _entries(folder):
            if _is_file(entry.name):
                os.unlink(entry.path)
            elif _FOLDERS.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                _remove(Path(entry.path))
        folder.rmdir()


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    try:
        with FileLock(run_dir / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"expected a fit that was interrupted; got {run_dir}, which another process works on; wait for it"
        ) from error


def _way_on(run_dir: Path, *, force: bool) -> str:
    return f"`isthmus fit --resume {shlex.quote(str(run_dir))}{' --force' * force}`"
