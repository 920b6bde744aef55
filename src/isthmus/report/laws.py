"""Pages on laws from a log density: the verdict, the picture, the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from isthmus import plots
from isthmus.data.tables.wording import one_line
from isthmus.diagnostics import Health
from isthmus.inference import MixtureWeights, Path, PenaltyPath
from isthmus.plots.style import nats, number
from isthmus.report import template
from isthmus.report.citations import bibliography
from isthmus.report.figures import Figure
from isthmus.report.words import Verdicts, not_ok

__all__ = ["QUESTIONS", "render_path", "render_weights"]

QUESTIONS: dict[str, str] = {
    "training": "Was training steady?",
    "weights": "Does the law draw where the density is?",
    "tails": "Are averages by importance weights stable?",
    "coverage": "Do laws from other starts find nothing more?",
}
_HEADLINES = {
    "ok": "These intervals can be trusted.",
    "warn": "These intervals can be used, with care.",
    "fail": "Do not rely on these intervals yet.",
}
_DRAWN = 2_000
_MEASURED = (
    "Each was measured on draws of the law. A high effective sample size says nothing of places where the law never "
    "draws; that is what laws from other starts are for."
)
_CITED = ("negri2025", "rezende2015", "zuko", "scikit-learn", "pytorch")
_HEAD = ("Column", "Mean", "Standard deviation", "Low", "High")


class _Section(NamedTuple):
    """A section with figures and a table, as `page.html` has them."""

    key: str
    title: str
    text: str
    figures: Sequence[Figure]
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def render_path(
    fitted: PenaltyPath,
    path: Path,
    names: Sequence[str],
    *,
    penalty: str,
    response: str = "the response",
    interval: float = 0.9,
    commands: Sequence[str] = (),
) -> str:
    """Return a page on a penalty path.

    Args:
        fitted: the estimator.
        path: its path at the levels to be drawn.
        names: of the columns.
        penalty: its name.
        response: name of the response.
        interval: mass of the credible intervals.
        commands: what made it, to be shown.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> fitted = PenaltyPath(training={"max_steps": 5}, restarts=0, random_state=0).fit(X[:, :2], y)
        >>> path = fitted.path([0.05, 0.1])
        >>> "Penalty path of y" in render_path(fitted, path, ["age", "sex"], penalty="l1", response="y")
        True
    """
    best = int(path.log_evidence.argmax())
    beside = fitted.least_squares(path.levels)
    called = "LASSO (least angle regression)" if fitted.p == 1 else "ridge regression"
    share = f"{interval:.0%}"
    guide = f"Bands hold {share} of the posterior at each level; levels are those of the standardised columns."
    pictures = [
        Figure(
            "Coefficients by the level of the penalty",
            guide + (f" Dashed: {called}, without intervals." if beside is not None else ""),
            plots.path(
                path.levels,
                path.mean,
                path.low,
                path.high,
                names,
                best=float(path.levels[best]),
                beside=beside,
                called=called,
            ),
        ),
        Figure(
            "Evidence by the level of the penalty",
            "How likely the response is under each level, all coefficients of the level alike before the data.",
            plots.evidence(path.levels, path.log_evidence, path.standard_error),
        ),
    ]
    rows = _rows(names, path.mean[best], path.deviation[best], path.low[best], path.high[best])
    text = f"At the level of the highest evidence, {number(path.levels[best])}, in units of {response} a unit of the "
    text += f"column; low and high are the ends of intervals of {share}."
    facts = [
        ("Response", response),
        ("Penalty", penalty),
        ("Levels", f"{number(path.levels[0])} to {number(path.levels[-1])}, that of least squares"),
        ("Highest evidence", f"{nats(path.log_evidence[best])} nats at {number(path.levels[best])}"),
        ("Standard deviation of the noise", f"{number(fitted.sigma_)} of the response's"),
        ("Uniform on a level set", f"by the measure `{fitted.measure}`"),
        ("Lowest effective sample size", f"{path.effective.min():.0%} of the draws, of the levels drawn"),
    ]
    name = one_line(response, 80)
    return _page(
        f"Penalty path of {name}",
        fitted.inference_.health,
        facts,
        [
            _Section("path", "The path", "", pictures),
            _Section("coefficients", "Coefficients", text, (), _HEAD, rows),
        ],
        commands,
    )


def render_weights(
    fitted: MixtureWeights,
    names: Sequence[str],
    *,
    interval: float = 0.9,
    commands: Sequence[str] = (),
) -> str:
    """Return a page on mixture weights.

    Args:
        fitted: the estimator.
        names: of the components.
        interval: mass of the credible intervals.
        commands: what made it, to be shown.

    Example:
        >>> rows = np.log(np.random.default_rng(0).dirichlet(np.ones(3), 50))
        >>> fitted = MixtureWeights(training={"max_steps": 5}, restarts=0, random_state=0).fit(rows)
        >>> "Weights of 3 components" in render_weights(fitted, ["a", "b", "c"])
        True
    """
    low, high = fitted.intervals(interval).T
    draws = _resampled(fitted)
    pictures = [
        Figure(
            "Weights",
            f"Shapes are posterior densities, bars intervals of {interval:.0%}.",
            plots.shares(draws, fitted.mean_, low, high, names),
        )
    ]
    if len(names) == 3:
        guide = "A corner is all of one component, the opposite side none of it."
        pictures.append(Figure("Three weights at once", guide, plots.ternary(draws, fitted.mean_, names)))
    facts = [
        ("Components", f"{len(names)}"),
        ("Prior", f"Dirichlet with concentration {fitted.alpha}"),
        ("Log evidence", f"{nats(fitted.log_evidence_)} nats ± {number(fitted.weights_.standard_error)}"),
    ]
    rows = _rows(names, fitted.mean_, fitted.deviation_, low, high)
    text = f"Posterior of each weight; low and high are the ends of intervals of {interval:.0%}."
    section = _Section("weights", "Weights", text, pictures, ("Component", *_HEAD[1:]), rows)
    return _page(f"Weights of {len(names)} components", fitted.inference_.health, facts, [section], commands)


def _resampled(fitted: MixtureWeights) -> Float[np.ndarray, "n K"]:
    """Return draws of the posterior: those of the law, chosen by their importance weights."""
    weights = fitted.weights_
    generator = torch.Generator().manual_seed(0)
    chosen = torch.multinomial(weights.log.softmax(0), _DRAWN, replacement=True, generator=generator)
    return weights.x[chosen].double().numpy()


def _rows(names: Sequence[str], *columns: Float[np.ndarray, " d"]) -> list[tuple[str, ...]]:
    return [(name, *map(number, values)) for name, *values in zip(names, *columns, strict=True)]


def _page(
    title: str,
    health: Health,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[_Section],
    commands: Sequence[str],
) -> str:
    concerns, status = not_ok(health.verdicts), health.status
    passed = f"All {len(health.verdicts)} checks passed." if status == "ok" else ""
    entries = bibliography()
    titles: Mapping[str, str] = {
        "learned": "What was learned",
        "checks": "The checks",
        **{section.key: section.title for section in sections},
        "made": "How it was made",
        "cite": "What to cite",
    }
    return template.filled(
        title=title,
        heading=title,
        verdict=Verdicts(status, _HEADLINES[status], passed, [], concerns, list(health.verdicts)),
        questions=QUESTIONS,
        summary="A law was learnt from a log density, and its draws were weighed against that density.",
        remarks=[],
        sections=[{"id": key, "title": text} for key, text in titles.items()],
        facts=facts,
        columns=[],
        measured=_MEASURED,
        groups=[_group(section) for section in sections],
        recipe="",
        units="Log evidence is in nats.",
        commands=commands,
        bibtex=[entries[key] for key in _CITED],
    )


def _group(section: _Section) -> dict[str, Any]:
    drawn = [template.placed(f"{section.key}-{i}", figure) for i, figure in enumerate(section.figures, 1)]
    about = {"id": section.key, "title": section.title, "text": section.text}
    return {**about, "head": section.head, "rows": section.rows, "figures": drawn}
