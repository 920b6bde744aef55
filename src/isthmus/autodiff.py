"""Directional derivatives and Jacobians of batched maps.

A map `f` takes `x` (batch, n) to `y` (batch, m), row by row: row b of `y` depends on row b of `x` alone, so that one
product with a batch of vectors gives one product per row. `f'(x)` is the m x n Jacobian of a row.

* `push` is the Jacobian-vector product `f'(x) v` (forward mode),
* `pull` is the vector-Jacobian product `w^T f'(x)` (reverse mode),
* `jacobian` is all of `f'(x)`, column by column or row by row, whichever are fewer.

All three share one primal pass between many vectors, and compile under `torch.compile(fullgraph=True)`. Attention runs
through its mathematical kernel, the only one with a forward-mode rule. Where an operator has no forward-mode rule, or
refuses to be transformed by `torch.func` at all, both products are computed by ordinary reverse-mode autograd instead:
the same numbers, at a higher price. A map that calls `reverse_only` on its argument is never transformed either.

`pull` and `jacobian` are differentiable again. So is `push`, but not through every operator: when torch (2.13.0, CPU)
differentiates a forward-mode product it says nothing and returns

* through LayerNorm, InstanceNorm and BatchNorm on batch statistics a gradient that takes the statistics for constants,
  off by 57 to 131 % (pytorch issues 196700 and 198017); GroupNorm and RMSNorm are right;
* through `logdet`, `det` and `householder_product` a wrong one, through `slogdet` zero, through `cumprod` of zeros NaN.

Therefore nothing in this library differentiates a tangent: the whole Jacobian, where gradients are recorded, is taken
in reverse mode. The product itself is wrong through `scatter_reduce` by products and `cholesky_inverse`, which
`isthmus.vetting` finds before a user's own modules are trained. `torch.special`'s Bessel functions have no gradient at
all, `det` has gradient zero where it is exactly 0, and the second derivative of `weight_norm` in its parameters is
wrong: these concern a map as such, and no product made of it can be right.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["jacobian", "pull", "pullback", "push", "reverse_only"]

Map = Callable[[Tensor], Tensor]

# What torch.func raises for an operator that it cannot transform; the fallback runs `f` again, so an error of the
# user's own map is raised there in its own words.
_UNTRANSFORMABLE = (NotImplementedError, RuntimeError)


def push(f: Map, x: Float[Tensor, "batch n"], v: Float[Tensor, "*K batch n"]) -> tuple[Tensor, Tensor]:
    """Return value and Jacobian-vector product: `f(x)` and `f'(x) v`.

    Args:
        f: a map of batches, (batch, n) -> (batch, m), independent from row to row.
        x: the points, (batch, n).
        v: one vector a row, (batch, n), or K of them, (K, batch, n); K share one primal pass.

    Returns:
        `f(x)`, (batch, m), and `f'(x) v`, (batch, m) or (K, batch, m).

    Example:
        >>> y, dy = push(torch.sin, torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]))
        >>> dy
        tensor([[1., 2.]])
    """
    with sdpa_kernel(SDPBackend.MATH):
        if torch.compiler.is_compiling():
            return _push_by_transposition(f, x, v)
        try:
            if v.dim() == x.dim():
                return _jvp(f, x, v)
            if v.shape[0] == 1:
                y, u = _jvp(f, x, v[0])
                return y, u.unsqueeze(0)
            each = torch.func.vmap(lambda t: _jvp(f, x, t), out_dims=(None, 0))  # type: ignore[arg-type]
            return each(v)
        except torch.OutOfMemoryError:
            raise
        except _UNTRANSFORMABLE:
            return _push_by_reverse_mode(f, x, v)


def pull(f: Map, x: Float[Tensor, "batch n"], w: Float[Tensor, "*K batch m"]) -> tuple[Tensor, Tensor]:
    """Return value and vector-Jacobian product: `f(x)` and `w^T f'(x)`.

    Args:
        f: a map of batches, (batch, n) -> (batch, m), independent from row to row.
        x: the points, (batch, n).
        w: one covector a row, (batch, m), or K of them, (K, batch, m); K share one primal pass.

    Returns:
        `f(x)`, (batch, m), and `w^T f'(x)`, (batch, n) or (K, batch, n).

    Example:
        >>> y, g = pull(lambda x: x.prod(dim=1, keepdim=True), torch.tensor([[2.0, 3.0]]), torch.ones(1, 1))
        >>> g
        tensor([[3., 2.]])
    """
    y, transpose = pullback(f, x)
    return y, transpose(w)


def pullback(f: Map, x: Float[Tensor, "batch n"]) -> tuple[Tensor, Map]:
    """Return the value and the function `w -> w^T f'(x)`, for covectors that depend on the value.

    Args:
        f: a map of batches, (batch, n) -> (batch, m), independent from row to row.
        x: the points, (batch, n).

    Returns:
        `f(x)`, (batch, m), and a function from covectors, (batch, m) or (K, batch, m), to products.

    Example:
        >>> z, transpose = pullback(lambda x: x**2, torch.tensor([[3.0]]))
        >>> transpose(z)
        tensor([[54.]])
    """
    with sdpa_kernel(SDPBackend.MATH):
        try:
            y, function = torch.func.vjp(f, x)  # type: ignore[misc]
        except torch.OutOfMemoryError:
            raise
        except _UNTRANSFORMABLE:
            y, function = _pullback_by_autograd(f, x)
    dim = x.dim()
    return y, lambda w: function(w)[0] if w.dim() == dim else _each(lambda t: function(t)[0], w)


def jacobian(
    f: Map, x: Float[Tensor, "batch n"], *, chunk: int | None = None, outputs: int | None = None
) -> tuple[Float[Tensor, "batch m"], Float[Tensor, "batch m n"]]:
    """Return value and Jacobian of every row.

    In forward mode, n products, when n < m and no gradients are recorded; otherwise in reverse mode, m products.

    Args:
        f: a map of batches, (batch, n) -> (batch, m), independent from row to row.
        x: the points, (batch, n).
        chunk: how many columns (or rows) of the Jacobian are computed at a time; all by default. Memory grows with it.
        outputs: m, where it is known beforehand: otherwise `f` is evaluated once more, to choose the mode by it.

    Returns:
        `f(x)`, (batch, m), and `f'(x)`, (batch, m, n).

    Example:
        >>> y, J = jacobian(lambda x: torch.cat([x, x**2], dim=1), torch.tensor([[3.0]]))
        >>> J
        tensor([[[1.],
                 [6.]]])
    """
    n = x.shape[1]
    if not torch.is_grad_enabled() and n < (outputs or f(x).shape[1]):
        blocks = [push(f, x, v) for v in _basis(n, x).split(chunk or n)]
        return blocks[0][0], torch.cat([block for _, block in blocks]).permute(1, 2, 0)
    y, transpose = pullback(f, x)
    m = y.shape[1]
    return y, torch.cat([transpose(w) for w in _basis(m, x).split(chunk or m)]).permute(1, 0, 2)


class _ReverseOnly(torch.autograd.Function):
    """The identity, without a rule for forward mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return the argument."""
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient


def reverse_only(x: Tensor) -> Tensor:
    """Return x itself, so that what is computed of it is never differentiated in forward mode.

    Args:
        x: argument of a map, of any shape.

    Example:
        >>> push(lambda x: reverse_only(x).sin(), torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]))[1].detach()
        tensor([[1., 2.]])
    """
    return _ReverseOnly.apply(x)


def _basis(size: int, x: Float[Tensor, "batch n"]) -> Float[Tensor, "size batch size"]:
    return torch.eye(size, dtype=x.dtype, device=x.device).unsqueeze(1).expand(size, x.shape[0], size)


def _jvp(f: Map, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    y, u = torch.func.jvp(f, (x,), (v,))  # type: ignore[misc]
    return y, u


def _push_by_transposition(f: Map, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Transpose `w -> w^T f'(x)` and apply that to v, for the compiler, which drops the product itself.

    torch cannot trace the forward-mode rules of LayerNorm and GroupNorm.
    """
    y, transpose = torch.func.vjp(f, x)  # type: ignore[misc]
    _, push = torch.func.vjp(lambda w: transpose(w)[0], torch.zeros_like(y))  # type: ignore[misc]
    return y, push(v)[0] if v.dim() == x.dim() else _each(lambda t: push(t)[0], v)


