"""
An objective
============

An objective is a callable ``(flow, x, c, weight)`` that returns a value for each row, and says in ``needs`` which kind
of flow it can train. It knows nothing of a flow but the contract of that kind, here of an ``Injection``: ``encode``,
``decode``, ``volume``, ``draw``. This one is the free-form loss, plus a term that makes codes survive a round trip:
codes are drawn from the latent density, decoded and encoded again, and should come back.
"""

from typing import final

import torch

from isthmus.flow import Context, Injection
from isthmus.objective import OBJECTIVES, Beta, FreeForm, Reconstructing, Terms, Weight


@final
class RoundTrip(Reconstructing):
    """The free-form loss and `gamma |z - f(g(z))|^2`, z drawn from the latent density.

    Args:
        beta: weight of the squared reconstruction error, > 0, `auto` or a range.
        gamma: weight of the squared error of codes, >= 0.
    """

    def __init__(self, beta: Beta = "auto", gamma: float = 1.0) -> None:
        super().__init__(beta)
        self.gamma, self.freeform = gamma, FreeForm(beta, surrogate="encoder")
        self.freeform.beta = self.beta  # one weight, which training moves where it is `auto`

    def __call__(self, flow: Injection, x: torch.Tensor, c: Context = None, weight: Weight = 1.0) -> Terms:
        """Per-row terms at data `x`."""
        total, parts = self.freeform(flow, x, c, weight)
        z = flow.draw(len(x), c)
        round_trip = (z - flow.encode(flow.decode(z, c), c)).square().sum(1)
        return Terms(total + self.gamma * round_trip, {**parts, "round_trip": round_trip})


OBJECTIVES["round_trip"] = RoundTrip

# %%
# Its options are those of ``__init__``; a recipe that misspells one is refused.

from sklearn.datasets import load_wine

from isthmus import InputError, Recipe, fit

try:
    Recipe.parse("objective: {kind: round_trip, gama: 2}")
except InputError as error:
    print(error)

# %%
# What it does to codes that are drawn anew, on the wines of scikit-learn:

X = load_wine().data
for objective in ("{kind: freeform, surrogate: encoder}", "{kind: round_trip, gamma: 10}"):
    recipe = Recipe.parse(f"{{flow: {{latent_dim: 4}}, objective: {objective}, training: {{max_steps: 200}}}}")
    model = fit(X, recipe=recipe).model
    torch.manual_seed(0)
    z = torch.randn(2000, 4, dtype=torch.float64)
    error = (z - model.encode(model.decode(z))).square().sum(1).mean()
    ambient = model.log_prob(torch.tensor(X)).mean()
    print(f"{objective}: codes come back to within {error:.4f} (squared), {ambient:.1f} nats a row")
