"""Speed of likelihood training, as ratios in one run: against a plain autoencoder and against the research form.

    python -m benchmarks.speed [--case NAME ...] [--rounds 5] [--steps 20] [--json] [--append FILE]

Every variant of a case trains the same networks with the same optimiser on the same kind of batch; one round times a
few steps of each variant, one after the other, so that a busy machine slows all of them. Ratios are taken within a
round, and the median of the rounds is reported with their range. The autoencoder is timed eager and compiled, and the
faster one is the yardstick. Peak memory is that of all tensors alive in a step, parameters and optimiser state
included, measured in a process of its own.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from isthmus import FreeForm, FreeFormFlow
from isthmus.networks import residual_pair

Pair = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Case:
    """Networks, dimensions and batch size of one comparison."""

    pair: Callable[[], Pair]
    data_dim: int
    latent_dim: int
    batch: int
    probed: float = 0.25


class Tokens(nn.Module):
    """A transformer over columns: each input a token, mixed by two attention layers, then read out linearly."""

    def __init__(self, inputs: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(1, width), nn.Parameter(0.1 * torch.randn(inputs, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, activation=nn.SiLU(), batch_first=True)
        self.mix = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.read = nn.Linear(inputs * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs) to (batch, outputs)."""
        return self.read(self.mix(self.embed(x.unsqueeze(2)) + self.place).flatten(1))


def convolutional() -> Pair:
    """The paper's MNIST networks (arXiv 2306.01843) with SiLU: four strided convolutions, a residual net on codes."""
    ch, d = 32, 16
    encoder = nn.Sequential(nn.Unflatten(1, (1, 28, 28)))
    for inputs, outputs in ((1, ch), (ch, 2 * ch), (2 * ch, 4 * ch), (4 * ch, 8 * ch)):
        encoder.extend([nn.Conv2d(inputs, outputs, 4, 2, 1), nn.SiLU()])
    encoder.extend([nn.Flatten(), nn.Linear(8 * ch, d)])
    decoder = nn.Sequential(
        nn.Linear(d, 8 * ch * 16),
        nn.Unflatten(1, (8 * ch, 4, 4)),
        *(nn.ConvTranspose2d(8 * ch, 4 * ch, 3, 2, 1), nn.SiLU()),
        *(nn.ConvTranspose2d(4 * ch, 2 * ch, 3, 2, 1, 1), nn.SiLU()),
        *(nn.ConvTranspose2d(2 * ch, 1, 3, 2, 1, 1), nn.Flatten()),
    )
    code = residual_pair(d, d, width=512, blocks=1)
    return nn.Sequential(encoder, code[0]), nn.Sequential(code[1], decoder)


CASES = {
    "toy 2->1 B128": Case(lambda: residual_pair(2, 1), 2, 1, 128, probed=1.0),
    "POWER 6->3 B512": Case(lambda: residual_pair(6, 3), 6, 3, 512),
    "MINIBOONE 43->21 B512": Case(lambda: residual_pair(43, 21), 43, 21, 512),
    "MNIST conv B64": Case(convolutional, 784, 16, 64),
    "MNIST conv B512": Case(convolutional, 784, 16, 512),
    "transformer 16->8 B128": Case(lambda: (Tokens(16, 8), Tokens(8, 16)), 16, 8, 128),
}

Loss = Callable[[nn.Module, nn.Module, Tensor], Tensor]