def _each(linear: Map, vectors: Float[Tensor, "K batch m"]) -> Float[Tensor, "K batch n"]:
    """Apply a linear map to each of K vectors at once, or one after the other where vmap cannot."""
    if vectors.shape[0] == 1:
        return linear(vectors[0]).unsqueeze(0)
    try:
        return torch.func.vmap(linear)(vectors)
    except torch.OutOfMemoryError:
        raise
    except _UNTRANSFORMABLE:
        return torch.stack([linear(vector) for vector in vectors])


def _pullback_by_autograd(f: Map, x: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        y = f(x)

    def transpose(w: Tensor) -> tuple[Tensor, ...]:
        """Return `w^T J`, recorded where `pullback` itself was."""
        track = recorded and torch.is_grad_enabled()
        return torch.autograd.grad(y, x, w, retain_graph=True, create_graph=track, materialize_grads=True)

    return y if recorded else y.detach(), transpose


def _push_by_reverse_mode(f: Map, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the transpose of `w -> w^T f'(x)`, which is linear, to v: it is `f'(x) v` whatever w is."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        y, transpose = _pullback_by_autograd(f, x)
        w = torch.zeros_like(y, requires_grad=True)
        (product,) = transpose(w)
    tangents = [
        torch.autograd.grad(product, w, t, retain_graph=True, create_graph=recorded, materialize_grads=True)[0]
        for t in v.reshape(-1, *x.shape)
    ]
    u = torch.stack(tangents).reshape(*v.shape[: v.dim() - x.dim()], *y.shape)
    return (y, u) if recorded else (y.detach(), u)
