"""Training a flow on standardised rows: a thin Lightning module.

Batches are cut by index from tensors that stay in memory, one permutation an epoch; input noise is drawn afresh for
every batch. When to stop and which weights to keep is decided on held-out rows by a value that means something: the
ambient density, which joins the exact change of volume and the reconstruction error; never by a surrogate. (The density
after a refit with one Gaussian and one covariance was tried instead: it stops the sine at 1.7 times the noise floor.)
This is the only
module that imports Lightning.

Rules behind `auto`, from the number of rows n and columns D:

* steps: 30 sqrt(n), kept within 2,000 .. 10,000;
* rows a step: n / 8 within 32 .. 256;
* highest learning rate: 2e-3, for fewer than 3,000 rows 1e-3;
* input noise: half the held-out residual's standard deviation per direction off the manifold, followed as it falls;
* beta: 1/(2 sigma^2), sigma the smallest residual's standard deviation seen so far per direction off the manifold; a
  first phase trains reconstruction alone, so that beta starts from the noise floor.
"""

import copy
import importlib.util
import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from isthmus.ambient import Ambient, IsotropicNoise, NoNoise
from isthmus.errors import InputError
from isthmus.flow import Context, Flow
from isthmus.objective import Objective
from isthmus.recipe import TrainingRecipe
from isthmus.refit import Rows
from isthmus.store import append_row

__all__ = ["History", "Split", "Spread", "single_thread", "train"]

_VALIDATION_ROWS = 1_000
_LARGEST_BETA = 1e8
_FEW_ROWS = 3_000  # with fewer, half the learning rate generalises better (digits, breast cancer; above it penbased)
_LEAST_IMPROVEMENT = 1e-3  # nats per row; less is no reason to go on
_ONE_THREAD_PARAMETERS = 2_000_000
_COMPARED_WEIGHT = 1e3  # of the likelihood, lest a large beta hide an error of it
_COMPILED_TOLERANCE = 1e-3  # relative difference of a compiled gradient; rounding alone gives about 1e-6
_CORRECTED_ROWS, _CORRECTION_POINTS = 200, 32  # by which the held-out linearised density is corrected
_BAD_STEPS = 3  # in a row, before the last good weights are taken up again with half the learning rate
_MOST_RETREATS = 8  # then training ends
_COMPILE_STEPS = 20_000  # compiling takes 30 to 60 s and saves about 2 ms a step for small networks


