"""A whole fit of POWER against what one would write with Lightning and a DataLoader, the research form as its loss.

Both train the same networks for the same steps on the same rows, with the same noise, learning rates and weight of the
reconstruction, score as many held-out rows as often by the exact likelihood, write a log, and are judged by the same
samples' distance to the test rows. Beside them stands what a user gets who leaves all but d and the number of steps to
`isthmus.fit`: other networks, schedule and columns, and a mixture refitted to the codes, all its trials included; once
for the same number of steps, and once for a fifth of them.
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import isthmus
from benchmarks.speed.densities import by_vmap
from benchmarks.speed.steps import BETA, reference_loss
from isthmus import FreeFormFlow, Recipe
from isthmus.data import DATASETS, Dataset
from isthmus.metrics import fid_like, reconstruction_mse
from isthmus.model import Model
from isthmus.networks import residual_pair

__all__ = ["fits"]

_D, _d, _BATCH, _NOISE, _RATE, _DECAY = 6, 3, 512, 0.01, 3e-4, 1e-4
_VALIDATIONS, _HELD_OUT, _SAMPLES = 10, 1_000, 200_000


class PlainLoop(lightning.LightningModule):
    """The research form in a Lightning module."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.flow, self.steps = FreeFormFlow(*residual_pair(_D, _d), _D, _d), steps

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The loss of a noisy batch, logged."""
        x = batch[0] + _NOISE * torch.randn_like(batch[0])
        loss = reference_loss(self.flow.encoder, self.flow.decoder, x)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """The exact negative log-likelihood and the reconstruction error, logged."""
        (x,) = batch
        self.log("nll", -by_vmap(self.flow, x).mean())
        self.log("reconstruction", (x - self.flow.reconstruct(x)).square().sum(1).mean())

    def configure_optimizers(self) -> Any:
        """Adam, one cycle of the learning rate."""
        optimizer = torch.optim.AdamW(self.parameters(), _RATE, weight_decay=_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=self.steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def plain_loop(data: Dataset, steps: int) -> FreeFormFlow:
    """Train in the plain loop."""
    torch.manual_seed(0)
    module = PlainLoop(steps)
    train = DataLoader(TensorDataset(data.train.float()), batch_size=_BATCH, shuffle=True, drop_last=True)
    held_out = DataLoader(TensorDataset(data.validation[:_HELD_OUT].float()), batch_size=_HELD_OUT)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice to use workers, which are slower where cores are few
        trainer = lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=CSVLogger(folder),
            val_check_interval=min(max(1, steps // _VALIDATIONS), len(train)),
            check_val_every_n_epoch=None,
            enable_model_summary=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
        )
        trainer.fit(module, train, held_out)
    return module.flow.eval()


def isthmus_fit(data: Dataset, steps: int) -> FreeFormFlow:
    """The same by `isthmus.fit`."""
    recipe = Recipe.validated(
        {
            "flow": {"latent_dim": _d, "network": {"kind": "residual"}},
            "objective": {"kind": "freeform", "surrogate": "encoder", "beta": BETA},
            "training": {
                "max_steps": steps,
                "batch_size": _BATCH,
                "learning_rate": _RATE,
                "weight_decay": _DECAY,
                "noise": _NOISE,
                "warm_up": 0,
                "gradient_clip": None,
                "validations": _VALIDATIONS,
                "patience": _VALIDATIONS,
                "keep": "last",
            },
            "columns": {"standardise": False, "heavy_tails": False, "dequantise": False},
            "refit": {"latent": "as trained", "noise": "isotropic"},
        }
    )
    return isthmus.fit(data.train, recipe=recipe).model.flow.float()  # type: ignore[return-value]


def default_fit(data: Dataset, steps: int) -> Model:
    """The library's default at the same d, for as many steps."""
    recipe = Recipe.validated({"flow": {"latent_dim": _d}, "training": {"max_steps": steps}})
    return isthmus.fit(data.train, recipe=recipe).model


def fits(steps: int, data: Dataset | None = None) -> dict[str, Any]:
    """Seconds and quality of each; the first round of ours compiles with whatever cache there is."""
    data = data or DATASETS["power"]()
    record: dict[str, Any] = {"case": f"fit POWER 6->3 B512, {steps:,} steps", "steps": steps}
    record |= {name: timed(train, data, max(1, steps // part)) for name, (train, part) in FITS.items()}
    over = {f"plain_loop_over_{name}": record["plain_loop"]["seconds"] / record[name]["seconds"] for name in OURS}
    return record | over | {"targets": dict.fromkeys(over, 3.0)}


def timed(train: Callable[[Dataset, int], FreeFormFlow | Model], data: Dataset, steps: int) -> dict[str, Any]:
    """Seconds and quality of one fit."""
    wall, processor = time.perf_counter(), time.process_time()
    fitted = train(data, steps)
    seconds = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    return {"steps": steps, **seconds, **quality(fitted, data.test.float())}


# Name -> what fits, and which part of the steps it makes.
FITS: dict[str, tuple[Callable[[Dataset, int], FreeFormFlow | Model], int]] = {
    "ours": (isthmus_fit, 1),
    "default": (default_fit, 1),
    "short": (default_fit, 5),
    "plain_loop": (plain_loop, 1),
}
OURS = ("ours", "default", "short")


@torch.no_grad()
def quality(fitted: FreeFormFlow | Model, test: Tensor) -> dict[str, float]:
    """Distance of samples on the manifold to test rows, and their reconstruction error."""
    draw = fitted.sample if isinstance(fitted, FreeFormFlow) else partial(fitted.sample, noise=False)
    count = min(len(test), _SAMPLES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        samples = torch.cat([draw(len(rows)) for rows in test[:count].split(10_000)])
    reconstructed = torch.cat([fitted.reconstruct(x) for x in test.split(10_000)])
    return {"fid_like": fid_like(samples, test), "reconstruction": reconstruction_mse(test, reconstructed)}
