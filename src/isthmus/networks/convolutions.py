"""Convolutional pairs for images given as flat rows of channel x height x width, any height and width."""

from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge
from torch import nn

from isthmus.errors import InputError
from isthmus.networks.chains import Conditioning, Residual, Wiring, check_shape, normalised
from isthmus.networks.perceptrons import Count, Pair

__all__ = ["convolutional_pair", "residual_convolutional_pair"]

Size = tuple[int, int]  # height and width

_MOST_STAGES = 4
_SMALL = 4  # side at which the residual pair stops halving


def convolutional_pair(
    data_dim: int,
    latent_dim: int,
    context_dim: int = 0,
    *,
    shape: tuple[int, int, int] | None = None,
    channels: Count = 32,
    stages: Count | None = None,
    kernel: Literal[3, 4, 5] = 3,
    smooth: bool = False,
    blocks: Annotated[int, Ge(0)] = 4,
    width: Count = 512,
    conditioning: Conditioning = "film",
) -> Pair:
    """Build the paper's image networks, with GroupNorm and SiLU: strided convolutions, residual blocks on the code.

    Every stage halves the image and doubles the channels. The decoder doubles it back, with one stage less if there are
    four or more. The paper has ReLU and no normalisation (BatchNorm for faces), and ends in a sigmoid.

    Args:
        data_dim: D = channels x height x width of `shape`.
        latent_dim: d.
        context_dim: number of context columns.
        shape: (channels, height, width) of the images.
        channels: after the first stage.
        stages: how often the image is halved; by default until a side is one, at most four times.
        kernel: of the decoder.
        smooth: whether the decoder ends in a convolution that does not enlarge, as for faces in the paper.
        blocks: residual blocks on the code, >= 0.
        width: of the two hidden layers of each.
        conditioning: how a context enters, see `isthmus.networks.chains`.

    Returns:
        (encoder, decoder).

    Raises:
        InputError: there is no shape, it does not fit D, or has not so many halves.

    References:
        Sorrenson et al. (2024), arXiv 2306.01843: 32 channels for MNIST; for faces 128, kernel 5, smooth, width 256.

    Example:
        >>> import torch
        >>> encoder, decoder = convolutional_pair(64, 3, shape=(1, 8, 8), channels=8)
        >>> decoder(encoder(torch.zeros(2, 64))).shape
        torch.Size([2, 64])
    """
    shape, wiring = check_shape(shape, data_dim), Wiring(context_dim, conditioning)
    image, *size = shape
    n = stages or max(1, min(_MOST_STAGES, min(size).bit_length() - 1))
    if min(size) >> n == 0:
        raise InputError(f"expected sides of at least {2**n} for {n} stages; got {shape}; take fewer stages")
    widths = [channels << k for k in range(n)]
    ends = size[0] >> n, size[1] >> n
    encoder = wiring.chain(
        nn.Unflatten(1, shape),
        *wiring.join(),
        *(
            layer
            for before, after in pairwise([image + wiring.joined, *widths])
            for layer in normalised(nn.Conv2d(before, after, 4, 2, 1), after, wiring)
        ),
        nn.Flatten(),
        nn.Linear(widths[-1] * ends[0] * ends[1], latent_dim),
        *wiring.on_code(latent_dim, blocks, width),
    )
    sizes = _halved((size[0], size[1]), n if n < _MOST_STAGES else n - 1)
    narrowing = [widths[-1] >> k for k in range(len(sizes) - 1)]
    outputs = [*narrowing[1:], channels] if smooth else narrowing[1:]
    layers = [
        layer
        for before, after, (source, target) in zip(narrowing, outputs, pairwise(sizes), strict=False)
        for layer in normalised(_doubling(before, after, kernel, source, target), after, wiring)
    ]
    last = nn.Conv2d(channels, image, kernel, padding="same") if smooth else None
    decoder = wiring.chain(
        *wiring.on_code(latent_dim, blocks, width),
        *wiring.join(),
        nn.Linear(latent_dim + wiring.joined, widths[-1] * sizes[0][0] * sizes[0][1]),
        nn.Unflatten(1, (widths[-1], *sizes[0])),
        *layers,
        last or _doubling(narrowing[-1], image, kernel, *sizes[-2:]),
        nn.Flatten(),
    )
    return encoder, decoder


