"""From a table to a finished model: prepare columns and rows, choose the latent dimension, train, refit the density."""

import copy
import dataclasses
import gc
import inspect
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from isthmus.columns import Columns
from isthmus.data.tables import Coordinates, Schema, Stream
from isthmus.deadline import CHECKS, LEAST_TRAINING, REFIT, TRAINING, Deadline
from isthmus.density import Density
from isthmus.diagnostics import Health, Verdict, examine, steadiness
from isthmus.errors import InputError
from isthmus.fitting.tables import LARGEST_MERGE, Table, encoded, streamed
from isthmus.flow import Flow, Injection, LearnedManifold
from isthmus.flows import FLOWS
from isthmus.matrices import doubled, fingerprint, row_weights, rows_at_once
from isthmus.metrics import energy_distance
from isthmus.model import Model
from isthmus.networks import NETWORKS
from isthmus.objective import OBJECTIVES, FreeForm
from isthmus.recipe import Part, Recipe, TrainingRecipe
from isthmus.refit import Refit, refit_density
from isthmus.rows import Rows
from isthmus.runs import digest, finish_run, note_spent, open_run, remembered, spent_before, weights_of
from isthmus.store import Figures, Fitted, versions
from isthmus.supports import SUPPORTS, Euclidean
from isthmus.sweep import judges, short_fit, start_latent_dim, sweep_latent_dim
from isthmus.training import History, LongRows, Split, single_thread, train
from isthmus.vetting import vet

__all__ = ["fit", "rows_again"]

_log = logging.getLogger(__name__)

_REFIT_ROWS = 250_000  # from which principal components and densities are computed
_STREAMED_REFIT_ROWS = 50_000  # a mixture of 128 on 250,000 rows takes 1.5 GB
_FIGURE_ROWS = 10_000  # held out, evenly spaced, whose densities are reported; fewer of images
_FEWEST_ROWS_TO_SPLIT = 20
_WHOLE = 1e-6  # weights this near to multiples of the least are counts
_FEW_ROWS, _NARROW = 1_000, 64  # with fewer training rows networks of width 256 learn the rows themselves
_PROBED_IMAGES = 1 / 16  # of a batch: their products are most of a step, and better digits come of more steps
_TRIAL_STEPS = 1_200  # after half as many curves seem to gain on POWER, where after 10,000 they lose 0.2 nats
_SAMPLES = 5_000  # drawn after a trial, at most
_SIGNIFICANT = 1.645  # standard errors, one-sided at 5 %
_LATE = 1.2  # times the time asked for, from which a word is said before
_CURVING_SECONDS = 150.0  # a limited time that is shorter leaves no room for the two trials of curves
_FIGURES_PER_SECOND, _FEWEST_FIGURES = 100, 100  # rows of a limited time that densities and checks are computed on
_AS_THEY_ARE: dict[str, Any] = {"heavy_tails": False, "dequantise": False, "drop": False}


