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
    Seed,
    Strict,
    TableOut,
    Tables,
    app,
    busy,
    is_long,
    load_model,
    read,
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
        str,
        typer.Option(
            metavar="ambient|linearised|manifold",
            help="Density of the row, by importance sampling or (faster) along the decoder's tangent; or of its "
            "reconstruction on the manifold.",
        ),
    ] = "linearised",
    stream: AsStream = False,
    engine: Engine = "local",
    missing: Missing = None,
    decimal: Decimal = "",
    max_unpacked: MaxUnpacked = None,
    force: Force = False,
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
    if is_long(table, stream=stream or engine != "local"):
        fitted = _write_parts(model, table, output, engine, verb="score", density=density)
    else:
        fitted = load_model(model, output, table, force=force)
        frame = read(table[0], max_unpacked, missing, decimal, fitted.schema)
        with busy(f"scoring {len(frame):,} rows"):
            scores = scoring.score(fitted, frame, density=density)
        write(scores, output)
    warn_untrusted(scoring.untrusted(fitted), strict=strict)


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
) -> None:
    """Draw new rows from a model.

    They have the columns of the table that the model was fitted to; columns of whole numbers stay whole, and within the
    range that was seen.
    """
    from isthmus import scoring

    values, levels = _given(given or []), _levels(at or [])
    fitted = load_model(model, output, force=force)
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
    missing: Missing = None,
    decimal: Decimal = "",
    max_unpacked: MaxUnpacked = None,
    force: Force = False,
) -> None:
    """The code of each row, its place on the manifold.

    Columns z0, z1, ..., and after them the columns that the model is conditioned on, if any. Several Parquet files or a
    folder are encoded in parts, see score.
    """
    from isthmus import scoring

    if is_long(table, stream=stream or engine != "local"):
        _write_parts(model, table, output, engine, verb="encode")
    else:
        fitted = load_model(model, output, table, force=force)
        write(scoring.encode(fitted, read(table[0], max_unpacked, missing, decimal, fitted.schema)), output)


@app.command(epilog="Example: isthmus decode model codes.csv -o rows.csv")
def decode(
    model: ModelFolder,
    codes: Annotated[
        str, typer.Argument(metavar="CODES", help="Table that `isthmus encode` wrote; - for standard input.")
    ],
    output: TableOut = None,
    missing: Missing = None,
    decimal: Decimal = "",
    max_unpacked: MaxUnpacked = None,
    force: Force = False,
) -> None:
    """The rows that codes stand for.

    CODES has the columns z0, z1, ..., and those that the model is conditioned on; the rows have the columns of the
    table that the model was fitted to.
    """
    from isthmus import scoring

    fitted = load_model(model, output, [codes], force=force)
    write(scoring.decode(fitted, read(codes, max_unpacked, missing, decimal)), output)


def _given(texts: Sequence[str]) -> dict[str, Any]:
    """`name=value` pairs; an empty value is a missing one."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, separator, _) in zip(texts, pairs, strict=True):
        if not (name and separator):
            raise InputError(f"expected name=value; got {text!r}; write for example --given species=setosa")
    return {name: value or None for name, _, value in pairs}


def _levels(texts: Sequence[str]) -> dict[str, float]:
    """`name=number` pairs of noise and beta."""
    levels = {}
    for name, text in _given(texts).items():
        try:
            levels[name] = float(text)
        except (TypeError, ValueError) as error:
            raise InputError(f"expected a number as {name}; got {text!r}; write for example --at noise=0.1") from error
        if name not in ("noise", "beta"):
            raise InputError(f"expected noise or beta; got {name!r}; write for example --at noise=0.1")
    return levels


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
    with busy(f"{len(parts.table):,} rows in {len(parts)} parts, {there} of them there already") as say:
        for done, _ in enumerate(parts.write(engine), there + 1):
            say(f"{len(parts.table):,} rows: {done} of {len(parts)} parts")
    return parts.fitted
