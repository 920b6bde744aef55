"""
A latent density
================

A latent density is a lazy distribution of `zuko <https://zuko.readthedocs.io>`_: a module that, called with a context
or None, returns a distribution over vectors of length d. Here independent Laplace densities, which have sharper peaks
and heavier tails than the normal.
"""

from typing import Annotated

import torch
from annotated_types import Gt
from torch.distributions import Independent, Laplace
from zuko.lazy import LazyDistribution, UnconditionalDistribution

from isthmus.latents import LATENTS


def _laplace(loc: torch.Tensor, scale: torch.Tensor) -> Independent:
    return Independent(Laplace(loc, scale, validate_args=False), 1)


def laplace(dim: int, context_dim: int = 0, *, scale: Annotated[float, Gt(0)] = 0.5**0.5) -> LazyDistribution:
    """Independent Laplace densities on R^d.

    Args:
        dim: d.
        context_dim: accepted for every kind; this density does not depend on the context.
        scale: of each, > 0; the square root of 1/2 gives variance 1.
    """
    return UnconditionalDistribution(_laplace, torch.zeros(dim), torch.full((dim,), scale), buffer=True)


LATENTS["laplace"] = laplace

# %%
# A recipe asks for it; ``refit: {latent: as trained}`` keeps it after training, where by default mixtures are tried
# too.

from sklearn.datasets import load_wine

from isthmus import Recipe, fit

X = load_wine().data
recipe = Recipe.parse("""
flow: {latent_dim: 3, latent: {kind: laplace}}
training: {max_steps: 300}
refit: {latent: as trained}
""")
fitted = fit(X, recipe=recipe)
print(fitted.model.flow.base())

# %%
# Codes with heavier tails than normal ones have a kurtosis above 3; those of the Laplace density have 6.

z = fitted.model.flow.base().sample((100_000,))
print(f"{(z**4).mean() / (z**2).mean() ** 2:.1f}")

# %%
# The ambient density is normalised with it too; see :ref:`the theory <the-ambient-density>`. A Monte Carlo check in one
# dimension less than the wines have: the mean of p(x)/q(x) over x drawn from a wide normal q should be 1.

from isthmus import Ambient, FreeFormFlow, IsotropicNoise
from isthmus.networks import mlp_pair

torch.manual_seed(0)
flow = FreeFormFlow(*mlp_pair(2, 1, width=8), data_dim=2, latent_dim=1, latent=laplace(1)).double()
ambient = Ambient(flow, IsotropicNoise(2, sigma=0.5).double())
q = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2).double(), 2.0), 1)
x = q.sample((20_000,))
print(f"{(ambient.estimate(x).value - q.log_prob(x)).exp().mean():.3f}")
