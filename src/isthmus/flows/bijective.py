"""The bijective flow: an invertible network on the whole of R^D, the control without a manifold."""

from typing import Annotated, Literal, final

import torch
import zuko
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor
from zuko.lazy import UnconditionalTransform
from zuko.transforms import IdentityTransform

from isthmus.errors import InputError
from isthmus.flow import Context, Injection, check_context
from isthmus.supports import Euclidean
from isthmus.volume import Volume

__all__ = ["BijectiveFlow"]

_CITES = {"nsf": ("durkan2019",), "maf": ("papamakarios2017",), "realnvp": ("dinh2017",)}
_FAMILIES = {"nsf": zuko.flows.NSF, "maf": zuko.flows.MAF, "realnvp": zuko.flows.RealNVP}


@final
class BijectiveFlow(Injection):
    """A normalizing flow of zuko from R^D to R^D: `f = T`, `g = T^-1`, d = D, and nothing is projected away.

    Its density is one of x itself in R^D, so it needs no noise off a manifold; objective `likelihood` trains it.

    Args:
        data_dim: D.
        latent_dim: must be D.
        context_dim: number of context columns, 0 for none.
        transform: `nsf` (autoregressive rational-quadratic splines, 8 bins), `maf` (autoregressive affine) or
            `realnvp` (affine couplings).
        transforms: number of layers; 0 for the identity, which leaves everything to the latent density.
        width: width of the two hidden layers of each.

    Raises:
        InputError: the latent dimension is not D.

    References:
        Durkan, Bekasov, Murray, Papamakarios (2019), arXiv 1906.04032; Papamakarios, Pavlakou, Murray (2017),
        arXiv 1705.07057; Dinh, Sohl-Dickstein, Bengio (2017), arXiv 1605.08803.

    Example:
        >>> flow = BijectiveFlow(3, 3, transforms=2, width=8)
        >>> x = torch.randn(4, 3)
        >>> torch.allclose(flow.reconstruct(x), x, atol=1e-4)
        True
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        context_dim: int = 0,
        *,
        transform: Literal["nsf", "maf", "realnvp"] = "nsf",
        transforms: Annotated[int, Ge(0)] = 5,
        width: Annotated[int, Ge(1)] = 128,
    ) -> None:
        super().__init__(Euclidean(data_dim), latent_dim, context_dim)
        if latent_dim != data_dim:
            raise InputError(
                f"expected latent_dim {data_dim}, as many as columns, for a bijective flow; got {latent_dim}; use a "
                "free-form or a rectangular flow for a manifold"
            )
        self.cites = _CITES[transform] if transforms else ()
        if transforms:
            family = _FAMILIES[transform]
            options = {"transforms": transforms, "hidden_features": (width, width), "activation": torch.nn.SiLU}
            self.transform = family(data_dim, context_dim, **options).transform
        else:
            self.transform = UnconditionalTransform(IdentityTransform)

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
