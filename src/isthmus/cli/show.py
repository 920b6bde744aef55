"""The verbs that show something: `evaluate`, `report`, `explore`, `inspect`, `list`."""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from isthmus import screens
from isthmus.cli.common import (
    ARGUMENTS,
    AsJson,
    Decimal,
    Force,
    MaxUnpacked,
    Missing,
    ModelFolder,
    Per,
    Quiet,
    Seed,
    Strict,
    Table,
    TableIfAny,
    app,
    busy,
    load_model,
    read,
    say,
    warn_untrusted,
)
from isthmus.cli.outputs import check_outputs, may_refresh
from isthmus.errors import InputError

__all__: list[str] = []  # verbs are typed, not called

_OPENED = "your browser opens the page; if it cannot, --no-browser gives an address to open by hand"
_BY_HAND = "open this address in a browser of this machine; it lets in one browser, once"


@app.command(epilog="Example: isthmus evaluate model held_out.csv --json")
def evaluate(
    model: ModelFolder,
    table: Table,
    missing: Missing = None,
    decimal: Decimal = "",
    max_unpacked: MaxUnpacked = None,
    per: Per = None,
    as_json: AsJson = False,
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """How well a model fits rows, best rows that it has not seen.

    Log densities are in nats and in the table's own units. The reconstruction error, and the distances between the rows
    and as many samples, are measured on columns standardised as the model does it. Above 5,000 rows the
    importance-sampled density is computed on 2,000 of them.
    """
    from isthmus import scoring

    fitted = load_model(model)
    frame = read(table, max_unpacked, missing, decimal, fitted.schema)
    with busy(f"evaluating {len(frame):,} rows"):
        figures = scoring.evaluate(fitted, frame, per=per)
    if as_json:
        screens.print_json(figures)
    else:
        screens.print_rows(screens.of_evaluation(figures))
    warning = scoring.distrust(figures)
    if warning:
        say(f"isthmus: warning: {warning}")
    warn_untrusted(figures["untrusted"], strict=strict)


@app.command("report", epilog="Example: isthmus report model held_out.csv -o report.html")
def report_model(
    model: ModelFolder,
    table: TableIfAny = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="By default report.html in MODEL.")
    ] = None,
    image: Annotated[str | None, typer.Option(metavar="HxW", help="Draw rows as images of this size.")] = None,
    missing: Missing = None,
    decimal: Decimal = "",
    max_unpacked: MaxUnpacked = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """One HTML page on a model: whether it can be trusted, what was learned, and figures.

    Without a TABLE it shows what the model itself tells; a TABLE adds comparisons with rows and with simpler models.
    The report that isthmus wrote into MODEL is replaced by a newer one without --force.
    """
    from isthmus import report

    fitted, page = load_model(model), output or model / "report.html"
    check_outputs([page], [table] if table else [], model, force=force or may_refresh(page, model))
    frame = None if table is None else read(table, max_unpacked, missing, decimal, fitted.schema)
    with busy("writing the report"):
        report.write(fitted, page, frame, folder=model, arguments=ARGUMENTS.get(), image=image)
    screens.print_rows([("report", str(page), "")])


@app.command("explore", epilog="Example: isthmus explore model held_out.csv")
def explore_model(
    model: ModelFolder,
    table: TableIfAny = None,
    image: Annotated[str | None, typer.Option(metavar="CxHxW", help="Show rows as images of this size.")] = None,
    rows: Annotated[
        int | None, typer.Option(metavar="N", help="Most rows shown; by default 2000, fewer of wide tables.", min=1)
    ] = None,
    port: Annotated[int, typer.Option(metavar="N", help="To listen on; by default a free one.", min=0, max=65535)] = 0,
    missing: Missing = None,
    decimal: Decimal = "",
    max_unpacked: MaxUnpacked = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print an address to open by hand.")] = False,
    quiet: Quiet = False,
) -> None:
    """A local page to look at rows, their codes and neighbours, and to move through the latent space.

    Without a TABLE it shows samples of the model. The page is for this machine only, for one browser, and needs nothing
    from outside. The address that --no-browser prints lets a browser in once: pass it on to no one. Ctrl-C ends it.
    """
    from isthmus import explorer

    server = explorer.server_class()
    fitted = load_model(model)
    frame = None if table is None else read(table, max_unpacked, missing, decimal, fitted.schema)
    with busy("scoring rows; --rows N takes fewer"):
        exploration = explorer.explore(fitted, frame, image=image, most_rows=rows)
    page = server(exploration, name=model.resolve().name, port=port)
    opened = not no_browser and page.open_browser()
    sys.stdout.write(f"{page.url if opened else page.one_time_url()}\n")
    sys.stdout.flush()
    say(f"{_OPENED if opened else _BY_HAND}; Ctrl-C ends it")
    page.run()


@app.command("grids", epilog="Example: isthmus grids model images/ -o pictures")
def draw_grids(
    model: ModelFolder,
    table: Annotated[str, typer.Argument(metavar="IMAGES", help="Images as those of the fit: a folder, .npz or idx.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="An existing folder; by default MODEL.")
    ] = None,
    seed: Seed = 0,
    max_unpacked: MaxUnpacked = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Grids of images as PNG: samples, reconstructions, interpolations, and nearest neighbours of samples.

    Of a conditional model a line of samples is one class. Below each image is its reconstruction, and below each sample
    are the three of IMAGES that are nearest to it, pixel by pixel: with those of the fit, whether it only remembers.
    Grids that isthmus wrote into MODEL are replaced by newer ones without --force.
    """
    from isthmus import grids

    fitted, folder = load_model(model), output or model
    if not folder.is_dir():
        raise InputError(f"expected an existing folder; got {folder}; create it first")
    for picture in (folder / f"{name}.png" for name in grids.GRIDS):
        check_outputs([picture], [table], model, force=force or may_refresh(picture, model))
    frame = read(table, max_unpacked)
    with busy("drawing images"):
        files = grids.write(fitted, frame, folder, seed=seed)
    screens.print_rows([(file.stem, str(file), "") for file in files])


@app.command("inspect", epilog="Example: isthmus inspect model")
def inspect_model(model: ModelFolder, as_json: AsJson = False) -> None:
    """Show what a model is, and how it came about."""
    record = screens.description(model, load_model(model))
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
