"""Draw the picture of the first page and the README: `python docs/picture.py`, a few minutes on one core.

Left: a noisy curve, what is learned of it, and the density around it. Right: handwritten digits that training did not
see, their reconstructions, and new ones.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from sklearn.datasets import load_digits

from isthmus import Recipe, fit
from isthmus.data import DATASETS
from isthmus.plots.style import GREY, MODEL

FILE = Path(__file__).parent / "_static" / "picture.png"
DIGITS = """
flow: {latent_dim: 12, network: {kind: convolutional, shape: [1, 8, 8]}}
columns: {standardise: false, heavy_tails: false, dequantise: false}
"""


def draw_curve(rows: Axes, density: Axes) -> None:
    """The learned curve over the rows, and the ambient density with samples of it."""
    data = DATASETS["sine"](n_train=2000)
    model = fit(data.train, recipe=Recipe.parse("flow: {latent_dim: 1}")).model
    codes = model.encode(data.train)
    z = torch.linspace(float(codes.min()), float(codes.max()), 400, dtype=torch.float64).unsqueeze(1)
    curve = model.decode(z)
    rows.scatter(*data.train.T, s=3, color=GREY, alpha=0.5, linewidths=0)
    rows.scatter(*curve.T, c=model.log_prob(curve, density="manifold"), s=9, cmap="viridis", vmin=-4)
    rows.set_title("rows, and the manifold learned\nwith the density along it")
    x, y = torch.linspace(-3.6, 3.6, 240), torch.linspace(-2, 2, 160)
    grid = torch.cartesian_prod(x, y).double()
    values = model.log_prob(grid, density="ambient").exp().reshape(240, 160).T
    density.imshow(values, origin="lower", extent=(-3.6, 3.6, -2, 2), aspect="auto", cmap="Blues")
    torch.manual_seed(0)
    density.scatter(*model.sample(300).T, s=3, color=MODEL, linewidths=0)
    density.set_title("the density around it,\nand rows drawn from it")
    for ax in (rows, density):
        ax.set(xlim=(-3.6, 3.6), ylim=(-2, 2), xticks=[], yticks=[])


def draw_digits(ax: Axes) -> None:
    """Three lines of pictures."""
    pixels = load_digits().data
    noisy = (pixels[:1500] + np.random.default_rng(0).uniform(-0.5, 0.5, (1500, 64))) / 16
    model = fit(noisy, recipe=Recipe.parse(DIGITS)).model
    test = torch.tensor(pixels[1500:1508] / 16)
    torch.manual_seed(0)
    lines = torch.stack([test, model.reconstruct(test), model.sample(8, noise=False)]).reshape(3, 8, 8, 8)
    sheet = torch.full((3, 8, 10, 9), float("nan"), dtype=torch.float64)
    sheet[:, :, 1:9, :8] = lines
    ax.imshow(sheet.permute(0, 2, 1, 3).reshape(30, 72), cmap="gray_r", vmin=0, vmax=1)
    ax.set_yticks([4.5, 14.5, 24.5], ["unseen", "reconstructed", "new"])
    ax.set(xticks=[], title="8 x 8 pixels as 12 numbers")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def main() -> None:
    """Draw and save."""
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 9.5})
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.9), width_ratios=(1, 1, 1.25), layout="constrained")
    draw_curve(*axes[:2])
    draw_digits(axes[2])
    figure.savefig(FILE, dpi=160, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    main()
