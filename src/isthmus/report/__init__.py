"""One model, and the rows it is judged on, as one self-contained page: the verdict first.

| module | what |
|---|---|
| `evidence` | what is computed: judged rows, samples, surface, calibration |
| `baselines` | two usual densities on the same rows |
| `words`, `citations` | what is said |
| `figures`, `places` | which figures there are; they are drawn by `isthmus.plots` |
| `laws` | pages on laws from a log density: penalty paths and mixture weights |
| `template` | what all pages share: filling `page.html`, and writing it whole |
"""

import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from isthmus.data.tables import Column
from isthmus.data.tables.wording import one_line
from isthmus.deadline import Deadline
from isthmus.errors import InputError
from isthmus.plots.style import nats
from isthmus.report import figures, template, words
from isthmus.report.baselines import Score, compare
from isthmus.report.citations import citations
from isthmus.report.evidence import Evidence, gather
from isthmus.report.places import coordinates_of, least_likely, place_figures
from isthmus.store import Fitted

__all__ = ["image_shape", "render", "write"]

_COMPARED = 0.05  # of a limited time is left for the figures when the comparison ends
_NO_CLASSIFIER = (
    "there was no time for the classifier that tells samples from rows; `isthmus report` without a limit trains it"
)


def render(
    fitted: Fitted,
    frame: pd.DataFrame | None = None,
    *,
    name: str = "model",
    commands: Sequence[str] = (),
    versions: Mapping[str, str] | None = None,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
    deadline: Deadline | None = None,
) -> str:
    """Return the report as HTML.

    Args:
        fitted: the model and its record.
        frame: a table with the columns of the fit; without one the page holds what the model itself tells.
        name: of the model.
        commands: what made model and report, to be shown.
        versions: of the libraries that the model was fitted with; those of now if not given.
        shape: height and width, where a row is an image; by default those of the network, if any.
        seed: of everything that is drawn.
        deadline: by when to be done; figures that would come later are left out, which the page says.

    Returns:
        A page that loads nothing.

    Raises:
        InputError: the table, or the shape, does not suit the model.

    Example:
        >>> from isthmus import fit, Recipe
        >>> recipe = Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5})
        >>> page = render(fit([[0.0, 0.1], [1.0, 0.9], [2.1, 2.0], [3.0, 3.1]] * 9, recipe=recipe), name="<demo>")
        >>> "Report on the model &lt;demo&gt;" in page
        True
    """
    _check_shape(fitted, shape)
    shape = shape or _own_shape(fitted)
    limit = deadline or Deadline()
    evidence = gather(fitted, frame, seed=seed, deadline=limit)
    scores = compare(fitted, evidence, seed=seed, deadline=limit.until(1 - _COMPARED, least=0.0))
    noticed = words.noticed(fitted, evidence, scores)
    groups, left_out = _in_time(_groups(fitted, evidence, scores, shape), limit)
    if deadline is not None and evidence.samples is not None and evidence.c2st is None:
        left_out.append(_NO_CLASSIFIER)
    name = one_line(name, 80)
    titles = [("learned", "What was learned"), ("checks", "The checks"), *((g["id"], g["title"]) for g in groups)]
    titles += [("made", "How it was made"), ("cite", "What to cite")]
    return template.filled(
        title=f"{name}: report on a model",
        heading=f"Report on the model {name}",
        measured="Each was measured when the model was fitted, on rows that its training did not use.",
        units=f"Log densities are in {fitted.measured}; reconstruction errors and distances are on "
        "standardised columns.",
        verdict=words.verdicts(fitted, noticed),
        questions=words.CHECKS,
        summary=words.summary(fitted, evidence),
        remarks=[*(v.sentence for v in noticed if v.status == "ok"), *left_out],
        sections=[{"id": key, "title": title} for key, title in titles],
        facts=words.facts(fitted, evidence),
        columns=words.column_table(fitted, None if frame is None else [str(column) for column in frame.columns]),
        groups=groups,
        commands=commands,
        versions=versions,
        recipe=fitted.recipe.dump(),
        bibtex=citations(fitted, evidence, baselines=bool(scores)),
    )


def write(
    fitted: Fitted,
    output: Path,
    frame: pd.DataFrame | None = None,
    *,
    folder: Path | None = None,
    arguments: Sequence[str] = (),
    image: str | None = None,
    deadline: Deadline | None = None,
) -> Path:
    """Write the report to a file: whole, or not at all.

    Args:
        fitted: the model and its record.
        output: the file; it is replaced if it exists.
        frame: a table with the columns of the fit, or None.
        folder: of the model: its name, and the versions that it was fitted with.
        arguments: of the command line that asked for the report.
        image: height and width such as 28x28, where a row is an image; by default those of the network, if any.
        deadline: as in `render`.

    Returns:
        The file.

    Raises:
        InputError: the table does not suit the model, or the file cannot be written.
    """
    template.check_file(output)
    commands = [fitted.figures.command, f"isthmus {shlex.join(arguments)}" if arguments else None]
    page = render(
        fitted,
        frame,
        name=folder.resolve().name if folder else "model",
        commands=[command for command in commands if command],
        versions=json.loads((folder / "config.json").read_text())["versions"] if folder else None,
        shape=image_shape(image),
        deadline=deadline,
    )
    return template.write(page, output)


