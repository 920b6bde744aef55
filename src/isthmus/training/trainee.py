"""One training as a Lightning module: the objective on noisy batches, and what is decided on held-out rows."""

import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, distributed

from isthmus.flow import Context, Flow, LearnedManifold
from isthmus.objective import Objective
from isthmus.recipe import TrainingRecipe
from isthmus.rows import Rows
from isthmus.runs import CHECKPOINT, writing
from isthmus.store import append_row
from isthmus.training.batches import Batch, mixed_seed
from isthmus.training.checkpoint import random_state, set_random_state
from isthmus.training.judging import Row, scores
from isthmus.training.plan import Plan, one_cycle

_log = logging.getLogger(__name__)

_LARGEST_BETA = 1e8
_LEAST_IMPROVEMENT = 1e-3  # nats per row; less is no reason to go on
_COMPARED_WEIGHT = 1e3  # of the likelihood, lest a large beta hide an error of it
_COMPILED_TOLERANCE = 1e-3  # relative difference of a compiled gradient; rounding alone gives about 1e-6
_BAD_STEPS = 3  # in a row, before the last good weights are taken up again with half the learning rate
_MOST_RETREATS = 8  # then training ends
_SAVE_EVERY = 30.0  # seconds, if no validation comes before
_TIME_BETWEEN_SAVES = 100  # times what the last one took: saving costs at most 1 % of a training

# What a checkpoint holds of a trainee as it is.
_KEPT = ("identity", "best", "good", "without_improvement", "bad_steps", "noise", "smallest_sigma", "over")


@dataclass
class History:
    """What happened in a training.

    Attributes:
        rows: one record a validation.
        best_step: the step whose weights were kept.
        steps: how many steps were made.
        skipped: how many of them were left out, their gradient not being finite.
        retreats: how often training went back to the last good weights and halved the learning rate.
        seconds: how long it took, sittings before an interruption included.
        earlier: how much of that was before the last interruption.
    """

    rows: list[Row] = field(default_factory=list)
    best_step: int = 0
    steps: int = 0
    skipped: int = 0
    retreats: int = 0
    seconds: float = 0.0
    earlier: float = 0.0


def beta_of(objective: Objective) -> Row:
    """Return the weight of the reconstruction as an entry of a validation's record; none where there is none."""
    return {} if objective.beta is None else {"beta": float(objective.beta)}


