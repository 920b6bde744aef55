"""What a report says: the verdict in plain words, what was learned, what was done to the columns, what to cite."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from isthmus.data.tables import Column
from isthmus.data.tables.wording import listed
from isthmus.diagnostics import Health, Verdict
from isthmus.diagnostics.health import STATUSES, Status
from isthmus.flow import Injection, LearnedManifold
from isthmus.plots.style import nats, number
from isthmus.report.baselines import Score, learned_from
from isthmus.report.evidence import Evidence
from isthmus.report.figures import CUT
from isthmus.scoring import features
from isthmus.store import Figures, Fitted

__all__ = [
    "CHECKS",
    "Use",
    "Verdicts",
    "column_table",
    "facts",
    "fairness",
    "judged",
    "not_ok",
    "noticed",
    "placed",
    "summary",
    "verdicts",
]

_FEW = 8
_LARGE_SHIFT = 4.0  # standard errors
_TOLD_APART = 0.8  # AUC: of a sample and a row, a classifier finds which is which four times in five


class Use(NamedTuple):
    """What a model may be used for, and whether it should be."""

    name: str
    status: str
    answer: str


class Verdicts(NamedTuple):
    """The first screen: one of `ok`, `warn`, `fail` and `unknown`, a headline, why, uses, and what is wrong."""

    status: str
    headline: str
    reason: str
    uses: list[Use]
    concerns: list[Verdict]
    checks: list[Verdict]


CHECKS: dict[str, str] = {
    "training": "Was training steady?",
    "latent_dim": "Are there enough latent dimensions?",
    "curvature": "Is the surface smooth where the noise blurs it?",
    "beta": "Did reconstruction weigh enough in training?",
    "reconstruction": "Is reconstruction as good as the noise allows?",
    "pseudo_inverse": "Do encoder and decoder belong together?",
    "gradient": "Did training follow the likelihood?",
    "spectrum": "Is every latent dimension used?",
    "codes": "Do codes follow the latent density?",
    "samples": "Do new rows look like real ones?",
    "generalisation": "Does it do as well on rows it has not seen?",
    "density": "Do both ways to compute the density agree?",
    "finite": "Are all reconstructions finite?",
    "rows": "Are there enough rows to tell?",
    "c2st": "Can samples be told from rows?",
    "simpler": "Is it better than simpler models?",
    "shift": "Is this table like the one of the fit?",
}

_ALWAYS = ("training", "finite", "rows", "latent_dim", "curvature", "reconstruction")
_USES = {
    "Scoring rows (how likely is a row?)": (
        *_ALWAYS,
        "beta",
        "gradient",
        "codes",
        "generalisation",
        "density",
        "simpler",
        "shift",
    ),
    "Drawing new rows": (*_ALWAYS, "codes", "samples", "c2st"),
    "Codes and reconstructions": (*_ALWAYS, "pseudo_inverse", "spectrum", "shift"),
}
_ANSWERS = {"ok": "yes", "warn": "with care", "fail": "not yet", "unknown": "not checked"}
_HEADLINES = {
    "ok": "This model can be trusted.",
    "warn": "This model can be used, with care.",
    "fail": "Do not rely on this model yet.",
    "unknown": "This model was not checked.",
}


def verdicts(fitted: Fitted, noticed: Sequence[Verdict] = ()) -> Verdicts:
    """Return the verdict on a model, from the checks of its fit and from what the table shows.

    Args:
        fitted: the model and its record.
        noticed: what `noticed` returned.

    Returns:
        What the first screen says; a warning from the table makes an `ok` a `warn`.

    Raises:
        InputError: the record of the checks is damaged.
    """
    health = fitted.figures.health
    if health is None or not health.verdicts:
        reason = "Its folder holds no record of the checks that a fit ends with; fit it again to have them."
        uses = [Use(use, "unknown", _ANSWERS["unknown"]) for use in _USES]
        return Verdicts("unknown", _HEADLINES["unknown"], reason, uses, not_ok(noticed), [])
    every = (*health.verdicts, *noticed)
    uses = []
    for use, names in _USES.items():
        status = max((v.status for v in every if v.name in names), key=STATUSES.index, default="ok")
        uses.append(Use(use, status, _ANSWERS[status]))
    status = Health(every).status
    reason = _reason(health, sum(v.status != "ok" for v in noticed))
    return Verdicts(status, _HEADLINES[status], reason, uses, not_ok(every), list(health.verdicts))


def not_ok(every: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts that are not `ok`, the worst first."""
    return sorted((v for v in every if v.status != "ok"), key=lambda v: -STATUSES.index(v.status))