def image_shape(text: str | None) -> tuple[int, int] | None:
    """Parse a height and a width from text such as 28x28.

    Args:
        text: two numbers with an x between them, or None; a single channel, 1x, may stand before them.

    Raises:
        InputError: it is something else.

    Example:
        >>> image_shape("8x16"), image_shape("1x28x28")
        ((8, 16), (28, 28))
    """
    if text is None:
        return None
    text = text.lower()
    height, _, width = (text.removeprefix("1x") if text.count("x") == 2 else text).partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise InputError(f"expected a height and a width such as 28x28; got {text!r}; give both")
    return int(height), int(width)


def _own_shape(fitted: Fitted) -> tuple[int, int] | None:
    """Return the height and width of the grey images that rows are; None where they are none."""
    shape = fitted.image
    return shape[1:] if shape and shape[0] == 1 and _is_image(fitted, shape) else None


def _is_image(fitted: Fitted, shape: tuple[int, ...]) -> bool:
    """Tell whether rows of the table have as many plain numbers as an image of this shape."""
    data = _number_columns(fitted)
    return math.prod(shape) == _count(fitted) and not any(column.levels for column in data)


def _check_shape(fitted: Fitted, shape: tuple[int, int] | None) -> None:
    if shape and not _is_image(fitted, shape):
        got = f"{shape[0]} x {shape[1]} = {math.prod(shape)}"
        had = f"{_count(fitted)} columns"
        raise InputError(f"expected an image of as many numbers as the table has, {had}; got {got}; correct it")


def _number_columns(fitted: Fitted) -> list[Column]:
    """Return the columns of the table that are modelled; of a table of images, whose columns are its pixels, none."""
    if fitted.schema is None or fitted.schema.image:
        return []
    return [column for column in fitted.schema.columns if column.role == "data"]


def _count(fitted: Fitted) -> int:
    return len(_number_columns(fitted)) or len(fitted.model.columns.mean)


class _Section(NamedTuple):
    """A section with figures, and whether a report of a model has it: by evidence, and scores of other densities."""

    key: str
    title: str
    applies: Callable[[Fitted, Evidence, Sequence[Score]], bool]
    text: Callable[[Evidence], str]
    figures: Callable[[Fitted, Evidence, tuple[int, int] | None], Iterator[figures.Figure]]
    head: tuple[str, ...] = ()
    table: Callable[[Fitted, Evidence, Sequence[Score]], Sequence[tuple[str, ...]]] = lambda *_: ()


_SECTIONS = (
    _Section("fit", "Training and fit", lambda *_: True, words.judged, lambda f, e, _: figures.fit_figures(f, e)),
    _Section(
        "samples",
        "New rows against real ones",
        lambda _, evidence, __: evidence.samples is not None,
        lambda evidence: f"As many rows were drawn from the model as are judged, {len(evidence.rows):,}.",
        figures.sample_figures,
        ("Statistic", "Value", "How to read it"),
        lambda fitted, evidence, _: figures.statistics(fitted, evidence),
    ),
    _Section(
        "surface",
        "The surface",
        lambda _, evidence, __: evidence.surface is not None,
        lambda _: "The surface that the data lie near, as the model has it.",
        figures.surface_figures,
    ),
    _Section(
        "places",
        "On the surface",
        lambda fitted, *_: coordinates_of(fitted) is not None,
        words.placed,
        lambda fitted, evidence, _: place_figures(fitted, evidence),
        ("Log density (nats)", "The least likely rows"),
        lambda fitted, evidence, _: least_likely(fitted, evidence),
    ),
    _Section(
        "scores",
        "Scores of rows",
        lambda _, evidence, __: evidence.source != "drawn",
        lambda _: "How likely each judged row is, and how far from the surface.",
        lambda _, evidence, __: figures.score_figures(evidence),
    ),
    _Section(
        "others",
        "Against simpler models",
        lambda _, __, scores: bool(scores),
        words.fairness,
        lambda *_: iter(()),
        ("Density", "Mean log density (nats per row)", "The model is ahead by"),
        lambda _, __, scores: _score_rows(scores),
    ),
)
"""The sections with figures, in the order of the page; a new one is an entry here."""


def _groups(
    fitted: Fitted, evidence: Evidence, scores: Sequence[Score], shape: tuple[int, int] | None
) -> Iterator[dict[str, Any]]:
    """Draw the sections that apply: id, title, text, table and figures."""
    for section in _SECTIONS:
        if section.applies(fitted, evidence, scores):
            rows = section.table(fitted, evidence, scores)
            placed = [
                template.placed(f"{section.key}-{place}", figure)
                for place, figure in enumerate(section.figures(fitted, evidence, shape), 1)
            ]
            text = section.text(evidence)
            named = {"id": section.key, "title": section.title, "text": text, "head": section.head, "rows": rows}
            yield {**named, "figures": placed}


def _in_time(groups: Iterator[dict[str, Any]], limit: Deadline) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the sections that are ready in time, and what is to be said where some are not."""
    ready = []
    for group in groups:
        ready.append(group)
        if limit.left() < 0:
            return ready, ["the time of the fit was up, so that figures are missing; `isthmus report` draws them"]
    return ready, []


def _score_rows(scores: Sequence[Score]) -> list[tuple[str, ...]]:
    return [
        (
            score.name,
            f"{nats(score.mean)} ± {nats(score.error)}",
            "" if score.ahead is None else f"{nats(score.ahead)} ± {nats(score.ahead_error or 0.0)}",
        )
        for score in scores
    ]
