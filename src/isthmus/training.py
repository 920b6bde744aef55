"""Training: a thin Lightning module, and `fit`, from a table to a finished model.

Batches are cut by index from tensors that stay in memory, one permutation an epoch; input noise is drawn afresh for
every batch. When to stop and which weights to keep is decided on held-out rows by values that mean something: the exact
change of volume and the reconstruction error, joined in the ambient density; never by a surrogate. This is the only
module that imports Lightning.

Rules behind `auto`, from the number of rows n and columns D:

* steps: `30 sqrt(n)` epochs' worth of care rather than epochs, kept within 2,000 .. 10,000;
* rows a step: n / 8 within 32 .. 512;
* input noise: half the held-out residual's standard deviation per direction off the manifold, followed as it falls;
* beta: 1/(2 sigma^2), sigma the smallest residual's standard deviation seen so far per direction off the manifold; a
  first phase trains reconstruction alone, so that beta starts from the noise floor;
* latent dimension: the maximum-likelihood estimate of Levina and Bickel, see `isthmus.diagnostics`.
"""

import copy
import importlib.util
import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from isthmus.ambient import Ambient, IsotropicNoise
from isthmus.diagnostics import intrinsic_dimension
from isthmus.errors import InputError
from isthmus.flow import Context, Flow
from isthmus.flows import FreeFormFlow
from isthmus.model import Columns, Model
from isthmus.networks import start_at_principal_components
from isthmus.objective import Objective
from isthmus.recipe import Recipe, TrainingRecipe
from isthmus.refit import Refit, Rows, refit_density
from isthmus.store import Fitted, append_row

__all__ = ["fit", "train"]

_VALIDATION_ROWS = 1_000
_REFIT_ROWS = 50_000
_LARGEST_MERGE = 100_000  # rows; sorting more of them to find equal ones costs more than it is worth
_FEWEST_ROWS_TO_SPLIT = 20
_LARGEST_BETA = 1e4
_COMPILE_STEPS = 20_000  # compiling takes 30 to 60 s and saves about 2 ms a step for small networks


Row = dict[str, float | int]


class Batch(NamedTuple):
    """Some rows: data (batch, D), context (batch, C) or None, weights (batch,) or None."""

    x: Float[Tensor, "batch D"]
    c: Context
    w: Float[Tensor, " batch"] | None


@dataclass
class History:
    """What happened in a training: one record a validation, and the step whose weights were kept."""

    rows: list[Row] = field(default_factory=list)
    best_step: int = 0
    steps: int = 0
    skipped: int = 0
    seconds: float = 0.0


class Batches(IterableDataset):
    """`steps` batches of rows, in one random order an epoch; a rest shorter than a batch is left out.

    Args:
        x: data, (n, D).
        c: context, (n, C), or None.
        w: weights, (n,), or None.
        size: rows a batch; all rows if there are fewer.
        steps: number of batches.
        seed: of the order.
    """

    def __init__(self, x: Tensor, c: Context, w: Tensor | None, *, size: int, steps: int, seed: int) -> None:
        self.x, self.c, self.w = x, c, w
        self.steps, self.seed = steps, seed
        self.size = min(size, x.shape[0])

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed)
        per_epoch = len(self.x) // self.size
        for step in range(self.steps):
            if step % per_epoch == 0:
                order = torch.randperm(len(self.x), generator=generator)
            start = step % per_epoch * self.size
            index = order[start : start + self.size]
            c, w = (None if t is None else t[index] for t in (self.c, self.w))
            yield Batch(self.x[index], c, w)


def _one_cycle(progress: float) -> float:
    """Share of the highest learning rate: up over the first tenth, then down a cosine to a thousandth."""
    if progress < 0.1:
        return 0.04 + 0.96 * progress / 0.1
    return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - 0.1) / 0.9)))


