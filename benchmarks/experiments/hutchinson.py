"""How noisy is the trace estimate, and how noisy the gradient that training sees?

For a trained flow, `A = f'(x) g'(z)` (d, d), estimated as `1/K sum_k v_k^T A v_k` with `E[v v^T] = I`. With S the
symmetric part of A, a square matrix of n rows, the variance over the probes is

* K orthonormal vectors times sqrt(n): `2 n / (n + 2) (|S|_F^2 - tr(A)^2 / n) / K (n - K) / (n - 1)`, zero at K = n;
* K independent standard normal vectors: `2 |S|_F^2 / K`.

The trace may be taken in latent space, `A = f' g'`, n = d, or in data space, `A = g' f'`, n = D: the same trace, but
near the optimum `f' g' = I` has no variance with orthonormal vectors, and the projector `g' f'` has.

References: Sorrenson et al. (2024), arXiv 2306.01843, appendix; Hutchinson (1989).
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.experiments.setting import Row, Spec, build_flow, build_objective, descend, finite, load, residual
from isthmus.autodiff import jacobian
from isthmus.flow import Flow
from isthmus.volume import encoder_surrogate, orthonormal_probes

__all__ = ["PROBES", "closed_form", "gradient", "hutchinson_variance", "trace_estimates"]


def gaussian_probes(z: Tensor, K: int) -> Tensor:
    """K independent standard normal vectors a row, (K, batch, n), shaped after `z` (batch, n)."""
    return torch.randn(K, *z.shape, dtype=z.dtype)


PROBES: dict[str, Callable[[Tensor, int], Tensor]] = {"orthonormal": orthonormal_probes, "gaussian": gaussian_probes}


def closed_form(A: Tensor, probes: str, K: int) -> Tensor:
    """The variance of the trace estimate of each of `A` (batch, n, n), (batch,)."""
    n = A.shape[1]
    square = ((A + A.mT) / 2).square().sum((1, 2))
    if probes == "gaussian":
        return 2 * square / K
    trace = A.diagonal(dim1=1, dim2=2).sum(1)
    return 2 * n / (n + 2) * (square - trace.square() / n) / K * (n - K) / max(1, n - 1)


def trace_estimates(A: Tensor, probes: str, K: int) -> Tensor:
    """One estimate `1/K sum_k v_k^T A v_k` of the trace of each of `A` (batch, n, n), (batch,)."""
    v = PROBES[probes](A[:, 0], K)
    return torch.einsum("kbi,bij,kbj->b", v, A, v) / K


def gradient(flow: Flow, x: Tensor, probes: Tensor) -> Tensor:
    """Gradient of the encoder's surrogate, averaged over a batch, with respect to all of the encoder's parameters."""
    value = encoder_surrogate(*flow.maps(), x, probes=probes).surrogate.mean()
    found = torch.autograd.grad(value, list(flow.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def hutchinson_variance(spec: Spec, seed: int) -> Iterable[Row]:
    """Train a flow; then the variance of its trace estimates, and the error of the surrogate's gradient.

    Args:
        spec: `data`, `networks`, `latent_dim`, `objective`, `loop` (the numbers of `descend`), and
            `variance` {rows, draws, K} and `gradient` {batches, K, repeats, rows}: numbers, or lists of them to try.
            More probes than dimensions are left out.
        seed: of networks, batches and probes.

    Returns:
        Rows with labels space, probes, K and values `measured`, `closed_form` (variances, averaged over rows) and their
        `ratio`, None where the closed form vanishes; rows with labels probes, K, batch and values `probe_error`,
        relative to the gradient of the same batch with the whole trace, and `total_error`, relative to that of many
        rows: root mean squares over repeats.
    """
    splits = load(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = build_flow(spec, splits.data_dim)
        for _ in descend(flow, build_objective(spec), splits.train, **spec["loop"]):
            pass
        flow = copy.deepcopy(flow).double()
        yield Row({}, {"reconstruction": residual(flow, splits.test.double())})
        yield from variances(flow, splits.test.double(), **spec["variance"])
        yield from gradient_errors(flow, splits.train.double(), **spec["gradient"])


@torch.no_grad()
def variances(flow: Flow, x: Tensor, *, rows: int, draws: int, K: list[int]) -> Iterator[Row]:
    """Variance over so many draws of the probes, at the first rows of x, in both spaces."""
    encode, decode = flow.maps()
    z, F = jacobian(encode, x[:rows])
    _, J = jacobian(decode, z)
    for space, A in {"latent": F @ J, "data": J @ F}.items():
        for probes in PROBES:
            for count in [k for k in K if k <= A.shape[1]]:
                estimates = torch.stack([trace_estimates(A, probes, count) for _ in range(draws)])
                measured, expected = float(estimates.var(0).mean()), float(closed_form(A, probes, count).mean())
                ratio = finite(measured / expected) if expected > 1e-12 else None
                labels: dict[str, Any] = {"space": space, "probes": probes, "K": count}
                yield Row(labels, {"measured": measured, "closed_form": expected, "ratio": ratio})


def gradient_errors(
    flow: Flow, x: Tensor, *, batches: list[int], K: list[int], repeats: int, rows: int
) -> Iterator[Row]:
    """Relative error of the gradient of random batches, against the whole trace on the same batch and on many rows."""
    d = flow.latent_dim

    def whole(batch: Tensor) -> Tensor:
        return gradient(flow, batch, orthonormal_probes(batch[:, :d], d))

    pieces = x[torch.randperm(len(x))[:rows]].split(256)
    mean = torch.stack([whole(piece) * len(piece) for piece in pieces]).sum(0) / min(rows, len(x))
    for size in batches:
        squares: dict[tuple[str, int], list[Tensor]] = {}
        for _ in range(repeats):
            batch = x[torch.randint(len(x), (size,))]
            exact = whole(batch)
            for probes, draw in PROBES.items():
                for count in [k for k in K if k <= d]:
                    found = gradient(flow, batch, draw(batch[:, :d], count))
                    own = (found - exact).square().sum() / exact.square().sum()
                    total = (found - mean).square().sum() / mean.square().sum()
                    squares.setdefault((probes, count), []).append(torch.stack([own, total]))
        for (probes, count), errors in squares.items():
            probe_error, total_error = torch.stack(errors).mean(0).sqrt().tolist()
            values: dict[str, Any] = {"probe_error": probe_error, "total_error": total_error}
            yield Row({"probes": probes, "K": count, "batch": size}, values)
