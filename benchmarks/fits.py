"""What measures of fits share: the data of a spec, a recipe fitted to them, other densities on the same networks."""

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.experiments.setting import Spec, Value
from isthmus.data import DATASETS, Dataset
from isthmus.fitting import fit, rows_again
from isthmus.flow import Context
from isthmus.model import Model
from isthmus.recipe import Recipe, RefitRecipe
from isthmus.refit import refit_density
from isthmus.store import Fitted

__all__ = ["context", "cost", "dataset", "fitted", "refitted", "thinned"]

Rows = TypeVar("Rows", Tensor, Context)

_SETS = 2  # kept in memory


@lru_cache(maxsize=_SETS)
def _dataset(name: str, options: tuple[tuple[str, Any], ...]) -> Dataset:
    return DATASETS[name](**dict(options))


def dataset(spec: Spec) -> Dataset:
    """The data of `{name: ..., **options}`, the last ones kept; at most `train_rows` and `test_rows` of their rows."""
    options = dict(spec)
    name, train_rows, test_rows = (options.pop(key, None) for key in ("name", "train_rows", "test_rows"))
    data = _dataset(name, tuple(sorted(options.items())))
    train, test = train_rows or math.inf, test_rows or math.inf
    return replace(
        data,
        train=thinned(data.train, train),
        test=thinned(data.test, test),
        train_context=thinned(data.train_context, train),
        test_context=thinned(data.test_context, test),
    )


def thinned(rows: Rows, most: float) -> Rows:
    """At most so many of the rows, evenly spaced; None where there are none."""
    if rows is None or len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, int(most)).round().long()]


def context(spec: Spec, rows: Context) -> Context:
    """The context of rows where the spec's `conditional` asks for it, else none."""
    return rows if spec.get("conditional") else None


def fitted(spec: Spec, seed: int) -> tuple[Dataset, Fitted]:
    """The data of a run, and its recipe fitted to their training rows, given their context if `conditional`.

    With `price`, the seconds of a step, it has as many steps as `budget` seconds are worth: what else a machine does
    then decides nothing.
    """
    data = dataset(spec["data"])
    recipe = Recipe.validated({**spec["recipe"], "seed": seed})
    if "price" in spec:
        recipe = recipe.update(training={"max_steps": max(1, round(spec["budget"] / spec["price"]))})
    return data, fit(data.train, context(spec, data.train_context), recipe=recipe)


def refitted(found: Fitted, X: Tensor, c: Context, density: Spec, seed: int) -> tuple[Model, dict[str, Value]]:
    """The model with another density on the same networks, and what kinds its parts are; its own if none is asked."""
    if not density:
        return found.model, {"latent": _kind(found.latent), "noise": _kind(found.noise)}
    train, held_out = rows_again(found, X, c)
    refit = refit_density(found.model.flow, train, held_out, RefitRecipe(**density), seed=seed)
    model = Model(refit.density, found.model.columns, found.model.context_columns)
    return model, {"latent": _kind(refit.latent), "noise": _kind(refit.noise)}


def _kind(part: Any) -> str:
    return "" if part is None else " ".join(str(value) for value in part.model_dump().values())


def cost(found: Fitted) -> dict[str, Value]:
    """Time, size and health of a fit."""
    figures, flow = found.figures, found.model.flow
    health = figures.health
    return {
        "seconds": figures.seconds,
        "steps": figures.steps,
        "best_step": figures.best_step,
        "ms_per_step": 1e3 * figures.training_seconds / max(1, figures.steps),
        "parameters": sum(p.numel() for p in flow.parameters()),
        "latent_dim": figures.latent_dim,
        "beta": figures.beta,
        "health": health.status,
        "failing": ", ".join(v.name for v in health.failing),
    }
