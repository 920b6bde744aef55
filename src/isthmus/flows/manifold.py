"""The free-form flow on a known manifold: any encoder and any decoder, each followed by the projection to it."""

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from zuko.lazy import UnconditionalDistribution

from isthmus.autodiff import jacobian
from isthmus.errors import InputError
from isthmus.flow import Context, Estimate, Networked
from isthmus.networks import start_at_identity
from isthmus.rows import Rows
from isthmus.supports import Sphere, Support

__all__ = ["ManifoldFlow", "Preimage", "Uniform"]

_STEPS = 40  # of an inversion, at most; from an encoder that is nearly the inverse three or four do
_STARTS, _TRIES = 256, 4  # codes that are tried where the encoder's own is too far off, the nearest first
_DAMPING, _EASED, _STIFFENED = 1e-6, 10.0, 30.0  # of a step, at first, after one that helped, and after another
_ACCURACY = 2 / 3  # g(z) is x where they differ by less than this power of the rounding error
_SAME = 1e-4  # codes nearer to one another are one code


class Preimage(NamedTuple):
    """The code that decodes to each row, and whether one was found."""

    z: Float[Tensor, "batch d"]
    solved: Bool[Tensor, " batch"]


class Uniform(Distribution):
    """The uniform law on a support of finite volume.

    Args:
        on: the support.
        like: a tensor without dimensions, whose precision and device draws have; its value is of no account.

    Example:
        >>> Uniform(Sphere(3), torch.ones(())).log_prob(Sphere(3).uniform(2)).exp() * 4 * torch.pi
        tensor([1.0000, 1.0000])
    """

    arg_constraints = {}  # noqa: RUF012 (torch's own convention)
    support = constraints.real_vector

    def __init__(self, on: Support, like: Tensor) -> None:
        self.on, self.like, self.log_area = on, like, on.log_area().value
        super().__init__(event_shape=torch.Size([on.columns]), validate_args=False)

    def log_prob(self, value: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """Return minus the logarithm of the volume, in nats, for points of the support."""
        return value.new_full(value.shape[:-1], -self.log_area)

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*batch d"]:
        """Draw points of shape (*sample_shape, d)."""
        shape = torch.Size(sample_shape)
        return self.on.uniform(shape.numel()).to(self.like).reshape(*shape, self.on.columns)


@final
class ManifoldFlow(Networked):
    """A flow from a known manifold to itself, of any two modules, made inverse to one another by training.

    With P the projection to the manifold, `f(x) = P(encoder(P(x)))` and `g(z) = P(decoder(P(z)))`: each takes points of
    the manifold to points of it, and nothing depends on directions off it. Codes are uniform. The change of volume
    `1/2 log det (g' E)^T (g' E)`, E the tangent frame at z, is exact; objective `freeform` trains it by probes in E.

    The law is that of g(z), z uniform. `log_prob` is its density *at the row*: the row is decoded back, Newton steps in
    the tangent frame taking f(x) to the z with g(z) = x. (The publication evaluates at z = f(x), which gives the
    density at the reconstruction instead.) It is not `exact`, since this is no closed form: where several codes decode
    to one row, as where the decoder folds the manifold, one of them is counted, and the density is too low; where none
    is found it is zero, and the standard error of `estimate` infinite. `recovered` measures what is lost by both.

    Args:
        encoder: a module of rows, (batch, D) -> (batch, D).
        decoder: a module of codes, (batch, D) -> (batch, D).
        data_dim: D, the number of columns.
        latent_dim: must be D: codes are points of the same manifold.
        context_dim: number of context columns, 0 for none.
        rows: the manifold; the sphere by default.
        levels: what else the modules are told, as further context columns, see `isthmus.levels`; none by default.

    Raises:
        InputError: the latent dimension is not D; the manifold has no finite volume.

    References:
        Sorrenson, Draxler, Rousselot, Hummerich, Köthe (2024), Learning Distributions on Manifolds with Free-Form
        Flows, arXiv 2312.09852.

    Example:
        >>> flow = ManifoldFlow(nn.Identity(), nn.Identity(), data_dim=3, latent_dim=3)
        >>> flow.log_prob(Sphere(3).uniform(2)).exp() * 4 * torch.pi
        tensor([1.0000, 1.0000], dtype=torch.float64)
    """

    exact = False
    refits = False
    supports = ("sphere", "torus", "rotations")
    objective = "freeform"
    cites = ("sorrenson2024manifold",)

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        data_dim: int,
        latent_dim: int,
        context_dim: int = 0,
        rows: Support | None = None,
        levels: Sequence[float] = (),
    ) -> None:
        rows = Sphere(data_dim) if rows is None else rows
        latent = UnconditionalDistribution(Uniform, rows, torch.ones(()), buffer=True)
        super().__init__(rows, latent_dim, context_dim, latent)
        if latent_dim != data_dim or not math.isfinite(rows.log_area().value) or rows.dim == 0:
            raise InputError(
                f"expected codes of {data_dim} columns on a manifold of finite volume; got latent_dim {latent_dim} and "
                f"a {type(rows).__name__}; leave latent_dim out, and use 'freeform' where the manifold is not known"
            )
        self.codes = rows
        self._hold(encoder, decoder, levels)

    def encode(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, "batch d"]:
        """Return the code `z = f(x)`, a point of the manifold, (batch, D)."""
        return self.codes.project(super().encode(self.rows.project(x), c))

    def decode(self, z: Float[Tensor, "batch d"], c: Context = None) -> Float[Tensor, "batch D"]:
        """Return the point `g(z)` of the manifold, (batch, D)."""
        return self.rows.project(super().decode(self.codes.project(z), c))

    def start(self, rows: Rows) -> None:
        """Set linear paths of the networks, where they have any, to the identity."""
        start_at_identity(self.encoder, self.decoder)

    def log_prob(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, " batch"]:
        """Return the log density at x, (batch,) in nats; minus infinity where no code is found that decodes to x."""
        z, solved = self.invert(x, c)
        value = self.base(c).log_prob(z) - self.volume_at(z, c).log_volume
        return torch.where(solved, value, -torch.inf)

    @torch.no_grad()
    def estimate(
        self, x: Float[Tensor, "batch D"], c: Context = None, *, n_points: int = 128, seed: int = 0
    ) -> Estimate:
        """Return `log_prob` and its error: infinite where no code is found that decodes to the row, otherwise 0."""
        value = self.log_prob(x, c)
        return Estimate(value, torch.where(value.isfinite(), 0.0, torch.inf).to(value))

    def invert(self, x: Float[Tensor, "batch D"], c: Context = None) -> Preimage:
        """Return the codes z with `g(z) = x` that damped Newton steps lead to from f(x), differentiable in x and in g.

        Where none is found from f(x), they begin once more at codes whose points are nearest to x.

        Args:
            x: points of the manifold, (batch, D).
            c: context, (batch, C), or None.
        """
        x, c = self.rows.project(x), self.told(c, x.shape[0])
        with torch.no_grad():
            z, error = self._newton(x, self.encode(x, c), c)
            tolerance = torch.finfo(x.dtype).eps ** _ACCURACY
            for k in range(_TRIES):
                left = (error > tolerance).nonzero().squeeze(1)
                if len(left):
                    told = None if c is None else c[left]
                    z[left], error[left] = self._newton(x[left], self._nearest(x[left], told, k), told)
        return Preimage(self._step(x, z, c, torch.zeros_like(error)), error <= tolerance)

    @torch.no_grad()
    def recovered(self, n: int, c: Context = None) -> float:
        """Return the share of n drawn codes that `invert` finds again from their points: the integral of the density.

        With z* the code that is found of x, the integral of `p_Z(z*(x)) / |det g'|` over all x is the probability that
        `z*(g(z)) = z`, z uniform. Less than 1 is what other codes that decode to the same points have.

        Args:
            n: number of draws, n >= 1; the standard error is `sqrt(share (1 - share) / n)`.
            c: context, (n, C), or None.
        """
        z = self.codes.project(self.draw(n, c))
        again, solved = self.invert(self.decode(z, c), c)
        return float((solved & ((again - z).norm(dim=1) < _SAME)).double().mean())

    def _newton(self, x: Tensor, z: Tensor, c: Context) -> tuple[Tensor, Tensor]:
        """Take damped Newton steps from z until g(z) is x; return the codes, and how far their points are from x."""
        tolerance = torch.finfo(x.dtype).eps ** _ACCURACY
        error = (self.decode(z, c) - x).norm(dim=1)
        damping = torch.full_like(error, _DAMPING)
        for _ in range(_STEPS):
            left = (error > tolerance).nonzero().squeeze(1)
            if not len(left):
                break
            told = None if c is None else c[left]
            moved = self._step(x[left], z[left], told, damping[left])
            off = (self.decode(moved, told) - x[left]).norm(dim=1)
            better = off < error[left]
            z[left] = torch.where(better.unsqueeze(1), moved, z[left])
            error[left] = torch.where(better, off, error[left])
            damping[left] = torch.where(better, damping[left] / _EASED, damping[left] * _STIFFENED)
        return z, error

    def _step(self, x: Tensor, z: Tensor, c: Context, damping: Tensor) -> Tensor:
        """Return codes moved in the tangent frame by `(J^T J + damping)^-1 J^T (x - g(z))`, J constant."""
        frame = self.codes.frame(z)
        with torch.no_grad():
            J = jacobian(self.maps(c)[1], z, outputs=self.data_dim)[1]
            J = J if frame is None else J @ frame
            gram = J.mT @ J
            size = gram.diagonal(dim1=1, dim2=2).mean(1) * damping + torch.finfo(z.dtype).tiny
            gram = gram + size.reshape(-1, 1, 1) * torch.eye(gram.shape[1]).to(gram)
            inverse = torch.linalg.solve_ex(gram, J.mT).result
        step = inverse @ (x - self.decode(z, c)).unsqueeze(2)
        return self.codes.project(z + (step if frame is None else frame @ step).squeeze(2))

    def _nearest(self, x: Tensor, c: Context, k: int) -> Tensor:
        """Return of some codes, always the same, the one whose point is the (k + 1)-th nearest to each row."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            z = self.codes.uniform(_STARTS).to(x)
        if c is None:
            return z[torch.cdist(x, self.decode(z)).argsort(1)[:, k]]
        points = self.decode(z.repeat(len(x), 1), c.repeat_interleave(_STARTS, 0)).unflatten(0, (len(x), _STARTS))
        return z[(points - x.unsqueeze(1)).norm(dim=2).argsort(1)[:, k]]
