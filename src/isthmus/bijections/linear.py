"""Linear bijections, whose log determinant is one constant: a scale a column, one scale, a rotation, an LU product."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import AffineTransform, Transform, constraints
from zuko.transforms import RotationTransform

from isthmus.bijections.contract import Bijection, Context

__all__ = ["ActNorm", "LULinear", "Orthogonal", "Scale"]

_LEAST_DEVIATION = 1e-3  # of a column when rows start it: a constant one is not blown up


class ActNorm(Bijection):
    """A shift and a scale a column, `y = exp(l) x + b`, which the first rows set so that y has mean 0 and deviation 1.

    It is started by the first rows that it sees in training mode, and by no others: `started`, a bool buffer, says so,
    and is saved with the parameters.

    Args:
        columns: D.

    References:
        Kingma, Dhariwal (2018), Glow, arXiv 1807.03039, section 3.1.

    Example:
        >>> layer, x = ActNorm(2), 5 + 3 * torch.randn(100, 2)
        >>> layer.start(x)
        >>> y = layer()(x)
        >>> torch.allclose(y.mean(0), torch.zeros(2), atol=1e-5), torch.allclose(y.std(0), torch.ones(2))
        (True, True)
    """

    constant = True
    started: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(torch.zeros(columns)), nn.Parameter(torch.zeros(columns))
        self.register_buffer("started", torch.tensor(False))  # noqa: FBT003 (torch's own signature)

    @torch.no_grad()
    def start(self, x: Float[Tensor, "batch D"], c: Context = None) -> None:
        """Set shift and scale from rows, unless it is in evaluation mode or others did so before."""
        if self.started or not self.training or len(x) < 2:
            return
        deviation = x.std(0).clamp_min(_LEAST_DEVIATION)
        self.log_scale.copy_(-deviation.log())
        self.shift.copy_(-x.mean(0) / deviation)
        self.started.fill_(True)  # noqa: FBT003 (torch's own signature)

    def forward(self, c: Context = None) -> Transform:
        """Return the transform."""
        return AffineTransform(self.shift, self.log_scale.exp(), event_dim=1)


class Scale(Bijection):
    """One scale for all columns, `y = exp(l) x`: with it a volume-preserving flow has the height of one mode to learn.

    Args:
        columns: D.

    Example:
        >>> Scale(3)().call_and_ladj(torch.ones(2, 3))[1]
        tensor([0., 0.], grad_fn=<ExpandBackward0>)
    """

    constant = True

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns, self.log_scale = columns, nn.Parameter(torch.zeros(()))

    def forward(self, c: Context = None) -> Transform:
        """Return the transform."""
        scale = self.log_scale.exp().expand(self.columns)  # torch counts the columns of the scale, not those of x
        return AffineTransform(torch.zeros_like(scale), scale, event_dim=1)


class Orthogonal(Bijection):
    """A rotation, `y = exp(A - A^T) x` (zuko), a random one untrained.

    Couplings along the axes cannot begin to learn a law that is symmetric about them, and from the identity a rotation
    would not leave them: of a uniform square affine couplings learn no more than a normal law, with rotations between
    them nearly all.

    Args:
        columns: D.

    Example:
        >>> layer, x = Orthogonal(3), torch.randn(4, 3)
        >>> torch.allclose(layer()(x).norm(dim=1), x.norm(dim=1))
        True
    """

    constant = True

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.generator = nn.Parameter(torch.randn(columns, columns))

    def forward(self, c: Context = None) -> Transform:
        """Return the transform."""
        return RotationTransform(self.generator)


class LULinear(Bijection):
    """An invertible matrix as `y = L U x`, L with ones on its diagonal, U with `exp(l)`; the identity untrained.

    Args:
        columns: D.

    References:
        Kingma, Dhariwal (2018), Glow, arXiv 1807.03039, section 3.2.

    Example:
        >>> layer, x = LULinear(3), torch.randn(4, 3)
        >>> torch.equal(layer()(x), x)
        True
    """

    constant = True

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.off_diagonal = nn.Parameter(torch.zeros(columns, columns))
        self.log_diagonal = nn.Parameter(torch.zeros(columns))

    def forward(self, c: Context = None) -> Transform:
        """Return the transform."""
        return _LU(self.off_diagonal, self.log_diagonal)


class _LU(Transform):
    """The product of two triangular matrices; rows are the right-hand sides of one solve, where zuko solves for each.

    Args:
        off_diagonal: L below its diagonal, U above, (D, D).
        log_diagonal: of U, (D,).
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, off_diagonal: Tensor, log_diagonal: Tensor) -> None:
        super().__init__()
        self.log_diagonal = log_diagonal
        self.lower = off_diagonal.tril(-1) + torch.eye(len(log_diagonal)).to(off_diagonal)
        self.upper = off_diagonal.triu(1) + torch.diag(log_diagonal.exp())

    def _call(self, x: Tensor) -> Tensor:
        return x @ self.upper.T @ self.lower.T

    def _inverse(self, y: Tensor) -> Tensor:
        solved = torch.linalg.solve_triangular(self.lower, y.mT, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(self.upper, solved, upper=True).mT

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.log_diagonal.sum().expand(x.shape[:-1])
