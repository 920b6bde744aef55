"""How a flow is trained: callable objects `(flow, x, c) -> Terms`, never methods of the flow.

Every objective is a sum, per row and in nats where nothing else is said,

    total = beta |x - x_hat|^2 + weight * (-log p_Z(z) + volume term),

or with another term for the codes in place of the likelihood; the squared distance is summed over columns, `beta` in
nats per squared unit of x, and `weight` in [0, 1] the warm-up of the likelihood. The volume term is a surrogate in some
objectives: only its gradient means anything; it is named `surrogate` in `parts`, and is never read as a likelihood.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from isthmus.autodiff import pullback
from isthmus.density import as_trained
from isthmus.errors import InputError
from isthmus.flow import Context, Flow, Injection
from isthmus.levels import Range
from isthmus.rows import Rows
from isthmus.volume import SURROGATES, Surrogate, Volume, conjugate_gradient, exact, orthonormal_probes, tangent_probes

__all__ = [
    "OBJECTIVES",
    "Beta",
    "ExactLikelihood",
    "FreeForm",
    "Likelihood",
    "Objective",
    "Reconstructing",
    "Reconstruction",
    "RectangularLikelihood",
    "Regularised",
    "Start",
    "Terms",
    "Variational",
    "Wasserstein",
]

Weight = Float[Tensor, ""] | Float[Tensor, " batch"] | float
Beta = float | Literal["auto"] | tuple[float, float]

_START_BETA = 10.0


class Terms(NamedTuple):
    """Per-row values of an objective: their `total`, which training averages and differentiates, and its `parts`."""

    total: Float[Tensor, " batch"]
    parts: dict[str, Tensor]


class Objective(ABC):
    """The contract of an objective.

    Implementing one:

    * name in `needs` the kind of flow that it trains, and refuse in `__init__` what cannot work, with the reason;
    * write `__call__(flow, x, c, weight)`, using only the contract of that kind and `isthmus.volume`;
    * derive from `Reconstructing` where there is a squared reconstruction error to weigh;
    * write `score` where held-out rows are judged by something else than their log density;
    * add the class to `OBJECTIVES` below; every property test then runs on it.

    Attributes:
        needs: the kind of flow, `Flow` or a subclass.
        cites: keys of `isthmus/references.bib`.
        beta: weight of the squared reconstruction error where there is one, else None.
        beta_follows: whether training sets it from the residual.
        beta_range: the range that it is drawn from, or None.
        steps: whether there is a gradient to follow.
        follows_likelihood: whether the change of volume is trained, so that a `beta` that is too low can be exploited.
    """

    needs: ClassVar[Any] = Injection
    cites: tuple[str, ...] = ()
    beta: Tensor | None = None
    beta_follows: bool = False
    beta_range: Range | None = None
    follows_likelihood: ClassVar[bool] = False
    steps: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, flow: Any, x: Float[Tensor, "batch D"], c: Context = None, weight: Weight = 1.0) -> Terms:
        """Return per-row terms at data `x` (batch, D), the likelihood multiplied by `weight`."""

    @classmethod
    def serves(cls, kind: type[Flow]) -> bool:
        """Return whether flows of a kind can be trained by this objective; one that only `start` fits, by no other."""
        return issubclass(kind, cls.needs) and (kind.objective != "start" or not cls.steps)

    def score(self, flow: Flow, held_out: Rows) -> dict[str, float]:
        """Return what held-out rows say of a flow in training: `log_density`, which decides, and other figures.

        Args:
            flow: a copy in float64.
            held_out: rows in float64.

        Returns:
            Means in nats a row; with a reconstruction also its squared error.
        """
        return as_trained(flow, held_out).score(held_out)


class Reconstructing(Objective):
    """What objectives share that weigh a squared reconstruction error by `beta`.

    Args:
        beta: weight of the squared reconstruction error in nats per squared unit of x, > 0, or `auto`: training then
            sets it to 1/(2 sigma^2), sigma the standard deviation per direction of the smallest held-out residual. Or a
            range `(low, high)`: then the last level that a row's networks are told says its beta, see `isthmus.levels`.

    Attributes:
        beta: the number, with `auto` where it begins, of a range the highest.
        beta_range: the range, or None.

    Raises:
        InputError: beta is not positive.
    """

    beta: Tensor

    def __init__(self, beta: Beta) -> None:
        self.beta_follows = beta == "auto"
        self.beta_range = Range(*beta) if isinstance(beta, tuple) else None
        value = _START_BETA if beta == "auto" else float(beta[1] if isinstance(beta, tuple) else beta)
        if not 0 < value < float("inf"):
            raise InputError(f"expected beta > 0, the weight of the squared reconstruction; got {beta}; try 'auto'")
        self.beta = torch.tensor(value)

    def betas(self, flow: Flow, x: Float[Tensor, "batch D"], c: Context = None) -> Weight:
        """Return the weight of the squared error: `beta`, or where that is a range one a row, by its last level.

        Raises:
            InputError: beta is a range and the flow is told no levels.
        """
        if self.beta_range is None:
            return self.beta
        if flow.levels is None:
            raise InputError(
                f"expected a flow that is told beta, which is a range; got {type(flow).__name__} without levels; build "
                "it by a recipe or with levels, or give one number"
            )
        told = flow.told(c, x.shape[0])  # type: ignore[operator]
        return self.beta if told is None else self.beta_range.value(told[:, -1])


def _terms(flow: Injection, x: Tensor, c: Context, volume: Volume | Surrogate, beta: Weight, weight: Weight) -> Terms:
    reconstruction = (x - volume.x_hat).square().sum(1)
    latent = -flow.base(c).log_prob(volume.z)
    name = "log_volume" if isinstance(volume, Volume) else "surrogate"
    total = beta * reconstruction + weight * (latent + volume[2])
    return Terms(total, {"reconstruction": reconstruction, "latent": latent, name: volume[2]})


@final
class FreeForm(Reconstructing):
    """The paper's loss: reconstruction, and the likelihood by a surrogate for the change of volume.

    Args:
        beta: weight of the squared reconstruction error, > 0, `auto` or a range; at least 1/(2 sigma^2) for noise of
            standard deviation sigma off the manifold is always enough.
        surrogate: a name of `isthmus.volume.SURROGATES`; `encoder` is the paper's, `conditional` chooses by probe.
        K: probes a row, 1 <= K <= d.
        probed: share of the rows of each batch that carry probes, in (0, 1]; their surrogate is divided by it, so that
            the gradient's expectation is the same, its variance larger, and a step cheaper.

    References:
        Sorrenson et al. (2024), arXiv 2306.01843; for `conditional` Rafae, Landwehr (2026), arXiv 2608.12084.

    Example:
        >>> import torch
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import mlp_pair
        >>> flow = FreeFormFlow(*mlp_pair(5, 2), data_dim=5, latent_dim=2)
        >>> sorted(FreeForm(beta=10)(flow, torch.randn(8, 5)).parts)
        ['latent', 'reconstruction', 'surrogate']
    """

    follows_likelihood = True

    def __init__(self, beta: Beta = "auto", surrogate: str = "conditional", K: int = 1, probed: float = 1.0) -> None:
        if surrogate not in SURROGATES:
            raise InputError(f"expected a surrogate among {', '.join(SURROGATES)}; got {surrogate!r}; choose one")
        if not 0 < probed <= 1:
            raise InputError(f"expected a share of probed rows in (0, 1]; got {probed}; 1 probes every row")
        super().__init__(beta)
        self.surrogate, self.K, self.probed = surrogate, K, probed
        self.estimator = SURROGATES[surrogate]
        self.cites = ("sorrenson2024", *(("rafae2026",) if surrogate == "conditional" else ()))

    def __call__(self, flow: Injection, x: Float[Tensor, "batch D"], c: Context = None, weight: Weight = 1.0) -> Terms:
        """Return per-row terms at data `x` (batch, D)."""
        n = math.ceil(self.probed * x.shape[0])
        maps = flow.maps(None if c is None else c[:n])
        z, x_hat, surrogate = self.estimator(*maps, x[:n], K=self.K, probes=tangent_probes(flow.codes))
        if n < x.shape[0]:
            rest = None if c is None else c[n:]
            z_rest = flow.encode(x[n:], rest)
            z, x_hat = torch.cat([z, z_rest]), torch.cat([x_hat, flow.decode(z_rest, rest)])
            surrogate = pad(surrogate * (x.shape[0] / n), (0, x.shape[0] - n))
        return _terms(flow, x, c, Surrogate(z, x_hat, surrogate), self.betas(flow, x, c), weight)


@final
class ExactLikelihood(Reconstructing):
    """The exact change of volume, measured on the encoder, d products a row.

    It is what the paper's surrogate estimates where f' is the pseudo-inverse of g'. There is no decoder's side: with
    d < D it is unbounded below for every finite beta, since a decoder that shrinks to a point gains likelihood without
    bound and loses at most the variance of the data; with d = D the encoder's side is the same likelihood.

    Args:
        beta: weight of the squared reconstruction error, > 0, `auto` or a range.

    Raises:
        InputError: beta is not positive.

    References:
        Sorrenson et al. (2024), arXiv 2306.01843, section 4.2.

    Example:
        >>> ExactLikelihood(beta=5.0).beta
        tensor(5.)
    """

    cites = ("sorrenson2024",)
    follows_likelihood = True

    def __init__(self, beta: Beta = "auto") -> None:
        super().__init__(beta)

    def __call__(self, flow: Injection, x: Float[Tensor, "batch D"], c: Context = None, weight: Weight = 1.0) -> Terms:
        """Return per-row terms at data `x` (batch, D)."""
        volume = exact(*flow.maps(c), x, side="encoder", dtype=None, codes=flow.codes)
        return _terms(flow, x, c, volume, self.betas(flow, x, c), weight)


@final
class RectangularLikelihood(Reconstructing):
    """The likelihood of rectangular flows by conjugate gradients, with the reconstruction error beside it.

    Args:
        beta: weight of the squared reconstruction error, > 0 (50 in the publication), `auto` or a range.
        K: probes a row, 1 <= K <= d.
        tolerance: relative residual at which the solver stops, > 0.
        max_iterations: at most so many iterations; d by default.

    References:
        Caterini et al. (2021), arXiv 2106.01413, section 4.

    Example:
        >>> RectangularLikelihood(K=2).K
        2
    """

    cites = ("caterini2021",)
    follows_likelihood = True

    def __init__(
        self,
        beta: Beta = 50.0,
        K: int = 1,
        tolerance: float = 1e-3,
        max_iterations: int | None = None,
    ) -> None:
        if tolerance <= 0:
            raise InputError(f"expected tolerance > 0; got {tolerance}; 1e-3 is a usual choice")
        super().__init__(beta)
        self.K = K
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def __call__(self, flow: Injection, x: Float[Tensor, "batch D"], c: Context = None, weight: Weight = 1.0) -> Terms:
        """Return per-row terms at data `x` (batch, D)."""
        options: dict[str, Any] = {"tolerance": self.tolerance, "max_iterations": self.max_iterations}
        options["probes"] = tangent_probes(flow.codes)
        volume = conjugate_gradient(*flow.maps(c), x, K=self.K, **options)
        return _terms(flow, x, c, volume, self.betas(flow, x, c), weight)


@final
class Reconstruction(Objective):
    """The plain autoencoder: the squared reconstruction error and nothing else.

    Example:
        >>> import torch
        >>> from isthmus.flows import RectangularFlow
        >>> list(Reconstruction()(RectangularFlow(3, 1), torch.randn(4, 3)).parts)
        ['reconstruction']
    """

    def __call__(self, flow: Injection, x: Float[Tensor, "batch D"], c: Context = None, weight: Weight = 1.0) -> Terms:
        """Return per-row terms at data `x` (batch, D)."""
        reconstruction = (x - flow.reconstruct(x, c)).square().sum(1)
        return Terms(reconstruction, {"reconstruction": reconstruction})


@final
class Likelihood(Objective):
    """The negative log-likelihood and nothing else, for flows whose law is one of rows.

    Raises:
        InputError: in use, on a learned manifold: its likelihood would shrink it to a point.

    Example:
        >>> import torch
        >>> from isthmus.flows import BijectiveFlow
        >>> list(Likelihood()(BijectiveFlow(2, 2), torch.randn(4, 2)).parts)
        ['likelihood']
    """

    needs = Flow

    @classmethod
    def serves(cls, kind: type[Flow]) -> bool:
        """Return whether the log density of flows of a kind is exact and one of rows."""
        return super().serves(kind) and kind.exact

    def __call__(self, flow: Flow, x: Float[Tensor, "batch D"], c: Context = None, weight: Weight = 1.0) -> Terms:
        """Return per-row terms at data `x` (batch, D); the weight of the warm-up is of no effect."""
        if not self.serves(type(flow)):
            raise InputError(
                f"expected a flow with an exact density of rows, as 'bijective', for the likelihood alone; got "
                f"{type(flow).__name__}: its likelihood would shrink the manifold to a point; use 'freeform'"
            )
        value = -flow.log_prob(x, c)
        return Terms(value, {"likelihood": value})


@final
class Start(Objective):
    """No steps at all: for flows that are fitted by their own `start`, in closed form or without gradients.

    Example:
        >>> Start().steps
        False
    """

    needs = Flow
    steps = False

    def __call__(self, flow: Flow, x: Float[Tensor, "batch D"], c: Context = None, weight: Weight = 1.0) -> Terms:
        """Refuse: there is no gradient to follow."""
        raise InputError(
            f"expected no steps with objective 'start'; got one for {type(flow).__name__}; use 'likelihood'"
        )


@final
class Variational(Reconstructing):
    """The evidence lower bound of a variational autoencoder with Gaussian noise of variance 1/(2 beta).

    `beta |x - g(z)|^2 + weight (log q(z | x) - log p_Z(z))` at one draw `z ~ q(. | x)` a row. In the notation of the
    beta-VAE with noise variance s, `beta` is 1/(2 s) over its beta; `auto` follows the residual, as a
    calibrated decoder does.

    Args:
        beta: weight of the squared reconstruction error, > 0, `auto` or a range.

    Raises:
        InputError: in use, on a flow that has no distribution of codes.

    References:
        Kingma, Welling (2014), arXiv 1312.6114; Higgins et al. (2017), beta-VAE, ICLR; Rybkin, Daniilidis, Levine
        (2021), arXiv 2006.13202, for `auto`.

    Example:
        >>> Variational(beta=5.0).beta
        tensor(5.)
    """

    cites = ("kingma2014",)
    follows_likelihood = True

    def __init__(self, beta: Beta = "auto") -> None:
        super().__init__(beta)

    @classmethod
    def serves(cls, kind: type[Flow]) -> bool:
        """Return whether flows of a kind have a distribution of codes."""
        return super().serves(kind) and hasattr(kind, "posterior")

    def __call__(self, flow: Injection, x: Float[Tensor, "batch D"], c: Context = None, weight: Weight = 1.0) -> Terms:
        """Return per-row terms at data `x` (batch, D)."""
        if not self.serves(type(flow)):
            raise InputError(
                f"expected a flow with a distribution of codes, as 'variational'; got {type(flow).__name__}; use it"
            )
        q = flow.posterior(x, c)  # type: ignore[operator]
        z = q.rsample()
        reconstruction = (x - flow.decode(z, c)).square().sum(1)
        divergence = q.log_prob(z) - flow.base(c).log_prob(z)
        total = self.betas(flow, x, c) * reconstruction + weight * divergence
        return Terms(total, {"reconstruction": reconstruction, "divergence": divergence})


@final
class Wasserstein(Reconstructing):
    """The Wasserstein autoencoder: reconstruction, and the maximum mean discrepancy between codes and draws from p_Z.

    `beta |x - x_hat|^2 + weight penalty MMD^2`, with the kernel `k(a, b) = sum_s C / (C + |a - b|^2)`, `C = 2 d s`. The
    estimate of MMD^2 between n codes z and as many draws y is unbiased, so that it may be negative; its share of row i,
    of which the batch takes the mean, is

        1/(n - 1) sum_(j != i) (k(z_i, z_j) + k(y_i, y_j)) - 2/n sum_j k(z_i, y_j).

    With a context the codes of all rows together are compared with draws from all their latent densities.

    Args:
        beta: weight of the squared reconstruction error, > 0 (1 in the publication), `auto` or a range.
        penalty: weight of MMD^2, > 0; 10 is the publication's, of images in [0, 1].
        scales: s, each > 0; the publication's kernel has one, 1, the authors' implementation these seven.

    Raises:
        InputError: an argument is out of its range; in use, a batch of a single row.

    References:
        Tolstikhin, Bousquet, Gelly, Schölkopf (2018), Wasserstein Auto-Encoders, arXiv 1711.01558, algorithm 2; for
        the estimate Gretton, Borgwardt, Rasch, Schölkopf, Smola (2012), A Kernel Two-Sample Test, lemma 6.

    Example:
        >>> import torch
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import mlp_pair
        >>> flow = FreeFormFlow(*mlp_pair(5, 2), data_dim=5, latent_dim=2)
        >>> sorted(Wasserstein()(flow, torch.randn(8, 5)).parts)
        ['discrepancy', 'reconstruction']
    """

    cites = ("tolstikhin2018",)

    def __init__(
        self,
        beta: Beta = 1.0,
        penalty: float = 10.0,
        scales: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
    ) -> None:
        super().__init__(beta)
        if not 0 < penalty < math.inf:
            raise InputError(
                f"expected penalty > 0, the weight of the discrepancy; got {penalty}; 10 is a usual choice"
            )
        if not scales or not all(0 < s < math.inf for s in scales):
            raise InputError(f"expected scales of the kernel > 0, one at least; got {scales}; 1 is a usual choice")
        self.penalty, self.scales = penalty, scales

    def __call__(self, flow: Injection, x: Float[Tensor, "batch D"], c: Context = None, weight: Weight = 1.0) -> Terms:
        """Return per-row terms at data `x` (batch, D), batch >= 2."""
        n = x.shape[0]
        if n < 2:
            raise InputError("expected at least 2 rows a batch, to compare their codes; got 1; use a larger batch")
        z, base = flow.encode(x, c), flow.base(c)
        draw = base.rsample if base.has_rsample else base.sample
        y = (draw() if base.batch_shape else draw(torch.Size([n]))).to(z)
        reconstruction = (x - flow.decode(z, c)).square().sum(1)
        discrepancy = self._discrepancy(z, y)
        return Terms(
            self.betas(flow, x, c) * reconstruction + weight * self.penalty * discrepancy,
            {"reconstruction": reconstruction, "discrepancy": discrepancy},
        )

    def _discrepancy(self, z: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        n = z.shape[0]
        others = 1 - torch.eye(n, dtype=z.dtype, device=z.device)
        within = (others * (self._kernel(z, z) + self._kernel(y, y))).sum(1) / (n - 1)
        return within - 2 * self._kernel(z, y).mean(1)

    def _kernel(self, a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
        squared = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.mT
        sizes = [2 * a.shape[1] * s for s in self.scales]
        return torch.stack([C / (C + squared.clamp_min(0)) for C in sizes]).sum(0)


@final
class Regularised(Reconstructing):
    """The regularised autoencoder: reconstruction, small codes, and a smooth decoder in place of a noisy code.

    `beta |x - x_hat|^2 + weight (|z|^2 / 2 + penalty r)`, with r the decoder's squared parameters `|theta|^2` (`l2`) or
    `1/2 |g'(z)|^2`, the sum over all entries of its Jacobian, estimated without bias by one product `w^T g'(z)` with a
    random `w` a row (`gradient_penalty`). The density of the codes comes from the refit, as published.

    Args:
        beta: weight of the squared reconstruction error, > 0, `auto` or a range; one over the weight of |z|^2 / 2
            in the publication, where it was tuned for every data set.
        decoder: what keeps the decoder smooth, `l2` or `gradient_penalty`; the first asks for a flow with a decoder of
            its own.
        penalty: its weight, >= 0; 1e-3 is the ratio of the authors' weights of |theta|^2 and of the codes on MNIST,
            1e-7 and 1e-4. (Their code takes means over pixels and columns of codes, and penalises the squares of
            outputs: what is here follows the publication's formulas.)

    Raises:
        InputError: an argument is out of its range; in use, a flow without a decoder of its own.

    References:
        Ghosh, Sajjadi, Vergari, Black, Schölkopf (2020), From Variational to Deterministic Autoencoders, arXiv
        1903.12436, section 3.

    Example:
        >>> import torch
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import mlp_pair
        >>> flow = FreeFormFlow(*mlp_pair(5, 2), data_dim=5, latent_dim=2)
        >>> sorted(Regularised(decoder="gradient_penalty")(flow, torch.randn(8, 5)).parts)
        ['decoder', 'latent', 'reconstruction']
    """

    cites = ("ghosh2020",)

    def __init__(
        self,
        beta: Beta = "auto",
        decoder: str = "l2",
        penalty: float = 1e-3,
    ) -> None:
        super().__init__(beta)
        if decoder not in ("l2", "gradient_penalty"):
            raise InputError(f"expected decoder 'l2' or 'gradient_penalty'; got {decoder!r}; choose one")
        if not 0 <= penalty < math.inf:
            raise InputError(f"expected penalty >= 0, the weight on the decoder; got {penalty}; 1e-3 is a usual choice")
        self.decoder, self.penalty = decoder, penalty

    def __call__(self, flow: Injection, x: Float[Tensor, "batch D"], c: Context = None, weight: Weight = 1.0) -> Terms:
        """Return per-row terms at data `x` (batch, D)."""
        z = flow.encode(x, c)
        if self.decoder == "l2":
            x_hat, decoder = flow.decode(z, c), _squared_parameters(flow).expand(x.shape[0])
        else:
            x_hat, transpose = pullback(flow.maps(c)[1], z)
            (w,) = orthonormal_probes(x_hat)
            decoder = transpose(w).square().sum(1) / 2
        reconstruction, latent = (x - x_hat).square().sum(1), z.square().sum(1) / 2
        total = self.betas(flow, x, c) * reconstruction + weight * (latent + self.penalty * decoder)
        return Terms(total, {"reconstruction": reconstruction, "latent": latent, "decoder": decoder})


def _squared_parameters(flow: Injection) -> Float[Tensor, ""]:
    decoder = getattr(flow, "decoder", None)
    if decoder is None:
        raise InputError(
            f"expected a flow with a decoder of its own, as 'freeform', for decoder 'l2'; got {type(flow).__name__}; "
            "use decoder 'gradient_penalty'"
        )
    return torch.stack([parameter.square().sum() for parameter in decoder.parameters()]).sum()


OBJECTIVES: dict[str, type[Objective]] = {
    "freeform": FreeForm,
    "exact": ExactLikelihood,
    "rectangular": RectangularLikelihood,
    "reconstruction": Reconstruction,
    "likelihood": Likelihood,
    "start": Start,
    "variational": Variational,
    "wasserstein": Wasserstein,
    "regularised": Regularised,
}
