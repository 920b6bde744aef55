"""Toy data on known manifolds, with the exact densities: `x = g(u) + noise * eps`, u ~ p_U in R^d, eps ~ N(0, I_D).

A `Chart` gives the manifold: the injective map g, its inverse and the law of u. Everything else follows from it once:

* samples, in splits whose seeds are disjoint and do not depend on one another's size;
* the density on the manifold, `log p(g(u)) = log p_U(u) - 1/2 log det(g'(u)^T g'(u))`, by automatic differentiation;
* the ambient density `log integral p_U(u) N(x; g(u), noise^2 I) du`, by Gauss-Legendre quadrature with two nodes or
  more per standard deviation of the noise, to about 1e-6 nats. It is None without noise, when there is no density in
  R^D, and where the quadrature would need more than 200,000 nodes: little noise, a large manifold, d >= 3.

Both densities take points of any floating-point type on the CPU, compute in float64 and return float64, in nats.

Every function takes these keywords, besides its own:

* `n_train`, `n_validation`, `n_test`: numbers of rows;
* `noise`: standard deviation of the isotropic noise in R^D, added after any scaling; 0: points on the manifold;
* `seed`: of latents and noise. Equal options give equal rows; the global generator is neither read nor moved.

A new toy is a function that builds a `Chart` and hands it to `_dataset`, and one line in `DATASETS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.autodiff import jacobian
from isthmus.data.dataset import Dataset, LogDensity
from isthmus.errors import InputError
from isthmus.volume import log_volume

__all__ = ["gaussian", "random_manifold", "sine", "sphere", "spiral", "swiss_roll", "torus", "two_moons"]

_NORMAL_BOUND = 10.0  # a standard normal latent is cut off there: 2e-23 of its mass
_PANEL = 16  # Gauss-Legendre nodes per panel ...
_PANEL_WIDTH = 6.0  # ... of so many noise standard deviations: relative error 1e-13 on a Gaussian that wide
_MAX_NODES = 200_000
_ELEMENTS = 4_000_000  # of the largest float64 matrix in memory at once: 32 MB


@dataclass(frozen=True)
class Law:
    """The law of a latent u in a box of R^d.

    Attributes:
        draw: (n, generator) -> u, (n, d), float64.
        log_prob: u -> (n,), nats.
        bounds: The box, one (low, high) per coordinate; the law has no mass worth counting outside.
    """

    draw: Callable[[int, torch.Generator], Tensor]
    log_prob: LogDensity
    bounds: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """A manifold with a law on it.

    Attributes:
        embed: g, (n, d) -> (n, D), injective on the box of the law, differentiable inside each quadrature panel.
        coordinates: Its inverse: (n, D) -> (n, d), for points on the manifold.
        law: Of u.
    """

    embed: Callable[[Tensor], Tensor]
    coordinates: Callable[[Tensor], Tensor]
    law: Law


def sine(
    *, n_train: int = 10_000, n_validation: int = 1_000, n_test: int = 5_000, noise: float = 0.1, seed: int = 0
) -> Dataset:
    """Draw the paper's toy (D = 2, d = 1): x1 ~ N(0, 1), x2 = sin(pi x1 / 2) / s, noise added.

    s is the exact standard deviation, s^2 = (1 - exp(-pi^2 / 2)) / 2: before the noise both columns have mean 0 and
    variance 1.

    Returns:
        The data set; the keywords are those of the module.

    References:
        Sorrenson et al. 2024, arXiv 2306.01843 (toy experiment).

    Example:
        >>> sine(n_train=4).train.shape
        torch.Size([4, 2])
    """
    scale = ((1 - math.exp(-(math.pi**2) / 2)) / 2) ** 0.5
    chart = Chart(
        embed=lambda u: torch.cat([u, torch.sin(math.pi / 2 * u) / scale], 1),
        coordinates=lambda x: x[:, :1],
        law=_normal(1),
    )
    return _dataset("sine", chart, (n_train, n_validation, n_test), noise, seed)


def two_moons(
    *, n_train: int = 10_000, n_validation: int = 1_000, n_test: int = 5_000, noise: float = 0.1, seed: int = 0
) -> Dataset:
    """Draw two interleaved half circles of radius 1 (D = 2, d = 1), half of the rows on each, uniform in arc length.

    The upper one is centred at (0, 0), the lower one at (1, 1/2); a single latent, uniform on [0, 2 pi], runs through
    the first up to pi and through the second from there.

    Returns:
        The data set; the keywords are those of the module.

    Example:
        >>> two_moons(n_test=3).test.shape
        torch.Size([3, 2])
    """
    centre = torch.tensor([1.0, 0.5], dtype=torch.float64)

    def embed(u: Tensor) -> Tensor:
        """Embed both moons, one after the other."""
        # the jump at u = pi falls between two quadrature panels, whose number is even
        return torch.cat([u.cos(), u.sin()], 1) + torch.where(u < math.pi, 0.0, centre)

    def coordinates(x: Tensor) -> Tensor:
        """Return coordinates on the nearer moon."""
        upper, lower = _angle(x[:, 1], x[:, 0]), _angle(x[:, 1] - centre[1], x[:, 0] - centre[0])
        candidates = torch.stack([upper.clamp(max=math.pi - 1e-12), lower.clamp(min=math.pi)])
        errors = torch.stack([(embed(u[:, None]) - x).norm(dim=1) for u in candidates])
        return candidates.gather(0, errors.argmin(0, keepdim=True)).T

    chart = Chart(embed, coordinates, _uniform((0.0, math.tau)))
    return _dataset("two_moons", chart, (n_train, n_validation, n_test), noise, seed)


def spiral(
    *, n_train: int = 10_000, n_validation: int = 1_000, n_test: int = 5_000, noise: float = 0.1, seed: int = 0
) -> Dataset:
    """Draw three turns of an Archimedean spiral (D = 2, d = 1), the turns a distance 1 apart, uniform in angle.

    Returns:
        The data set; the keywords are those of the module.

    Example:
        >>> bool((spiral(noise=0.0).train.norm(dim=1) <= 3).all())
        True
    """
    chart = Chart(_spiral, _spiral_angle, _uniform((0.0, 3 * math.tau)))
    return _dataset("spiral", chart, (n_train, n_validation, n_test), noise, seed)


def swiss_roll(
    *, n_train: int = 10_000, n_validation: int = 1_000, n_test: int = 5_000, noise: float = 0.1, seed: int = 0
) -> Dataset:
    """Draw a rolled-up sheet (D = 3, d = 2): a spiral times a height, uniform in angle on [3/2, 9/2] pi and in height.

    The shape is scikit-learn's, scaled so that neighbouring turns are a distance 1 apart; the height is 3.

    Returns:
        The data set; the keywords are those of the module.

    Example:
        >>> swiss_roll(n_train=4).train.shape
        torch.Size([4, 3])
    """
    chart = Chart(
        embed=lambda u: torch.cat([_spiral(u[:, :1]), u[:, 1:]], 1)[:, [0, 2, 1]],
        coordinates=lambda x: torch.cat([_spiral_angle(x[:, [0, 2]]), x[:, 1:2]], 1),
        law=_uniform((1.5 * math.pi, 4.5 * math.pi), (-1.5, 1.5)),
    )
    return _dataset("swiss_roll", chart, (n_train, n_validation, n_test), noise, seed)


def sphere(
    concentration: float = 2.0,
    *,
    n_train: int = 10_000,
    n_validation: int = 1_000,
    n_test: int = 5_000,
    noise: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Draw from the unit sphere (D = 3, d = 2) with a von Mises-Fisher density around the north pole (0, 0, 1).

    The density on the manifold is `kappa / (4 pi sinh kappa) exp(kappa x3)`.

    Args:
        concentration: kappa > 0; near 0 is uniform.
        n_train: Rows; this and the other keywords are those of the module.
        n_validation: Rows.
        n_test: Rows.
        noise: Standard deviation in R^D.
        seed: Of everything random.

    Returns:
        The data set.

    Raises:
        InputError: A concentration that is not positive.

    Example:
        >>> sphere(noise=0.0).manifold_log_prob(torch.tensor([[0.0, 0.0, -1.0]]))  # log(2 / (4 pi sinh 2)) - 2
        tensor([-5.1262], dtype=torch.float64)
    """
    if not concentration > 0:
        raise InputError(f"expected a positive concentration; got {concentration}; 0.01 is all but uniform")
    chart = Chart(
        embed=lambda u: torch.stack([u[:, 0].sin() * u[:, 1].cos(), u[:, 0].sin() * u[:, 1].sin(), u[:, 0].cos()], 1),
        coordinates=lambda x: torch.stack([torch.atan2(x[:, :2].norm(dim=1), x[:, 2]), _angle(x[:, 1], x[:, 0])], 1),
        law=_von_mises_fisher(concentration),
    )
    return _dataset("sphere", chart, (n_train, n_validation, n_test), noise, seed)


