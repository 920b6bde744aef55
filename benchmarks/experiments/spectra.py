"""How many of its dimensions does a flow use? The singular values of `g'(z)` over draws of the latent density.

On standardised columns, the codes as training wants them, z ~ N(0, I): a singular value is the standard deviation, in
those of the columns, that the manifold has in one of its directions, had it no curvature. Dimensions that the data do
not have should end near the noise.

References: Sorrenson et al. (2024), arXiv 2306.01843, appendix: sorted singular values over 128 draws, and how many
are 1 or more; Roy, Vetterli (2007), The effective rank, for the exponential of an entropy.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from benchmarks.experiments.setting import Row, Spec, finite
from isthmus import Recipe, fit
from isthmus.autodiff import jacobian
from isthmus.data import DATASETS

__all__ = ["effective_dimension", "singular_values"]


def effective_dimension(s: Tensor) -> float:
    """`exp(-sum p log p)` with p the shares of the variance: s^2, averaged over the rows of `s` (n, d), over its sum.

    Example:
        >>> round(effective_dimension(torch.tensor([[3.0, 3.0, 0.0]])), 6)
        2.0
    """
    p = s.square().mean(0)
    return float(torch.distributions.Categorical(probs=p).entropy().exp())


def singular_values(spec: Spec, seed: int) -> Iterable[Row]:
    """Fit a recipe, and take the singular values of the decoder's Jacobian at draws of the latent density.

    Args:
        spec: `data` (a name in `DATASETS` with its options), `recipe`, `draws`.
        seed: of the fit and the draws.

    Returns:
        One row for the fit: `above_one` and `above_noise`, mean numbers of singular values of at least 1 and above the
        noise, `effective_dim`, `noise` (the residual's standard deviation per direction), `reconstruction` (held-out
        squared error of a row); then one a place, label `place`, 1 for the largest: `mean` and `sd` over draws.
    """
    options = dict(spec["data"])
    data = DATASETS[options.pop("name")](**options)
    model = fit(data.train, recipe=Recipe.validated({**spec["recipe"], "seed": seed})).model
    flow, x = model.flow, model.columns.standardise(data.test.double())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        z = torch.randn(spec["draws"], flow.latent_dim, dtype=torch.float64)
        s = torch.linalg.svdvals(jacobian(flow.decode, z)[1])
        error = float((x - flow.reconstruct(x)).square().sum(1).mean())
    noise = (error / max(1, flow.data_dim - flow.latent_dim)) ** 0.5
    yield Row(
        {},
        {
            "above_one": float((s >= 1).sum(1).double().mean()),
            "above_noise": float((s > noise).sum(1).double().mean()),
            "effective_dim": effective_dimension(s),
            "noise": noise,
            "reconstruction": error,
        },
    )
    for place, (mean, sd) in enumerate(zip(s.mean(0).tolist(), s.std(0).tolist(), strict=True), 1):
        yield Row({"place": place}, {"mean": finite(mean), "sd": finite(sd)})
