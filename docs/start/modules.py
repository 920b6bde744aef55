"""
Your own torch modules
======================

Encoder and decoder are ordinary modules: nothing has to be invertible, and nothing is to be inherited. What they must
keep to: rows are independent of one another (no batch normalisation in training mode), and activations are smooth (no
ReLU), since training differentiates the change of volume.

Here both are residual networks that are told which digit they see, so that the density is one *given* the digit.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
X, labels = digits.data, digits.target
context = np.eye(10)[labels]  # ten columns, one for each digit


class Block(nn.Module):
    """A residual block that is told the digit."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer, self.told = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(10, width)

    def forward(self, h, c):
        return h + self.outer(nn.functional.silu(self.inner(self.norm(h)) + self.told(c)))


class Net(nn.Module):
    """From `inputs` numbers and a digit to `outputs` numbers."""

    def __init__(self, inputs, outputs, width=96, blocks=2):
        super().__init__()
        self.first, self.last = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))

    def forward(self, x, c):
        h = self.first(x)
        for block in self.blocks:
            h = block(h, c)
        return self.last(h)


# %%
# ``data_dim`` counts the columns that vary: 61 of the 64 pixels, the other three are left out and put back. Everything
# else is as without modules of one's own: columns are standardised, beta and noise follow from the data, held-out rows
# say when to stop.

from isthmus import FreeFormFlow, Recipe, fit

torch.manual_seed(0)
flow = FreeFormFlow(Net(61, 8), Net(8, 61), data_dim=61, latent_dim=8, context_dim=10)
fitted = fit(X[:1500], context[:1500], flow=flow, recipe=Recipe.parse("training: {max_steps: 400}"))
print(fitted.figures.health.status, [v.name for v in fitted.figures.health.verdicts if v.status != "ok"])

# %%
# New digits, ten of each kind:

import matplotlib.pyplot as plt

asked = torch.eye(10, dtype=torch.float64).repeat_interleave(10, 0)
images = fitted.model.sample(100, asked, noise=False).reshape(10, 10, 8, 8)
plt.figure(figsize=(5, 5))
plt.imshow(images.permute(1, 2, 0, 3).reshape(80, 80), cmap="gray_r", vmin=0, vmax=16)
plt.axis("off")
plt.show()

# %%
# A density given the digit is also a classifier, by Bayes' rule: which digit makes a picture most likely?

x = torch.tensor(X[1500:1700])
given = torch.eye(10, dtype=torch.float64)
log_density = torch.stack([fitted.model.log_prob(x, c.expand(len(x), -1)) for c in given], 1)
right = (log_density.argmax(1).numpy() == labels[1500:1700]).mean()
print(f"{right:.1%} of 200 test digits are recognised")

# %%
# On disk
# -------
#
# A model with modules of one's own is saved as weights alone, for a file that names code would have to be trusted; to
# load it, give a flow of the same shape.

from isthmus import load, save

save(fitted, "own")
again = load("own", flow=FreeFormFlow(Net(61, 8), Net(8, 61), data_dim=61, latent_dim=8, context_dim=10))
print(torch.equal(again.model.log_prob(x, given[[3]].expand(200, -1)), log_density[:, 3]))

# %%
# A loop of your own
# ------------------
#
# :py:func:`isthmus.fit <isthmus.fitting.fit>` is a convenience. An objective is a function of a flow and rows, so any
# loop can train with it; what it returns are terms for each row, of which the surrogate is one to differentiate and not
# to report. On standardised rows, with no context:

from isthmus import FreeForm
from isthmus.networks import mlp_pair

rows = torch.tensor((X[:, 20:30] - X[:, 20:30].mean(0)) / X[:, 20:30].std(0), dtype=torch.float32)
flow = FreeFormFlow(*mlp_pair(10, 3, width=32), data_dim=10, latent_dim=3)
objective = FreeForm(beta=5.0)
optimiser = torch.optim.Adam(flow.parameters(), 2e-3)
for step in range(301):
    terms = objective(flow, rows[torch.randint(len(rows), (128,))])
    optimiser.zero_grad()
    terms.total.mean().backward()
    optimiser.step()
    if step % 100 == 0:
        error, likelihood = terms.parts["reconstruction"].mean(), flow.log_prob(rows[:200]).mean()
        print(f"step {step}: squared error {error:.2f}, exact log density on the manifold {likelihood:.2f} nats")

# %%
# The untrained flow has the highest density of all, of reconstructions that have nothing to do with the rows: read it
# beside the squared error, never alone. The density in the space of the rows needs the noise off the manifold too:

from isthmus import Ambient, IsotropicNoise

with torch.no_grad():
    sigma = ((rows - flow.reconstruct(rows)).square().sum(1).mean() / (10 - 3)).sqrt().item()
ambient = Ambient(flow, IsotropicNoise(10, sigma))
print(ambient.linearised(rows[:3]), ambient.estimate(rows[:3]).value)
