"""Base densities p_Z on the latent space R^d, as zuko lazy distributions.

A latent is a module; called with a context (or None) it returns a torch distribution over vectors of length d. What
zuko has is used from zuko; here are the multivariate Student-t, which neither torch nor zuko has, and one constructor
per kind, so that a kind can be named in a recipe and rebuilt from a file.
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import torch
import zuko
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Chi2,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    Transform,
    TransformedDistribution,
    constraints,
)
from zuko.distributions import DiagNormal, Mixture, NormalizingFlow
from zuko.lazy import Flow, LazyDistribution, UnconditionalDistribution, UnconditionalTransform

from isthmus.errors import InputError

__all__ = [
    "CITES",
    "LATENTS",
    "Mixtures",
    "MultivariateStudentT",
    "draw",
    "flow",
    "mixture",
    "mixtures",
    "normal",
    "student_t",
]


class MultivariateStudentT(Distribution):
    """The spherical Student-t on R^d: `z = e sqrt(df / s)`, `e ~ N(0, I)`, `s ~ chi^2(df)`, one s for all columns.

    `log p(z) = lgamma((df + d)/2) - lgamma(df/2) - d/2 log(df pi) - (df + d)/2 log(1 + |z|^2/df)`, in nats. It is not a
    product of d univariate Student-t densities: its columns are dependent through s.

    Args:
        df: degrees of freedom, > 0, a tensor without dimensions.
        dim: d >= 1.

    References:
        Kotz, Nadarajah (2004), Multivariate t Distributions and Their Applications, equation 1.1.

    Example:
        >>> MultivariateStudentT(torch.tensor(1.0), 1).log_prob(torch.zeros(1)).exp() * torch.pi
        tensor(1.0000)
    """

    arg_constraints = {"df": constraints.positive}  # noqa: RUF012 (torch's own convention)
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, df: Tensor, dim: int) -> None:
        self.df = df
        super().__init__(event_shape=torch.Size([dim]), validate_args=False)

    def log_prob(self, value: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """Return the log density in nats, (batch,), of points (batch, d)."""
        d, df = self.event_shape[0], self.df
        norm = torch.lgamma((df + d) / 2) - torch.lgamma(df / 2) - d / 2 * torch.log(df * math.pi)
        return norm - (df + d) / 2 * torch.log1p(value.square().sum(-1) / df)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*batch d"]:
        """Draw samples of shape (*sample_shape, d)."""
        e = torch.randn(*sample_shape, *self.event_shape, dtype=self.df.dtype, device=self.df.device)
        s = Chi2(self.df).rsample(torch.Size(sample_shape))
        return e * (self.df / s).sqrt().unsqueeze(-1)


def normal(dim: int, context_dim: int = 0) -> LazyDistribution:
    """Return the standard normal N(0, I) on R^d.

    Args:
        dim: d.
        context_dim: accepted for every kind; this density does not depend on the context.

    Returns:
        A lazy distribution without parameters.

    Example:
        >>> normal(2)().log_prob(torch.zeros(2))
        tensor(-1.8379)
    """
    return UnconditionalDistribution(DiagNormal, torch.zeros(dim), torch.ones(dim), buffer=True)


def student_t(dim: int, context_dim: int = 0, *, df: float = 5.0) -> LazyDistribution:
    """Return the spherical Student-t distribution, for heavy tails; see `MultivariateStudentT`.

    Args:
        dim: d.
        context_dim: accepted for every kind; this density does not depend on the context.
        df: degrees of freedom, > 0.

    Returns:
        A lazy distribution without parameters.

    Example:
        >>> student_t(3)().sample((2,)).shape
        torch.Size([2, 3])
    """
    if df <= 0:
        raise InputError(f"expected degrees of freedom > 0; got {df}; 5 is a usual choice")
    return UnconditionalDistribution(MultivariateStudentT, torch.tensor(float(df)), dim, buffer=True)


def _gaussian_mixture(logits: Tensor, means: Tensor, scale_tril: Tensor) -> Distribution:
    return Mixture(MultivariateNormal(means, scale_tril=scale_tril, validate_args=False), logits)


def mixture(dim: int, context_dim: int = 0, *, components: Annotated[int, Ge(1)] = 8) -> LazyDistribution:
    """Return a mixture of Gaussians with full covariances; its parameters are set by `isthmus.refit`.

    Args:
        dim: d.
        context_dim: accepted for every kind; this density does not depend on the context.
        components: number of Gaussians, >= 1.

    Returns:
        A lazy distribution with the buffers `logits` (K,), `means` (K, d) and `scale_tril` (K, d, d).

    Example:
        >>> mixture(2, components=3)().log_prob(torch.zeros(2))  # not fitted yet: three times N(0, I)
        tensor(-1.8379)
    """
    return UnconditionalDistribution(
        _gaussian_mixture,
        logits=torch.zeros(components),
        means=torch.zeros(components, dim),
        scale_tril=torch.eye(dim).repeat(components, 1, 1),
        buffer=True,
    )


class Mixtures(LazyDistribution):
    """A mixture of Gaussians for each of several contexts; a context that is none of them has that of the nearest.

    Without a context it is the mixture of them all, each context as likely as another.

    Args:
        dim: d.
        context_dim: C.
        contexts: how many, J >= 1.
        components: of each mixture, K >= 1.

    Attributes:
        contexts: the contexts, (J, C).
        logits: (J, K).
        means: (J, K, d).
        scale_tril: (J, K, d, d).

    Example:
        >>> Mixtures(2, 1, contexts=3, components=4)(torch.zeros(5, 1)).log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    constraints: ClassVar[dict[str, str]] = {"scale_tril": "cholesky"}
    contexts: Tensor
    logits: Tensor
    means: Tensor
    scale_tril: Tensor

    def __init__(self, dim: int, context_dim: int, contexts: int, components: int) -> None:
        super().__init__()
        self.register_buffer("contexts", torch.zeros(contexts, context_dim))
        self.register_buffer("logits", torch.zeros(contexts, components))
        self.register_buffer("means", torch.zeros(contexts, components, dim))
        self.register_buffer("scale_tril", torch.eye(dim).repeat(contexts, components, 1, 1))

    def forward(self, c: Float[Tensor, "batch C"] | None = None) -> Distribution:
        """Return the mixture of each context."""
        if c is None:
            log_weights = self.logits.log_softmax(1) - math.log(len(self.logits))
            return _gaussian_mixture(log_weights.flatten(), self.means.flatten(0, 1), self.scale_tril.flatten(0, 1))
        return _MixtureOfEach(self, torch.cdist(c, self.contexts.to(c)).argmin(1))