def fit(
    X: Any,
    context: ArrayLike | Tensor | None = None,
    *,
    given: Sequence[str] = (),
    surface: str | Coordinates | None = None,
    columns: Sequence[str] = (),
    recipe: Recipe | Mapping[str, Any] | None = None,
    flow: Flow | None = None,
    sample_weight: ArrayLike | Tensor | None = None,
    progress: bool = False,
    run_dir: str | Path | None = None,
    deadline: Deadline | None = None,
) -> Fitted:
    """Fit a model to a table: prepare columns, train, refit latent density and noise.

    Args:
        X: data in the user's units, (n, columns), finite numbers, as an array or a tensor. Or a frame of pandas or
            polars, or the path of a table: text, booleans, times and gaps become numbers by a `Schema`, which the
            result holds; what was done is logged by the logger `isthmus`. Or a stream, which has its own schema:
            everything is learnt from its sample, but the training, from all rows that are not held out.
        context: what to condition on, (n, C), or None; then X is numbers.
        given: of a frame, names of the columns to condition on.
        surface: of a frame, the known surface that its rows lie on, `sphere`, `simplex` or `torus`; or `Coordinates`
            with the unit of the columns, and whether rows off the surface are projected on it and not refused.
        columns: the columns that say where on the surface a row is, as `["latitude", "longitude"]`, parts of a whole
            or angles; by default all that are not conditioned on. Others are left out.
        recipe: everything else, as a `Recipe` or as nested dicts; its defaults if not given.
        flow: a flow of your own to train, for as many columns as vary in X; by default the recipe builds one.
        sample_weight: one weight >= 0 a row, (n,); a weight of 2 is the same as the row twice.
        progress: whether to show a progress bar on standard error.
        run_dir: where to write checkpoints, `log.csv`, and events for TensorBoard where that is installed, while it
            runs. A fit of the same arguments that is found there is taken up, and ends as if it had never stopped.
        deadline: when to be done; by default `training.max_time` of the recipe, from now on.

    Returns:
        The model with its recipe, history and held-out figures.

    Raises:
        InputError: X is no finite matrix, has too few rows, or does not fit the flow or the latent dimension; a row
            lies off the surface, and how far; `run_dir` cannot be written, or holds an unfinished fit of another kind.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> recipe = Recipe().update(flow={"latent_dim": 2}, training={"max_steps": 20})
        >>> fitted = fit(load_iris().data, recipe=recipe)
        >>> fitted.model.sample(3).shape, fitted.model.log_prob(torch.as_tensor(load_iris().data)).shape
        (torch.Size([3, 4]), torch.Size([150]))
        >>> iris = load_iris(as_frame=True).frame.replace({"target": dict(enumerate("abc"))})
        >>> fit(iris, given=["target"], recipe=recipe).schema.context_features
        ('target=a', 'target=b', 'target=c')
        >>> import pandas as pd
        >>> quakes = pd.DataFrame({"latitude": [36.1, 38.3, -3.3, 61.0], "longitude": [140.0, 142.4, 95.9, -147.7]})
        >>> fitted = fit(quakes, surface="sphere", recipe={"training": {"max_steps": 5}})
        >>> fitted.measured, fitted.schema.features
        ('nats a row, per steradian', ('x', 'y', 'z'))
    """
    recipe, custom = _recipe(recipe, flow), flow is not None
    recipe.check_machine()
    started, deadline = time.monotonic(), deadline or Deadline(recipe.training.max_time)
    X, context, schema = encoded(X, context, given, Coordinates.asked(surface, columns))
    recipe = _on_surface(recipe, schema.coordinates, flow) if schema and schema.coordinates else recipe
    recipe = _of_images(recipe, schema) if schema and schema.image and not isinstance(X, Stream) else recipe
    table = streamed(X, context, sample_weight) if isinstance(X, Stream) else Table.of(X, context, sample_weight)
    run_dir = None if run_dir is None else Path(run_dir)
    if run_dir is not None:
        open_run(run_dir, _what(table, sample_weight, recipe, flow))
        deadline.earlier = spent_before(run_dir)
    _log.info("preparing %s rows of %s columns", f"{len(table.x):,}", f"{table.x.shape[1]:,}")
    context_columns = None if table.c is None else Columns.learn(table.c, table.w, **_AS_THEY_ARE)
    recipe = _supported(recipe, table, flow)
    prepared, data, curving = _prepare(table, context_columns, recipe, flow, run_dir, deadline)
    if table.stream is not None:
        data = _lengthened(data, table.stream, prepared, context_columns, recipe)
    if flow is None:
        recipe = _sized(recipe, data.count)
        flow, curve = _choose(recipe, data, run_dir, deadline)
    else:
        flow, curve = _fitting(flow, data.train), ()
    settings = _training(recipe, run_dir, deadline)
    _log.info("training%s", f" in {flow.codes.dim} latent dimensions" if isinstance(flow, Injection) else "")
    history = _trained(flow, data, recipe, settings, run_dir, progress=progress)
    deadline.earlier += history.earlier
    with single_thread(flow):
        _log.info("fitting the density and the noise")
        until = deadline.until(REFIT)
        refit = refit_density(flow, data.drawn, data.held_out, recipe.refit, seed=recipe.seed, deadline=until)
        _log.info("checking the model")
        model = Model(refit.density, prepared, context_columns, recipe.build_levels())
        figures = _figures(model, history, refit, _checked(data, deadline.until(CHECKS)), recipe)
    figures |= {"latent_dim_curve": list(curve), "curving": curving} | table.figures(weighted=sample_weight is not None)
    figures |= {"seconds": time.monotonic() - started + history.earlier}
    if run_dir is not None:
        finish_run(run_dir)
    told = Figures.model_validate(figures)
    return Fitted(model, recipe, refit.latent, refit.noise, told, history.rows, schema, custom=custom)


