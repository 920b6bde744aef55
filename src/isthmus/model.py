"""A finished model: column preparation, flow and noise together, in the user's own units.

Inside, columns are standardised, see `isthmus.columns`; outside, everything is in the user's units: data, samples, and
densities, whose log-determinant of the preparation is always included. Computation is in float64, so that the score of
a row does not depend on the rows beside it; networks that convolve are in float32, see `isthmus.flow.in_double`, and
scores of images may differ by about 1e-3 nats with the rows beside them.
"""

import copy
import math
from collections.abc import Callable
from typing import Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from isthmus.ambient import Ambient, Estimate
from isthmus.columns import Columns
from isthmus.errors import InputError
from isthmus.flow import Context, Flow, in_double
from isthmus.levels import Levels
from isthmus.matrices import check_finite, doubled
from isthmus.volume import exact

__all__ = ["Model"]

_ROWS = 4096
_OFFSETS = 8  # at which a row of integers is spread over their units; even
_MANY_COLUMNS, _FEW_OFFSETS = 256, 2  # over so many integers in a row a sum averages by itself

Density = Literal["ambient", "linearised", "manifold"]


@final
class Model(nn.Module):
    """A flow with the noise off its manifold and the preparation of the user's columns.

    All tensors are in the user's units, (batch, n) with n the user's columns; codes are (batch, d); densities (batch,)
    in nats. Everything but networks that convolve is computed in float64, in chunks of rows.

    Args:
        ambient: flow and noise, on standardised columns.
        columns: preparation of the data's columns.
        context_columns: preparation of the context's columns, None where there is no context.
        levels: what the networks are told beside the context; nothing by default.

    Example:
        >>> from isthmus.ambient import IsotropicNoise
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import mlp_pair
        >>> flow = FreeFormFlow(*mlp_pair(3, 1), data_dim=3, latent_dim=1)
        >>> model = Model(Ambient(flow, IsotropicNoise(3, 0.1)), Columns(3))
        >>> model.encode(torch.zeros(4, 3)).shape, model.log_prob(torch.zeros(4, 3)).dtype
        (torch.Size([4, 1]), torch.float64)
    """

    def __init__(
        self,
        ambient: Ambient,
        columns: Columns,
        context_columns: Columns | None = None,
        levels: Levels | None = None,
    ) -> None:
        super().__init__()
        self.ambient, self.columns, self.context_columns = ambient, columns, context_columns
        self.levels = levels or Levels()
        self.requires_grad_(requires_grad=False)
        in_double(self).eval()
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.data = tensor.data.contiguous()  # as a file has it: strides change the last bit of a product

    @property
    def flow(self) -> Flow:
        """The flow on standardised columns."""
        return self.ambient.flow

    @property
    def level(self) -> dict[str, float]:
        """The noise and beta that the networks are told, those of them that training drew from a range."""
        return self.levels.values(self._told)

    @property
    def _told(self) -> list[float]:
        return [] if self.flow.levels is None else self.flow.levels.tolist()

    def at(self, *, noise: float | None = None, beta: float | None = None) -> "Model":
        """The same model, its networks told another noise or beta.

        Codes, reconstructions and points of the manifold are those of this level. A refitted latent density and the
        noise off the manifold stay what they were at the level of the fit: before densities are read, or noisy samples
        drawn, refit them (`isthmus.refit.refit_density` on `at(...).flow` and `isthmus.fitting.rows_again`).

        Args:
            noise: standard deviation of the input noise on standardised columns, within the range of the recipe's
                `training.noise`; None keeps the level.
            beta: weight of the squared reconstruction error, within the range of `objective.beta`; likewise.

        Returns:
            A copy.

        Raises:
            InputError: training had no such range, or the value is not within it.

        Example:
            >>> from isthmus import Recipe, fit
            >>> recipe = {"flow": {"latent_dim": 1}, "objective": {"beta": [1, 100]}, "training": {"max_steps": 5}}
            >>> model = fit(torch.randn(40, 3), recipe=Recipe.validated(recipe)).model
            >>> [round(at.level["beta"]) for at in (model, model.at(beta=10))]
            [100, 10]
        """
        levels = torch.tensor(self.levels.changed(self._told, noise=noise, beta=beta))
        model = copy.deepcopy(self)
        if model.flow.levels is not None:
            model.flow.levels.copy_(levels)
        return model

    def encode(self, x: Float[Tensor, "batch n"], c: Context = None) -> Float[Tensor, "batch d"]:
        """Codes `f(x)`."""
        return self._by_rows(lambda u, c: self.flow.encode(self.columns.standardise(u), c), self._checked(x), c)

    def decode(self, z: Float[Tensor, "batch d"], c: Context = None) -> Float[Tensor, "batch n"]:
        """Points `g(z)` of the manifold."""
        check_finite(z, "codes")
        return self._by_rows(lambda z, c: self.columns.restore(self.flow.decode(z, c)), z, c)

    def reconstruct(self, x: Float[Tensor, "batch n"], c: Context = None) -> Float[Tensor, "batch n"]:
        """The points of the manifold that rows are mapped to, `g(f(x))`."""
        return self._by_rows(self._reconstruct, self._checked(x), c)

    def reconstruction_error(self, x: Float[Tensor, "batch n"], c: Context = None) -> Float[Tensor, " batch"]:
        """Return the squared distance of each row to its reconstruction, on standardised columns.

        Args:
            x: data, (batch, n).
            c: context, (batch, C), or None.

        Returns:
            (batch,); infinity where a row is so far away that arithmetic overflows, never NaN.
        """

        def error(x: Tensor, c: Context) -> Tensor:
            """Of some rows."""
            off = self.columns.standardise(x) - self.columns.standardise(self._reconstruct(x, c))
            return off.square().sum(1)

        return _finite_or(math.inf, self._by_rows(error, self._checked(x), c))

    def log_prob(
        self, x: Float[Tensor, "batch n"], c: Context = None, *, density: Density = "linearised"
    ) -> Float[Tensor, " batch"]:
        """Log density of each row in nats, in the user's units, the preparation's log-determinant included.

        Of an integer in a column of integers the ambient log density is the mean over the unit around it, at fixed
        offsets: a lower bound of the integer's log probability. (At the integer itself it may be far above.) Numbers
        between the integers are taken as they are.

        Args:
            x: data, (batch, n).
            c: context, (batch, C), or None.
            density: `linearised` or `ambient` (importance-sampled), of x in R^n, constant columns left out; or
                `manifold`, of the reconstruction of x with respect to d-dimensional volume on the learned manifold.

        Returns:
            (batch,) in nats; minus infinity where a row is so far away that arithmetic overflows, never NaN.
        """
        if density not in get_args(Density):
            raise InputError(f"expected a density among {', '.join(get_args(Density))}; got {density!r}; choose one")
        if density == "ambient":
            return self.importance_sampled(x, c).value
        function = self._manifold if density == "manifold" else self._linearised
        return _finite_or(-math.inf, self._by_rows(function, self._checked(x), c))

    def importance_sampled(self, x: Float[Tensor, "batch n"], c: Context = None, *, n_points: int = 128) -> Estimate:
        """The ambient log density by importance sampling, with its standard error, (batch,) in nats, user's units.

        Where a row is so far away that arithmetic overflows, the density is minus infinity and its error infinite.
        """

        def estimate(x: Tensor, c: Context) -> Tensor:
            """Value and standard error side by side."""
            values, errors = [], []
            for y in self._spread(x):
                value, error = self.ambient.importance_sampled(self.columns.standardise(y), c, n_points=n_points)
                values.append(value + self.columns.log_det(y))
                errors.append(error)
            error = torch.stack(errors).square().sum(0).sqrt() / len(errors)
            return torch.stack([torch.stack(values).mean(0), error], 1)

        value, error = self._by_rows(estimate, self._checked(x), c).unbind(1)
        return Estimate(_finite_or(-math.inf, value), _finite_or(math.inf, error))

    def sample(
        self, n: int, c: Context = None, *, noise: bool = True, temperature: float = 1.0, truncation: float = 1.0
    ) -> Float[Tensor, "n n_columns"]:
        """Draw rows: from the ambient density, or with `noise=False` on the manifold; integer columns are not rounded.

        Args:
            n: number of rows, >= 1.
            c: one context row for all, or n of them; required by a conditional model.
            noise: whether to add the noise off the manifold.
            temperature: scale of codes about their modes, and of noise; 1 is the model, less is more typical.
            truncation: share in (0, 1] of the codes to draw from, the likeliest ones under the latent density: of 16
                codes a row one of as many as that is kept. 1 is the model; less gives more typical rows.

        Returns:
            (n, columns) in the user's units.
        """
        if n < 1 or not 0 <= temperature < math.inf:
            raise InputError(f"expected n >= 1 rows and a finite temperature >= 0; got {n} and {temperature}")
        inner = None
        if c is not None or self.context_columns is not None:
            c = c.expand(n, -1) if c is not None and c.shape[0] == 1 else c
            inner = self._inner_context(c, torch.empty(n, 0))
        x = self.ambient.sample(n, inner, noise=noise, temperature=temperature, truncation=truncation)
        return self.columns.restore(x)

    def _spread(self, x: Tensor) -> list[Tensor]:
        """The rows, or where they hold integers of integer columns, copies spread over the unit around."""
        whole = self.columns.integer & (x == x.round())
        if not bool(whole.any()):
            return [x]
        kept = self.columns.kept
        count = _OFFSETS if int(self.columns.integer.sum()) < _MANY_COLUMNS else _FEW_OFFSETS
        offsets = torch.zeros(count // 2, x.shape[1]).to(x)
        draws = SobolEngine(self.columns.dim, scramble=True, seed=0).draw(count // 2, dtype=torch.float64)
        offsets[:, kept] = draws.to(x) - 0.5
        return [x + whole * offset for offset in torch.cat([offsets, -offsets])]

    def _reconstruct(self, x: Tensor, c: Context) -> Tensor:
        return self.columns.restore(self.flow.reconstruct(self.columns.standardise(x), c))

    def _linearised(self, x: Tensor, c: Context) -> Tensor:
        values = [
            self.ambient.linearised(self.columns.standardise(y), c) + self.columns.log_det(y) for y in self._spread(x)
        ]
        return torch.stack(values).mean(0)

    def _manifold(self, x: Tensor, c: Context) -> Tensor:
        encode, decode = self.flow.maps(c)
        z, _, log_volume = exact(encode, lambda z: self.columns.restore_kept(decode(z)), self.columns.standardise(x))
        return self.flow.base(c).log_prob(z) - log_volume

    def _checked(self, x: Tensor) -> Tensor:
        n = self.columns.mean.shape[0]
        if x.dim() != 2 or x.shape[1] != n:
            raise InputError(f"expected rows of {n} columns; got shape {tuple(x.shape)}; give the columns of the fit")
        check_finite(x, "X")
        return x

    def _inner_context(self, c: Context, rows: Tensor) -> Context:
        if self.context_columns is None:
            if c is not None:
                raise InputError(f"expected no context; got {c.shape[1]} columns; this model was fitted without one")
            return None
        n = self.context_columns.mean.shape[0]
        if c is None or c.shape != (rows.shape[0], n):
            got = "none" if c is None else f"shape {tuple(c.shape)}"
            raise InputError(f"expected {n} context columns for {rows.shape[0]} rows; got {got}; give the context")
        check_finite(c, "context")
        return self.context_columns.standardise(doubled(c))

    @torch.no_grad()
    def _by_rows(self, function: Callable[[Tensor, Context], Tensor], x: Tensor, c: Context) -> Tensor:
        """A function of rows in the user's units and of prepared context, in float64, some rows at a time."""
        c = self._inner_context(c, x)
        return torch.cat(
            [
                function(doubled(x[start : start + _ROWS]), None if c is None else c[start : start + _ROWS])
                for start in range(0, max(1, x.shape[0]), _ROWS)
            ]
        )


def _finite_or(limit: float, values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Replace what is not finite, as of rows beyond arithmetic, by the limit that it tends to.

    On the way infinities are subtracted from one another, so that NaN and either infinity mean the same.
    """
    return torch.where(values.isfinite(), values, limit)