def _reason(health: Health, others: int) -> str:
    count = len(health.verdicts)
    checks = f"{count} check{'' if count == 1 else 's'} on rows that the training did not use"
    below = "; what is wrong and what to do stands below."
    if health.status == "ok":
        found = f"The fit passed {'all ' if count > 1 else ''}{checks}"
        return f"{found}, but the table shows what stands below." if others else f"{found}."
    failing, warning = len(health.failing), sum(v.status == "warn" for v in health.verdicts)
    parts = [f"{n} {word}" for n, word in ((failing, "failed"), (warning, "gave a warning")) if n]
    return f"Of {checks}, {' and '.join(parts)}{below}"


def noticed(fitted: Fitted, evidence: Evidence, scores: Sequence[Score]) -> list[Verdict]:
    """Return what the table shows beside the checks of the fit: as verdicts, those that are `ok` among them.

    Args:
        fitted: the model and its record.
        evidence: what the table showed.
        scores: what `compare` returned.

    Returns:
        Whether samples can be told from rows, whether a simpler model is better, whether the rows are unlike the fit's.
    """
    if evidence.source == "drawn":
        missing = "No table was given: its samples were not held against rows, nor the model against simpler ones."
        return [Verdict("table", "ok", 0.0, 1.0, missing)]
    return [*_told_apart(evidence), *_compared(scores), *_shifted(fitted, evidence)]


def _told_apart(evidence: Evidence) -> Iterator[Verdict]:
    if evidence.c2st is None:
        return
    status: Status = "warn" if evidence.c2st >= _TOLD_APART else "ok"
    sentence = f"A classifier tells samples from real rows with an AUC of {evidence.c2st:.2f} (0.5 is best, 1 is worst)"
    advice = "; the columns that differ most are drawn below" if status == "warn" else ""
    yield Verdict("c2st", status, evidence.c2st, _TOLD_APART, f"{sentence}{advice}.")


def _compared(scores: Sequence[Score]) -> Iterator[Verdict]:
    rivals = [score for score in scores if score.ahead is not None]
    if not rivals:
        return
    best = min(rivals, key=lambda score: score.ahead or 0.0)
    gap, error = best.ahead or 0.0, best.ahead_error or 0.0
    size = f"{nats(abs(gap))} ± {nats(error)} nats per row"
    if abs(gap) <= 2 * error:
        sentence = f"It describes the judged rows as well as a simpler model, {best.name}: the difference is {size}."
    elif gap > 0:
        sentence = f"It describes the judged rows better than a simpler model, {best.name}, by {size}."
    else:
        sentence = f"A simpler model, {best.name}, describes the judged rows better, by {size}."
    yield Verdict("simpler", "warn" if gap < -2 * error else "ok", gap, -2 * error, sentence)


def _shifted(fitted: Fitted, evidence: Evidence) -> Iterator[Verdict]:
    before = (fitted.figures.validation or {}).get(f"log_density_{fitted.model.density.names[0]}")
    density = evidence.log_density
    if evidence.source != "given" or before is None or len(density) < 2:
        return
    mean, error = float(density.mean()), float(density.std(correction=0)) / len(density) ** 0.5
    figures = f"{nats(mean)} nats per row here, {nats(before)} there"
    status: Status = "ok" if mean >= before - _LARGE_SHIFT * error else "warn"
    how = "less" if status == "warn" else "more" if mean > before + _LARGE_SHIFT * error else "as"
    sentence = f"The rows of this table are {how} likely {'as' if how == 'as' else 'than'} rows held out by the fit"
    advice = "; they may follow another law, of which the checks say nothing" if status == "warn" else ""
    yield Verdict("shift", status, mean - before, -_LARGE_SHIFT * error, f"{sentence} ({figures}){advice}.")


