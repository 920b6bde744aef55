"""The verbs that turn rows into rows: `score`, `sample`, `encode`, `decode`."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isthmus.cli.common import (
    AsStream,
    Decimal,
    Engine,
    Force,
    MaxUnpacked,
    Missing,
    ModelFolder,
    PartsOut,
    Per,
    Quiet,
    Seed,
    Strict,
    TableOut,
    Tables,
    app,
    busy,
    is_long,
    load_model,
    note,
    read,
    unpacked_bound,
    warn_unscored,
    warn_untrusted,
    write,
)
from isthmus.errors import InputError

if TYPE_CHECKING:
    from isthmus.store import Fitted

__all__: list[str] = []  # verbs are typed, not called


@app.command(epilog="Example: isthmus score model new.csv -o scores.csv, or: isthmus score model big -o scores")
def score(
    model: ModelFolder,
    table: Tables,
    output: PartsOut = None,
    density: Annotated[
        str | None,
        typer.Option(
            metavar="ambient|linearised|manifold|own",
            help="Around a learned manifold the density of the row, by importance sampling or (faster, the default) "
            "along the decoder's tangent, or of its reconstruction on the manifold; of other flows their own.",
        ),
    ] = None,
    per: Per = None,
    stream: AsStream = False,
    engine: Engine = "local",
    missing: Missing = None,
    decimal: Decimal = "",
    max_unpacked: MaxUnpacked = None,
    force: Force = False,
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Log density and reconstruction error of each row.

    Columns log_density, in nats and in the table's own units, and reconstruction_error, the squared distance to the
    reconstruction on standardised columns; in the order of the rows. Where the model does not reconstruct its own data
    a column untrusted says why its log densities mean little. Of rows on a known surface (fit --surface) the unit is
    said on standard error; --per names another.

    A row with a gap, an unknown category or anything else that the fit has not prepared for has no scores, and a column
    note says why; the exit code is then 3. A row so far away that arithmetic overflows has minus infinity.

    Several Parquet files or a folder are one long table, which need not fit into memory: its scores are written to a
    folder in parts, in the order of the rows. What is there already is kept, so an interrupted run can go on.
    """
    from isthmus import scoring

    if is_long(table, stream=stream or engine != "local"):
        fitted, unscored = _write_parts(
            model, table, output, engine, max_unpacked, verb="score", density=density, per=per, strict=strict
        )
    else:
        fitted = load_model(model, output, table, force=force)
        frame = read(table[0], max_unpacked, missing, decimal, fitted.schema)
        with busy(f"scoring {len(frame):,} rows"):
            scores = scoring.score(fitted, frame, density=density, per=per, strict=strict)
        write(scores, output)
        unscored = scoring.unscored(scores)
    if fitted.schema is not None and fitted.schema.coordinates is not None:
        note(f"isthmus: log_density is in {fitted.density_unit(per).phrase}")
    warn_untrusted(scoring.untrusted(fitted), strict=strict)
    warn_unscored(unscored, "scores")


