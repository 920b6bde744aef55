"""The bijective flow: an invertible network on the whole of R^D, the control without a manifold."""

from typing import Annotated, Literal, final

import torch
import zuko
from annotated_types import Ge
from zuko.lazy import UnconditionalTransform
from zuko.transforms import IdentityTransform

from isthmus.flow import WholeSpace

__all__ = ["BijectiveFlow"]

_CITES = {"nsf": ("durkan2019",), "maf": ("papamakarios2017",), "realnvp": ("dinh2017",)}
_FAMILIES = {"nsf": zuko.flows.NSF, "maf": zuko.flows.MAF, "realnvp": zuko.flows.RealNVP}


@final
class BijectiveFlow(WholeSpace):
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
        super().__init__(data_dim, latent_dim, context_dim)
        self.cites = _CITES[transform] if transforms else ()
        if transforms:
            family = _FAMILIES[transform]
            options = {"transforms": transforms, "hidden_features": (width, width), "activation": torch.nn.SiLU}
            self.transform = family(data_dim, context_dim, **options).transform
        else:
            self.transform = UnconditionalTransform(IdentityTransform)
