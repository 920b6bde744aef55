"""
A flow
======

A :py:class:`Flow <isthmus.flow.Flow>` is a law of rows. An injection has codes too: an encoder, a decoder and the
change of volume between them. Where the decoder's image is learnt it is a ``LearnedManifold``, and noise off it
completes the density of a row. This one is linear with an orthonormal basis, g(z) = b + Q diag(s) z, so that everything
about it is known: its best fit is principal component analysis, and its density with noise off the plane is
probabilistic principal component analysis (Tipping and Bishop 1999).
"""

from typing import final

import torch
from torch import nn

from isthmus.flow import Context, LearnedManifold
from isthmus.volume import Volume


@final
class OrthogonalFlow(LearnedManifold):
    """A plane with orthogonal axes, `g(z) = b + Q diag(s) z`, and `f(x) = diag(1/s) Q^T (x - b)`.

    Args:
        data_dim: D.
        latent_dim: d, 1 <= d <= D.
        context_dim: must be 0.
    """

    def __init__(self, data_dim: int, latent_dim: int, context_dim: int = 0) -> None:
        super().__init__(data_dim, latent_dim, context_dim)
        self.raw = nn.Parameter(torch.randn(data_dim, latent_dim))  # any basis of the plane
        self.log_scale, self.centre = nn.Parameter(torch.zeros(latent_dim)), nn.Parameter(torch.zeros(data_dim))

    def axes(self) -> torch.Tensor:
        """Q, (D, d), with orthonormal columns."""
        return torch.linalg.qr(self.raw).Q

    def encode(self, x: torch.Tensor, c: Context = None) -> torch.Tensor:
        """The code of each row."""
        return (x - self.centre) @ self.axes() / self.log_scale.exp()

    def decode(self, z: torch.Tensor, c: Context = None) -> torch.Tensor:
        """The point of the plane at each code."""
        return self.centre + (z * self.log_scale.exp()) @ self.axes().mT

    def volume(self, x: torch.Tensor, c: Context = None) -> Volume:
        """In closed form: the volume of the box of the axes, sum log s."""
        z = self.encode(x)
        return Volume(z, self.decode(z), self.log_scale.sum().double().expand(len(x)))


# %%
# A line in ``FLOWS``, and recipes know it by name. (In the library the line stands in ``flows/__init__.py``, and the
# tests of every flow run on the new one: that its parts have the right shapes and precision, and that ``volume`` is
# what automatic differentiation finds.)

from isthmus.flows import FLOWS

FLOWS["orthogonal"] = OrthogonalFlow

# %%
# On the wines of scikit-learn, against the principal components of scikit-learn:

from sklearn.datasets import load_wine
from sklearn.decomposition import PCA

from isthmus import Recipe, fit

X = load_wine().data
X = (X - X.mean(0)) / X.std(0)
recipe = Recipe.parse("""
flow: {kind: orthogonal, latent_dim: 3}
objective: {kind: exact}
training: {max_steps: 600, learning_rate: 0.02}
columns: {standardise: false, heavy_tails: false, dequantise: false}
refit: {latent: gaussian, noise: isotropic}
""")
fitted = fit(X, recipe=recipe)

ours = fitted.model.log_prob(torch.tensor(X)).mean()
print(f"learned {ours:.2f} nats a row, in closed form {PCA(3).fit(X).score(X):.2f}")

# %%
# The exact volume of the library, from the whole Jacobian, is the one that was written down:

from isthmus.volume import exact

flow = fitted.model.flow
x = torch.tensor(X[:4])
print(torch.allclose(exact(flow.encode, flow.decode, x).log_volume, flow.volume(x).log_volume))
