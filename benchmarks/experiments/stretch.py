"""What does the change of volume of a star map cost? The library's O(d), the published O(d^2), and brute force.

All three give `log_volume(theta) = 1/2 log det J^T J`, J the (d, d - 1) Jacobian of the surface's points
`x = r(theta) n(theta)` in spherical angles, `n_i = h_i cos theta_i`, `h_i` the product of the earlier sines:

* `linear`: the library's change of area of the star map, without a chart, and the area element of the sphere,
  `sum_i (d - 1 - i) log sin theta_i`;
* `quadratic`: as published, the surface is the level set `rho - r(theta) = 0`, so that with the whole Jacobian K of
  spherical coordinates (angles, then the distance rho)

      log_volume = log |det K| + log |K^-T (-grad r, 1)|,
      log |det K| = (d - 1) log r + sum_i (d - 1 - i) log sin theta_i.

  K^T is a triangle with one more row and column, `[[L^T, w], [n', n_d]]`, so that its inverse by blocks takes one
  triangular solve with two right-hand sides;
* `brute`: the Jacobian by forward differentiation, its Gram matrix, and the determinant of that.

Reference: Negri, Arend Torres, Roth (2025), arXiv 2406.09116, whose public code inverts K^T by these blocks.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.experiments.setting import Row, Spec, Value
from isthmus.autodiff import push
from isthmus.supports import LpSphere, Radius, Sphere, StarLike

__all__ = ["FORMS", "SURFACES", "angles", "brute", "linear", "quadratic", "stretch_cost", "timed"]

_COLUMNS = 1_000  # of Jacobians at a time


class Sigmoid(nn.Module):
    """The log radius of the publication's own timing: one linear layer and a sigmoid."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.layer = nn.Linear(columns, 1, dtype=torch.float64)

    def forward(self, n: Tensor) -> Tensor:
        """Return log radii, (batch, 1)."""
        return nn.functional.logsigmoid(self.layer(n))


SURFACES: dict[str, Callable[[int], StarLike]] = {
    "learned": lambda d: Radius(d, Sigmoid(d)),
    "p = 1.5": lambda d: LpSphere(d, 1.5),
}