def _trained(
    flow: Flow, data: Split, recipe: Recipe, settings: TrainingRecipe, run_dir: Path | None, *, progress: bool
) -> History:
    return train(
        flow,
        recipe.build_objective(),
        data.long or data.train,
        data.held_out,
        settings=settings,
        weights=data.weights,
        spread=data.spread,
        seed=recipe.seed,
        progress=progress,
        run_dir=run_dir,
    )


def rows_again(fitted: Fitted, X: ArrayLike | Tensor, context: ArrayLike | Tensor | None = None) -> tuple[Rows, Rows]:
    """Return the training rows of a fit and those it held out, standardised and as it used them: integers spread.

    Args:
        fitted: a fit without sample weights.
        X: the data it was given, in the same order; of a stream its sample.
        context: the context it was given, or None.

    Returns:
        Training rows, at most 250,000 of them, and held-out rows.

    Raises:
        InputError: these are not the data of the fit.

    Example:
        >>> X = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
        >>> fitted = fit(X, recipe=Recipe().update(flow={"latent_dim": 1}, training={"max_steps": 5}))
        >>> [len(rows.x) for rows in rows_again(fitted, X)]
        [27, 3]
    """
    table, model = Table.of(X, context, None, merge=fitted.figures.stream is None), fitted.model
    if (known := fitted.figures.table) is None or known.plain() != fingerprint(*table.given):
        raise InputError("expected the table of the fit, its rows in the same order; got another; give that one")
    data = _split(table, model.columns, model.context_columns, fitted.recipe)
    return data.drawn, data.held_out


def _recipe(recipe: Recipe | Mapping[str, Any] | None, flow: Flow | None) -> Recipe:
    """Return the recipe that was given, or the usual one; of a flow of the catalogue that of its kind."""
    if isinstance(recipe, Recipe):
        return recipe
    kind = next((name for name, known in FLOWS.items() if flow is not None and type(flow) is known), None)
    return Recipe.validated({"flow": {"kind": kind}} if recipe is None and kind else recipe or {})


def _lengthened(
    data: Split, stream: Stream, columns: Columns, context_columns: Columns | None, recipe: Recipe
) -> Split:
    """Return the split with all rows of the stream to train on, but those of the sample that are held out."""
    held_out = _partition(len(stream.rows), recipe)[1].numpy()
    without = np.sort(stream.rows[held_out[: len(held_out) * data.apart]])
    long = LongRows(stream, columns, context_columns, without)
    return dataclasses.replace(data, long=long, drawn=data.drawn.thinned(_STREAMED_REFIT_ROWS))


def _what(table: Table, sample_weight: ArrayLike | Tensor | None, recipe: Recipe, flow: Flow | None) -> dict[str, Any]:
    """Return what makes a fit this one and no other."""
    rows = row_weights(sample_weight, len(table.given[0])) if table.stream is None else table.stream.table.fingerprint()
    return {
        "versions": versions(),
        "recipe": recipe.model_dump(mode="json"),
        "data": digest(fingerprint(*table.given), rows),
        "untrained flow": digest(*(weights_of(flow) if flow is not None else ())),
    }