class Trainee(lightning.LightningModule):
    """One training: the objective on noisy batches, the schedule, and the held-out score that decides."""

    def __init__(
        self,
        flow: Flow,
        objective: Objective,
        settings: TrainingRecipe,
        plan: Plan,
        held_out: Rows,
        *,
        run_dir: Path | None = None,
        identity: str = "",
        seed: int = 0,
        hand_over: Path | None = None,
    ) -> None:
        super().__init__()
        self.flow, self.objective, self.settings, self.plan, self.held_out = flow, objective, settings, plan, held_out
        self.history = History()
        self.run_dir, self.identity, self.seed, self.hand_over = run_dir, identity, seed, hand_over
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.good: dict[str, Tensor] = {}
        self.without_improvement = self.bad_steps = 0
        self.noise, self.smallest_sigma = plan.noise, math.inf
        self.levels = settings.levels(objective)
        self.started = self.saved = time.monotonic()
        self.cost_of_saving = 0.0
        self.over = self.interrupted = False
        self.threads = torch.get_num_threads()
        self.random_state: dict[str, Tensor] = {}
        self.time_to_save, self.overdue, self.clock = False, False, 0.0
        self.compiled: Callable[..., Tensor] | None = None
        self.trusted = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore it in a process started for this training, which knows neither how quiet to be nor the threads."""
        super().__setstate__(state)
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        warnings.simplefilter("ignore")
        torch.set_num_threads(self.threads)

    def progress(self) -> float:
        """Return how much of the training has passed, in [0, 1], by steps or by the clock, whichever is further."""
        by_steps = self.trainer.global_step / self.plan.max_steps
        most = self.settings.max_time
        return min(1.0, by_steps if most is None else max(by_steps, self.seconds() / most))

    def seconds(self) -> float:
        """Return how long it has been trained, sittings before an interruption included; the same on all processes."""
        return time.monotonic() - self.started if self.trainer.world_size == 1 else self.clock

    def _agree(self) -> None:
        """Agree for all processes on what the clock of the first says, lest they part ways."""
        waited = time.monotonic() - self.saved
        self.time_to_save = waited > _TIME_BETWEEN_SAVES * self.cost_of_saving
        self.overdue = waited > _SAVE_EVERY
        if self.trainer.world_size > 1:
            first = [time.monotonic() - self.started, self.time_to_save, self.overdue]
            agreed = torch.tensor(first, dtype=torch.float32, device=self.device)
            distributed.broadcast(agreed, 0)
            self.clock, self.time_to_save, self.overdue = float(agreed[0]), bool(agreed[1]), bool(agreed[2])

    def on_train_start(self) -> None:
        """Start the clock and score the untrained flow, so that there always is a best state; or take up a training."""
        if self.plan.compile:
            same_random_numbers: dict[str, Any] = {"fallback_random": True}
            self.compiled = torch.compile(self._step, fullgraph=True, dynamic=False, options=same_random_numbers)
        self.saved = time.monotonic()
        self.held_out = self.held_out.to(self.device)
        if self.plan.compile and self.settings.precision == "bf16-mixed":  # which steps compute in, but not this
            some = self.held_out.thinned(self.plan.batch_size).to(torch.float32)
            self._or_eagerly(lambda: self._compare_gradients(some.x, some.c, torch.ones((), device=self.device)))
        if self.random_state:
            set_random_state(self.random_state, self.device)
            self.trainer.should_stop = self.over
            return
        self.started = time.monotonic()
        self._validate()

    def on_train_batch_start(self, *_: Any) -> None:
        """Seed noise and probes of each of several processes apart, the same for a step wherever training began."""
        if self.trainer.world_size > 1:
            torch.manual_seed(mixed_seed(self.seed, self.trainer.global_rank, self.trainer.global_step))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know of."""
        checkpoint["trainee"] = {name: getattr(self, name) for name in _KEPT} | {
            "history": asdict(self.history),
            "beta": self.objective.beta,
            "seconds": self.seconds(),
            "random_state": random_state(self.device),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what `on_save_checkpoint` added."""
        kept = checkpoint["trainee"]
        for name in _KEPT:
            setattr(self, name, kept[name])
        self.history = History(**{**kept["history"], "earlier": kept["seconds"]})
        if self.objective.beta is not None:
            self.objective.beta.copy_(kept["beta"])
        self.started = time.monotonic() - kept["seconds"]
        self.random_state = kept["random_state"]

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the mean objective of a batch with fresh noise."""
        x, c, w = batch
        x, c = self._told(x, c) if self.levels else (self._noisy(x, self.noise), c)
        total = self._total(x, c, torch.tensor(self._likelihood_weight(), dtype=x.dtype, device=x.device))
        return total.mean() if w is None else (w * total).mean()

    def _told(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return noisy rows, and the context with the levels of each drawn afresh."""
        levels = self.levels.draw(x)
        noise = self.noise if self.levels.noise is None else self.levels.noise.value(levels[:, :1])
        return self._noisy(x, noise), levels if c is None else torch.cat([c, levels], 1)

    def _noisy(self, x: Tensor, noise: Tensor | float) -> Tensor:
        """Return rows with Gaussian noise, projected back to a known surface; conditions alone have no columns."""
        moved = x + noise * torch.randn_like(x)
        free = isinstance(self.flow, LearnedManifold) or not x.shape[1]
        return moved if free else self.flow.rows.project(moved)

    def _likelihood_weight(self) -> float:
        """Return 0 for the first half of the warm-up, which finds the noise floor, then a ramp to 1."""
        warm_up = self.settings.warm_up
        return 1.0 if not warm_up else min(1.0, max(0.0, 2 * self.progress() / warm_up - 1))

    def _total(self, x: Tensor, c: Context, weight: Tensor) -> Tensor:
        if self.compiled is not None and not self.trusted:
            self._or_eagerly(lambda: self._compare_gradients(x, c, weight))
        compiled = self.compiled
        total = None if compiled is None else self._or_eagerly(lambda: compiled(x, c, weight))
        return self._step(x, c, weight) if total is None else total

    def _or_eagerly(self, compiled: Callable[[], Tensor | None]) -> Tensor | None:
        """Return what compiled code gives; where it fails return None, and compile nothing any more."""
        try:
            return compiled()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:  # what the networks themselves raise comes again eagerly
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"torch.compile is off, since it fails on these networks: {reason}", stacklevel=2)
            self.compiled = None
            return None

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
        """Configure AdamW, its learning rate a function of the progress."""
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.flow.parameters(), self.plan.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: self._learning_rate())
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _learning_rate(self) -> float:
        shape = 1.0 if self.settings.schedule == "constant" else one_cycle(self.progress())
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
        """Score held-out rows now and then; stop when they no longer improve or the time is up; save the training."""
        self._agree()
        validates = self.trainer.global_step % self.plan.validate_every == 0 or self.progress() >= 1
        if validates:
            self._validate()
        stale = self.without_improvement >= self.settings.patience
        self.over = stale or self.progress() >= 1 or self.history.retreats > _MOST_RETREATS
        if self.over:
            self.trainer.should_stop = True
        if self.run_dir is not None and (self.over or self.interrupted or self._is_time_to_save(after=validates)):
            self._save(self.run_dir / CHECKPOINT)
        if self.interrupted:
            raise KeyboardInterrupt

    def _is_time_to_save(self, *, after: bool) -> bool:
        """Tell whether to save: after a validation or half a minute, but never so often that it counts."""
        return (after or self.overdue) and self.time_to_save

    def on_train_end(self) -> None:
        """Leave what came of the training, as the first of several processes, for the one that started them."""
        if self.hand_over is not None and self.trainer.is_global_zero:
            self.history.steps, self.history.seconds = self.trainer.global_step, self.seconds()
            result: dict[str, Any] = {}
            self.on_save_checkpoint(result)
            torch.save(result, self.hand_over)

    def _save(self, path: Path) -> None:
        start = time.monotonic()
        self.trainer.save_checkpoint(path)
        self.saved = time.monotonic()
        self.cost_of_saving = self.saved - start

    def _validate(self) -> None:
        held_out = scores(self.flow, self.objective, self.held_out) if self.trainer.is_global_zero else {}
        row: Row = {
            "step": self.trainer.global_step,
            "seconds": self.seconds(),
            **self.trainer.strategy.broadcast(held_out),
            "noise": self.noise,
            **beta_of(self.objective),
            "learning_rate": self.trainer.optimizers[0].param_groups[0]["lr"],
        }
        nats = row["log_density"]
        _log.debug("step %s of at most %s: held-out log density %.5g", row["step"], self.plan.max_steps, nats)
        self.history.rows.append(row)
        shown = {"nats": row["log_density"], "reconstruction": row.get("reconstruction")}
        self.log_dict({name: value for name, value in shown.items() if value is not None}, prog_bar=True)
        self._record(row)
        if not all(map(math.isfinite, (row.get("reconstruction", 0.0), row["log_density"]))):
            self.without_improvement += 1
            return
        self.good = {name: value.detach().clone() for name, value in self.flow.state_dict().items()}
        self._keep_best(row)
        if isinstance(self.flow, LearnedManifold) and "reconstruction" in row:
            self._follow(self.flow.sigma(row["reconstruction"]))

    def _record(self, row: Row) -> None:
        if self.run_dir is None or not self.trainer.is_global_zero:
            return
        with writing(self.run_dir):
            append_row(self.run_dir / "log.csv", row)
            for logger in self.loggers:
                values = {name: float(value) for name, value in row.items() if name != "step"}
                logger.log_metrics(values, int(row["step"]))

    def _follow(self, sigma: float) -> None:
        """Set what `auto` ties to the residual; beta only ever rises, as the smallest residual is the noise floor."""
        if self.plan.noise_follows:
            self.noise = 0.5 * sigma
        self.smallest_sigma = min(self.smallest_sigma, sigma)
        if self.objective.beta_follows and self.objective.beta is not None:
            self.objective.beta.fill_(min(_LARGEST_BETA, 0.5 / self.smallest_sigma**2))

    def _keep_best(self, row: Row) -> None:
        score = row["log_density"]
        before = -math.inf if self.best is None else self.best[0]
        self.without_improvement = 0 if score > before + _LEAST_IMPROVEMENT else self.without_improvement + 1
        if score > before or self.settings.keep == "last":
            self.best, self.history.best_step = (score, self.good), int(row["step"])