def _direction(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return directions (batch, d), `log sin theta` and `log h` (batch, d - 1); the last sine by its size."""
    log_sine = theta.sin().abs().log()
    log_h = torch.cat([torch.zeros_like(theta[:, :1]), log_sine.cumsum(1)[:, :-1]], 1)
    last = log_h[:, -1:].exp() * theta[:, -1:].sin()
    return torch.cat([log_h.exp() * theta.cos(), last], 1), log_sine, log_h


def _element(log_sine: Tensor) -> Tensor:
    """Return the log area element of the sphere in angles, (batch,)."""
    d = log_sine.shape[1] + 1
    return log_sine[:, :-1] @ torch.arange(d - 2, 0, -1).to(log_sine)


def angles(n: Tensor) -> Tensor:
    """Return the angles of directions, (batch, d - 1): all but the last one in (0, pi)."""
    tails = n.square().flip(1).cumsum(1).flip(1)[:, 1:-1].sqrt()
    return torch.cat([torch.atan2(tails, n[:, :-2]), torch.atan2(n[:, -1:], n[:, -2:-1])], 1)


def linear(surface: StarLike, theta: Tensor) -> Tensor:
    """Return the log volume of the library's form, (batch,)."""
    n, log_sine, _ = _direction(theta)
    return surface.log_stretch(n) + _element(log_sine)


def quadratic(surface: StarLike, theta: Tensor) -> Tensor:
    """Return the log volume of the published form, (batch,)."""
    d = theta.shape[1] + 1
    theta = theta if theta.requires_grad else theta.detach().requires_grad_()
    n, log_sine, log_h = _direction(theta)
    log_radius = surface.log_radius(n)
    (slope,) = torch.autograd.grad(log_radius.sum(), theta, create_graph=True)
    # in units of r: columns of K are d x / d theta_j / r, and the right-hand side is -grad log r
    cotangent = theta.cos() / theta.sin()
    L = torch.tril(n[:, :-1, None] * cotangent[:, None, :], -1)
    L = L + torch.diag_embed(-(log_h + log_sine).exp() * theta.sin().sign())
    w = n[:, -1:] * cotangent
    first, second = torch.linalg.solve_triangular(L.mT, torch.stack([-slope, w], 2), upper=True).unbind(2)
    last = (1 - (n[:, :-1] * first).sum(1)) / (n[:, -1] - (n[:, :-1] * second).sum(1))
    solved = torch.cat([first - second * last.unsqueeze(1), last.unsqueeze(1)], 1)
    return (d - 1) * log_radius + _element(log_sine) + solved.norm(dim=1).log()


@torch.no_grad()
def brute(surface: StarLike, theta: Tensor) -> Tensor:
    """Return the log volume by the Jacobian and the determinant of its Gram matrix, (batch,)."""

    def point(angle: Tensor) -> Tensor:
        n, *_ = _direction(angle)
        return n * surface.log_radius(n).exp().unsqueeze(1)

    each = torch.eye(theta.shape[1]).to(theta).split(max(1, _COLUMNS // len(theta)))
    products = [push(point, theta, v.unsqueeze(1).expand(-1, len(theta), -1))[1] for v in each]
    J = torch.cat(products).movedim(0, 2)
    return 0.5 * torch.linalg.slogdet(J.mT @ J).logabsdet


FORMS: dict[str, Callable[[StarLike, Tensor], Tensor]] = {"linear": linear, "quadratic": quadratic, "brute": brute}


def timed(function: Callable[[], Tensor], most: float, repeats: int) -> tuple[Tensor, float]:
    """Return the value of a function, and the median milliseconds of processor time of calls after the first.

    As many calls as fit in `most` seconds, `repeats` at most; where the first one alone does not, its own time.
    """
    taken: list[float] = []
    while len(taken) <= repeats and sum(taken) < most:
        begun = time.process_time()
        value = function()
        taken.append(time.process_time() - begun)
    return value.detach(), 1e3 * statistics.median(taken[1:] or taken)


def _step(form: Callable[[StarLike, Tensor], Tensor], surface: StarLike, theta: Tensor) -> Tensor:
    """Return the value, its gradient in angles and in the parameters of the surface computed too."""
    angle = theta.detach().requires_grad_()
    parameters = surface.function.parameters() if isinstance(surface, Radius) else ()
    value = form(surface, angle)
    torch.autograd.grad(value.sum(), [angle, *parameters])
    return value


def _values(surface: StarLike, theta: Tensor, spec: Spec) -> Iterator[tuple[str, Value]]:
    """Yield the times of every form that has the entries for it, and how far their values are apart."""
    batch, d = len(theta), theta.shape[1] + 1
    found = {}
    for name, form in FORMS.items():
        if batch * d**2 > spec["entries"][name]:
            continue
        found[name], alone = timed(partial(form, surface, theta), spec["most"], spec["repeats"])
        yield f"{name}_ms", alone
        if name != "brute":
            yield f"{name}_step_ms", timed(partial(_step, form, surface, theta), spec["most"], spec["repeats"])[1]
    for name in found.keys() - {"linear"}:
        yield f"{name}_differs", float((found[name] - found["linear"]).abs().max())


def stretch_cost(spec: Spec, seed: int) -> Iterable[Row]:
    """Time the forms of the change of volume on the same rows, in float64, and compare their values.

    Args:
        spec: `surface`, a name in `SURFACES`; `columns` d; `batch` rows; `entries`, form -> the largest batch x d^2 at
            which it is tried; `most` seconds and `repeats` of each timing.
        seed: of directions, which are uniform, and of the learned radius.

    Returns:
        One row: of each form `_ms`, processor time of the value alone, and `_step_ms`, with its gradient in angles and
        parameters; `faster` and `faster_step`, quadratic over linear; `_differs`, the largest difference from the
        linear form in nats; `single_finite`, whether the linear form and its gradient are finite in float32.
    """
    d, batch = spec["columns"], spec["batch"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        surface = SURFACES[spec["surface"]](d)
        n = Sphere(d).uniform(batch).double()
    values = dict(_values(surface, angles(n), spec))
    for name in ("", "_step"):
        if f"quadratic{name}_ms" in values:
            values[f"faster{name}"] = values[f"quadratic{name}_ms"] / values[f"linear{name}_ms"]
    values["single_finite"] = int(_finite_in_single(spec["surface"], d, n))
    yield Row({}, values)


def _finite_in_single(name: str, d: int, n: Tensor) -> bool:
    """Whether value and gradient of the library's form are finite in single precision."""
    surface = SURFACES[name](d)
    if isinstance(surface, Radius):
        surface.function.float()
    rows = n.float().requires_grad_()
    value = surface.log_stretch(rows)
    (gradient,) = torch.autograd.grad(value.sum(), rows)
    return bool(value.isfinite().all() and gradient.isfinite().all())
