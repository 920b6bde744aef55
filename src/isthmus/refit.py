"""The latent density and the noise, fitted to the codes and residuals of a trained flow; its networks stay as they are.

Training asks the codes to follow p_Z and they never quite do; refitting p_Z to them takes seconds. The noise off the
manifold is the residuals' covariance: one sigma for all directions, or one covariance for each component of the latent
mixture, each drawn towards the pooled one by `_SHRINKAGE` rows. Between the alternatives held-out rows decide, by
their linearised ambient log density, the one value that can be compared between all of them.
"""

import copy
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from zuko.lazy import LazyDistribution

from isthmus import latents
from isthmus.ambient import Ambient, ComponentNoise, IsotropicNoise, Noise, gaussian_components, log_normal
from isthmus.errors import InputError
from isthmus.flow import Context, Flow
from isthmus.recipe import DensityRecipe, Part

__all__ = ["Refit", "Rows", "fit_mixture", "refit_density", "refit_latent"]

_COMPONENTS = (1, 2, 4, 8, 16, 32)
_ROWS_PER_COMPONENT = 4  # times d: fewer rows than that cannot carry a covariance
_MIXTURE_ROWS = 20_000
_HELD_OUT_ROWS = 2_000
_SIGMA_FACTORS = (0.7, 0.85, 1.0, 1.2)
_SHRINKAGE = (20.0, 60.0, 200.0, 1000.0)  # rows' worth of the pooled covariance in each component's
_FLOORS = (0.01, 0.05, 0.2)  # share of the mean residual variance added to every direction
_COMPONENT_NOISE_COLUMNS = 128  # above so many columns only isotropic noise: K D^2 numbers


@dataclass(frozen=True)
class Rows:
    """Standardised data (n, D), and context (n, C) or None."""

    x: Float[Tensor, "n D"]
    c: Context = None

    def __getitem__(self, index: Tensor) -> "Rows":
        return Rows(self.x[index], None if self.c is None else self.c[index])

    def to(self, target: torch.device | torch.dtype) -> "Rows":
        """The rows on another device or in another precision."""
        return Rows(self.x.to(target), None if self.c is None else self.c.to(target))

    def thinned(self, most: int) -> "Rows":
        """At most `most` of the rows, evenly spaced."""
        step = max(1, math.ceil(self.x.shape[0] / most))
        return Rows(self.x[::step], None if self.c is None else self.c[::step])


@dataclass(frozen=True)
class Refit:
    """The chosen density, the names of its parts, and every alternative with its held-out mean log density in nats."""

    ambient: Ambient
    latent: Part
    noise: Part
    candidates: tuple[dict[str, Any], ...]


def fit_mixture(z: Float[Tensor, "n d"], components: int, *, seed: int = 0) -> LazyDistribution:
    """A Gaussian mixture with full covariances fitted to codes by expectation maximisation (scikit-learn).

    Args:
        z: codes, (n, d), n >= components; at most 20,000 evenly spaced rows are used.
        components: number of Gaussians, >= 1.
        seed: of the initialisation.

    Returns:
        A `isthmus.latents.mixture` with its buffers set, in float64.

    Raises:
        InputError: fewer rows than components.

    Example:
        >>> fit_mixture(torch.randn(100, 2), 2)().event_shape
        torch.Size([2])
    """
    if z.shape[0] < components:
        raise InputError(f"expected at least one row for each of {components} components; got {z.shape[0]}; use fewer")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    z = z.detach().to(torch.float64)
    rows = z[:: max(1, math.ceil(z.shape[0] / _MIXTURE_ROWS))].cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an unfinished mixture is judged on held-out rows like any
        fitted = GaussianMixture(components, reg_covar=1e-3 * float(rows.var(0).mean()), random_state=seed).fit(rows)
    lazy = latents.mixture(z.shape[1], components=components).to(z)
    lazy.logits = torch.as_tensor(fitted.weights_).log().to(z)
    lazy.means = torch.as_tensor(fitted.means_).to(z)
    lazy.scale_tril = torch.linalg.cholesky(torch.as_tensor(fitted.covariances_)).to(z)
    return lazy


def refit_latent(flow: Flow, data: Rows, *, components: int = 8, seed: int = 0) -> LazyDistribution:
    """Replace the latent density of a flow by a Gaussian mixture fitted to the codes of the data.

    Args:
        flow: a trained flow; its `latent` is set in place, its networks are untouched.
        data: standardised rows.
        components: number of Gaussians.
        seed: of the mixture's initialisation.

    Returns:
        The new latent, which the flow now holds.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import mlp_pair
        >>> flow = FreeFormFlow(*mlp_pair(3, 1), data_dim=3, latent_dim=1).double()
        >>> refit_latent(flow, Rows(torch.randn(50, 3).double()), components=2)().event_shape
        torch.Size([1])
    """
    with torch.no_grad():
        flow.latent = fit_mixture(flow.encode(data.x, data.c), components, seed=seed)
    return flow.latent