@dataclass(frozen=True)
class Plan:
    """The numbers that `auto` stands for in one training."""

    max_steps: int
    batch_size: int
    validate_every: int
    noise: float
    noise_follows: bool
    compile: bool
    integer_step: Float[Tensor, " D"]

    @classmethod
    def of(cls, settings: TrainingRecipe, n: int, integer_step: Float[Tensor, " D"]) -> "Plan":
        """Resolve the settings for n training rows.

        Args:
            settings: the recipe's section.
            n: number of training rows.
            integer_step: width of an integer in standardised units for each column, 0 for others.

        Returns:
            The plan.

        Example:
            >>> Plan.of(TrainingRecipe(), 1000, torch.zeros(3)).max_steps
            2000
        """
        steps = min(10_000, max(2_000, int(30 * n**0.5))) if settings.max_steps == "auto" else settings.max_steps
        size = min(512, max(32, n // 8)) if settings.batch_size == "auto" else settings.batch_size
        noise = 0.1 if settings.noise == "auto" else settings.noise
        compiled = steps >= _COMPILE_STEPS if settings.compile == "auto" else settings.compile
        every = max(1, steps // settings.validations)
        return cls(steps, size, every, noise, settings.noise == "auto", compiled, integer_step)


class _Trainee(lightning.LightningModule):
    """One training: the objective on noisy batches, the schedule, and the held-out score that decides."""

    def __init__(
        self, flow: Flow, objective: Objective, settings: TrainingRecipe, plan: "Plan", held_out: Rows
    ) -> None:
        super().__init__()
        self.flow, self.objective, self.settings, self.plan, self.held_out = flow, objective, settings, plan, held_out
        self.history = History()
        self.log_file: Path | None = None
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.without_improvement = 0
        self.noise, self.smallest_sigma = plan.noise, math.inf
        self.started = time.monotonic()
        self.compiled = torch.compile(self._step, fullgraph=True) if plan.compile else None

    def progress(self) -> float:
        """How much of the training has passed, in [0, 1], by steps or by the clock, whichever is further."""
        by_steps = self.trainer.global_step / self.plan.max_steps
        most = self.settings.max_time
        return min(1.0, by_steps if most is None else max(by_steps, (time.monotonic() - self.started) / most))

    def on_train_start(self) -> None:
        """Start the clock and score the untrained flow, so that there always is a best state."""
        self.started = time.monotonic()
        self.held_out = self.held_out.to(self.device)
        self._validate()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Mean objective of a batch with fresh noise."""
        x, c, w = batch
        x = x + self.noise * torch.randn_like(x) + self.plan.integer_step.to(x) * (torch.rand_like(x) - 0.5)
        total = self._total(x, c, torch.tensor(self._likelihood_weight(), dtype=x.dtype, device=x.device))
        return total.mean() if w is None else (w * total).mean()

    def _likelihood_weight(self) -> float:
        """0 for the first half of the warm-up, which finds the noise floor, then a ramp to 1."""
        warm_up = self.settings.warm_up
        return 1.0 if not warm_up else min(1.0, max(0.0, 2 * self.progress() / warm_up - 1))

    def _total(self, x: Tensor, c: Context, weight: Tensor) -> Tensor:
        if self.compiled is None:
            return self._step(x, c, weight)
        try:
            return self.compiled(x, c, weight)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:  # what the networks themselves raise comes again below
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"torch.compile is off, since it fails on these networks: {reason}", stacklevel=2)
            self.compiled = None
            return self._step(x, c, weight)

    def _step(self, x: Tensor, c: Tensor | None, weight: Tensor) -> Tensor:
        return self.objective(self.flow, x, c, weight).total

    def configure_optimizers(self) -> Any:
        """AdamW, its learning rate a function of the progress."""
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.flow.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        if settings.schedule == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: _one_cycle(self.progress()))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip the gradient's norm; a step whose gradient is not finite is left out."""
        limit = self.settings.gradient_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.flow.parameters(), limit)
        if not torch.isfinite(norm):
            optimizer.zero_grad()
            self.history.skipped += 1

    def on_train_batch_end(self, *_: Any) -> None:
        """Score held-out rows now and then; stop when they no longer improve or the time is up."""
        step = self.trainer.global_step
        if step % self.plan.validate_every == 0 or self.progress() >= 1:
            self._validate()
        if self.without_improvement >= self.settings.patience or self.progress() >= 1:
            self.trainer.should_stop = True

    @torch.no_grad()
    def _validate(self) -> None:
        flow = copy.deepcopy(self.flow).double().eval()
        x, c = self.held_out.x, self.held_out.c
        z, x_hat, log_volume = flow.volume(x, c)
        reconstruction = float((x - x_hat).square().sum(1).mean())
        sigma = max(reconstruction / max(1, flow.data_dim - flow.latent_dim), 1e-12) ** 0.5
        row: Row = {
            "step": self.trainer.global_step,
            "seconds": time.monotonic() - self.started,
            "reconstruction": reconstruction,
            "manifold_log_likelihood": float((flow.base(c).log_prob(z) - log_volume).mean()),
            "ambient_log_likelihood": _ambient(flow, sigma, x, c),
            "noise": self.noise,
            "beta": float(self.objective.beta),
            "learning_rate": self.trainer.optimizers[0].param_groups[0]["lr"],
        }
        self.history.rows.append(row)
        self.log_dict({"nats": row["ambient_log_likelihood"], "reconstruction": reconstruction}, prog_bar=True)
        if self.log_file is not None:
            append_row(self.log_file, row)
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in row.items() if name != "step"}, int(row["step"]))
        self._keep_best(row)
        self._follow(sigma)

    def _follow(self, sigma: float) -> None:
        """Set what `auto` ties to the residual; beta only ever rises, as the smallest residual is the noise floor."""
        if self.plan.noise_follows:
            self.noise = 0.5 * sigma
        self.smallest_sigma = min(self.smallest_sigma, sigma)
        if self.objective.beta_follows:
            self.objective.beta.fill_(min(_LARGEST_BETA, 0.5 / self.smallest_sigma**2))

    def _keep_best(self, row: Row) -> None:
        score = row["ambient_log_likelihood"]
        self.without_improvement += 1
        if self.best is None or score > self.best[0]:
            state = {name: value.detach().clone() for name, value in self.flow.state_dict().items()}
            self.best, self.history.best_step, self.without_improvement = (score, state), int(row["step"]), 0


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice on loaders and loggers, which a user of `fit` can do nothing about."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for category in (UserWarning, FutureWarning, DeprecationWarning):
                warnings.filterwarnings("ignore", category=category, module=r"lightning|torch|typing_extensions")
            yield
    finally:
        logger.setLevel(level)


