"""The command line: a table and a model in, a table or figures out.

Results go to standard output or to a file, everything else to standard error, and progress only to a terminal. What is
wrong with the input is said in one line, with exit code 2 and nothing written; an error of the program is a traceback
with exit code 1. Whatever is slow to import is imported by the verb that needs it.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isthmus import screens
from isthmus.errors import InputError

if TYPE_CHECKING:
    from isthmus.recipe import Recipe
    from isthmus.store import Fitted

__all__ = ["app", "main"]

_ARGUMENTS: ContextVar[tuple[str, ...]] = ContextVar("arguments", default=())  # of the running command line
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}

app = typer.Typer(
    help="Learn the manifold that a table lies on, and the probability density on it.",
    epilog="A TABLE is a .csv, .tsv, .parquet, .feather, .npy or .npz file, or - for CSV on standard input.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `isthmus fit` wrote.")]
Table = Annotated[str, typer.Argument(metavar="TABLE", help="Table with the columns of the fit; - for standard input.")]
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
    bool, typer.Option("--stream", help="Never have all rows in memory; so it is for several files, or a folder.")
]
Engine = Annotated[
    str,
    typer.Option(metavar="local|ray", help="With ray, the parts of a stream by many processes or machines."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 where the model does not reconstruct its data.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the random draw.", min=0, max=2**32 - 1)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: those of the command line if not given.

    Returns:
        The exit code: 0; 1 where `--strict` finds a model untrusted; 2 for bad input or usage; 130 after Ctrl-C; 141
        where the reader of a pipe has gone.

    Example:
        >>> main(["list", "flows"])  # doctest: +ELLIPSIS
        freeform     A flow of any two modules, neither of them invertible, made inverse to one another by training.
        ...
        0
    """
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except (InputError, typer.TyperException) as error:
        return _fail(error)
    except BrokenPipeError:
        sys.stdout = None  # what is left in its buffer cannot be written at exit
        return 141
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise  # only Lightning's is Ctrl-C in disguise
        way_on = str(stop) if isinstance(stop, KeyboardInterrupt) else ""
        _say(f"isthmus: interrupted; {way_on or 'nothing was written'}")
        return 130


