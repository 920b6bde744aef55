"""The rotations of space, SO(3), as the nine entries of a matrix.

The nearest rotation of a matrix M is its polar factor, `R = U diag(1, 1, det(U V^T)) V^T` of `M = U S V^T`. Derivatives
through the decomposition itself divide by differences of singular values, which are all equal where M is a rotation
already. So the decomposition gives the value alone, and two Newton steps for `max_R tr(R^T M)` started there give the
derivatives: with `A = R^T M` and S its symmetric part a step turns R by the w that solves

    (tr(S) I - S) w = (A_32 - A_23, A_13 - A_31, A_21 - A_12).

A step moves R by nothing, but as a function of M its first order is that of the polar factor; two steps have its first
three orders, in forward and in reverse mode.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.errors import InputError
from isthmus.supports.contract import Area, Support

__all__ = ["Rotations"]

_NEWTON_STEPS = 2  # derivatives of the projection up to the third order


@final
@dataclass(frozen=True)
class Rotations(Support):
    """Rotation matrices, row by row as nine columns, with the volume in which a path is as long as the angle it turns.

    The whole of SO(3) then has the volume `8 pi^2`, and the uniform law, Haar's, the density `1/(8 pi^2)`. In the nine
    columns themselves, in which `frame` is orthonormal, lengths are sqrt(2) times as large; a change of volume from
    rotations to rotations is the same by either.

    Args:
        columns: nine.

    Raises:
        InputError: another number of columns.

    Example:
        >>> rotations = Rotations()
        >>> x = rotations.uniform(5)
        >>> rotations.check(x)
        >>> rotations.frame(x).shape, round(rotations.area().value, 2)
        (torch.Size([5, 9, 3]), 78.96)
    """

    columns: int = 9

    def __post_init__(self) -> None:
        if self.columns != 9:
            raise InputError(
                f"expected the 9 entries of a matrix as columns, row by row, for rotations; got {self.columns}; give 9"
            )

    @property
    def dim(self) -> int:
        """Three."""
        return 3

    @property
    def measure(self) -> str:
        """Volume of rotations, lengths being angles."""
        return "rotation"

    def log_area(self, n_points: int = 10_000, seed: int = 0) -> Area:
        """Return the logarithm of `8 pi^2`."""
        return Area(math.log(8 * math.pi**2), 0.0)

    def distance(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """Return the Euclidean distance from the nearest rotation."""
        return (x - self.project(x)).norm(dim=1)

    def project(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
        """Return the nearest rotation, differentiable wherever there is only one."""
        M = x.unflatten(1, (3, 3))
        M = M / M.detach().square().sum((1, 2), keepdim=True).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
        R = _polar(M.detach())
        for _ in range(_NEWTON_STEPS):
            R = R @ _turn(_step(R.mT @ M))
        return R.flatten(1)

    def uniform(self, n: int) -> Float[Tensor, "n columns"]:
        """Draw from Haar's law, by unit quaternions."""
        return _of_quaternion(torch.randn(n), torch.randn(n, 3)).flatten(1)

    def frame(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns dim"]:
        """Return `R E_k / sqrt(2)` as columns, E_k the generator of the turns about the k-th axis."""
        generators = _cross(torch.eye(3).to(x)) / 2**0.5
        return (x.unflatten(1, (3, 3)).unsqueeze(1) @ generators).flatten(2).mT


def _polar(M: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch 3 3"]:
    """Return the nearest rotation; derivatives through it are of no use."""
    U, _, Vh = torch.linalg.svd(M)
    signs = torch.ones_like(M[:, 0])
    signs[:, 2] = torch.linalg.det(U @ Vh).sign()
    return (U * signs.unsqueeze(1)) @ Vh


def _step(A: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch 3"]:
    """Return the turn w of a Newton step, zeros where it has no solution; by cofactors, exact in every mode."""
    trace = A.diagonal(dim1=1, dim2=2).sum(1).reshape(-1, 1, 1)
    H = trace * torch.eye(3).to(A) - (A + A.mT) / 2
    a, b, c = H.unbind(1)
    cofactors = torch.stack([b.cross(c, dim=1), c.cross(a, dim=1), a.cross(b, dim=1)], 2)  # symmetric, as H is
    determinant = (a * cofactors[:, :, 0]).sum(1, keepdim=True)
    skew = torch.stack([A[:, 2, 1] - A[:, 1, 2], A[:, 0, 2] - A[:, 2, 0], A[:, 1, 0] - A[:, 0, 1]], 1)
    solved = (cofactors @ skew.unsqueeze(2)).squeeze(2)
    return solved / torch.where(determinant == 0, 1.0, determinant)


def _turn(w: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3 3"]:
    """Return the rotation about w by 2 atan(|w| / 2), which is |w| up to the third order."""
    return _of_quaternion(torch.ones_like(w[:, 0]), w / 2)


def _of_quaternion(s: Float[Tensor, " batch"], v: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3 3"]:
    """Return the rotation of the quaternion with the real part s and the vector v, of any length."""
    V = _cross(v)
    scale = 2 / (s.square() + v.square().sum(1)).reshape(-1, 1, 1)
    return torch.eye(3).to(v) + scale * (s.reshape(-1, 1, 1) * V + V @ V)


def _cross(v: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3 3"]:
    """Return the matrices of `u -> v x u`."""
    x, y, z = v.unbind(1)
    zero = torch.zeros_like(x)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