def residual_convolutional_pair(
    data_dim: int,
    latent_dim: int,
    context_dim: int = 0,
    *,
    shape: tuple[int, int, int] | None = None,
    channels: Count = 64,
    bottlenecks: Annotated[int, Ge(0)] = 2,
    blocks: Annotated[int, Ge(0)] = 4,
    width: Count = 512,
    conditioning: Conditioning = "film",
) -> Pair:
    """Build the residual networks of Pythae's benchmark, with GroupNorm and SiLU, and residual blocks on the code.

    The image is halved until a side is at most four; there are as many residual bottlenecks on what remains in the
    encoder as in the decoder. Pythae's have ReLU, no normalisation, and end in a sigmoid.

    Args:
        data_dim: D = channels x height x width of `shape`.
        latent_dim: d.
        context_dim: number of context columns.
        shape: (channels, height, width) of the images.
        channels: after the first halving; twice as many after the second and all others.
        bottlenecks: residual blocks of a 3 x 3 and a 1 x 1 convolution, >= 0.
        blocks: residual blocks on the code, >= 0.
        width: of the two hidden layers of each.
        conditioning: how a context enters, see `isthmus.networks.chains`.

    Returns:
        (encoder, decoder).

    Raises:
        InputError: there is no shape, or it does not fit D.

    References:
        Chadebec, Vincent, Allassonniere (2022), Pythae, arXiv 2206.08309, networks for CelebA.

    Example:
        >>> import torch
        >>> encoder, decoder = residual_convolutional_pair(64, 3, shape=(1, 8, 8), channels=8)
        >>> decoder(encoder(torch.zeros(2, 64))).shape
        torch.Size([2, 64])
    """
    shape, wiring = check_shape(shape, data_dim), Wiring(context_dim, conditioning)
    image, height, side = shape
    n = max(1, (-(-min(height, side) // _SMALL) - 1).bit_length())
    widths = [channels, *[2 * channels] * (n - 1)]
    sizes = _halved((height, side), n)
    inner = widths[-1], *sizes[0]

    halvings = [
        nn.Conv2d(before, after, 4 if k < 2 else 3, 2, _padding(4 if k < 2 else 3, target, source))
        for k, (before, after, source, target) in enumerate(
            zip([image + wiring.joined, *widths], widths, sizes[::-1], sizes[-2::-1], strict=False)
        )
    ]
    encoder = wiring.chain(
        nn.Unflatten(1, shape),
        *wiring.join(),
        *(layer for conv, after in zip(halvings, widths, strict=True) for layer in normalised(conv, after, wiring)),
        *(_bottleneck(widths[-1], wiring) for _ in range(bottlenecks)),
        nn.Flatten(),
        nn.Linear(inner[0] * inner[1] * inner[2], latent_dim),
        *wiring.on_code(latent_dim, blocks, width),
    )
    kernels = [3, *[5] * (n - 2), 4][-n:]
    doublings = [
        _doubling(before, after, kernel, source, target)
        for (before, after), kernel, (source, target) in zip(
            pairwise([*widths[::-1], image]), kernels, pairwise(sizes), strict=True
        )
    ]
    decoder = wiring.chain(
        *wiring.on_code(latent_dim, blocks, width),
        *wiring.join(),
        nn.Linear(latent_dim + wiring.joined, inner[0] * inner[1] * inner[2]),
        nn.Unflatten(1, inner),
        *(_bottleneck(widths[-1], wiring) for _ in range(bottlenecks)),
        *(layer for up in doublings[:-1] for layer in normalised(up, up.out_channels, wiring)),
        doublings[-1],
        nn.Flatten(),
    )
    return encoder, decoder


def _bottleneck(channels: int, wiring: Wiring) -> nn.Module:
    """Return a residual block with a quarter of the channels inside."""
    inside = max(1, channels // 4)
    return Residual(
        *normalised(nn.Identity(), channels, wiring)[1:],
        *normalised(nn.Conv2d(channels, inside, 3, padding=1), inside, wiring),
        nn.Conv2d(inside, channels, 1),
    )


def _halved(size: Size, n: int) -> list[Size]:
    """Return the sizes of an image halved n times, rounded up, the smallest first."""
    return [(-(-size[0] >> k), -(-size[1] >> k)) for k in range(n, -1, -1)]


def _doubling(inputs: int, outputs: int, kernel: int, source: Size, target: Size) -> nn.ConvTranspose2d:
    """Return a transposed convolution of stride 2 from one size to another."""
    padding = _padding(kernel, source, target)
    height, width = (t - (2 * s - 2 + kernel - 2 * p) for s, t, p in zip(source, target, padding, strict=True))
    return nn.ConvTranspose2d(inputs, outputs, kernel, 2, padding, (height, width))


def _padding(kernel: int, small: Size, large: Size) -> Size:
    """Return the padding by which a stride of 2 takes one size to the other."""
    height, width = (-(-(2 * s - 2 + kernel - t) // 2) for s, t in zip(small, large, strict=True))
    return height, width