def refit_density(flow: Flow, train: Rows, held_out: Rows, choice: DensityRecipe, *, seed: int = 0) -> Refit:
    """Fit latent density and noise to a trained flow; where the recipe says `auto`, held-out rows choose.

    Args:
        flow: a trained flow; a float64 copy of it is used.
        train: the rows it was trained on.
        held_out: other rows.
        choice: which kinds of latent and noise are allowed.
        seed: of the mixtures' initialisation.

    Returns:
        The best alternative, and the list of all.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import mlp_pair
        >>> flow = FreeFormFlow(*mlp_pair(3, 1), data_dim=3, latent_dim=1)
        >>> rows = Rows(torch.randn(200, 3).double())
        >>> refit_density(flow, rows, rows, DensityRecipe(latent="as trained", noise="isotropic")).noise.kind
        'isotropic'
    """
    flow = copy.deepcopy(flow).double().eval()
    held_out = held_out.thinned(_HELD_OUT_ROWS)
    with torch.no_grad():
        z = flow.encode(train.x, train.c)
        residuals = train.x - flow.decode(z, train.c)
        sigma = _held_out_sigma(flow, held_out)
    tried = []
    for latent, lazy in _latent_candidates(flow, z, choice, seed):
        flow.latent = lazy
        base = flow.base(None if train.c is None else train.c[:1])
        for noise, module in _noise_candidates(base, z, residuals, sigma, choice):
            value = float(Ambient(flow, module).linearised(held_out.x, held_out.c).mean())
            tried.append((value, latent, noise, lazy, module))
    _, latent, noise, flow.latent, module = max(tried, key=lambda candidate: candidate[0])
    report = tuple({"latent": t[1].model_dump(), "noise": t[2].model_dump(), "log_likelihood": t[0]} for t in tried)
    return Refit(Ambient(flow, module), latent, noise, report)


def _held_out_sigma(flow: Flow, rows: Rows) -> float:
    """Residual standard deviation per direction off the manifold; a millionth of a column's at least."""
    error = float((rows.x - flow.reconstruct(rows.x, rows.c)).square().sum(1).mean())
    return max(error / max(1, flow.data_dim - flow.latent_dim), 1e-12) ** 0.5


def _latent_candidates(
    flow: Flow, z: Tensor, choice: DensityRecipe, seed: int
) -> Iterable[tuple[Part, LazyDistribution]]:
    if choice.latent in ("auto", "as trained"):
        yield Part(kind="as trained"), flow.latent
    if choice.latent in ("auto", "mixture"):
        most = max(1, z.shape[0] // (_ROWS_PER_COMPONENT * z.shape[1]))
        for components in (k for k in _COMPONENTS if k <= most):
            yield Part(kind="mixture", components=components), fit_mixture(z, components, seed=seed)


def _noise_candidates(
    base: Distribution, z: Tensor, residuals: Tensor, sigma: float, choice: DensityRecipe
) -> Iterable[tuple[Part, Noise]]:
    D, d = residuals.shape[1], z.shape[1]
    components = gaussian_components(base) if D <= _COMPONENT_NOISE_COLUMNS else None
    if choice.noise in ("auto", "isotropic") or components is None:
        for factor in _SIGMA_FACTORS:
            yield Part(kind="isotropic"), IsotropicNoise(D, factor * sigma).double()
    if choice.noise in ("auto", "component") and components is not None:
        log_weights, means, tril = components
        shares = (log_weights + log_normal(z.unsqueeze(1) - means, tril)).softmax(1)
        yield from _component_noises(residuals, shares, sigma, D - d)


def _component_noises(
    residuals: Float[Tensor, "n D"], shares: Float[Tensor, "n K"], sigma: float, codimension: int
) -> Iterable[tuple[Part, Noise]]:
    D, K = residuals.shape[1], shares.shape[1]
    pooled = residuals.mT @ residuals / residuals.shape[0]
    scatter = torch.stack([(residuals * share.unsqueeze(1)).mT @ residuals for share in shares.unbind(1)])
    inflation = sigma**2 * max(1, codimension) / float(pooled.trace())  # training residuals are smaller than held-out
    counts = shares.sum(0).reshape(K, 1, 1)
    eye = torch.eye(D).to(pooled)
    for shrinkage in _SHRINKAGE if K > 1 else _SHRINKAGE[-1:]:
        covariances = inflation * (scatter + shrinkage * pooled) / (counts + shrinkage)
        for floor in _FLOORS:
            noise = ComponentNoise(D, K).to(pooled)
            noise.set_covariances(covariances + floor * sigma**2 * max(1, codimension) / D * eye)
            yield Part(kind="component", components=K), noise
