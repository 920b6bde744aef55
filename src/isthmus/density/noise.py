"""The noise off the manifold: Gaussian, one covariance a component, or one for all."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from isthmus.errors import InputError

__all__ = ["NOISES", "ComponentNoise", "IsotropicNoise", "LowRankNoise", "Noise"]


class Noise(nn.Module, ABC):
    """The Gaussian noise off the manifold, one covariance Sigma_k a component, or one for all (K = 1).

    Attributes:
        constraints: see `isthmus.flow.Flow`.
    """

    constraints: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def whiten(self, v: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K D"]:
        """Return `Sigma_k^(-1/2) v` for each component."""

    @abstractmethod
    def half_log_det(self) -> Float[Tensor, " K"]:
        """Return `1/2 log det Sigma_k`, (K,) in nats."""

    @abstractmethod
    def color(self, e: Float[Tensor, "n D"], component: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """Return `Sigma_k^(1/2) e` with k the component of each row."""


@final
class IsotropicNoise(Noise):
    """`Sigma = sigma^2 I`, the same for every component.

    Args:
        data_dim: D.
        sigma: standard deviation per direction, > 0, in units of x.

    Example:
        >>> IsotropicNoise(3, sigma=0.5).whiten(torch.ones(3))
        tensor([[2., 2., 2.]])
    """

    constraints: ClassVar[dict[str, str]] = {"sigma": "positive"}

    def __init__(self, data_dim: int, sigma: float = 1.0) -> None:
        super().__init__()
        if not sigma > 0:
            raise InputError(
                f"expected sigma > 0, the standard deviation of the noise; got {sigma}; give a positive one"
            )
        self.data_dim = data_dim
        self.sigma: Tensor
        self.register_buffer("sigma", torch.tensor(float(sigma)))

    def whiten(self, v: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch 1 D"]:
        """Return `v / sigma`."""
        return (v / self.sigma).unsqueeze(-2)

    def half_log_det(self) -> Float[Tensor, " 1"]:
        """Return `D log sigma`."""
        return self.data_dim * self.sigma.log().unsqueeze(0)

    def color(self, e: Float[Tensor, "n D"], component: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """Return `sigma e`."""
        return self.sigma * e


@final
class ComponentNoise(Noise):
    """One full covariance for each component of the latent mixture.

    Args:
        data_dim: D.
        components: number of components K.

    Example:
        >>> noise = ComponentNoise(2, 3)
        >>> noise.set_covariances(torch.eye(2).repeat(3, 1, 1) * 4)
        >>> noise.half_log_det().exp()
        tensor([4., 4., 4.])
    """

    constraints: ClassVar[dict[str, str]] = {"scale_tril": "cholesky"}

    def __init__(self, data_dim: int, components: int) -> None:
        super().__init__()
        self.scale_tril: Tensor
        self.whitening: Tensor
        self.register_buffer("scale_tril", torch.eye(data_dim).repeat(components, 1, 1))
        self.register_buffer("whitening", torch.eye(data_dim).repeat(components, 1, 1))

    def set_covariances(self, covariances: Float[Tensor, "K D D"]) -> None:
        """Set every Sigma_k; each must be positive definite."""
        self.scale_tril = torch.linalg.cholesky(covariances)
        eye = torch.eye(covariances.shape[1], dtype=covariances.dtype, device=covariances.device)
        self.whitening = torch.linalg.solve_triangular(self.scale_tril, eye.expand_as(covariances), upper=False)

    def whiten(self, v: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K D"]:
        """Return `L_k^-1 v` with L_k the Cholesky factor of Sigma_k."""
        K, D, _ = self.whitening.shape
        return (v @ self.whitening.reshape(K * D, D).mT).unflatten(-1, (K, D))

    def half_log_det(self) -> Float[Tensor, " K"]:
        """Return the sum of the logarithms of the diagonal of L_k."""
        return self.scale_tril.diagonal(dim1=1, dim2=2).log().sum(1)

    def color(self, e: Float[Tensor, "n D"], component: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """Return `L_k e`."""
        x = torch.empty_like(e)
        for k, tril in enumerate(self.scale_tril):
            x[component == k] = e[component == k] @ tril.mT
        return x


@final
class LowRankNoise(Noise):
    """For each component a covariance of a few correlated directions and a variance of its own for every column.

    `Sigma_k = S_k (I + V_k (Lambda_k - I) V_k^T) S_k` with S_k diagonal, the r columns of V_k orthonormal and Lambda_k
    diagonal: K D (r + 1) numbers instead of K D^2.

    Args:
        data_dim: D.
        components: number of components K.
        rank: number of correlated directions r, 1 <= r <= D.

    Example:
        >>> noise = LowRankNoise(3, components=1, rank=1)
        >>> noise.set_covariances(torch.diag(torch.tensor([4.0, 1.0, 1.0])).unsqueeze(0))
        >>> noise.half_log_det().exp()
        tensor([2.])
    """

    constraints: ClassVar[dict[str, str]] = {"scale": "positive", "spread": "positive"}

    def __init__(self, data_dim: int, components: int, rank: int) -> None:
        super().__init__()
        self.scale: Tensor
        self.directions: Tensor
        self.spread: Tensor
        self.register_buffer("scale", torch.ones(components, data_dim))
        self.register_buffer("directions", torch.eye(data_dim)[:, :rank].repeat(components, 1, 1))
        self.register_buffer("spread", torch.ones(components, rank))

    def set_covariances(self, covariances: Float[Tensor, "K D D"]) -> None:
        """Set every Sigma_k to the nearest of this form: variances kept, correlations cut to their leading axes."""
        scale = covariances.diagonal(dim1=1, dim2=2).sqrt()
        correlation = covariances / (scale.unsqueeze(2) * scale.unsqueeze(1))
        values, vectors = torch.linalg.eigh(correlation)
        D, r = self.scale.shape[1], self.spread.shape[1]
        rest = values[:, : D - r].mean(1, keepdim=True).clamp_min(1e-9) if r < D else torch.ones_like(values[:, :1])
        self.scale = scale * rest.sqrt()
        self.directions, self.spread = vectors[:, :, D - r :], (values[:, D - r :] / rest).clamp_min(1e-9).sqrt()

    def whiten(self, v: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K D"]:
        """Return `(I + V_k (Lambda_k^(-1/2) - I) V_k^T) S_k^-1 v`."""
        u = v.unsqueeze(-2) / self.scale
        inner = torch.einsum("...kd,kdr->...kr", u, self.directions) * (1 / self.spread - 1)
        return u + torch.einsum("...kr,kdr->...kd", inner, self.directions)

    def half_log_det(self) -> Float[Tensor, " K"]:
        """Return `1/2 log det Lambda_k + log det S_k`."""
        return self.spread.log().sum(1) + self.scale.log().sum(1)

    def color(self, e: Float[Tensor, "n D"], component: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """Return `S_k (I + V_k (Lambda_k^(1/2) - I) V_k^T) e`."""
        x = torch.empty_like(e)
        for k, (scale, V, spread) in enumerate(zip(self.scale, self.directions, self.spread, strict=True)):
            own = e[component == k]
            x[component == k] = scale * (own + ((own @ V) * (spread - 1)) @ V.mT)
        return x


NOISES: dict[str, Callable[..., Noise]] = {
    "isotropic": IsotropicNoise,
    "component": ComponentNoise,
    "low_rank": LowRankNoise,
}