class _MixtureOfEach(Distribution):
    """The mixture of each of n rows: a context at a time, since a copy of its mixture for every row takes gigabytes."""

    support = constraints.real_vector
    arg_constraints = {}  # noqa: RUF012 (torch's own convention)

    def __init__(self, of: Mixtures, index: Tensor, temperature: float = 1.0) -> None:
        self.of, self.index, self.temperature = of, index, temperature
        super().__init__(index.shape, of.means.shape[-1:], validate_args=False)

    def log_prob(self, value: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n"]:
        """Return the log density in nats."""
        found = value.new_empty(value.shape[:-1])
        for j in self.index.unique().tolist():
            rows, own = self.index == j, (self.of.logits[j], self.of.means[j], self.of.scale_tril[j])
            found[..., rows] = _gaussian_mixture(*own).log_prob(value[..., rows, :])
        return found

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*batch n d"]:
        """Draw one point for each row, (*sample_shape, n, d)."""
        k = Categorical(logits=self.of.logits[self.index]).sample(torch.Size(sample_shape))
        means, tril = self.of.means[self.index, k], self.of.scale_tril[self.index, k]
        return means + self.temperature * (tril @ torch.randn_like(means).unsqueeze(-1)).squeeze(-1)


def mixtures(
    dim: int, context_dim: int = 0, *, contexts: Annotated[int, Ge(1)] = 2, components: Annotated[int, Ge(1)] = 8
) -> LazyDistribution:
    """Return a mixture of Gaussians for each of several contexts, as classes are; `isthmus.refit` sets them all.

    Args:
        dim: d.
        context_dim: length of a context.
        contexts: how many there are, >= 1.
        components: Gaussians of each, >= 1.

    Returns:
        A `Mixtures`.

    Example:
        >>> mixtures(2, 1)(torch.zeros(3, 1)).sample().shape
        torch.Size([3, 2])
    """
    return Mixtures(dim, context_dim, contexts, components)


def flow(
    dim: int,
    context_dim: int = 0,
    *,
    transforms: Annotated[int, Ge(1)] = 3,
    width: Annotated[int, Ge(1)] = 64,
    scaled: bool = False,
) -> LazyDistribution:
    """Return a neural spline flow on R^d from zuko, learnt; conditional given a context. It bends [-5, 5] alone.

    Args:
        dim: d.
        context_dim: length of the context, 0 for none.
        transforms: number of autoregressive spline layers, >= 1.
        width: width of the two hidden layers of each.
        scaled: whether codes are shifted and scaled first, into the reach of the splines, by the buffers `centre` (d,)
            and `scale` (d,) of the first transform, which `isthmus.refit` sets.

    Returns:
        A lazy distribution with parameters.

    References:
        Durkan, Bekasov, Murray, Papamakarios (2019), Neural Spline Flows, arXiv 1906.04032.

    Example:
        >>> flow(2)().event_shape
        torch.Size([2])
    """
    nsf = zuko.flows.NSF(dim, context_dim, transforms=transforms, hidden_features=(width, width), activation=nn.SiLU)
    if not scaled:
        return nsf
    first = UnconditionalTransform(_scale, centre=torch.zeros(dim), scale=torch.ones(dim), buffer=True)
    return Flow([first, *nsf.transform.transforms], nsf.base)


def _scale(centre: Tensor, scale: Tensor) -> Transform:
    return AffineTransform(-centre / scale, 1 / scale, event_dim=1)


def draw(base: Distribution, n: int, temperature: float = 1.0) -> Float[Tensor, "n d"]:
    """Draw n codes from a latent density, colder than it where `temperature` is below 1.

    A colder code lies nearer to the mode it belongs to: a Gaussian, each Gaussian of a mixture, and the base of a flow
    have their standard deviations multiplied by the temperature, about their own means; a Student-t likewise about 0.
    So the mean log density of codes rises as the temperature falls, which scaling codes towards the origin would not do
    where the density has several modes.

    Args:
        base: a latent distribution; where its batch shape is (n,), one code is drawn for each.
        n: number of codes.
        temperature: scale >= 0; 1 is the density itself.

    Returns:
        Codes, (n, d).

    Raises:
        InputError: the temperature is another than 1 and the density has no colder form.

    Example:
        >>> far_apart = Mixture(DiagNormal(torch.tensor([[-9.0], [9.0]]), torch.ones(2, 1)), torch.zeros(2))
        >>> draw(far_apart, 100, temperature=0.0).abs().unique()
        tensor([9.])
    """
    colder = base if temperature == 1 else _colder(base, temperature)
    return colder.sample(torch.Size([]) if base.batch_shape else torch.Size([n]))


def _colder(base: Distribution, temperature: float) -> Distribution:
    match base:
        case Mixture():
            return Mixture(_colder(base.base, temperature), base.logits)
        case _MixtureOfEach():
            return _MixtureOfEach(base.of, base.index, temperature)
        case NormalizingFlow():
            return NormalizingFlow(base.transform, _colder(base.base, temperature))
        case MultivariateNormal():
            return MultivariateNormal(base.loc, scale_tril=temperature * base.scale_tril, validate_args=False)
        case Independent(base_dist=Normal() as one):
            scaled = Normal(one.loc, temperature * one.scale, validate_args=False)
            return Independent(scaled, base.reinterpreted_batch_ndims, validate_args=False)
        case MultivariateStudentT():
            return TransformedDistribution(base, AffineTransform(0.0, temperature, event_dim=1), validate_args=False)
    raise InputError(
        f"expected temperature 1 for codes of a {type(base).__name__}, which has no colder form; got {temperature}; "
        "leave it out"
    )


LATENTS: dict[str, Callable[..., LazyDistribution]] = {
    "normal": normal,
    "student_t": student_t,
    "mixture": mixture,
    "mixtures": mixtures,
    "flow": flow,
}

CITES: dict[str, tuple[str, ...]] = {"flow": ("durkan2019",)}
"""Kind of latent density -> keys of `isthmus/references.bib`."""