def _of_images(recipe: Recipe, schema: Schema) -> Recipe:
    """Return the recipe for a table of images: with their shape, and convolutional networks unless others are named."""
    chosen = recipe.flow.network is None or bool(recipe.flow.network.model_fields_set)
    return recipe.update(
        columns={"image": schema.image}, **({} if chosen else {"flow": {"network": {"kind": "convolutional"}}})
    )


def _on_surface(recipe: Recipe, coordinates: Coordinates, flow: Flow | None) -> Recipe:
    """Return the recipe for rows on a known surface: with its support, and its usual flow unless another can serve it.

    Raises:
        InputError: the recipe's parts do not fit one another there.
    """
    system = coordinates.system
    if flow is not None:
        return recipe
    serves = system.surface in FLOWS[recipe.flow.kind].supports
    law = {} if serves or recipe.flow.kind != Recipe().flow.kind else {"flow": {"kind": system.flow}}
    return recipe.update(support={"kind": system.surface}, **law)


def _supported(recipe: Recipe, table: Table, flow: Flow | None) -> Recipe:
    """Return the recipe with what the rows decide of their support, once they are known to lie on it.

    Raises:
        InputError: a row lies off the support, or the objective cannot train a flow of the user's own.
    """
    if flow is not None:
        objective = recipe.build_objective()
        if not objective.serves(type(flow)):
            raise InputError(
                f"expected an objective that can train a {type(flow).__name__}; got {recipe.objective.kind!r}; name "
                f"another, as {flow.objective!r}"
            )
        if not _is_flat(flow):
            flow.rows.check(table.x, "X")
        return recipe
    support = recipe.support
    learnt = {**SUPPORTS[support.kind].learn(table.x), **support.model_dump()}
    recipe = recipe.update(support=learnt)
    recipe.build_support(table.x.shape[1]).check(table.x, "X")
    return recipe


def _preparation(recipe: Recipe, flow: Flow | None) -> dict[str, Any]:
    """Return how columns are prepared: of a known surface, or of categories, as they are."""
    on_surface = recipe.support.kind != "euclidean" if flow is None else not _is_flat(flow)
    if on_surface:
        return {**_AS_THEY_ARE, "standardise": False}
    return recipe.columns.model_dump()


def _is_flat(flow: Flow) -> bool:
    return isinstance(flow, LearnedManifold) or isinstance(flow.rows, Euclidean)


def _prepare(
    table: Table,
    context_columns: Columns | None,
    recipe: Recipe,
    flow: Flow | None,
    run_dir: Path | None,
    deadline: Deadline,
) -> tuple[Columns, Split, dict[str, float] | None]:
    """Return columns, rows, and what curving heavy-tailed columns gains after a short training, where there are any.

    A mixture says which columns may be worth curving (`Columns.learn`), the flow itself whether they are: held-out rows
    must gain significantly, at 5 %, in the density in the user's units, and samples must come no farther from the
    training rows: the tails of a curve may reach too far. In a short time no column is curved.
    """
    settings = _preparation(recipe, flow)
    settings["heavy_tails"] &= deadline.allows(_CURVING_SECONDS)

    def of(columns: Columns) -> Split:
        """Return the rows, prepared by these columns."""
        return _split(table, columns, context_columns, recipe)

    columns = Columns.learn(table.x, table.w, **settings)
    if not columns.heavy_tailed:
        return columns, of(columns), None
    straight = Columns.learn(table.x, table.w, **{**settings, "heavy_tails": False})
    plain = of(straight)
    start, drawn = start_latent_dim(plain.train.x), plain.drawn.thinned(_SAMPLES)
    del plain  # of() gives the rows anew each time, since those of both need twice the memory

    def tried(columns: Columns, folder: Path | None) -> _Trial:
        """Return what comes of these columns after a short training."""
        data = of(columns)
        density, rows = _short_fit(data, start, recipe, flow, folder), judges(data)
        score = density.log_prob(rows.x, rows.c) + columns.log_det(columns.restore(rows.x))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            samples = straight.standardise(columns.restore(density.sample(len(drawn.x), drawn.c)))
        finite = bool(samples.isfinite().all())
        return _Trial(score.tolist(), energy_distance(samples, drawn.x) if finite else math.inf)

    _log.info("trying curves for %s heavy-tailed columns", len(columns.heavy_tailed))
    one = _Trial(*remembered(run_dir, "curved", partial(tried, columns)))
    other = _Trial(*remembered(run_dir, "straight", partial(tried, straight)))
    gain = torch.tensor(one.score) - torch.tensor(other.score)
    mean, error = float(gain.mean()), float(gain.std(correction=0)) / len(gain) ** 0.5
    better = mean > _SIGNIFICANT * error and one.distance <= other.distance
    chosen = columns if better else straight
    distances = {"energy_distance": one.distance, "energy_distance_straight": other.distance}
    return chosen, of(chosen), {"gain": mean, "standard_error": error, **distances}