def torus(
    *, n_train: int = 10_000, n_validation: int = 1_000, n_test: int = 5_000, noise: float = 0.1, seed: int = 0
) -> Dataset:
    """Draw a torus around the third axis (D = 3, d = 2), radii 1 and 0.4, uniform in both angles.

    Hence the density on the manifold, `1 / (4 pi^2 * 0.4 * (1 + 0.4 cos b))`, is larger inside than outside.

    Returns:
        The data set; the keywords are those of the module.

    Example:
        >>> torus(n_train=4).train.shape
        torch.Size([4, 3])
    """
    radius, tube = 1.0, 0.4

    def embed(u: Tensor) -> Tensor:
        """Embed the angle around the axis, then that around the tube."""
        a, b = u.unbind(1)
        distance = radius + tube * b.cos()  # from the axis
        return torch.stack([distance * a.cos(), distance * a.sin(), tube * b.sin()], 1)

    def coordinates(x: Tensor) -> Tensor:
        """Return both angles."""
        return torch.stack([_angle(x[:, 1], x[:, 0]), _angle(x[:, 2], x[:, :2].norm(dim=1) - radius)], 1)

    chart = Chart(embed, coordinates, _uniform((0.0, math.tau), (0.0, math.tau)))
    return _dataset("torus", chart, (n_train, n_validation, n_test), noise, seed)


