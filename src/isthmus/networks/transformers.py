"""A small vision transformer as a pair for images given as flat rows of channel x height x width."""

import math
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from isthmus.errors import InputError
from isthmus.networks.chains import Conditioning, Residual, Wiring, check_shape
from isthmus.networks.perceptrons import Count, Pair

__all__ = ["Attention", "Patches", "Places", "transformer_pair"]

_MOST_TOKENS = 64


class Patches(nn.Module):
    """Images (batch, channels, height, width) as square patches (batch, tokens, channels x side x side).

    Args:
        side: of a patch; divides height and width.

    Example:
        >>> Patches(2)(torch.zeros(1, 3, 4, 6)).shape
        torch.Size([1, 6, 12])
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch tokens n"]:
        """Cut the images up."""
        patches = x.unflatten(3, (-1, self.side)).unflatten(2, (-1, self.side))  # batch, channels, i, side, j, side
        return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class Places(nn.Module):
    """Adds to each token what is learned of its place."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.02 * torch.randn(tokens, channels))

    def forward(self, h: Float[Tensor, "batch tokens n"]) -> Float[Tensor, "batch tokens n"]:
        """Add the places to `h`."""
        return h + self.place


class Attention(nn.Module):
    """Every token attends to every other.

    Args:
        channels: of a token.
        heads: divides the channels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mix, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, h: Float[Tensor, "batch tokens n"]) -> Float[Tensor, "batch tokens n"]:
        """Mix the tokens of `h`."""
        q, k, v = self.mix(h).unflatten(2, (3 * self.heads, -1)).transpose(1, 2).chunk(3, 1)
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def transformer_pair(
    data_dim: int,
    latent_dim: int,
    context_dim: int = 0,
    *,
    shape: tuple[int, int, int] | None = None,
    patch: Count | None = None,
    channels: Count = 64,
    depth: Count = 4,
    heads: Count = 4,
    blocks: Annotated[int, Ge(0)] = 4,
    width: Count = 512,
    conditioning: Conditioning = "film",
) -> Pair:
    """Build small vision transformers, and residual blocks on the code.

    The encoder joins all tokens in one linear map to the code, the decoder begins with one map from the code to all
    tokens, so that codes are of the whole image.

    Args:
        data_dim: D = channels x height x width of `shape`.
        latent_dim: d.
        context_dim: number of context columns.
        shape: (channels, height, width) of the images.
        patch: side of the square patches; by default the smallest above one that makes at most 64 of them.
        channels: numbers a token, a multiple of `heads`.
        depth: layers of attention and perceptron.
        heads: of the attention.
        blocks: residual blocks on the code, >= 0.
        width: of the two hidden layers of each.
        conditioning: how a context enters, see `isthmus.networks.chains`.

    Returns:
        (encoder, decoder).

    Raises:
        InputError: there is no shape, it does not fit D, or cannot be cut into patches.

    References:
        Dosovitskiy et al. (2021), An Image is Worth 16x16 Words, arXiv 2010.11929; with a context, Peebles and Xie
        (2023), Scalable Diffusion Models with Transformers, arXiv 2212.09748 (modulated normalisation).

    Example:
        >>> encoder, decoder = transformer_pair(64, 3, shape=(1, 8, 8), channels=8, depth=1)
        >>> decoder(encoder(torch.zeros(2, 64))).shape
        torch.Size([2, 64])
    """
    shape, wiring = check_shape(shape, data_dim), Wiring(context_dim, conditioning)
    if channels % heads:
        raise InputError(f"expected channels in a multiple of {heads} heads; got {channels}; change one of them")
    image, height, side = shape
    p = patch or _patch(height, side)
    if height % p or side % p:
        raise InputError(f"expected patches of {p} x {p} to fill images of {shape}; got a rest; crop or pad the images")
    rows, columns = height // p, side // p
    tokens = rows * columns

    encoder = wiring.chain(
        nn.Unflatten(1, shape),
        *wiring.join(),
        Patches(p),
        nn.Linear((image + wiring.joined) * p * p, channels),
        Places(tokens, channels),
        *_layers(depth, channels, heads, wiring),
        nn.Flatten(),
        nn.Linear(tokens * channels, latent_dim),
        *wiring.on_code(latent_dim, blocks, width),
    )
    decoder = wiring.chain(
        *wiring.on_code(latent_dim, blocks, width),
        *wiring.join(),
        nn.Linear(latent_dim + wiring.joined, tokens * channels),
        nn.Unflatten(1, (tokens, channels)),
        Places(tokens, channels),
        *_layers(depth, channels, heads, wiring),
        nn.Linear(channels, image * p * p),
        nn.Unflatten(2, (image, p * p)),
        nn.Unflatten(1, (rows, columns)),
        _Assembled(p),
        nn.Flatten(),
    )
    return encoder, decoder


def _layers(depth: int, channels: int, heads: int, wiring: Wiring) -> list[nn.Module]:
    """Return attention and perceptron, each behind a normalisation, `depth` times, and a last normalisation."""
    layers = [
        Residual(nn.LayerNorm(channels), *wiring.modulate(channels), *branch)
        for _ in range(depth)
        for branch in (
            (Attention(channels, heads),),
            (nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels)),
        )
    ]
    return [*layers, nn.LayerNorm(channels)]


class _Assembled(nn.Module):
    """Patches (batch, rows, columns, channels, side x side) as images (batch, channels, height, width)."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, h: Float[Tensor, "batch rows columns channels n"]) -> Float[Tensor, "batch channels h w"]:
        """Put them together."""
        patches = h.unflatten(4, (self.side, self.side))  # batch, i, j, channels, side, side
        return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def _patch(height: int, width: int) -> int:
    both = math.gcd(height, width)
    sides = [p for p in range(2, both + 1) if both % p == 0 and height * width <= _MOST_TOKENS * p * p]
    return sides[0] if sides else max(both, 1)