class _Trial(NamedTuple):
    """After a short training: held-out log density in the user's units, in nats; energy distance of samples."""

    score: list[float]
    distance: float


def _short_fit(data: Split, start: int, recipe: Recipe, flow: Flow | None, run_dir: Path | None) -> Density:
    """Return what a short training gives, at the latent dimension `start` where none is asked for."""
    if flow is None:
        recipe = _sized(recipe, len(data.train.x))
        trial = _build(recipe, data, _asked(recipe, data) or start)
    else:
        trial = copy.deepcopy(_fitting(flow, data.train))
    density = short_fit(trial, recipe, data, steps=_TRIAL_STEPS, run_dir=run_dir)
    gc.collect()  # a trainer of Lightning refers to itself, and would hold the rows until then
    return density


def _split(table: Table, columns: Columns, context_columns: Columns | None, recipe: Recipe) -> Split:
    """Split rows into training and held-out rows; with fewer than 20 rows every row is both."""
    (train, held_out), w, seed = _partition(len(table.x), recipe), table.w, recipe.seed

    def rows(index: Tensor, dtype: torch.dtype = torch.float64) -> Rows:
        """Return the rows of these numbers, prepared."""
        x = _prepared(columns, table.x, index, dtype)
        if table.c is None or context_columns is None:
            return Rows(x)
        return Rows(x, _prepared(context_columns, table.c, index, dtype))

    weights = None if w is None else w[train]
    judging = _spread(rows(_drawn(held_out, w, seed)), columns, seed)
    thinned = _drawn(train, w, seed)[:: max(1, math.ceil(len(train) / _REFIT_ROWS))]
    drawn = _spread(rows(thinned), columns, seed + 1)
    spread = columns.spread if bool(columns.integer.any()) else None
    dtype = torch.float64 if recipe.training.precision == "64-true" else torch.float32
    return Split(rows(train, dtype), judging, drawn, weights, spread, apart=len(train) < len(table.x))


