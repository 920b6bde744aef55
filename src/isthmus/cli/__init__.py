"""The command line: a table and a model in, a table or figures out.

Results go to standard output or to a file, everything else to standard error: progress too, as a bar on a terminal,
else as lines, one a phase and one in half a minute within it, unless `--quiet`. What is wrong with the input is said in
one line, with exit code 2 and nothing written; an error of the program is a traceback with exit code 1. Whatever is
slow to import is imported by the verb that needs it.
"""

import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from isthmus.cli import fit, laws, rows, show  # noqa: F401 (each adds its verbs, in the order of the help)
from isthmus.cli.common import ARGUMENTS, QUIET, app, progress_lines, say
from isthmus.cli.streams import OutputError, standard_streams
from isthmus.errors import InputError
from isthmus.interrupts import interruptible
from isthmus.screens import escaped

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: those of the command line if not given.

    Returns:
        The exit code: 0; 1 where `--strict` finds a model untrusted; 2 for bad input or usage; 3 where `score` or
        `encode` gave some rows a note in place of numbers; 74 where standard output is closed or full; 130 after
        Ctrl-C, 143 after SIGTERM, 129 after SIGHUP; 141 where the reader of a pipe has gone.

    Example:
        >>> main(["list", "flows"])  # doctest: +ELLIPSIS
        freeform     A flow of any two modules, neither of them invertible, made inverse to one another by training.
        ...
        0
    """
    with standard_streams(), interruptible() as interruption:
        try:
            code = _run(sys.argv[1:] if arguments is None else arguments)
        except OutputError as error:
            say(f"isthmus: error: {error}")
            return 74  # EX_IOERR of sysexits.h
        except (InputError, typer.TyperException) as error:
            return _fail(error)
        except BrokenPipeError:
            sys.stdout = None  # what is left in its buffer cannot be written at exit
            return 141
        except KeyboardInterrupt as stop:
            say(f"isthmus: interrupted; {str(stop) or 'nothing was written'}")
            return interruption.code
        if interruption.signal in (None, signal.SIGINT):  # a verb may end well with Ctrl-C
            return code
        say(f"isthmus: interrupted by {interruption.signal.name} at the end; what was written is whole")
        return interruption.code


def _run(arguments: Sequence[str]) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while waiting crawl on a busy machine
    ARGUMENTS.set(tuple(arguments))
    command = typer.main.get_command(app)
    try:
        with progress_lines(), command.make_context("isthmus", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    else:
        return 0
    finally:
        QUIET.set(False)
        sys.stdout.flush()


def _print_version(asked: bool) -> bool:
    if asked:
        sys.stdout.write(f"isthmus {version('isthmus')}\n")
        raise typer.Exit
    return asked


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _fail(error: Exception) -> int:
    text = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    if "\n" in text and text.startswith("Usage:"):  # no arguments: the help, as it is
        say(text)
    else:
        say(f"isthmus: error: {escaped(' '.join(text.split()))}")
    return 2
