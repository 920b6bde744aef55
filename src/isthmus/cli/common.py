"""What the verbs of the command line share: the application, options, tables in and out, what is said meanwhile."""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isthmus.errors import NOTICE, InputError

if TYPE_CHECKING:
    from isthmus.data.tables import Schema
    from isthmus.store import Fitted

__all__: list[str] = []  # verbs are typed, not called

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_EVERY = 30.0  # seconds between lines within a phase
_log = logging.getLogger("isthmus")

QUIET: ContextVar[bool] = ContextVar("quiet", default=False)  # whether progress is said, see `progress_lines`
ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())  # of the running command line

app = typer.Typer(
    help="Learn the manifold that a table lies on, and the probability density on it.",
    epilog="A TABLE is a .csv, .tsv, .parquet, .feather, .npy or .npz file, a folder of images, or - for CSV on "
    "standard input. A pipe, as <(command) in a shell, is read as standard input is. A file or a model that exists is "
    "replaced with --force, without it never; an input of the same command not even then.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _bytes(text: str) -> int:
    """Read a size."""
    from isthmus.data.tables import parse_size

    try:
        return parse_size(text)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


def _decimal_mark(text: str) -> str:
    """Read a decimal mark."""
    if text not in ("", ".", ","):
        raise typer.BadParameter(f"expected . or ,; got {text!r}; name one of them")
    return text


ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `isthmus fit` wrote.")]
Table = Annotated[str, typer.Argument(metavar="TABLE", help="Table with the columns of the fit; - for standard input.")]
TableIfAny = Annotated[
    str | None, typer.Argument(metavar="[TABLE]", help="Rows to judge it on, or to show; - for standard input.")
]
Tables = Annotated[
    list[str],
    typer.Argument(
        metavar="TABLE",
        help="Table with the columns of the fit; - for standard input. Or Parquet files, or folders.",
    ),
]
TableOut = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE", help="Table to write; by default CSV to standard output."),
]
PartsOut = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="FILE|FOLDER", help="Table to write; by default CSV to standard output."),
]
AsStream = Annotated[
    bool, typer.Option("--stream", help="Keep few rows in memory, as is always done with several files or a folder.")
]
Engine = Annotated[
    str,
    typer.Option(metavar="local|ray", help="With ray, the parts of a stream by many processes or machines."),
]
MaxUnpacked = Annotated[
    int | None,
    typer.Option(
        parser=_bytes,
        metavar="SIZE",
        help="Most that a compressed table, or a folder of images, may unpack to, such as 16GiB; by default 4GiB.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output file that exists.")]
Missing = Annotated[
    list[str] | None,
    typer.Option(metavar="WORD", help="One more spelling of a missing value in text files. Repeatable."),
]
Decimal = Annotated[
    str,
    typer.Option(
        parser=_decimal_mark,
        metavar=".|,",
        help="Decimal mark of text files, where the numbers themselves do not tell it.",
    ),
]


def _be_quiet(asked: bool) -> bool:
    QUIET.set(asked)
    return asked