def _partition(n: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return the numbers of the training rows and of those held out."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(recipe.seed))
    most = max(1, round(recipe.training.validation_fraction * n)) if n >= _FEWEST_ROWS_TO_SPLIT else 0
    return order[most:], order[:most] if most else order


def _prepared(columns: Columns, x: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Standardise rows by their numbers, in float64, some at a time, so that no table is in memory twice."""
    prepared, size = torch.empty(len(index), columns.dim, dtype=dtype), rows_at_once(x.shape[1])
    for some, at in zip(prepared.split(size), index.split(size), strict=True):
        some.copy_(columns.standardise(doubled(x[at])))
    return prepared


def _drawn(index: Tensor, w: Tensor | None, seed: int) -> Tensor:
    """Return row numbers as often as they weigh: repeated where weights are counts, else drawn with replacement."""
    if w is None:
        return index
    counts = w[index] / w[index].min()
    if bool((counts - counts.round()).abs().max() < _WHOLE) and float(counts.sum()) <= LARGEST_MERGE:
        return index.repeat_interleave(counts.round().long())
    generator = torch.Generator().manual_seed(seed)
    return index[torch.multinomial(w[index], len(index), replacement=True, generator=generator)]


def _spread(rows: Rows, columns: Columns, seed: int) -> Rows:
    """Spread integer columns evenly over their unit around each value: a density needs a continuous variable."""
    if not bool(columns.integer.any()):
        return rows
    u = torch.rand(rows.x.shape, generator=torch.Generator().manual_seed(seed), dtype=rows.x.dtype)
    return Rows(columns.spread(rows.x, u - 0.5), rows.c)


def _fitting(flow: Flow, rows: Rows) -> Flow:
    D, C = rows.x.shape[1], 0 if rows.c is None else rows.c.shape[1]
    if (flow.data_dim, flow.context_dim) != (D, C):
        raise InputError(
            f"expected a flow for {D} columns that vary and {C} context columns; got one for {flow.data_dim} and "
            f"{flow.context_dim}; build it for these"
        )
    vet(flow)
    return flow


def _sized(recipe: Recipe, n: int) -> Recipe:
    """Return the recipe with what follows from the data where it leaves that open.

    Networks get the shape of the images, and are narrower for few rows; of images a sixteenth of a batch has probes.
    """
    network, objective, image = recipe.flow.network, recipe.objective, recipe.columns.image
    networks = {"shape": image, "width": _NARROW if n < _FEW_ROWS else None}
    missing = {} if network is None else _missing(network, NETWORKS, networks)
    probed = _missing(objective, OBJECTIVES, {"probed": _PROBED_IMAGES if image else None})
    sections = {"flow": {"network": {**network.model_dump(), **missing}}} if network and missing else {}
    return recipe.update(**sections, **({"objective": {**objective.model_dump(), **probed}} if probed else {}))


def _missing(part: Part, registry: Mapping[str, Callable[..., Any]], options: dict[str, Any]) -> dict[str, Any]:
    """Return those of the options that a part takes, and has not been given."""
    taken = inspect.signature(registry[part.kind]).parameters.keys() - part.options.keys()
    return {name: value for name, value in options.items() if name in taken and value is not None}


def _choose(
    recipe: Recipe, data: Split, run_dir: Path | None, deadline: Deadline
) -> tuple[Flow, tuple[dict[str, float], ...]]:
    """Return the untrained flow, and the curve that chose its latent dimension where the recipe leaves that open."""

    def build(latent_dim: int) -> Flow:
        """Build an untrained flow of this latent dimension."""
        return _build(recipe, data, latent_dim)

    if asked := _asked(recipe, data):
        return build(asked), ()
    _log.info("searching for the latent dimension")
    sweep = sweep_latent_dim(build, recipe, data, run_dir=run_dir, deadline=deadline)
    return build(sweep.chosen), sweep.curve


def _training(recipe: Recipe, run_dir: Path | None, deadline: Deadline) -> TrainingRecipe:
    """Return the settings of the training, its time what is left for it; the same when it is resumed."""
    if deadline.seconds is None:
        return recipe.training
    least = LEAST_TRAINING * deadline.seconds
    if run_dir is not None:
        note_spent(run_dir, deadline.spent())
    seconds = remembered(run_dir, "training_seconds", lambda _: max(least, deadline.left(TRAINING)))
    expected = deadline.spent() + seconds + (1 - TRAINING) * deadline.seconds
    if expected > _LATE * deadline.seconds:
        _log.warning(
            "what comes before the training took %.0f s of the %.0f s; with a training of %.0f s the fit takes about "
            "%.0f s",
            *(deadline.spent(), deadline.seconds, seconds, expected),
        )
    return recipe.training.model_copy(update={"max_time": seconds})


def _checked(data: Split, limit: Deadline) -> Split:
    """Return the rows that figures and checks are computed on; in a limited time fewer."""
    most = limit.rows(_FIGURES_PER_SECOND, _FEWEST_FIGURES)
    if most is None:
        return data
    return dataclasses.replace(data, drawn=data.drawn.thinned(4 * most), held_out=data.held_out.thinned(most))


def _asked(recipe: Recipe, data: Split) -> int | None:
    """Return the latent dimension that recipe and flow fix; None where it is to be chosen."""
    if recipe.flow.latent_dim == "auto":
        return None if issubclass(FLOWS[recipe.flow.kind], LearnedManifold) else data.train.x.shape[1]
    return recipe.flow.latent_dim


def _build(recipe: Recipe, data: Split, latent_dim: int) -> Flow:
    n, data_dim = data.train.x.shape
    if n < latent_dim:
        raise InputError(f"expected at least as many rows as latent dimensions, {latent_dim}; got {n}; choose fewer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        flow = recipe.build_flow(data_dim, latent_dim, 0 if data.train.c is None else data.train.c.shape[1])
        if recipe.flow.initialise == "auto":
            with torch.no_grad():
                flow.start(data.drawn.thinned(_REFIT_ROWS).to(torch.float64))
    return flow


def _health(density: Density, data: Split, history: History, recipe: Recipe) -> Health:
    """Return the verdicts on the training and on what came of it."""
    objective = recipe.build_objective()
    surrogate = objective.surrogate if isinstance(objective, FreeForm) else None
    beta = _kept(history)["beta"] if objective.follows_likelihood else None
    found = examine(density, data.drawn, data.held_out, beta=beta, surrogate=surrogate, seed=recipe.seed)
    n, sentence = len(data.train.x), "every row was trained on, so that none could judge; give at least 20"
    few = () if data.apart else (Verdict("rows", "warn", n, _FEWEST_ROWS_TO_SPLIT, sentence),)
    return Health((steadiness(history.steps, history.skipped, history.retreats), *few, *found.verdicts))


def _kept(history: History) -> dict[str, float | int]:
    """Return the record of the validation whose weights were kept."""
    return next(row for row in history.rows if row["step"] == history.best_step)


def _beta_reason(history: History, recipe: Recipe, flow: Flow) -> str | None:
    objective = recipe.build_objective()
    if objective.beta is None:
        return None
    if objective.beta_range is not None:
        return f"the highest of the range from {objective.beta_range.low:g} on, in which every row had its own"
    if not objective.beta_follows:
        return "as given"
    before = [row for row in history.rows if row["step"] < history.best_step and math.isfinite(row["reconstruction"])]
    if not isinstance(flow, LearnedManifold):
        return "of a law of rows always the same: encoder and decoder are only to be inverse to one another"
    if not before:
        return "where auto begins: no later weights were better on held-out rows"
    row = min(before, key=lambda row: row["reconstruction"])
    sigma = flow.sigma(row["reconstruction"])
    return f"1/(2 sigma^2), sigma = {sigma:.3g} the smallest held-out residual per direction, at step {row['step']:,}"


def _figures(model: Model, history: History, refit: Refit, data: Split, recipe: Recipe) -> dict[str, Any]:
    best, held_out = _kept(history), data.held_out.thinned(model.flow.affordable(_FIGURE_ROWS, times=80))
    x = model.columns.restore(held_out.x)
    c = None if held_out.c is None or model.context_columns is None else model.context_columns.restore(held_out.c)
    return {
        "training_seconds": history.seconds,
        "steps": history.steps,
        "best_step": history.best_step,
        "skipped_steps": history.skipped,
        "retreats": history.retreats,
        "beta": best.get("beta"),
        "beta_reason": _beta_reason(history, recipe, model.flow),
        "latent_dim": model.flow.codes.dim if isinstance(model.flow, Injection) else None,
        "heavy_tailed": model.columns.heavy_tailed,
        "measure": model.density.rows.measure,
        "validation": {
            **({"reconstruction_mse": best["reconstruction"]} if "reconstruction" in best else {}),
            **{f"log_density_{name}": value for name, value in _held_out_means(model, x, c).items()},
        },
        "density_candidates": list(refit.candidates),
        "health": _health(refit.density, data, history, recipe),
    }


def _held_out_means(model: Model, x: Tensor, c: Tensor | None) -> dict[str, float]:
    """Return the mean log density of rows by each evaluation of the model but importance sampling, which is slow."""
    names = [name for name in model.density.names if name != "ambient"]
    return {name: float(model.log_prob(x, c, density=name).mean()) for name in names}