def _log_file(folder: str | Path | None) -> Path | None:
    """An empty `log.csv` in the folder, which is made if need be."""
    if folder is None:
        return None
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "log.csv").write_text("")
    except OSError as error:
        raise InputError(f"expected a folder for logs that can be written; got {folder}: {error.strerror}") from error
    return Path(folder) / "log.csv"


def _tensorboard(folder: str | Path | None) -> Any:
    if folder is None or importlib.util.find_spec("tensorboard") is None:
        return False
    return TensorBoardLogger(str(folder), name="", version="")


def _ambient(flow: Flow, sigma: float, x: Tensor, c: Tensor | None) -> float:
    try:
        value = Ambient(flow, IsotropicNoise(flow.data_dim, sigma).to(x)).linearised(x, c).mean()
    except torch.linalg.LinAlgError:  # a Jacobian with NaN has no Cholesky factor
        return -math.inf
    return float(value) if torch.isfinite(value) else -math.inf


def train(
    flow: Flow,
    objective: Objective,
    train: Rows,
    held_out: Rows,
    *,
    settings: TrainingRecipe | None = None,
    weights: Float[Tensor, " n"] | None = None,
    integer_step: Float[Tensor, " D"] | None = None,
    seed: int = 0,
    progress: bool = False,
    log_dir: str | Path | None = None,
) -> History:
    """Train a flow in place and leave it with the weights that score best on the held-out rows.

    Args:
        flow: any flow; changed in place.
        objective: how it is trained.
        train: standardised rows.
        held_out: standardised rows that decide; at most 1,000 evenly spaced ones are used.
        settings: the recipe's section `training`; its defaults if not given.
        weights: one weight a training row, (n,), mean 1.
        integer_step: width of an integer in standardised units for each column, 0 for others.
        seed: of batches, noise and probes; the global random state is left as it was.
        progress: whether to show a progress bar on standard error.
        log_dir: where to write `log.csv`, and events for TensorBoard where that is installed, while it runs.

    Returns:
        The history.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import mlp_pair
        >>> from isthmus.objective import FreeForm
        >>> flow, rows = FreeFormFlow(*mlp_pair(3, 1, width=8), data_dim=3, latent_dim=1), Rows(torch.randn(64, 3))
        >>> train(flow, FreeForm(), rows, rows, settings=TrainingRecipe(max_steps=5)).steps
        5
    """
    settings = settings or TrainingRecipe()
    dtype = torch.float64 if settings.precision == "64-true" else torch.float32
    step = torch.zeros(flow.data_dim) if integer_step is None else integer_step
    plan = Plan.of(settings, train.x.shape[0], step.to(dtype))
    c, w = (None if t is None else t.to(dtype) for t in (train.c, weights))
    with torch.random.fork_rng(devices=[]), _quiet_lightning():
        torch.manual_seed(seed)
        trainee = _Trainee(flow, objective, settings, plan, held_out.thinned(_VALIDATION_ROWS).to(torch.float64))
        trainee.log_file = _log_file(log_dir)
        trainer = lightning.Trainer(
            max_steps=plan.max_steps,
            accelerator=settings.accelerator,
            devices=1,
            precision=settings.precision,
            logger=_tensorboard(log_dir),
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            callbacks=[RichProgressBar()] if progress else [],
        )
        batches = Batches(train.x.to(dtype), c, w, size=plan.batch_size, steps=plan.max_steps, seed=seed)
        trainer.fit(trainee, DataLoader(batches, batch_size=None))
    history = trainee.history
    history.steps, history.seconds = trainer.global_step, time.monotonic() - trainee.started
    if trainee.best is not None:
        flow.load_state_dict(trainee.best[1])
    return history