Quiet = Annotated[
    bool,
    typer.Option(
        "-q", "--quiet", help="Say nothing of progress and columns; errors and warnings remain.", callback=_be_quiet
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]
Per = Annotated[
    str | None,
    typer.Option(
        metavar="UNIT",
        help="Unit of the density of rows on a known surface: steradian or km2 (of the Earth), area or volume of "
        "fractions, radian or degree; by default the first.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Let nothing doubtful pass: refuse a table with a row that does not suit the model, and exit with 1 where "
        "the model does not reconstruct its data.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the random draw.", min=0, max=2**32 - 1)]


def say(*lines: str) -> None:
    """Write lines to standard error; none where it is gone, as that of a closed terminal is."""
    with contextlib.suppress(OSError):
        sys.stderr.writelines(f"{line}\n" for line in lines)


class _Lines(logging.Handler):
    """Print records of the package: a phase at once, what happens within one now and then, and every warning."""

    def __init__(self) -> None:
        super().__init__()
        self.last = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record, or not."""
        if record.levelno >= logging.WARNING:
            say(f"isthmus: warning: {record.getMessage()}")
            return
        if record.levelno == NOTICE:
            note(record.getMessage())
            return
        if QUIET.get() or sys.stderr.isatty():
            return
        if record.levelno >= logging.INFO or time.monotonic() - self.last >= _EVERY:
            self.last = time.monotonic()
            say(f"isthmus: {record.getMessage()}")


@contextlib.contextmanager
def progress_lines() -> Iterator[None]:
    """Say what the package logs where standard error is no terminal, which has a status line and a bar instead."""
    lines, level = _Lines(), _log.level
    _log.addHandler(lines)
    _log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        _log.removeHandler(lines)
        _log.setLevel(level)


def note(*lines: str) -> None:
    """Write lines to standard error, unless `--quiet`."""
    if not QUIET.get():
        say(*lines)


@contextlib.contextmanager
def busy(what: str) -> Iterator[Callable[[str], Any]]:
    """Say what takes long: on a terminal a status line, which what it yields changes; else a line, and some more."""
    if QUIET.get() or not sys.stderr.isatty():
        _log.info(what)
        yield _log.debug
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield status.update


def load_model(model: Path, output: str | None = None, tables: Sequence[str] = (), *, force: bool = False) -> "Fitted":
    """Read the model, after a look at whether the output may be written, so that no work is done in vain."""
    from isthmus.store import load

    check_table_output(output, tables, model, force=force)
    return load(model)


def check_table_output(
    output: str | None, tables: Sequence[str] = (), model: Path | None = None, *, force: bool
) -> None:
    """Refuse a table that may not be written, before any work is done."""
    from isthmus.cli.outputs import check_outputs
    from isthmus.data.tables import FORMATS

    if output in (None, "-"):
        return
    if not str(output).lower().endswith(tuple(FORMATS)):
        raise InputError(f"expected an output that ends in {', '.join(FORMATS)}; got {output}; rename it")
    if not os.path.isdir(os.path.dirname(str(output)) or "."):
        raise InputError(f"expected an existing folder for {output}; got none; create it first")
    check_outputs([Path(str(output))], tables, model, force=force)


def seconds(text: str | None) -> float | None:
    """Read a time such as 90s, 5m or 1h."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise InputError(f"expected a time such as 90s, 5m or 1h; got {text!r}; write a number and its unit")
    return float(match[1]) * _SECONDS[match[2]]


def unpacked_bound(asked: int | None) -> int:
    """Return the bytes that a compressed table may unpack to: as `--max-unpacked` says, else the usual bound."""
    from isthmus.data.tables import MOST_UNPACKED

    return MOST_UNPACKED if asked is None else asked


def read(
    table: str | Path,
    max_unpacked: int | None = None,
    missing: Sequence[str] | None = None,
    decimal: str = "",
    schema: "Schema | None" = None,
) -> Any:
    """Read a table as a frame; with the schema of a model, as the table of its fit was read."""
    from isthmus.data.tables import read_table

    most = unpacked_bound(max_unpacked)
    return read_table(table, max_unpacked=most, missing=missing or (), decimal=decimal, schema=schema)


def is_long(tables: Sequence[str], *, stream: bool) -> bool:
    """Tell whether a table is to be read as a stream: several files, a folder, a pattern, or one file on demand."""
    from isthmus.data.tables import holds_images

    only = tables[0]
    pattern = not os.path.exists(only) and bool(set(only) & set("*?["))
    return stream or len(tables) > 1 or pattern or (os.path.isdir(only) and not holds_images(only))


def write(frame: Any, output: str | None) -> None:
    """Write a frame to a file, or as CSV to standard output."""
    from isthmus.data.tables import write_table

    write_table(frame, output)


def warn_untrusted(reason: str | None, *, strict: bool, results: str = "likelihoods") -> None:
    """Say why results cannot be trusted, if they cannot; then exit with 1 where that is asked for."""
    if reason is None:
        return
    say(f"isthmus: warning: these {results} cannot be trusted: {reason}")
    if strict:
        raise typer.Exit(1)


def warn_unscored(count: int, results: str) -> None:
    """Say how many rows have a note in place of results, if any; then exit with 3."""
    if count:
        rows = "1 row has" if count == 1 else f"{count:,} rows have"
        say(f"isthmus: warning: {rows} no {results}; the column note says why, and --strict refuses such a table")
        raise typer.Exit(3)