def autoencoder_loss(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """Squared reconstruction error."""
    return (x - decoder(encoder(x))).square().sum(1).mean()


def free_form_loss(case: Case, **options: Any) -> Callable[[nn.Module, nn.Module], Callable[[Tensor], Tensor]]:
    """The library's objective on a flow of the given networks."""

    def build(encoder: nn.Module, decoder: nn.Module) -> Callable[[Tensor], Tensor]:
        flow = FreeFormFlow(encoder, decoder, case.data_dim, case.latent_dim)
        objective = FreeForm(beta=10.0, **options)
        return lambda x: objective(flow, x).total.mean()

    return build


def reference_loss(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """The research form of the same loss, written from its equations: dual numbers and a double backward pass."""
    x = x.detach().requires_grad_()
    z = encoder(x)
    v = torch.linalg.qr(torch.randn(*z.shape, 1)).Q.squeeze(2) * z.shape[1] ** 0.5
    with forward_ad.dual_level():
        x_hat, u = forward_ad.unpack_dual(decoder(forward_ad.make_dual(z, v)))
    (w,) = torch.autograd.grad(z, x, v, create_graph=True)
    surrogate = -(w * u.detach()).sum(1)
    latent = 0.5 * z.square().sum(1)
    return (10.0 * (x - x_hat).square().sum(1) + latent + surrogate).mean()


def variants(case: Case) -> dict[str, tuple[Callable[[nn.Module, nn.Module], Callable[[Tensor], Tensor]], bool]]:
    """Name -> (loss builder, whether it is compiled)."""

    def plain(loss: Loss) -> Callable[[nn.Module, nn.Module], Callable[[Tensor], Tensor]]:
        return lambda encoder, decoder: lambda x: loss(encoder, decoder, x)

    found = {
        "autoencoder, eager": (plain(autoencoder_loss), False),
        "autoencoder, compiled": (plain(autoencoder_loss), True),
        "ours": (free_form_loss(case), True),
        "ours, eager": (free_form_loss(case), False),
        "conditional": (free_form_loss(case, surrogate="conditional"), True),
        "reference": (plain(reference_loss), False),
    }
    if case.probed < 1:
        found["ours, part probed"] = (free_form_loss(case, probed=case.probed), True)
    for K in (2, 4):
        if case.latent_dim >= K:
            found[f"ours, K={K}"] = (free_form_loss(case, K=K), True)
    return found


def step_function(case: Case, name: str) -> Callable[[], None]:
    """One optimiser step of a variant on fresh random rows."""
    build, compiled = variants(case)[name]
    torch.manual_seed(0)
    encoder, decoder = case.pair()
    loss = build(encoder, decoder)
    if compiled:
        loss = torch.compile(loss, fullgraph=True)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, 3e-4, fused=name != "reference")
    data = torch.randn(16, case.batch, case.data_dim)
    state = {"i": 0}

    def step() -> None:
        state["i"] += 1
        optimizer.zero_grad()
        loss(data[state["i"] % 16]).backward()
        optimizer.step()

    return step


def time_case(case: Case, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds a step of every variant in every round, and what compiling took."""
    functions, compile_seconds = {}, {}
    for name in variants(case):
        functions[name] = step_function(case, name)
        start = time.perf_counter()
        for _ in range(5):
            functions[name]()
        compile_seconds[name] = time.perf_counter() - start
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, step in functions.items():
            start = time.perf_counter()
            for _ in range(steps):
                step()
            seconds[name].append((time.perf_counter() - start) / steps)
    return {"seconds": seconds, "compile_seconds": compile_seconds}


def peak_bytes(case: Case, name: str) -> int:
    """Largest sum of tensor bytes alive at once during a step, with parameters, gradients and optimiser state."""
    step = step_function(case, name)
    for _ in range(3):
        step()
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    alive = peak = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    encoder, decoder = case.pair()
    return peak + 3 * sum(4 * p.numel() for net in (encoder, decoder) for p in net.parameters())


def memory(case_name: str, name: str) -> int:
    """`peak_bytes` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed", "--peak", case_name, name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Median, least and largest of the ratios of two variants, round by round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def measure(case_name: str, rounds: int, steps: int, *, with_memory: bool = True) -> dict[str, Any]:
    """All ratios of one case."""
    case = CASES[case_name]
    timing = time_case(case, rounds, steps)
    seconds = timing["seconds"]
    yardstick = min(("autoencoder, eager", "autoencoder, compiled"), key=lambda n: statistics.median(seconds[n]))
    over = {name: ratio(values, seconds[yardstick]) for name, values in seconds.items() if "autoencoder" not in name}
    record: dict[str, Any] = {
        "case": case_name,
        "ours_over_autoencoder": over["ours"]["median"],
        "reference_over_ours": ratio(seconds["reference"], seconds["ours"])["median"],
        "yardstick": yardstick,
        "over_autoencoder": over,
        "reference_over": ratio(seconds["reference"], seconds["ours"]),
        "milliseconds": {name: 1e3 * statistics.median(values) for name, values in seconds.items()},
        "compile_seconds": timing["compile_seconds"]["ours"],
    }
    if with_memory:
        peaks = {name: memory(case_name, name) for name in (yardstick, "ours", "reference")}
        record["memory_over_autoencoder"] = peaks["ours"] / peaks[yardstick]
        record["reference_memory_over_autoencoder"] = peaks["reference"] / peaks[yardstick]
        record["peak_megabytes"] = {name: peak / 1e6 for name, peak in peaks.items()}
    return record


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    """Measure the cases and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--append", type=Path, help="file that gets one JSON line a case")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(peak_bytes(CASES[options.peak[0]], options.peak[1]))
        return
    records = []
    for name in options.case or CASES:
        records.append(measure(name, options.rounds, options.steps, with_memory=not options.no_memory))
        if options.append:
            with options.append.open("a") as file:
                file.write(json.dumps(records[-1] | {"machine": machine()}) + "\n")
        if not options.json:
            print_record(records[-1])
    if options.json:
        print(json.dumps(records))


def print_record(record: dict[str, Any]) -> None:
    """One case as a few aligned lines."""
    print(f"\n{record['case']}  (yardstick: {record['yardstick']}, compiled in {record['compile_seconds']:.0f} s)")
    for name, values in record["over_autoencoder"].items():
        milliseconds = record["milliseconds"][name]
        print(
            f"  {name:20} {values['median']:5.2f} x ({values['min']:.2f} .. {values['max']:.2f}) {milliseconds:7.2f} ms"
        )
    print(f"  reference / ours     {record['reference_over_ours']:5.2f} x")
    if "memory_over_autoencoder" in record:
        print(f"  memory / autoencoder {record['memory_over_autoencoder']:5.2f} x")


if __name__ == "__main__":
    main()
