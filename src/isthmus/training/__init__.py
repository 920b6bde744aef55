"""Training a flow on standardised rows: a thin Lightning module, and its checkpoints.

Batches are cut by index from tensors that stay in memory, one permutation an epoch; input noise is drawn afresh for
every batch. When to stop and which weights to keep is decided on held-out rows by a value that means something: the
ambient density, which joins the exact change of volume and the reconstruction error; never by a surrogate. (The density
after a refit with one Gaussian and one covariance was tried instead: it stops the sine at 1.7 times the noise floor.)
What `auto` stands for is in `isthmus.training.plan`. This folder is the only one that imports Lightning.

With a folder `run_dir` a training is saved at validations, every half minute, at a signal to stop and at its end, less
often where saving takes more than a hundredth of the time. Taken up from there it ends with the same weights, bit for
bit on a CPU, as if it had never been interrupted: a checkpoint holds the optimiser, the schedule, the random state and
the place in the order of the rows.

On several devices each has its share of every batch, and the gradient is the mean over all; each draws noise and probes
of its own.
"""

import copy
import importlib.util
import logging
import multiprocessing
import os
import re
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader

from isthmus import interrupts
from isthmus.disk import read_plain, write_durably
from isthmus.errors import InputError
from isthmus.flow import Flow, LearnedManifold
from isthmus.levels import Levels
from isthmus.objective import Objective
from isthmus.recipe import TrainingRecipe
from isthmus.rows import Rows
from isthmus.runs import CHECKPOINT, check_run, digest, weights_of, writing
from isthmus.store import append_row
from isthmus.training import checkpoint
from isthmus.training.batches import Batches, LongBatches, LongRows, Split, Spread
from isthmus.training.checkpoint import DurableFiles
from isthmus.training.judging import Row, scores
from isthmus.training.plan import KNOWN_BETA, Plan
from isthmus.training.trainee import History, Trainee, beta_of

__all__ = ["History", "LongRows", "Split", "Spread", "single_thread", "train"]

_VALIDATION_ROWS = 1_000
_LARGEST_LOG = 200_000_000  # bytes
_ONE_THREAD_PARAMETERS = 2_000_000


@contextmanager
def _interruptible(trainee: Trainee) -> Iterator[None]:
    """Raise a signal to stop as a KeyboardInterrupt, which Lightning turns into an exit, and heed it again afterwards.

    A training that can be taken up goes on to the end of its step, to be saved; a second signal does not wait. Where
    SIGTERM is left to Lightning, which ends with exit code 0, the code is 143.
    """
    heeded = interrupts.handlers()
    asked: list[int] = []

    def restore() -> None:
        """Heed signals at once."""
        for number, handler in heeded.items():
            signal.signal(number, handler)

    def wait(number: int, _: object) -> None:
        """Heed the first signal at the end of the step."""
        restore()
        asked.append(number)
        trainee.interrupted = True

    if trainee.run_dir is not None and trainee.hand_over is None:
        for number in heeded:
            signal.signal(number, wait)
    try:
        yield
    except SystemExit as stop:
        _refuse_other_exits(stop, sigterm=signal.SIGTERM in heeded)
        for process in multiprocessing.active_children() if trainee.hand_over is not None else ():
            process.kill()  # one that still trains would be waited for
        if not asked:
            raise KeyboardInterrupt from None
    finally:
        restore()
    if asked:
        heeded[signal.Signals(asked[0])](asked[0], None)
        raise KeyboardInterrupt


def _refuse_other_exits(stop: SystemExit, *, sigterm: bool) -> None:
    """Raise an exit again that is not Lightning's for a signal; its exit for a SIGTERM that it heeds alone as 143."""
    if isinstance(stop, SIGTERMException):
        if not sigterm:
            raise SystemExit(128 + signal.SIGTERM) from None
    elif not isinstance(stop.__context__, KeyboardInterrupt):
        raise stop


@contextmanager
def _untrained_again_where_interrupted(flow: Flow) -> Iterator[None]:
    """Restore the flow as it came, if training does not end, so that the same call again resumes it."""
    before, ended = copy.deepcopy(flow.state_dict()), False
    try:
        yield
        ended = True
    finally:
        if not ended:
            flow.load_state_dict(before)


@contextmanager
def single_thread(flow: Flow) -> Iterator[None]:
    """Use one thread for small networks: their products are too short to share, and busy neighbours stall a second one.

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
    """Silence Lightning's advice on loaders and loggers, which a user of `fit` can do nothing about."""
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


