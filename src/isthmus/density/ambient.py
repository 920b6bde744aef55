"""The normalised density in R^D around a learned manifold.

The generative model: a component k ~ w of the latent mixture, a code `z ~ N(m_k, S_k)`, and `x = g(z) + e` with
`e ~ N(0, Sigma_k)`. (A latent that is no Gaussian mixture is one component; an isotropic Sigma is shared by all.) Its
density in R^D is normalised whatever the encoder does, so it can be compared across d and with every other density on
R^D. The encoder only says where to look. Two evaluations, both deterministic, both in nats:

* `linearised`: the decoder is replaced by its tangent at `z0 = f(x)`. With J = g'(z0), r = x - g(z0), and the latent's
  log density around z0, `a_k + h_k (z - z0) - 1/2 (z - z0)^T H_k (z - z0)`,

      log p_k(x) = a_k + log N(r; 0, Sigma_k) + d/2 log(2 pi) - 1/2 log det M_k + 1/2 b_k^T M_k^-1 b_k,
      M_k = H_k + J^T Sigma_k^-1 J,     b_k = h_k + J^T Sigma_k^-1 r,

  which is exact for a Gaussian mixture and a linear decoder. Any other p_Z is taken for the Gaussian of its mean and
  covariance, and the ratio of the two averaged over the Gaussian posterior of z, at fixed quasi-random points: with a
  linear decoder that is normalised too. (Laplace's approximation is not: where p_Z is steep, or convex as in the
  tails of a Student-t, it extrapolates to densities that are too high by any factor.)
* `importance_sampled`: the same Gaussians, N(z0 + M_k^-1 b_k, M_k^-1), slightly widened and with a broad component
  beside them, as proposal for the true integral over z. Its ratio to the linearised model's own integral, sampled at
  the same fixed quasi-random points, corrects the linearised value; so it is exact for a linear decoder too, and a
  row's value never depends on the other rows. Where the tangent at f(x) is wrong by more than a nat about what the
  decoder gives at the posterior's mean, it is taken again nearer to the mode: Gauss-Newton steps, damped where they
  go too far. An encoder that is off, or a decoder much curved in many dimensions, then costs time and not the value.

With a linear decoder both equal probabilistic PCA, or with a mixture a mixture of factor analysers.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.quasirandom import SobolEngine
from zuko.distributions import Mixture

from isthmus.autodiff import jacobian
from isthmus.density.contract import CANDIDATES, Density, likely
from isthmus.density.noise import Noise
from isthmus.errors import InputError
from isthmus.flow import Context, Estimate, Injection, LearnedManifold
from isthmus.latents import Mixtures
from isthmus.rows import Rows
from isthmus.supports import Euclidean, Support
from isthmus.volume import Map, exact, log_volume

__all__ = ["Ambient", "Tangent", "gaussian_components", "log_normal", "tangent"]

LOG_2PI = math.log(2 * math.pi)

# Numbers (not rows) held at once by one chunk of rows: 16 million float64 are 128 MB.
_CHUNK_NUMBERS = 16_000_000
_ACTIVATIONS = 32  # numbers inside a decoder for each number of its Jacobian

# Proposal of the importance-sampled density: standard deviations are widened by this factor, and this share of the
# points is drawn from the whole latent distribution, in case the encoder looks in the wrong place.
_WIDENING = 1.1
_DEFENSIVE_SHARE = 0.1
_DEFENSIVE_WIDENING = 1.25

# Where a tangent is wrong by more than so many nats at its own mean, it is taken again, at most so many times, at the
# best of these shares of the way there.
_WRONG, _MOST_MOVES = 1.0, 4
_SHARES = (0.0, 1.0, 0.5, 0.25, 0.125, 0.0625)

_CORRECTED_ROWS, _CORRECTION_POINTS = 200, 32  # by which the held-out linearised density is corrected

# For a latent that is no Gaussian mixture: draws for its mean and covariance, and points for its ratio to the Gaussian.
_MOMENT_DRAWS = 1024
_RATIO_POINTS = 64


Gaussians = tuple[Tensor, Tensor, Tensor]  # log weights (K,), means (K, d), Cholesky factors of covariances (K, d, d)


class Tangent(NamedTuple):
    """A decoder linearised at codes: `g(z + s) = x_hat + J s`, up to its curvature.

    Attributes:
        z: codes, (batch, d).
        x_hat: points of the manifold, (batch, D).
        J: Jacobians of the decoder, (batch, D, d).
    """

    z: Float[Tensor, "batch d"]
    x_hat: Float[Tensor, "batch D"]
    J: Float[Tensor, "batch D d"]

    def at(self, rows: slice) -> "Tangent":
        """Return the tangents of some rows."""
        return Tangent(self.z[rows], self.x_hat[rows], self.J[rows])


@torch.no_grad()
def tangent(flow: Injection, x: Float[Tensor, "batch D"], c: Context = None) -> Tangent:
    """Linearise the decoder of a flow at the codes of rows: d products a row.

    Args:
        flow: any flow.
        x: data, (batch, D).
        c: context, (batch, C), or None.

    Returns:
        A `Tangent`.

    Example:
        >>> from torch import nn
        >>> from isthmus.flows import FreeFormFlow
        >>> flow = FreeFormFlow(nn.Linear(3, 2), nn.Linear(2, 3), data_dim=3, latent_dim=2)
        >>> tangent(flow, torch.zeros(5, 3)).J.shape
        torch.Size([5, 3, 2])
    """
    return _tangent(flow, x, c, flow.encode)


def _tangent(flow: Injection, rows: Tensor, c: Context, encode: Callable[[Tensor, Context], Tensor]) -> Tangent:
    """Linearise the decoder at `encode(rows, c)`, a few rows at a time."""
    at_once = max(1, _CHUNK_NUMBERS // (_ACTIVATIONS * flow.data_dim * flow.latent_dim))
    contexts = itertools.repeat(None) if c is None else c.split(at_once)
    parts = []
    for some, given in zip(rows.split(at_once), contexts, strict=False):
        z = encode(some, given)
        parts.append((z, *jacobian(flow.maps(given)[1], z, outputs=flow.data_dim)))
    return Tangent(*map(torch.cat, zip(*parts, strict=True)))


def _cholesky(matrices: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Return Cholesky factors; NaN where there are none, so that a row beyond arithmetic does not stop the others."""
    tril, failed = torch.linalg.cholesky_ex(matrices)
    return torch.where(failed[..., None, None] == 0, tril, torch.nan)