def fit(
    X: ArrayLike,
    context: ArrayLike | None = None,
    *,
    recipe: Recipe | None = None,
    flow: Flow | None = None,
    sample_weight: ArrayLike | None = None,
    progress: bool = False,
    log_dir: str | Path | None = None,
) -> Fitted:
    """From a table to a finished model: prepare columns, train, refit latent density and noise.

    Args:
        X: data in the user's units, (n, columns), finite numbers.
        context: what to condition on, (n, C), or None.
        recipe: everything else; its defaults if not given.
        flow: a flow of your own to train, for as many columns as vary in X; by default the recipe builds one.
        sample_weight: one weight >= 0 a row, (n,); a weight of 2 is the same as the row twice.
        progress: whether to show a progress bar on standard error.
        log_dir: where to write `log.csv`, and events for TensorBoard where that is installed, while it runs.

    Returns:
        The model with its recipe, history and held-out figures.

    Raises:
        InputError: X is no finite matrix, has too few rows, or does not fit the flow or the latent dimension.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> recipe = Recipe().update(flow={"latent_dim": 2}, training={"max_steps": 20})
        >>> fitted = fit(load_iris().data, recipe=recipe)
        >>> fitted.model.sample(3).shape, fitted.model.log_prob(torch.as_tensor(load_iris().data)).shape
        (torch.Size([3, 4]), torch.Size([150]))
    """
    recipe, custom = recipe or Recipe(), flow is not None
    started = time.monotonic()
    table = _Table.of(X, context, sample_weight)
    columns = Columns.learn(
        table.x, table.w, standardise=recipe.columns.standardise, dequantise=recipe.columns.dequantise
    )
    context_columns = None if table.c is None else Columns.learn(table.c, table.w, dequantise=False, drop=False)
    c = None if table.c is None or context_columns is None else context_columns.standardise(table.c)
    train_rows, held_out, weights = _split(Rows(columns.standardise(table.x), c), table.w, recipe)
    step = columns.integer_step
    held_out = _spread(held_out, step, recipe.seed)
    flow = _build(recipe, train_rows) if flow is None else _fitting(flow, train_rows)
    history = train(
        flow,
        recipe.build_objective(),
        train_rows,
        held_out,
        settings=recipe.training,
        weights=weights,
        integer_step=step,
        seed=recipe.seed,
        progress=progress,
        log_dir=log_dir,
    )
    drawn = _spread(_drawn(train_rows, weights, recipe.seed).thinned(_REFIT_ROWS), step, recipe.seed + 1)
    refit = refit_density(flow, drawn, held_out, recipe.density, seed=recipe.seed)
    model, figures = Model(refit.ambient, columns, context_columns), _figures(history, refit, columns, started)
    return Fitted(model, recipe, refit.latent, refit.noise, figures, history.rows, custom=custom)


def matrix(values: ArrayLike, what: str) -> Float[Tensor, "n columns"]:
    """A user's table as a float64 tensor, checked; the user's own array is never written to.

    Args:
        values: numbers, (n, columns).
        what: what to call it in messages.

    Returns:
        (n, columns), float64.

    Raises:
        InputError: it is not a matrix of finite numbers, or is empty.

    Example:
        >>> matrix([[1, 2]], "X")
        tensor([[1., 2.]], dtype=torch.float64)
    """
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected numbers in {what}; got {error}; convert or drop the other columns") from error
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"expected {what} of shape (rows, columns); got shape {array.shape}; reshape it")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        got = f"{array[row, column]} in row {row}, column {column}"
        raise InputError(f"expected finite numbers in {what}; got {got}; impute or drop it")
    return torch.from_numpy(array)