def _begin_log(run_dir: Path, rows: list[Row]) -> None:
    """Write a `log.csv` of the validations so far to the folder, which is made if need be."""
    path = run_dir / "log.csv"
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and not re.match(b"$|step,", read_plain(path, _LARGEST_LOG)):
            raise InputError(f"expected the log of a training in {path}; got another file; choose another folder")
        write_durably(path, b"")
        for row in rows:
            append_row(run_dir / "log.csv", row)


def _tensorboard(run_dir: Path | None) -> Any:
    if run_dir is None or importlib.util.find_spec("tensorboard") is None:
        return False
    return TensorBoardLogger(str(run_dir), name="", version="")


def train(
    flow: Flow,
    objective: Objective,
    train: Rows | LongRows,
    held_out: Rows,
    *,
    settings: TrainingRecipe | None = None,
    weights: Float[Tensor, " n"] | None = None,
    spread: Spread | None = None,
    seed: int = 0,
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> History:
    """Train a flow in place and leave it with the weights that score best on the held-out rows.

    Args:
        flow: any flow; changed in place.
        objective: how it is trained.
        train: standardised rows, or those of a stream; without columns, (n, 0), where an objective needs no data.
        held_out: standardised rows that decide; at most 1,000 evenly spaced ones are used, fewer with large Jacobians.
        settings: the recipe's section `training`; its defaults if not given. With `max_steps` 0 the flow stays as it
            is, and is scored.
        weights: one weight a training row, (n,), mean 1.
        spread: moves training rows (batch, D) by offsets in [-1/2, 1/2), drawn afresh for every batch, as
            `Columns.spread` does to integers; None for none.
        seed: of batches, noise and probes; the global random state is left as it was.
        progress: whether to show a progress bar on standard error.
        run_dir: where to write checkpoints, `log.csv`, and events for TensorBoard where that is installed, while it
            runs. A training of the same untrained flow, rows and settings that is found there is taken up.

    Returns:
        The history.

    Raises:
        InputError: there is no such accelerator; noise or beta has a range that the networks are not told; `run_dir`
            cannot be written, or holds an unfinished training of something else.

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
    count = len(train) if isinstance(train, LongRows) else len(train.x)
    parameters = sum(parameter.numel() for parameter in flow.parameters() if parameter.requires_grad)
    plan = Plan.of(settings, count, parameters, learned=isinstance(flow, LearnedManifold))
    held_out = held_out.thinned(flow.affordable(_VALIDATION_ROWS, times=16, least=100)).to(torch.float64)
    _check_levels(flow, settings.levels(objective))
    if objective.beta_follows and objective.beta is not None and not isinstance(flow, LearnedManifold):
        objective.beta.fill_(KNOWN_BETA)
    if plan.max_steps == 0 or not (objective.steps and parameters):
        return _start_alone(flow, objective, held_out)
    run_dir = None if run_dir is None else Path(run_dir)
    if run_dir is not None:
        check_run(run_dir)
    identity = _identity(flow, objective, train, held_out, settings, weights, spread is None, seed) if run_dir else ""
    saved = checkpoint.read(run_dir, identity) if run_dir else None
    if run_dir is not None:
        _begin_log(run_dir, saved["trainee"]["history"]["rows"] if saved else [])
    with torch.random.fork_rng(), single_thread(flow), _quiet_lightning(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        if dtype == torch.float64:
            flow.double()  # before a checkpoint is loaded, which Lightning does first
        hand_over = Path(folder) / "result" if settings.devices > 1 else None
        trainee = Trainee(
            flow,
            objective,
            settings,
            plan,
            held_out,
            run_dir=run_dir,
            identity=identity,
            seed=seed,
            hand_over=hand_over,
        )
        trainer = _trainer(settings, plan, run_dir, progress=progress)
        start = saved["global_step"] if saved else 0
        options: dict[str, Any] = {"start": start, "seed": seed, "spread": spread, "dtype": dtype}
        device = torch.device("cpu") if spread else _resident(trainer, train, dtype)  # columns spread on the CPU
        batches = _batches(train, weights, settings, plan, device=device, **options)
        path = run_dir / CHECKPOINT if run_dir and saved else None
        with _untrained_again_where_interrupted(flow), _interruptible(trainee):
            trainer.fit(trainee, DataLoader(batches, batch_size=None), ckpt_path=path, weights_only=True)
        if hand_over is not None:
            result = torch.load(hand_over, weights_only=True)
            trainee.on_load_checkpoint(result)
            trainee.history = History(**result["trainee"]["history"])
        else:
            trainee.history.steps, trainee.history.seconds = trainer.global_step, trainee.seconds()
    if trainee.best is not None:
        flow.load_state_dict(trainee.best[1])
    return trainee.history


def _resident(trainer: lightning.Trainer, train: Rows | LongRows, dtype: torch.dtype) -> torch.device:
    """Return where the rows lie while trained on: on the one accelerator, if they leave three quarters of it free."""
    device, cpu = trainer.strategy.root_device, torch.device("cpu")
    if device.type != "cuda" or trainer.world_size > 1 or isinstance(train, LongRows):
        return cpu
    free, _ = torch.cuda.mem_get_info(device)
    return device if train.x.numel() * dtype.itemsize < free / 4 else cpu


def _check_levels(flow: Flow, levels: Levels) -> None:
    there = 0 if flow.levels is None else len(flow.levels)
    if there != len(levels):
        what = " and ".join(levels.ranges) or "nothing"
        raise InputError(
            f"expected a flow of networks that are told {what}, {len(levels)} levels; got {there} levels; build it "
            "with as many as noise and beta have ranges"
        )


def _batches(
    train: Rows | LongRows,
    weights: Tensor | None,
    settings: TrainingRecipe,
    plan: Plan,
    *,
    device: torch.device,
    **options: Any,
) -> Any:
    """Return `Batches` or `LongBatches`, as many rows in each for every process."""
    options |= {"steps": plan.max_steps, "size": plan.batch_size + -plan.batch_size % settings.devices}
    if isinstance(train, LongRows):
        return LongBatches(train, **options)
    dtype = options.pop("dtype")
    if len(train.x) < options["size"]:
        options["size"] = len(train.x) // settings.devices * settings.devices
    if not options["size"]:
        raise InputError(
            f"expected a row for each of {settings.devices} devices; got {len(train.x)}; use fewer devices"
        )
    c, w = (None if t is None else t.to(device, dtype) for t in (train.c, weights))
    return Batches(train.x.to(device, dtype), c, w, **options)


def _identity(
    flow: Flow, objective: Objective, train: Rows | LongRows, held_out: Rows, settings: TrainingRecipe, *others: object
) -> str:
    """Return a hash that tells a training from others."""
    beta = objective.beta_range or ("auto" if objective.beta_follows else beta_of(objective))
    kind = type(objective).__qualname__, beta
    rows: tuple[object, ...]
    if isinstance(train, LongRows):
        rows = train.stream.table.fingerprint(), torch.from_numpy(train.without), *weights_of(train.columns)
    else:
        rows = train.x, train.c
    return digest(*weights_of(flow), *kind, *rows, held_out.x, held_out.c, settings.model_dump_json(), *others)


def _trainer(settings: TrainingRecipe, plan: Plan, run_dir: Path | None, *, progress: bool) -> lightning.Trainer:
    if settings.accelerator not in ("auto", "cpu") and not torch.accelerator.is_available():
        raise InputError(f"expected an accelerator for {settings.accelerator!r}; got none here; use 'cpu' or 'auto'")
    return lightning.Trainer(
        max_epochs=1,
        max_steps=plan.max_steps,
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=_strategy(settings),
        precision=settings.precision,
        plugins=[DurableFiles()],
        logger=_tensorboard(run_dir),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        callbacks=[RichProgressBar(console_kwargs={"stderr": True})] if progress else [],
    )


def _strategy(settings: TrainingRecipe) -> Any:
    """Return the strategy: of several devices one process each, for the training alone; the rest runs once.

    They are spawned: a fork of a process with threads, Arrow's or an accelerator's, may hang, and programs that run
    again in every process would also fit the columns and choose the latent dimension again.
    """
    if settings.devices == 1:
        return "auto"
    backend = "gloo" if settings.accelerator == "cpu" or not torch.accelerator.is_available() else None
    # Parameters may be of no use, those of the latent where reconstruction alone is trained; where none is, torch says
    # in every process that it has looked for them in vain.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return DDPStrategy(start_method="spawn", process_group_backend=backend, find_unused_parameters=True)


def _start_alone(flow: Flow, objective: Objective, held_out: Rows) -> History:
    """Return the history of no training: the flow as it is, scored."""
    row: Row = {"step": 0, "seconds": 0.0, **scores(flow, objective, held_out), "noise": 0.0, "learning_rate": 0.0}
    return History([{**row, **beta_of(objective)}])
