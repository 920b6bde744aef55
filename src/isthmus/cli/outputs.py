"""What a verb may write over: nothing that it reads, and a file that is there only with `--force`."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from isthmus.disk import check_not_input, check_output_file

__all__: list[str] = []  # verbs are typed, not called


def check_outputs(
    outputs: Sequence[Path], tables: Sequence[str | Path], model: Path | None = None, *, force: bool
) -> None:
    """Refuse a file that may not be written, before any work is done.

    Args:
        outputs: files that are to be written.
        tables: what is read: files, folders, patterns or - for standard input.
        model: the folder of a model that is read.
        force: whether a file that is there is replaced.

    Raises:
        InputError: one of them is an input, or is there without `force`, or is no file.
    """
    for path in filter(os.path.lexists, outputs):
        check_output_file(path, [*_files(tables), *_model_files(model)], force=force)


def check_model_output(folder: Path, inputs: Sequence[str | Path], *, force: bool) -> None:
    """Refuse to write a model where none may be written, or over a file that is read.

    Args:
        folder: of the model.
        inputs: what is read, as in `check_outputs`.
        force: whether a model that is there is replaced.

    Raises:
        InputError: it may not be written.
    """
    from isthmus.store import check_output
    from isthmus.store.folders import FILES
    from isthmus.store.pages import own_pages

    check_output(folder, force=force)
    for path in (*(folder / name for name in FILES), *own_pages(folder)):
        if os.path.lexists(path):
            check_not_input(path, _files(inputs))


def may_refresh(page: Path, model: Path) -> bool:
    """Tell whether a report or grid stands in the model's own folder and is one that isthmus wrote."""
    from isthmus.store.pages import own_pages

    return any(own.name == page.name for own in own_pages(model)) and os.path.samefile(page.parent, model)


def _files(tables: Iterable[str | Path]) -> Iterator[Path]:
    """Find the files that tables are read from."""
    for table in tables:
        if os.path.isdir(table):
            yield from (Path(folder, name) for folder, _, names in os.walk(table) for name in names)
        elif os.path.lexists(table):
            yield Path(table)
        else:
            yield from map(Path, glob.iglob(str(table), recursive=True))


def _model_files(model: Path | None) -> Iterator[Path]:
    from isthmus.store.folders import FILES

    return map(model.joinpath, FILES) if model else iter(())
