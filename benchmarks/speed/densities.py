"""Exact log-likelihoods and samples a second."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.speed.cases import Case, Setting
from benchmarks.speed.steps import ratio, seconds_of
from isthmus import FreeFormFlow

__all__ = ["measure_densities"]

_TIMED_ROWS, _TIMED_SAMPLES = 512, 4096


@sdpa_kernel(SDPBackend.MATH)  # the quick one of a CPU has no derivative in forward mode
def by_vmap(flow: FreeFormFlow, x: Tensor) -> Tensor:
    """Exact log-likelihood as one writes it down: a Jacobian a row, and the determinant of its Gram matrix."""
    z = flow.encoder(x)
    J = torch.func.vmap(torch.func.jacfwd(lambda row: flow.decoder(row.unsqueeze(0)).squeeze(0)))(z)
    prior = Independent(Normal(torch.zeros_like(z[0]), torch.ones_like(z[0])), 1)
    return prior.log_prob(z) - 0.5 * torch.linalg.slogdet(J.mT @ J).logabsdet


@torch.no_grad()
def measure_densities(case: Case, setting: Setting, rounds: int) -> dict[str, Any]:
    """Rows a second of both ways to the exact log-likelihood and their errors, and samples a second; in fp32."""
    torch.manual_seed(0)
    flow = FreeFormFlow(*case.pair(), case.data_dim, case.latent_dim).to(setting.device)
    # left in training mode, which changes nothing in these networks but that transformers can be differentiated
    x = torch.randn(min(case.batch, _TIMED_ROWS), case.data_dim, device=setting.device)
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: flow.log_prob(x),
        "vmap": lambda: by_vmap(flow, x),
        "sample": lambda: flow.sample(_TIMED_SAMPLES),
    }
    values = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(seconds_of(way, setting))
    truth = by_vmap(flow.double(), x.double())
    return {
        "log_likelihood": {
            "rows_per_second": len(x) / min(seconds["ours"]),
            "over_vmap": ratio(seconds["vmap"], seconds["ours"]),
            "largest_error": float((values["ours"] - truth).abs().max()),
            "largest_error_of_vmap": float((values["vmap"] - truth).abs().max()),
        },
        "samples_per_second": _TIMED_SAMPLES / min(seconds["sample"]),
    }