class _Posterior(NamedTuple):
    """The linearised model at each row: log p_k(x), and the Gaussian posterior of z given x and k."""

    log_joint: Float[Tensor, "batch K"]
    mean: Float[Tensor, "batch K d"]
    tril: Float[Tensor, "batch K d d"]  # Cholesky factor of the posterior precision M_k


@final
class Ambient(Density):
    """The density in R^D of a learned manifold with noise off it.

    Args:
        flow: the flow; its latent density may have been refitted to the codes.
        noise: the noise off the manifold. One with several components needs a mixture latent with as many.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.density.noise import IsotropicNoise
        >>> from isthmus.networks import mlp_pair
        >>> flow = FreeFormFlow(*mlp_pair(3, 1), data_dim=3, latent_dim=1)
        >>> ambient = Ambient(flow, IsotropicNoise(3, sigma=0.1))
        >>> ambient.linearised(torch.zeros(4, 3)).shape, ambient.importance_sampled(torch.zeros(4, 3)).value.shape
        (torch.Size([4]), torch.Size([4]))
    """

    names = ("linearised", "ambient", "manifold")
    flow: LearnedManifold

    def __init__(self, flow: LearnedManifold, noise: Noise) -> None:
        super().__init__()
        self.flow, self.noise = flow, noise

    @property
    def rows(self) -> Support:
        """R^D."""
        return Euclidean(self.flow.data_dim)

    def log_prob(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, " batch"]:
        """Return the linearised log density, (batch,) in nats."""
        return self.linearised(x, c)

    def estimate(
        self, x: Float[Tensor, "batch D"], c: Context = None, *, n_points: int = 128, seed: int = 0
    ) -> Estimate:
        """Return the importance-sampled log density with its standard error, (batch,) in nats."""
        return self.importance_sampled(x, c, n_points=n_points, seed=seed)

    @torch.no_grad()
    def manifold(
        self, x: Float[Tensor, "batch D"], c: Context = None, *, restore: Map = lambda x: x
    ) -> Float[Tensor, " batch"]:
        """Return the log density of the reconstruction of x on the manifold, (batch,) in nats.

        Args:
            x: data, (batch, D).
            c: context, (batch, C), or None.
            restore: from rows to the units in which volume is measured.
        """
        encode, decode = self.flow.maps(c)
        z, _, volume = exact(encode, lambda z: restore(decode(z)), x)
        return self.flow.base(c).log_prob(z) - volume

    @torch.no_grad()
    def score(self, rows: Rows) -> dict[str, float]:
        """Return held-out means: the corrected log density, the squared error and the manifold log density.

        The linearised log density of all rows is corrected by what importance sampling says of some of them; in nats.
        """
        x, c = rows.x, rows.c
        at = tangent(self.flow, x, c)
        figures = {
            "reconstruction": float((x - at.x_hat).square().sum(1).mean()),
            "log_density_manifold": float((self.flow.base(c).log_prob(at.z) - log_volume(at.J)).mean()),
        }
        some = slice(None, None, rows.spacing(self.flow.affordable(_CORRECTED_ROWS, times=4, least=50)))
        few = rows[some]
        try:
            linearised = self.linearised(x, c, at=at)
            sampled = self.importance_sampled(few.x, few.c, n_points=_CORRECTION_POINTS, at=at.at(some)).value
        except torch.linalg.LinAlgError:  # a Jacobian with NaN has no Cholesky factor
            return {**figures, "log_density": -math.inf}
        value = float(linearised.mean() + (sampled - linearised[some]).mean())
        return {**figures, "log_density": value if math.isfinite(value) else -math.inf}

    @torch.no_grad()
    def linearised(
        self, x: Float[Tensor, "batch D"], c: Context = None, *, at: Tangent | None = None
    ) -> Float[Tensor, " batch"]:
        """Return the log density at x with the decoder replaced by its tangent at f(x), (batch,) in nats.

        Args:
            x: data, (batch, D).
            c: context, (batch, C), or None.
            at: the tangents at the codes of x, where they are known.

        Returns:
            (batch,) in nats.
        """
        points = _quasi_random(self.flow.latent_dim, _RATIO_POINTS if self._components(c) is None else 1, seed=0).to(x)
        parts = self._chunks(x, c, at, n_points=points.shape[0])
        prior = self._gaussians(c)
        return torch.cat([self._linearised(*part, prior, points) for part in parts])

    @torch.no_grad()
    def importance_sampled(
        self,
        x: Float[Tensor, "batch D"],
        c: Context = None,
        *,
        n_points: int = 128,
        seed: int = 0,
        at: Tangent | None = None,
    ) -> Estimate:
        """Estimate the log density at x by importance sampling over the codes, with its standard error.

        Up to the sampling error this is the density of the true, curved model; in expectation it lies below it
        (Jensen). The standard error treats the quasi-random points as independent, which is pessimistic.

        Args:
            x: data, (batch, D).
            c: context, (batch, C), or None.
            n_points: decoder evaluations a row; a power of two spreads them most evenly.
            seed: of the scrambling of the quasi-random points, the same for all rows.
            at: the tangents at the codes of x, where they are known.

        Returns:
            Value and standard error, (batch,) in nats.
        """
        points = _quasi_random(self.flow.latent_dim + 1, n_points, seed).to(x)
        prior = self._gaussians(c)
        parts = [self._sampled(*part, prior, points) for part in self._chunks(x, c, at, n_points=n_points)]
        return Estimate(*(torch.cat(part) for part in zip(*parts, strict=True)))

    @torch.no_grad()
    def sample(
        self, n: int, c: Context = None, *, noise: bool = True, temperature: float = 1.0, truncation: float = 1.0
    ) -> Float[Tensor, "n D"]:
        """Draw x = g(z) + e, (n, D); see `Density.sample`."""
        if c is not None and c.shape[0] != n:
            raise InputError(f"expected one context row for each of {n} samples; got {c.shape[0]} rows; repeat them")
        z, k = self._codes(n, c, temperature) if truncation == 1 else self._likely_codes(n, c, temperature, truncation)
        x = self.flow.decode(z, c)
        return x + temperature * self.noise.color(torch.randn_like(x), k) if noise else x

    def _codes(self, n: int, c: Context, temperature: float) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """Draw codes from p_Z, and the component of each."""
        components = self._components(c)
        if components is None:
            z = self.flow.draw(n, c, temperature=temperature)
            return z, torch.zeros(n, dtype=torch.long, device=z.device)
        log_weights, means, tril = components
        k = torch.multinomial(log_weights.exp(), n, replacement=True)
        return means[k] + temperature * (tril[k] @ torch.randn_like(means[k]).unsqueeze(2)).squeeze(2), k

    def _likely_codes(
        self, n: int, c: Context, temperature: float, share: float
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """Choose of several codes drawn for each row one of the likeliest share, and return the component of each."""
        c = None if c is None else c.repeat_interleave(CANDIDATES, 0)
        z, k = self._codes(n * CANDIDATES, c, temperature)
        kept = likely(self.flow.base(c).log_prob(z).reshape(n, CANDIDATES), share)
        return z[kept], k[kept]

    def _chunks(
        self, x: Tensor, c: Context, at: Tangent | None = None, *, n_points: int = 1
    ) -> Iterator[tuple[Tensor, Context, Tangent]]:
        """Yield some rows at a time, their context and their tangents."""
        d, D = self.flow.latent_dim, self.flow.data_dim
        K = self.noise.half_log_det().shape[0]
        components = self._components(c)
        L = 1 if components is None else components[0].shape[0]
        numbers = K * d * D + max(K, L) * (2 * d * d + d) + n_points * (d * d + (K + 1) * D + max(K, L) * (d + 3))
        rows = max(1, _CHUNK_NUMBERS // numbers)
        for start in range(0, max(1, x.shape[0]), rows):
            some = slice(start, start + rows)
            given = None if c is None else c[some]
            yield x[some], given, tangent(self.flow, x[some], given) if at is None else at.at(some)

    def _posterior(self, x: Tensor, at: Tangent, prior: Gaussians) -> _Posterior:
        flow, noise = self.flow, self.noise
        z0, x_hat, J = at
        log_weights, means, prior_tril = prior
        offset = means - z0.unsqueeze(1)  # batch K d
        H = torch.cholesky_inverse(prior_tril)
        h = (H @ offset.unsqueeze(3)).squeeze(3)
        W = noise.whiten(J.mT).movedim(2, 1)  # batch K d D
        r = noise.whiten(x - x_hat)  # batch K D
        tril = _cholesky(H + W @ W.mT)
        b = h + (W @ r.unsqueeze(3)).squeeze(3)
        half = torch.linalg.solve_triangular(tril, b.unsqueeze(3), upper=False)
        log_joint = (
            log_weights
            + log_normal(offset, prior_tril)
            - 0.5 * r.square().sum(2)
            - noise.half_log_det()
            - 0.5 * (flow.data_dim - flow.latent_dim) * LOG_2PI
            - tril.diagonal(dim1=2, dim2=3).log().sum(2)
            + 0.5 * half.square().sum((2, 3))
        )
        shift = torch.linalg.solve_triangular(tril.mT, half, upper=True).squeeze(3)
        return _Posterior(log_joint, z0.unsqueeze(1) + shift, tril)

    def _linearised(
        self, x: Tensor, c: Context, at: Tangent, prior: Gaussians, points: Float[Tensor, "S d"]
    ) -> Float[Tensor, " batch"]:
        log_joint, mean, tril = self._posterior(x, at, prior)
        if self._components(c) is not None:
            return log_joint.logsumexp(1)
        _, (center,), (spread,) = prior
        steps = torch.linalg.solve_triangular(tril[:, 0].mT, torch.special.ndtri(points).mT, upper=True).mT
        z = mean + steps  # batch S d
        base = self.flow.base(None if c is None else c.repeat_interleave(points.shape[0], 0))
        log_ratio = base.log_prob(z.flatten(0, 1)).unflatten(0, z.shape[:2]) - log_normal(z - center, spread)
        return log_joint[:, 0] + log_ratio.logsumexp(1) - math.log(points.shape[0])

    def _sampled(self, x: Tensor, c: Context, at: Tangent, prior: Gaussians, points: Float[Tensor, "S d1"]) -> Estimate:
        posterior = self._settled(x, c, at, prior)
        z, log_q, log_linear = _propose(posterior, _broad(prior), points)
        return _correct(posterior.log_joint.logsumexp(1), self._log_joint(x, z, c) - log_q, log_linear - log_q)

    def _settled(self, x: Tensor, c: Context, at: Tangent, prior: Gaussians, moves: int = _MOST_MOVES) -> _Posterior:
        """Return the posterior of each row, its tangent taken again where it is wrong, at most so many times."""
        posterior = self._posterior(x, at, prior)
        if not moves:
            return posterior
        index, z = self._nearer(x, c, at, posterior)
        if not len(index):
            return posterior
        given = None if c is None else c[index]
        anew = self._settled(x[index], given, _tangent(self.flow, z, given, lambda z, _: z), prior, moves - 1)
        return _Posterior(*(old.index_copy(0, index, new) for old, new in zip(posterior, anew, strict=True)))

    def _nearer(
        self, x: Tensor, c: Context, at: Tangent, posterior: _Posterior
    ) -> tuple[Int[Tensor, " moved"], Float[Tensor, "moved d"]]:
        """Return rows whose tangent is wrong at its own mean, and likelier codes on the way there."""
        k = posterior.log_joint.argmax(1)
        shift = posterior.mean[torch.arange(len(x), device=k.device), k] - at.z
        promised = x - at.x_hat - (at.J @ shift.unsqueeze(2)).squeeze(2)
        kept = x - self.flow.decode(at.z + shift, c)
        excess = self.noise.whiten(kept).square().sum(2) - self.noise.whiten(promised).square().sum(2)  # batch K
        excess = excess.gather(1, k.clamp_max(excess.shape[1] - 1).unsqueeze(1)).squeeze(1)
        index = (0.5 * excess.abs() > _WRONG).nonzero().squeeze(1)
        if not len(index):
            return index, at.z[index]
        shares = x.new_tensor(_SHARES).unsqueeze(1)
        z = at.z[index].unsqueeze(1) + shares * shift[index].unsqueeze(1)  # moved S d
        log_joint = self._log_joint(x[index], z, None if c is None else c[index]).nan_to_num(nan=-torch.inf)
        best = log_joint.argmax(1)
        moved = best > 0
        return index[moved], z[moved, best[moved]]

    def _log_joint(self, x: Tensor, z: Float[Tensor, "batch S d"], c: Context) -> Float[Tensor, "batch S"]:
        """Return log p(x, z) at several codes a row."""
        batch, S, _ = z.shape
        repeated = None if c is None else c.repeat_interleave(S, 0)
        x_hat = self.flow.decode(z.flatten(0, 1), repeated).unflatten(0, (batch, S))
        r = self.noise.whiten(x.unsqueeze(1) - x_hat).square().sum(3)  # batch S K
        log_noise = -0.5 * r - self.noise.half_log_det() - 0.5 * self.flow.data_dim * LOG_2PI
        return (self._log_latent(z, repeated) + log_noise).logsumexp(2)

    def _log_latent(
        self, z: Float[Tensor, "batch S d"], c: Float[Tensor, "points C"] | None
    ) -> Float[Tensor, "batch S K"]:
        components = self._components(c)
        if components is None or self.noise.half_log_det().shape[0] == 1:
            return self.flow.base(c).log_prob(z.flatten(0, 1)).unflatten(0, z.shape[:2]).unsqueeze(2)
        log_weights, means, tril = components
        return log_weights + log_normal(z.unsqueeze(2) - means, tril)

    def _components(self, c: Context) -> Gaussians | None:
        """Return the latent's own Gaussian components, or None; as many as the noise has, where that has several."""
        components = gaussian_components(self.flow.base(c))
        K, L = self.noise.half_log_det().shape[0], 1 if components is None else components[0].shape[0]
        if K not in (1, L):
            raise InputError(f"expected noise of one component or of {L}, as the latent has; got {K}; refit one")
        return components

    def _gaussians(self, c: Context) -> Gaussians:
        """Return the latent's own Gaussian components, or the one Gaussian of its mean and covariance.

        Where those depend on the context they are the ones of all contexts together, or at context 0, the mean of a
        standardised context: the same for every row, whatever the others are.
        """
        components = self._components(c)
        if components is not None:
            return components
        device = next(self.noise.buffers()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            if isinstance(self.flow.latent, Mixtures):
                c = None
            base = self.flow.base(None if c is None else c.new_zeros(1, c.shape[1]))
            z = base.sample(torch.Size([_MOMENT_DRAWS])).reshape(_MOMENT_DRAWS, self.flow.latent_dim)
        covariance = z.T.cov().reshape(1, z.shape[1], z.shape[1])
        return z.new_zeros(1), z.mean(0, keepdim=True), _cholesky(covariance)


def _broad(prior: Gaussians) -> tuple[Tensor, Tensor]:
    """Return mean (d) and Cholesky factor (d, d) of a Gaussian as wide as the whole latent density."""
    log_weights, means, tril = prior
    w = log_weights.exp()
    mean = w @ means
    spread = means - mean
    covariance = torch.einsum("k,kij->ij", w, tril @ tril.mT) + spread.mT @ (w.unsqueeze(1) * spread)
    return mean, _cholesky(covariance)


def gaussian_components(base: Distribution) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return weights, means and Cholesky factors of a distribution that is a mixture of Gaussians.

    Args:
        base: a latent distribution.

    Returns:
        log weights (K,), means (K, d) and lower Cholesky factors (K, d, d), or None if it is anything else.

    Example:
        >>> from isthmus.latents import mixture
        >>> [tuple(part.shape) for part in gaussian_components(mixture(2, components=3)())]
        [(3,), (3, 2), (3, 2, 2)]
    """
    if isinstance(base, Independent) and isinstance(base.base_dist, Normal) and base.base_dist.loc.dim() == 1:
        loc, scale = base.base_dist.loc, base.base_dist.scale
        return torch.zeros_like(loc[:1]), loc.unsqueeze(0), scale.diag().unsqueeze(0)
    if isinstance(base, Mixture) and isinstance(base.base, MultivariateNormal) and base.logits.dim() == 1:
        return base.logits.log_softmax(0), base.base.loc, base.base.scale_tril
    return None


def log_normal(offset: Float[Tensor, "*#batch d"], tril: Float[Tensor, "*#batch d d"]) -> Tensor:
    """Return the log density of N(0, L L^T).

    Args:
        offset: points minus the mean, (..., d).
        tril: lower Cholesky factors L, (..., d, d), broadcast against the points.

    Returns:
        (...) in nats.

    Example:
        >>> log_normal(torch.zeros(2), torch.eye(2))
        tensor(-1.8379)
    """
    more = offset.dim() - tril.dim() + 1  # leading dimensions that factors lack: one system with many right-hand sides
    shared = offset.flatten(0, more - 1).movedim(0, -1) if more > 0 else offset.unsqueeze(-1)
    half = torch.linalg.solve_triangular(tril, shared, upper=False).square().sum(-2).movedim(-1, 0)
    half = half.unflatten(0, offset.shape[:more]) if more > 0 else half.squeeze(0)
    return -0.5 * (half + offset.shape[-1] * LOG_2PI) - tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _quasi_random(dim: int, n: int, seed: int) -> Float[Tensor, "n dim"]:
    return SobolEngine(dim, scramble=True, seed=seed).draw(n, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)


def _propose(
    posterior: _Posterior, broad: tuple[Tensor, Tensor], points: Float[Tensor, "S d1"]
) -> tuple[Float[Tensor, "batch S d"], Float[Tensor, "batch S"], Float[Tensor, "batch S"]]:
    """Draw codes z by the widened posteriors and the broad Gaussian; with log q(z) and the linearised log p(x, z)."""
    log_joint, mean, tril = posterior
    batch, K, d = mean.shape
    center, spread = broad
    covariance_tril = torch.linalg.solve_triangular(tril.mT, torch.eye(d).to(tril), upper=True)  # L^-T
    scales = torch.cat([_WIDENING * covariance_tril, (_DEFENSIVE_WIDENING * spread).expand(batch, 1, d, d)], 1)
    means = torch.cat([mean, center.expand(batch, 1, d)], 1)
    shares = torch.cat(
        [(1 - _DEFENSIVE_SHARE) * log_joint.softmax(1), log_joint.new_full((batch, 1), _DEFENSIVE_SHARE)], 1
    )
    index = torch.searchsorted(shares.cumsum(1).contiguous(), points[:, 0].expand(batch, -1).contiguous()).clamp_max(K)
    e = torch.special.ndtri(points[:, 1:])
    row = torch.arange(batch, device=mean.device).unsqueeze(1)
    z = means[row, index] + torch.einsum("bsij,sj->bsi", scales[row, index], e)
    offset = z.unsqueeze(2) - mean.unsqueeze(1)  # batch S K d
    half = torch.einsum("bkji,bskj->bski", tril, offset).square().sum(3)
    log_det = tril.diagonal(dim1=2, dim2=3).log().sum(2).unsqueeze(1)
    log_linear = (log_joint.unsqueeze(1) + log_det - 0.5 * (half + d * LOG_2PI)).logsumexp(2)
    log_narrow = log_det - d * math.log(_WIDENING) - 0.5 * (half / _WIDENING**2 + d * LOG_2PI)
    log_broad = log_normal(z - center, _DEFENSIVE_WIDENING * spread)
    log_q = (torch.cat([log_narrow, log_broad.unsqueeze(2)], 2) + shares.log().unsqueeze(1)).logsumexp(2)
    return z, log_q, log_linear


def _correct(
    log_linearised: Float[Tensor, " batch"],
    log_weight: Float[Tensor, "batch S"],
    log_control: Float[Tensor, "batch S"],
) -> Estimate:
    """Return the linearised value times the ratio of the sampled integrals, its standard error by the delta method."""
    S = log_weight.shape[1]
    total, control = log_weight.logsumexp(1), log_control.logsumexp(1)
    difference = (log_weight - total.unsqueeze(1)).exp() - (log_control - control.unsqueeze(1)).exp()
    return Estimate(log_linearised + total - control, (S / (S - 1) * difference.square().sum(1)).sqrt())
