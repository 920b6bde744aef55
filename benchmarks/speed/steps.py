"""Time and memory of one optimiser step."""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.distributions import Normal
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.speed.cases import Case, Setting
from isthmus import FreeForm, FreeFormFlow

__all__ = [
    "BETA",
    "YARDSTICKS",
    "peak_bytes",
    "peak_of",
    "ratio",
    "reference_loss",
    "seconds_of",
    "step_function",
    "time_steps",
    "variants",
]

Loss = Callable[[nn.Module, nn.Module, Tensor], Tensor]
Builder = Callable[[nn.Module, nn.Module], Callable[[Tensor], Tensor]]

BETA = 10.0
YARDSTICKS = ("autoencoder, eager", "autoencoder, compiled")


def autoencoder_loss(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """Squared reconstruction error."""
    return (x - decoder(encoder(x))).square().sum(1).mean()


@sdpa_kernel(SDPBackend.MATH)  # the quick one of a CPU has no derivative in forward mode
def reference_loss(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """The research form of the free-form loss, written from its equations: dual numbers and a double backward pass."""
    x = x.detach().requires_grad_()
    z = encoder(x)
    v = torch.linalg.qr(torch.randn(*z.shape, 1, dtype=z.dtype, device=z.device)).Q.squeeze(2) * z.shape[1] ** 0.5
    with forward_ad.dual_level():
        x_hat, u = forward_ad.unpack_dual(decoder(forward_ad.make_dual(z, v)))
    (w,) = torch.autograd.grad(z, x, v, create_graph=True)
    surrogate = -(w * u.detach()).sum(1)
    latent = 0.5 * z.square().sum(1)
    return (BETA * (x - x_hat).square().sum(1) + latent + surrogate).mean()


def research_loss(checkout: Path) -> Loss:
    """The publication's own loss, imported from a checkout of its code."""
    sys.path.insert(0, str(checkout))
    from fff.loss import fff_loss

    @sdpa_kernel(SDPBackend.MATH)
    def loss(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
        """Mean over a batch."""
        return fff_loss(x.detach().clone(), encoder, decoder, Normal(0.0, 1.0), BETA).mean()

    return loss


def plain(loss: Loss) -> Builder:
    """A loss of two networks as what makes one of a batch."""
    return lambda encoder, decoder: lambda x: loss(encoder, decoder, x)


def free_form(case: Case, **options: Any) -> Builder:
    """The library's objective on a flow of the given networks."""

    def build(encoder: nn.Module, decoder: nn.Module) -> Callable[[Tensor], Tensor]:
        """The loss of a batch."""
        flow = FreeFormFlow(encoder, decoder, case.data_dim, case.latent_dim)
        objective = FreeForm(beta=BETA, **options)
        return lambda x: objective(flow, x).total.mean()

    return build


def variants(case: Case, setting: Setting, checkout: Path | None = None) -> dict[str, tuple[Builder, bool]]:
    """Name -> (what makes a loss of networks, whether it is compiled).

    Dual numbers know no autocast, so the research form is left out but for fp32.
    """
    found: dict[str, tuple[Builder, bool]] = {
        "autoencoder, eager": (plain(autoencoder_loss), False),
        "autoencoder, compiled": (plain(autoencoder_loss), True),
        "ours": (free_form(case, surrogate="encoder"), True),
        "ours, eager": (free_form(case, surrogate="encoder"), False),
        "default": (free_form(case), True),
    }
    if setting.precision == "fp32":
        found["reference"] = plain(reference_loss), False
        if checkout is not None:
            found["research code"] = plain(research_loss(checkout)), False
    if case.probed < 1:
        found["part probed"] = free_form(case, surrogate="encoder", probed=case.probed), True
        found["default, part probed"] = free_form(case, probed=case.probed), True
    for K in (2, 4):
        if case.latent_dim >= K:
            found[f"K={K}"] = free_form(case, surrogate="encoder", K=K), True
    return found


def step_function(case: Case, setting: Setting, variant: tuple[Builder, bool]) -> Callable[[], None]:
    """One step of Adam on a batch of random rows."""
    build, compiled = variant
    torch.manual_seed(0)
    encoder, decoder = (net.to(setting.device) for net in case.pair())
    loss = build(encoder, decoder)
    if compiled:
        loss = setting.compiled(loss)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 3e-4, fused=True)
    data = torch.randn(16, case.batch, case.data_dim, device=setting.device)
    batches = itertools.cycle(data)

    def step() -> None:
        """The gradient of one batch, and what Adam makes of it."""
        torch.compiler.cudagraph_mark_step_begin()
        with setting.autocast():
            value = loss(next(batches))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()  # last, so that what a step allocates is freed in it

    return step


def time_steps(
    case: Case, setting: Setting, rounds: int, steps: int, checkout: Path | None = None
) -> dict[str, list[float]]:
    """Seconds a step of every variant in every round, after five steps of each that do not count."""
    functions = {}
    for name, variant in variants(case, setting, checkout).items():
        functions[name] = step_function(case, setting, variant)
        for _ in range(5):
            functions[name]()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, step in functions.items():
            seconds[name].append(seconds_of(step, setting, steps))
    return seconds


def seconds_of(function: Callable[[], Any], setting: Setting, times: int = 1) -> float:
    """Mean seconds that a call takes; on a CPU those of the processor, which neighbours disturb less."""
    clock = time.process_time if setting.device == "cpu" else time.perf_counter
    setting.synchronise()
    start = clock()
    for _ in range(times):
        function()
    setting.synchronise()
    return (clock() - start) / times


def peak_of(function: Callable[[], Any], setting: Setting) -> int:
    """Largest sum of the bytes that a call has allocated at once, beyond what there was before."""
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    alive = peak = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def peak_bytes(case: Case, setting: Setting, variant: tuple[Builder, bool]) -> list[int]:
    """Bytes alive at the worst moment of a step, parameters, gradients and moments included, of three steps."""
    step = step_function(case, setting, variant)
    for _ in range(3):
        step()
    lasting = 3 * sum(4 * p.numel() for net in case.pair() for p in net.parameters())
    return [lasting + peak_of(step, setting) for _ in range(3)]


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median, least and largest of ratios, round by round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