def summary(fitted: Fitted, evidence: Evidence) -> str:
    """Describe what the model is, for a reader who has never seen one.

    Args:
        fitted: the model and its record.
        evidence: what the table showed.
    """
    flow = fitted.model.flow
    D = flow.data_dim
    rows = fitted.figures.table and fitted.figures.table.rows
    learned = f" It was learned from {rows:,} rows." if rows else ""
    count = len(fitted.schema.columns) if fitted.schema else D
    table = f"{count:,} column{'s' * (count != 1)}" + ("" if count == D else f", {D:,} numbers that vary,")
    where = ""
    if isinstance(flow, LearnedManifold):
        where = (
            f" to lie near {'a curve' if flow.latent_dim == 1 else f'a surface of {flow.latent_dim} dimensions'}, and"
        )
    gives = f"gives each row a log-likelihood, in {fitted.measured}"
    return f"The model takes rows of {table}{where or ' and'} {gives}.{learned}"


def judged(evidence: Evidence) -> str:
    """Say which rows the figures show.

    Args:
        evidence: what the table showed.
    """
    n = len(evidence.rows.x)
    if evidence.source == "drawn":
        return (
            "No table was given, so this report shows what the model itself tells. With a table (isthmus report MODEL "
            "TABLE) it compares samples with rows, draws the distribution of their scores, checks the noise model, and "
            "sets the model against simpler ones."
        )
    if evidence.source == "held out":
        return f"The table is the one that the model was fitted to; judged are {n:,} rows that the fit held out."
    return (
        f"Of the {evidence.count:,} rows of the table {n:,} are judged, a third at most. It is not the table of the "
        "fit; whether the model has seen some of its rows cannot be told from here: if so, all figures are too good."
    )


def placed(evidence: Evidence) -> str:
    """Say what figures on a known surface show.

    Args:
        evidence: what the table showed.
    """
    if evidence.source == "drawn":
        return (
            f"The density of the model on the known surface that its rows lie on, with {len(evidence.rows):,} samples."
        )
    return (
        "The density of the model on the known surface that its rows lie on, with the judged rows. Crosses are the "
        f"{100 * CUT:.0f} % that are least likely."
    )


def fairness(evidence: Evidence) -> str:
    """Say which rows each model has seen in the comparison with simpler models.

    Args:
        evidence: what the table showed.
    """
    rows = learned_from(evidence)
    learn, known = (0 if some is None else len(some.x) for some in (rows, evidence.learn))
    of = "the" if learn == known else f"{learn:,} of the"
    common = f"All are scored on the same {len(evidence.rows.x):,} rows. The simpler models are fitted to "
    if evidence.source == "held out":
        return (
            f"{common}{of} {known:,} rows that the model was trained on. The model has seen the judged rows in part: "
            "they decided when its training stopped and which densities it took, a small advantage."
        )
    return (
        f"{common}{of} {known:,} other rows of this table, the model to the rows of its own fit: if its fit saw the "
        "judged rows, the comparison favours it, and if its own table was another kind of data, it does not."
    )


def facts(fitted: Fitted, evidence: Evidence) -> list[tuple[str, str]]:
    """Return facts on what was learned, by name.

    Args:
        fitted: the model and its record.
        evidence: what the table showed.

    Returns:
        Names and values.
    """
    flow, figures, surface = fitted.model.flow, fitted.figures, evidence.surface
    d = flow.codes.dim if isinstance(flow, Injection) else 0
    described = f", described by {d} latent dimension{'s' * (d != 1)}" if d else ""
    mse = (figures.validation or {}).get("reconstruction_mse")
    rows = figures.table and figures.table.rows
    found = [
        ("Learned from", f"{rows:,} rows" if rows else ""),
        ("Dimensions", f"{flow.data_dim} numbers a row{described}"),
        ("Known surface", _surface(fitted)),
        ("Log-likelihoods", fitted.measured),
        ("Conditioned on", f"{flow.context_dim} context features" if flow.context_dim else ""),
        ("Noise off the surface", _noise(mse, flow) if mse is not None and isinstance(flow, LearnedManifold) else ""),
        ("Directions above the noise", f"{surface.spectrum.above_noise:.3g} of {d}" if surface else ""),
        ("beta", _beta(figures)),
        ("Latent density", _part(fitted.latent.model_dump())),
        ("Noise model", _part(fitted.noise.model_dump()) if fitted.noise else ""),
        ("Training", _effort(figures)),
        ("What a layer would add", _gain(fitted, evidence)),
    ]
    return [(name, value) for name, value in found if value]


