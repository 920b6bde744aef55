"""Pairs for tables: perceptrons, plain, residual, and beside a linear path."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from zuko.nn import MLP

__all__ = [
    "Count",
    "Network",
    "Pair",
    "ResidualBlock",
    "Skip",
    "linear_pair",
    "mlp",
    "mlp_pair",
    "residual_pair",
    "skip_pair",
    "start_at_identity",
    "start_at_principal_components",
]

Pair = tuple[nn.Module, nn.Module]
Count = Annotated[int, Ge(1)]


class Network(nn.Module):
    """Layers applied to the input and, where there is one, the context, joined as columns.

    Args:
        *layers: modules, applied in order to (batch, inputs + context columns).

    Example:
        >>> Network(nn.Linear(3, 2))(torch.zeros(5, 2), torch.zeros(5, 1)).shape
        torch.Size([5, 2])
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "batch n"], c: Float[Tensor, "batch C"] | None = None) -> Tensor:
        """Apply the layers to `x` (batch, n), or to `x` and `c` side by side."""
        return self.layers(x if c is None else torch.cat([x, c], dim=1))


class ResidualBlock(nn.Module):
    """`x + MLP(x)`, both of width `features`."""

    def __init__(self, features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.branch = mlp(features, features, hidden)

    def forward(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """Add the branch to `x` (batch, n)."""
        return x + self.branch(x)


class Skip(nn.Module):
    """A linear map plus a network: `A x + b + scale * net(x)`, the network's share starting small.

    The linear part can be set to the principal components of the data (`start_at_principal_components`), so that
    training starts from the best linear manifold and learns how the data bends away from it.
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.network = mlp(inputs, outputs, hidden)
        last = self.network[-1]
        nn.init.normal_(last.weight, std=0.1 * last.weight.shape[1] ** -0.5)
        nn.init.zeros_(last.bias)

    def forward(self, x: Float[Tensor, "batch n"]) -> Tensor:
        """Return the sum of both parts at `x` (batch, n)."""
        return self.linear(x) + self.network(x)


def mlp(inputs: int, outputs: int, hidden: Sequence[int]) -> MLP:
    """Build a perceptron with SiLU between its layers.

    Example:
        >>> mlp(5, 2, [8])(torch.zeros(3, 5)).shape
        torch.Size([3, 2])
    """
    return MLP(inputs, outputs, hidden, activation=nn.SiLU)


def linear_pair(data_dim: int, latent_dim: int, context_dim: int = 0) -> Pair:
    """Build linear maps, which training can start at the principal components: with no steps, that analysis itself.

    Args:
        data_dim: D.
        latent_dim: d.
        context_dim: number of context columns.

    Returns:
        (encoder, decoder).

    Example:
        >>> encoder, decoder = linear_pair(5, 2)
        >>> decoder(encoder(torch.zeros(3, 5))).shape
        torch.Size([3, 5])
    """
    return Network(nn.Linear(data_dim + context_dim, latent_dim)), Network(
        nn.Linear(latent_dim + context_dim, data_dim)
    )


def mlp_pair(data_dim: int, latent_dim: int, context_dim: int = 0, *, width: Count = 256, depth: Count = 2) -> Pair:
    """Build multi-layer perceptrons D -> width -> ... -> d and back.

    Args:
        data_dim: D.
        latent_dim: d.
        context_dim: number of context columns.
        width: width of each hidden layer.
        depth: number of hidden layers, >= 1.

    Returns:
        (encoder, decoder).

    Example:
        >>> encoder, decoder = mlp_pair(5, 2)
        >>> decoder(encoder(torch.zeros(3, 5))).shape
        torch.Size([3, 5])
    """
    hidden = [width] * depth
    encoder = Network(mlp(data_dim + context_dim, latent_dim, hidden))
    decoder = Network(mlp(latent_dim + context_dim, data_dim, hidden))
    return encoder, decoder


def residual_pair(
    data_dim: int,
    latent_dim: int,
    context_dim: int = 0,
    *,
    width: Count = 256,
    depth: Count = 2,
    blocks: Annotated[int, Ge(0)] = 2,
) -> Pair:
    """Build the tabular networks of the paper: a perceptron between D and d, and residual blocks acting on the code.

    Args:
        data_dim: D.
        latent_dim: d.
        context_dim: number of context columns.
        width: width of each hidden layer.
        depth: number of hidden layers of the perceptron and of each block, >= 1.
        blocks: number of residual blocks on the code, >= 0.

    Returns:
        (encoder, decoder).

    References:
        Sorrenson et al. (2024), arXiv 2306.01843, tabular experiments: width 256, depth 2, 2 blocks.

    Example:
        >>> sum(p.numel() for net in residual_pair(6, 3) for p in net.parameters())
        407061
    """
    hidden, code = [width] * depth, latent_dim + context_dim
    encoder = Network(
        mlp(data_dim + context_dim, latent_dim, hidden),
        *(ResidualBlock(latent_dim, hidden) for _ in range(blocks)),
    )
    decoder = Network(*(ResidualBlock(code, hidden) for _ in range(blocks)), mlp(code, data_dim, hidden))
    return encoder, decoder


def skip_pair(data_dim: int, latent_dim: int, context_dim: int = 0, *, width: Count = 256, depth: Count = 2) -> Pair:
    """Build perceptrons with a linear path beside them, which training can start at the principal components.

    Args:
        data_dim: D.
        latent_dim: d.
        context_dim: number of context columns.
        width: width of each hidden layer.
        depth: number of hidden layers, >= 1.

    Returns:
        (encoder, decoder).

    Example:
        >>> encoder, decoder = skip_pair(5, 2)
        >>> decoder(encoder(torch.zeros(3, 5))).shape
        torch.Size([3, 5])
    """
    hidden = [width] * depth
    encoder = Network(Skip(data_dim + context_dim, latent_dim, hidden))
    decoder = Network(Skip(latent_dim + context_dim, data_dim, hidden))
    return encoder, decoder


@torch.no_grad()
def start_at_principal_components(encoder: nn.Module, decoder: nn.Module, x: Float[Tensor, "n D"]) -> bool:
    """Set the linear paths of a `skip_pair` or `linear_pair` to the whitened principal components of the data.

    Args:
        encoder: f; other modules than those of the two pairs are left as they are.
        decoder: g, likewise.
        x: standardised data, (n, D).

    Returns:
        Whether there were linear paths to set.

    Example:
        >>> start_at_principal_components(*skip_pair(4, 2), torch.randn(20, 4))
        True
    """
    encoding, decoding = _linear_path(encoder), _linear_path(decoder)
    if encoding is None or decoding is None:
        return False
    d = encoding.out_features
    mean = x.mean(0)
    _, s, Vt = torch.linalg.svd(x - mean, full_matrices=len(x) < d)
    deviation = torch.ones(d).to(x)
    deviation[: len(s)] = s[:d] / len(x) ** 0.5
    deviation = deviation.clamp_min(1e-3 * float(deviation.max()) + 1e-12)
    encode = Vt[:d] / deviation.unsqueeze(1)
    _set_linear(encoding, encode, -encode @ mean)
    _set_linear(decoding, (Vt[:d] * deviation.unsqueeze(1)).mT, mean)
    return True


@torch.no_grad()
def start_at_identity(encoder: nn.Module, decoder: nn.Module) -> bool:
    """Set the linear paths of a `skip_pair` or `linear_pair` with as many inputs as outputs to the identity.

    Args:
        encoder: f; other modules than those of the two pairs are left as they are.
        decoder: g, likewise.

    Returns:
        Whether there were linear paths to set.

    Example:
        >>> encoder, decoder = linear_pair(2, 2)
        >>> start_at_identity(encoder, decoder), encoder(torch.ones(1, 2)).tolist()
        (True, [[1.0, 1.0]])
    """
    linear = [path for net in (encoder, decoder) if (path := _linear_path(net)) is not None]
    for path in linear:
        _set_linear(path, torch.eye(path.out_features, min(path.in_features, path.out_features)), path.bias * 0)
    return len(linear) == 2


def _linear_path(net: nn.Module) -> nn.Linear | None:
    """Return the linear path of a network of `skip_pair` or `linear_pair`, from its input to its output."""
    layers = list(net.layers) if isinstance(net, Network) else []
    only = layers[0] if len(layers) == 1 else None
    if isinstance(only, Skip):
        return only.linear
    return only if isinstance(only, nn.Linear) else None


def _set_linear(linear: nn.Linear, weight: Float[Tensor, "m n"], bias: Float[Tensor, " m"]) -> None:
    """Set the first `weight.shape[1]` input columns; the others (context) to zero."""
    linear.weight.zero_()
    linear.weight[:, : weight.shape[1]] = weight
    linear.bias.copy_(bias)
