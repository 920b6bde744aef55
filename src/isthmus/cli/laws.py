"""The verbs that learn a law from a log density: `path` and `mixture-weights`."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isthmus import screens
from isthmus.cli.common import (
    ARGUMENTS,
    AsJson,
    Decimal,
    Force,
    MaxUnpacked,
    Missing,
    Quiet,
    Seed,
    TableOut,
    app,
    busy,
    check_table_output,
    note,
    read,
    say,
    seconds,
    write,
)
from isthmus.cli.outputs import check_outputs
from isthmus.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from isthmus.diagnostics import Health
    from isthmus.inference import PenaltyPath

__all__: list[str] = []  # verbs are typed, not called

_TRAINING_SHARE = 0.7  # of a limited time; the rest is for draws, verdicts and the page
_LAWS = 2  # the law, and another from another start

_Page = Annotated[Path | None, typer.Option("--report", metavar="FILE", help="HTML page to write, with pictures.")]
_Interval = Annotated[float, typer.Option(metavar="SHARE", help="Mass of the credible intervals.")]
_Steps = Annotated[int | None, typer.Option(metavar="N", help="Most steps of the training; by default 2000.", min=1)]
_MaxTime = Annotated[str | None, typer.Option(metavar="TIME", help="Longest time of the training: 90s, 5m or 1h.")]


@app.command(epilog="Example: isthmus path diabetes.csv --response progression --penalty l1 -o path.csv")
def path(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Table to regress on; - for standard input.")],
    response: Annotated[str, typer.Option(metavar="COL", help="Column of numbers to explain by the others.")],
    penalty: Annotated[
        str, typer.Option(metavar="l1|l2|lp:P|l1+l2:W|group", help="Penalty of the coefficients.")
    ] = "l1",
    output: TableOut = None,
    page: _Page = None,
    levels: Annotated[int, typer.Option(metavar="N", help="Levels of the penalty that are written.", min=2)] = 20,
    interval: _Interval = 0.9,
    sigma: Annotated[
        float | None,
        typer.Option(metavar="S", help="Standard deviation of the noise of the standardised response."),
    ] = None,
    measure: Annotated[
        str, typer.Option(metavar="surface|cone|coarea", help="What is called uniform on a level of the penalty.")
    ] = "surface",
    lowest: Annotated[
        float, typer.Option(metavar="SHARE", help="Lowest level, as a share of that of least squares.")
    ] = 0.05,
    seed: Seed = 0,
    steps: _Steps = None,
    max_time: _MaxTime = None,
    missing: Missing = None,
    decimal: Decimal = "",
    max_unpacked: MaxUnpacked = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The path of a penalised linear regression with intervals: LASSO (l1), ridge (l2), any power, groups.

    For each level t of the penalty, from --lowest up to that of least squares, the posterior of the
    coefficients whose penalty is t, all of them alike before the data. One row a level and column: mean, standard
    deviation and interval in units of the response a unit of the column; then of the level the log evidence in nats
    with its standard error, and the effective sample size as a share of the draws.

    lp:P takes the power P, such as lp:0.5. With group the features of one column of text are one group. l1+l2:W is W
    times the sum of sizes plus 1 - W times the length: what the elastic net's penalty, which has no path of one shape,
    is for.
    """
    from isthmus.data.tables import Regression
    from isthmus.inference import PenaltyPath

    started = time.monotonic()
    options = _penalty(penalty)
    _check(table, output, page, interval, force=force)
    regression = Regression.of(read(table, max_unpacked, missing, decimal), response)
    note(*regression.notes)
    options |= {"groups": regression.groups} if penalty == "group" else {}
    training = _training(steps, max_time, started)
    options |= {"sigma": "auto" if sigma is None else sigma, "measure": measure, "lowest": lowest, "training": training}
    estimator = PenaltyPath(**options, random_state=seed)
    with busy(f"learning the posterior of {len(regression.names)} coefficients at all levels"):
        estimator.fit(regression.X, regression.y)
    frame = _path_frame(estimator, regression.names, levels, interval, response, penalty, page)
    record: dict[str, Any] = {
        "response": response,
        "penalty": penalty,
        "level": estimator.level_,
        "highest_level": estimator.highest_,
        "sigma": estimator.sigma_,
        "intercept": estimator.intercept_,
        "coefficients": dict(zip(regression.names, estimator.coef_.tolist(), strict=True)),
    }
    shown = [
        ("level", f"{estimator.level_:.4g}", f"of the highest evidence; least squares has {estimator.highest_:.4g}"),
        *((name, f"{value:.4g}", "mean at this level") for name, value in record["coefficients"].items()),
    ]
    _tell(frame, output, page, record, shown, estimator.inference_.health, as_json=as_json)


