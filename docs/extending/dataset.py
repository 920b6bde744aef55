"""
A data set
==========

A data set is a function of keywords that returns three fixed splits, and the truth about them where it is known. The
wines of scikit-learn, which the library does not have:
"""

import torch
from sklearn.datasets import load_wine

from isthmus.data import DATASETS, Dataset


def wine(*, seed: int = 0) -> Dataset:
    """Chemical analyses of Italian wines, with scikit-learn (178 x 13; Aeberhard, Forina 1991, UCI 109).

    Args:
        seed: of the random split: four fifths for training, a tenth for validation, a tenth for testing.
    """
    bunch = load_wine()
    x = torch.tensor(bunch.data)[torch.randperm(178, generator=torch.Generator().manual_seed(seed))]
    x = ((x - x[:160].mean(0)) / x[:160].std(0)).float()  # by training and validation rows
    return Dataset("wine", x[:142], x[142:160], x[160:], columns=tuple(bunch.feature_names))


DATASETS["wine"] = wine

data = DATASETS["wine"](seed=1)
print(data.train.shape, data.validation.shape, data.test.shape, data.columns[:3])

# %%
# Equal options give equal rows, so that a result can be had again.

print(torch.equal(wine(seed=1).test, data.test), torch.equal(wine(seed=2).test, data.test))

# %%
# Where the law of the rows is known, ``log_prob`` states it, and a model can be held against the truth. Rows near the
# unit circle, whose density in the plane is known but for a Bessel function:

import math


def ring(*, n_train: int = 1000, n_test: int = 500, noise: float = 0.1, seed: int = 0) -> Dataset:
    """The unit circle, uniform, with normal noise (D = 2, d = 1).

    Args:
        n_train: rows for training; a tenth as many for validation.
        n_test: rows for testing.
        noise: its standard deviation in either direction, > 0.
        seed: of everything.
    """

    def log_prob(x: torch.Tensor) -> torch.Tensor:
        r = x.double().norm(dim=1)
        bessel = torch.special.i0e(r / noise**2).log()  # scaled by exp(-r / noise^2)
        return -((r - 1) ** 2) / (2 * noise**2) + bessel - math.log(2 * math.pi * noise**2)

    def draw(n: int, place: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(10 * seed + place)
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        circle = torch.stack([angle.cos(), angle.sin()], 1)
        return circle + noise * torch.randn(n, 2, generator=generator)

    rows = (draw(n, place) for place, n in enumerate((n_train, n_train // 10, n_test)))
    return Dataset("ring", *rows, latent_dim=1, log_prob=log_prob)


DATASETS["ring"] = ring

# %%
# How far is a fit from the truth? (One chart of a line cannot close a circle: it is cut somewhere, and the verdict
# knows.)

from isthmus import Recipe, fit

data = DATASETS["ring"]()
fitted = fit(data.train, recipe=Recipe.parse("{flow: {latent_dim: 1}, training: {max_steps: 600}}"))
truth, model = data.log_prob(data.test).mean(), fitted.model.log_prob(data.test, density="ambient").mean()
print(f"{truth:.2f} nats a row in truth, {model:.2f} by the model")
