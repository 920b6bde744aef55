"""`isthmus fit`: a model from a table, by way of a folder from which an interrupted fit goes on."""

import contextlib
import dataclasses
import hashlib
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isthmus import screens
from isthmus.cli.common import (
    ARGUMENTS,
    QUIET,
    AsJson,
    AsStream,
    Decimal,
    MaxUnpacked,
    Missing,
    Quiet,
    app,
    busy,
    is_long,
    note,
    read,
    say,
    seconds,
    unpacked_bound,
)
from isthmus.cli.outputs import check_model_output
from isthmus.errors import InputError

if TYPE_CHECKING:
    from isthmus.data.tables import Coordinates
    from isthmus.deadline import Deadline
    from isthmus.recipe import Recipe
    from isthmus.runs import Command
    from isthmus.store import Fitted

__all__: list[str] = []  # verbs are typed, not called

_REPORT_SECONDS, _REPORT_SHARE = 4.0, 0.03  # of the time; where less is left, there is no report


_Table = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TABLE", help="Rows to learn from; - for CSV on standard input. Or Parquet files or folders."
    ),
]
_ModelOut = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="MODEL", help="Folder to write the model to.")
]
_LatentDim = Annotated[
    str | None, typer.Option(metavar="N|auto", help="Dimensions of the manifold; auto estimates them.")
]
_Given = Annotated[
    list[str] | None,
    typer.Option(metavar="COL[,COL]", help="Columns to condition on; the others are learnt given these. Repeatable."),
]
_Surface = Annotated[
    str | None,
    typer.Option(
        metavar="sphere|simplex|torus",
        help="The surface that rows lie on, where it is known: places or directions, parts of a whole, angles.",
    ),
]
_SurfaceColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="COL[,COL]",
        help="The columns that say where on the surface a row is: latitude,longitude, or the parts, or the angles. "
        "Others are left out, unless --given. Repeatable.",
    ),
]
_Unit = Annotated[
    str | None,
    typer.Option(
        metavar="UNIT",
        help="Of these columns, where neither names nor values tell: degrees or radians; fractions or percentages.",
    ),
]
_Project = Annotated[
    bool,
    typer.Option("--project", help="Project rows off the surface on it, in all verbs; without it they are refused."),
]
_Target = Annotated[list[str] | None, typer.Option(hidden=True)]  # the former name of --given
_RecipeFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Settings in YAML.")]
_Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting of the recipe. Repeatable.")
]
_FitSeed = Annotated[int | None, typer.Option(metavar="N", help="Of everything that is random in the fit.")]
_MaxTime = Annotated[str | None, typer.Option(metavar="TIME", help="Longest time of it all: 90s, 5m or 1h.")]
_Devices = Annotated[
    int | None, typer.Option(metavar="N", help="Accelerators, or processes of the CPU, to train on.", min=1)
]
_ForceModel = Annotated[
    bool, typer.Option("--force", help="Replace the model, or give up the unfinished fit, that is already there.")
]
_NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.html and no pictures into the folder.")]
_Resume = Annotated[
    Path | None, typer.Option(metavar="MODEL.run", help="Go on with an interrupted fit; takes no TABLE.")
]


