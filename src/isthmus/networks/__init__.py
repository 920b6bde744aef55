"""Plain encoder-decoder pairs: ordinary networks, not invertible. Any other pair of `nn.Module`s is as welcome.

A pair is two modules: the encoder takes `x` (batch, D) to (batch, d), the decoder `z` (batch, d) to (batch, D); with a
context both are called with it as a second argument. Activations are SiLU: the change of volume differentiates the
networks twice, and a ReLU network has no second derivative.

| module | pairs for |
|---|---|
| `perceptrons` | tables |
| `convolutions`, `transformers` | images, flat rows of channel x height x width |
| `chains` | none: the layers that networks of images are put together from, and how they are told the context |

A new pair is a function `(data_dim, latent_dim, context_dim, *, ...)` to two modules, and a line in `NETWORKS`. If it
has an option `shape`, a fit on images fills it in.
"""

from collections.abc import Callable

from isthmus.networks.convolutions import convolutional_pair, residual_convolutional_pair
from isthmus.networks.perceptrons import (
    Count,
    Network,
    Pair,
    ResidualBlock,
    Skip,
    linear_pair,
    mlp_pair,
    residual_pair,
    skip_pair,
    start_at_identity,
    start_at_principal_components,
)
from isthmus.networks.transformers import transformer_pair

__all__ = [
    "NETWORKS",
    "Count",
    "Network",
    "Pair",
    "ResidualBlock",
    "Skip",
    "convolutional_pair",
    "linear_pair",
    "mlp_pair",
    "residual_convolutional_pair",
    "residual_pair",
    "skip_pair",
    "start_at_identity",
    "start_at_principal_components",
    "transformer_pair",
]

NETWORKS: dict[str, Callable[..., Pair]] = {
    "mlp": mlp_pair,
    "residual": residual_pair,
    "skip": skip_pair,
    "linear": linear_pair,
    "convolutional": convolutional_pair,
    "residual_convolutional": residual_convolutional_pair,
    "transformer": transformer_pair,
}
