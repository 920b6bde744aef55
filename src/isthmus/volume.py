"""Every way to the change of volume of an encoder-decoder pair.

Setting: encoder `f: R^D -> R^d`, decoder `g: R^d -> R^D`, `z = f(x)`, `x_hat = g(z)`, `d <= D`. The change of volume is
`log_volume = 1/2 log det(g'(z)^T g'(z))`, in nats, and enters the likelihood with a minus sign:
`log p(x_hat) = log p_Z(z) - log_volume`.

There are two kinds of record, on purpose. A `Volume` holds a value that may be reported. A `Surrogate` holds a number
whose *gradient* estimates the gradient of `log_volume` and whose value means nothing, so it has another name.

Every surrogate starts from `d log_volume = tr(g'^+ dg')` (g'^+ the pseudo-inverse) and a trace estimated with K probes
v, `E[v v^T] = I`, as `1/K sum_k v_k^T A v_k`. They differ in what stands for `g'^+` and in which factor is
differentiated; SG is stop-gradient:

| name | gradient of | source |
|---|---|---|
| `encoder_surrogate` | `-v^T f'(x) SG(g'(z) v)` | Sorrenson et al. 2024 (arXiv 2306.01843), the off-manifold form |
| the same, `at="reconstruction"` | `-v^T f'(x_hat) SG(g'(z) v)` | the same paper, the on-manifold form that diverges |
| `decoder_surrogate` | `SG(v^T f'(x)) g'(z) v` | the same paper, before the switch to the encoder |
| `conditional_surrogate` | the decoder's where the probe expands, else the encoder's | Rafae & Landwehr 2026 |
| `conjugate_gradient` | `SG(g' (g'^T g')^-1 v)^T g'(z) v` | Caterini et al. 2021 (arXiv 2106.01413) |
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from isthmus.autodiff import jacobian, pullback, push
from isthmus.errors import InputError
from isthmus.supports import Support

__all__ = [
    "ESTIMATORS",
    "SURROGATES",
    "Surrogate",
    "Volume",
    "conditional_surrogate",
    "conjugate_gradient",
    "decoder_surrogate",
    "encoder_surrogate",
    "exact",
    "log_volume",
    "orthonormal_probes",
    "tangent_probes",
]

Map = Callable[[Tensor], Tensor]
Probes = Callable[[Tensor, int], Tensor] | Float[Tensor, "K batch d"]


class Volume(NamedTuple):
    """Code, reconstruction and the change of volume `log_volume`, in nats: a value that one may report."""

    z: Float[Tensor, "batch d"]
    x_hat: Float[Tensor, "batch D"]
    log_volume: Float[Tensor, " batch"]


class Surrogate(NamedTuple):
    """Code, reconstruction and a number of which only the gradient means anything: that of `log_volume`."""

    z: Float[Tensor, "batch d"]
    x_hat: Float[Tensor, "batch D"]
    surrogate: Float[Tensor, " batch"]


def log_volume(J: Float[Tensor, "batch m n"], dtype: torch.dtype | None = torch.float64) -> Float[Tensor, " batch"]:
    """Return `1/2 log det(J^T J)` of tall matrices (J J^T of wide ones), from the diagonal of a QR decomposition.

    Never through the Gram matrix, which squares the condition number: in float32 its determinant is lost as soon as a
    singular value falls below about 3e-4 of the largest.

    Args:
        J: the matrices, (batch, m, n).
        dtype: the precision of the decomposition, float64 by default; None keeps that of J, but float32 at least.

    Returns:
        (batch,) in nats, in the dtype of the decomposition; -inf where J is rank deficient.

    Example:
        >>> log_volume(torch.diag_embed(torch.tensor([[2.0, 3.0]]))).exp()
        tensor([6.], dtype=torch.float64)
    """
    J = J.to(dtype or torch.promote_types(J.dtype, torch.float32))
    R = torch.linalg.qr(J if J.shape[1] >= J.shape[2] else J.mT).R
    return R.diagonal(dim1=1, dim2=2).abs().log().sum(1)


def exact(
    encode: Map,
    decode: Map,
    x: Float[Tensor, "batch D"],
    *,
    side: Literal["decoder", "encoder"] = "decoder",
    dtype: torch.dtype | None = torch.float64,
    chunk: int | None = None,
    outputs: int | None = None,
    codes: Support | None = None,
) -> Volume:
    """Return the change of volume from a whole Jacobian; differentiable.

    It takes d products a row, but for the decoder's side D where gradients are recorded; see `isthmus.autodiff`.

    `side="decoder"` is the definition, `1/2 log det(g'^T g')` at z = f(x). `side="encoder"` is
    `-1/2 log det(f' f'^T)` at x, equal to it where f'(x) is the pseudo-inverse of g'(z).

    Args:
        encode: f, (batch, D) -> (batch, d).
        decode: g, (batch, d) -> (batch, D).
        x: data, (batch, D).
        side: whose Jacobian is measured.
        dtype: the precision of the QR decomposition; None keeps that of x.
        chunk: how many Jacobian columns are computed at a time; all by default.
        outputs: D, where x is something else than data, as codes are; as many as x has columns by default.
        codes: the support of the codes, in whose tangent frames E the Jacobians are then taken: `g'(z) E`, or
            `E^T f'(x)`. Both maps must ignore directions off the surface that their argument lies on, as a map does
            that projects it first. R^d by default.

    Returns:
        A `Volume`; `log_volume` in nats.

    Example:
        >>> exact(lambda x: x[:, :1] / 2, lambda z: torch.cat([2 * z, 0 * z], 1), torch.ones(1, 2)).log_volume.exp()
        tensor([2.], dtype=torch.float64)
    """
    if side == "decoder":
        z = encode(x)
        x_hat, J = jacobian(decode, z, chunk=chunk, outputs=outputs or x.shape[1])
        return Volume(z, x_hat, log_volume(_along(codes, z, J), dtype))
    z, J = jacobian(encode, x, chunk=chunk)
    return Volume(z, decode(z), -log_volume(_along(codes, z, J.mT), dtype))


def _along(codes: Support | None, z: Tensor, J: Float[Tensor, "batch m columns"]) -> Float[Tensor, "batch m d"]:
    """Return products with the tangent frames at the codes, which are constant: as they turn, no volume changes."""
    frame = None if codes is None else codes.frame(z.detach())
    return J if frame is None else J @ frame


def orthonormal_probes(z: Float[Tensor, "batch d"], K: int = 1) -> Float[Tensor, "K batch d"]:
    """Draw K random directions a row, orthogonal to one another and of squared length d, so that `E[v v^T] = I`.

    At K = d they estimate every trace exactly; at K = 1 they are a normalised Gaussian, without a decomposition.
    With A the matrix and S its symmetric part the variance of `1/K sum v^T A v` is
    `2 d / (d + 2) (|S|^2 - tr(A)^2 / d) / K * (d - K) / (d - 1)`.

    Args:
        z: latent codes, (batch, d); only shape, dtype and device are used.
        K: number of probes, 1 <= K <= d.

    Returns:
        (K, batch, d).

    Raises:
        InputError: K is not in 1..d.

    Example:
        >>> v = orthonormal_probes(torch.zeros(5, 3), K=3)
        >>> torch.allclose(torch.einsum("kbi,kbj->bij", v, v) / 3, torch.eye(3), atol=1e-5)
        True
    """
    batch, d = z.shape
    if not 1 <= K <= d:
        raise InputError(f"expected 1 <= K <= latent dimension {d}; got K = {K}; choose fewer probes")
    if K == 1:
        # normalize() keeps a vector of zeros, which float32 draws once in 2^24 times where d = 1, from becoming NaN
        return normalize(torch.randn_like(z), dim=1).unsqueeze(0) * d**0.5
    dtype = torch.promote_types(z.dtype, torch.float32)  # no decomposition in half precision
    Q = torch.linalg.qr(torch.randn(batch, d, K, dtype=dtype, device=z.device)).Q
    return Q.permute(2, 0, 1).to(z) * d**0.5


def tangent_probes(codes: Support) -> Callable[[Tensor, int], Float[Tensor, "K batch d"]]:
    """Return how probes are drawn for codes that live on a support: in its tangent frame at each code.

    Args:
        codes: the support of the codes, of dimension d; probes have squared length d and `E[v v^T]` is the projection
            to the tangent space.

    Example:
        >>> from isthmus.supports import Sphere
        >>> z = Sphere(3).uniform(5)
        >>> v = tangent_probes(Sphere(3))(z, 2)
        >>> v.shape, bool((v * z).sum(-1).abs().max() < 1e-5)
        (torch.Size([2, 5, 3]), True)
    """

    def draw(z: Tensor, K: int) -> Tensor:
        """Draw K probes a row."""
        frame = codes.frame(z.detach())
        if frame is None:
            return orthonormal_probes(z, K)
        return torch.einsum("bcd,kbd->kbc", frame, orthonormal_probes(z.new_empty(z.shape[0], codes.dim), K))

    return draw


def encoder_surrogate(
    encode: Map,
    decode: Map,
    x: Float[Tensor, "batch D"],
    *,
    K: int = 1,
    probes: Probes = orthonormal_probes,
    at: Literal["data", "reconstruction"] = "data",
) -> Surrogate:
    """Return `-1/K sum_k v_k^T f'(x) SG(g'(z) v_k)`: one product through each network for every probe.

    The decoder gets no gradient from it. Evaluated at the data point the decoder's curvature cannot be exploited;
    at the (detached) reconstruction it can, and on nonlinear networks training diverges for small beta.

    Args:
        encode: f, (batch, D) -> (batch, d).
        decode: g, (batch, d) -> (batch, D).
        x: data, (batch, D).
        K: number of probes, 1 <= K <= d.
        probes: how they are drawn, from codes and K; or the probes themselves, (K, batch, d).
        at: where the encoder's Jacobian is taken.

    Returns:
        A `Surrogate`.

    References:
        Sorrenson, Draxler, Rousselot, Hummerich, Zimmermann, Köthe (2024), arXiv 2306.01843, section 4.

    Example:
        >>> s = encoder_surrogate(lambda x: x / 2, lambda z: 2 * z, torch.ones(1, 3))
        >>> s.surrogate.round().abs()
        tensor([3.])
    """
    z, transpose = pullback(encode, x)
    v = probes(z, K) if callable(probes) else probes
    x_hat, u = push(decode, z, v)
    if at == "reconstruction":
        _, transpose = pullback(encode, x_hat.detach())
    w = transpose(v)
    return Surrogate(z, x_hat, -(w * u.detach()).sum(-1).mean(0))


def decoder_surrogate(
    encode: Map,
    decode: Map,
    x: Float[Tensor, "batch D"],
    *,
    K: int = 1,
    probes: Probes = orthonormal_probes,
    at: Literal["data", "reconstruction"] = "data",
) -> Surrogate:
    """Return `1/K sum_k SG(v_k^T f'(x)) g'(z) v_k`: gradient to the decoder, and through z = f(x) to the encoder.

    Args:
        encode: f, (batch, D) -> (batch, d).
        decode: g, (batch, d) -> (batch, D).
        x: data, (batch, D).
        K: number of probes, 1 <= K <= d.
        probes: how they are drawn, from codes and K; or the probes themselves, (K, batch, d).
        at: where the encoder's Jacobian is taken.

    Returns:
        A `Surrogate`.

    References:
        Sorrenson et al. (2024), arXiv 2306.01843, section 4.

    Example:
        >>> s = decoder_surrogate(lambda x: x / 2, lambda z: 2 * z, torch.ones(1, 3))
        >>> s.surrogate.round()
        tensor([3.])
    """
    z, transpose = pullback(encode, x)
    v = probes(z, K) if callable(probes) else probes
    x_hat, transpose_decoder = pullback(decode, z)
    if at == "reconstruction":
        _, transpose = pullback(encode, x_hat.detach())
    w = transpose(v).detach()
    return Surrogate(z, x_hat, (transpose_decoder(w) * v).sum(-1).mean(0))


def conditional_surrogate(
    encode: Map,
    decode: Map,
    x: Float[Tensor, "batch D"],
    *,
    K: int = 1,
    probes: Probes = orthonormal_probes,
) -> Surrogate:
    """Return the encoder's or decoder's surrogate, chosen probe by probe to agree with the reconstruction gradient.

    With `s = v^T f'(x) g'(z) v`: where `s > |v|^2` the pair expands along v, reconstruction wants s smaller, and so
    does the decoder's surrogate; elsewhere it wants s larger, and so does the encoder's. The tangent of the decoder is
    read off a second product in reverse mode, `(w^T g') v` with `w = SG(v^T f')`, which compiles where a differentiated
    forward-mode tangent does not.

    Args:
        encode: f, (batch, D) -> (batch, d).
        decode: g, (batch, d) -> (batch, D).
        x: data, (batch, D).
        K: number of probes, 1 <= K <= d.
        probes: how they are drawn, from codes and K; or the probes themselves, (K, batch, d).

    Returns:
        A `Surrogate`.

    References:
        Rafae, Landwehr (2026), Normalizing AutoEncoder, arXiv 2608.12084, algorithm 1.

    Example:
        >>> s = conditional_surrogate(lambda x: x, lambda z: 2 * z, torch.ones(1, 3))  # expands: the decoder's
        >>> s.surrogate.round()
        tensor([6.])
    """
    z, transpose = pullback(encode, x)
    v = probes(z, K) if callable(probes) else probes
    w = transpose(v)
    with torch.no_grad():
        _, u = push(decode, z.detach(), v)
    x_hat, transpose_decoder = pullback(decode, z)
    by_decoder = (transpose_decoder(w.detach()) * v).sum(-1)
    by_encoder = -(w * u).sum(-1)
    expands = by_decoder.detach() > v.square().sum(-1)
    return Surrogate(z, x_hat, torch.where(expands, by_decoder, by_encoder).mean(0))


def conjugate_gradient(
    encode: Map,
    decode: Map,
    x: Float[Tensor, "batch D"],
    *,
    K: int = 1,
    probes: Probes = orthonormal_probes,
    tolerance: float = 1e-3,
    max_iterations: int | None = None,
) -> Surrogate:
    """Return `1/K sum_k SG(g' y_k)^T g'(z) v_k` with `(g'^T g') y_k = v_k` solved without forming a matrix.

    The rectangular flow's estimator, here in the form that differentiates one product instead of two (the same
    expectation). Each iteration costs one product forward and one product back through the decoder.

    Args:
        encode: f, (batch, D) -> (batch, d).
        decode: g, (batch, d) -> (batch, D).
        x: data, (batch, D).
        K: number of probes, 1 <= K <= d.
        probes: how they are drawn, from codes and K; or the probes themselves, (K, batch, d).
        tolerance: relative residual of the solution, > 0; it stops once every row has reached it.
        max_iterations: at most so many iterations; d by default, which is exact but for rounding.

    Returns:
        A `Surrogate`.

    References:
        Caterini, Loaiza-Ganem, Pleiss, Cunningham (2021), Rectangular Flows for Manifold Learning, arXiv 2106.01413.

    Example:
        >>> s = conjugate_gradient(lambda x: x[:, :2], lambda z: 3 * z, torch.ones(1, 2))
        >>> s.surrogate.round()
        tensor([2.])
    """
    z = encode(x)
    v = probes(z, K) if callable(probes) else probes
    x_hat, transpose = pullback(decode, z)
    with torch.no_grad():
        code = z.detach()
        _, transpose_frozen = pullback(decode, code)

        def gram(t: Tensor) -> Tensor:
            """Return `t^T J^T J`."""
            return transpose_frozen(push(decode, code, t)[1])

        y = _solve(gram, v, tolerance, max_iterations or z.shape[1])
        w = push(decode, code, y)[1]
    return Surrogate(z, x_hat, (transpose(w) * v).sum(-1).mean(0))


def _solve(apply: Map, b: Float[Tensor, "K batch d"], tolerance: float, max_iterations: int) -> Tensor:
    """Solve many small positive definite systems at once by conjugate gradients; solved rows stand still."""
    y, residual, direction = torch.zeros_like(b), b, b
    rr = residual.square().sum(-1, keepdim=True)
    target = tolerance**2 * rr
    for _ in range(max_iterations):
        active = rr > target
        if not torch.compiler.is_compiling() and not bool(active.any()):  # a compiled graph cannot depend on numbers
            break
        image = apply(direction)
        step = torch.where(active, rr / (direction * image).sum(-1, keepdim=True), 0.0)
        y, residual = y + step * direction, residual - step * image
        rr, previous = residual.square().sum(-1, keepdim=True), rr
        direction = torch.where(active, residual + rr / previous * direction, direction)
    return y


SURROGATES: dict[str, Callable[..., Surrogate]] = {
    "encoder": encoder_surrogate,
    "encoder_on_manifold": partial(encoder_surrogate, at="reconstruction"),
    "decoder": decoder_surrogate,
    "conditional": conditional_surrogate,
    "conjugate_gradient": conjugate_gradient,
}

ESTIMATORS: dict[str, Callable[..., Volume | Surrogate]] = {"exact": exact, **SURROGATES}