@app.command(epilog="Example: isthmus sample model -n 1000 --given species=setosa -o samples.csv")
def sample(
    model: ModelFolder,
    n: Annotated[int, typer.Option("-n", "--rows", metavar="N", help="Number of rows.", min=1)],
    output: TableOut = None,
    given: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Value of a column that the model is conditioned on. Repeatable."),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Noise or beta that the networks are told, where training drew it from a range. Repeatable.",
        ),
    ] = None,
    no_noise: Annotated[
        bool, typer.Option("--no-noise", help="Points on the manifold, without the noise off it.")
    ] = False,
    temperature: Annotated[
        float,
        typer.Option(
            metavar="T",
            help="Scale of codes about their modes, and of noise; below 1 samples are more typical.",
            min=0.0,
        ),
    ] = 1.0,
    truncation: Annotated[
        float, typer.Option(metavar="SHARE", help="Draw from this share of the codes, the likeliest, alone.")
    ] = 1.0,
    seed: Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Draw new rows from a model.

    They have the columns of the table that the model was fitted to; columns of whole numbers stay whole, and within the
    range that was seen.
    """
    from isthmus import scoring

    levels = _levels(at or [])
    fitted = load_model(model, output, force=force)
    values = _given(given or [], scoring.conditions(fitted))
    fitted = dataclasses.replace(fitted, model=fitted.model.at(**levels)) if levels else fitted
    with busy(f"drawing {n:,} rows"):
        how: dict[str, Any] = {"noise": not no_noise, "temperature": temperature, "truncation": truncation}
        rows = scoring.sample(fitted, n, given=values, seed=seed, **how)
    write(rows, output)


@app.command(epilog="Example: isthmus encode model new.csv -o codes.csv")
def encode(
    model: ModelFolder,
    table: Tables,
    output: PartsOut = None,
    stream: AsStream = False,
    engine: Engine = "local",
    strict: Strict = False,
    missing: Missing = None,
    decimal: Decimal = "",
    max_unpacked: MaxUnpacked = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """The code of each row, its place on the manifold.

    Columns z0, z1, ..., and after them the columns that the model is conditioned on, if any. A row that does not suit
    the model has no code, and a column note says why; the exit code is then 3. Several Parquet files or a folder are
    encoded in parts, see score.
    """
    from isthmus import scoring

    if is_long(table, stream=stream or engine != "local"):
        fitted, unscored = _write_parts(model, table, output, engine, max_unpacked, verb="encode", strict=strict)
    else:
        fitted = load_model(model, output, table, force=force)
        codes = scoring.encode(fitted, read(table[0], max_unpacked, missing, decimal, fitted.schema), strict=strict)
        write(codes, output)
        unscored = scoring.unscored(codes)
    warn_untrusted(scoring.untrusted(fitted), strict=strict, results="codes")
    warn_unscored(unscored, "codes")


@app.command(epilog="Example: isthmus decode model codes.csv -o rows.csv")
def decode(
    model: ModelFolder,
    codes: Annotated[
        str, typer.Argument(metavar="CODES", help="Table that `isthmus encode` wrote; - for standard input.")
    ],
    output: TableOut = None,
    strict: Strict = False,
    missing: Missing = None,
    decimal: Decimal = "",
    max_unpacked: MaxUnpacked = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """The rows that codes stand for.

    CODES has the columns z0, z1, ..., and those that the model is conditioned on; the rows have the columns of the
    table that the model was fitted to. A code with a gap, or so far away that arithmetic overflows, has an empty row,
    and a column note says why; the exit code is then 3.
    """
    from isthmus import scoring

    fitted = load_model(model, output, [codes], force=force)
    rows = scoring.decode(fitted, read(codes, max_unpacked, missing, decimal), strict=strict)
    write(rows, output)
    warn_untrusted(scoring.untrusted(fitted), strict=strict, results="rows")
    warn_unscored(scoring.undecoded(fitted, rows), "values")


def _given(texts: Sequence[str], names: Sequence[str] = ()) -> dict[str, Any]:
    """Parse `name=value`, by the longest of the names that fits, else at the first `=`; an empty value is missing."""
    given = {}
    for text in texts:
        known = max((name for name in names if text.startswith(f"{name}=")), key=len, default=None)
        name = text.partition("=")[0] if known is None else known
        if not text.startswith(f"{name}=") or (not name and known is None):
            raise InputError(f"expected name=value; got {text!r}; write for example --given species=setosa")
        if name in given:
            raise InputError(f"expected one value for {name!r}; got {text!r} too; leave one out")
        given[name] = text[len(name) + 1 :] or None
    return given


def _levels(texts: Sequence[str]) -> dict[str, float]:
    """Parse `name=number` pairs of noise and beta."""
    levels = {}
    for name, text in _given(texts).items():
        try:
            levels[name] = float(text)
        except (TypeError, ValueError) as error:
            raise InputError(f"expected a number as {name}; got {text!r}; write for example --at noise=0.1") from error
        if name not in ("noise", "beta"):
            raise InputError(f"expected noise or beta; got {name!r}; write for example --at noise=0.1")
    return levels


def _write_parts(
    model: Path, tables: Sequence[str], output: str | None, engine: str, max_unpacked: int | None, **what: Any
) -> "tuple[Fitted, int]":
    """Write scores or codes of a long table, in parts; return the model, and how many rows have none."""
    from isthmus.data.tables import FORMATS, Parquet
    from isthmus.parts import ENGINES, Parts
    from isthmus.store import load

    if engine not in ENGINES:
        raise InputError(f"expected an engine among {', '.join(ENGINES)}; got {engine!r}; choose one of them")
    if output in (None, "-") or str(output).lower().endswith(tuple(FORMATS)):
        raise InputError(f"expected a folder to write parts to; got {output}; give a name such as -o {what['verb']}s")
    if not os.path.isdir(os.path.dirname(os.path.normpath(str(output))) or "."):
        raise InputError(f"expected an existing folder for {output}; got none; create it first")
    rows = Parquet.open(*tables, max_unpacked=unpacked_bound(max_unpacked))
    parts = Parts(load(model), rows, Path(str(output)), **what)
    there = len(parts) - len(parts.missing())
    with busy(f"{len(parts.table):,} rows in {len(parts)} parts, {there} of them there already") as say:
        for done, _ in enumerate(parts.write(engine), there + 1):
            say(f"{len(parts.table):,} rows: {done} of {len(parts)} parts")
    return parts.fitted, parts.unscored()
