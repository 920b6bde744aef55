"""The contracts of the catalogue: a `Flow` is a law of rows, an `Injection` a law with codes.

`x` is data (batch, D), `z` a latent code (batch, d), `c` a context (batch, C) or None, `x_hat = g(f(x))`.

* A `Flow` gives rows a log density, exact or estimated, with respect to the measure of its support `rows`, and draws
  rows.
* An `Injection` has an encoder f, a decoder g and the change of volume between them. Its law is that of g(z), z ~ p_Z:
  the *manifold density*, the density of `x_hat` with respect to d-dimensional volume on the image of g,

      log p(x_hat) = log p_Z(z) - log_volume,   z = f(x),   log_volume = 1/2 log det(g'^T g') of the decoder at z,

  in nats. On a known surface, or where d = D and f is the inverse of g, x_hat is x, and this is the density of the row.
* A `LearnedManifold` is an injection whose image is learnt: rows lie off it, so its law is none of rows. The density of
  a row then needs the noise off the manifold, `isthmus.density.Ambient`. Values for different d cannot be compared.

The networks of a `Networked` flow may be told L *levels* beside the context, see `isthmus.levels`: encoder and decoder
then take a context of C + L columns as it is, and complete one of C columns by the levels that are set. The latent
density sees the first C columns alone.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.lazy import LazyDistribution, LazyTransform

from isthmus import latents
from isthmus.autodiff import reverse_only
from isthmus.errors import InputError
from isthmus.networks import start_at_principal_components
from isthmus.rows import Context, Rows
from isthmus.supports import Euclidean, Learned, Support
from isthmus.volume import Map, Volume, exact

__all__ = [
    "Context",
    "Estimate",
    "Flow",
    "Injection",
    "LearnedManifold",
    "NetworkFlow",
    "Networked",
    "WholeSpace",
    "check_context",
    "check_temperature",
    "in_double",
]

M = TypeVar("M", bound=nn.Module)

_WORK = 200_000  # rows times columns times codes of a batch of Jacobians: wide data get fewer rows


class Estimate(NamedTuple):
    """A log density and its standard error, both (batch,) in nats; the error is 0 where the value is exact."""

    value: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"]


class Flow(nn.Module, ABC):
    """The contract of a law of rows.

    Implementing one:

    * call `super().__init__(rows, context_dim)` with the support that rows lie on;
    * write `log_prob(x, c)` and `sample(n, c)`; where the log density can only be estimated set `exact = False` and
      write `estimate` too;
    * name in `supports` the supports that it can serve, the usual one first, and in `cites` its publications;
    * add the class to `FLOWS` in `isthmus/flows/__init__.py`; recipes, the command line, the store and every property
      test then know it.

    A recipe builds it by the signature of its constructor: `data_dim`, `latent_dim`, `context_dim` and `rows` (the
    support) come from the data, modules from the recipe's `network`, `latent` from its `latent`; all other arguments
    are options of the recipe. Concrete flows are final: to change one, wrap it. A flow knows no objective.

    Args:
        rows: the support of its rows.
        context_dim: number of context columns C, 0 for none.

    Attributes:
        exact: whether `log_prob` is the log density of the row itself, in closed form and differentiable.
        supports: names of the supports in `isthmus.supports.SUPPORTS` that rows may lie on.
        objective: name of the objective that a recipe trains it by, unless it names another.
        cites: keys of `isthmus/references.bib`.
        constraints: what must be true of parameters and buffers that are read from a file, by their name or a pattern
            for it: `positive`, `cholesky` or `constant`; see `isthmus.store.tensors`.
    """

    exact: ClassVar[bool] = True
    supports: ClassVar[tuple[str, ...]] = ("euclidean",)
    objective: ClassVar[str] = "likelihood"
    cites: tuple[str, ...] = ()
    constraints: ClassVar[dict[str, str]] = {"*.mask": "constant", "*.order": "constant"}
    levels: Tensor | None

    def __init__(self, rows: Support, context_dim: int = 0) -> None:
        super().__init__()
        self.rows, self.context_dim = rows, context_dim
        self.register_buffer("levels", None)  # of a `Networked` flow alone

    @property
    def data_dim(self) -> int:
        """Number of columns D."""
        return self.rows.columns

    @abstractmethod
    def log_prob(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, " batch"]:
        """Return the log density of the law at x, (batch,) in nats, with respect to the measure of `rows`."""

    @abstractmethod
    def sample(self, n: int, c: Context = None, *, temperature: float = 1.0) -> Float[Tensor, "n D"]:
        """Draw n rows, (n, D); with a context one for each of its rows.

        Raises:
            InputError: the context has not n rows; a temperature other than 1 means nothing for this law.
        """

    def rsample_with_log_prob(self, n: int, c: Context = None) -> tuple[Float[Tensor, "n D"], Float[Tensor, " n"]]:
        """Draw n rows with their log densities in one pass, both differentiable in the parameters; some flows can.

        Args:
            n: number of rows.
            c: context, (n, C), or None.

        Returns:
            Rows, (n, D), and their log densities, (n,) in nats.

        Raises:
            InputError: this flow has no such draws; the context has not n rows.
        """
        raise InputError(
            f"expected a flow whose draws can be differentiated, as 'hypersurface', 'torus' or 'bijective'; got "
            f"{type(self).__name__}; choose one of them"
        )

    @torch.no_grad()
    def estimate(
        self, x: Float[Tensor, "batch D"], c: Context = None, *, n_points: int = 128, seed: int = 0
    ) -> Estimate:
        """Return the log density at x with its standard error, (batch,) in nats; exact unless a flow says otherwise.

        Args:
            x: rows, (batch, D).
            c: context, (batch, C), or None.
            n_points: evaluations a row, where the value is estimated.
            seed: of these.
        """
        value = self.log_prob(x, c)
        return Estimate(value, torch.zeros_like(value))

    def affordable(self, most: int, *, times: int = 1, least: int = 8) -> int:
        """Return how many rows a computation takes that needs Jacobians of each of them; `most` where there are none.

        Args:
            most: the number for narrow data.
            times: how many times the usual work it may take.
            least: the number for the widest data.
        """
        return most

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Refuse options of a recipe that do not fit together, before there are data; nothing here.

        Args:
            options: those that a recipe names, by their names.

        Raises:
            InputError: nothing would read one of them, or one of them needs another.
        """

    def start(self, rows: Rows) -> None:
        """Set parameters from rows before training: principal components, ActNorm, inducing points; nothing here.

        No gradients are recorded while it runs.

        Args:
            rows: training rows in float64.
        """