def _gain(fitted: Fitted, evidence: Evidence) -> str:
    if evidence.gain is None:
        return ""
    before = "" if fitted.latent.kind == "as trained" else ", before a normal latent density as it was trained with"
    return f"{evidence.gain.sentence()} on the judged rows{before}"


def _beta(figures: Figures) -> str:
    return f"{number(figures.beta)}: {figures.beta_reason}" if figures.beta is not None and figures.beta_reason else ""


def _surface(fitted: Fitted) -> str:
    """Return the known surface that rows lie on, and how the columns say where."""
    own = None if fitted.schema is None else fitted.schema.coordinates
    if own is None:
        return ""
    off = "; rows off it are projected" if own.project else ""
    return f"{own.surface}: {listed(own.columns, _FEW)} in {own.unit}{off}"


def _effort(figures: Figures) -> str:
    if figures.steps is None or figures.seconds is None:
        return ""
    return f"{figures.steps:,} steps in {figures.seconds:.0f} s"


def _noise(mse: float, flow: LearnedManifold) -> str:
    share = mse / flow.data_dim
    sigma = number(flow.sigma(mse))
    return f"{sigma} standard deviations of a column per direction; {share:.1%} of the variance is left over"


def _part(record: Mapping[str, Any]) -> str:
    kinds = {
        "as trained": "as trained",
        "mixture": "Gaussian mixture",
        "mixtures": "one Gaussian mixture a context",
        "flow": "spline flow",
        "component": "one covariance a component",
        "low_rank": "one covariance of low rank a component",
    }
    options = ", ".join(f"{key} {value}" for key, value in record.items() if key != "kind")
    kind = kinds.get(record["kind"], record["kind"])
    return f"{kind} ({options})" if options else str(kind)


def column_table(fitted: Fitted, names: Sequence[str] | None) -> list[tuple[str, str, str]]:
    """Return what was done to the columns: a kind of treatment, how many columns, and which.

    Args:
        fitted: the model and its record.
        names: of the columns of the table that the report is given, or None.

    Returns:
        What was done, the number of columns, the first few names.
    """
    columns, kept = fitted.model.columns, fitted.model.columns.kept
    schema: tuple[Column, ...] = fitted.schema.columns if fitted.schema else ()
    inner = [c for c in schema if not c.constant]
    filled = [f"{c.name} (median {c.fill:g})" if c.kind == "number" else c.name for c in inner if c.has_missing]
    known = {c.name for c in schema}
    integer = [name for name, yes in zip(features(fitted), columns.integer & kept, strict=True) if yes]
    own = None if fitted.schema is None else fitted.schema.coordinates
    groups = {
        f"{own.system.title}, in {own.unit}" if own else "numbers": [
            c.name for c in inner if c.kind == "number" and c.role == "data"
        ],
        "categories: one number a level": [f"{c.name} ({len(c.levels)} levels)" for c in inner if c.kind == "category"],
        "booleans: 0 or 1": [c.name for c in inner if c.kind == "boolean"],
        "times: seconds": [c.name for c in inner if c.kind == "time"],
        "missing values filled in, and flagged by one more number": filled,
        "conditioned on": [c.name for c in schema if c.role == "context"],
        "constant: left out, and filled in again": [c.name for c in schema if c.constant],
        "heavy-tailed or skewed: on a curved (asinh) scale": [features(fitted)[j] for j in columns.heavy_tailed],
        "in this table but not in the model": [] if not (known and names) else [n for n in names if n not in known],
        "whole numbers: spread over their unit, rounded again": integer,
    }
    if not schema:
        groups["numbers"] = list(features(fitted))
        groups["constant: left out, and filled in again"] = [
            name for name, inside in zip(features(fitted), kept, strict=True) if not inside
        ]
    found = [(what, f"{len(group):,}", listed(group, _FEW)) for what, group in groups.items() if group]
    if fitted.recipe.columns.standardise and fitted.recipe.support.kind == "euclidean":
        found.append(("standardised: mean 0, standard deviation 1", f"{int(kept.sum()):,}", "all numbers of the model"))
    return found