Row = dict[str, float | int]
Spread = Callable[[Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    """Some rows: data (batch, D), context (batch, C) or None, weights (batch,) or None."""

    x: Float[Tensor, "batch D"]
    c: Context
    w: Float[Tensor, " batch"] | None


@dataclass(frozen=True)
class Split:
    """What a fit learns from and what it is judged by, on standardised columns.

    Attributes:
        train: rows to train on.
        held_out: rows that decide, integer columns spread.
        drawn: the training rows as single draws, for what knows no weights: drawn by weight, integer columns spread.
        weights: one weight a training row, (n,), mean 1, or None.
        spread: how training spreads integer columns, see `train`.
        apart: whether held-out rows are other rows than those trained on.
    """

    train: Rows
    held_out: Rows
    drawn: Rows
    weights: Float[Tensor, " n"] | None = None
    spread: Spread | None = None
    apart: bool = True


@dataclass
class History:
    """What happened in a training.

    Attributes:
        rows: one record a validation.
        best_step: the step whose weights were kept.
        steps: how many steps were made.
        skipped: how many of them were left out, their gradient not being finite.
        retreats: how often training went back to the last good weights and halved the learning rate.
        seconds: how long it took.
    """

    rows: list[Row] = field(default_factory=list)
    best_step: int = 0
    steps: int = 0
    skipped: int = 0
    retreats: int = 0
    seconds: float = 0.0


class Batches(IterableDataset):
    """`steps` batches of rows, in one random order an epoch; a rest shorter than a batch is left out.

    Args:
        x: data, (n, D).
        c: context, (n, C), or None.
        w: weights, (n,), or None.
        size: rows a batch; all rows if there are fewer.
        steps: number of batches.
        seed: of the order and the offsets.
        spread: how rows are moved by offsets in [-1/2, 1/2), drawn afresh for every batch; not at all by default.
    """

    def __init__(
        self,
        x: Tensor,
        c: Context,
        w: Tensor | None,
        *,
        size: int,
        steps: int,
        seed: int,
        spread: Spread | None = None,
    ) -> None:
        self.x, self.c, self.w, self.spread = x, c, w, spread
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
            x = self.x[index]
            if self.spread is not None:
                x = self.spread(x, torch.rand(x.shape, generator=generator, dtype=x.dtype) - 0.5)
            yield Batch(x, c, w)


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
    learning_rate: float
    validate_every: int
    noise: float
    noise_follows: bool
    compile: bool

    @classmethod
    def of(cls, settings: TrainingRecipe, n: int) -> "Plan":
        """Resolve the settings for n training rows.

        Args:
            settings: the recipe's section.
            n: number of training rows.

        Returns:
            The plan.

        Example:
            >>> Plan.of(TrainingRecipe(), 1000).max_steps
            2000
        """
        steps = min(10_000, max(2_000, int(30 * n**0.5))) if settings.max_steps == "auto" else settings.max_steps
        size = min(256, max(32, n // 8)) if settings.batch_size == "auto" else settings.batch_size
        auto_rate = 1e-3 if n < _FEW_ROWS else 2e-3
        rate = auto_rate if settings.learning_rate == "auto" else settings.learning_rate
        noise = 0.1 if settings.noise == "auto" else settings.noise
        compiled = steps >= _COMPILE_STEPS if settings.compile == "auto" else settings.compile
        every = max(1, steps // settings.validations)
        return cls(steps, size, rate, every, noise, settings.noise == "auto", compiled)


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
        self.good: dict[str, Tensor] = {}
        self.without_improvement = self.bad_steps = 0
        self.noise, self.smallest_sigma = plan.noise, math.inf
        self.started = time.monotonic()
        same_random_numbers: dict[str, Any] = {"fallback_random": True}
        self.compiled = torch.compile(self._step, fullgraph=True, options=same_random_numbers) if plan.compile else None
        self.trusted = False

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
        x = x + self.noise * torch.randn_like(x)
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
            if not self.trusted:
                self._compare_gradients(x, c, weight)
            return self.compiled(x, c, weight)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:  # what the networks themselves raise comes again below
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"torch.compile is off, since it fails on these networks: {reason}", stacklevel=2)
            self.compiled = None
            return self._step(x, c, weight)

    def _compare_gradients(self, x: Tensor, c: Context, weight: Tensor) -> None:
        """Raise where the compiled gradient is not the eager one: a custom autograd.Function loses a derivative."""
        parameters = [p for p in self.flow.parameters() if p.requires_grad]
        gradients = []
        for step in (self._step, self.compiled or self._step):
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                total = step(x, c, torch.full_like(weight, _COMPARED_WEIGHT)).mean()
            found = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
            gradients.append(torch.cat([g.flatten() for g in found]))
        eager, compiled = gradients
        if (eager - compiled).norm() > _COMPILED_TOLERANCE * eager.norm():
            raise RuntimeError("the compiled gradient differs from the eager one")
        self.trusted = True

    def _step(self, x: Tensor, c: Tensor | None, weight: Tensor) -> Tensor:
        return self.objective(self.flow, x, c, weight).total

    def configure_optimizers(self) -> Any:
        """AdamW, its learning rate a function of the progress."""
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.flow.parameters(), self.plan.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _learning_rate(self, _: int) -> float:
        shape = 1.0 if self.settings.schedule == "constant" else _one_cycle(self.progress())
        return 0.5**self.history.retreats * shape

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip the gradient's norm; a step whose gradient is not finite is left out, three in a row are a retreat."""
        limit = self.settings.gradient_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.flow.parameters(), limit)
        if torch.isfinite(norm):
            self.bad_steps = 0
            return
        optimizer.zero_grad()
        self.history.skipped += 1
        self.bad_steps += 1
        if self.bad_steps == _BAD_STEPS:
            self._retreat(optimizer)

    def _retreat(self, optimizer: torch.optim.Optimizer) -> None:
        """Go back to the weights of the last good validation, forget the moments, and halve the learning rate."""
        self.flow.load_state_dict(self.good)
        optimizer.state.clear()
        self.bad_steps = 0
        self.history.retreats += 1

    def on_train_batch_end(self, *_: Any) -> None:
        """Score held-out rows now and then; stop when they no longer improve or the time is up."""
        step = self.trainer.global_step
        if step % self.plan.validate_every == 0 or self.progress() >= 1:
            self._validate()
        stale = self.without_improvement >= self.settings.patience
        if stale or self.progress() >= 1 or self.history.retreats > _MOST_RETREATS:
            self.trainer.should_stop = True

    def _validate(self) -> None:
        row: Row = {
            "step": self.trainer.global_step,
            "seconds": time.monotonic() - self.started,
            **_scores(self.flow, self.held_out),
            "noise": self.noise,
            "beta": float(self.objective.beta),
            "learning_rate": self.trainer.optimizers[0].param_groups[0]["lr"],
        }
        reconstruction = row["reconstruction"]
        self.history.rows.append(row)
        self.log_dict({"nats": row["ambient_log_likelihood"], "reconstruction": reconstruction}, prog_bar=True)
        if self.log_file is not None:
            append_row(self.log_file, row)
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in row.items() if name != "step"}, int(row["step"]))
        if not all(map(math.isfinite, (reconstruction, row["ambient_log_likelihood"]))):
            self.without_improvement += 1
            return
        self.good = {name: value.detach().clone() for name, value in self.flow.state_dict().items()}
        self._keep_best(row)
        self._follow(_sigma(self.flow, reconstruction))

    def _follow(self, sigma: float) -> None:
        """Set what `auto` ties to the residual; beta only ever rises, as the smallest residual is the noise floor."""
        if self.plan.noise_follows:
            self.noise = 0.5 * sigma
        self.smallest_sigma = min(self.smallest_sigma, sigma)
        if self.objective.beta_follows:
            self.objective.beta.fill_(min(_LARGEST_BETA, 0.5 / self.smallest_sigma**2))

    def _keep_best(self, row: Row) -> None:
        score = row["ambient_log_likelihood"]
        before = -math.inf if self.best is None else self.best[0]
        self.without_improvement = 0 if score > before + _LEAST_IMPROVEMENT else self.without_improvement + 1
        if score > before or self.settings.keep == "last":
            self.best, self.history.best_step = (score, self.good), int(row["step"])


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt again, which Lightning turns into an exit, and is heeded again afterwards."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


@contextmanager
def single_thread(flow: Flow) -> Iterator[None]:
    """One thread for small networks: their products are too short to share, and busy neighbours stall a second one.

    Args:
        flow: whose parameters are counted; larger flows keep the number of threads.
    """
    before = torch.get_num_threads()
    if sum(parameter.numel() for parameter in flow.parameters()) < _ONE_THREAD_PARAMETERS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


@torch.no_grad()
def _scores(flow: Flow, held_out: Rows) -> Row:
    """What the held-out rows, in float64, say of a flow: squared error, and both densities in nats a row."""
    flow = copy.deepcopy(flow).double().eval()
    x, c = held_out.x, held_out.c
    z, x_hat, log_volume = flow.volume(x, c)
    reconstruction = float((x - x_hat).square().sum(1).mean())
    return {
        "reconstruction": reconstruction,
        "manifold_log_likelihood": float((flow.base(c).log_prob(z) - log_volume).mean()),
        "ambient_log_likelihood": _ambient(flow, _sigma(flow, reconstruction), held_out),
    }


def _sigma(flow: Flow, reconstruction: float) -> float:
    """Standard deviation of the residuals per direction off the manifold."""
    return max(reconstruction / max(1, flow.data_dim - flow.latent_dim), 1e-12) ** 0.5


def _ambient(flow: Flow, sigma: float, held_out: Rows) -> float:
    """Held-out mean log density: linearised, corrected by what importance sampling says of some of the rows."""
    noise = NoNoise(flow.data_dim) if flow.whole_space else IsotropicNoise(flow.data_dim, sigma)
    ambient = Ambient(flow, noise.to(held_out.x))
    some = held_out.thinned(_CORRECTED_ROWS)
    try:
        value = ambient.linearised(held_out.x, held_out.c).mean()
        sampled = ambient.importance_sampled(some.x, some.c, n_points=_CORRECTION_POINTS).value
        value = value + (sampled - ambient.linearised(some.x, some.c)).mean()
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
    spread: Spread | None = None,
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
        settings: the recipe's section `training`; its defaults if not given. With `max_steps` 0 the flow stays as it
            is, and is scored.
        weights: one weight a training row, (n,), mean 1.
        spread: moves training rows (batch, D) by offsets in [-1/2, 1/2), drawn afresh for every batch, as
            `Columns.spread` does to integers; None for none.
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
    plan = Plan.of(settings, train.x.shape[0])
    held_out = held_out.thinned(_VALIDATION_ROWS).to(torch.float64)
    if plan.max_steps == 0:
        return _start_alone(flow, objective, held_out)
    c, w = (None if t is None else t.to(dtype) for t in (train.c, weights))
    with torch.random.fork_rng(), single_thread(flow), _quiet_lightning():
        torch.manual_seed(seed)
        trainee = _Trainee(flow, objective, settings, plan, held_out)
        trainee.log_file = _log_file(log_dir)
        if settings.accelerator not in ("auto", "cpu") and not torch.accelerator.is_available():
            raise InputError(
                f"expected an accelerator for {settings.accelerator!r}; got none here; use 'cpu' or 'auto'"
            )
        trainer = lightning.Trainer(
            max_epochs=1,
            max_steps=plan.max_steps,
            accelerator=settings.accelerator,
            devices=1,
            precision=settings.precision,
            logger=_tensorboard(log_dir),
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            callbacks=[RichProgressBar(console_kwargs={"stderr": True})] if progress else [],
        )
        sizes = {"size": plan.batch_size, "steps": plan.max_steps, "seed": seed}
        batches = Batches(train.x.to(dtype), c, w, **sizes, spread=spread)
        with _interruptible():
            trainer.fit(trainee, DataLoader(batches, batch_size=None))
    history = trainee.history
    history.steps, history.seconds = trainer.global_step, time.monotonic() - trainee.started
    if trainee.best is not None:
        flow.load_state_dict(trainee.best[1])
    return history


def _start_alone(flow: Flow, objective: Objective, held_out: Rows) -> History:
    """The history of no training: the flow as it is, scored."""
    row: Row = {"step": 0, "seconds": 0.0, **_scores(flow, held_out), "noise": 0.0, "learning_rate": 0.0}
    return History([{**row, "beta": float(objective.beta)}])