class Injection(Flow):
    """The contract of a law with codes.

    Implementing one: call `super().__init__(rows, latent_dim, context_dim, latent)`, write `encode(x, c)`,
    `decode(z, c)` and `volume(x, c)`, the last usually by one function of `isthmus.volume`.

    Args:
        rows: the support of its rows.
        latent_dim: d, 1 <= d <= D.
        context_dim: number of context columns C, 0 for none.
        latent: density of the codes, a zuko lazy distribution over R^d; the standard normal by default.

    Attributes:
        codes: the support of the codes.
        refits: whether another density on R^d may take the place of the latent density after training.

    Raises:
        InputError: d is not in 1..D.
    """

    refits: ClassVar[bool] = True
    constraints: ClassVar[dict[str, str]] = {
        **Flow.constraints,
        "latent.scale_tril": "cholesky",
        **dict.fromkeys(("latent._1", "latent.base.scale", "latent.transform.transforms.0.scale"), "positive"),
    }

    def __init__(
        self, rows: Support, latent_dim: int, context_dim: int = 0, latent: LazyDistribution | None = None
    ) -> None:
        super().__init__(rows, context_dim)
        D = rows.columns
        if not 1 <= latent_dim <= D:
            raise InputError(f"expected 1 <= latent dimension <= {D} columns; got {latent_dim}; choose another")
        self.codes: Support = Euclidean(latent_dim)
        self.latent = latent if latent is not None else latents.normal(latent_dim)

    @property
    def latent_dim(self) -> int:
        """Number of columns of a code, d."""
        return self.codes.columns

    @abstractmethod
    def encode(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, "batch d"]:
        """Return the code `z = f(x)`, (batch, d)."""

    @abstractmethod
    def decode(self, z: Float[Tensor, "batch d"], c: Context = None) -> Float[Tensor, "batch D"]:
        """Return the point `g(z)`, (batch, D)."""

    @abstractmethod
    def volume(self, x: Float[Tensor, "batch D"], c: Context = None) -> Volume:
        """Return code, reconstruction and the exact `log_volume` at z = f(x), (batch,) in nats."""

    def maps(self, c: Context = None) -> tuple[Map, Map]:
        """Return encoder and decoder as functions of one argument, the context bound: what `isthmus.volume` takes."""
        return lambda x: self.encode(x, c), lambda z: self.decode(z, c)

    def base(self, c: Context = None) -> Distribution:
        """Return the latent density given the context."""
        return self.latent(c)

    @torch.no_grad()
    def draw(self, n: int, c: Context = None, *, temperature: float = 1.0) -> Float[Tensor, "n d"]:
        """Draw codes z ~ p_Z, (n, d), with a context one for each of its rows; see `isthmus.latents.draw`.

        Raises:
            InputError: the context has not n rows; the latent density has no colder form.
        """
        check_context(n, c)
        return latents.draw(self.base(c), n, temperature)

    def volume_at(self, z: Float[Tensor, "batch d"], c: Context = None) -> Volume:
        """Return the code itself, `g(z)` and `log_volume` at z, (batch,) in nats: from the side of the codes."""
        return exact(lambda z: z, self.maps(c)[1], z, outputs=self.data_dim, codes=self.codes)

    def log_prob(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, " batch"]:
        """Return the manifold density `log p_Z(z) - log_volume` of the reconstruction of x, (batch,) in nats."""
        z, _, log_volume = self.volume(x, c)
        return self.base(c).log_prob(z) - log_volume

    @torch.no_grad()
    def sample(self, n: int, c: Context = None, *, temperature: float = 1.0) -> Float[Tensor, "n D"]:
        """Draw points g(z), z ~ p_Z, (n, D); with a context one for each of its rows.

        Args:
            n: number of points.
            c: context, (n, C), or None.
            temperature: scale >= 0 of the codes about their modes, see `isthmus.latents.draw`.

        Raises:
            InputError: the context has not n rows; the latent density has no colder form.
        """
        return self.decode(self.draw(n, c, temperature=temperature), c)

    def affordable(self, most: int, *, times: int = 1, least: int = 8) -> int:
        """Return how many rows a computation takes that needs Jacobians of each of them, from `least` to `most`."""
        return max(least, min(most, times * _WORK // (self.data_dim * self.latent_dim)))

    def reconstruct(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, "batch D"]:
        """Return the point that x is mapped to, `x_hat = g(f(x))`, (batch, D)."""
        return self.decode(self.encode(x, c), c)


class WholeSpace(Injection):
    """An invertible map of the whole of R^D: `f = T`, `g = T^-1`, d = D, and nothing is projected away.

    Implementing one: call `super().__init__(data_dim, latent_dim, context_dim)` and set `transform`, a zuko lazy
    transform of vectors from the data to the latent space; everything else follows.

    Args:
        data_dim: D.
        latent_dim: must be D.
        context_dim: number of context columns C, 0 for none.

    Attributes:
        transform: T, called with a context or None.

    Raises:
        InputError: the latent dimension is not D.
    """

    transform: LazyTransform

    def __init__(self, data_dim: int, latent_dim: int, context_dim: int = 0) -> None:
        super().__init__(Euclidean(data_dim), latent_dim, context_dim)
        if latent_dim != data_dim:
            raise InputError(
                f"expected latent_dim {data_dim}, as many as columns, for a bijective flow; got {latent_dim}; use a "
                "free-form or a rectangular flow for a manifold"
            )

    def encode(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, "batch d"]:
        """Return `T(x)`, (batch, D)."""
        return self.transform(c)(x)

    def decode(self, z: Float[Tensor, "batch d"], c: Context = None) -> Float[Tensor, "batch D"]:
        """Return `T^-1(z)`, (batch, D)."""
        return self.transform(c).inv(z)

    def volume(self, x: Float[Tensor, "batch D"], c: Context = None) -> Volume:
        """Return code, x itself, and the exact `log_volume = -log |det T'(x)|`, (batch,) in nats, as T gives it."""
        z, log_det = self.transform(c).call_and_ladj(x)
        return Volume(z, x, -log_det.reshape(x.shape[0], -1).sum(1))

    def rsample_with_log_prob(self, n: int, c: Context = None) -> tuple[Float[Tensor, "n D"], Float[Tensor, " n"]]:
        """Draw n rows with their log densities, differentiable in the parameters; see `Flow.rsample_with_log_prob`.

        Raises:
            InputError: the context has not n rows; draws of the latent density cannot be differentiated.
        """
        check_context(n, c)
        base = self.base(c)
        if not base.has_rsample:
            raise InputError(
                f"expected a latent density whose draws can be differentiated, as 'normal'; got {type(base).__name__}; "
                "choose another"
            )
        z = base.rsample(torch.Size([]) if base.batch_shape else torch.Size([n]))
        x, log_det = self.transform(c).inv.call_and_ladj(z)
        return x, base.log_prob(z) - log_det.reshape(n, -1).sum(1)


class LearnedManifold(Injection):
    """An injection of R^d whose image is learnt, so that rows lie off it; `rows` is that image.

    Args:
        data_dim: D.
        latent_dim: d, 1 <= d <= D.
        context_dim: number of context columns C, 0 for none.
        latent: density of the codes; the standard normal by default.
    """

    exact = False
    objective = "freeform"

    def __init__(
        self, data_dim: int, latent_dim: int, context_dim: int = 0, latent: LazyDistribution | None = None
    ) -> None:
        super().__init__(Learned(data_dim, latent_dim), latent_dim, context_dim, latent)

    @property
    def codimension(self) -> int:
        """The number of directions off the manifold, D - d, and 1 at least."""
        return max(1, self.data_dim - self.latent_dim)

    def sigma(self, squared_error: float) -> float:
        """Return the residuals' standard deviation per direction off the manifold.

        Args:
            squared_error: mean of |x - x_hat|^2, summed over columns.

        Returns:
            In units of x; a millionth at least.
        """
        return max(squared_error / self.codimension, 1e-12) ** 0.5


class Networked(Injection):
    """What injections of any two modules share. With a context these are called as `encoder(x, c)`, `decoder(z, c)`.

    Each computes in the precision of its own parameters; codes and rows have that of the rows. A constructor hands
    the modules over by `_hold`.

    Attributes:
        encoder: f, (batch, D) -> (batch, d).
        decoder: g, (batch, d) -> (batch, D).
        levels: what else the modules are told where nothing else is said, as L further context columns: a buffer,
            (L,), or None.
        forward_mode: whether products with Jacobians may be computed in forward mode; see `isthmus.vetting`.
    """

    encoder: nn.Module
    decoder: nn.Module
    forward_mode: bool

    def encode(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, "batch d"]:
        """Return the code `z = f(x)`, (batch, d)."""
        return self._applied(self.encoder, x, c)

    def decode(self, z: Float[Tensor, "batch d"], c: Context = None) -> Float[Tensor, "batch D"]:
        """Return the point `g(z)` of the manifold, (batch, D)."""
        return self._applied(self.decoder, z, c)

    def volume(self, x: Float[Tensor, "batch D"], c: Context = None) -> Volume:
        """Return code, reconstruction and the exact `log_volume`, from the decoder's whole Jacobian."""
        return exact(*self.maps(c), x, codes=self.codes)

    def base(self, c: Context = None) -> Distribution:
        """Return the latent density given the context, levels left out."""
        if self.levels is not None and c is not None:
            c = c[:, : self.context_dim] if self.context_dim else None
        return self.latent(c)

    def told(self, c: Context, n: int) -> Float[Tensor, "n told"] | None:
        """Return what encoder and decoder are told of n rows: `c`, completed by the levels, (n, C + L)."""
        if self.levels is None or (c is not None and c.shape[1] > self.context_dim):
            return c
        levels = self.levels.expand(n, -1)
        return levels if c is None else torch.cat([c, levels], 1)

    def _hold(self, encoder: nn.Module, decoder: nn.Module, levels: Sequence[float] = ()) -> None:
        """Take the modules over; warn of layers that make changes of volume wrong or unstable."""
        self.levels = torch.tensor(levels, dtype=torch.get_default_dtype()) if levels else None
        self.encoder, self.decoder, self.forward_mode = encoder, decoder, True
        for layer in (*encoder.modules(), *decoder.modules()):
            _warn_of(layer)

    def _applied(self, network: nn.Module, x: Tensor, c: Context) -> Tensor:
        """Return what a network makes of rows, told the context and the levels, in its own precision."""
        c, x = self.told(c, x.shape[0]), x if self.forward_mode else reverse_only(x)
        own = next((parameter.dtype for parameter in network.parameters()), x.dtype)
        if own == x.dtype:
            return network(x) if c is None else network(x, c)
        return (network(x.to(own)) if c is None else network(x.to(own), c.to(own))).to(x.dtype)


class NetworkFlow(Networked, LearnedManifold):
    """A learned manifold of any two modules.

    Args:
        encoder: f, (batch, D) -> (batch, d).
        decoder: g, (batch, d) -> (batch, D).
        data_dim: D.
        latent_dim: d, 1 <= d <= D.
        context_dim: number of context columns C, 0 for none.
        latent: density of the codes; the standard normal by default.
        levels: what else the modules are told where nothing else is said, as L further context columns.

    Warns:
        UserWarning: a ReLU (no second derivative; training is unstable) or a BatchNorm in training mode (rows
            depend on one another, so that Jacobians are not those of single rows).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        data_dim: int,
        latent_dim: int,
        context_dim: int = 0,
        latent: LazyDistribution | None = None,
        levels: Sequence[float] = (),
    ) -> None:
        LearnedManifold.__init__(self, data_dim, latent_dim, context_dim, latent)
        self._hold(encoder, decoder, levels)

    def start(self, rows: Rows) -> None:
        """Set linear paths of the networks, where they have any, to the principal components of the rows."""
        start_at_principal_components(self.encoder, self.decoder, rows.x)


def check_context(n: int, c: Context) -> None:
    """Refuse a context that has not a row for each of n samples.

    Args:
        n: number of samples.
        c: context, (n, C), or None.

    Raises:
        InputError: it has another number of rows.
    """
    if c is not None and c.shape[0] != n:
        raise InputError(f"expected one context row for each of {n} samples; got {c.shape[0]} rows; repeat them")


def check_temperature(temperature: float) -> None:
    """Refuse a temperature where a law is made of a uniform one, which has no colder form.

    Args:
        temperature: what was asked for.

    Raises:
        InputError: it is not 1.
    """
    if temperature != 1:
        raise InputError(
            f"expected temperature 1 for a law made of the uniform one of its surface, which has no colder form; got "
            f"{temperature}; leave it out"
        )


def in_double(module: M) -> M:
    """Put a module into double precision, but for networks with convolutions in its flows: those stay in single.

    On a CPU torch convolves in double precision many times slower than in single. What is computed of their outputs,
    determinants and densities, is in double precision all the same; single rounding, 6e-8, is far below their residual.

    Args:
        module: anything that holds flows; changed in place.

    Returns:
        The module.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import convolutional_pair
        >>> pair = convolutional_pair(64, 2, shape=(1, 8, 8), channels=4, blocks=0)
        >>> flow = in_double(FreeFormFlow(*pair, data_dim=64, latent_dim=2))
        >>> flow.volume(torch.zeros(1, 64).double()).log_volume.dtype, next(flow.parameters()).dtype
        (torch.float64, torch.float32)
    """
    module.double()
    for flow in module.modules():
        if isinstance(flow, Networked):
            for network in flow.children():
                if any(isinstance(layer, nn.modules.conv._ConvNd) for layer in network.modules()):
                    network.float()
    return module


def _warn_of(layer: nn.Module) -> None:
    if isinstance(layer, nn.ReLU | nn.ReLU6 | nn.LeakyReLU | nn.Hardtanh):
        warnings.warn(
            f"{type(layer).__name__} has no second derivative, which training the change of volume needs; use SiLU",
            stacklevel=4,
        )
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
        warnings.warn(
            f"{type(layer).__name__} in training mode makes rows depend on one another, so that Jacobians are not "
            "those of single rows; use GroupNorm or LayerNorm",
            stacklevel=4,
        )
