"""Chains of layers that can be told a context, of which networks of images are made.

A context (batch, C) reaches a network of images in one of these ways, `conditioning`:

* `one_hot`: as it is, beside the input: as constant channels of an image, as columns of a code;
* `embedded`: the same, after a learned linear map to 32 numbers;
* `film`: a learned embedding of 32 numbers scales and shifts the channels after every normalisation, and stands beside
  the code in the residual blocks on it.

References:
    Perez, Strub, de Vries, Dumoulin, Courville (2018), FiLM, arXiv 1709.07871.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.errors import InputError
from isthmus.networks.perceptrons import mlp

__all__ = ["Chain", "Conditioning", "Given", "Join", "Modulate", "Residual", "Wiring", "check_shape", "normalised"]

_EMBEDDING = 32

Conditioning = Literal["one_hot", "embedded", "film"]
Shape = tuple[int, int, int]


class Given(nn.Module):
    """A layer that is told the context: called as `layer(h, c)`, with c None where there is none."""


class Chain(Given):
    """Layers one after the other; those that are `Given` are told the context.

    Args:
        *layers: modules.
        embedding: what is done to the context first; nothing by default.

    Example:
        >>> Chain(nn.Linear(3, 2), Join())(torch.zeros(5, 3), torch.zeros(5, 1)).shape
        torch.Size([5, 3])
    """

    def __init__(self, *layers: nn.Module, embedding: nn.Module | None = None) -> None:
        super().__init__()
        self.layers, self.embedding = nn.ModuleList(layers), embedding

    def forward(self, h: Float[Tensor, "batch ..."], c: Float[Tensor, "batch C"] | None = None) -> Tensor:
        """Apply the layers to `h`."""
        if c is not None and self.embedding is not None:
            c = self.embedding(c)
        for layer in self.layers:
            h = layer(h, c) if isinstance(layer, Given) else layer(h)
        return h


class Residual(Given):
    """`h + branch(h)`, the branch a `Chain` of layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.branch = Chain(*layers)

    def forward(self, h: Float[Tensor, "batch ..."], c: Float[Tensor, "batch C"] | None = None) -> Tensor:
        """Add the branch to `h`."""
        return h + self.branch(h, c)


class Join(Given):
    """The context beside the input: as further columns of rows, as constant channels of images."""

    def forward(self, h: Float[Tensor, "batch n *image"], c: Float[Tensor, "batch C"] | None = None) -> Tensor:
        """Concatenate `h` and `c`, side by side."""
        if c is None:
            return h
        return torch.cat([h, c[:, :, None, None].expand(-1, -1, *h.shape[2:]) if h.dim() == 4 else c], 1)


class Modulate(Given):
    """Each channel scaled and shifted by a linear function of the context; at the start by one and zero.

    Args:
        channels: of images (batch, channels, height, width) or of tokens (batch, tokens, channels).
        context_dim: C >= 1.

    Example:
        >>> Modulate(2, 3)(torch.ones(1, 2, 4, 4), torch.ones(1, 3)).unique()
        tensor([1.], grad_fn=<Unique2Backward0>)
    """

    def __init__(self, channels: int, context_dim: int) -> None:
        super().__init__()
        self.affine = nn.Linear(context_dim, 2 * channels)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, h: Float[Tensor, "batch ..."], c: Float[Tensor, "batch C"]) -> Tensor:
        """Scale and shift `h`."""
        scale, shift = (t[:, :, None, None] if h.dim() == 4 else t[:, None] for t in self.affine(c).chunk(2, 1))
        return h * (1 + scale) + shift


class Wiring(NamedTuple):
    """How a network is told a context of C columns.

    Attributes:
        context_dim: C; 0 for none.
        conditioning: one of the ways of this module.

    Example:
        >>> Wiring(10, "film").joined, Wiring(10, "film").modulating, Wiring(10, "one_hot").joined
        (0, 32, 10)
    """

    context_dim: int
    conditioning: Conditioning

    @property
    def dim(self) -> int:
        """Numbers that layers are told, after the embedding."""
        return self.context_dim if self.conditioning == "one_hot" or not self.context_dim else _EMBEDDING

    @property
    def joined(self) -> int:
        """How many of them stand beside the input."""
        return 0 if self.conditioning == "film" else self.dim

    @property
    def modulating(self) -> int:
        """How many of them scale and shift."""
        return self.dim if self.conditioning == "film" else 0

    def chain(self, *layers: nn.Module) -> Chain:
        """Return a network of these layers with an embedding of its own."""
        if self.dim == 0 or self.conditioning == "one_hot":
            return Chain(*layers)
        linear = nn.Linear(self.context_dim, _EMBEDDING)
        return Chain(*layers, embedding=nn.Sequential(linear, nn.SiLU()) if self.modulating else linear)

    def join(self) -> tuple[nn.Module, ...]:
        """Return the layer that puts the context beside the input, if it stands there."""
        return (Join(),) if self.joined else ()

    def modulate(self, channels: int) -> tuple[nn.Module, ...]:
        """Return the layer that scales and shifts channels, if they are."""
        return (Modulate(channels, self.modulating),) if self.modulating else ()

    def on_code(self, latent_dim: int, blocks: int, width: int) -> tuple[nn.Module, ...]:
        """Return residual blocks on the code, perceptrons of two hidden layers that have the context beside it."""
        beside = (Join(),) if self.dim else ()
        sizes = latent_dim + self.dim, latent_dim, [width, width]
        return tuple(Residual(*beside, mlp(*sizes)) for _ in range(blocks))


def normalised(layer: nn.Module, channels: int, wiring: Wiring) -> tuple[nn.Module, ...]:
    """Return a layer with so many channels as output, normalised in groups, modulated by the context, and SiLU.

    Example:
        >>> len(normalised(nn.Conv2d(1, 8, 3), 8, Wiring(0, "film")))
        3
    """
    return layer, nn.GroupNorm(4 if channels % 4 == 0 else 1, channels), *wiring.modulate(channels), nn.SiLU()


def check_shape(shape: Shape | None, data_dim: int) -> Shape:
    """Return the shape of an image of so many numbers.

    Raises:
        InputError: there is none, or it does not fit.

    Example:
        >>> check_shape((1, 8, 8), 64)
        (1, 8, 8)
    """
    if shape is None:
        raise InputError(f"expected the shape of images of {data_dim} numbers; got none; set columns.image")
    channels, height, width = shape
    if min(shape) < 1 or channels * height * width != data_dim:
        raise InputError(f"expected an image shape of {data_dim} pixels; got {shape}; correct it")
    return shape