def _run(arguments: Sequence[str]) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while waiting crawl on a busy machine
    _ARGUMENTS.set(tuple(arguments))
    command = typer.main.get_command(app)
    try:
        with command.make_context("isthmus", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    else:
        return 0
    finally:
        sys.stdout.flush()


@app.callback()
def _options(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if show_version:
        sys.stdout.write(f"isthmus {version('isthmus')}\n")
        raise typer.Exit


@app.command(epilog="Example: isthmus fit measurements.csv -o model --latent-dim 5 --max-time 10m")
def fit(
    table: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TABLE", help="Rows to learn from; - for CSV on standard input. Or Parquet files or folders."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="MODEL", help="Folder to write the model to.")
    ] = None,
    latent_dim: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Dimensions of the manifold; auto estimates them.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COL[,COL]", help="Columns to condition on; the others are learnt given these. Repeatable."
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings in YAML.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting of the recipe. Repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of everything that is random in the fit.")] = None,
    max_time: Annotated[str | None, typer.Option(metavar="TIME", help="Longest training: 90s, 5m or 1h.")] = None,
    stream: AsStream = False,
    devices: Annotated[
        int | None, typer.Option(metavar="N", help="Accelerators, or processes of the CPU, to train on.", min=1)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a model, or an unfinished fit, that is already there.")
    ] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.html into the folder.")] = False,
    resume: Annotated[
        Path | None, typer.Option(metavar="MODEL.run", help="Go on with an interrupted fit; takes no TABLE.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Learn a model from a table and write it to a folder.

    Text, booleans, times and missing values are turned into numbers, constant columns are left out; what was done is
    said, and undone by the other verbs. A tenth of the rows is held out to choose by.

    Several Parquet files or a folder are one long table, which need not fit into memory: a sample of at most 250,000
    rows is what everything is learnt from and chosen by, and the training sees all the others too.

    While it works it keeps what it has learnt in MODEL.run, beside the model. After a crash or Ctrl-C
    `isthmus fit --resume MODEL.run` goes on from there and ends with the same model.
    """
    options = {
        "flow.latent_dim": _latent_dim(latent_dim),
        "seed": seed,
        "training.max_time": _seconds(max_time),
        "training.devices": devices,
    }
    overrides = [f"{key}={value}" for key, value in options.items() if value is not None]
    if resume is not None:
        others = {"TABLE": table, "-o": output, "--target": target, "--recipe": recipe, "--set": settings}
        flags = {"--force": force, "--no-report": no_report, "--stream": stream}
        _refuse_beside_resume([*overrides, *(name for name, value in (others | flags).items() if value)], resume)
        _check_table(resume)
        _go_on(resume, as_json=as_json, new=False)
    elif not table or output is None:
        raise InputError("expected TABLE and -o MODEL, or --resume MODEL.run; got less; see isthmus fit --help")
    else:
        text = _recipe(recipe, [*(settings or []), *overrides]).dump()
        command = {"targets": target or [], "force": force, "report": not no_report}
        tables = table if _is_long(table, stream=stream) else table[0]
        _go_on(_begin(tables, output, text, command), as_json=as_json, new=True)


def _begin(table: str | list[str], output: Path, recipe: str, command: Mapping[str, Any]) -> Path:
    """Make the folder of a run; a table on standard input is kept in it, since it comes only once."""
    from isthmus import runs
    from isthmus.store import check_output

    check_output(output, force=bool(command["force"]))
    run_dir, files = runs.beside(output), {"recipe.yaml": recipe.encode()}
    if table == "-":
        files["table.csv"] = sys.stdin.buffer.read()
    if isinstance(table, list):
        path: str | list[str] | None = [os.path.abspath(name) for name in table]
    else:
        path = None if table == "-" else os.path.abspath(table)
    about = {"arguments": _ARGUMENTS.get(), "table": path, "sha256": path and _sha256(path)}
    runs.begin(run_dir, {**command, **about}, files, force=bool(command["force"]))
    return run_dir


def _sha256(path: str | list[str]) -> str | None:
    """Of a file; None where there is none, which whoever reads it says better. Of a long table, of what tells it."""
    if isinstance(path, list):
        from isthmus.data.tables import Parquet

        return hashlib.sha256(repr(Parquet.open(*path).fingerprint()).encode()).hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _refuse_beside_resume(given: Sequence[str], run_dir: Path) -> None:
    if given:
        raise InputError(
            f"expected only --json beside --resume, since {run_dir} has the rest; got {', '.join(given)}; leave it out"
        )


def _check_table(run_dir: Path) -> None:
    """Refuse to go on with a table that is gone or another one than in the beginning."""
    from isthmus import runs

    runs.model_of(run_dir)
    command = runs.read_record(run_dir)["command"]
    path = command["table"]
    if path is None:
        return
    found = _sha256(path)
    if found != command["sha256"]:
        got = "no such file" if found is None else "a changed one"
        raise InputError(f"expected the table that the fit began with, {path}; got {got}; put it back, nothing is lost")


def _go_on(run_dir: Path, *, as_json: bool, new: bool) -> None:
    """Fit what the folder of a run says, write the model, and remove the folder."""
    from isthmus import runs
    from isthmus.store import check_output, save

    folder = runs.model_of(run_dir)
    with runs.going_on(run_dir, new=new):
        record = runs.read_record(run_dir)
        command = record["command"]
        force = command["force"] or "saving" in record  # then a model that is there is this run's own
        check_output(folder, force=force)
        fitted, frame = _fitted(run_dir, command, as_json=as_json)
        runs.note(run_dir, saving=True)
        save(fitted, folder, force=force)
        runs.end(run_dir)
    if command["report"]:
        from isthmus import report

        with contextlib.suppress(KeyboardInterrupt), _busy("writing the report; Ctrl-C leaves it out"):
            report.write(fitted, folder / "report.html", frame, folder=folder)
    if as_json:
        keys = ("seconds", "steps", "latent_dim", "beta", "validation", "health")
        screens.print_json({"model": str(folder), **{key: fitted.metrics[key] for key in keys}})
    else:
        about = "report.html in it says whether to trust it" if command["report"] else ""
        stream = fitted.metrics.get("stream", {"rows": len(frame)})
        remark = f"of which {len(frame):,} were sampled to choose by" if "sampled" in stream else ""
        rows = ("rows", f"{stream['rows']:,}", remark)
        screens.print_rows([("model", str(folder), about), rows, *screens.of_fit(fitted, frame.shape[1])])
        verdicts = fitted.metrics["health"]["verdicts"]
        _say(*(f"isthmus: {v['status']}: {v['sentence']}" for v in verdicts if v["status"] != "ok"))


def _fitted(run_dir: Path, command: Mapping[str, Any], *, as_json: bool) -> "tuple[Fitted, Any]":
    """The fit of a run, and its table; of a long one, the sample."""
    from isthmus.data.tables import Parquet, Schema, Stream, read_table
    from isthmus.recipe import Recipe

    recipe, table = Recipe.read(run_dir / "recipe.yaml"), command["table"] or run_dir / "table.csv"
    rows: Any
    if isinstance(table, list):
        files = Parquet.open(*table)
        with _busy(f"drawing a sample of {len(files):,} rows"):
            stream, notes = Stream.learn(files, _targets(command["targets"], files.columns), seed=recipe.seed)
        schema, rows, frame = stream.schema, (stream,), None
    else:
        frame = read_table(table)
        schema, notes = Schema.learn(frame, _targets(command["targets"], list(frame.columns)))
        rows = schema.encode(frame)
    from isthmus.fitting import fit as fit_matrix

    terminal = sys.stderr.isatty()
    if terminal:
        _say(*notes)
    fitted = fit_matrix(*rows, recipe=recipe, progress=terminal and not as_json, run_dir=run_dir)
    if not terminal:  # a log gets the notes of a fit that came off; of another one line, what is wrong
        _say(*notes)
    fitted.metrics["command"] = f"isthmus {shlex.join(command['arguments'])}"
    return dataclasses.replace(fitted, schema=schema), stream.schema.decode(
        stream.X, stream.C
    ) if frame is None else frame


@app.command(epilog="Example: isthmus score model new.csv -o scores.csv, or: isthmus score model big -o scores")
def score(
    model: ModelFolder,
    table: Tables,
    output: PartsOut = None,
    density: Annotated[
        str,
        typer.Option(
            metavar="ambient|linearised|manifold",
            help="Density of the row, by importance sampling or (faster) along the decoder's tangent; or of its "
            "reconstruction on the manifold.",
        ),
    ] = "linearised",
    stream: AsStream = False,
    engine: Engine = "local",
    strict: Strict = False,
) -> None:
    """Log density and reconstruction error of each row.

    Columns log_density, in nats and in the table's own units, and reconstruction_error, the squared distance to the
    reconstruction on standardised columns; in the order of the rows. Where the model does not reconstruct its own data
    a column untrusted says why its log densities mean little.

    Several Parquet files or a folder are one long table, which need not fit into memory: its scores are written to a
    folder in parts, in the order of the rows. What is there already is kept, so an interrupted run can go on.
    """
    from isthmus import scoring

    if density not in scoring.DENSITIES:  # before the model is read
        raise InputError(
            f"expected a density among {', '.join(scoring.DENSITIES)}; got {density!r}; choose one of them"
        )
    if _is_long(table, stream=stream or engine != "local"):
        fitted = _write_parts(model, table, output, engine, verb="score", density=density)
    else:
        fitted, frame = _load(model, output), _read(table[0])
        with _busy(f"scoring {len(frame):,} rows"):
            scores = scoring.score(fitted, frame, density=density)
        _write(scores, output)
    _warn_untrusted(scoring.untrusted(fitted), strict=strict)


@app.command(epilog="Example: isthmus sample model -n 1000 --given species=setosa -o samples.csv")
def sample(
    model: ModelFolder,
    n: Annotated[int, typer.Option("-n", "--rows", metavar="N", help="Number of rows.", min=1)],
    output: TableOut = None,
    given: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Value of a column that the model is conditioned on. Repeatable."),
    ] = None,
    no_noise: Annotated[
        bool, typer.Option("--no-noise", help="Points on the manifold, without the noise off it.")
    ] = False,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="Scale of codes and noise; below 1 samples are more typical.", min=0.0)
    ] = 1.0,
    seed: Seed = 0,
) -> None:
    """Draw new rows from a model.

    They have the columns of the table that the model was fitted to; columns of whole numbers stay whole, and within the
    range that was seen.
    """
    from isthmus import scoring

    values = _given(given or [])
    fitted = _load(model, output)
    with _busy(f"drawing {n:,} rows"):
        rows = scoring.sample(fitted, n, given=values, noise=not no_noise, temperature=temperature, seed=seed)
    _write(rows, output)


@app.command(epilog="Example: isthmus encode model new.csv -o codes.csv")
def encode(
    model: ModelFolder, table: Tables, output: PartsOut = None, stream: AsStream = False, engine: Engine = "local"
) -> None:
    """The code of each row, its place on the manifold.

    Columns z0, z1, ..., and after them the columns that the model is conditioned on, if any. Several Parquet files or a
    folder are encoded in parts, see score.
    """
    from isthmus import scoring

    if _is_long(table, stream=stream or engine != "local"):
        _write_parts(model, table, output, engine, verb="encode")
    else:
        _write(scoring.encode(_load(model, output), _read(table[0])), output)


@app.command(epilog="Example: isthmus decode model codes.csv -o rows.csv")
def decode(
    model: ModelFolder,
    codes: Annotated[
        str, typer.Argument(metavar="CODES", help="Table that `isthmus encode` wrote; - for standard input.")
    ],
    output: TableOut = None,
) -> None:
    """The rows that codes stand for.

    CODES has the columns z0, z1, ..., and those that the model is conditioned on; the rows have the columns of the
    table that the model was fitted to.
    """
    from isthmus import scoring

    _write(scoring.decode(_load(model, output), _read(codes)), output)


@app.command(epilog="Example: isthmus evaluate model held_out.csv --json")
def evaluate(model: ModelFolder, table: Table, as_json: AsJson = False, strict: Strict = False) -> None:
    """How well a model fits rows, best rows that it has not seen.

    Log densities are in nats and in the table's own units. The reconstruction error, and the distances between the rows
    and as many samples, are measured on columns standardised as the model does it. Above 5,000 rows the
    importance-sampled density is computed on 2,000 of them.
    """
    from isthmus import scoring

    fitted, frame = _load(model), _read(table)
    with _busy(f"evaluating {len(frame):,} rows"):
        figures = scoring.evaluate(fitted, frame)
    if as_json:
        screens.print_json(figures)
    else:
        screens.print_rows(screens.of_evaluation(figures))
    warning = scoring.distrust(figures)
    if warning:
        _say(f"isthmus: warning: {warning}")
    _warn_untrusted(figures["untrusted"], strict=strict)


@app.command("report", epilog="Example: isthmus report model held_out.csv -o report.html")
def report_model(
    model: ModelFolder,
    table: Annotated[str | None, typer.Argument(metavar="[TABLE]", help="Rows to judge it on; - for CSV.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="By default report.html in MODEL.")
    ] = None,
    image: Annotated[str | None, typer.Option(metavar="HxW", help="Draw rows as images of this size.")] = None,
) -> None:
    """One HTML page on a model: whether it can be trusted, what was learned, and figures.

    Without a TABLE it shows what the model itself tells; a TABLE adds comparisons with rows and with simpler models.
    """
    from isthmus import report

    fitted, frame, page = _load(model), None if table is None else _read(table), output or model / "report.html"
    with _busy("writing the report"):
        report.write(fitted, page, frame, folder=model, arguments=_ARGUMENTS.get(), image=image)
    screens.print_rows([("report", str(page), "")])


@app.command("explore", epilog="Example: isthmus explore model held_out.csv")
def explore_model(
    model: ModelFolder,
    table: Annotated[str | None, typer.Argument(metavar="[TABLE]", help="Rows to show; - for CSV.")] = None,
    image: Annotated[str | None, typer.Option(metavar="CxHxW", help="Show rows as images of this size.")] = None,
    rows: Annotated[
        int | None, typer.Option(metavar="N", help="Most rows shown; by default 2000, fewer of wide tables.", min=1)
    ] = None,
    port: Annotated[int, typer.Option(metavar="N", help="To listen on; by default a free one.", min=0, max=65535)] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address of the page.")] = False,
) -> None:
    """A local page to look at rows, their codes and neighbours, and to move through the latent space.

    Without a TABLE it shows samples of the model. The page is for this machine only and needs nothing from outside;
    its address holds a password, so pass it on to no one. Ctrl-C ends it.
    """
    from isthmus import explorer

    server = explorer.server_class()
    fitted, frame = _load(model), None if table is None else _read(table)
    with _busy("scoring rows; --rows N takes fewer"):
        exploration = explorer.explore(fitted, frame, image=image, most_rows=rows)
    page = server(exploration, name=model.resolve().name, port=port)
    sys.stdout.write(f"{page.url}\n")
    sys.stdout.flush()
    _say("Ctrl-C ends it")
    page.run(browser=not no_browser)


@app.command("inspect", epilog="Example: isthmus inspect model")
def inspect_model(model: ModelFolder, as_json: AsJson = False) -> None:
    """What a model is, and how it came about."""
    record = screens.description(model, _load(model))
    if as_json:
        screens.print_json(record)
        return
    screens.print_rows(screens.of_description(record))
    sys.stdout.write(f"\nrecipe\n{screens.indented(record['recipe'])}")


@app.command("list", epilog="Example: isthmus list networks")
def list_names(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[WHAT]", help="flows, objectives, networks, latents, datasets or metrics; all if not given."
        ),
    ] = None,
) -> None:
    """The names that recipes and functions know."""
    registries = _registries()
    if what and what not in registries:
        raise InputError(f"expected one of {', '.join(registries)}; got {what!r}; choose one, or none for all")
    for title in [what] if what else registries:
        rows = [(name, _first_sentence(entry)) for name, entry in registries[title].items()]
        heading = "" if what else f"{title}\n"
        lines = [f"{'' if what else '  '}{name:<{max(12, *(len(n) for n, _ in rows))}} {text}\n" for name, text in rows]
        sys.stdout.write(heading + "".join(lines))


def _warn_untrusted(reason: str | None, *, strict: bool) -> None:
    if reason is None:
        return
    _say(f"isthmus: warning: these likelihoods cannot be trusted: {reason}")
    if strict:
        raise typer.Exit(1)


def _recipe(path: Path | None, settings: Sequence[str]) -> "Recipe":
    from isthmus.recipe import Recipe

    recipe = Recipe.read(path, settings) if path else Recipe.parse("", settings)
    if recipe.flow.latent_dim != "auto":
        _latent_dim(str(recipe.flow.latent_dim))
    return recipe


def _latent_dim(text: str | None) -> str | None:
    if text is None or text == "auto" or (text.isascii() and text.isdigit() and int(text) > 0):
        return text
    raise InputError(f"expected a latent dimension of at least 1, or auto; got {text!r}; choose another")


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise InputError(f"expected a time such as 90s, 5m or 1h; got {text!r}; write a number and its unit")
    return float(match[1]) * _SECONDS[match[2]]


def _targets(texts: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Names separated by commas, unless the whole text is a name."""
    return [name for text in texts for name in ([text] if text in columns else text.split(","))]


def _given(texts: Sequence[str]) -> dict[str, Any]:
    """`name=value` pairs; an empty value is a missing one."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, separator, _) in zip(texts, pairs, strict=True):
        if not (name and separator):
            raise InputError(f"expected name=value; got {text!r}; write for example --given species=setosa")
    return {name: value or None for name, _, value in pairs}


def _load(model: Path, output: str | None = None) -> "Fitted":
    """The model, after a look at whether the output can be written, so that no work is done in vain."""
    from isthmus.data.tables import FORMATS
    from isthmus.store import load

    if output not in (None, "-"):
        if not str(output).lower().endswith(tuple(FORMATS)):
            raise InputError(f"expected an output that ends in {', '.join(FORMATS)}; got {output}; rename it")
        if not os.path.isdir(os.path.dirname(str(output)) or "."):
            raise InputError(f"expected an existing folder for {output}; got none; create it first")
    return load(model)


def _read(table: str) -> Any:
    from isthmus.data.tables import read_table

    return read_table(table)


def _is_long(tables: Sequence[str], *, stream: bool) -> bool:
    """Whether a table is to be read as a stream: several files, a folder, a pattern, or one file on demand."""
    only = tables[0]
    return (
        stream or len(tables) > 1 or os.path.isdir(only) or (not os.path.exists(only) and bool(set(only) & set("*?[")))
    )


def _write_parts(model: Path, tables: Sequence[str], output: str | None, engine: str, **what: Any) -> "Fitted":
    """Scores or codes of a long table, in parts; returns the model."""
    from isthmus.data.tables import FORMATS, Parquet
    from isthmus.parts import ENGINES, Parts
    from isthmus.store import load

    if engine not in ENGINES:
        raise InputError(f"expected an engine among {', '.join(ENGINES)}; got {engine!r}; choose one of them")
    if output in (None, "-") or str(output).lower().endswith(tuple(FORMATS)):
        raise InputError(f"expected a folder to write parts to; got {output}; give a name such as -o {what['verb']}s")
    if not os.path.isdir(os.path.dirname(os.path.normpath(str(output))) or "."):
        raise InputError(f"expected an existing folder for {output}; got none; create it first")
    parts = Parts(load(model), Parquet.open(*tables), Path(str(output)), **what)
    there = len(parts) - len(parts.missing())
    with _busy(f"{len(parts.table):,} rows in {len(parts)} parts, {there} of them there already") as say:
        for done, _ in enumerate(parts.write(engine), there + 1):
            say(f"{len(parts.table):,} rows: {done} of {len(parts)} parts")
    return parts.fitted


def _write(frame: Any, output: str | None) -> None:
    from isthmus.data.tables import write_table

    write_table(frame, output)


def _registries() -> dict[str, Mapping[str, Any]]:
    from isthmus.data import DATASETS
    from isthmus.flows import FLOWS
    from isthmus.latents import LATENTS
    from isthmus.metrics import METRICS
    from isthmus.networks import NETWORKS
    from isthmus.objective import OBJECTIVES

    return {
        "flows": FLOWS,
        "objectives": OBJECTIVES,
        "networks": NETWORKS,
        "latents": LATENTS,
        "datasets": DATASETS,
        "metrics": {name: metric.function for name, metric in METRICS.items()},
    }


def _first_sentence(entry: Any) -> str:
    return (inspect.getdoc(entry) or "").partition("\n")[0]


def _fail(error: Exception) -> int:
    text = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    if "\n" in text and text.startswith("Usage:"):  # no arguments: the help, as it is
        _say(text)
    else:
        _say(f"isthmus: error: {' '.join(text.split())}")
    return 2


def _say(*lines: str) -> None:
    sys.stderr.writelines(f"{line}\n" for line in lines)


@contextlib.contextmanager
def _busy(what: str) -> Iterator[Callable[[str], Any]]:
    """A line on the terminal while something takes long; what it yields changes the line."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield status.update


if __name__ == "__main__":
    sys.exit(main())