@dataclass(frozen=True)
class _Table:
    """A user's rows: data, context, and weights of mean 1 (None where all are equal)."""

    x: Tensor
    c: Tensor | None
    w: Tensor | None

    @classmethod
    def of(cls, X: ArrayLike, context: ArrayLike | None, sample_weight: ArrayLike | None) -> "_Table":
        """Check the arrays, drop rows of weight 0, and merge equal rows, so that a weight is a repetition."""
        x, c = matrix(X, "X"), None if context is None else matrix(context, "context")
        if c is not None and len(c) != len(x):
            raise InputError(f"expected one context row for each of {len(x)} rows; got {len(c)}; give as many")
        w = _weights(sample_weight, len(x))
        if w is None and len(x) > _LARGEST_MERGE:
            return cls(x, c, None)
        D, rows = x.shape[1], x if c is None else torch.cat([x, c], 1)
        w = torch.ones(len(x), dtype=torch.float64) if w is None else w
        rows, w = rows[w > 0], w[w > 0]
        unique, inverse = torch.unique(rows, dim=0, return_inverse=True)
        if len(unique) == len(rows) and bool((w == w[0]).all()):
            return cls(rows[:, :D], None if c is None else rows[:, D:], None)
        total = torch.zeros(len(unique), dtype=torch.float64).index_add(0, inverse, w)
        return cls(unique[:, :D], None if c is None else unique[:, D:], total * len(unique) / total.sum())


def _weights(values: ArrayLike | None, n: int) -> Tensor | None:
    if values is None:
        return None
    w = torch.from_numpy(np.array(values, dtype=np.float64))
    if w.shape != (n,) or not bool(torch.isfinite(w).all()) or bool((w < 0).any()) or float(w.sum()) == 0:
        raise InputError(f"expected {n} weights >= 0, not all zero; got shape {tuple(w.shape)}; give one for each row")
    return w


def _split(rows: Rows, w: Tensor | None, recipe: Recipe) -> tuple[Rows, Rows, Tensor | None]:
    """Training rows, held-out rows and the former's weights; with fewer than 20 rows every row is both."""
    n = len(rows.x)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(recipe.seed))
    most = max(1, round(recipe.training.validation_fraction * n)) if n >= _FEWEST_ROWS_TO_SPLIT else 0
    train, held_out = order[most:], order[:most] if most else order
    if w is None:
        return rows[train], rows[held_out], None
    return rows[train], _drawn(rows[held_out], w[held_out], recipe.seed), w[train]


def _drawn(rows: Rows, w: Tensor | None, seed: int) -> Rows:
    """As many rows, drawn with replacement by weight."""
    if w is None:
        return rows
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.multinomial(w, len(w), replacement=True, generator=generator)]


def _spread(rows: Rows, step: Float[Tensor, " D"], seed: int) -> Rows:
    """Integer columns spread evenly over their unit around each value: a density needs a continuous variable."""
    u = torch.rand(rows.x.shape, generator=torch.Generator().manual_seed(seed), dtype=rows.x.dtype)
    return Rows(rows.x + step * (u - 0.5), rows.c)


def _fitting(flow: Flow, rows: Rows) -> Flow:
    D, C = rows.x.shape[1], 0 if rows.c is None else rows.c.shape[1]
    if (flow.data_dim, flow.context_dim) != (D, C):
        raise InputError(
            f"expected a flow for {D} columns that vary and {C} context columns; got one for {flow.data_dim} and "
            f"{flow.context_dim}; build it for these"
        )
    return flow


def _build(recipe: Recipe, rows: Rows) -> Flow:
    n, data_dim = rows.x.shape
    asked = recipe.flow.latent_dim
    latent_dim = min(data_dim, n, max(1, round(intrinsic_dimension(rows.x)))) if asked == "auto" else asked
    if n < latent_dim:
        raise InputError(f"expected at least as many rows as latent dimensions, {latent_dim}; got {n}; choose fewer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        flow = recipe.build_flow(data_dim, latent_dim, 0 if rows.c is None else rows.c.shape[1])
    if recipe.flow.initialise == "auto" and isinstance(flow, FreeFormFlow):
        start_at_principal_components(flow.encoder, flow.decoder, rows.x)
    return flow


def _figures(history: History, refit: Refit, columns: Columns, started: float) -> dict[str, Any]:
    best = next(row for row in history.rows if row["step"] == history.best_step)
    return {
        "seconds": time.monotonic() - started,
        "training_seconds": history.seconds,
        "steps": history.steps,
        "best_step": history.best_step,
        "skipped_steps": history.skipped,
        "beta": best["beta"],
        "latent_dim": refit.ambient.flow.latent_dim,
        "validation": {
            "reconstruction_mse": best["reconstruction"],
            "manifold_log_likelihood": best["manifold_log_likelihood"],
            "ambient_log_likelihood_linearised": max(c["log_likelihood"] for c in refit.candidates)
            + float(columns.log_det),
        },
        "density_candidates": list(refit.candidates),
    }
