"""Draw what volume-preserving flows cannot learn: `python docs/couplings.py`, a quarter of an hour on one core.

Two normal laws of equal weight and unequal width; the best that a volume-preserving flow can do, from the law's level
sets alone; what three flows of the same size learn of it.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from isthmus.diagnostics import volume_preserving_limit_on_grid
from isthmus.flows import CouplingFlow
from isthmus.rows import Rows

FILE = Path(__file__).parent / "_static" / "couplings.png"
STEPS, ROWS, CELLS, REACH = 4_000, 256, 400, 2.4
FLOWS = {
    "learnt, volume-preserving": "nice",
    "the same with a monotone radius": "volume_preserving+radial",
    "learnt, affine": "realnvp",
}


def draw(n: int) -> Tensor:
    """Draw rows of the law."""
    wide = torch.rand(n) < 0.5
    scale, centre = torch.where(wide, 0.5, 0.1), torch.where(wide, -0.8, 0.8)
    return centre.unsqueeze(1) + scale.unsqueeze(1) * torch.randn(n, 2)


def log_density(x: Tensor) -> Tensor:
    """Return the log density of the law."""
    parts = [
        torch.distributions.Normal(centre, scale).log_prob(x).sum(1) for centre, scale in ((-0.8, 0.5), (0.8, 0.1))
    ]
    return torch.logsumexp(torch.stack(parts), 0) - torch.log(torch.tensor(2.0))


def trained(layers: str) -> CouplingFlow:
    """Train a flow on fresh rows at every step."""
    torch.manual_seed(0)
    flow = CouplingFlow(2, 2, layers=layers, transforms=12, width=48)
    flow.start(Rows(draw(2_000)))
    optimiser = torch.optim.Adam(flow.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        optimiser.zero_grad()
        (-flow.log_prob(draw(ROWS)).mean()).backward()
        optimiser.step()
        schedule.step()
    return flow.double()


@torch.no_grad()
def show(ax: Axes, title: str, values: Callable[[Tensor], Tensor], points: Tensor) -> None:
    """Draw a density on the grid, its levels equally far apart in the logarithm, with its divergence."""
    torch.manual_seed(1)
    test = draw(50_000).double()
    left = float((log_density(test) - values(test)).mean())
    grid = torch.cat([values(part) for part in points.split(40_000)]).reshape(CELLS, CELLS).T
    ends = (-REACH, REACH)
    ax.imshow(grid.clamp_min(-9), origin="lower", extent=(*ends, *ends), cmap="Blues", vmin=-7, vmax=2.1)
    ax.contour(grid, levels=torch.arange(-6.0, 2.5, 1.0).tolist(), extent=(*ends, *ends), colors="0.4", linewidths=0.4)
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(f"peak {float(grid.exp().max()):.2g}, divergence {abs(left):.2f} nats", fontsize=8)
    ax.set(xticks=[], yticks=[])


def main() -> None:
    """Train the flows and write the picture."""
    limit = volume_preserving_limit_on_grid(log_density, [-REACH] * 2, [REACH] * 2, cells=CELLS)
    cells = limit.log_density.reshape(CELLS, CELLS)

    def best(x: Tensor) -> Tensor:
        place = ((x + REACH) / (2 * REACH) * CELLS).long().clamp(0, CELLS - 1)
        return cells[place[:, 0], place[:, 1]]

    figure, axes = plt.subplots(1, 5, figsize=(12, 2.9), layout="constrained")
    show(axes[0], "the law", log_density, limit.points)
    show(axes[1], "the best that keeps volumes", best, limit.points)
    for ax, (title, layers) in zip(axes[2:], FLOWS.items(), strict=True):
        show(ax, title, trained(layers).log_prob, limit.points)
    figure.savefig(FILE, dpi=130)


if __name__ == "__main__":
    main()