@app.command("mixture-weights", epilog="Example: isthmus mixture-weights log_likelihoods.csv -o weights.csv")
def mixture_weights(
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="Log density of each row under each component, a column each.")
    ],
    output: TableOut = None,
    page: _Page = None,
    alpha: Annotated[
        str, typer.Option(metavar="A[,A...]", help="Concentration of the Dirichlet prior; below 1 few are favoured.")
    ] = "1",
    interval: _Interval = 0.9,
    seed: Seed = 0,
    steps: _Steps = None,
    max_time: _MaxTime = None,
    max_unpacked: MaxUnpacked = None,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The posterior of the weights of known components of a mixture: which share each has in the rows.

    The table has a row an observation and a column a component: the natural logarithm of the observation's density, or
    probability, under it. One row a component is written: mean, standard deviation and interval of its weight.
    """
    from isthmus.inference import MixtureWeights

    started = time.monotonic()
    _check(table, output, page, interval, force=force)
    frame = read(table, max_unpacked)
    names = [str(name) for name in frame.columns]
    training = _training(steps, max_time, started)
    estimator = MixtureWeights(_alpha(alpha), training=training, random_state=seed)
    with busy(f"learning the posterior of {len(names)} weights"):
        estimator.fit(_log_densities(frame))
    low, high = estimator.intervals(interval).T
    if page is not None:
        from isthmus.report import laws

        _write_page(page, laws.render_weights(estimator, names, interval=interval, commands=_commands()))
    columns = {"component": names, "mean": estimator.mean_, "deviation": estimator.deviation_, "low": low, "high": high}
    record: dict[str, Any] = {
        "log_evidence": estimator.log_evidence_,
        "standard_error": estimator.weights_.standard_error,
        "effective": estimator.weights_.effective,
        "weights": dict(zip(names, estimator.mean_.tolist(), strict=True)),
    }
    shown = [
        ("log evidence", f"{estimator.log_evidence_:.2f}", "nats"),
        *((name, f"{value:.4g}", "mean weight") for name, value in record["weights"].items()),
    ]
    _tell(_frame(columns), output, page, record, shown, estimator.inference_.health, as_json=as_json)


def _penalty(text: str) -> dict[str, Any]:
    """Return the options of `PenaltyPath` that a penalty stands for."""
    plain: dict[str, dict[str, Any]] = {"l1": {"p": 1.0}, "l2": {"p": 2.0}, "group": {}}
    if text in plain:
        return plain[text]
    kind, _, value = text.partition(":")
    names = {"lp": "p", "l1+l2": "share"}
    try:
        return {names[kind]: float(value)}
    except (KeyError, ValueError) as error:
        advice = (
            "the elastic net's path has no one shape, l1+l2:0.5 has" if kind.startswith("elastic") else "choose one"
        )
        raise InputError(f"expected a penalty l1, l2, lp:P, l1+l2:W or group; got {text!r}; {advice}") from error


def _alpha(text: str) -> float | list[float]:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise InputError(f"expected numbers as alpha; got {text!r}; write for example --alpha 0.5") from error
    return numbers[0] if len(numbers) == 1 else numbers


def _check(table: str, output: str | None, page: Path | None, interval: float, *, force: bool) -> None:
    """Refuse outputs that may not be written, and intervals of no mass, before any work is done."""
    if not 0 < interval < 1:
        raise InputError(f"expected an interval of a mass in (0, 1); got {interval}; try 0.9")
    check_table_output(output, [table], force=force)
    if page is not None:
        from isthmus.report.template import check_file

        check_file(page)
        check_outputs([page], [table], force=force)


def _training(steps: int | None, max_time: str | None, started: float) -> dict[str, Any]:
    """Return options of a training: each of the laws has its share of the time that is left."""
    limit = seconds(max_time)
    options: dict[str, Any] = {} if steps is None else {"max_steps": steps}
    if limit is None:
        return options
    left = limit - (time.monotonic() - started)
    return options | {"max_time": max(0.1, _TRAINING_SHARE * left / _LAWS)}


def _path_frame(
    estimator: "PenaltyPath",
    names: Sequence[str],
    count: int,
    interval: float,
    response: str,
    penalty: str,
    page: Path | None,
) -> "pd.DataFrame":
    """Return the path as a long table; write the page where one is asked for."""
    import numpy as np

    levels = np.linspace(estimator.lowest, 1.0, count) * estimator.highest_
    found = estimator.path(levels, interval=interval)
    if page is not None:
        from isthmus.report import laws

        how: dict[str, Any] = {"response": response, "penalty": penalty, "interval": interval}
        _write_page(page, laws.render_path(estimator, found, names, **how, commands=_commands()))
    coefficients = {name: getattr(found, name).ravel() for name in ("mean", "deviation", "low", "high")}
    of_level = {name: np.repeat(getattr(found, name), len(names)) for name in ("log_evidence", "standard_error")}
    places = {"level": np.repeat(levels, len(names)), "column": list(names) * count}
    return _frame({**places, **coefficients, **of_level, "effective": np.repeat(found.effective, len(names))})


def _frame(columns: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(columns)


def _log_densities(frame: "pd.DataFrame") -> Any:
    """Return a table of numbers as a matrix; what its numbers may be, `MixtureWeights` says."""
    other = [str(name) for name, kind in frame.dtypes.items() if kind.kind not in "fiu"]
    if other:
        raise InputError(f"expected columns of log densities; got {other[0]!r}, which has no numbers; leave it out")
    if len(frame.columns) < 2:
        raise InputError(
            f"expected a column for each of 2 or more components; got {len(frame.columns)}; add the others"
        )
    return frame.to_numpy(dtype="float64")


def _commands() -> list[str]:
    return [f"isthmus {shlex.join(ARGUMENTS.get())}"]


def _write_page(page: Path, text: str) -> None:
    from isthmus.report.template import write as write_page

    write_page(text, page)


def _tell(
    frame: "pd.DataFrame",
    output: str | None,
    page: Path | None,
    record: dict[str, Any],
    shown: Sequence[screens.Line],
    health: "Health",
    *,
    as_json: bool,
) -> None:
    """Write the table, or print the figures; say which verdicts are not well."""
    if output not in (None, "-") or not as_json:
        write(frame, output)
    if as_json:
        screens.print_json({**record, "health": health.as_dict()})
    elif output not in (None, "-"):
        files = [("table", str(output), f"{len(frame):,} rows"), *([("report", str(page), "")] if page else [])]
        screens.print_rows([*files, *shown])
    say(*(f"isthmus: {v.status}: {v.sentence}" for v in health.verdicts if v.status != "ok"))