def random_manifold(
    latent_dim: int = 3,
    data_dim: int = 20,
    *,
    manifold_seed: int = 0,
    n_train: int = 10_000,
    n_validation: int = 1_000,
    n_test: int = 5_000,
    noise: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Draw a random smooth manifold in general position: a wavy graph over a d-plane, standard normal along the plane.

    `g(u) = Q [u; h(u)]` with a random orthogonal Q and D - d random waves `h_j(u) = a sin(w_j . u + b_j)`. The waves
    carry about as much variance as the plane and `|w_j|` is around 1.5: moderately curved. A graph is injective, and
    its inverse is a projection, so that the density on the manifold is exact for every d.

    Args:
        latent_dim: d >= 1.
        data_dim: D > d.
        manifold_seed: Of Q and the waves; kept apart from `seed`, which draws new rows from the same manifold.
        n_train: Rows; this and the other keywords are those of the module.
        n_validation: Rows.
        n_test: Rows.
        noise: Standard deviation in R^D.
        seed: Of latents and noise.

    Returns:
        The data set.

    Raises:
        InputError: Dimensions that do not satisfy 1 <= latent_dim < data_dim.

    Example:
        >>> random_manifold(2, 50, n_train=4).train.shape
        torch.Size([4, 50])
    """
    if not 1 <= latent_dim < data_dim:
        raise InputError(f"expected 1 <= latent_dim < data_dim; got {latent_dim} and {data_dim}; widen the data")
    generator = torch.Generator().manual_seed(manifold_seed)
    normals = data_dim - latent_dim
    basis = torch.linalg.qr(_randn(data_dim, data_dim, generator)).Q
    frequencies = 1.5 / latent_dim**0.5 * _randn(latent_dim, normals, generator)
    phases = math.tau * torch.rand(normals, generator=generator, dtype=torch.float64)
    amplitude = (2 * latent_dim / normals) ** 0.5
    chart = Chart(
        embed=lambda u: torch.cat([u, amplitude * torch.sin(u @ frequencies + phases)], 1) @ basis.T,
        coordinates=lambda x: x @ basis[:, :latent_dim],
        law=_normal(latent_dim),
    )
    return _dataset("random_manifold", chart, (n_train, n_validation, n_test), noise, seed)


def gaussian(
    variances: tuple[float, ...] = (1.0, 0.09),
    *,
    latent_dim: int = 1,
    n_train: int = 10_000,
    n_validation: int = 1_000,
    n_test: int = 5_000,
    noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Draw a centred normal law with diagonal covariance (D = number of variances): what a linear flow must get right.

    The small variances are the noise, hence no further noise by default. `log_prob` is exact, that of
    N(0, diag(variances) + noise^2 I); there is no manifold density, for no direction is without variance.

    Args:
        variances: One positive variance a column.
        latent_dim: d reported with the data: how many variances count as signal.
        n_train: Rows; this and the other keywords are those of the module.
        n_validation: Rows.
        n_test: Rows.
        noise: Standard deviation in R^D, on top of the variances.
        seed: Of everything random.

    Returns:
        The data set.

    Raises:
        InputError: A variance that is not positive, or a `latent_dim` that is not in 1 .. D.

    Example:
        >>> gaussian().log_prob(torch.zeros(1, 2))  # -log(2 pi * 1 * 0.3)
        tensor([-0.6339], dtype=torch.float64)
    """
    if not all(variance > 0 for variance in variances) or not 1 <= latent_dim <= len(variances):
        raise InputError(
            f"expected positive variances, at least latent_dim of them; got {variances} and latent_dim {latent_dim}; "
            "leave out directions without variance"
        )
    scale = torch.tensor(variances, dtype=torch.float64).sqrt()
    chart = Chart(embed=lambda u: u * scale, coordinates=lambda x: x / scale, law=_normal(len(variances)))
    dataset = _dataset("gaussian", chart, (n_train, n_validation, n_test), noise, seed)
    exact = torch.distributions.Normal(0.0, (scale.square() + noise**2).sqrt())
    return replace(
        dataset,
        latent_dim=latent_dim,
        log_prob=lambda x: exact.log_prob(x.double()).sum(1),
        manifold_log_prob=None,
    )


# -- laws and pieces of charts ---------------------------------------------------------------------------------------


def _randn(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def _normal(dim: int) -> Law:
    """Return the standard normal law in R^dim."""
    return Law(
        draw=lambda n, generator: _randn(n, dim, generator),
        log_prob=lambda u: -0.5 * (u.square() + math.log(math.tau)).sum(1),
        bounds=((-_NORMAL_BOUND, _NORMAL_BOUND),) * dim,
    )


def _uniform(*bounds: tuple[float, float]) -> Law:
    """Return the uniform law in a box."""
    low, high = torch.tensor(bounds, dtype=torch.float64).T
    return Law(
        draw=lambda n, generator: low + (high - low) * torch.rand(n, len(low), generator=generator, dtype=low.dtype),
        log_prob=lambda u: -(high - low).log().sum().expand(len(u)),
        bounds=bounds,
    )


def _von_mises_fisher(kappa: float) -> Law:
    """Return the von Mises-Fisher law around the north pole of the unit sphere, of polar angle and longitude."""
    log_constant = math.log(kappa / math.tau / -math.expm1(-2 * kappa))  # exp(kappa (cos - 1)) never overflows

    def draw(n: int, generator: torch.Generator) -> Tensor:
        """Draw by the inverse of the distribution function of the polar angle's cosine."""
        level, turn = torch.rand(2, n, generator=generator, dtype=torch.float64)
        cosine = (
            1 + torch.log(level + (1 - level) * math.exp(-2 * kappa)) / kappa
        )  # inverse of its distribution function
        return torch.stack([cosine.clamp(-1, 1).acos(), math.tau * turn], 1)

    return Law(
        draw=draw,
        log_prob=lambda u: log_constant + kappa * (u[:, 0].cos() - 1) + u[:, 0].sin().log(),
        bounds=((1e-6, math.pi - 1e-6), (0.0, math.tau)),  # the poles, where the chart is singular, weigh 1e-12
    )


def _spiral(t: Float[Tensor, "n 1"]) -> Float[Tensor, "n 2"]:
    return t / math.tau * torch.cat([t.cos(), t.sin()], 1)


def _spiral_angle(x: Float[Tensor, "n 2"]) -> Float[Tensor, "n 1"]:
    return math.tau * x.norm(dim=1, keepdim=True)


def _angle(y: Float[Tensor, " n"], x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the polar angle in [0, 2 pi)."""
    return torch.atan2(y, x) % math.tau


# -- from a chart to a data set ------------------------------------------------------------------------------------


def _dataset(name: str, chart: Chart, rows: tuple[int, int, int], noise: float, seed: int) -> Dataset:
    if min(rows) < 1 or not noise >= 0:
        raise InputError(f"expected at least 1 row a split and noise >= 0; got {rows} and {noise}; raise them")
    train, validation, test = (_draw(chart, n, noise, 3 * seed + split) for split, n in enumerate(rows))
    return Dataset(
        name=name,
        train=train,
        validation=validation,
        test=test,
        latent_dim=len(chart.law.bounds),
        log_prob=_ambient_log_prob(chart, noise),
        manifold_log_prob=lambda x: _manifold_log_prob(chart, x.double()),
    )


def _draw(chart: Chart, n: int, noise: float, seed: int) -> Float[Tensor, "n D"]:
    generator = torch.Generator().manual_seed(seed)
    x = chart.embed(chart.law.draw(n, generator))
    return (x + noise * _randn(len(x), x.shape[1], generator)).float()


def _manifold_log_prob(chart: Chart, x: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
    low, high = torch.tensor(chart.law.bounds, dtype=x.dtype, device=x.device).T
    u = chart.coordinates(x).clamp(low, high)  # rounding must not push a point off the edge of the manifold
    return chart.law.log_prob(u) - log_volume(jacobian(chart.embed, u)[1])


def _ambient_log_prob(chart: Chart, noise: float) -> LogDensity | None:
    """Return the log density of g(u) + noise * eps, a mixture of normals at quadrature nodes; None if out of reach."""
    panels = _panels(chart, noise) if noise > 0 else None
    if panels is None or math.prod(panels) * _PANEL ** len(panels) > _MAX_NODES:
        return None
    nodes, log_weights = _quadrature(chart.law.bounds, panels)
    centres = chart.embed(nodes) / noise
    constant = -centres.shape[1] * (math.log(noise) + 0.5 * math.log(math.tau))
    offsets = log_weights + chart.law.log_prob(nodes) - 0.5 * centres.square().sum(1) + constant

    def log_prob(x: Tensor) -> Tensor:
        """Return the log density of all nodes together."""
        # |x - centre|^2 is expanded, so that a block of rows costs one matrix product
        blocks = (x.double() / noise).split(max(1, _ELEMENTS // len(offsets)))
        return torch.cat([torch.addmm(offsets, y, centres.T).logsumexp(1) - 0.5 * y.square().sum(1) for y in blocks])

    return log_prob


def _panels(chart: Chart, noise: float) -> list[int]:
    """Return how many panels each latent coordinate needs: its range times the largest speed |dg/du_i| met there."""
    low, high = torch.tensor(chart.law.bounds, dtype=torch.float64).T
    probes = _uniform(*chart.law.bounds).draw(1_000, torch.Generator().manual_seed(0))
    speeds = jacobian(chart.embed, probes)[1].norm(dim=1).amax(0)
    return [2 * math.ceil(length / (2 * _PANEL_WIDTH * noise)) for length in (speeds * (high - low)).tolist()]


def _quadrature(
    bounds: tuple[tuple[float, float], ...], panels: list[int]
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Return the nodes and log-weights of the product of composite Gauss-Legendre rules on a box."""
    points, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(_PANEL))
    axes, log_weights = [], []
    for (low, high), count in zip(bounds, panels, strict=True):
        half = (high - low) / (2 * count)
        middles = low + half * (2 * torch.arange(count, dtype=torch.float64) + 1)
        axes.append((middles[:, None] + half * points).flatten())
        log_weights.append((half * weights).log().repeat(count))
    nodes = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    return nodes, torch.cartesian_prod(*log_weights).reshape(-1, len(axes)).sum(1)