@app.command(epilog="Example: isthmus fit measurements.csv -o model --latent-dim 5 --max-time 10m")
def fit(
    table: _Table = None,
    output: _ModelOut = None,
    latent_dim: _LatentDim = None,
    given: _Given = None,
    surface: _Surface = None,
    columns: _SurfaceColumns = None,
    unit: _Unit = None,
    project: _Project = False,
    target: _Target = None,
    recipe: _RecipeFile = None,
    settings: _Settings = None,
    seed: _FitSeed = None,
    max_time: _MaxTime = None,
    missing: Missing = None,
    decimal: Decimal = "",
    max_unpacked: MaxUnpacked = None,
    stream: AsStream = False,
    devices: _Devices = None,
    force: _ForceModel = False,
    no_report: _NoReport = False,
    resume: _Resume = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Learn a model from a table and write it to a folder.

    Text, booleans, times and missing values are turned into numbers, constant columns are left out; what was done is
    said, and undone by the other verbs. A tenth of the rows is held out to choose by.

    In a text file the cells tell the delimiter, decimal and thousands marks, whether the first row is of names, and
    which words are missing values among numbers; that is said too, and later files are read in the same way.

    A folder of PNG or JPEG images, an .npz file with an array of images, or an idx file is a table of images, learnt by
    convolutional networks unless others are named. The sub-folders of a folder, or the labels beside an array, are a
    column label, for --given. Grids of images are written into the model's folder.

    With --surface the rows lie on a surface that is known: columns of latitude and longitude on a sphere, parts of a
    whole on a simplex, angles on a torus. Then densities are per steradian, area or radian, and samples are places,
    parts and angles again. What was taken as latitude, and in which unit, is said.

    Several Parquet files or a folder of them are one long table, which need not fit into memory: a sample of at most
    250,000 rows is what everything is learnt from and chosen by, and the training sees all the others too.

    While it works it keeps what it has learnt in MODEL.run, beside the model. After a crash, Ctrl-C or SIGTERM
    `isthmus fit --resume MODEL.run` goes on from there and ends with the same model.

    With --force the model in an existing folder is replaced, and an unfinished fit of it given up; of the folder only
    the files of the model are, whatever else you keep in it stays. A folder that is no model is never written to.

    With --max-time everything from reading the table to the report is to be done by then: short trials are left out
    first, training takes what is left, and density, checks and report make do with fewer rows.
    """
    started, overrides = time.monotonic(), _overrides(latent_dim, seed, max_time, devices)
    reading = {"missing": missing or [], "decimal": decimal, "max_unpacked": max_unpacked}
    where: dict[str, Any] = {"surface": surface, "columns": columns or [], "unit": unit, "project": project}
    if target:
        note("isthmus: --target is called --given, as in sample; the old name is understood for now")
        given = [*(given or []), *target]
    if resume is not None:
        beside: dict[str, Any] = {"TABLE": table, "-o": output, "--given": given, "--recipe": recipe, "--set": settings}
        beside |= {"--no-report": no_report, "--stream": stream, "--missing": missing, "--decimal": decimal}
        beside |= {"--max-unpacked": max_unpacked is not None, **{f"--{name}": value for name, value in where.items()}}
        _refuse_beside_resume([*overrides, *(name for name, value in beside.items() if value)], resume)
        _check_table(resume)
    elif table and output is not None:
        check_model_output(output, [*table, *([recipe] if recipe else [])], force=force)
        _asked(**where)
        command = {"given": given or [], "force": force, "report": not no_report, **reading, **where}
        tables = table if is_long(table, stream=stream) else table[0]
        run_dir = _begin(tables, output, _recipe(recipe, [*(settings or []), *overrides]), command)
    else:
        raise InputError("expected TABLE and -o MODEL, or --resume MODEL.run; got less; see isthmus fit --help")
    _go_on(resume or run_dir, as_json=as_json, new=resume is None, force=force, started=started)


def _overrides(latent_dim: str | None, seed: int | None, max_time: str | None, devices: int | None) -> list[str]:
    """Return the settings of the recipe that have an option of their own, as `--set` takes them."""
    options = {
        "flow.latent_dim": _latent_dim(latent_dim),
        "seed": seed,
        "training.max_time": seconds(max_time),
        "training.devices": devices,
    }
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def _begin(table: str | list[str], output: Path, recipe: "Recipe", command: Mapping[str, Any]) -> Path:
    """Make the folder of a run; a table on standard input, or a pipe, is kept in it, since it comes only once."""
    from isthmus import runs
    from isthmus.pipes import is_pipe, read_pipe

    run_dir, files = runs.beside(output), {"recipe.yaml": recipe.dump(whole=False).encode()}
    path: str | list[str] | None = None
    if isinstance(table, list):
        path = [os.path.abspath(name) for name in table]
    elif table == "-" or is_pipe(table):
        files["table.csv"] = sys.stdin.buffer.read() if table == "-" else read_pipe(table)
    else:
        path = os.path.abspath(table)
    about: dict[str, Any] = {"arguments": list(ARGUMENTS.get()), "table": path, "sha256": path and _sha256(path)}
    runs.begin(run_dir, runs.Command(**command, **about), files)
    return run_dir


def _sha256(path: str | list[str]) -> str | None:
    """Hash a file, or of a long table its fingerprint; None where there is no file, which the reader reports better."""
    if isinstance(path, list):
        from isthmus.data.tables import Parquet

        return hashlib.sha256(repr(Parquet.open(*path).fingerprint()).encode()).hexdigest()
    from isthmus.data.tables import holds_images, image_files

    if holds_images(path):
        files = [(str(file), _sha256(str(file))) for file, _ in image_files(Path(path))]
        return hashlib.sha256(repr(files).encode()).hexdigest()
    if not os.path.isfile(path):  # a pipe in its place would be waited for
        return None
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _refuse_beside_resume(given: Sequence[str], run_dir: Path) -> None:
    if given:
        raise InputError(
            f"expected only --json, --quiet and --force beside --resume, since {run_dir} has the rest; got "
            f"{', '.join(given)}; leave it out"
        )


def _check_table(run_dir: Path) -> None:
    """Refuse to go on with a table that is gone or another one than in the beginning."""
    from isthmus import runs

    command = runs.command_of(run_dir)
    path = command.table
    if path is None:
        return
    found = _sha256(path)
    if found != command.sha256:
        got = "no such file" if found is None else "a changed one"
        raise InputError(f"expected the table that the fit began with, {path}; got {got}; put it back, nothing is lost")


def _go_on(run_dir: Path, *, as_json: bool, new: bool, force: bool, started: float) -> None:
    """Fit what the folder of a run says, write the model, and remove the folder; replace a model only if told now."""
    from isthmus import runs
    from isthmus.deadline import Deadline
    from isthmus.recipe import Recipe
    from isthmus.store import check_output, holds, save

    folder, command = runs.model_of(run_dir), runs.command_of(run_dir)
    with runs.going_on(run_dir, new=new, force=force or command.force):
        if not runs.read_record(run_dir).saving:  # else a model that is there may be what comes of this run
            check_output(folder, force=force)
        recipe = Recipe.read(run_dir / "recipe.yaml")
        deadline = Deadline(recipe.training.max_time, started=started)
        fitted, frame = _fitted(run_dir, command, recipe, deadline, as_json=as_json)
        runs.note(run_dir, saving=True)
        if not holds(folder, fitted):
            save(fitted, folder, force=force)
        runs.end(run_dir)
    reported = command.report and _allows_report(deadline)
    if reported:
        with contextlib.suppress(KeyboardInterrupt), busy("writing the report; Ctrl-C leaves it out"):
            _write_pages(fitted, frame, folder, deadline)
    if as_json:
        keys = ("seconds", "steps", "latent_dim", "beta", "validation", "health")
        figures = fitted.figures.plain()
        screens.print_json({"model": str(folder), **{key: figures[key] for key in keys}})
    else:
        about = "report.html in it says whether to trust it" if reported else ""
        stream = fitted.figures.stream
        remark = f"of which {len(frame):,} were sampled to choose by" if stream else ""
        rows = ("rows", f"{stream.rows if stream else len(frame):,}", remark)
        screens.print_rows([("model", str(folder), about), rows, *screens.of_fit(fitted, frame.shape[1])])
        verdicts = fitted.figures.health.verdicts
        say(*(f"isthmus: {v.status}: {v.sentence}" for v in verdicts if v.status != "ok"))


def _write_pages(fitted: "Fitted", frame: Any, folder: Path, deadline: "Deadline") -> None:
    """Write the report, and of images the grids, into the folder of a new model; a user's file of such a name stays."""
    from isthmus import grids, report
    from isthmus.store.pages import foreign_pages

    kept = foreign_pages(folder)
    say(*(f"isthmus: {path} is there and not of isthmus: it was left as it is" for path in kept))
    page, pictures = folder / "report.html", fitted.schema and fitted.schema.image and fitted.schema.image[0] in (1, 3)
    if pictures and not any(path.suffix == ".png" for path in kept):
        grids.write(fitted, frame, folder)
    if page not in kept:
        report.write(fitted, page, frame, folder=folder, deadline=deadline)


def _allows_report(deadline: "Deadline") -> bool:
    """Tell whether there is time for a report; if not, say how to write it later."""
    if deadline.seconds is None or deadline.left() > max(_REPORT_SECONDS, _REPORT_SHARE * deadline.seconds):
        return True
    note("isthmus: no report was written, the time is up; isthmus report MODEL TABLE writes it")
    return False


def _fitted(
    run_dir: Path, command: "Command", recipe: "Recipe", deadline: "Deadline", *, as_json: bool
) -> "tuple[Fitted, Any]":
    """Fit the table of a run; return the fit and the table, of a long one the sample."""
    from isthmus.data.tables import Parquet, Stream
    from isthmus.fitting import fit as fit_rows

    table = command.table or run_dir / "table.csv"
    rows: Any
    given: list[str] = []
    if isinstance(table, list):
        files = Parquet.open(*table, max_unpacked=unpacked_bound(command.max_unpacked))
        with busy(f"drawing a sample of {len(files):,} rows"):
            surface = _surface_of(command, files.columns)
            rows, notes = Stream.learn(files, _names(command.given, files.columns), surface, seed=recipe.seed)
        note(*notes)
        surface = None
    else:
        rows = read(table, command.max_unpacked, command.missing, command.decimal)
        given = _names(command.given, list(rows.columns))
        surface = _surface_of(command, list(rows.columns))
    bar = sys.stderr.isatty() and not as_json and not QUIET.get()
    fitted = fit_rows(
        rows, given=given, surface=surface, recipe=recipe, progress=bar, run_dir=run_dir, deadline=deadline
    )
    figures = fitted.figures.but(command=f"isthmus {shlex.join(command.arguments)}")
    fitted = dataclasses.replace(fitted, figures=figures)
    return fitted, rows.schema.decode(rows.X, rows.C) if isinstance(rows, Stream) else rows


def _asked(surface: str | None, columns: Sequence[str], unit: str | None, *, project: bool) -> "Coordinates | None":
    from isthmus.data.tables import Coordinates

    return Coordinates.asked(surface, columns, unit, project=project)


def _surface_of(command: "Command", columns: Sequence[str]) -> "Coordinates | None":
    """Return the surface that a command asks for, in a table of these columns."""
    return _asked(command.surface, _names(command.columns, columns), command.unit, project=command.project)


def _recipe(path: Path | None, settings: Sequence[str]) -> "Recipe":
    from isthmus.recipe import Recipe

    recipe = Recipe.read(path, settings) if path else Recipe.parse("", settings)
    if recipe.flow.latent_dim != "auto":
        _latent_dim(str(recipe.flow.latent_dim))
    recipe.check_machine()
    return recipe


def _latent_dim(text: str | None) -> str | None:
    if text is None or text == "auto" or (text.isascii() and text.isdigit() and int(text) > 0):
        return text
    raise InputError(f"expected a latent dimension of at least 1, or auto; got {text!r}; choose another")


def _names(texts: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Split names at commas; where columns have commas in their names, take each time the longest name there is."""
    names, known = [], set(columns)
    for text in texts:
        pieces = text.split(",")
        while pieces:
            lengths = range(len(pieces), 0, -1)
            length = next((length for length in lengths if ",".join(pieces[:length]) in known), 1)
            names.append(",".join(pieces[:length]))
            pieces = pieces[length:]
    return names
